"""The fixtures of `tests/gateways.py`."""

from tests.gateways import dispatcher, gateway, gateway_broker, settings

__all__ = ["dispatcher", "gateway", "gateway_broker", "settings"]
