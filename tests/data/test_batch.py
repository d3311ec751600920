import torch

from fullrank.batch import Batch


def test_everything_in_a_batch_moves_together():
    images, numbers = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.arange(2)
    batch = Batch(images, numbers, numbers, {"mask": images}, torch.ones(2, 2, dtype=torch.int64))
    moved = batch.to("meta")
    tensors = [moved.images, moved.labels, moved.index, moved.layers["mask"]]
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert moved.sizes.device.type == "cpu" and len(moved) == 2  # views are drawn there


def test_what_a_batch_lacks_stays_lacking():
    moved = Batch(torch.zeros(1, 1, 2, 2), torch.zeros(1), torch.zeros(1)).to("meta")
    assert moved.layers is None and moved.sizes is None
