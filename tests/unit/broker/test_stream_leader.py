"""Whose word counts, by what a server says about the stream's cluster."""

import msgspec
import pytest

from broker.stream import Peers

S = 1_000_000_000


def cluster(leader: str, *active: int) -> Peers:
    replicas = [{"name": f"n{number}", "active": each} for number, each in enumerate(active, 2)]
    return msgspec.convert({"leader": leader, "replicas": replicas}, Peers)


def test_a_single_server_always_leads() -> None:
    assert msgspec.json.decode(b"{}", type=Peers).has_a_leader
    assert cluster("n1").has_a_leader


@pytest.mark.parametrize("active", [(1, 1), (S, 60 * S), (2 * S, 0), (S, S, 9 * S, 9 * S)])
def test_a_leader_in_touch_with_most_of_its_replicas_leads(active: tuple[int, ...]) -> None:
    assert cluster("n1", *active).has_a_leader


@pytest.mark.parametrize("active", [(4 * S, 4 * S), (0, 0), (5 * S, 0), (S, 9 * S, 9 * S, 9 * S)])
def test_a_leader_that_is_cut_off_is_none_whatever_it_says(active: tuple[int, ...]) -> None:
    """They elect another after 4 s of silence; it goes on answering for up to 20."""
    assert not cluster("n1", *active).has_a_leader


def test_a_replica_that_knows_no_leader_is_none() -> None:
    assert not cluster("", S, S).has_a_leader
