"""The client of Triton, the catalog and the known answers, against the real server."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from contract.catalog import Lane
from contract.errors import ModelRejected, ModelUnavailable
from inference import AnswerWrong, Triton, check_known_answer, read_catalog
from standalone import triton as standalone_triton
from standalone import triton_environment
from tests import services

pytestmark = pytest.mark.triton

TIMEOUT_S = 20.0
IDENTITY = Lane("identity", 1)


@pytest.fixture
async def triton(triton_server: standalone_triton.Triton) -> AsyncIterator[Triton]:
    triton = Triton(triton_server.grpc_address)
    yield triton
    await triton.close()


async def echo(triton: Triton, *texts: bytes) -> list[bytes]:
    inputs = {"INPUT0": np.array(texts, np.object_).reshape(-1, 1)}
    answer = await triton.infer(IDENTITY, inputs, ["OUTPUT0"], timeout_s=TIMEOUT_S)
    return [bytes(text) for text in answer["OUTPUT0"].ravel()]


async def test_every_model_of_the_repository_gives_its_known_answer(
    triton_server: standalone_triton.Triton, triton: Triton
) -> None:
    catalog = read_catalog(services.MODEL_REPOSITORY, config_name="cpu")
    assert {model.name for model in catalog} == set(triton_server.models)
    for model in catalog:
        for version in model.versions:
            assert await triton.is_ready(Lane(model.name, version))
            await check_known_answer(triton, model, version, services.MODEL_REPOSITORY)


async def test_rows_come_back_in_order_whatever_their_length(triton: Triton) -> None:
    texts = [b"", b"a", "ü".encode() * 1000, b"x" * 300_000] * 16
    assert await echo(triton, *texts) == texts


async def test_a_batch_larger_than_grpc_s_default_limit_passes(triton: Triton) -> None:
    texts = [bytes([65 + number]) * 1_000_000 for number in range(12)]
    assert await echo(triton, *texts) == texts


async def test_many_requests_at_once_get_their_own_answers(triton: Triton) -> None:
    texts = [str(number).encode() for number in range(200)]
    answers = await asyncio.gather(*(echo(triton, text) for text in texts))
    assert answers == [[text] for text in texts]


@pytest.mark.parametrize(
    ("lane", "name", "array", "output", "words"),
    [
        (IDENTITY, "INPUT0", np.zeros((1, 1), np.float32), "OUTPUT0", "data-type is 'FP32'"),
        (IDENTITY, "INPUT1", np.array([[b"a"]], np.object_), "OUTPUT0", "input 'INPUT1'"),
        (IDENTITY, "INPUT0", np.array([[b"a"]], np.object_), "OUTPUT1", "output 'OUTPUT1'"),
        (IDENTITY, "INPUT0", np.array([[b"a", b"b"]], np.object_), "OUTPUT0", "shape"),
        (IDENTITY, "INPUT0", np.array([[b"a"]] * 65, np.object_), "OUTPUT0", "must be <= 64"),
        (IDENTITY, "INPUT0", np.array([[b"\xff"]], np.object_), "OUTPUT0", "must be UTF-8 text"),
        (IDENTITY, "INPUT0", np.zeros((1, 1), np.complex64), "OUTPUT0", "complex64"),
    ],
)
async def test_tensors_that_do_not_fit_are_rejected_with_triton_s_reason(
    triton: Triton, lane: Lane, name: str, array: np.ndarray, output: str, words: str
) -> None:
    with pytest.raises(ModelRejected, match=words):
        await triton.infer(lane, {name: array}, [output], timeout_s=TIMEOUT_S)


@pytest.mark.parametrize("lane", [Lane("nobody_knows_it", 1), Lane("identity", 99)])
async def test_a_model_that_is_not_loaded_is_away_and_not_the_request_s_fault(
    triton: Triton, lane: Lane
) -> None:
    assert not await triton.is_ready(lane)
    with pytest.raises(ModelUnavailable, match="Triton has not loaded it"):
        await triton.infer(
            lane, {"INPUT0": np.array([[b"a"]], np.object_)}, ["OUTPUT0"], timeout_s=TIMEOUT_S
        )


async def test_an_answer_that_takes_too_long_counts_as_an_outage(triton: Triton) -> None:
    images = np.zeros((16, 224, 224, 3), np.uint8)  # a hundred milliseconds' work and more
    with pytest.raises(ModelUnavailable, match="did not answer in time"):
        await triton.infer(
            Lane("efficientnet_lite0", 1), {"image": images}, ["probabilities"], timeout_s=0.005
        )
    assert await echo(triton, b"a") == [b"a"]


async def test_where_nobody_listens_the_model_is_away_and_no_address_is_told() -> None:
    triton = Triton(f"127.0.0.1:{services.free_ports(1)[0]}")
    assert not await triton.is_ready()
    with pytest.raises(ModelUnavailable) as caught:
        await echo(triton, b"a")
    assert "127.0.0.1" not in str(caught.value)
    assert caught.value.__cause__ is not None  # for the log
    await triton.close()


async def test_a_client_works_again_by_itself_when_triton_is_back(tmp_path: Path) -> None:
    server = services.triton(tmp_path, models=("identity",))
    triton = Triton(server.grpc_address)
    async with services.running_triton(server) as process:
        assert await echo(triton, b"before") == [b"before"]
        os.killpg(process.pid, signal.SIGKILL)
        with pytest.raises(ModelUnavailable):
            await echo(triton, b"meanwhile")
        await process.stop()
    async with services.running_triton(server):
        async with asyncio.timeout(TIMEOUT_S):
            while not await triton.is_ready(IDENTITY):
                await asyncio.sleep(0.02)
        assert await echo(triton, b"after") == [b"after"]
    await triton.close()


@pytest.mark.skipif(int(np.__version__[0]) < 2, reason="there is no numpy 2 to do harm with")
async def test_an_environment_that_corrupts_data_gets_past_neither_backend_nor_known_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With numpy 2 Triton loads a model, calls it ready, and answers with nothing."""
    environment = _environment_with_numpy_2(tmp_path / "environment")
    monkeypatch.setattr(triton_environment, "NUMPY_MAJOR", 2)  # the first of three guards
    catalog = read_catalog(services.MODEL_REPOSITORY, offered=("efficientnet_lite0",))
    model = catalog.model("efficientnet_lite0")
    server = services.triton(tmp_path / "state", models=(model.name,), environment=environment)
    async with services.running_triton(server):
        assert "corrupts data" in (await server.unready_models())[model.name]

    backends = tmp_path / "backends"
    shutil.copytree(triton_environment.OUR_BACKENDS, backends)
    backend = backends / "onnxruntime" / "model.py"
    backend.write_text(backend.read_text().replace(">= 2", ">= 3"))  # the second
    monkeypatch.setattr(triton_environment, "OUR_BACKENDS", backends)
    triton = Triton(server.grpc_address)
    async with services.running_triton(server):
        assert await server.unready_models() == {}
        with pytest.raises((AnswerWrong, ModelUnavailable)) as caught:
            await check_known_answer(triton, model, 1, services.MODEL_REPOSITORY)
        assert "answer" in str(caught.value)  # it did answer
    await triton.close()


def _environment_with_numpy_2(folder: Path) -> Path:
    """Triton's environment, with our own numpy in place of its numpy 1."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    theirs = services.TRITON_ENVIRONMENT / "lib" / version / "site-packages"
    site = folder / "lib" / version / "site-packages"
    site.mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python3").symlink_to(sys.executable)
    shutil.copy(services.TRITON_ENVIRONMENT / "pyvenv.cfg", folder)
    for path in theirs.iterdir():
        if not path.name.startswith("numpy"):
            (site / path.name).symlink_to(path)
    for path in Path(np.__file__).parents[1].glob("numpy*"):
        (site / path.name).symlink_to(path)
    return folder
