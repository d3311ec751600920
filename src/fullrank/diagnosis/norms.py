"""Batch norms whose running statistics do not fit their input."""

from dataclasses import dataclass


@dataclass(frozen=True)
class NormShift:
    """The input of a batch norm, in eval mode, compared with its running statistics.

    Attributes:
        layer: The name of the layer in the encoder.
        channels: The number of its channels.
        log_ratio: The median over channels of the logarithm of the input's variance over the running one.
        mean_shift: The median over channels of the distance of the means, in running standard deviations.
    """

    layer: str
    channels: int
    log_ratio: float
    mean_shift: float
