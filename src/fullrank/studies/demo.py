"""P1's Table 1 in miniature: four heads on the embedded digits, a few minutes on two CPU cores."""

from pathlib import Path

from fullrank.record import Published
from fullrank.studies.compare import Study, compare

# P1 Table 1: ResNet-50 on ImageNet, 100 epochs, batch 4096, linear-probe top-1. The digits' widths stand
# for P1's: a head's output of 128 and DirectCLR's 360 channels of 2048.
P1_TABLE_1 = Published(
    caption="P1 Table 1: ImageNet, ResNet-50, 100 epochs, linear top-1",
    values={"none": 51.5, "linear:48": 61.1, "subvector:24": 62.7, "mlp:48": 66.5},
)


def demo(*, out: str | Path | None = None, resume: bool = False) -> Study:
    """Train P1's four heads on the digits, one seed, and set P1's numbers beside ours."""
    heads = list(P1_TABLE_1.values)
    return compare("digits", heads=heads, seeds=1, out=out, resume=resume, published=P1_TABLE_1)
