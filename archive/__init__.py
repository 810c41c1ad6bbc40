"""Backup and restore: everything an installation must not lose, in one folder and back.

Knows how the parts fit together, so that a backup taken while everything runs is whole; how each
is read and filled is the business of `ledger`, `broker` and `blobs`.
"""

from archive.backup import back_up
from archive.manifest import Manifest
from archive.parts import Parts, Report, connected
from archive.refusals import ArchiveError
from archive.restore import restore

__all__ = ["ArchiveError", "Manifest", "Parts", "Report", "back_up", "connected", "restore"]
