"""Runs a server that refuses root as somebody else.

Postgres will not run as root. Started by root it therefore runs as `nobody`, and where `nobody`
cannot reach its programs or its data (a checkout under a home of mode 700 is normal) it keeps one
capability: to pass through folders.
"""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from standalone.server import CannotStart

ACCOUNT = "nobody"
SEARCH_CAPABILITIES = ("dac_read_search", "dac_override")  # least first; containers lack the first


@dataclass(frozen=True, slots=True)
class Unprivileged:
    """Who a server runs as, and the setpriv(1) options that make it so."""

    uid: int
    gid: int
    privileges: tuple[str, ...] = ()


def unprivileged(paths: Iterable[Path], *, owner: int | None = None) -> Unprivileged:
    """Who a server that refuses root runs as, such that it reaches all of `paths`.

    An ordinary user stays what he is. Blocks.

    Args:
        owner: the uid whom the server's data belong to, if there are any yet.

    Raises:
        CannotStart: there is no such way here.
    """
    if os.geteuid() != 0:
        return _ordinary(owner)
    account = _account(owner)
    who = (f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups")
    wanted = tuple(str(path) for path in paths)
    choices: list[tuple[str, ...]] = [(*who, "--inh-caps=-all")]
    for name in SEARCH_CAPABILITIES:
        # access(2), with which Postgres looks at its own program, ignores the capabilities of
        # ordinary users unless the third option says otherwise.
        only = f"-all,+{name}"
        caps = f"--inh-caps={only}", f"--ambient-caps={only}", "--securebits=+no_setuid_fixup"
        choices.append((*who, *caps))
    refusals = []
    for privileges in choices:
        refusal = _refusal(privileges, wanted)
        if not refusal:
            return Unprivileged(account.pw_uid, account.pw_gid, privileges)
        refusals.append(refusal)
    raise CannotStart(
        f"Postgres refuses to run as root, and user '{account.pw_name}' cannot reach "
        f"{', '.join(wanted)}: {refusals[-1]}. Run as an ordinary user, or keep the program and "
        "its state in folders that others may pass through (chmod o+x)"
    )


def _ordinary(owner: int | None) -> Unprivileged:
    uid = os.geteuid()
    if owner not in (None, uid):
        raise CannotStart(
            f"the data of Postgres belong to another user (uid {owner}): an earlier start was made "
            "as that user, or as root; run as that user again, or name another state folder"
        )
    try:
        pwd.getpwuid(uid)
    except KeyError:
        raise CannotStart(
            f"Postgres needs a named user, and uid {uid} has no entry in /etc/passwd; add one, or "
            "run as a user that has one"
        ) from None
    return Unprivileged(uid, os.getegid())


def _account(owner: int | None) -> pwd.struct_passwd:
    """Whom root becomes: the owner of the data, who may be the user that ran this before."""
    try:
        return pwd.getpwuid(owner) if owner else pwd.getpwnam(ACCOUNT)
    except KeyError:
        wanted = f"uid {owner}, whose data these are," if owner else f"user '{ACCOUNT}'"
        raise CannotStart(
            f"Postgres refuses to run as root, and {wanted} has no entry in /etc/passwd; "
            "run as an ordinary user"
        ) from None


@cache
def _refusal(privileges: tuple[str, ...], paths: tuple[str, ...]) -> str:
    """Why a process with `privileges` cannot read all of `paths`; empty if it can.

    Tried rather than computed: access lists, user namespaces and containers with few capabilities
    all have a say. test(1) asks by access(2), as Postgres does.
    """
    test = shutil.which("test") or "/usr/bin/test"
    for path in paths:
        done = subprocess.run(
            ["setpriv", *privileges, "--", test, "-r", path],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            return done.stderr.strip() or f"no permission to read {path}"
    return ""
