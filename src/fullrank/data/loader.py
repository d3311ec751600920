"""Batches of one image set, in an order that a resumed run repeats."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypedDict

import torch
from torch import Tensor

from fullrank.batch import Batch
from fullrank.data.image_set import ImageSet
from fullrank.data.prefetch import ahead
from fullrank.data.selection import generator
from fullrank.data.streaming import StreamedImages
from fullrank.errors import UsageError, count_of
from fullrank.processes import process_count, process_rank


class LoaderState(TypedDict):
    """The position of a loader: the epoch, the number of batches handed out, the checksum of the images."""

    epoch: int
    position: int
    checksum: int


class BatchLoader:
    """Batches of an image set, in each epoch in an order that depends only on (seed, epoch).

    Images are (batch_size, C, H, W) uint8. Each image occurs at most once an epoch, and the last
    N mod batch_size images of the order are left out. Each `iter` begins a new epoch; the first is 0. After
    `load_state_dict` the next `iter` gives exactly the batches that remain.

    Streamed images come as canvases with the `sizes` of their originals, and two batches are decoded ahead.
    Composites come with their `layers`. With several processes, each gets its share of every batch, in the
    order of the processes. After `to`, images in memory are on that device, and batches are made there.

    Args:
        image_set: The images.
        batch_size: Number of images in a batch.
        seed: Seed of the order.
        label: The name of the labels in `Batch.labels`.
        cues: The names of further labels, for `Batch.cues`.

    Raises:
        UsageError: If the batch size is below 2 or above the number of images, or a label is unknown.

    >>> from fullrank.data import source
    >>> loader = BatchLoader(source("digits").load("train"), batch_size=256, seed=0)
    >>> batch = next(iter(loader))
    >>> len(loader), batch.images.shape, loader.state_dict()
    (5, torch.Size([256, 1, 8, 8]), {'epoch': 0, 'position': 1, 'checksum': 2500717534})
    """

    def __init__(
        self,
        image_set: ImageSet,
        batch_size: int,
        seed: int,
        *,
        label: str = "label",
        cues: Sequence[str] = (),
    ):
        if batch_size < 2:
            reason = "one image has no negatives"
            raise UsageError(f"The batch size must be 2 or more, but got {batch_size}: {reason}; enlarge it.")
        if batch_size > len(image_set):
            images = count_of(len(image_set), "image")
            problem = f"The batch size {batch_size} is more than the {images} of {image_set}"
            raise UsageError(f"{problem}; choose --batch-size {len(image_set)} or less.")
        for name in (label, *cues):
            image_set.check_label(name)
        generator(seed)
        self.batch_size, self.seed = batch_size, seed
        self._labels = torch.tensor(image_set.labels[label])
        self._cues = {name: torch.tensor(image_set.labels[name]) for name in cues}
        self._image_set = image_set
        self._whole = None  # all images as one batch, if they are in memory
        if not isinstance(image_set.images, StreamedImages):
            layers = image_set.read_layers(slice(None))
            rows = torch.arange(len(image_set))
            self._whole = Batch(image_set.tensor(), self._labels, rows, layers, cues=self._cues or None)
        self._checksum = image_set.checksum()
        self._epoch, self._position = 0, 0
        self._starts_here = True  # the next `iter` begins at (epoch, position), not at the next epoch

    def __len__(self) -> int:
        return len(self._labels) // self.batch_size

    @property
    def nbytes(self) -> int:
        """Bytes of the images and layers that are held in memory."""
        if self._whole is None:
            return 0
        return sum(held.nbytes for held in (self._whole.images, *(self._whole.layers or {}).values()))

    def to(self, device: torch.device | str) -> "BatchLoader":
        """Move images in memory to `device`; streamed images are still decoded on the CPU."""
        if self._whole is not None:
            self._whole = self._whole.to(device)
        return self

    def __iter__(self) -> Iterator[Batch]:
        if not self._starts_here or self._position == len(self):
            self._epoch, self._position = self._epoch + 1, 0
        self._starts_here = False
        order = torch.from_numpy(generator(self.seed, self._epoch).permutation(len(self._labels)))
        if self._whole is not None:
            order = order.to(self._whole.images.device)
        batches = torch.split(order, self.batch_size)[self._position : len(self)]
        indices = [batch.chunk(process_count())[process_rank()] for batch in batches]
        whole = self._whole
        for batch in ahead(self._decoded, indices) if whole is None else map(whole.take, indices):
            self._position += 1
            yield batch

    def _decoded(self, index: Tensor) -> Batch:
        cues = {name: labels[index] for name, labels in self._cues.items()}
        return replace(self._image_set.batch(index.numpy()), labels=self._labels[index], cues=cues or None)

    def state_dict(self) -> LoaderState:
        """The position of the loader, counted in batches handed out."""
        return {"epoch": self._epoch, "position": self._position, "checksum": self._checksum}

    def load_state_dict(self, state: LoaderState) -> None:
        """Continue from a saved state of the same images, batch size and seed.

        Raises:
            UsageError: If the state belongs to other images or another batch size.
        """
        if state["checksum"] != self._checksum:
            remedy = "resume with the same images, or start again in another folder"
            raise UsageError(f"The training images differ from those of the saved state; {remedy}.")
        if not 0 <= state["position"] <= len(self):
            problem = f"The saved position {state['position']} is outside 0 to {len(self)} batches"
            raise UsageError(f"{problem}; resume with the data and the batch size of the first run.")
        self._epoch, self._position = state["epoch"], state["position"]
        self._starts_here = True
