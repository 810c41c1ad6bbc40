"""Builds the files in `model_repository/*/1/` from pinned, checksummed sources.

numpy and onnx alone: no torch, no runtime. Equal sources give equal bytes.
"""

from weights.builder import Built, Progress, Report, build, buildable
from weights.errors import SourceUnavailable, WeightsError, WrongChecksum

__all__ = [
    "Built",
    "Progress",
    "Report",
    "SourceUnavailable",
    "WeightsError",
    "WrongChecksum",
    "build",
    "buildable",
]
