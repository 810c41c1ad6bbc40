"""The fixtures of `tests/gateways.py` and `tests/dispatching.py`."""

from tests.dispatching import house
from tests.gateways import dispatcher, gateway, gateway_broker, running, settings

__all__ = ["dispatcher", "gateway", "gateway_broker", "house", "running", "settings"]
