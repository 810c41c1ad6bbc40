"""A whole installation is destroyed while it works, and comes back from its backup."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from contract.limits import INLINE_BYTES_MAX
from tests.installations import HEAL_S_MAX, IMAGE, MODEL, Up, up
from tests.services import ROOT
from tritonq import Prediction

pytestmark = [pytest.mark.e2e, pytest.mark.triton, pytest.mark.timeout(300)]

# A JPEG may have anything behind its end: this one travels through the blobs.
LARGE = IMAGE.read_bytes() + b"\0" * INLINE_BYTES_MAX
KEY = "the same however often"


def tritonq(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tritonq", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def input_of(prediction: Prediction, installation: Up) -> bytes:
    path = f"/v1/predictions/{prediction.id}/input/image"
    answer = httpx.get(installation.running.api_url + path, trust_env=False)
    answer.raise_for_status()
    return answer.content


def test_everything_is_destroyed_and_restored(tmp_path: Path) -> None:
    state, folder = tmp_path / "state", tmp_path / "backup"
    with up(state) as installation, installation.client() as client:
        ended = [client.run(MODEL, content, wait_s=HEAL_S_MAX) for content in (IMAGE, LARGE)]
        keyed = client.submit(MODEL, IMAGE, idempotency_key=KEY)
        keyed = client.get(keyed.id, wait_s=HEAL_S_MAX)
        # From here on nothing ends: the dispatcher hangs, and holds some of what is queued.
        psutil.Process(installation.leader("dispatcher")).send_signal(signal.SIGSTOP)
        waiting = [client.submit(MODEL, content) for content in (IMAGE, LARGE, IMAGE)]
        tritonq("backup", str(folder), "--state", str(state))
    shutil.rmtree(state)

    tritonq("restore", str(folder), "--state", str(state))
    with up(state) as restored, restored.client() as client:
        for before in [*ended, keyed]:
            after = client.get(before.id)
            assert (after.output, after.completed_at) == (before.output, before.completed_at)
            assert after.metrics == before.metrics
        for submitted in waiting:
            assert client.get(submitted.id, wait_s=HEAL_S_MAX).status == "succeeded"
        assert client.submit(MODEL, IMAGE, idempotency_key=KEY).id == keyed.id
        assert input_of(ended[1], restored) == input_of(waiting[1], restored) == LARGE
