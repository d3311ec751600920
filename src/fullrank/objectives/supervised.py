"""Objectives that learn labels: images of one class together, or a classifier above the head."""

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullrank.errors import UsageError
from fullrank.objectives.contract import GatheringLoss, check_number, check_pair, in_single, unit_rows
from fullrank.objectives.tiles import log_sums_among
from fullrank.processes import ALONE, Share

UNLABELLED = -1


def positive_sets(labels: Tensor, views: int) -> Tensor:
    """The number, 0 to 2 N - 1, of each view's set of positives: its class, or without a label its image.

    Shapes: (N,) -> (V N,), the views of the batch one after the other.
    """
    n = len(labels)
    # Where a label first stands among the sorted ones is its number: no count of classes to wait for.
    first = torch.searchsorted(labels.sort().values, labels)
    alone = n + torch.arange(n, device=labels.device)
    return torch.where(labels == UNLABELLED, alone, first).repeat(views)


def sup_con(z: Tensor, sets: Tensor, temperature: float, share: Share = ALONE) -> Tensor:
    """`SupConLoss` of all views (M, K) and their `positive_sets` (M,); 0 where no row has a positive."""
    return _within_sets(unit_rows(z), sets, temperature, share)


@in_single
def _within_sets(u: Tensor, sets: Tensor, temperature: float, share: Share) -> Tensor:
    # The sum over i's positives is u_i . (the sum of its set, less u_i): no pair needs to be held.
    together = u.new_zeros(2 * len(u), u.shape[1]).index_add(0, sets, u)[sets]
    count = partners(sets)
    pulled = (u * (together - u)).sum(1) / count.clamp_min(1)
    anchors = count > 0
    losses = log_sums_among(u, 1 / temperature, share) - (pulled - 1) / temperature
    return (losses * anchors).sum() / anchors.sum().clamp_min(1)


def partners(sets: Tensor) -> Tensor:
    """How many others each row's set has: (M,) -> (M,)."""
    ones = torch.ones_like(sets)
    return ones.new_zeros(2 * len(sets)).index_add(0, sets, ones)[sets] - 1


class LabelledLoss(GatheringLoss):
    """A loss of one or two views (N, K) and their labels (N,), which are gathered first."""

    needs = ("labels",)

    def labelled_views(
        self, z_a: Tensor, z_b: Tensor | None, labels: Tensor, least: int = 1
    ) -> tuple[list[Tensor], Tensor]:
        """The views and int64 labels of all processes; UsageError for other shapes and fewer than `least`."""
        check_pair(z_a, z_a if z_b is None else z_b, least)
        if labels.shape != z_a.shape[:1] or labels.is_floating_point():
            raise UsageError(
                f"Labels must be {len(z_a)} whole numbers, one for each image and -1 where there is none, "
                f"but got {tuple(labels.shape)} of {labels.dtype}."
            )
        *views, labels = self.gathered(z_a, *([] if z_b is None else [z_b]), labels.long())
        return views, labels

    @abstractmethod
    def chance(self, n: int, width: int | None = None) -> float:
        """The loss of n images whose embeddings say nothing of them."""

    def collapsed(self, n: int, width: int) -> dict[str, float]:
        """All rows alike, which is no better than chance."""
        return {"one point": self.chance(n)}


class SupConLoss(LabelledLoss):
    r"""The supervised contrastive loss with the mean over positives outside the logarithm ("L_out").

    With unit vectors u along z, s_ij = u_i . u_j / temperature, the positives P(i) of a view, and the
    anchors A that have at least one positive,

    .. math:: L = \frac1{|A|} \sum_{i \in A}
              \Big[\log \sum_{j \ne i} e^{s_{ij}} - \frac1{|P(i)|} \sum_{p \in P(i)} s_{ip}\Big]

    Called as `loss(z_a, z_b, labels)`, or with one view as `loss(z, None, labels)`. Labels (N,) are whole
    numbers; -1 means unlabelled. The positives of a view are all views of its class and its own other view.
    An unlabelled image has only its own other view. After each call `without_positive` counts the anchors
    without a positive, which the mean leaves out. With two views there are none.

    Shapes: (N, K), (N, K) or None, (N,) -> scalar, N of 2 or more.

    Args:
        temperature: Divides the cosines, above 0.
        gather: Whether the loss sees the rows of all processes, with exact gradients.

    Raises:
        UsageError: `temperature` is not above 0, N is 1, or labels have another shape or type.

    >>> loss = SupConLoss(0.1)
    >>> loss(torch.ones(3, 4), None, torch.tensor([5, 5, -1])), loss.without_positive
    (tensor(0.6931), tensor(1))

    Source: Khosla et al. 2020 (2004.11362), Equation 2. The authors' code also counts anchors without a
    positive in the mean, and multiplies by temperature / 0.07. Both only scale the gradient, the first by
    the number of labels that a batch happens to lack, so neither is done here.
    """

    def __init__(self, temperature: float = 0.1, gather: bool = True):
        super().__init__(gather)
        self.temperature = check_number("temperature", temperature, above=0)
        self.without_positive = torch.zeros((), dtype=torch.int64)

    def forward(self, z_a: Tensor, z_b: Tensor | None, labels: Tensor) -> Tensor:
        """Return the loss of one or two embeddings (N, K) under their labels (N,)."""
        views, labels = self.labelled_views(z_a, z_b, labels, least=2)
        sets = positive_sets(labels, len(views))
        # A tensor, not a number: reading it here would wait for the device.
        self.without_positive = (partners(sets) == 0).sum()
        return sup_con(torch.cat(views), sets, self.temperature, self.share)

    def chance(self, n: int, width: int | None = None) -> float:
        """The loss of n images whose similarities are all equal: ln(2n - 1), whatever the labels."""
        return math.log(2 * n - 1)


