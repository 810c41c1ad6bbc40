"""The record of outcomes in Postgres: every SQL statement of the product is in here.

The only package that knows asyncpg. A prediction's row is inserted once, when it ends, and never
updated, so the first outcome wins and a repeat changes nothing.
"""

from ledger.copying import COPIED, Filling, Snapshot
from ledger.ledger import Ledger
from ledger.refusals import NotDurable, NotEmpty, SchemaTooNew, UnfitLedger, Unrecordable
from ledger.schema import SCHEMA_VERSION

__all__ = [
    "COPIED",
    "SCHEMA_VERSION",
    "Filling",
    "Ledger",
    "NotDurable",
    "NotEmpty",
    "SchemaTooNew",
    "Snapshot",
    "UnfitLedger",
    "Unrecordable",
]
