"""Every call of the API, as a conversation: what to send, and what to make of the reply. No I/O.

A call is a generator. It yields a `Request` to send or a `Pause` to make, is sent the reply, and
returns its result. `Client` and `AsyncClient` only carry these steps out, so both behave alike,
and a test can play the service without any network.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from itertools import count
from typing import TypeAlias, TypeVar
from urllib.parse import parse_qs, quote, urlsplit

import msgspec

import contract.errors
from contract.catalog import OWNER, parse_reference
from tritonq.errors import InvalidInput, PredictionFailed, StillRunning, UnexpectedAnswer
from tritonq.results import PRIORITIES, Model, Prediction, Priority
from tritonq.retry import retry_delay_s
from tritonq.wire import Body, NoResponse, Request, Response, decode, error_of, whole_seconds

WAIT_SLICE_S = 50.0  # below the 55 s for which the service holds an answer back at most
POLL_S = 0.5  # between two questions, where the service answers without waiting
FOR_EVER = float("inf")


@dataclass(frozen=True, slots=True)
class Pause:
    """Sleep for this long."""

    seconds: float


Step: TypeAlias = Request | Pause
Reply: TypeAlias = Response | NoResponse | None
Result = TypeVar("Result")
Call: TypeAlias = Generator[Step, Reply, Result]


class _PredictionPage(msgspec.Struct):
    results: list[Prediction]
    next: str | None = None


class _ModelPage(msgspec.Struct):
    results: list[Model]
    next: str | None = None


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls of one client.

    Args:
        clock: seconds, monotonic.
        random: numbers in 0..1.
        patience_s: how long one request is sent again and again before its error is raised.
    """

    clock: Callable[[], float]
    random: Callable[[], float]
    patience_s: float

    def submit(
        self, model: str, body: Body, *, priority: Priority, wait_s: float
    ) -> Call[Prediction]:
        """Submit, then wait up to `wait_s` for the end.

        The wait is a second request: the id is known within milliseconds, so a connection that
        breaks during the wait leaves no doubt about what was accepted.
        """
        if priority not in PRIORITIES:
            raise InvalidInput(
                f"write one of {', '.join(PRIORITIES)}", field="priority", rule="priority"
            )
        headers = {"X-Priority": priority}
        path = f"{model_path(model)}/predictions"
        request = Request("POST", path, query=body.fields, headers=headers, body=body)
        accepted: Prediction = decode(
            (yield from self._exchange(request)), Prediction, "a prediction"
        )
        if accepted.has_ended or wait_s <= 0:
            return accepted
        return (yield from self.get(accepted.id, wait_s=wait_s))

    def get(self, prediction_id: str, *, wait_s: float) -> Call[Prediction]:
        """Fetch a prediction; return when it has ended, or as it is after `wait_s`."""
        path = f"/v1/predictions/{quote(prediction_id, safe='')}"
        ends_at = self.clock() + wait_s
        while True:
            asked_at = self.clock()
            hold_s = min(WAIT_SLICE_S, max(0.0, ends_at - asked_at))
            query = {"wait": whole_seconds(hold_s)} if hold_s else {}
            reply = yield from self._exchange(Request("GET", path, query=query, hold_s=hold_s))
            prediction: Prediction = decode(reply, Prediction, "a prediction")
            left_s = ends_at - self.clock()
            if prediction.has_ended or left_s <= 0:
                return prediction
            if self.clock() - asked_at < min(hold_s, POLL_S):
                # It did not wait as asked: without a pause this loop would be a busy one.
                yield Pause(min(POLL_S, left_s))

    def run(self, model: str, body: Body, *, priority: Priority, wait_s: float) -> Call[Prediction]:
        """Submit and wait; a prediction that did not succeed is an error."""
        prediction = yield from self.submit(model, body, priority=priority, wait_s=wait_s)
        if not prediction.has_ended:
            raise StillRunning(prediction)
        if not prediction.has_succeeded:
            raise PredictionFailed(prediction)
        return prediction

    def predictions_page(self, cursor: str | None) -> Call[tuple[list[Prediction], str | None]]:
        """One page, newest first, and the cursor of the next."""
        request = Request("GET", "/v1/predictions", query={"cursor": cursor} if cursor else {})
        reply = yield from self._exchange(request)
        page: _PredictionPage = decode(reply, _PredictionPage, "a page of predictions")
        return page.results, _cursor(page.next)

    def models(self) -> Call[list[Model]]:
        found: list[Model] = []
        cursor: str | None = None
        while True:
            query = {"cursor": cursor} if cursor else {}
            reply = yield from self._exchange(Request("GET", "/v1/models", query=query))
            page: _ModelPage = decode(reply, _ModelPage, "a page of models")
            found += page.results
            cursor = _cursor(page.next)
            if cursor is None:
                return found

    def _exchange(self, request: Request) -> Call[Response]:
        """Send until it succeeds, retrying where that is safe; raise what the last reply means."""
        gives_up_at = self.clock() + self.patience_s
        for attempt in count():
            reply = yield request
            assert reply is not None, "a request is answered by a reply"
            if isinstance(reply, Response) and 200 <= reply.status < 300:
                return reply
            delay_s = retry_delay_s(request, reply, attempt=attempt, random=self.random())
            if delay_s is None or self.clock() + delay_s > gives_up_at:
                raise error_of(request, reply)
            yield Pause(delay_s)
        raise AssertionError("count() does not end")


def model_path(reference: str) -> str:
    """The path of a model, from any spelling: `name`, `triton/name`, `name@1`, a version id.

    Raises:
        InvalidInput: none of these.
    """
    try:
        name, version = parse_reference(reference, field="model")
    except contract.errors.InvalidInput as error:
        raise InvalidInput(
            str(error), code=error.code, field=error.field, rule=error.rule
        ) from error
    return f"/v1/models/{OWNER}/{name}" + (f"@{version}" if version else "")


def _cursor(next_url: str | None) -> str | None:
    """The cursor of the next page.

    Only the cursor is taken from the URL: the token never goes to another host than our own.
    """
    if next_url is None:
        return None
    cursors = parse_qs(urlsplit(next_url).query).get("cursor")
    if not cursors:
        raise UnexpectedAnswer(f"the link to the next page has no cursor: {next_url[:200]!r}")
    return cursors[0]