class CrossEntropyLoss(LabelledLoss):
    r"""Supervised training: a trained linear classifier above z, which the loss owns.

    With logits l = W z + b of each of the V views and the labelled images A,

    .. math:: L = \frac1{V |A|} \sum_{v} \sum_{i \in A} -\log \operatorname{softmax}(l^{(v)}_i)_{y_i}

    Called as `loss(z_a, z_b, labels)`, or with one view as `loss(z, None, labels)`. Labels (N,) are 0 to
    C - 1; images with the label -1 are left out. Without any label the loss and its gradient are 0. Shapes:
    (N, K), (N, K) or None, (N,) -> scalar.

    Args:
        in_dim: The width K of z, 1 or more.
        num_classes: The number C of classes, 2 or more.
        label_smoothing: The share s of the target that is spread over all classes, s / C each; 0 or more
            and below 1.
        gather: Whether the mean is over the rows of all processes.

    Raises:
        UsageError: A setting is outside its limits, or z or the labels have another shape or type. On a
            CPU also for a label of C or more; on a GPU the check would cost a wait.

    >>> loss = CrossEntropyLoss(in_dim=4, num_classes=10)
    >>> loss(torch.randn(3, 4), torch.randn(3, 4), torch.tensor([-1, -1, -1])).item()
    0.0
    >>> round(loss.chance(3), 4)  # ln 10
    2.3026

    Source: P2, authors' code (supervised training through a head, the classifier after it).
    """

    def __init__(self, in_dim: int, num_classes: int, label_smoothing: float = 0.0, gather: bool = True):
        super().__init__(gather)
        if in_dim < 1 or num_classes < 2:
            raise UsageError(
                f"A classifier needs z of width 1 or more and 2 classes or more, but got in_dim={in_dim} and "
                f"num_classes={num_classes}; name another label, or an objective that needs none."
            )
        if not 0 <= label_smoothing < 1:
            raise UsageError(
                f"label_smoothing must be 0 or more and below 1, but got {label_smoothing}; 0.1 is common."
            )
        self.classifier = nn.Linear(in_dim, num_classes)
        self.label_smoothing = label_smoothing

    def forward(self, z_a: Tensor, z_b: Tensor | None, labels: Tensor) -> Tensor:
        """Return the loss of one or two embeddings (N, K) under their labels (N,)."""
        views, labels = self.labelled_views(z_a, z_b, labels)
        self._check(z_a, labels)
        logits, target = self.classifier(torch.cat(views)), labels.repeat(len(views))
        total = F.cross_entropy(
            logits, target, ignore_index=UNLABELLED, reduction="sum", label_smoothing=self.label_smoothing
        )
        return total / (target != UNLABELLED).sum().clamp_min(1)

    def chance(self, n: int, width: int | None = None) -> float:
        """The loss of a classifier that tells nothing apart: ln C, whatever n is."""
        return math.log(self.classifier.out_features)

    def _check(self, z: Tensor, labels: Tensor) -> None:
        width, classes = self.classifier.in_features, self.classifier.out_features
        if z.shape[1] != width:
            raise UsageError(
                f"This classifier takes z of width {width}, but got {z.shape[1]}; build it with in_dim as "
                "wide as the head's output."
            )
        if labels.device.type == "cpu" and ((labels < UNLABELLED) | (labels >= classes)).any():
            raise UsageError(
                f"Labels must lie in -1 (unlabelled) to {classes - 1}, but go from {int(labels.min())} to "
                f"{int(labels.max())}; build the loss with num_classes as many as there are."
            )
