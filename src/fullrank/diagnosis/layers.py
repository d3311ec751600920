"""Where to cut: accuracy and spectrum of features at each place, from the first block to z."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node

from fullrank.data import ImageSet
from fullrank.devices import first_device
from fullrank.diagnosis.features import view_batches
from fullrank.encoders.foreign import with_places
from fullrank.errors import UsageError
from fullrank.heads.contract import views_for
from fullrank.linalg import shared_coordinates
from fullrank.objectives.contract import loss_of_views
from fullrank.places import evaluating, read_places
from fullrank.probes import LinearProbe, NearestProbe, retrieval
from fullrank.probes.diffused import Redundancy, redundancy_of
from fullrank.probes.directions import ProbedRows, powers_of_two
from fullrank.probes.probe import label_vector
from fullrank.progress import counted
from fullrank.record import DimensionCurve, LayerRow, ProbedAgain
from fullrank.spectrum.functional import effective_rank, effective_rank_of, matrix_singular_values, rankme
from fullrank.statistics import one_error_below
from fullrank.views import Views

DRAWS = 3
_ROWS_AT_ONCE = 64
# The kinds of directions, and what the record calls them.
_KINDS = {
    "channels": "random channels",
    "principal": "leading components",
    "least": "least components",
    "random": "random directions",
}

Labels = tuple[Any, Any]
"""The labels of the training rows (N,) and of the test rows (M,), -1 where unlabelled."""


def layer_rows(
    train: Mapping[str, Tensor],
    test: Mapping[str, Tensor],
    labels: Labels | None = None,
    *,
    seed: int = 0,
    gradient_ranks: Mapping[str, float] | None = None,
    probed: Mapping[str, ProbedRows] | None = None,
) -> list[LayerRow]:
    """Each place of `test` as a candidate for the cut, in its order.

    Ranks are those of the test features. Linear and nearest accuracy follow the default protocol of the
    probes. Recall at 1 is among the test rows. Accuracies are None without enough labels: two classes to
    learn from, one row to score, two rows with the same label.

    Args:
        train: Features (N, D_p) to learn from, by place.
        test: Features (M, D_p) to score, by place.
        labels: The labels of both.
        seed: The seed of the probes.
        gradient_ranks: The result of `gradient_ranks`, if any.
        probed: Places with a linear probe that is fitted already.

    Raises:
        UsageError: For a place that `train` lacks.
        FullrankError: What probes and spectra raise.

    >>> x, y = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
    >>> rows = layer_rows({"h": x[:40]}, {"h": x[40:]}, (y[:40], y[40:]))
    >>> rows[0].place, rows[0].width, rows[0].gradient_rank
    ('h', 4, None)
    """
    missing = [place for place in test if labels is not None and place not in train]
    if missing:
        count = f"{len(missing)} of {len(test)} places have no training features, the first is {missing[0]}"
        raise UsageError(f"{count}; collect both at the same places.")
    learnt, tested = (torch.tensor([-1]),) * 2 if labels is None else map(label_vector, labels)
    counts = torch.unique(tested[tested != -1], return_counts=True)[1]
    probeable = len(torch.unique(learnt[learnt != -1])) > 1 and len(counts) > 0
    rows = []
    for place, features in test.items():
        linear = nearest = recall = None
        scored = features
        if probeable:
            learnt_from, scored = shared_coordinates(train[place], features)
            if probed is not None and place in probed:
                linear = probed[place].accuracy
            else:
                linear = LinearProbe(seed=seed).fit(learnt_from, learnt).score(scored, tested)
            nearest = NearestProbe().fit(learnt_from, learnt).score(scored, tested)
        if len(counts) and counts.max() > 1:
            recall = retrieval(scored, tested, ks=(1,)).recall[1]
        rows.append(
            LayerRow(
                place=place,
                width=features.shape[1],
                effective_rank=effective_rank(scored),
                rankme=rankme(scored),
                linear=linear,
                nearest=nearest,
                recall_at_1=recall,
                gradient_rank=(gradient_ranks or {}).get(place),
            )
        )
    return rows


def standardised_again(train: Tensor, test: Tensor, labels: Labels, place: str, seed: int = 0) -> ProbedAgain:
    """The linear accuracy on channels divided by their standard deviation, beside the plain one.

    Args:
        train: Features (N, D) to learn from. The standard deviations are theirs.
        test: Features (M, D) to score.
        labels: The labels of both.
        place: The name of the place.
        seed: The seed of the probes.

    Raises:
        FullrankError: What probes raise.

    >>> x = torch.randn(400, 20, generator=torch.Generator().manual_seed(0))
    >>> y, x[:, 0] = x[:, 1] > 0, 1e5 * x[:, 0]
    >>> again = standardised_again(x[:300], x[300:], (y[:300], y[300:]), "h")
    >>> again.before < 0.7, again.linear > 0.9
    (True, True)
    """
    learnt, tested = map(label_vector, labels)
    labelled = tested != -1
    right = [
        (LinearProbe(features=features, seed=seed).fit(train, learnt).predict(test).cpu() == tested.cpu())[
            labelled.cpu()
        ].double()
        for features in ("raw", "standardised")
    ]
    gain = right[1] - right[0]
    return ProbedAgain(
        place=place,
        change="standardised channels",
        linear=float(right[1].mean()),
        before=float(right[0].mean()),
        tested=len(gain),
        error=float(gain.std(correction=0)) / len(gain) ** 0.5,
    )


def best_cut(rows: Sequence[LayerRow], tested: int) -> str | None:
    r"""The place to keep: h, unless another place is better by more than chance. None without labels.

    Candidates are the places whose linear accuracy is within one binomial standard error of the highest, a,

    .. math:: \hat a = \frac{a n + 1}{n + 2}, \qquad \mathrm{se} = \sqrt{\hat a (1 - \hat a) / n}

    with n the number of rows `tested`. It is smoothed, because even a perfect score has an error. If h is a
    candidate it is chosen, because every tool provides it without changes to the model. Otherwise the last
    candidate on the way to z is chosen.

    Args:
        rows: The places with their accuracies.
        tested: The number of test rows.

    Raises:
        UsageError: For `tested` below 1.

    >>> def row(place, linear):
    ...     return LayerRow(place=place, width=8, effective_rank=1, rankme=1, linear=linear, nearest=None,
    ...                     recall_at_1=None, gradient_rank=None)
    >>> best_cut([row("layer3", 0.95), row("layer4", 0.945), row("h", 0.80), row("z", 0.70)], tested=500)
    'layer4'
    >>> best_cut([row("layer3", 0.95), row("layer4", 0.94), row("h", 0.945), row("z", 0.70)], tested=500)
    'h'
    """
    if tested < 1:
        raise UsageError(f"tested must be 1 or more test rows, but got {tested}; pass their number.")
    accuracies = {row.place: row.linear for row in rows if row.linear is not None}
    if not accuracies:
        return None
    best = max(accuracies.values())
    least = one_error_below(best, tested)
    near = [place for place, accuracy in accuracies.items() if accuracy >= least]
    return "h" if "h" in near else near[-1]


def dimension_curves(
    train: Tensor,
    test: Tensor,
    labels: Labels,
    place: str,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[DimensionCurve]:
    """How many dimensions are needed: accuracy from 1, 2, 4, ... and all D of them, chosen in four ways.

    - `random channels`: the mean of 3 random draws. In each draw a larger choice contains the smaller ones.
    - `leading components`: the principal components of the training features, the largest first.
    - `least components`: the smallest first.
    - `random directions`: orthonormal, the mean of 3 draws. Unlike that of channels, their curve does not
      depend on the basis of the features. To save time, it goes to 90 % of the full accuracy and then to D.

    The probe is a LinearProbe with the penalty that the default protocol chooses for all D. The last
    accuracies are therefore those of `layer_rows`. Each curve has its diffused redundancy DR(0.9).

    Args:
        train: Features (N, D) to learn from.
        test: Features (M, D) to score.
        labels: The labels of both.
        place: The name of the place.
        seed: The seed of the draws and the probe.
        progress: Shows the part of the dimensions that is done; None shows nothing.

    Raises:
        FullrankError: What probes raise.

    >>> x, y = torch.eye(4).repeat(20, 1), torch.arange(80) % 4
    >>> curves = dimension_curves(x, x, (y, y), "h")
    >>> [(curve.kind, curve.dimensions, curve.accuracy[-1]) for curve in curves][:2]
    [('random channels', [1, 2, 4], 1.0), ('leading components', [1, 2, 4], 1.0)]

    Source: Nanda et al. 2023 (2306.00183), diffused redundancy: random subsets suffice.
    """
    rows = ProbedRows.of(train, labels[0], test, labels[1], seed=seed)
    return curves_of_rows(rows, place, seed, progress)


def curves_of_rows(
    rows: ProbedRows, place: str, seed: int = 0, progress: Progress | None = None
) -> list[DimensionCurve]:
    """`dimension_curves` of rows with a fitted probe.

    Args:
        rows: The rows and the probe.
        place: The name of the place.
        seed: The seed of the draws.
        progress: Shows the part of the dimensions that is done; None shows nothing.
    """
    below = [k for k in powers_of_two(rows.width) if k < rows.width]
    steps = counted(below, progress, "dimensions", sum(below), int)
    result = redundancy_of(rows, steps, DRAWS, seed, brief=("random",))
    return [_dimension_curve(place, name, result, kind) for kind, name in _KINDS.items()]


def _dimension_curve(place: str, name: Any, result: Redundancy, kind: str) -> DimensionCurve:
    """One kind of directions as the record has it."""
    curve = result.curves[kind]
    intervals = [each.interval for each in curve]
    return DimensionCurve(
        place=place,
        kind=name,
        dimensions=[each.dimensions for each in curve],
        accuracy=[each.mean for each in curve],
        low=[each.low for each in intervals if each.low is not None],
        high=[each.high for each in intervals if each.high is not None],
        worst_class=[each.worst_class for each in curve],
        diffused=result.diffused(kind=kind),
    )


def gradient_ranks(
    encoder: nn.Module,
    head: nn.Module | None,
    objective: nn.Module,
    views: Views,
    images: ImageSet,
    places: Sequence[str],
    *,
    limit: int = 256,
    seed: int = 0,
) -> dict[str, float]:
    r"""The effective rank of the loss's gradient at each place, over both views of one batch of images.

    .. math:: G_p = \Big(\frac{\partial L}{\partial x_i^{(p)}}\Big)_{i = 1 \dots 2n}, \qquad
              \mathrm{rank}_p = \exp\Big(-\sum_k q_k \ln q_k\Big), \quad q_k = \sigma_k / \|\sigma\|_1

    with :math:`\sigma` the singular values of :math:`G_p` (2n, D_p) itself, uncentred, since a push that all
    rows share counts too. Where a place pools a map or tokens, the gradient is that with respect to the map,
    pooled as the place is (an average over positions; its sum has the same rank). A sub-vector head therefore
    gives h and the last block's output at most its width. The input of the block's last convolution has a
    higher rank, which is P1's reason why the channels that the loss does not see still learn.

    The batch is a sample of at most `limit` images, drawn by `seed` as its views are. Encoder and head are in
    eval mode, in which rows do not depend on each other but through the loss, so the memory is that of 64
    rows. At most 2n can be reached. Raises UsageError for an unknown place, a limit below 1, and a
    model that passes no gradient on.

    >>> from fullrank import encoder, head, objective, source, view_pipeline
    >>> ranks = gradient_ranks(encoder("tiny-resnet,width=4", image_size=8, in_chans=1),
    ...                        head("subvector:3", in_dim=16), objective("infonce:0.2"),
    ...                        view_pipeline("weak", image_size=8, channels=1), source("digits").load("test"),
    ...                        ["h"], limit=32)
    >>> 1 < ranks["h"] < 3
    True
    """
    if limit < 1:
        raise UsageError(f"The limit must be 1 image or more, but got {limit}; 256 is the default.")
    sample = images.limited(min(limit, len(images)), seed)
    placed = with_places(encoder, images.image_size, images.channels)
    last = nn.Identity() if head is None else head
    batch, parameters = next(view_batches(sample, views, seed, batch_size=len(sample)))
    both = torch.cat(views.apply(batch.to(first_device(encoder)), parameters))
    pieces = torch.split(both, _ROWS_AT_ONCE)
    given = views_for(last, parameters.numbers())
    numbers = (None,) * len(pieces) if given is None else torch.split(given, _ROWS_AT_ONCE)
    gradients: dict[str, list[Tensor]] = {place: [] for place in places}
    with evaluating(placed, last, objective), torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        with torch.no_grad():
            shown = zip(pieces, numbers, strict=True)
            z = torch.cat([read_places(placed, last, rows, ["z"], some)["z"] for rows, some in shown])
        with torch.enable_grad():
            z, generator = z.float().requires_grad_(), torch.Generator().manual_seed(seed)
            pushes = torch.autograd.grad(
                loss_of_views(objective, torch.stack(z.chunk(2)), generator=generator), z
            )[0]
            for rows, some, push in zip(pieces, numbers, torch.split(pushes, _ROWS_AT_ONCE), strict=True):
                # Of the images, so that there is a gradient also where every weight is frozen.
                rows = rows.clone().requires_grad_()
                read = read_places(placed, last, rows, [*places, "z"], some)
                for place, gradient in _pooled_gradients(read, push, places).items():
                    gradients[place].append(gradient.float().cpu())
    return {
        place: effective_rank_of(matrix_singular_values(torch.cat(parts)).square())
        for place, parts in gradients.items()
    }


def _pooled_gradients(read: Mapping[str, Tensor], push: Tensor, places: Sequence[str]) -> dict[str, Tensor]:
    """The gradient (n, D_p) at each place, pooled as the place is, where it is `push` (n, K) at z."""
    z = read["z"]
    if z.grad_fn is None:
        raise UsageError("No gradient passes from z to the images; give a model that does not detach any.")
    on_the_way = _nodes_below(z.grad_fn)
    edges = {place: _maps_of(read[place], on_the_way) for place in places}
    every = list(dict.fromkeys(edge for maps in edges.values() for edge in maps))
    pushed = torch.autograd.grad(z, every, push.to(z.dtype), retain_graph=True)
    gradients = dict(zip(every, pushed, strict=True))
    return {place: _pooled(read[place], {edge: gradients[edge] for edge in edges[place]}) for place in places}


def _maps_of(features: Tensor, on_the_way: set[Node]) -> list[GradientEdge]:
    """The maps of a place: where its pooling, followed backwards, meets the graph that leads to the loss."""
    maps: dict[GradientEdge, None] = {}
    waiting = [] if features.grad_fn is None else [(features.grad_fn, features.output_nr)]
    while waiting:
        node, number = waiting.pop()
        if node in on_the_way:
            maps[GradientEdge(node, number)] = None
        else:
            waiting += [(before, n) for before, n in node.next_functions if before is not None]
    return list(maps)


def _nodes_below(node: Node) -> set[Node]:
    """All nodes of the graph that a node was computed from, and the node itself."""
    nodes: set[Node] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current not in nodes:
            nodes.add(current)
            waiting += [before for before, _ in current.next_functions if before is not None]
    return nodes


def _pooled(features: Tensor, gradients: Mapping[GradientEdge, Tensor]) -> Tensor:
    """Gradients with respect to maps, pooled by the linear map that made `features` (n, D_p) from them."""
    if not gradients:
        return torch.zeros_like(features)
    # autograd gives the transpose of that map; differentiating once more gives the map itself.
    direction = torch.zeros_like(features, requires_grad=True)
    back = torch.autograd.grad(features, list(gradients), direction, create_graph=True)
    return torch.autograd.grad(back, direction, list(gradients.values()), retain_graph=True)[0]
