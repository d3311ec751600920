"""Augmentation as a cause: its weight in the lost directions, and the share of each operation."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fullrank.diagnosis.evidence import Evidence, PlaceEvidence, on_same_images
from fullrank.errors import UsageError
from fullrank.record import OperationShare

# The temperature that is assumed for a cosine loss if it is unknown.
ASSUMED_TEMPERATURE = 0.1
# Only the first images of larger sets are used, because similarities are quadratic in their number.
_MAX_IMAGES = 1024
_RESAMPLES = 400


@dataclass(frozen=True)
class AugmentationRatio:
    """Sigma1 over Sigma0 at `place`, in the directions that a later map lost and in those that it kept.

    Attributes:
        place: Where it is measured.
        lost: The ratio in the lost directions.
        low: The lower end of the 95 % interval of `lost`.
        high: The upper end.
        kept: The ratio in the kept directions.
        lost_directions: How many of the components were lost.
        components: The number of components.
    """

    place: str
    lost: float
    low: float
    high: float
    kept: float
    lost_directions: int
    components: int


def augmentation_ratio(
    source: PlaceEvidence, target: PlaceEvidence, rank: int, *, temperature: float = 0.1, seed: int = 0
) -> AugmentationRatio | None:
    r"""How strong augmentation is, at `source`, in the directions that `target` lost beyond its first `rank`.

    .. math:: r = \operatorname{tr}(P \Sigma_1) / \operatorname{tr}(P \Sigma_0)

    P projects onto the lost directions. The whitened clean features of `source` explain those of `target` by
    least squares, and the right singular vectors beyond `rank` are lost. Sigma0 and Sigma1 are those of a
    cosine loss. Its weights come from the whitened features themselves, from a map that keeps every direction
    equally. With the weights of the trained map both balance in every direction that the map still sees, so
    they would not show why it shrank.

    At most the first 1024 images of the views and 256 leading components (4 images for each) are used. Rows
    that one place leaves out are left out of both. The interval is a bootstrap over images, 2.5 to 97.5 %.

    Args:
        source: The earlier place, with views.
        target: The place that lost directions.
        rank: How many directions `target` kept.
        temperature: The temperature of the loss.
        seed: The seed of the bootstrap.

    Returns:
        The ratios, or None without views or if nothing of `source` is lost.

    Raises:
        UsageError: If the two places have different numbers of images.

    >>> x = torch.randn(200, 4)
    >>> noise = torch.tensor([0.01, 0.01, 3.0, 3.0])
    >>> views = tuple(x + noise * torch.randn(200, 4) for _ in range(2))
    >>> z = PlaceEvidence("z", x * torch.tensor([1.0, 1.0, 0.01, 0.01]))
    >>> found = augmentation_ratio(PlaceEvidence("h", x, views), z, 2)
    >>> found.lost_directions, found.low > 1 > found.kept
    (2, True)

    Source: P1 Theorem 1, at the map's input.
    """
    views = source.views
    if views is None:
        return None
    source, target = on_same_images(source, target)
    whitening = source.whitening
    if rank >= whitening.components:
        return None
    clean = whitening(source.features)
    outcome = target.features.double()
    outcome = outcome - outcome.mean(0)
    # The columns of `clean` are orthonormal up to a factor, so the product is the least-squares map.
    directions = torch.linalg.svd(outcome.T @ clean, full_matrices=True).Vh
    first, second = (F.normalize(whitening(view[:_MAX_IMAGES]), dim=1) for view in views)
    weights = _cosine_weights(first @ second.T / temperature)
    lost = _directional(weights, first @ directions[rank:].T, second @ directions[rank:].T)
    kept = _directional(weights, first @ directions[:rank].T, second @ directions[:rank].T)
    low, high = _bootstrap(lost, seed)
    count = len(directions)
    return AugmentationRatio(source.place, _ratio(lost), low, high, _ratio(kept), count - rank, count)


def ratio_sources(place: PlaceEvidence, evidence: Evidence) -> list[PlaceEvidence]:
    """Where augmentation is measured for `place`: earlier places with views, nearest first, or itself."""
    return [below for below in evidence.before(place) if below.views is not None] or [place]


def can_be_weighed(place: PlaceEvidence, evidence: Evidence) -> bool:
    """Whether `augmentation_ratio` has a result for the low rank of `place`, at any of its sources."""
    cut = evidence.cut(place)
    return cut is not None and any(
        cut.rank < on_same_images(source, place)[0].whitening.components
        for source in ratio_sources(place, evidence)
        if source.views is not None
    )


def operation_shares(
    place: PlaceEvidence, z_views: tuple[Tensor, Tensor] | None = None, temperature: float = 0.1
) -> list[OperationShare]:
    r"""The share of each operation's own views in the trace of Sigma1 at a place, the largest first.

    .. math:: t_o = \sum_i (1 - \alpha_{ii}) |x_i^o - x_i'^o|^2, \quad \mathrm{share}_o = t_o / \sum_p t_p

    The sum is over the images of the operations' views. Shares add up to 1, even if operations cancel each
    other's effect. Without operations the list is empty. If no operation changes anything, all shares are 0.

    Args:
        place: The features and views.
        z_views: The embeddings (n, K) of the views with all operations on. They give the weights, the same
            for every operation. Without them all weights are 1.
        temperature: The temperature of the loss.

    Raises:
        UsageError: For views of a different number of images.

    >>> x = torch.zeros(2, 3)
    >>> place = PlaceEvidence("h", x, (x, x + 2), {"crop": (x, x + 1), "flip": (x, x)})
    >>> [(share.operation, share.share) for share in operation_shares(place)]
    [('crop', 1.0), ('flip', 0.0)]

    Source: P1 Lemma 2, Sigma1, with the views of one operation at a time.
    """
    if place.views is None or not place.operations:
        return []
    repelled = torch.ones(len(place.views[0]), dtype=torch.float64)
    if z_views is not None:
        if len(z_views[0]) != len(repelled) or z_views[0].shape != z_views[1].shape:
            shapes = f"{tuple(z_views[0].shape)} and {tuple(z_views[1].shape)}"
            raise UsageError(f"{place.place} has views of {len(repelled)} images, but z_views are {shapes}.")
        first, second = (F.normalize(view[:_MAX_IMAGES].double().cpu(), dim=1) for view in z_views)
        repelled = 1 - len(first) * _cosine_weights(first @ second.T / temperature).diagonal()
    traces = {}
    for name, (a, b) in place.operations.items():
        moved = (a.double().cpu() - b.double().cpu())[: len(repelled)].square().sum(1)
        traces[name] = float((repelled[: len(moved)] * moved).sum())
    total = sum(traces.values())
    return [
        OperationShare(place=place.place, operation=name, share=trace / total if total > 0 else 0.0)
        for name, trace in sorted(traces.items(), key=lambda item: -item[1])
    ]


def _cosine_weights(similarity: Tensor) -> Tensor:
    """The weight of each pair (N, N) in the symmetrised loss. The weights sum to 1."""
    return (similarity.softmax(1) + similarity.softmax(0)) / (2 * len(similarity))


def _directional(weights: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The contribution of each image to the traces of Sigma0 and Sigma1, (N, 2), up to a common factor."""
    distances = torch.cdist(first, second).square()
    apart = (weights - torch.diag(weights.diagonal())) * distances
    pulled = (1 / len(weights) - weights.diagonal()) * distances.diagonal()
    return torch.stack([(apart.sum(0) + apart.sum(1)) / 2, pulled], dim=1)


def _ratio(traces: Tensor) -> float:
    sigma0, sigma1 = traces.sum(0).tolist()
    return sigma1 / sigma0 if sigma0 > 0 else 0.0


def _bootstrap(traces: Tensor, seed: int) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(seed)
    resamples = torch.randint(len(traces), (_RESAMPLES, len(traces)), generator=generator)
    sums = traces.cpu()[resamples].sum(1)
    ratios = sums[:, 1] / sums[:, 0].clamp_min(torch.finfo(sums.dtype).tiny)
    low, high = torch.quantile(ratios, torch.tensor([0.025, 0.975], dtype=ratios.dtype)).tolist()
    return low, high
