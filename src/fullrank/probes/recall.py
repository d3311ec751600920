"""Retrieval: whether the nearest rows of a row have the same label. Nothing is fitted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError
from fullrank.probes.nearest import directions
from fullrank.probes.probe import joint_numbers, labelled_rows

# Similarities in memory at once: 2**22 float32 are 16 MiB, and several arrays have that size.
_TILE = 2**22
# Similarities are rounded to multiples of 2**-20, which is about the precision of float32 products.
_STEPS = 2.0**20


@dataclass(frozen=True)
class Retrieval:
    """How well rows find other rows of their label: means over `queries` rows, 0 to 1.

    `recall` maps k to recall at k, in the requested order. `left_out` is the number of rows that had nothing
    to find, because the gallery has no other row of their label. They are in no mean.
    """

    recall: dict[int, float]
    mean_average_precision: float
    queries: int
    left_out: int


@dataclass(frozen=True, eq=False)
class RankedQueries:
    """What each query with anything to find has found.

    Attributes:
        queries: The numbers of these queries among the labelled rows, (Q,), ascending.
        first: The rank of the first row of the query's label, (Q,), 1 the most similar.
        precision: The average precision, (Q,).
        labelled: The number of labelled rows.
    """

    queries: Tensor
    first: Tensor
    precision: Tensor
    labelled: int


def retrieval(
    features: Any,
    labels: Any,
    *,
    ks: Sequence[int] = (1, 5, 10),
    gallery: Any = None,
    gallery_labels: Any = None,
) -> Retrieval:
    r"""Recall at k and mean average precision, by cosine similarity, of each labelled row as a query.

    .. math:: \mathrm{recall@}k = \frac1Q \sum_q \mathbb 1[\min_{i \in R_q} r_i \le k], \qquad
              \mathrm{mAP} = \frac1Q \sum_q \frac1{|R_q|} \sum_{i \in R_q}
              \frac{|\{j \in R_q : r_j \le r_i\}|}{r_i}

    with :math:`R_q` the gallery rows of the query's label and :math:`r_i` the rank of row i for this query, 1
    the most similar. So recall at k is the share of queries with at least one row of their label among the
    k nearest, as in metric learning. It is not the share of relevant rows that are found.

    Features are L2-normalised and nothing else; a zero vector has similarity 0 with everything. Similarities
    are float32, and count as equal if they round to the same multiple of 2^-20. Among equal ones, rows of
    other labels rank first, so the order of rows cannot help features that collapse to a point. Queries are
    processed in tiles, so memory is O(N D) plus some 150 MB, or more if one row of similarities needs it.

    Args:
        features: Features of the queries (N, D).
        labels: Labels (N,), whole numbers or words; rows with the label -1 or "" are left out.
        ks: The values of k, each 1 or more.
        gallery: Features (M, D) to search. The default is all other labelled rows. In a given gallery, a
            query that is also a gallery row finds itself.
        gallery_labels: Labels of the gallery (M,).

    Raises:
        UsageError: If shapes or labels do not fit, a k is below 1, or a gallery has no labels.
        DataError: If features are not finite, or no query has anything to find.

    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.3, 1.0]])
    >>> result = retrieval(x, torch.tensor([0, 0, 1, 0]), ks=(1, 2))
    >>> result.recall, result.queries, result.left_out
    ({1: 0.666..., 2: 1.0}, 3, 1)

    Source: recall at k of Song et al. 2016 (arXiv 1511.06452).
    """
    if not ks or min(ks) < 1:
        raise UsageError(f"Recall needs one or more k of 1 or more, but got {list(ks)}; use 1, 5, 10.")
    ranked = ranked_queries(features, labels, gallery, gallery_labels)
    return Retrieval(
        recall={k: float((ranked.first <= k).double().mean()) for k in ks},
        mean_average_precision=float(ranked.precision.mean()),
        queries=len(ranked.queries),
        left_out=ranked.labelled - len(ranked.queries),
    )


def ranked_queries(
    features: Any, labels: Any, gallery: Any = None, gallery_labels: Any = None
) -> RankedQueries:
    """What each labelled row with anything to find has found; arguments and errors are those of `retrieval`.

    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.3, 1.0]])
    >>> ranked_queries(x, torch.tensor([0, 0, 1, 0])).first
    tensor([1, 1, 2])
    """
    if (gallery is None) != (gallery_labels is None):
        one, other = ("gallery_labels", "gallery") if gallery is None else ("gallery", "gallery_labels")
        raise UsageError(f"Retrieval got {one} but no {other}; give both, or neither.")
    if gallery is None:
        (labels,), _ = joint_numbers(labels)
    else:
        (labels, gallery_labels), _ = joint_numbers(labels, gallery_labels)
    features, labels = labelled_rows(features, labels)
    queries = directions(features)
    if gallery is None:
        rows, row_labels = queries, labels
    else:
        gallery, row_labels = labelled_rows(gallery, gallery_labels)
        if gallery.shape[1] != features.shape[1]:
            widths = f"{features.shape[1]} and the gallery width {gallery.shape[1]}"
            raise UsageError(f"Queries have width {widths}; use features of the same place for both.")
        rows, row_labels = directions(gallery).to(queries.device), row_labels.to(queries.device)
    relevant_rows = _count(labels, row_labels) - (1 if gallery is None else 0)
    answerable = (relevant_rows > 0).nonzero()[:, 0]
    if not len(answerable):
        raise DataError(
            f"None of {len(labels)} labelled rows can find its label among {len(row_labels)} rows; "
            "give at least 2 rows of one label, or a gallery with the same labels."
        )
    first, precision = [], []
    for tile in torch.split(answerable, max(1, _TILE // len(rows))):
        similarities = (queries[tile] @ rows.T).mul_(_STEPS).round_()
        relevant = labels[tile, None] == row_labels
        if gallery is None:
            similarities.scatter_(1, tile[:, None], -torch.inf)  # puts the query itself last
        ranks = _ranks(similarities, relevant, int(relevant_rows[tile].max()))
        first.append(ranks[:, 0])
        order = torch.arange(1, ranks.shape[1] + 1, device=ranks.device)
        counts = order <= relevant_rows[tile, None]
        precision.append(torch.where(counts, order.double() / ranks, 0.0).sum(1) / relevant_rows[tile])
    return RankedQueries(answerable, torch.cat(first), torch.cat(precision), len(labels))


def _count(labels: Tensor, among: Tensor) -> Tensor:
    """How often each of `labels` (N,) occurs in `among` (M,): (N,)."""
    classes, numbers = torch.unique(torch.cat([labels, among]), return_inverse=True)
    return torch.bincount(numbers[len(labels) :], minlength=len(classes))[numbers[: len(labels)]]


def _ranks(similarities: Tensor, relevant: Tensor, most: int) -> Tensor:
    """The ranks (B, most) of each query's relevant rows, ascending, after all equally similar other rows."""
    # Rows at -inf do not count. Entries after the ranks of a query with fewer relevant rows are meaningless.
    own = similarities.masked_fill(~relevant, -torch.inf).topk(most).values
    others = similarities.masked_fill(relevant, -torch.inf).sort().values
    before = others.shape[1] - torch.searchsorted(others, own)
    return before + torch.arange(1, most + 1, device=before.device)
