"""tritonq for callers: the Python clients and the `tritonq` command.

from pathlib import Path
from tritonq import Client

with Client() as client:
    prediction = client.run("efficientnet_lite0", Path("cat.jpg"))
    print(prediction.output)
"""

from tritonq.client import AsyncClient, Client
from tritonq.errors import (
    AcceptanceUnknown,
    Expired,
    InvalidInput,
    KeyReused,
    NoService,
    NotFound,
    NotRetryable,
    Overloaded,
    PredictionFailed,
    RequestRefused,
    ServiceUnavailable,
    StillRunning,
    TritonqError,
    Unauthorized,
    UnexpectedAnswer,
)
from tritonq.results import Item, Model, Prediction, Priority, Version

__all__ = [
    "AcceptanceUnknown",
    "AsyncClient",
    "Client",
    "Expired",
    "InvalidInput",
    "Item",
    "KeyReused",
    "Model",
    "NoService",
    "NotFound",
    "NotRetryable",
    "Overloaded",
    "Prediction",
    "PredictionFailed",
    "Priority",
    "RequestRefused",
    "ServiceUnavailable",
    "StillRunning",
    "TritonqError",
    "Unauthorized",
    "UnexpectedAnswer",
    "Version",
]
