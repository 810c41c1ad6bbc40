"""`python -m tests.chaos.faulty_gateway`: the gateway, with fault points and planted bugs."""

import sys

from broker import Broker
from contract.ids import PredictionId
from gateway.__main__ import main
from gateway.recent import Recent, Remembered
from tests.chaos.planted import Bug, plant, planted
from tests.chaos.points import Points


def looked_for(_: Broker, prediction_id: PredictionId) -> str:
    return prediction_id


def forget(*, every_other: bool) -> None:
    """Have the gateway remember nothing of every other prediction, or of all.

    Readers then look into queue and ledger, as they do at another gateway or a minute later.
    """
    find = Recent.find

    def forgetful(self: Recent, prediction_id: PredictionId) -> Remembered | None:
        if every_other and ord(prediction_id[-2]) % 2:  # random: the last one is not quite
            return find(self, prediction_id)
        return None

    Recent.find = forgetful  # type: ignore[method-assign]


if __name__ == "__main__":
    points = Points.connect("gateway")
    points.guard(Broker, "publish", before="publishing", after="stored")
    points.guard(Broker, "find", before="looking", whom=looked_for)
    # What it remembers may hide a bug for a minute.
    forget(every_other=planted() is Bug.NONE)
    plant(points)
    sys.exit(main())
