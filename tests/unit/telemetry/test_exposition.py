"""The two pages of a process that has no HTTP server of its own."""

import json
import socket
import urllib.error
import urllib.request

import pytest

from telemetry import metrics
from telemetry.exposition import CONNECTIONS_MAX, serving


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


def test_more_connections_than_there_are_threads_for_are_closed_and_the_others_answered() -> None:
    with serving("127.0.0.1", 0, lambda: (True, {})) as port:
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS_MAX)]
        with socket.create_connection(("127.0.0.1", port), timeout=5) as one_more:
            assert one_more.recv(1) == b""
        silent[0].sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert silent[0].recv(12).startswith(b"HTTP/1.0 200")
        for each in silent:
            each.close()
