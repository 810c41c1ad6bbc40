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
from tritonq.errors import (
    AcceptanceUnknown,
    InvalidInput,
    PredictionFailed,
    RequestRefused,
    StillRunning,
    TritonqError,
    UnexpectedAnswer,
)
from tritonq.results import Model, Prediction
from tritonq.retry import FAULTS_MAX, is_fault, retry_delay_s
from tritonq.terms import Terms, checked_key
from tritonq.wire import (
    KEY_HEADER,
    Body,
    NoResponse,
    Request,
    Response,
    decode,
    error_of,
    unreadable,
    whole_seconds,
)

WAIT_SLICE_S = 20.0  # a connection that died in silence during a wait is noticed soon after
POLL_S = 0.5  # between two questions, where the service answers without waiting
FOR_EVER = float("inf")
MODEL_PAGES_MAX = 1000  # a service whose pages lead in a circle would keep us for ever


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
        patience_s: how long after its first failure a request is sent again, before the error is
            raised. A wait begins anew with each answer, so it outlives outages of that length.
    """

    clock: Callable[[], float]
    random: Callable[[], float]
    patience_s: float

    def submit(self, model: str, body: Body, terms: Terms, *, wait_s: float) -> Call[Prediction]:
        """Submit, then wait up to `wait_s` for the end.

        The wait is a second request: the id is known within milliseconds, so a connection that
        breaks during the wait leaves no doubt about what was accepted.
        """
        path = f"{model_path(model)}/predictions"
        request = Request("POST", path, query=body.fields, headers=terms.headers(), body=body)
        return (yield from self._accepted(request, wait_s))

    def get(self, prediction_id: str, *, wait_s: float) -> Call[Prediction]:
        """Fetch a prediction; return when it has ended, or as it is after `wait_s`."""
        path = _prediction_path(prediction_id)
        ends_at = self.clock() + wait_s
        while True:
            asked_at = self.clock()

            def ask() -> Request:
                hold_s = min(WAIT_SLICE_S, max(0.0, ends_at - self.clock()))
                query = {"wait": whole_seconds(hold_s)} if hold_s else {}
                return Request("GET", path, query=query, hold_s=hold_s)

            prediction = yield from self._exchange(ask, Prediction, "a prediction")
            left_s = ends_at - self.clock()
            if prediction.has_ended or left_s <= 0:
                return prediction
            if self.clock() - asked_at < min(left_s, POLL_S):
                # It did not wait as asked: without a pause this loop would be a busy one.
                yield Pause(min(POLL_S, left_s))

    def run(self, model: str, body: Body, terms: Terms, *, wait_s: float) -> Call[Prediction]:
        """Submit and wait; a prediction that did not succeed is an error."""
        prediction = yield from self.submit(model, body, terms, wait_s=wait_s)
        if not prediction.has_ended:
            raise StillRunning(prediction)
        if not prediction.has_succeeded:
            raise PredictionFailed(prediction)
        return prediction

    def cancel(self, prediction_id: str) -> Call[Prediction]:
        """End a prediction; one that has ended already is returned as it ended."""
        request = Request("POST", f"{_prediction_path(prediction_id)}/cancel", changes_once=True)
        return (yield from self._exchange(_always(request), Prediction, "a prediction"))

    def retry(self, prediction_id: str, *, idempotency_key: str, wait_s: float) -> Call[Prediction]:
        """Submit a failed prediction once more, as a new one."""
        headers = {KEY_HEADER: checked_key(idempotency_key)}
        request = Request("POST", f"{_prediction_path(prediction_id)}/retry", headers=headers)
        return (yield from self._accepted(request, wait_s))

    def predictions_page(self, cursor: str | None) -> Call[tuple[list[Prediction], str | None]]:
        """One page, newest first, and the cursor of the next."""
        request = Request("GET", "/v1/predictions", query={"cursor": cursor} if cursor else {})
        page = yield from self._exchange(_always(request), _PredictionPage, "a page of predictions")
        return page.results, _cursor(page.next)

    def models(self) -> Call[list[Model]]:
        found: list[Model] = []
        cursor: str | None = None
        for _ in range(MODEL_PAGES_MAX):
            query = {"cursor": cursor} if cursor else {}
            request = Request("GET", "/v1/models", query=query)
            page = yield from self._exchange(_always(request), _ModelPage, "a page of models")
            found += page.results
            cursor = _cursor(page.next)
            if cursor is None:
                return found
        raise UnexpectedAnswer(f"there are more than {MODEL_PAGES_MAX} pages of models")

    def _accepted(self, request: Request, wait_s: float) -> Call[Prediction]:
        """Have a prediction accepted; then wait for its end, naming it in every error."""
        accepted = yield from self._exchange(_always(request), Prediction, "a prediction")
        if accepted.has_ended or wait_s <= 0:
            return accepted
        try:
            return (yield from self.get(accepted.id, wait_s=wait_s))
        except TritonqError as error:
            error.prediction_id = accepted.id
            raise

    def _exchange(
        self, ask: Callable[[], Request], of_type: type[Result], what: str
    ) -> Call[Result]:
        """Send until it succeeds, repeating where that is safe; raise what the last reply means.

        Args:
            ask: makes the request, anew for each time it is sent.
        """
        gives_up_at: float | None = None
        faults = 0
        doubt: AcceptanceUnknown | None = None
        for attempt in count():
            request = ask()
            reply = yield request
            assert reply is not None, "a request is answered by a reply"
            error: TritonqError
            if isinstance(reply, Response) and 200 <= reply.status < 300:
                try:
                    return decode(reply, of_type)
                except ValueError as unread:
                    error = unreadable(request, reply, what, str(unread))
            else:
                error = error_of(request, reply)
            if gives_up_at is None:
                gives_up_at = self.clock() + self.patience_s
            faults += is_fault(reply)
            delay_s = retry_delay_s(request, reply, attempt=attempt, random=self.random())
            if isinstance(error, AcceptanceUnknown):
                doubt = error
            if delay_s is None or faults >= FAULTS_MAX or self.clock() + delay_s > gives_up_at:
                if doubt is None or isinstance(error, RequestRefused):
                    raise error
                # What came later does not undo what an earlier sending may have done.
                raise doubt from (None if doubt is error else error)
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


def _prediction_path(prediction_id: str) -> str:
    return f"/v1/predictions/{quote(prediction_id, safe='')}"


def _always(request: Request) -> Callable[[], Request]:
    return lambda: request


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
