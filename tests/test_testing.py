"""`fullrank.testing`: each broken clause is named, and honest parts of any kind pass."""

import numpy as np
import pytest
import torch
from refusals import refuses
from torch import nn

from fullrank import testing
from fullrank.data import ImageSet, Source
from fullrank.diagnosis import Evidence, PlaceEvidence
from fullrank.diagnosis.causes import CAUSES, Cause, Rule, Stage
from fullrank.errors import ContractError, UsageError
from fullrank.heads import Head


class Plain(nn.Module):
    """An honest head: a linear map."""

    def __init__(self, in_dim: int, out: int = 5):
        super().__init__()
        self.in_dim, self.out_dim = in_dim, out
        self.map = nn.Linear(in_dim, out)

    def forward(self, h):
        return self.map(h)


class SlicesTheBatch(Plain):
    def forward(self, h):
        return self.map(h)[:5] if self.training else self.map(h)


class SeesTheBatch(Plain):
    def forward(self, h):
        return self.map(h - h.mean(0))


class Draws(Plain):
    def forward(self, h):
        return self.map(h) + torch.randn(5)


class Forgets(Plain):
    def __init__(self, in_dim: int):
        super().__init__(in_dim)
        self.shift = torch.randn(5)  # neither a buffer nor a parameter

    def forward(self, h):
        return self.map(h) + self.shift


class Detaches(Plain):
    def forward(self, h):
        return self.map(h.detach())


class TakesAnyWidth(Plain):
    def forward(self, h):
        return self.map(h[:, : self.in_dim])


class Modest(Plain):
    """Of full rank, and says 1."""

    def imposed_rank(self, place):
        return 1


class Wordy(Plain):
    def imposed_rank(self, place):
        return "four"


class Listed(Plain):
    def __init__(self, in_dim: int):
        super().__init__(in_dim)
        self.layers = [nn.Linear(in_dim, 5)]


class Broken(Plain):
    def forward(self, h):
        return self.map(h) * float("nan")


class Boasts(Plain):
    def __init__(self, in_dim: int):
        super().__init__(in_dim, in_dim)
        self.map = nn.Sequential(nn.Linear(in_dim, 3), nn.Linear(3, in_dim))

    def imposed_rank(self, place):
        return None


class Mixes(Plain):
    scales_channels = True

    def __init__(self, in_dim: int):
        super().__init__(in_dim, in_dim)


class TooDeep(Plain):
    def depth_shares(self):
        return {"head.7": 2.0}


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (SlicesTheBatch, ["one row", "(5, 5)"]),
        (SeesTheBatch, ["own row", "eight"]),
        (Draws, ["own row", "eight"]),
        (Forgets, ["state_dict"]),
        (Detaches, ["gradient", "h"]),
        (TakesAnyWidth, ["another width", "(N, 13)"]),
        (Boasts, ["imposed_rank", "None", "3"]),
        (Modest, ["imposed_rank", "1", "5"]),
        (Wordy, ["imposed_rank", "four"]),
        (Listed, ["layers", "nn.ModuleList", "list"]),
        (Broken, ["finite", "NaN"]),
        (Mixes, ["scales_channels", "mixes"]),
        (TooDeep, ["depth_shares", "2.0", "head.7"]),
    ],
)
def test_the_broken_clause_of_a_head_is_named(part, words):
    with refuses(ContractError, part.__name__, "a head", *words):
        testing.check_head(part)


def test_an_honest_module_that_says_nothing_is_a_head():
    testing.check_head(Plain)


def test_a_head_that_derives_from_ours_and_says_nothing_passes():
    class Halved(Head):
        def __init__(self, in_dim: int):
            super().__init__(in_dim, in_dim // 2)

        def project(self, h):
            return h[:, : self.out_dim]

    testing.check_head(Halved)


class Pull(nn.Module):
    """An honest objective."""

    def forward(self, z_a, z_b):
        return (z_a - z_b).square().mean()


class Noisy(nn.Module):
    """An honest objective that draws, from torch's own generator or from the step's."""

    needs = ("generator",)

    def forward(self, z_a, z_b, generator=None):
        weights = torch.rand(z_a.shape[1], generator=generator).to(z_a)
        return ((z_a - z_b).square() * weights).mean()


class Weighted(nn.Module):
    """An honest objective with weights and labels."""

    needs = ("labels",)

    def __init__(self, in_dim: int, num_classes: int):
        super().__init__()
        self.out = nn.Linear(in_dim, num_classes)

    def forward(self, z_a, z_b, labels):
        logits = self.out(torch.cat([z_a, z_b]))
        return nn.functional.cross_entropy(logits, labels.repeat(2), ignore_index=-1)

    def chance(self, n, width):
        return float(np.log(self.out.out_features))


@pytest.mark.parametrize("part", [Pull, Noisy, Weighted])
def test_honest_objectives_pass_below_heads_of_other_widths(part):
    for head in ("none", "linear:7"):
        testing.check_objective(part, head=head)


class OneSided(Pull):
    def forward(self, z_a, z_b):
        return super().forward(z_a, z_b.detach())


class ByRows(Pull):
    def forward(self, z_a, z_b):
        return (z_a - z_b).square().mean(1)


class Restless(Pull):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, z_a, z_b):
        self.calls += 1
        return self.calls * super().forward(z_a, z_b)


