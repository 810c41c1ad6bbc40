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


def unprivileged(paths: Iterable[Path]) -> Unprivileged:
    """Who a server that refuses root runs as, such that it reaches all of `paths`.

    An ordinary user stays what he is. Blocks.

    Raises:
        CannotStart: there is no such way here.
    """
    if os.geteuid() != 0:
        return _ordinary()
    try:
        account = pwd.getpwnam(ACCOUNT)
    except KeyError:
        raise CannotStart(
            f"Postgres refuses to run as root, and this system has no user '{ACCOUNT}' to run it "
            "as; run as an ordinary user"
        ) from None
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
        f"Postgres refuses to run as root, and user '{ACCOUNT}' cannot reach {', '.join(wanted)}: "
        f"{refusals[-1]}. Run as an ordinary user, or keep the program and its state in folders "
        "that others may pass through (chmod o+x)"
    )


def _ordinary() -> Unprivileged:
    uid = os.geteuid()
    try:
        pwd.getpwuid(uid)
    except KeyError:
        raise CannotStart(
            f"Postgres needs a named user, and uid {uid} has no entry in /etc/passwd; add one, or "
            "run as a user that has one"
        ) from None
    return Unprivileged(uid, os.getegid())


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
