"""`python -m tests.chaos.faulty_gateway`: the gateway, with fault points and planted bugs."""

import sys

from broker import Broker
from contract.ids import PredictionId
from gateway.__main__ import main
from tests.chaos.planted import plant
from tests.chaos.points import Points


def looked_for(_: Broker, prediction_id: PredictionId) -> str:
    return prediction_id


if __name__ == "__main__":
    points = Points.connect("gateway")
    points.guard(Broker, "publish", before="publishing", after="stored")
    points.guard(Broker, "find", before="looking", whom=looked_for)
    plant(points)
    sys.exit(main())
