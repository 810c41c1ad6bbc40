"""`Client` and `AsyncClient`: carry out calls over HTTP.

The only file that knows httpx. Everything that is decided (what to send, when to send it again,
how to read the answer) is in `tritonq.calls`, the same for both.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Iterator, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Self, TypeVar, cast
from urllib.parse import urlsplit

import httpx
from anyio.from_thread import start_blocking_portal

from tritonq.address import find_service
from tritonq.calls import FOR_EVER, Call, Calls, Pause, Result, Step
from tritonq.errors import TritonqError
from tritonq.inorder import Turns, in_order
from tritonq.inputs import Input, Scalar, read_input
from tritonq.results import Item, Model, Prediction, Priority, ended_item
from tritonq.wire import NoResponse, Request, Response

CONNECTIONS_MAX = 64
CONNECT_S_MAX = 5.0
ANSWER_S_MAX = 30.0  # silence after a request, beyond what the service was asked to hold it
PATIENCE_S = 30.0  # covers a restart of the service
CONCURRENCY = 64  # predictions under way; keeps full batches waiting for a model
CONCURRENCY_MAX = 1024

Given = TypeVar("Given", bound=Input)


class Client:
    """A connection to the service; safe to share between threads. Close it, or use `with`.

    Args:
        url: base URL; by default TRITONQ_URL, or the `tritonq up` running in this folder.
        token: bearer token; by default TRITONQ_TOKEN, or that of the `tritonq up`.
        patience_s: how long a request is repeated while the service is full or away, where
            repeating is safe, before the error is raised.

    Every method may raise `ServiceUnavailable`, `Overloaded`, `Unauthorized` and
    `UnexpectedAnswer` (see `tritonq.errors`).
    """

    def __init__(
        self, url: str | None = None, token: str | None = None, *, patience_s: float = PATIENCE_S
    ) -> None:
        service = find_service(url, token)
        self.url = service.url
        self._service = service
        self._calls = Calls(time.monotonic, random.random, patience_s)
        self._http = httpx.Client(
            base_url=service.url,
            headers=_headers(service.token),
            limits=_LIMITS,
            trust_env=_may_use_proxy(service.url),
        )

    def submit(
        self,
        model: str,
        input: Input,
        *,
        fields: Mapping[str, Scalar] | None = None,
        priority: Priority = "normal",
        wait_s: float = 0.0,
    ) -> Prediction:
        """Submit one input; return once it is accepted, or has ended if that is within `wait_s`.

        Args:
            model: `efficientnet_lite0`, `triton/efficientnet_lite0`, `efficientnet_lite0@1`.
            input: a path, bytes or binary file object; or a mapping of input fields, in which
                paths, bytes and file objects stand for files.
            fields: further input fields beside a file, such as `{"top_k": 3}`.

        Raises:
            InvalidInput: the service refused the input, or a file cannot be read.
            NotFound: no such model.
            AcceptanceUnknown: the connection broke; it was not sent again, since that could run
                the same work twice.
        """
        body = read_input(input, fields)
        return self._carry_out(self._calls.submit(model, body, priority=priority, wait_s=wait_s))

    def run(
        self,
        model: str,
        input: Input,
        *,
        fields: Mapping[str, Scalar] | None = None,
        priority: Priority = "normal",
        wait_s: float = FOR_EVER,
    ) -> Prediction:
        """Submit one input and wait for its success.

        Raises:
            PredictionFailed: it ended as failed or canceled.
            StillRunning: it has not ended within `wait_s`; it goes on.
            InvalidInput, NotFound, AcceptanceUnknown: as `submit`.
        """
        body = read_input(input, fields)
        return self._carry_out(self._calls.run(model, body, priority=priority, wait_s=wait_s))

    def get(self, prediction_id: str, *, wait_s: float = 0.0) -> Prediction:
        """Fetch a prediction; return when it has ended, or as it is after `wait_s`.

        Raises:
            NotFound: the service knows no such prediction.
        """
        return self._carry_out(self._calls.get(prediction_id, wait_s=wait_s))

    def map(
        self,
        model: str,
        inputs: Iterable[Given],
        *,
        fields: Mapping[str, Scalar] | None = None,
        priority: Priority = "normal",
        concurrency: int = CONCURRENCY,
    ) -> Generator[Item[Given], None, None]:
        """Run every input, at most `concurrency` under way; yield what became of each, in order.

        A refused or failed input is an item with an `error`; the others go on. Inputs are drawn
        as there is room, so an endless iterator is fine. Leaving the loop early stops the waits;
        what is submitted goes on.
        """
        # The work runs on an event loop in a thread, so that a caller who stops early (or presses
        # Ctrl-C) cancels the waits at once; threads of our own would have to be sat out.
        with start_blocking_portal() as portal:
            client = portal.call(self._asynchronous)
            items = client.map(
                model, inputs, fields=fields, priority=priority, concurrency=concurrency
            )
            try:
                while (item := portal.call(_next_or_none, items)) is not None:
                    yield item
            finally:
                portal.call(items.aclose)
                portal.call(client.close)

    def predictions(self) -> Iterator[Prediction]:
        """Every prediction, newest first, waiting ones included; pages are fetched as needed."""
        cursor: str | None = None
        while True:
            page, cursor = self._carry_out(self._calls.predictions_page(cursor))
            yield from page
            if cursor is None:
                return

    def models(self) -> list[Model]:
        """The models on offer, the default of a task first."""
        return self._carry_out(self._calls.models())

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def _asynchronous(self) -> "AsyncClient":
        return AsyncClient(self.url, self._service.token, patience_s=self._calls.patience_s)

    def _carry_out(self, call: Call[Result]) -> Result:
        try:
            step = next(call)
            while True:
                step = call.send(self._take(step))
        except StopIteration as ended:
            return cast(Result, ended.value)

    def _take(self, step: Step) -> Response | NoResponse | None:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        try:
            return _response(self._http.send(_built(self._http, step)))
        except httpx.TransportError as error:
            return _no_response(error)


class AsyncClient:
    """`Client` for asyncio: the same methods, arguments and errors, to be awaited."""

    def __init__(
        self, url: str | None = None, token: str | None = None, *, patience_s: float = PATIENCE_S
    ) -> None:
        service = find_service(url, token)
        self.url = service.url
        self._calls = Calls(time.monotonic, random.random, patience_s)
        self._http = httpx.AsyncClient(
            base_url=service.url,
            headers=_headers(service.token),
            limits=_LIMITS,
            trust_env=_may_use_proxy(service.url),
        )

    async def submit(
        self,
        model: str,
        input: Input,
        *,
        fields: Mapping[str, Scalar] | None = None,
        priority: Priority = "normal",
        wait_s: float = 0.0,
    ) -> Prediction:
        """As `Client.submit`."""
        body = await asyncio.to_thread(read_input, input, fields)
        return await self._carry_out(
            self._calls.submit(model, body, priority=priority, wait_s=wait_s)
        )

    async def run(
        self,
        model: str,
        input: Input,
        *,
        fields: Mapping[str, Scalar] | None = None,
        priority: Priority = "normal",
        wait_s: float = FOR_EVER,
    ) -> Prediction:
        """As `Client.run`."""
        body = await asyncio.to_thread(read_input, input, fields)
        return await self._carry_out(self._calls.run(model, body, priority=priority, wait_s=wait_s))

    async def get(self, prediction_id: str, *, wait_s: float = 0.0) -> Prediction:
        """As `Client.get`."""
        return await self._carry_out(self._calls.get(prediction_id, wait_s=wait_s))

    async def map(
        self,
        model: str,
        inputs: Iterable[Given],
        *,
        fields: Mapping[str, Scalar] | None = None,
        priority: Priority = "normal",
        concurrency: int = CONCURRENCY,
    ) -> AsyncGenerator[Item[Given], None]:
        """As `Client.map`."""
        assert 1 <= concurrency <= CONCURRENCY_MAX

        turns = Turns()

        async def run_one(given: Given) -> Item[Given]:
            try:
                async with turns.submit:
                    accepted = await self.submit(model, given, fields=fields, priority=priority)
                async with turns.wait:
                    ended = await self.get(accepted.id, wait_s=FOR_EVER)
            except TritonqError as error:
                return Item(given, None, error)
            return ended_item(given, ended)

        async with aclosing(in_order(run_one, inputs, at_once_max=concurrency)) as items:
            async for item in items:
                yield item

    async def predictions(self) -> AsyncIterator[Prediction]:
        """As `Client.predictions`."""
        cursor: str | None = None
        while True:
            page, cursor = await self._carry_out(self._calls.predictions_page(cursor))
            for prediction in page:
                yield prediction
            if cursor is None:
                return

    async def models(self) -> list[Model]:
        """As `Client.models`."""
        return await self._carry_out(self._calls.models())

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _carry_out(self, call: Call[Result]) -> Result:
        try:
            step = next(call)
            while True:
                step = call.send(await self._take(step))
        except StopIteration as ended:
            return cast(Result, ended.value)

    async def _take(self, step: Step) -> Response | NoResponse | None:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            return _response(await self._http.send(_built(self._http, step)))
        except httpx.TransportError as error:
            return _no_response(error)


async def _next_or_none(items: AsyncIterator[Item[Given]]) -> Item[Given] | None:
    # StopAsyncIteration itself may not leave a coroutine.
    return await anext(items, None)


_LIMITS = httpx.Limits(
    max_connections=CONNECTIONS_MAX,
    max_keepalive_connections=CONNECTIONS_MAX,
    keepalive_expiry=4.0,  # below uvicorn's 5 s: else a submit may meet a closing connection
)


def _headers(token: str | None) -> dict[str, str]:
    agent = {"User-Agent": "tritonq", "Accept": "application/json"}
    return {**agent, "Authorization": f"Bearer {token}"} if token else agent


def _may_use_proxy(url: str) -> bool:
    """A proxy from the environment cannot reach this machine's loopback."""
    return urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1")


def _built(http: httpx.Client | httpx.AsyncClient, request: Request) -> httpx.Request:
    body = request.body
    media_type = {"Content-Type": body.media_type} if body else {}
    return http.build_request(
        request.method,
        request.path,
        params=dict(request.query) or None,
        headers={**request.headers, **media_type},
        content=body.content if body else None,
        timeout=httpx.Timeout(
            ANSWER_S_MAX,
            connect=CONNECT_S_MAX,
            read=ANSWER_S_MAX + request.hold_s,
            pool=None,  # our own callers only wait for each other
        ),
    )


def _response(answer: httpx.Response) -> Response:
    return Response(answer.status_code, answer.headers, answer.content)


# Failures before the first byte of a request was written.
_NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.UnsupportedProtocol,
    httpx.ProxyError,
    httpx.PoolTimeout,
)


def _no_response(error: httpx.TransportError) -> NoResponse:
    reason = str(error) or type(error).__name__
    return NoResponse(reason, was_sent=not isinstance(error, _NOT_SENT))
