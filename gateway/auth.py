"""Who is asking: bearer tokens, and the owner each of them stands for. Pure.

An owner sees its own predictions only; somebody else's is as unknown as one that never was.
"""

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import SplitResult, urlsplit

from contract.errors import Unauthorized
from gateway.settings import is_loopback

EVERYBODY = ""  # the owner without tokens: the whole installation is one person's

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TOKEN_LENGTH_MIN = 8  # catches a forgotten placeholder, not a weak choice
_SCHEMES = ("bearer", "token")  # `Token` is what Replicate's older clients send


def parse_tokens(text: str) -> dict[str, str]:
    """Read `name:token,name:token` into names by token.

    Raises:
        ValueError: with what is wrong, and never the token itself.
    """
    owners: dict[str, str] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, colon, token = entry.partition(":")
        if not colon or not _NAME.fullmatch(name):
            raise ValueError("tokens are written name:token,name:token")
        if len(token) < _TOKEN_LENGTH_MIN or not token.isascii() or " " in token:
            raise ValueError(
                f"the token of {name} is not {_TOKEN_LENGTH_MIN} or more ASCII characters"
            )
        if token in owners:
            raise ValueError(f"{name} and {owners[token]} have the same token")
        owners[token] = name
    if not owners:
        raise ValueError("no tokens are given")
    return owners


class TokenAuth:
    """Lets in whoever holds one of the tokens."""

    def __init__(self, owners_by_token: Mapping[str, str]) -> None:
        # By digest: how long a look-up takes says nothing about any token.
        self._known = {_digest(token): name for token, name in owners_by_token.items()}

    def owner(self, headers: Mapping[bytes, bytes]) -> str:
        """Raises Unauthorized."""
        given = headers.get(b"authorization")
        if given is None:
            raise Unauthorized("send your token as `Authorization: Bearer <token>`")
        scheme, _, token = given.decode("latin-1").partition(" ")
        if scheme.lower() not in _SCHEMES:
            raise Unauthorized("the Authorization header is read as `Bearer <token>` only")
        digest = _digest(token.strip())
        name = self._known.get(digest)
        if name is None:
            raise Unauthorized("this token is not known")
        return name


class LoopbackAuth:
    """Lets everybody in who is on this machine, except web pages from elsewhere.

    A browser on this machine runs pages of strangers. Their requests carry an `Origin` that is
    not ours, or, after DNS rebinding, a `Host` that is no loopback name.
    """

    def owner(self, headers: Mapping[bytes, bytes]) -> str:
        """Raises Unauthorized."""
        host = headers.get(b"host", b"").decode("latin-1")
        if host and not _is_loopback(host):
            raise Unauthorized("without tokens only loopback names may be used: ask 127.0.0.1")
        origin = headers.get(b"origin")
        if origin is not None and _split(origin.decode("latin-1")).netloc != host:
            raise Unauthorized("without tokens other web sites may not call this service")
        return EVERYBODY


@lru_cache(maxsize=256)
def _is_loopback(host: str) -> bool:
    # Nearly all requests have the same one, and to read it takes as long as to route them.
    return is_loopback(_split(f"//{host}").hostname or "")


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # such as an unfinished IPv6 address
        return urlsplit("")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
