"""Whose word counts, by what a server says about the stream's cluster."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from broker.stream import BELIEVING_S_MAX, Peers

S = 1_000_000_000
NOW = datetime(2026, 11, 21, tzinfo=UTC)


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


@pytest.mark.parametrize(("age_s", "is_settled"), [(0, False), (30, False), (30.1, True)])
def test_after_an_election_another_may_believe_to_lead_for_a_while(
    age_s: float, is_settled: bool
) -> None:
    since = NOW - timedelta(seconds=age_s)
    peers = msgspec.structs.replace(cluster("n1", S, S), leader_since=since)
    assert peers.is_settled(NOW) is is_settled
    assert BELIEVING_S_MAX == 30, "the ages above are around it"


def test_nobody_else_ever_leads_a_single_server() -> None:
    assert cluster("n1").is_settled(NOW)
    assert not cluster("n1", S, S).is_settled(NOW), "it did not say since when"