class WrongSlope(Pull):
    def forward(self, z_a, z_b):
        return super().forward(z_a, z_b) + (z_a.detach() * z_b).sum()


class Greedy(Pull):
    needs = ("prompt",)


class NoNumber(Pull):
    def chance(self, n, width):
        return float("nan")


class NoName(Pull):
    def collapsed(self, n, width):
        return {"one point": float("inf")}


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (OneSided, ["both views", "z_b"]),
        (ByRows, ["scalar", "(8,)"]),
        (Restless, ["equal losses"]),
        (WrongSlope, ["finite differences"]),
        (NoNumber, ["chance", "nan"]),
        (NoName, ["collapsed", "inf"]),
    ],
)
def test_the_broken_clause_of_an_objective_is_named(part, words):
    with refuses(ContractError, part.__name__, "an objective", *words):
        testing.check_objective(part)


def test_an_objective_that_needs_what_no_step_has_is_refused():
    with refuses(UsageError, "Greedy", "prompt", "labels", "generator"):
        testing.check_objective(Greedy)


def images(split: str, count: int = 12, seed: int = 0) -> ImageSet:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 1), np.uint8)
    return ImageSet(pixels, {"label": np.arange(count) % 2}, {"label": ("a", "b")}, "mine", split)


class Blank(Source):
    """An honest source."""

    def read(self, split, image_size):
        return images(split)


class Fickle(Source):
    def __init__(self):
        super().__init__()
        self.seed = np.random.default_rng().integers(2**31)

    def read(self, split, image_size):
        return images(split, seed=self.seed)


class Misnamed(Source):
    def read(self, split, image_size):
        return images("train")


def test_an_honest_source_passes():
    testing.check_source(Blank)


@pytest.mark.parametrize(
    ("part", "words"), [(Fickle, ["same images", "differ"]), (Misnamed, ["load('test')", "'train'"])]
)
def test_the_broken_clause_of_a_source_is_named(part, words):
    with refuses(ContractError, part.__name__, "a source", *words):
        testing.check_source(part)


class Pixels(nn.Module):
    """An honest encoder that says nothing: pixels are features, scaled."""

    def __init__(self, in_chans: int, image_size: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(in_chans * image_size**2))

    def forward(self, x):
        return x.flatten(1) * self.scale


class WrongWidth(Pixels):
    feature_dim = 3


def test_an_honest_encoder_passes_and_a_wrong_one_is_refused():
    testing.check_encoder(Pixels)
    with refuses(UsageError, "WrongWidth", "feature_dim=3", "(2, 64)"):
        testing.check_encoder(WrongWidth)


@pytest.fixture
def far():
    """A cause of mine, registered for a test."""

    class Far(Cause):
        name, stage = "far", Stage.SHAPE
        rule = Rule("note", "largest value", "above", 100.0, "Come nearer.")

        @property
        def rules(self):
            return (self.rule,)

        def check(self, place, evidence):
            largest = float(place.features.abs().max())
            if not self.rule.fires(largest):
                return []
            return [self.finding(self.rule, place, largest, f"A value at {place.place} is {largest:.0f}.")]

    CAUSES.add("far")(Far)
    yield "far"
    CAUSES.unregister("far")


def at_h(features):
    return Evidence((PlaceEvidence("h", features),))


def test_a_cause_is_found_where_it_is_and_not_elsewhere(far):
    healthy = torch.randn(100, 4)
    testing.check_cause(far, at_h(1000 * healthy), at_h(healthy))
    with refuses(ContractError, "far", "a cause", "nothing"):
        testing.check_cause(far, at_h(healthy), at_h(healthy))
    with refuses(ContractError, "far", "a cause", "healthy", "at h"):
        testing.check_cause(far, at_h(1000 * healthy), at_h(1000 * healthy))
