"""Names in NATS: the stream, its subjects and consumers, and the subjects of announcements.

A namespace keeps several installations (and every test) apart on one server. Tokens in subjects
are ours or escaped: no caller ever puts `.`, `*`, `>` or white space into a subject.
"""

from dataclasses import dataclass

from contract.ids import PredictionId, parse_prediction_id
from contract.prediction import Priority, Ticket

DEFAULT_NAMESPACE = "predictions"


@dataclass(frozen=True, slots=True)
class QueueNames:
    """Every name an installation uses in NATS."""

    namespace: str = DEFAULT_NAMESPACE

    def __post_init__(self) -> None:
        assert self.namespace.replace("_", "").isalnum(), "a namespace is letters, digits and _"

    @property
    def stream(self) -> str:
        return self.namespace.upper()

    @property
    def all_tickets(self) -> str:
        return f"{self.namespace}.*.*.*"

    def ticket(self, ticket: Ticket) -> str:
        model = _escaped(ticket.model)
        return f"{self.namespace}.{ticket.priority.value}.{model}.{ticket.id}"

    def ticket_by_id(self, prediction_id: PredictionId) -> str:
        """The wildcard that finds a ticket by its id alone."""
        return f"{self.namespace}.*.*.{prediction_id}"

    def tickets_of(self, priority: Priority, model: str) -> str:
        return f"{self.namespace}.{priority.value}.{_escaped(model)}.*"

    def consumer(self, priority: Priority, model: str) -> str:
        return f"{priority.value}__{_escaped(model)}"

    @property
    def claims_stream(self) -> str:
        return f"{self.namespace.upper()}_CLAIMS"

    @property
    def all_claims(self) -> str:
        return f"{self.namespace}_claims.*"

    def claim(self, key_hash: str) -> str:
        """Where the claim of one idempotency key is kept; `key_hash` is lower-case hex."""
        assert key_hash.isalnum()
        return f"{self.namespace}_claims.{key_hash}"

    @property
    def withdrawn(self) -> str:
        """Core NATS: predictions that a gateway has ended, so that nobody runs them any more."""
        return f"{self.namespace}_withdrawn"

    @property
    def outcomes(self) -> str:
        """Core NATS: one message a batch, the outcomes it recorded (`contract.announcements`)."""
        return f"{self.namespace}_outcomes"

    def dispatcher_status(self, dispatcher: str) -> str:
        """Core NATS: what one dispatcher serves, about once a second."""
        return f"{self.namespace}_dispatchers.{_escaped(dispatcher)}"

    @property
    def all_dispatcher_status(self) -> str:
        return f"{self.namespace}_dispatchers.*"


def id_in_subject(subject: str) -> PredictionId | None:
    """The prediction whose ticket is on `subject`, readable or not; None: it is nobody's."""
    try:
        return parse_prediction_id(subject.rpartition(".")[2])
    except ValueError:
        return None


def _escaped(name: str) -> str:
    """A model or dispatcher name (`[A-Za-z0-9._-]+`) as one subject token."""
    assert name.replace(".", "").replace("_", "").replace("-", "").isalnum(), name
    return name.replace(".", "%2E")
