"""Batches of one image set, in an order that a resumed run repeats."""

from collections.abc import Iterator
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
    """Where a loader stands: the epoch, how many of its batches were handed out, and of which images."""

    epoch: int
    position: int
    checksum: int


class BatchLoader:
    """Whole batches of an image set, each epoch in an order that (seed, epoch) alone decides.

    Images are (batch_size, C, H, W) uint8; each is seen at most once an epoch, and the N mod batch_size last
    of the order are left out. Each `iter` begins a new epoch, the first 0; after `load_state_dict` it
    goes on with exactly the batches still to come. Streamed images come as canvases, with the `sizes` of
    their originals, and two batches are decoded ahead; composites come with their `layers`. Of many processes
    each gets its share of every batch, in the order of the processes. After `to`, batches of images in memory
    are made on that device, and nothing of them is sent there.

    Raises UsageError for a batch of fewer than 2 or of more images than there are, or an unknown label.

    >>> from fullrank.data import source
    >>> loader = BatchLoader(source("digits").load("train"), batch_size=256, seed=0)
    >>> batch = next(iter(loader))
    >>> len(loader), batch.images.shape, loader.state_dict()
    (5, torch.Size([256, 1, 8, 8]), {'epoch': 0, 'position': 1, 'checksum': 2500717534})
    """

    def __init__(self, image_set: ImageSet, batch_size: int, seed: int, *, label: str = "label"):
        if batch_size < 2:
            reason = "one image has no negatives"
            raise UsageError(f"The batch size must be 2 or more, but got {batch_size}: {reason}; enlarge it.")
        if batch_size > len(image_set):
            images = count_of(len(image_set), "image")
            problem = f"The batch size {batch_size} is more than the {images} of {image_set}"
            raise UsageError(f"{problem}; choose --batch-size {len(image_set)} or less.")
        image_set.check_label(label)
        generator(seed)
        self.batch_size, self.seed = batch_size, seed
        self._labels = torch.tensor(image_set.labels[label])
        self._image_set = image_set
        self._whole = None  # all images as one batch, where they are in memory
        if not isinstance(image_set.images, StreamedImages):
            layers = image_set.read_layers(slice(None))
            self._whole = Batch(image_set.tensor(), self._labels, torch.arange(len(image_set)), layers)
        self._checksum = image_set.checksum()
        self._epoch, self._position = 0, 0
        self._starts_here = True  # the next `iter` begins at (epoch, position), not at the epoch after it

    def __len__(self) -> int:
        return len(self._labels) // self.batch_size

    @property
    def nbytes(self) -> int:
        """Bytes of the images and layers that are held in memory."""
        if self._whole is None:
            return 0
        return sum(held.nbytes for held in (self._whole.images, *(self._whole.layers or {}).values()))

    def to(self, device: torch.device | str) -> "BatchLoader":
        """Hold images that are in memory on `device`; streamed ones stay where they are decoded."""
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
        return replace(self._image_set.batch(index.numpy()), labels=self._labels[index])

    def state_dict(self) -> LoaderState:
        """Where the loader stands, counted in batches handed out."""
        return {"epoch": self._epoch, "position": self._position, "checksum": self._checksum}

    def load_state_dict(self, state: LoaderState) -> None:
        """Go on from a state of the same images, batch size and seed; of others it raises UsageError."""
        if state["checksum"] != self._checksum:
            remedy = "resume with those, or start again in another folder"
            raise UsageError(f"The training images are not those of the saved state; {remedy}.")
        if not 0 <= state["position"] <= len(self):
            problem = f"The saved position {state['position']} is outside 0 to {len(self)}, an epoch"
            raise UsageError(f"{problem}; resume with the data and the batch size of the first run.")
        self._epoch, self._position = state["epoch"], state["position"]
        self._starts_here = True
