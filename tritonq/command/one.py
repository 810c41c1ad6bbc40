"""The words about single predictions: submit one, get, cancel, retry; each waits if it is asked to.

Somebody is watching. So a service that is away is told soon; an outage in the middle of a wait is
said and then sat out for a while; and Ctrl-C says how to go on.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console

from tritonq.calls import FOR_EVER, WAIT_SLICE_S
from tritonq.client import Client, new_key
from tritonq.command.exits import Exit, exit_of, tell_error
from tritonq.command.show import prediction_members, prediction_text, write_line
from tritonq.errors import (
    NotFound,
    NotRetryable,
    Overloaded,
    ServiceUnavailable,
    StillRunning,
    TritonqError,
)
from tritonq.inputs import Input
from tritonq.results import Prediction
from tritonq.terms import Terms

PATIENCE_S = 2.0  # for everything that is asked while somebody watches
PAUSE_S = 1.0  # between two questions to a service that is away
OUTAGE_S_MAX = 300.0  # how long a wait sits out a service that is away


@dataclass(frozen=True, slots=True)
class Watcher:
    """Who asked, and for what: where the service is, how to show things, how long to wait."""

    url: str | None
    notes: Console
    as_json: bool
    wait: bool
    timeout_s: float | None = None

    def submit(self, model: str, given: Input, terms: Terms) -> int:
        """Submit one input and show what became of it; return the exit code."""
        key = terms.idempotency_key or new_key()
        terms = Terms(terms.priority, key, terms.cancel_after)
        with self._client() as client:
            try:
                accepted = client.submit(
                    model,
                    given,
                    priority=terms.priority,
                    idempotency_key=terms.idempotency_key,
                    cancel_after=terms.cancel_after,
                )
            except KeyboardInterrupt:
                self._note(
                    "stopped before the answer came; it may have been accepted. "
                    f"With --key {key} the same command submits nothing twice."
                )
                raise
            return self._finish(client, accepted)

    def get(self, prediction_id: str) -> int:
        with self._client() as client:
            return self._finish(client, client.get(prediction_id))

    def cancel(self, prediction_ids: Sequence[str]) -> int:
        """Cancel each; one that is not there keeps none of the others from it."""
        code = Exit.OK  # the first that is not OK
        with self._client() as client:
            for prediction_id in prediction_ids:
                try:
                    prediction = client.cancel(prediction_id)
                except NotFound as error:
                    refusal = self._refused(prediction_id, error)
                    code = code or refusal
                    continue
                self._show(prediction)
                if prediction.status != "canceled":
                    self._note(f"{prediction.id} had ended before: {prediction.status}")
                    code = code or Exit.FAILED
        return code

    def retry(self, prediction_ids: Sequence[str]) -> int:
        """Retry each, and only then wait for them."""
        code = Exit.OK  # the first that is not OK
        with self._client() as client:
            accepted = []
            for prediction_id in prediction_ids:
                try:
                    accepted.append(client.retry(prediction_id))
                except (NotFound, NotRetryable) as error:
                    refusal = self._refused(prediction_id, error)
                    code = code or refusal
            with self._named_if_stopped([one.id for one in accepted]):
                for prediction in accepted:
                    finish = self._finish(client, prediction)
                    code = code or finish
        return code

    def _client(self) -> Client:
        return Client(self.url, patience_s=PATIENCE_S)

    def _finish(self, client: Client, prediction: Prediction) -> Exit:
        """Wait for its end if that is wanted, and show it; return the exit code."""
        if self.wait and not prediction.has_ended:
            with self._named_if_stopped([prediction.id]):
                prediction = self._ended(client, prediction)
        self._show(prediction)
        if self.wait and not prediction.has_ended:
            tell_error(self.notes, str(StillRunning(prediction)))
            return Exit.STILL_RUNNING
        return Exit.FAILED if prediction.has_ended and not prediction.has_succeeded else Exit.OK

    def _ended(self, client: Client, prediction: Prediction) -> Prediction:
        """Wait for the end, in slices: each answer says that the service is there."""
        ends_at = time.monotonic() + (FOR_EVER if self.timeout_s is None else self.timeout_s)
        away_since: float | None = None
        while not prediction.has_ended and (left_s := ends_at - time.monotonic()) > 0:
            try:
                prediction = client.get(prediction.id, wait_s=min(left_s, WAIT_SLICE_S))
            except (ServiceUnavailable, Overloaded) as error:
                now = time.monotonic()
                if away_since is None:
                    away_since = now
                    self._note(f"{error}; trying again for up to {OUTAGE_S_MAX:.0f} s")
                elif now - away_since > OUTAGE_S_MAX:
                    error.prediction_id = prediction.id
                    raise
                time.sleep(min(PAUSE_S, left_s))
            except TritonqError as error:
                error.prediction_id = prediction.id
                raise
            else:
                away_since = None
        return prediction

    def _show(self, prediction: Prediction) -> None:
        if self.as_json:
            write_line(json.dumps(prediction_members(prediction), ensure_ascii=False))
        else:
            write_line(prediction_text(prediction))

    def _refused(self, prediction_id: str, error: TritonqError) -> Exit:
        tell_error(self.notes, f"{prediction_id}: {error}")
        return exit_of(error)

    @contextmanager
    def _named_if_stopped(self, prediction_ids: Sequence[str]) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            for prediction_id in prediction_ids:
                self._note(f"it goes on by itself: tritonq get {prediction_id} --wait")
            raise

    def _note(self, text: str) -> None:
        self.notes.print(text, markup=False, highlight=False)
