"""Which tensors a place needs. The oracle changes one tensor after the other and looks at the output."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fullrank.targets.reader import needed_tensors, private_copy, separate


class Parallel(nn.Module):
    """Two branches that are added, one that is computed and dropped, and one that runs after the output."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1, bias=False)
        self.dropped, self.later, self.never = nn.Conv2d(4, 4, 1), nn.Linear(4, 2), nn.Linear(1, 1)

    def forward(self, x):
        x = F.relu_(self.bn(self.stem(x)))
        self.dropped(x).mul_(2)
        kept = self.left(x)
        kept += self.right(x)
        features = kept.mean((2, 3))
        self.later(features)
        return features


class InPlace(nn.Module):
    """The output is written into memory by operations on other views of it."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(9, 2), nn.Linear(9, 2), nn.Linear(9, 2)
        self.register_buffer("scale", torch.tensor([1.0, 2.0]))

    def forward(self, x):
        flat = x.flatten(1)
        features = flat.new_empty(len(x), 4)
        features[:, :2] = self.first(flat)
        features[:, 2:].copy_(self.second(flat)).mul_(self.scale)
        self.third(flat).add_(features[:, :2])
        return features


class Deciding(nn.Module):
    """Which layer is used depends on a number that another one computes."""

    def __init__(self):
        super().__init__()
        self.gate, self.one, self.other = nn.Linear(9, 1), nn.Linear(9, 2), nn.Linear(9, 2)

    def forward(self, x):
        flat = x.flatten(1)
        return self.one(flat) if self.gate(flat).sum().item() > -1e9 else self.other(flat)


class Tied(nn.Module):
    """One matrix under two names, and an attention whose inner projection is one tensor for three."""

    def __init__(self):
        super().__init__()
        self.embed, self.attention = nn.Linear(3, 4), nn.MultiheadAttention(4, 2, batch_first=True)
        self.again, self.unused = nn.Linear(3, 4, bias=False), nn.MultiheadAttention(4, 2)
        self.again.weight = self.embed.weight

    def forward(self, x):
        tokens = self.embed(x[:, 0])
        return self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1)


@torch.no_grad()
def influential(model: nn.Module, images: torch.Tensor) -> set[str]:
    """The tensors whose change changes the output."""
    before, names = model(images), set()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            kept = tensor.clone()
            tensor.add_(torch.rand(tensor.shape) + 0.5)
            if not torch.equal(model(images), before):
                names.add(name)
            tensor.copy_(kept)
    return names


@pytest.mark.parametrize("kind", [Parallel, InPlace, Tied])
def test_needed_tensors_are_those_that_change_the_output(kind):
    model, images = private_copy(kind()), torch.rand(2, 1, 3, 3)
    needed = needed_tensors(model, images)
    assert needed == influential(model, images)
    assert needed and needed != set(model.state_dict())


def test_needed_tensors_hold_what_decides_between_branches():
    model = private_copy(Deciding())
    assert needed_tensors(model, torch.rand(1, 1, 3, 3)) == {
        *("gate.weight", "gate.bias", "one.weight", "one.bias")
    }


def test_separate_gives_each_tensor_a_memory_of_its_own():
    flat = torch.rand(20)
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)).train()
    net[0].weight.data, net[1].weight.data = flat[:9].view(3, 3), flat[9:18].view(3, 3)
    first = nn.ModuleList([net[0], net[1]])
    first.forward = lambda x: first[0](x)
    assert needed_tensors(first, torch.rand(1, 3)) == {"0.weight", "1.weight"}
    assert needed_tensors(separate(first), torch.rand(1, 3)) == {"0.weight"}


def test_private_copy_leaves_the_module_alone():
    net = nn.Sequential(nn.Linear(3, 3)).train()
    apart = private_copy(net)
    apart[0].weight.data.zero_()
    assert net.training and not apart.training and net[0].weight.abs().min() > 0
