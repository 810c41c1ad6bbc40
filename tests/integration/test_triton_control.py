"""Triton's own ports are for inference: whatever changes the server asks for the secret."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from standalone.triton import Triton

pytestmark = pytest.mark.triton

MODEL = "identity"
HTTP = [
    ("repository/index", {}),
    (f"repository/models/{MODEL}/load", {}),
    (f"repository/models/{MODEL}/load", {"parameters": {"config": "{}"}}),
    (f"repository/models/{MODEL}/unload", {}),
    ("systemsharedmemory/region/ours/register", {"key": "/ours", "offset": 0, "byte_size": 64}),
    ("systemsharedmemory/unregister", {}),
    ("cudasharedmemory/region/ours/register", {"raw_handle": {"b64": ""}, "byte_size": 64}),
    ("cudasharedmemory/unregister", {}),
    ("trace/setting", {"trace_level": ["TENSORS"]}),
    ("logging", {"log_verbose_level": 4}),
]
GRPC: dict[str, Callable[[InferenceServerClient], Any]] = {
    "index": lambda client: client.get_model_repository_index(),
    "load": lambda client: client.load_model(MODEL),
    "load from bytes": lambda client: client.load_model(
        MODEL, config="{}", files={"file:1/model.onnx": b"ours"}
    ),
    "unload": lambda client: client.unload_model(MODEL),
    "map memory": lambda client: client.register_system_shared_memory("ours", "/ours", 64),
    "unmap memory": lambda client: client.unregister_system_shared_memory(),
    "map GPU memory": lambda client: client.register_cuda_shared_memory("ours", b"", 0, 64),
    "trace": lambda client: client.update_trace_settings(settings={"trace_level": ["TENSORS"]}),
    "log": lambda client: client.update_log_settings({"log_verbose_level": 4}),
}


@pytest.mark.parametrize("secret", [None, "", "wrong"])
@pytest.mark.parametrize(("path", "body"), HTTP)
async def test_over_http_nothing_changes_the_server_without_the_secret(
    triton_server: Triton, path: str, body: dict[str, Any], secret: str | None
) -> None:
    headers = {} if secret is None else {"X-Admin": secret}
    assert (
        await asyncio.to_thread(_post, f"{triton_server.http_url}/v2/{path}", body, headers) == 403
    )


@pytest.mark.parametrize("secret", [None, "wrong"])
@pytest.mark.parametrize("call", GRPC.values(), ids=GRPC)
async def test_over_grpc_nothing_changes_the_server_without_the_secret(
    triton_server: Triton, call: Callable[[InferenceServerClient], Any], secret: str | None
) -> None:
    headers = None if secret is None else {"triton-grpc-protocol-admin": secret}

    def ask() -> None:
        with InferenceServerClient(triton_server.grpc_address) as client:
            if headers is not None:
                client.register_plugin(_Headers(headers))
            call(client)

    with pytest.raises(InferenceServerException, match="restricted"):
        await asyncio.to_thread(ask)


async def test_the_model_serves_on_after_all_that(triton_server: Triton) -> None:
    assert await triton_server.unready_models() == {}


class _Headers:
    """A plugin of tritonclient's: adds headers to each call."""

    def __init__(self, headers: dict[str, str]) -> None:
        self._headers = headers

    def __call__(self, request: Any) -> None:
        request.headers.update(self._headers)


def _post(url: str, body: dict[str, Any], headers: dict[str, str]) -> int:
    """The status with which Triton answers."""
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
