"""What an answer of the REST API, or a row of the ledger, says of a prediction."""

import json
from typing import Any

import msgspec

from contract.moves import ENDED, State
from contract.prediction import Prediction
from gateway.follow import Seen as Found
from gateway.rest import render
from tests.chaos.history import Row, Seen

_ENDS = ("output", "error", "error_code", "started_at", "completed_at", "metrics", "status")


def seen_in(document: dict[str, Any]) -> Seen:
    """Read a prediction as the API answers it."""
    status = document["status"]
    if status in ENDED:
        outcome = {name: document[name] for name in _ENDS if name in document}
        outcome["attempts"] = int(outcome["metrics"].get("attempts", 0))
        return Seen(document["id"], State(status), outcome)
    queue = document.get("queue") or {}
    state = queue.get("state") or ("running" if status == "processing" else "waiting")
    return Seen(document["id"], State(state))


def all_seen_in(body: bytes) -> list[Seen]:
    """Every prediction of an answer: of a page, or the one it is about; none in other bodies."""
    document = json.loads(body)
    if "results" in document:
        return [seen_in(each) for each in document["results"]]
    return [seen_in(document)] if "status" in document and "urls" in document else []


def row_of(ended: Prediction, names: dict[str, str]) -> Row:
    """A row of the ledger, its outcome in the words of the API; `names` are images by sha256."""
    rendered = render.prediction(Found(ended.ticket, ended.outcome), "")
    outcome = seen_in(msgspec.json.decode(render.encode(rendered))).outcome
    assert outcome is not None
    return Row(ended.id, _asked(ended, names), outcome)


def _asked(ended: Prediction, names: dict[str, str]) -> str:
    for file in ended.ticket.files.values():
        return f"image:{names.get(file.sha256, file.sha256)}"
    return f"text:{ended.ticket.input.get('INPUT0')}"
