"""Everything that can go wrong for a caller, sorted by what to do next.

* TritonqError
  * RequestRefused           the request is wrong; sending it again will not help
    * InvalidInput           a field breaks a rule (400, 409, 413, 415, 422)
    * Unauthorized           no token, or one the service does not know (401, 403)
    * NotFound               no such prediction, model or version (404)
      * Expired              there may have been such a prediction; the retention is over (410)
    * KeyReused              this idempotency key stands for another request (409)
    * NotRetryable           only a failed prediction with its input still there is retried (409)
  * Overloaded               the queue stayed full for as long as we were willing to retry (429)
  * ServiceUnavailable       the service, or a part of it, does not answer (503, no connection)
    * AcceptanceUnknown      a submit was sent and its answer never came: it may have been accepted
  * NoService                nothing says where the service is, or its URL makes no sense
  * UnexpectedAnswer         something answered, but not as this service does
  * PredictionFailed         the prediction ended as failed or canceled
  * StillRunning             the wait is over, the prediction is not; it goes on by itself

Only `Overloaded` and `ServiceUnavailable` may pass by waiting. The client has already waited and
retried where that was safe before it raises them. A submit that may have been accepted is sent
again only when it has an idempotency key; without one, that could run the same work twice.

Whatever is raised while waiting for a prediction that was accepted names it, as `prediction_id`
and in the message: nothing is lost, it can be fetched later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tritonq.results import Prediction


class TritonqError(Exception):
    """Base of every failure the client reports. The message is a sentence for a person.

    Attributes:
        prediction_id: of the prediction that was accepted before this went wrong; else empty.
    """

    prediction_id = ""

    def __str__(self) -> str:
        message = super().__str__()
        if not self.prediction_id:
            return message
        return f"{message}; prediction {self.prediction_id} was accepted, fetch it later by this id"


class RequestRefused(TritonqError):
    """The service understood the request and refused it. `code` is its stable word for why."""

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class InvalidInput(RequestRefused):
    """A field of the request breaks a rule, both named as the service names them.

    Attributes:
        field: the path of the field, `input.image`; empty for the request as a whole.
        rule: a short stable word, `decodable_image`; empty when the service named none.
    """

    def __init__(self, message: str, *, code: str = "", field: str = "", rule: str = "") -> None:
        super().__init__(f"{field}: {message}" if field else message, code=code)
        self.field = field
        self.rule = rule


class Unauthorized(RequestRefused):
    """No bearer token, or one the service does not know."""


class NotFound(RequestRefused):
    """No such prediction, model or version."""


class Expired(NotFound):
    """A prediction of this age has been removed by the retention, if there was one."""


class KeyReused(RequestRefused):
    """The idempotency key was used before, for a request that was different."""


class NotRetryable(RequestRefused):
    """Only a failed prediction whose input is still there can be retried."""


class Overloaded(TritonqError):
    """Healthy but full. `retry_after_s` is when the service expects room."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ServiceUnavailable(TritonqError):
    """The service, or a part of it, does not answer; the same request may succeed later."""


class AcceptanceUnknown(ServiceUnavailable):
    """A submit was sent and no answer came back: the prediction may or may not exist.

    With the same idempotency key it can be submitted again without harm. Without one, look for it
    in `predictions()` first.

    Attributes:
        idempotency_key: that of the submit; empty when it had none.
    """

    def __init__(self, message: str, *, idempotency_key: str = "") -> None:
        super().__init__(message)
        self.idempotency_key = idempotency_key


class NoService(TritonqError):
    """Nothing says where the service is, or what says it makes no sense."""


class UnexpectedAnswer(TritonqError):
    """Something answered, but not as this service does: another server, or a proxy's page."""


class PredictionFailed(TritonqError):
    """The prediction ended without an output; `prediction` is how it ended."""

    def __init__(self, prediction: Prediction) -> None:
        reason = prediction.error or "no reason given"
        super().__init__(f"prediction {prediction.id} {prediction.status}: {reason}")
        self.prediction = prediction


class StillRunning(TritonqError):
    """The wait is over and the prediction has not ended; fetch it later by its id."""

    def __init__(self, prediction: Prediction) -> None:
        super().__init__(f"prediction {prediction.id} has not ended yet; it goes on by itself")
        self.prediction = prediction
