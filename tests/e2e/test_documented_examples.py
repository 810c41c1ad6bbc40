"""What the documents tell people to type works as it stands there."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installations import Up, up

pytestmark = [pytest.mark.e2e, pytest.mark.triton, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "api.md")
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
SHELL = re.compile(r"^(curl (?:[^\n]*\\\n)*[^\n]*)$", re.MULTILINE)

EXAMPLES = [(path.name, found) for path in DOCUMENTS for found in PYTHON.findall(path.read_text())]
SHOWN_ID = "06gvs8or05v577uat669kmqavo"  # the prediction that the documents show
# The installation of these tests serves the classifier alone.
REQUESTS = [
    (path.name, found)
    for path in DOCUMENTS
    for found in SHELL.findall(path.read_text())
    if "identity" not in found
]


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with up(tmp_path_factory.mktemp("documents") / "state") as installation:
        yield installation


@pytest.fixture(scope="module")
def prediction_id(installation: Up) -> str:
    """One that is there, in place of the one that the documents show."""
    with installation.client() as client:
        return client.submit("efficientnet_lite0", ROOT / "samples" / "cat.jpg").id


def here(text: str, installation: Up) -> str:
    """The example, at the addresses of this installation."""
    running = installation.running
    text = text.replace("http://127.0.0.1:8080", running.api_url)
    return text.replace("127.0.0.1:8001", running.triton_grpc_address)


@pytest.mark.parametrize(("document", "example"), EXAMPLES)
def test_python_examples_run(installation: Up, document: str, example: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", here(example, installation)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    assert "espresso" in ran.stdout or "Egyptian" in ran.stdout


@pytest.mark.parametrize(("document", "request_"), REQUESTS)
def test_requests_by_curl_are_accepted(
    installation: Up, prediction_id: str, document: str, request_: str
) -> None:
    command = here(request_, installation).replace(SHOWN_ID, prediction_id)
    ran = subprocess.run(
        ["bash", "-euc", command.replace("curl -s ", "curl -sS --fail ", 1)],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    assert '"model":"triton/efficientnet_lite0"' in ran.stdout


def test_the_documents_have_examples_to_try() -> None:
    assert len(EXAMPLES) >= 3
    assert len(REQUESTS) >= 4
