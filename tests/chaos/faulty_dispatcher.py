"""`python -m tests.chaos.faulty_dispatcher`: the dispatcher, with fault points and planted bugs."""

import sys

from broker import Broker
from dispatcher.__main__ import main
from dispatcher.encode import Encoder
from inference import Triton
from ledger import Ledger
from tests.chaos.planted import plant
from tests.chaos.points import Points

if __name__ == "__main__":
    points = Points.connect("dispatcher")
    points.guard(Encoder, "encode", before="fetched")
    points.guard(Triton, "infer", before="inferring")
    points.guard(Ledger, "record", before="inferred", after="recorded")
    points.guard(Broker, "announce", after="announced")
    plant(points)
    sys.exit(main())
