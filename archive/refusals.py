"""Why a backup cannot be taken, or is not restored.

* ArchiveError
  * CannotWrite     the disk is full, or the folder is not ours
  * FolderTaken     there is something where the backup was to be
  * NotWhole        no backup, one that was cut off, or one that has changed since
  * MadeByNewer     a newer release wrote it
  * NeverStarted    this release has not worked on it yet
  * WrongSchema     the ledger is of another version than this release
  * NotEmptyYet     something is there already, so nothing is restored into it
"""

from typing import ClassVar

from contract.errors import ServiceError


class ArchiveError(ServiceError):
    """The message is for the person at the terminal: what is wrong, and what to do."""

    code: ClassVar[str] = "archive"


class CannotWrite(ArchiveError):
    """The disk is full, or the folder is not ours."""


class FolderTaken(ArchiveError):
    """A backup is never written over anything."""


class NotWhole(ArchiveError):
    """Not a backup, or not all of one: nothing of it is used."""


class MadeByNewer(ArchiveError):
    """This release cannot know what is in it."""


class NeverStarted(ArchiveError):
    """Its streams are made at the first start of this release."""


class WrongSchema(ArchiveError):
    """The ledger was migrated by another release."""


class NotEmptyYet(ArchiveError):
    """Restoring into what is in use would mix two histories."""
