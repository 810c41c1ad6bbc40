"""Everything that can go wrong, sorted by what should happen next.

* ServiceError
  * CallerError              the request is wrong; sending it again will not help
    * InvalidInput           a field breaks a rule                              422
      * TooLarge             more than a limit allows                           413
      * UnsupportedMedia     not a kind of content this task reads              415
    * Unauthorized           no token, or not a known one                       401
    * UnknownModel           no such model or version on offer                  404
    * UnknownPrediction      no such prediction in the queue or the ledger      404
      * Expired              it may have existed, before the retention's end    410
    * AlreadyAccepted        a prediction with this id was accepted before      409
    * KeyReused              this key stands for a different request            409
    * NotRetryable           only what has failed is retried                    409
  * Overloaded               healthy but full; come back later                  429
  * DependencyError          a service we rely on failed; a retry may help      503
    * QueueUnavailable       NATS
      * AcceptanceUnknown    NATS went away between publish and PubAck
    * LedgerUnavailable      Postgres
    * BlobsUnavailable       the blob store
    * ModelUnavailable       Triton is down, loading, or lost the model's process
  * InferenceError           Triton is up and refused
    * ModelRejected          these tensors are wrong; a retry gives the same answer
    * BatchFailed            the model failed on the batch; one row may be the cause
    * UnusableOutput         the model answered, but nothing that can be passed on

A bug is none of these. It is an AssertionError, or whatever Python raised: nothing below
`__main__` catches it, the process exits, and its tickets are delivered again.
"""

from typing import ClassVar


class ServiceError(Exception):
    """Base of every failure we expect.

    The message is for the caller: it names what was wrong and carries no secret, no host name
    and no stack. The cause (`__cause__`) is for the log.
    """

    code: ClassVar[str]


class CallerError(ServiceError):
    """The request is wrong; sending it again will not help."""

    code = "bad_request"


class InvalidInput(CallerError):
    """A field breaks a rule.

    Args:
        message: what is wrong, in a sentence the caller can act on.
        field: the path of the field, `input.image`; empty for the request as a whole.
        rule: the rule it breaks, a short stable word such as `decodable_image`.
    """

    code = "invalid_input"

    def __init__(self, message: str, *, field: str = "", rule: str = "valid") -> None:
        super().__init__(message)
        self.field = field
        self.rule = rule


class TooLarge(InvalidInput):
    """More bytes, pixels or items than a limit allows."""

    code = "too_large"


class UnsupportedMedia(InvalidInput):
    """Content of a kind the task does not read."""

    code = "unsupported_media_type"


class Unauthorized(CallerError):
    """No bearer token, or one we do not know."""

    code = "unauthorized"


class UnknownModel(CallerError):
    """No such model, or no such version of it, is on offer."""

    code = "unknown_model"


class UnknownPrediction(CallerError):
    """Neither the queue nor the ledger knows this id."""

    code = "unknown_prediction"


class Expired(UnknownPrediction):
    """A prediction of this age has been removed by the retention, if there was one."""

    code = "expired"


class AlreadyAccepted(CallerError):
    """A prediction with this id was accepted before."""

    code = "already_accepted"


class KeyReused(CallerError):
    """The idempotency key, or the id of a PUT, was used before for a different request."""

    code = "key_reused"


class NotRetryable(CallerError):
    """Only a failed prediction whose input is still there can be retried."""

    code = "not_retryable"


class Overloaded(ServiceError):
    """Healthy but full. `retry_after_s` says when room is expected."""

    code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DependencyError(ServiceError):
    """A service we rely on failed; the same request may succeed later."""

    code = "dependency_unavailable"


class QueueUnavailable(DependencyError):
    """NATS JetStream does not answer."""

    code = "queue_unavailable"


class AcceptanceUnknown(QueueUnavailable):
    """NATS went away between publish and PubAck: the ticket may or may not be stored."""

    code = "acceptance_unknown"


class LedgerUnavailable(DependencyError):
    """Postgres does not answer."""

    code = "ledger_unavailable"


class BlobsUnavailable(DependencyError):
    """The blob store does not answer, or lost the blob."""

    code = "blobs_unavailable"


class ModelUnavailable(DependencyError):
    """Triton is down, still loading, or lost the model's process."""

    code = "model_unavailable"


class InferenceError(ServiceError):
    """Triton is up and refused the request."""

    code = "inference_failed"


class ModelRejected(InferenceError):
    """These tensors are wrong for the model; a retry gives the same answer."""

    code = "model_rejected"


class BatchFailed(InferenceError):
    """The model failed on the batch as a whole; one of its rows may be the cause."""

    code = "inference_failed"


class UnusableOutput(InferenceError):
    """The model answered with what has no JSON form (NaN, infinity) or not the shape promised."""

    code = "unusable_output"
