"""Chunks of the encoder's forward: the same as without checkpoints, bit for bit, in less memory."""

import copy

import pytest
import torch
from refusals import refuses
from torch import nn
from torch.utils.weak import TensorWeakRef

from fullrank import encoder
from fullrank.data import BatchLoader, source
from fullrank.errors import UsageError
from fullrank.runs.build import build, check_chunks, check_plan
from fullrank.runs.recipe import Recipe
from fullrank.training.chunks import encode_in_chunks
from fullrank.training.module import JointEmbedding


class Net(nn.Module):
    """Batch norm, dropout, and a state of its own that the output depends on."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))
        self.last = nn.Linear(8, 4)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        inner = self.inner(x)
        if self.training:
            self.seen += 1
        return {"h": self.last(inner) * (1 + self.seen), "inner": inner}


def plain(net, images, size):
    parts = [net(part) for part in images.split(size)]
    return {place: torch.cat([part[place] for part in parts]) for place in parts[0]}


def in_chunks(net, images, size):
    return encode_in_chunks(net, images, size, net)


def outcome(encode, net, images, size):
    """The features, the gradients and the state after one step, and the next random number."""
    net = copy.deepcopy(net)
    torch.manual_seed(1)
    features = encode(net, images, size)
    # Every row has to do with every other.
    loss = sum((rows.T @ rows).logsumexp((0, 1)) for rows in features.values())
    loss.backward()
    gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    return features | gradients | dict(net.named_buffers()) | {"next": torch.rand(3)}


@pytest.mark.parametrize("size", [4, 5, 20])
def test_chunks_are_those_without_checkpoints_bit_for_bit(size):
    torch.manual_seed(0)
    net, images = Net(), torch.randn(12, 6)
    ours, theirs = (outcome(encode, net, images, size) for encode in (in_chunks, plain))
    assert ours.keys() == theirs.keys() and len(ours) == 13
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name
    assert ours["inner.1.num_batches_tracked"] == -(-12 // size)


def test_chunks_are_those_of_a_tiny_resnet_with_dropped_paths_bit_for_bit():
    torch.manual_seed(0)
    net = encoder("resnet10t,drop_path=0.3", image_size=32, in_chans=1)

    def encode(encode_all):
        def features(net, images, size):
            return encode_all(lambda part: net.features(part, ("h", "layer1")), images, size, net)

        return features

    def split(encode, images, size, net):
        return plain(encode, images, size)

    images = torch.rand(10, 1, 32, 32)
    ours, theirs = (outcome(encode(each), net, images, 4) for each in (encode_in_chunks, split))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


@pytest.mark.parametrize("size", [3, 8])
def test_without_batch_norms_chunks_are_the_whole_batch(size):
    torch.manual_seed(0)
    net = encoder("tiny-vit", image_size=8, in_chans=1).double()
    images = torch.rand(20, 1, 8, 8, dtype=torch.float64)

    def step(size):
        net.zero_grad()
        h = encode_in_chunks(lambda part: net.features(part, ("h",)), images, size, net)["h"]
        (h @ h.T).logsumexp(1).sum().backward()
        return [h, *(p.grad.clone() for p in net.parameters() if p.grad is not None)]

    torch.testing.assert_close(step(size), step(20), rtol=1e-9, atol=1e-9)


def test_two_backward_passes_repeat_the_same_pass():
    torch.manual_seed(0)
    net, images = Net(), torch.randn(12, 6)
    loss = encode_in_chunks(net, images, 4, net)["h"].square().sum()
    state = {name: value.clone() for name, value in net.named_buffers()}
    first, second = (torch.autograd.grad(loss, net.last.weight, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(state[name], value) for name, value in net.named_buffers())


class Counting(nn.Module):
    """A layer that counts how many of its activations live at once."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.live: list[TensorWeakRef] = []
        self.most = 0

    def forward(self, x):
        inner = x * self.weight
        self.live = [ref for ref in [*self.live, TensorWeakRef(inner)] if ref() is not None]
        self.most = max(self.most, len(self.live))
        return {"h": inner.square().sum(1, keepdim=True)}  # for which autograd keeps `inner`


def test_activations_of_one_chunk_live_at_a_time():
    many, net = Counting(), Counting()
    images = torch.rand(32, 5)
    plain(many, images, 2)["h"].square().sum().backward()
    in_chunks(net, images, 2)["h"].square().sum().backward()
    assert many.most == 16 and net.most <= 2


def test_batch_norms_are_refused_unless_statistics_of_a_chunk_are_wanted():
    net = encoder("tiny-resnet,width=4", image_size=8, in_chans=1)
    with refuses(UsageError, "engine.chunk_statistics=true", "batch norms"):
        check_chunks(net, 4, compiled=False, statistics=False)
    check_chunks(net, 4, compiled=False, statistics=True)
    check_chunks(net.eval(), 4, compiled=False, statistics=False)  # its statistics are fixed
    check_chunks(encoder("tiny-vit", image_size=8, in_chans=1), 4, compiled=False, statistics=False)
    with refuses(UsageError, "engine.chunk", "engine.compile"):
        check_chunks(net, 4, compiled=True, statistics=True)
    with refuses(UsageError, 0, 1):
        check_chunks(net, 0, compiled=False, statistics=True)


SMALL = {
    "encoder": "tiny-vit",
    "head": "mlp:8",
    "objective": "vicreg + sdssl:1,hidden=8",
    "batch_size": 12,
    "limit": 24,
}


def test_a_step_in_chunks_has_the_loss_and_gradient_of_a_whole_one():
    images = source("digits").load("train").limited(24, seed=0)
    batch = next(iter(BatchLoader(images, 12, 0)))

    def step(**keys):
        torch.manual_seed(0)
        recipe = Recipe.resolve("digits", SMALL | {f"engine.{key}": value for key, value in keys.items()})
        module = JointEmbedding.of(recipe, build(recipe, images)).train()
        loss = module.step(batch, 0, 0, progress=0.5).loss
        loss.backward()
        return loss, torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])

    (loss, gradient), (whole_loss, whole_gradient) = step(chunk=7), step()
    torch.testing.assert_close(loss, whole_loss, rtol=1e-6, atol=0)
    assert (gradient - whole_gradient).norm() < 1e-5 * whole_gradient.norm()


def test_a_plan_with_chunks_is_checked_before_training():
    images = source("digits").load("train").limited(24, seed=0)
    plan = Recipe.resolve("digits", SMALL | {"encoder": "tiny-resnet,width=4", "engine.chunk": 7})
    plan = Recipe.resolve(plan, {"objective": "vicreg"})
    with refuses(UsageError, "engine.chunk_statistics=true"):
        check_plan(plan, images)
    check_plan(Recipe.resolve(plan, {"engine.chunk_statistics": True}), images)
