"""`Client` and `AsyncClient`: what callers hold in their hands.

Everything that is decided (what to send, when to send it again, how to read the answer) is in
`tritonq.calls`, how it travels in `tritonq.carry`, the same for both.
"""

import asyncio
import random
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import aclosing
from types import TracebackType
from typing import Self, TypeVar
from uuid import uuid4

from anyio.from_thread import start_blocking_portal

from tritonq.address import find_service
from tritonq.calls import FOR_EVER, Calls
from tritonq.carry import AsyncCarrier, Carrier
from tritonq.errors import TritonqError
from tritonq.inorder import Turns, in_order
from tritonq.inputs import Input, Scalar, read_input
from tritonq.results import Item, Model, Prediction, Priority, ended_item
from tritonq.terms import Duration, Terms

PATIENCE_S = 30.0  # covers a restart of the service, and of each part behind it
CONCURRENCY = 64  # predictions under way; keeps full batches waiting for a model
CONCURRENCY_MAX = 1024

Given = TypeVar("Given", bound=Input)


class Client:
    """A connection to the service; safe to share between threads. Close it, or use `with`.

    Args:
        url: base URL; by default TRITONQ_URL, or the `tritonq up` running in this folder.
        token: bearer token; by default TRITONQ_TOKEN, or that of the `tritonq up`.
        patience_s: how long a request is repeated while the service is full or away, where
            repeating is safe, before the error is raised. While waiting it counts anew after each
            answer.

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
        self._carrier = Carrier(service)

    def submit(
        self,
        model: str,
        input: Input,
        *,
        fields: Mapping[str, Scalar] | None = None,
        priority: Priority = "normal",
        wait_s: float = 0.0,
        idempotency_key: str | None = None,
        cancel_after: Duration | None = None,
    ) -> Prediction:
        """Submit one input; return once it is accepted, or has ended if that is within `wait_s`.

        Args:
            model: `efficientnet_lite0`, `triton/efficientnet_lite0`, `efficientnet_lite0@1`.
            input: a path, bytes or binary file object; or a mapping of input fields, in which
                paths, bytes and file objects stand for files.
            fields: further input fields beside a file, such as `{"top_k": 3}`.
            idempotency_key: your own name for this submit, 1 to 255 characters. Submitting again
                with it, from anywhere, gives the same prediction, for as long as outcomes are kept.
            cancel_after: seconds, or "90s", "1m30s", "2h": past it, it fails without being run.

        Raises:
            InvalidInput: the service refused the input, or a file cannot be read.
            NotFound: no such model.
            KeyReused: the key stands for a different request.
            AcceptanceUnknown: the answer is missing, so it may have been accepted. With a key it
                was sent again for as long as `patience_s`; without one never, since that could
                run the same work twice.
        """
        terms = Terms(priority, idempotency_key, cancel_after)
        call = self._calls.submit(model, read_input(input, fields), terms, wait_s=wait_s)
        return self._carrier.carry_out(call)

    def run(
        self,
        model: str,
        input: Input,
        *,
        fields: Mapping[str, Scalar] | None = None,
        priority: Priority = "normal",
        wait_s: float = FOR_EVER,
        idempotency_key: str | None = None,
        cancel_after: Duration | None = None,
    ) -> Prediction:
        """Submit one input and wait for its success.

        Raises:
            PredictionFailed: it ended as failed or canceled.
            StillRunning: it has not ended within `wait_s`; it goes on.
            InvalidInput, NotFound, KeyReused, AcceptanceUnknown: as `submit`.
        """
        terms = Terms(priority, idempotency_key, cancel_after)
        call = self._calls.run(model, read_input(input, fields), terms, wait_s=wait_s)
        return self._carrier.carry_out(call)

    def get(self, prediction_id: str, *, wait_s: float = 0.0) -> Prediction:
        """Fetch a prediction; return when it has ended, or as it is after `wait_s`.

        Raises:
            NotFound: the service knows no such prediction.
            Expired: it is older than the retention; if it ever was, it has been removed.
        """
        return self._carrier.carry_out(self._calls.get(prediction_id, wait_s=wait_s))

    def cancel(self, prediction_id: str) -> Prediction:
        """End a prediction that has not ended; return how it ended, by this or before.

        Raises:
            NotFound, Expired: as `get`.
        """
        return self._carrier.carry_out(self._calls.cancel(prediction_id))

    def retry(
        self, prediction_id: str, *, wait_s: float = 0.0, idempotency_key: str | None = None
    ) -> Prediction:
        """Submit a failed prediction once more: a new one, whose `retry_of` names the failed one.

        Args:
            idempotency_key: as for `submit`; by default one of its own for each call.

        Raises:
            NotRetryable: it did not fail, or its input is no longer kept.
            NotFound, Expired: as `get`.
        """
        key = idempotency_key or new_key()
        call = self._calls.retry(prediction_id, idempotency_key=key, wait_s=wait_s)
        return self._carrier.carry_out(call)

    def map(
        self,
        model: str,
        inputs: Iterable[Given],
        *,
        fields: Mapping[str, Scalar] | None = None,
        priority: Priority = "normal",
        concurrency: int = CONCURRENCY,
        cancel_after: Duration | None = None,
        key_of: Callable[[Given], str] | None = None,
    ) -> Generator[Item[Given], None, None]:
        """Run every input, at most `concurrency` under way; yield what became of each, in order.

        A refused or failed input is an item with an `error`; the others go on. Inputs are drawn
        as there is room, so an endless iterator is fine. Leaving the loop early stops the waits;
        what is submitted goes on.

        Args:
            key_of: makes the idempotency key of an input, so that a program that was killed and
                maps the same inputs again submits nothing twice. By default each has a key of its
                own, which covers what dies behind the client.
        """
        # The work runs on an event loop in a thread, so that a caller who stops early (or presses
        # Ctrl-C) cancels the waits at once; threads of our own would have to be sat out.
        with start_blocking_portal() as portal:
            client = portal.call(self._asynchronous)
            items = client.map(
                model,
                inputs,
                fields=fields,
                priority=priority,
                concurrency=concurrency,
                cancel_after=cancel_after,
                key_of=key_of,
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
            page, cursor = self._carrier.carry_out(self._calls.predictions_page(cursor))
            yield from page
            if cursor is None:
                return

    def models(self) -> list[Model]:
        """The models on offer, the default of a task first."""
        return self._carrier.carry_out(self._calls.models())

    def close(self) -> None:
        self._carrier.close()

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


class AsyncClient:
    """`Client` for asyncio: the same methods, arguments and errors, to be awaited."""

    def __init__(
        self, url: str | None = None, token: str | None = None, *, patience_s: float = PATIENCE_S
    ) -> None:
        service = find_service(url, token)
        self.url = service.url
        self._calls = Calls(time.monotonic, random.random, patience_s)
        self._carrier = AsyncCarrier(service)

    async def submit(
        self,
        model: str,
        input: Input,
        *,
        fields: Mapping[str, Scalar] | None = None,
        priority: Priority = "normal",
        wait_s: float = 0.0,
        idempotency_key: str | None = None,
        cancel_after: Duration | None = None,
    ) -> Prediction:
        """As `Client.submit`."""
        terms = Terms(priority, idempotency_key, cancel_after)
        body = await asyncio.to_thread(read_input, input, fields)
        call = self._calls.submit(model, body, terms, wait_s=wait_s)
        return await self._carrier.carry_out(call)

    async def run(
        self,
        model: str,
        input: Input,
        *,
        fields: Mapping[str, Scalar] | None = None,
        priority: Priority = "normal",
        wait_s: float = FOR_EVER,
        idempotency_key: str | None = None,
        cancel_after: Duration | None = None,
    ) -> Prediction:
        """As `Client.run`."""
        terms = Terms(priority, idempotency_key, cancel_after)
        body = await asyncio.to_thread(read_input, input, fields)
        call = self._calls.run(model, body, terms, wait_s=wait_s)
        return await self._carrier.carry_out(call)

    async def get(self, prediction_id: str, *, wait_s: float = 0.0) -> Prediction:
        """As `Client.get`."""
        return await self._carrier.carry_out(self._calls.get(prediction_id, wait_s=wait_s))

    async def cancel(self, prediction_id: str) -> Prediction:
        """As `Client.cancel`."""
        return await self._carrier.carry_out(self._calls.cancel(prediction_id))

    async def retry(
        self, prediction_id: str, *, wait_s: float = 0.0, idempotency_key: str | None = None
    ) -> Prediction:
        """As `Client.retry`."""
        key = idempotency_key or new_key()
        call = self._calls.retry(prediction_id, idempotency_key=key, wait_s=wait_s)
        return await self._carrier.carry_out(call)

    async def map(
        self,
        model: str,
        inputs: Iterable[Given],
        *,
        fields: Mapping[str, Scalar] | None = None,
        priority: Priority = "normal",
        concurrency: int = CONCURRENCY,
        cancel_after: Duration | None = None,
        key_of: Callable[[Given], str] | None = None,
    ) -> AsyncGenerator[Item[Given], None]:
        """As `Client.map`."""
        assert 1 <= concurrency <= CONCURRENCY_MAX

        turns = Turns()

        async def run_one(given: Given) -> Item[Given]:
            accepted: Prediction | None = None
            try:
                async with turns.submit:
                    accepted = await self.submit(
                        model,
                        given,
                        fields=fields,
                        priority=priority,
                        idempotency_key=key_of(given) if key_of else new_key(),
                        cancel_after=cancel_after,
                    )
                if accepted.has_ended:  # known already under its key
                    return ended_item(given, accepted)
                async with turns.wait:
                    ended = await self.get(accepted.id, wait_s=FOR_EVER)
            except TritonqError as error:
                if accepted is not None:
                    error.prediction_id = accepted.id
                return Item(given, accepted, error)
            return ended_item(given, ended)

        async with aclosing(in_order(run_one, inputs, at_once_max=concurrency)) as items:
            async for item in items:
                yield item

    async def predictions(self) -> AsyncIterator[Prediction]:
        """As `Client.predictions`."""
        cursor: str | None = None
        while True:
            page, cursor = await self._carrier.carry_out(self._calls.predictions_page(cursor))
            for prediction in page:
                yield prediction
            if cursor is None:
                return

    async def models(self) -> list[Model]:
        """As `Client.models`."""
        return await self._carrier.carry_out(self._calls.models())

    async def close(self) -> None:
        await self._carrier.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def new_key() -> str:
    """An idempotency key that nobody has used."""
    return uuid4().hex


async def _next_or_none(items: AsyncIterator[Item[Given]]) -> Item[Given] | None:
    # StopAsyncIteration itself may not leave a coroutine.
    return await anext(items, None)
