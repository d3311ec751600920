"""The loop of the study: Forward-Forward, and its twins that learn by back-propagation."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fullrank.studies.forward_forward.layers import Goodness, LayerNet, goodness, layer_loss, threshold
from fullrank.studies.forward_forward.pretexts import (
    Pretext,
    neutral_label,
    padded,
    right_labels,
    write_label,
    wrong_labels,
)
from fullrank.studies.forward_forward.settings import SOFTMAX, UNTRAINED

# Rows of one forward pass where nothing is learned.
_ROWS = 2**14


@dataclass(frozen=True)
class Method:
    """How a net learns: by which goodness, at which layers, and how far a gradient reaches.

    Without a goodness it learns by softmax and cross-entropy on its output layer. `layers` are those with a
    loss. `separate`: the gradient of a loss ends at the input of its own layer, which is Forward-Forward.
    """

    name: str
    goodness: Goodness | None = None
    layers: Literal["every", "last", "none"] = "every"
    separate: bool = False

    @property
    def losses(self) -> slice:
        """The layers that have a loss."""
        return slice(-1, None) if self.layers == "last" else slice(None)

    def judges(self, depth: int) -> slice:
        """The layers whose mean goodness classifies: all but the first, or the one that learns."""
        return slice(-1, None) if self.layers == "last" or depth == 1 else slice(1, None)


METHODS = {
    method.name: method
    for method in (
        Method("FF, norm", "norm", separate=True),
        Method("FF, squares", "squares", separate=True),
        Method("every layer", "norm"),
        Method("last layer", "norm", layers="last"),
        Method(SOFTMAX),
        Method(UNTRAINED, "norm", layers="none"),
    )
}


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a net learns: Adam at a fixed rate; `level` gives the thresholds.

    In an epoch each image is drawn `draws` times, each time under another random transformation.
    """

    epochs: int
    draws: int
    batch_size: int
    learning_rate: float
    level: float


@dataclass(frozen=True)
class PretextImages:
    """Images under every transformation of a pretext task, and the labels that are right for each.

    Attributes:
        views: The images under every transformation, padded to hold the label pixels: (N, count, C, H, W),
            uint8. Transformation 0 is the image itself.
        right: Which labels are right (N, count, count), as in `right_labels`.
    """

    views: Tensor
    right: Tensor

    @classmethod
    def of(cls, images: Tensor, pretext: Pretext, pad: int) -> "PretextImages":
        """Images (N, C, H, W), uint8, under every transformation, with `pad` black pixels on every side."""
        views = padded(pretext.all_of(images).flatten(0, 1), pad)
        shape = len(images), pretext.count, *views.shape[1:]
        return cls(views.view(shape), right_labels(images, pretext))

    @property
    def count(self) -> int:
        """The number of labels."""
        return self.views.shape[1]

    @property
    def inputs(self) -> int:
        """The number of inputs of a net: channels times padded height times padded width."""
        return self.views[0, 0].numel()

    def first(self, count: int | None) -> "PretextImages":
        """The first images; all where `count` is None."""
        return PretextImages(self.views[:count], self.right[:count])

    def drawn(self, rows: Tensor, labels: Tensor) -> Tensor:
        """Some images, each under the transformation of its label: (n, C, H, W), 0 to 1."""
        return self.views[rows, labels].float() / 255

    def plain(self) -> Tensor:
        """The images without a transformation, with neutral label pixels, as rows (N, D)."""
        return neutral_label(self.views[:, 0].float() / 255, self.count).flatten(1)


@dataclass(frozen=True)
class PretextBatch:
    """Rows of a step: with a right label, with a wrong one, with a neutral one; and the right labels."""

    positive: Tensor
    negative: Tensor
    neutral: Tensor
    labels: Tensor

    @classmethod
    def draw(cls, images: PretextImages, rows: Tensor, generator: torch.Generator) -> "PretextBatch":
        """A random transformation for each image; images for which no label is wrong are left out."""
        count = images.count
        labels = torch.randint(count, (len(rows),), generator=generator)
        wrong = wrong_labels(images.right[rows, labels], generator)
        usable = wrong >= 0
        views, labels = images.drawn(rows[usable], labels[usable]), labels[usable]
        return cls(
            write_label(views, labels, count).flatten(1),
            write_label(views, wrong[usable], count).flatten(1),
            neutral_label(views, count).flatten(1),
            labels,
        )


