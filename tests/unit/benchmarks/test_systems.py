"""A system that cannot run here is left out, with a sentence that says what is missing."""

import pytest

from benchmarks.peer.__main__ import tool
from benchmarks.systems import Unavailable, system


def test_a_missing_server_is_named_with_what_to_install() -> None:
    with pytest.raises(SystemExit, match="no-such-server on the PATH: apt-get install rabbitmq"):
        tool("no-such-server")


async def test_a_system_that_ends_before_it_is_ready_says_why() -> None:
    with pytest.raises(Unavailable, match=r"No module named benchmarks\.nothing"):
        async with system("nothing", "benchmarks.nothing"):
            pass
