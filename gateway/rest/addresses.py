"""The addresses in requests and answers: which model a path names, and the base of our links."""

import re

from starlette.requests import Request

from contract.catalog import OWNER, parse_reference
from contract.errors import InvalidInput, UnknownModel

_HOST = re.compile(r"[A-Za-z0-9.\-_:\[\]]{1,255}")


def base_url(request: Request, public_url: str) -> str:
    """The base of links in an answer, without a slash at the end.

    Args:
        public_url: what the operator set; empty: what the caller used.
    """
    if public_url:
        return public_url
    host = request.headers.get("host", "")
    if not _HOST.fullmatch(host):
        address, port = request.scope.get("server") or ("127.0.0.1", None)
        host = f"{address}:{port}" if port else address
    return f"{request.scope['scheme']}://{host}"


def model_in_path(request: Request) -> tuple[str, int | None]:
    """The model's name and, as in `name@1`, its version.

    Raises:
        UnknownModel: also for what could be no model's name. In a path it is unknown, not invalid.
    """
    owner, name = request.path_params["owner"], request.path_params["name"]
    if owner != OWNER:
        raise UnknownModel(f"all models here are owned by {OWNER}, none by {owner[:80]!a}")
    try:
        return parse_reference(f"{owner}/{name}")
    except InvalidInput as error:
        raise UnknownModel(f"no such model: {error}") from None
