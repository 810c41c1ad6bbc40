"""What the gateway says is missing before an inference can succeed."""

import http.client
import json

from standalone.server import LOOPBACK, PROBE_S_MAX

MODEL = "model:"  # prefix of a part that is a model
GATEWAY = "gateway"


def missing_parts(port: int) -> dict[str, str]:
    """Each part that is missing and the reason, by GET /readyz; empty when all is well. Blocks."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=2 * PROBE_S_MAX)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException):
        return {GATEWAY: "it does not answer"}
    finally:
        connection.close()
    if answer.status == http.client.OK:
        return {}
    try:
        return {str(part): str(reason) for part, reason in json.loads(body)["missing"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {GATEWAY: f"it answers /readyz with {answer.status}"}


def unfit_models(port: int) -> dict[str, str]:
    """Each model whose last inference failed, and why. Blocks."""
    return {
        part.removeprefix(MODEL): reason
        for part, reason in missing_parts(port).items()
        if part.startswith(MODEL)
    }
