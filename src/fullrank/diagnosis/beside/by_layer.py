"""Every place of one net beside every place of another: a map of CKA without bias."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fullrank.devices import on_accelerator
from fullrank.encoders.foreign import with_places
from fullrank.errors import DataError, FullrankError, UsageError
from fullrank.places import collect_features, is_of_head
from fullrank.record import SimilarityMap

if TYPE_CHECKING:
    from fullrank.data import ImageSet
    from fullrank.diagnosis.subject import Subject

# Inner products of n rows take 8 n^2 bytes at each place.
MOST_ROWS = 1024
# How many images the untrained net sees: the passes of a diagnosis grow by a sixteenth.
_OF_UNTRAINED = 512
_BATCH_SIZE, _LEAST_ROWS = 256, 4


def similarity_map(
    features: Mapping[str, Tensor], against: Mapping[str, Tensor], *, target: str = "the other net"
) -> SimilarityMap:
    r"""Linear CKA without bias of every place of one net with every place of another, on the same rows.

    .. math:: \frac{\langle \tilde K_p, \tilde L_q \rangle}{\|\tilde K_p\| \|\tilde L_q\|}

    The inner products of all rows are made once for each place. :math:`\tilde K` is centred as the unbiased
    HSIC asks, with zeros on its diagonal. The values are those of `linear_cka`.

    - It weighs a direction by its variance, so a dominant direction that two places share hides the rest.

    Args:
        features: Features (N, D_p) by place. They are the rows of the map.
        against: Features (N, E_q) of the same rows by place of the other net. They are the columns.
        target: The name of the other net, for the record.

    Returns:
        The map. A value is None where a place does not vary.

    Raises:
        UsageError: For unlike numbers of rows.
        DataError: For fewer than 4 rows.

    >>> x = torch.randn(100, 5)
    >>> similarity_map({"layer1": x, "h": x[:, :1]}, {"h": 3 * x}).values[0]
    [1.0]

    Source: Kornblith et al. 2019 (arXiv 1905.00414) with HSIC_1 of Song et al. 2012 (JMLR 13), Equation 5.
    """
    counts = sorted({len(rows) for rows in (*features.values(), *against.values())})
    if len(counts) > 1:
        raise UsageError(f"Places belong together row by row, but have {counts[0]} to {counts[-1]} rows.")
    if counts[0] < _LEAST_ROWS:
        raise DataError(
            f"CKA without bias needs {_LEAST_ROWS} rows or more, but got {counts[0]}; give more rows."
        )
    first, second = (
        torch.stack([_centred_products(rows) for rows in side.values()]) for side in (features, against)
    )
    values = (first.flatten(1) @ second.flatten(1).T).clamp(max=1.0)
    return SimilarityMap(
        target=target,
        places=list(features),
        against=list(against),
        values=[[None if math.isnan(value) else value for value in row] for row in values.tolist()],
        rows=counts[0],
    )


def untrained_map(
    subject: "Subject", images: "ImageSet", features: Mapping[str, Tensor], seed: int = 0
) -> SimilarityMap | None:
    """The map of a trained net with the same net before training, at the encoder's places.

    Args:
        subject: The net. `rebuild` builds it as it was before training.
        images: The images that were read.
        features: Features (N, D_p) of these images by place.
        seed: The seed of the sample, at most 512 of the images.

    Returns:
        The map, or None if the net before training cannot be built.
    """
    if subject.rebuild is None or not subject.trained or len(images) < _LEAST_ROWS:
        return None
    try:
        before = with_places(subject.rebuild(), images.image_size, images.channels)
    except (FullrankError, OSError):  # a baseline says why
        return None
    rows = images.limited_rows(min(len(images), _OF_UNTRAINED), seed)
    now = {place: rows_at[rows] for place, rows_at in features.items() if not is_of_head(place)}
    with on_accelerator(before):
        batches = images.subset(rows).batches(_BATCH_SIZE)
        then = collect_features(before, nn.Identity(), batches, list(now))
    name = "the net that it started from" if subject.recipe else "an untrained net of its kind"
    return similarity_map(now, then, target=name)


def _centred_products(rows: Tensor) -> Tensor:
    """The inner products (N, N) of rows, centred without bias, with length 1; NaN where nothing varies."""
    # Measured from a row first: then rows that are all equal are exactly zero.
    x = rows.double() - rows[:1].double()
    x = x - x.mean(0)
    products = x @ x.T
    count = len(products)
    products.fill_diagonal_(0)
    sums = products.sum(1) / (count - 2)
    products -= sums[:, None] + sums[None, :]
    products += sums.sum() / (count - 1)
    products.fill_diagonal_(0)
    length = products.norm()
    return products / length if length > 0 else products.fill_(torch.nan)
