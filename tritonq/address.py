"""Where the service is, and the token for it.

In this order: what the caller names; TRITONQ_URL and TRITONQ_TOKEN; the `tritonq up` whose state
folder is here, which listens on loopback and takes no token.
"""

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tritonq.errors import NoService


@dataclass(frozen=True, slots=True)
class Service:
    """A service and how to reach it."""

    url: str  # without a trailing slash and without /v1
    token: str | None = field(default=None, repr=False)


def find_service(url: str | None = None, token: str | None = None) -> Service:
    """Settle on a service.

    Raises:
        NoService: nothing names one, the URL is not http(s)://host, or no header can carry the
            token.
    """
    named = url or os.environ.get("TRITONQ_URL") or _running_url()
    if named is None:
        raise NoService(
            "no service is named and none is running here: start one with `tritonq up`, "
            "or set TRITONQ_URL (and TRITONQ_TOKEN)"
        )
    return Service(_checked(named), _checked_token(token or os.environ.get("TRITONQ_TOKEN")))


def _running_url() -> str | None:
    """Where the `tritonq up` with its state folder here listens, if one is up."""
    try:
        # Imported here: it is not needed where the address is named, nor always installed.
        from standalone.installation import Options
        from standalone.state import find_running
    except ImportError:
        return None
    running = find_running(Options().state)
    return running.api_url if running else None


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise NoService(f"not a URL of the form http://host:port : {url!r}")
    # `…/v1` is how other clients of this dialect are pointed at a service.
    return url.rstrip("/").removesuffix("/v1")


def _checked_token(token: str | None) -> str | None:
    if token is None:
        return None
    bare = token.strip()  # a file that it was read from ends in a newline
    if not bare.isascii() or not bare.isprintable() or " " in bare:
        raise NoService("the token holds characters that no token has")  # it is not repeated here
    return bare or None
