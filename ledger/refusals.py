"""What only the ledger can refuse. Everything else that goes wrong is in `contract.errors`."""

from collections.abc import Mapping, Set
from typing import ClassVar

from contract.errors import ServiceError
from contract.ids import PredictionId


class Unrecordable(ServiceError):
    """Postgres refuses some predictions for what is in them, and always will.

    Text with a NUL, output that is not JSON, nesting thousands deep.

    Their neighbours are recorded. Whoever asked records these as failed instead.

    Attributes:
        reasons: the kind of error, by prediction. Postgres's own words would quote the row.
        recorded: the ids this call inserted, as `Ledger.record` would have returned them.
    """

    code: ClassVar[str] = "unrecordable"

    def __init__(self, reasons: Mapping[PredictionId, str], recorded: Set[PredictionId]) -> None:
        super().__init__(f"{len(reasons)} of the predictions cannot be written to the ledger")
        self.reasons = reasons
        self.recorded = recorded


class NotEmpty(ServiceError):
    """A backup is restored into an empty ledger only."""

    code: ClassVar[str] = "not_empty"


class UnfitLedger(ServiceError):
    """This database cannot be our ledger until somebody changes something."""

    code: ClassVar[str] = "unfit_ledger"


class SchemaTooNew(UnfitLedger):
    """The database was migrated by a newer release: this one must not touch it."""

    code: ClassVar[str] = "schema_too_new"


class NotDurable(UnfitLedger):
    """Postgres reports rows as committed before they are on the disk.

    A ticket leaves the queue once its row is committed: if that row is then lost, all is lost.
    """

    code: ClassVar[str] = "not_durable"
