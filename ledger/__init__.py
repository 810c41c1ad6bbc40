"""The record of outcomes in Postgres: every SQL statement of the product is in here.

The only package that knows asyncpg. A prediction's row is inserted once, when it ends, and never
updated, so the first outcome wins and a repeat changes nothing.
"""

from ledger.ledger import Ledger
from ledger.refusals import SchemaTooNew, Unrecordable

__all__ = ["Ledger", "SchemaTooNew", "Unrecordable"]