def loss_of(net: LayerNet, method: Method, batch: PretextBatch, level: float) -> Tensor:
    """The loss of a batch, a scalar: the sum over the layers that have one, or the cross-entropy.

    Args:
        net: The net.
        method: How it learns.
        batch: The rows.
        level: The root mean square of activations at the threshold.
    """
    if method.goodness is None:
        return cross_entropy(net.logits(batch.neutral), batch.labels)
    rows = torch.cat([batch.positive, batch.negative])
    activations = net.separate(rows) if method.separate else net(rows)
    theta = threshold(method.goodness, activations[-1].shape[1], level)
    halves = [goodness(each, method.goodness).chunk(2) for each in activations[method.losses]]
    return torch.stack([layer_loss(positive, negative, theta) for positive, negative in halves]).sum()


def learn(
    net: LayerNet, method: Method, images: PretextImages, schedule: Schedule, generator: torch.Generator
) -> Iterator[float]:
    """Train a net, epoch by epoch; each yields its mean loss. The untrained net yields nothing.

    Args:
        net: The net, which is changed.
        method: How it learns.
        images: The training images.
        schedule: Epochs, batch size, rate and thresholds.
        generator: The generator of order, transformations and wrong labels.
    """
    if method.layers == "none":
        return
    optimizer = torch.optim.Adam(net.parameters(), lr=schedule.learning_rate, fused=True)
    for _ in range(schedule.epochs):
        order = torch.randperm(schedule.draws * len(images.views), generator=generator) % len(images.views)
        losses = []
        for rows in torch.split(order, schedule.batch_size):
            batch = PretextBatch.draw(images, rows, generator)
            if not len(batch.labels):
                continue
            loss = loss_of(net, method, batch, schedule.level)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
        yield sum(losses) / max(1, len(losses))


@torch.no_grad()
def predicted(net: LayerNet, method: Method, views: Tensor, count: int) -> Tensor:
    """The pretext label of transformed images (N, C, H, W): that of the highest mean goodness, or logit.

    Args:
        net: The net.
        method: How it learned.
        views: The transformed images, 0 to 1, padded.
        count: The number of labels.

    Returns:
        The labels (N,), int64.
    """
    if method.goodness is None:
        return net.logits(neutral_label(views, count).flatten(1)).argmax(1)
    by_label = []
    for label in range(count):
        labels = torch.full((len(views),), label)
        activations = net(write_label(views, labels, count).flatten(1))[method.judges(len(net.hidden))]
        by_label.append(torch.stack([goodness(each, method.goodness) for each in activations]).mean(0))
    return torch.stack(by_label, 1).argmax(1)


def pretext_accuracy(net: LayerNet, method: Method, images: PretextImages) -> float:
    """The share of correct pretext labels, 0 to 1, over every image under every transformation.

    A label counts as correct if its transformation gives the same image.
    """
    count, correct, total = images.count, 0, images.right[:, :, 0].numel()
    rows = torch.arange(len(images.views)).repeat_interleave(count)
    labels = torch.arange(count).repeat(len(images.views))
    for row, label in zip(torch.split(rows, _ROWS), torch.split(labels, _ROWS), strict=True):
        guess = predicted(net, method, images.drawn(row, label), count)
        correct += int(images.right[row, label, guess].sum())
    return correct / total


@torch.no_grad()
def features(net: LayerNet, images: PretextImages) -> list[Tensor]:
    """The activations (N, width) of each layer for untransformed images with neutral label pixels."""
    activations: list[Tensor] = net(images.plain())
    return activations
