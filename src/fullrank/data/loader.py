"""Batches of one image set, in an order that a resumed run repeats."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypedDict

import torch
from torch import Tensor

from fullrank.batch import Batch
from fullrank.data.ahead import ahead
from fullrank.data.image_set import ImageSet
from fullrank.data.selection import generator
from fullrank.data.streamed import StreamedImages
from fullrank.errors import UsageError
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
    each gets its share of every batch, in the order of the processes.

    Raises UsageError for a batch of fewer than 2 or of more images than there are, or an unknown label.

    >>> from fullrank.data import source
    >>> loader = BatchLoader(source("digits").load("train"), batch_size=256, seed=0)
    >>> batch = next(iter(loader))
    >>> len(loader), batch.images.shape, loader.state_dict()
    (5, torch.Size([256, 1, 8, 8]), {'epoch': 0, 'position': 1, 'checksum': 2500717534})
    """

    def __init__(self, image_set: ImageSet, batch_size: int, seed: int, *, label: str = "label"):
        if batch_size < 2:
            raise UsageError(
                f"The batch size must be 2 or more, but got {batch_size}: a batch of one has no negatives; "
                "choose a larger one."
            )
        if batch_size > len(image_set):
            raise UsageError(
                f"The batch size {batch_size} is more than the {len(image_set)} images of {image_set}; "
                f"choose {len(image_set)} or less."
            )
        image_set.check_label(label)
        generator(seed)
        self.batch_size, self.seed = batch_size, seed
        self._read, self._read_layers = _reader(image_set), image_set.read_layers
        self._labels = torch.tensor(image_set.labels[label])
        self._checksum = image_set.checksum()
        self._epoch, self._position = 0, 0
        self._starts_here = True  # the next `iter` begins at (epoch, position), not at the epoch after it

    def __len__(self) -> int:
        return len(self._labels) // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        if not self._starts_here or self._position == len(self):
            self._epoch, self._position = self._epoch + 1, 0
        self._starts_here = False
        order = torch.from_numpy(generator(self.seed, self._epoch).permutation(len(self._labels)))
        batches = torch.split(order, self.batch_size)[self._position : len(self)]
        indices = [batch.chunk(process_count())[process_rank()] for batch in batches]
        for index, images, sizes in self._read(indices):
            self._position += 1
            yield Batch(images, self._labels[index], index, self._read_layers(index.numpy()), sizes)

    def state_dict(self) -> LoaderState:
        """Where the loader stands, counted in batches handed out."""
        return {"epoch": self._epoch, "position": self._position, "checksum": self._checksum}

    def load_state_dict(self, state: LoaderState) -> None:
        """Go on from a state of the same images, batch size and seed; of others it raises UsageError."""
        if state["checksum"] != self._checksum:
            raise UsageError(
                "The training images are not those of the saved state, so the batches still to come are not "
                "known; resume with the images of the first run, or start again in another folder."
            )
        if not 0 <= state["position"] <= len(self):
            raise UsageError(
                f"The saved position {state['position']} is outside 0 to {len(self)}, the batches of an "
                "epoch; resume with the data and the batch size of the first run."
            )
        self._epoch, self._position = state["epoch"], state["position"]
        self._starts_here = True


Read = Iterator[tuple[Tensor, Tensor, Tensor | None]]
"""Rows (n,), and what an image set reads there: images and sizes."""


def _reader(image_set: ImageSet) -> Callable[[Sequence[Tensor]], Read]:
    if isinstance(image_set.images, StreamedImages):
        return lambda indices: ahead(lambda index: (index, *image_set.read(index.numpy())), indices)
    images = image_set.tensor()
    return lambda indices: ((index, images[index], None) for index in indices)
