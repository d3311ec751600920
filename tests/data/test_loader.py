import threading
import time
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from refusals import refuses

from fullrank.batch import Batch
from fullrank.data import BatchLoader, ImageSet, StreamedImages, source
from fullrank.errors import DataError, UsageError


def make(n: int = 23, batch_size: int = 4, seed: int = 0, **options) -> BatchLoader:
    images = np.arange(n, dtype=np.uint8).repeat(12).reshape(n, 2, 2, 3)
    labels = {"label": np.arange(n) % 5 - 1, "coarse": np.arange(n) % 2}
    names = {"label": tuple("abcd"), "coarse": ("x", "y")}
    return BatchLoader(ImageSet(images, labels, names), batch_size, seed, **options)


def orders(loader: BatchLoader, epochs: int) -> list[list[int]]:
    return [batch.index.tolist() for _ in range(epochs) for batch in loader]


def test_a_batch_holds_what_belongs_together():
    for batch in make():
        assert isinstance(batch, Batch) and len(batch) == 4
        assert batch.images.dtype == torch.uint8 and batch.images.shape == (4, 3, 2, 2)
        assert torch.equal(batch.images[:, 0, 0, 0].long(), batch.index)
        assert torch.equal(batch.labels, batch.index % 5 - 1)
        assert batch.labels.dtype == batch.index.dtype == torch.int64
    assert torch.equal((batch := next(iter(make(label="coarse")))).labels, batch.index % 2)


@given(n=st.integers(2, 40), batch_size=st.integers(2, 40), seed=st.integers(0, 3))
def test_an_epoch_sees_each_image_at_most_once_in_whole_batches(n, batch_size, seed):
    batch_size = min(n, batch_size)
    loader = make(n, batch_size, seed)
    batches = orders(loader, 1)
    seen = [row for batch in batches for row in batch]
    assert len(batches) == len(loader) == n // batch_size
    assert len(seen) == len(set(seen)) == len(loader) * batch_size and set(seen) <= set(range(n))


def test_order_depends_on_seed_and_epoch_alone():
    assert orders(make(seed=1), 3) == orders(make(seed=1), 3)
    assert orders(make(seed=1), 1) != orders(make(seed=2), 1)
    loader = make()
    epochs = [orders(loader, 1) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


@settings(deadline=None)
@given(
    n=st.integers(4, 30), batch_size=st.integers(2, 4), handed_out=st.integers(0, 40), seed=st.integers(0, 2)
)
def test_a_state_goes_on_with_exactly_the_batches_still_to_come(n, batch_size, handed_out, seed):
    unbroken = make(n, batch_size, seed)
    epochs = handed_out // len(unbroken) + 3
    whole = orders(unbroken, epochs)

    broken = make(n, batch_size, seed)
    first: list[list[int]] = []
    while len(first) < handed_out:
        first += [batch.index.tolist() for batch in islice(broken, handed_out - len(first))]
    state = broken.state_dict()
    assert state["epoch"] * len(broken) + state["position"] == handed_out

    resumed = make(n, batch_size, seed)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    rest = orders(resumed, 2)
    assert first + rest == whole[: len(first) + len(rest)]
    assert len(rest) > len(resumed)


def test_a_pass_left_early_is_over_unless_its_state_is_loaded():
    whole = orders(make(), 2)
    loader = make()
    next(iter(loader))
    assert orders(loader, 1) == whole[5:]
    loader.load_state_dict(make().state_dict() | {"epoch": 0, "position": 3})
    assert orders(loader, 1) == whole[3:5]


def test_a_state_of_other_images_is_refused():
    state = make(n=20).state_dict()
    with refuses(UsageError, "saved state"):
        make(n=21).load_state_dict(state)


def test_lightning_takes_it_for_stateful():
    from lightning.fabric.utilities.types import _Stateful

    assert isinstance(make(), _Stateful)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 1}, ["1", "2 or more", "no negatives"]),
        ({"batch_size": 24}, ["24", "23 images", "images (train)", "23 or less"]),
        ({"seed": -1}, ["-1", "0 or more"]),
    ],
)
def test_what_cannot_be_loaded_is_refused(changes, words, fails):
    with fails(UsageError, *words):
        make(**changes)


def test_an_unknown_label_names_the_known():
    with refuses(UsageError, "'coarse'", "label, coarse"):
        make(label="coarsely")


