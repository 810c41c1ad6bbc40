"""Waiting for a part that is away."""

import pytest

from contract.errors import LedgerUnavailable, ServiceError
from dispatcher import outages
from dispatcher.outages import Outage


class Flaky:
    """A part that fails a number of times, then answers or refuses."""

    def __init__(self, outage: Outage, failures: int, error: Exception | None = None) -> None:
        self.outage = outage
        self.failures = failures
        self.error = error
        self.reasons: list[str] = []  # what the outage said when we were called

    async def __call__(self) -> str:
        self.reasons.append(self.outage.reason)
        if len(self.reasons) <= self.failures:
            raise LedgerUnavailable("Postgres does not answer")
        if self.error is not None:
            raise self.error
        return "done"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "RETRY_S_FIRST", 0.0)


async def test_an_effect_is_repeated_until_the_part_answers() -> None:
    outage = Outage("ledger")
    flaky = Flaky(outage, failures=3)
    assert await outage.ride_out(flaky) == "done"
    assert flaky.reasons == ["", *["Postgres does not answer"] * 3]
    assert outage.reason == ""


async def test_a_refusal_is_an_answer_and_ends_the_outage() -> None:
    outage = Outage("ledger")
    with pytest.raises(ServiceError, match="refused"):
        await outage.ride_out(Flaky(outage, failures=2, error=ServiceError("refused")))
    assert outage.reason == ""


async def test_a_bug_is_not_ridden_out() -> None:
    outage = Outage("ledger")
    with pytest.raises(KeyError):
        await outage.ride_out(Flaky(outage, failures=0, error=KeyError()))


async def test_whoever_asked_is_told_of_each_change_once() -> None:
    outage, told = Outage("ledger"), list[str]()
    outage.when_changed(lambda: told.append(outage.reason))
    await outage.ride_out(Flaky(outage, failures=3))
    await outage.ride_out(Flaky(outage, failures=0))
    assert told == ["Postgres does not answer", ""]
