"""The word of two targets side by side: plain cases, growing noise, sentences that agree with numbers."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sklearn.datasets import load_digits

from fullrank.diagnosis.beside.lost import lost_directions
from fullrank.diagnosis.beside.pair import pair_of
from fullrank.diagnosis.beside.verdict import NAMES, RANK, Conclusion, conclude
from fullrank.record import Finding, LostDirection, MeasureChange, PairedScore, PlacePair
from fullrank.spectrum.similarity import joint_moments, neighbour_overlap


def pair(**changes: object) -> PlacePair:
    """Features that changed somewhat: no distance is small, and most neighbours agree."""
    usual = {"cka": 0.9, "overlap": 0.8, "distance": 0.9, "rotated_distance": 0.4, "kept": 0.9, "added": 0.1}
    return PlacePair(place="h", against="h", rows=500, widths=(16, 16), **{**usual, **changes})


def score(difference: float, name: str = "linear", apart: bool = True, place: str = "h") -> PairedScore:
    half = 0.02 if apart else abs(difference) + 0.01
    return PairedScore(
        place=place,
        against=place,
        name=name,
        now=0.5 + difference,
        before=0.5,
        difference=difference,
        low=difference - half,
        high=difference + half,
        tested=500,
        apart=apart,
    )


def rank(now: float, before: float, apart: bool = True) -> MeasureChange:
    half = 0.01 if apart else abs(now - before)
    ends = {"now_low": now - half, "now_high": now + half}
    ends |= {"before_low": before - half, "before_high": before + half}
    return MeasureChange(place="h", against="h", name=RANK, now=now, before=before, apart=apart, **ends)


def alarm(place: str = "h", cause: str = "dead-channels") -> Finding:
    return Finding(
        cause=cause,
        place=place,
        level="alarm",
        measure="a share",
        value=0.9,
        threshold=0.5,
        evidence="Something is there.",
        remedy="Change it.",
    )


UNDECIDED = "not told apart"
LOST = pair(overlap=0.1, kept=0.1, added=0.2)
UNLIKE = pair(overlap=0.3)


@pytest.mark.parametrize(
    ("word", "worse", "given_pair", "scores", "measures", "alarms"),
    [
        ("same", False, pair(distance=0.01, rotated_distance=0.01, overlap=0.99), [], [], []),
        ("rotated", False, pair(rotated_distance=0.01, overlap=1.0), [], [], []),
        ("rotated", False, pair(rotated_distance=0.01, overlap=1.0), [], [], [alarm()]),
        ("worse", True, pair(rotated_distance=0.01, overlap=0.9), [score(-0.1)], [], []),
        ("drifted", False, pair(rotated_distance=0.01, overlap=0.2), [], [], []),
        ("collapsed", True, LOST, [], [rank(2, 20)], []),
        ("collapsed", True, LOST, [score(-0.3)], [rank(2, 20)], []),
        ("collapsed", True, LOST, [], [], [alarm()]),
        ("collapsed", True, UNLIKE, [score(-0.3)], [rank(20, 20, apart=False)], [alarm()]),
        ("worse", True, UNLIKE, [score(-0.3)], [rank(25, 20)], [alarm()]),
        ("better", False, LOST, [score(0.2), score(-0.01, "nearest", apart=False)], [rank(2, 20)], []),
        ("drifted", False, LOST, [score(0.0, apart=False)], [rank(2, 20)], []),
        ("drifted", False, LOST, [], [rank(12, 20)], []),
        ("drifted", False, pair(overlap=0.1, kept=0.1, added=0.9), [], [rank(2, 20)], []),
        ("not told apart", True, pair(), [], [], [alarm()]),
        ("not told apart", True, pair(), [], [], [alarm("z")]),
        ("better", False, UNLIKE, [score(0.1)], [], []),
        ("worse", True, UNLIKE, [score(-0.1)], [], []),
        ("not told apart", False, pair(), [score(-0.003), score(-0.03, "nearest", apart=False)], [], []),
        ("drifted", True, UNLIKE, [score(0.1), score(-0.1, "nearest")], [], []),
        ("not told apart", True, pair(), [score(-0.1, place="z")], [], []),
        ("drifted", False, UNLIKE, [score(0.02, apart=False)], [], []),
        ("not told apart", False, pair(), [], [rank(12, 20)], []),
    ],
)
def test_word_of_matched_rows(
    word: str,
    worse: bool,
    given_pair: PlacePair,
    scores: list[PairedScore],
    measures: list[MeasureChange],
    alarms: list[Finding],
) -> None:
    end = conclude([given_pair], scores, measures, matched="id", new_alarms=alarms)
    assert (end.verdict, end.worse) == (word, worse)


@pytest.mark.parametrize(
    ("word", "worse", "scores", "measures", "alarms"),
    [
        ("not told apart", False, [], [], []),
        ("not told apart", False, [score(0.01, apart=False)], [rank(19, 20, apart=False)], []),
        ("not told apart", True, [], [rank(19, 20, apart=False)], [alarm()]),
        ("collapsed", True, [], [rank(2, 20)], []),
        ("collapsed", True, [], [rank(15, 20)], [alarm()]),
        ("drifted", False, [], [rank(15, 20)], []),
        ("drifted", False, [], [rank(23, 20)], []),
        ("not told apart", False, [], [rank(20.5, 20)], []),
        ("better", False, [score(0.2)], [rank(2, 20)], []),
        ("worse", True, [score(-0.2)], [], []),
    ],
)
def test_word_of_two_sets(
    word: str, worse: bool, scores: list[PairedScore], measures: list[MeasureChange], alarms: list[Finding]
) -> None:
    end = conclude([], scores, measures, matched="none", new_alarms=alarms)
    assert (end.verdict, end.worse) == (word, worse)


def test_least_overlap_decides_what_drifted_is() -> None:
    words = [conclude([pair(overlap=share)], [], [], matched="id").verdict for share in (0.61, 0.59)]
    assert words == [UNDECIDED, "drifted"]


def test_swapped_targets_turn_better_into_worse() -> None:
    def swapped(one: PairedScore) -> PairedScore:
        ends = {"difference": -one.difference, "low": -one.high, "high": -one.low}
        return one.model_copy(update={"now": one.before, "before": one.now, **ends})

    scores = [score(0.1), score(0.05, "nearest"), score(0.01, "recall_at_1", apart=False)]
    for given_pair in (pair(), UNLIKE):
        there = conclude([given_pair], scores, [], matched="id")
        back = conclude([given_pair], [swapped(one) for one in scores], [], matched="id")
        assert (there.verdict, there.worse, back.verdict, back.worse) == ("better", False, "worse", True)


@pytest.fixture(scope="module")
def features() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(400, 12, generator=generator).double() * torch.linspace(2, 0.5, 12)


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    """Features of real images in float32: 48 channels that are at least 0, of mean lengths from 1 to 20."""
    weights = torch.randn(64, 48, generator=torch.Generator().manual_seed(3))
    pixels = torch.from_numpy(load_digits().data[:400]).float()
    return torch.relu((pixels - pixels.mean(0)) @ weights) * torch.logspace(-1, 0.3, 48)


def concluded(before: torch.Tensor, now: torch.Tensor) -> Conclusion:
    """The conclusion from likeness alone."""
    moments = joint_moments([(before, now)])
    measured = pair_of(moments, neighbour_overlap(before, now), "h", "h", (now, before))
    return conclude([measured], [], [], matched="order")


def test_other_coordinates_are_a_rotation_and_rounding_is_the_same(features: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(12, 12, generator=generator).double()).Q
    order, signs = torch.randperm(12, generator=generator), torch.tensor([1.0, -1.0]).repeat(6)
    padded = torch.nn.functional.pad(features, (0, 3))
    turned = [features @ turn, features[:, order], features * signs, 7 * features, padded]
    assert [concluded(features, now).verdict for now in turned] == ["rotated"] * 5
    step = features.abs().max() / 127
    rounded = [features.half().double(), features.bfloat16().double(), (features / step).round() * step]
    assert [concluded(features, now).verdict for now in (features, *rounded)] == ["same"] * 4


def test_noise_only_moves_away_as_it_grows(features: torch.Tensor) -> None:
    noise = torch.randn(400, 12, generator=torch.Generator().manual_seed(2)).double()
    strengths = (0.01, 0.2, 2.0)
    words = [concluded(features, features + size * noise).verdict for size in strengths]
    assert words == ["same", UNDECIDED, "drifted"]


def test_words_of_changed_features_of_real_images(digits: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(48, 48, generator=generator)).Q
    turned = [digits @ turn, digits[:, torch.randperm(48, generator=generator)], -3 * digits + 1]
    assert [concluded(digits, now).verdict for now in turned] == ["rotated"] * 3
    step = digits.abs().max() / 127
    copies = [digits.half(), digits.bfloat16(), (digits / step).round().to(torch.int8) * step]
    assert [concluded(digits, now.float()).verdict for now in copies] == ["same"] * 3


def test_noise_on_features_of_real_images_is_ordered(digits: torch.Tensor) -> None:
    noise = (
        torch.randn(digits.shape, generator=torch.Generator().manual_seed(2)) * digits.var(0).mean().sqrt()
    )
    sets = [digits + size * noise for size in (0.0, 0.02, 0.1, 0.5, 2.0)]
    moments = [joint_moments([(digits, now)]) for now in sets]
    overlaps = [neighbour_overlap(digits, now).mean for now in sets]
    assert overlaps == sorted(overlaps, reverse=True) and len(set(overlaps)) == 5
    for name, sign in (("cka", -1), ("rotated_distance", 1), ("distance", 1)):
        values = [sign * getattr(each, name) for each in moments]
        assert values == sorted(values)
    order = ["same", UNDECIDED, "drifted"]
    places = [order.index(concluded(digits, now).verdict) for now in sets]
    assert places == sorted(places) and set(places) == {0, 1, 2}


@pytest.mark.parametrize("spread", [0.0, 1e-9, 1e-6, 1e-3])
@pytest.mark.parametrize("length", [0.0, 3.7, 1e4])
def test_shares_of_a_side_that_hardly_varies_can_be_read(
    digits: torch.Tensor, spread: float, length: float
) -> None:
    for kind in (torch.float32, torch.float64):
        point = (length + spread * digits.to(kind)).flip(0)
        for sides in ((digits, point), (point, digits), (point, point)):
            end = concluded(*sides)
            text = " ".join([end.sentence, *end.reasons])
            shares = re.findall(r"(-?[\d.,]+) %", text)
            assert all(0 <= float(share.replace(",", "")) <= 1000 for share in shares)
            constant = sides[0].std(0).max() == 0 or sides[1].std(0).max() == 0
            assert ("rounding" in text) >= bool(constant)


def test_lost_directions_are_those_that_were_removed(features: torch.Tensor) -> None:
    kept = joint_moments([(features, features)]).kept
    without = features - features @ kept.directions[:, [1]] @ kept.directions[:, [1]].T
    (lost,) = lost_directions(joint_moments([(features, without)]), "h")
    assert (lost.number, lost.kept) == (2, pytest.approx(0, abs=0.01))
    assert lost.variance == pytest.approx(float(kept.variances[1] / kept.variances.sum()))


def test_lost_direction_names_the_classes_that_it_separated() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    x = torch.randn(300, 4, generator=generator).double()
    x[:, 0] += torch.tensor([5.0, 0.0, -5.0])[labels]
    moments = joint_moments([(x, x[:, 1:])])
    numbers = labels.numpy().copy()
    numbers[:30] = -1
    (lost,) = lost_directions(moments, "h", features=x, labels=numbers, classes=("ape", "bee", "cow"))
    assert (lost.number, lost.classes) == (1, ["ape", "cow"])
    shuffled = np.random.default_rng(0).permutation(numbers)
    assert lost_directions(moments, "h", features=x, labels=shuffled)[0].classes == []


WORDS = {"same": "the same", "rotated": "the same up to a rotation"}


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_sentences_agree_with_their_numbers(seed: int) -> None:
    generator = np.random.default_rng(seed)
    matched = str(generator.choice(["id", "order", "none"]))
    shares = dict(
        zip(("cka", "overlap", "rotated_distance", "kept", "added"), generator.random(5), strict=True)
    )
    near = generator.choice([0.01, 1.0], 2)
    pairs = [pair(**shares | {"rotated_distance": near[0] * shares["rotated_distance"], "distance": near[1]})]
    scores = [
        score(float(generator.choice([0.3, 0.02, 0.001]) * generator.normal() / 3), name, bool(apart))
        for name, apart in zip(NAMES, generator.random(4) < 0.5, strict=True)
    ]
    measures = [rank(*(1 + 20 * generator.random(2)))]
    alarms = [alarm(place) for place in ("h", "z") if generator.random() < 0.3]
    lost = [LostDirection(place="h", number=2, variance=0.2, kept=0.1, classes=["ape", "cow"])]
    scores, measures, lost = (part if generator.random() < 0.6 else [] for part in (scores, measures, lost))
    pairs = [] if matched == "none" else pairs
    end = conclude(pairs, scores, measures, matched=matched, new_alarms=alarms, lost=lost)

    text = " ".join([end.sentence, *end.reasons])
    known = {
        f"{100 * value:.1f} %"
        for one in pairs
        for value in one.model_dump().values()
        if isinstance(value, float)
    }
    known |= {f"{100 * value:.1f} %" for one in scores for value in (one.now, one.before)}
    known |= {"60.0 %", "95 %"} | ({"20.0 %", "10.0 %"} if lost else set())
    assert set(re.findall(r"[\d.]+ %", text)) <= known
    assert end.sentence.lower().startswith(WORDS.get(end.verdict, end.verdict))
    moved = {one.name: one.difference for one in scores if one.apart and abs(one.difference) >= 0.005}
    signs = set(np.sign(list(moved.values())))
    if end.verdict in ("better", "worse"):
        assert signs == {1.0 if end.verdict == "better" else -1.0}
        assert NAMES[max(moved, key=lambda name: abs(moved[name]))] in end.sentence
    assert ("contradict" in text) == (len(signs) == 2)
    assert text.count("beyond chance.") >= sum(one.apart for one in scores)
    assert text.count("New alarm: ") == len(alarms)
    if "intervals" in text:
        do_not = "do not overlap" in text
        assert do_not == measures[0].apart
    if "the limit" in text:
        not_below = "not below the limit" in text
        assert not_below == (pairs[0].overlap >= 0.6)
    if end.verdict in ("collapsed", "worse") or -1.0 in signs:
        assert end.worse
