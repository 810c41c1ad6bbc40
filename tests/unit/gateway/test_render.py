"""Golden examples: what callers' code reads must not change by accident."""

import json
from typing import Any

from contract.ids import PredictionId, new_prediction_id
from contract.prediction import Failure, File, Outcome, Status, Ticket
from gateway.follow import Seen
from gateway.rest import render

BASE = "https://inference.example"
ID: PredictionId = new_prediction_id(1_763_726_400_123, bytes(10))
URL = f"{BASE}/v1/predictions/{ID}"
TICKET = Ticket(ID, "identity", 3, {"INPUT0": "hi"}, owner="alice")
SUCCEEDED = Outcome(
    ID,
    Status.SUCCEEDED,
    started_at_ms=1_763_726_400_200,
    completed_at_ms=1_763_726_400_250,
    attempts=1,
    output=b'{"OUTPUT0": ["hi"]}',
    queue_ms=77.0,
    compute_ms=12.3456,
)


def shown(seen: Seen, *, wait_expired: bool = False) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(
        render.encode(render.prediction(seen, BASE, wait_expired=wait_expired))
    )
    return value


def test_a_waiting_prediction_is_starting_and_says_its_place_in_the_queue() -> None:
    assert shown(Seen(TICKET, position=4)) == {
        "id": ID,
        "model": "triton/identity",
        "version": "triton.identity.3",
        "status": "starting",
        "input": {"INPUT0": "hi"},
        "output": None,
        "error": None,
        "logs": "",
        "metrics": {},
        "created_at": "2025-11-21T12:00:00.123Z",
        "started_at": None,
        "completed_at": None,
        "urls": {"get": URL, "cancel": f"{URL}/cancel"},
        "priority": "normal",
        "queue": {"state": "waiting", "position": 4},
        "data_removed": False,
        "source": "api",
    }


def test_a_succeeded_prediction_carries_its_output_and_its_times() -> None:
    assert shown(Seen(TICKET, SUCCEEDED)) == {
        "id": ID,
        "model": "triton/identity",
        "version": "triton.identity.3",
        "status": "succeeded",
        "input": {"INPUT0": "hi"},
        "output": {"OUTPUT0": ["hi"]},
        "error": None,
        "logs": "",
        "metrics": {
            "predict_time": 0.05,
            "total_time": 0.127,
            "queue_ms": 77.0,
            "compute_ms": 12.346,
            "attempts": 1,
        },
        "created_at": "2025-11-21T12:00:00.123Z",
        "started_at": "2025-11-21T12:00:00.200Z",
        "completed_at": "2025-11-21T12:00:00.250Z",
        "urls": {"get": URL},
        "priority": "normal",
        "data_removed": False,
        "source": "api",
    }


def test_a_failed_prediction_says_why_in_a_string_and_in_a_word() -> None:
    failure = Failure("model_rejected", "the tensor is wrong")
    outcome = Outcome(ID, Status.FAILED, 1, 2, 1, error=failure)
    value = shown(Seen(TICKET, outcome))
    assert value["status"] == "failed"
    assert value["error"] == "the tensor is wrong"
    assert value["error_code"] == "model_rejected"
    assert value["output"] is None


def test_a_canceled_prediction_has_neither_output_nor_error() -> None:
    value = shown(Seen(TICKET, Outcome(ID, Status.CANCELED, 1, 2, 0)))
    assert (value["status"], value["output"], value["error"]) == ("canceled", None, None)


def test_running_is_processing_except_to_a_caller_whose_wait_expired() -> None:
    """Clients take any status but `starting` for the end of a wait, and return nothing."""
    running = Seen(TICKET, running=True)
    assert shown(running)["status"] == "processing"
    assert shown(running)["queue"] == {"state": "running"}
    assert shown(running, wait_expired=True)["status"] == "starting"


def test_files_of_the_input_are_shown_as_links() -> None:
    ticket = Ticket(ID, "m", 1, {"top_k": 3}, {"my image": File("image/png", 3, "0" * 64, b"abc")})
    assert shown(Seen(ticket))["input"] == {"top_k": 3, "my image": f"{URL}/input/my%20image"}


def test_a_deadline_is_a_time_and_a_retry_names_what_it_repeats() -> None:
    ticket = Ticket(ID, "m", 1, {}, deadline_ms=1_763_726_490_123, retry_of=ID)
    value = shown(Seen(ticket))
    assert (value["deadline"], value["retry_of"]) == ("2025-11-21T12:01:30.123Z", ID)
    assert not {"deadline", "retry_of"} & shown(Seen(TICKET)).keys()


def test_no_link_is_null_and_all_are_absolute() -> None:
    for seen in (Seen(TICKET), Seen(TICKET, SUCCEEDED)):
        assert all(url.startswith(BASE) for url in shown(seen)["urls"].values())