@pytest.mark.parametrize("position", [-1, 6])
def test_a_state_of_another_set_is_refused(position, fails):
    with fails(UsageError, str(position), "0 to 5"):
        make().load_state_dict(make().state_dict() | {"position": position})


def streamed(n: int = 23, broken: int | None = None) -> ImageSet:
    """As `make` has them, but decoded on demand; the image `broken` cannot be."""

    def read(row: int) -> Image.Image:
        if row == broken:
            raise OSError("broken data stream")
        return Image.new("RGB", (4 + row, 3), (row, row, row))

    images = StreamedImages(read, [f"{row}.png" for row in range(n)], canvas=2, image_size=2)
    return ImageSet(images, {"label": np.arange(n) % 5 - 1}, {"label": tuple("abcd")})


def test_streamed_batches_are_those_in_memory_with_their_sizes():
    for ours, plain in zip(BatchLoader(streamed(), 4, 0), make(), strict=True):
        assert torch.equal(ours.index, plain.index) and torch.equal(ours.labels, plain.labels)
        assert torch.equal(ours.images, plain.images) and ours.images.dtype == torch.uint8
        assert ours.sizes.tolist() == [[3, 4 + row] for row in plain.index.tolist()]
        assert plain.sizes is None


@pytest.mark.parametrize("handed_out", [0, 1, 3, 5, 7])
def test_a_streamed_state_counts_what_was_handed_out_not_what_was_decoded(handed_out):
    whole = orders(BatchLoader(streamed(), 4, 0), 3)
    broken = BatchLoader(streamed(), 4, 0)
    first: list[list[int]] = []
    while len(first) < handed_out:
        first += [batch.index.tolist() for batch in islice(broken, handed_out - len(first))]
    resumed = BatchLoader(streamed(), 4, 0)
    resumed.load_state_dict(broken.state_dict())
    rest = orders(resumed, 1)
    assert rest and first + rest == whole[: len(first) + len(rest)]


def test_an_image_that_cannot_be_decoded_reaches_the_consumer(fails):
    whole = orders(BatchLoader(streamed(), 4, 0), 1)
    loader = BatchLoader(streamed(broken=whole[3][1]), 4, 0)
    batches = iter(loader)
    assert [next(batches).index.tolist() for _ in range(3)] == whole[:3]
    with fails(DataError, f"{whole[3][1]}.png", "(broken"):
        next(batches)
    assert loader.state_dict()["position"] == 3


def test_a_streamed_pass_left_early_leaves_no_thread():
    for _ in BatchLoader(streamed(), 4, 0):
        break
    for _ in range(1000):
        if not any(thread.name.startswith("fullrank-ahead") for thread in threading.enumerate()):
            return
        time.sleep(0.01)
    raise AssertionError("a thread goes on decoding for nobody")


def test_a_streamed_state_of_other_files_is_refused():
    state = BatchLoader(streamed(20), 4, 0).state_dict()
    with refuses(UsageError, "saved state"):
        BatchLoader(streamed(21), 4, 0).load_state_dict(state)


def test_on_a_device_every_part_of_a_batch_is_made_there():
    # Tensors on "meta" hold nothing: a batch made on the CPU and sent there would have to be sent.
    images = source("composite:two-cues").load("train").limited(50, seed=0)
    loader = BatchLoader(images, 16, seed=0)
    assert loader.nbytes == sum(part.nbytes for part in (images.images, *images.layers.values()))
    here, there = next(iter(loader)), next(iter(loader.to("meta")))
    for part in ("images", "labels", "index"):
        assert getattr(there, part).is_meta and getattr(there, part).shape == getattr(here, part).shape
    assert there.layers.keys() == here.layers.keys() and all(each.is_meta for each in there.layers.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_hands_out_the_batches_of_the_cpu():
    images = source("composite:two-cues").load("train").limited(50, seed=0)
    on_cpu, on_gpu = (BatchLoader(images, 16, seed=0).to(device) for device in ("cpu", "cuda"))
    for here, there in zip(on_cpu, on_gpu, strict=True):
        assert there.images.is_cuda and torch.equal(there.images.cpu(), here.images)
        assert torch.equal(there.labels.cpu(), here.labels) and torch.equal(there.index.cpu(), here.index)
