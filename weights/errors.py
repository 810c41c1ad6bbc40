"""What can go wrong while weights are built. The messages are for whoever ran the build.

* WeightsError
  * SourceUnavailable    the pinned file cannot be had from where it should come from
  * WrongChecksum        it can, but it is not the file that was pinned
  * UnreadableCheckpoint it is not a checkpoint this product reads
  * WrongWeights         its tensors are not those the model is made of

An `OSError` (no disk space, no permission) is left as it is: it names the file.
"""


class WeightsError(Exception):
    """Base of every failure of a build that is not the file system's."""


class SourceUnavailable(WeightsError):
    """The pinned file cannot be fetched."""


class WrongChecksum(WeightsError):
    """A fetched file differs from the one that was pinned."""


class UnreadableCheckpoint(WeightsError):
    """Not a checkpoint, a damaged one, or one that asks for more than tensors."""


class WrongWeights(WeightsError):
    """Tensors are missing, left over, or do not fit the graph."""
