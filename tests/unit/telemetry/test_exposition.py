"""The two pages of a process that has no HTTP server of its own."""

import json
import urllib.error
import urllib.request

import pytest

from telemetry import metrics
from telemetry.exposition import serving


def read(port: int, path: str) -> tuple[int, str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return answer.status, answer.read().decode()


def test_metrics_and_health_are_served() -> None:
    metrics.ENDED.labels("a-model", "succeeded").inc(3)
    with serving("127.0.0.1", 0, lambda: (True, {"models": {"a-model": ""}})) as port:
        assert (
            'tritonq_predictions_ended_total{model="a-model",status="succeeded"}'
            in read(port, "/metrics")[1]
        )
        status, body = read(port, "/healthz")
    assert (status, json.loads(body)) == (200, {"models": {"a-model": ""}})


def test_a_process_that_says_it_is_stuck_is_unhealthy() -> None:
    with (
        serving("127.0.0.1", 0, lambda: (False, {"loop": "stuck"})) as port,
        pytest.raises(urllib.error.HTTPError) as refused,
    ):
        read(port, "/healthz")
    assert refused.value.code == 503
    refused.value.close()


def test_other_paths_are_not_found() -> None:
    with (
        serving("127.0.0.1", 0, lambda: (True, {})) as port,
        pytest.raises(urllib.error.HTTPError) as refused,
    ):
        read(port, "/admin")
    assert refused.value.code == 404
    refused.value.close()
