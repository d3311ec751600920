"""Streaming equals the whole: any split, any merge, two processes, and the functions they stand for."""

from itertools import pairwise

import pytest
import torch
from gloo_group import in_processes
from hypothesis import given, settings, strategies as st
from refusals import refuses
from torchmetrics import MetricCollection

from fullrank import spectrum, statistics
from fullrank.errors import DataError, UsageError
from fullrank.spectrum import metrics

ROWS, WIDTH, VIEWS = 48, 8, 3
# Each metric, and the pure function on all rows that it stands for.
STREAMED = {
    "SingularValues": ({}, spectrum.singular_values),
    "EffectiveRank": ({}, spectrum.effective_rank),
    "ParticipationRatio": ({}, spectrum.participation_ratio),
    "NESum": ({}, spectrum.nesum),
    "AlphaReQ": ({"first": 2}, lambda x: spectrum.alpha_req(x, first=2).alpha),
    "LiveDimensions": (
        {"tolerance": 0.1},
        lambda x: spectrum.live_dimensions(x, tolerance=0.1),
    ),
    "RankMe": ({}, spectrum.rankme),
    "StableRank": ({}, spectrum.stable_rank),
    "MeanCosine": ({}, spectrum.mean_cosine),
    "LiDAR": ({"views": VIEWS}, spectrum.lidar),
}
every = pytest.mark.parametrize("name", STREAMED)


def make(name):
    return getattr(spectrum, name)(WIDTH, **STREAMED[name][0])


def features(name, mean=5.0):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, WIDTH, dtype=torch.float64, generator=generator) * torch.arange(1, WIDTH + 1) + mean
    return x.view(-1, VIEWS, WIDTH) if name == "LiDAR" else x


def expected(name, x):
    return torch.as_tensor(STREAMED[name][1](x), dtype=torch.float64)


def same(measured, wanted):
    torch.testing.assert_close(measured, wanted, rtol=1e-9, atol=1e-12)


def one_of_two(rank):
    computed = {}
    for name in STREAMED:
        metric, x = make(name), features(name)
        metric.update(x[:5] if rank == 0 else x[5:])
        computed[name] = metric.compute()
        idle = make(name)  # one process has no row
        if rank == 0:
            idle.update(x)
        computed[f"{name} idle"] = idle.compute()
    return computed


@pytest.fixture(scope="module")
def in_two(tmp_path_factory):
    return in_processes(one_of_two, 2, tmp_path_factory.mktemp("processes"))


def test_every_metric_of_the_room_is_tested_here():
    final = {
        name
        for name, each in vars(metrics).items()
        if isinstance(each, type)
        and issubclass(each, metrics.StreamedMetric)
        and not each.__abstractmethods__
    }
    assert final == set(STREAMED) and final <= set(spectrum.__all__)


@every
@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(0, ROWS // VIEWS), max_size=5), mean=st.sampled_from([0.0, 1000.0]))
def test_any_split_equals_the_whole(name, cuts, mean):
    metric, x = make(name), features(name, mean)
    edges = [0, *sorted(cuts), len(x)]
    for start, stop in pairwise(edges):
        metric.update(x[start:stop])
    torch.testing.assert_close(metric.compute(), expected(name, x), rtol=1e-7, atol=1e-9)


@every
def test_two_merged_are_one(name):
    x = features(name)
    for cut in (0, 1, 10):
        one, other = make(name), make(name)
        one.update(x[:cut])
        other.update(x[cut:])
        one.merge_state(other)
        same(one.compute(), expected(name, x))


@every
def test_two_processes_are_one(in_two, name):
    wanted = expected(name, features(name))
    for each in in_two:
        same(each[name], wanted)
        same(each[f"{name} idle"], wanted)


@every
def test_calling_gives_the_batch_and_keeps_the_sum(name):
    metric, x = make(name), features(name)
    same(metric(x[:12]), expected(name, x[:12]))
    metric(x[12:])
    same(metric.compute(), expected(name, x))
    metric.reset()
    metric.update(x[:12])
    same(metric.compute(), expected(name, x[:12]))


@every
def test_a_module_in_half_precision_leaves_the_sums_in_float64(name):
    metric, x = make(name), features(name)
    metric.update(x[:7])
    holder = torch.nn.ModuleList([metric]).to(torch.bfloat16).half()
    holder[0].update(x[7:])
    same(metric.compute(), expected(name, x))


@every
def test_rows_that_are_not_finite_are_refused_and_not_counted(name):
    metric, x = make(name), features(name)
    metric.update(x)
    broken = x.clone()
    broken[3] = float("nan")
    rows = x.flatten(0, -2)
    per_row = len(rows) // len(x)
    with refuses(DataError, per_row, len(rows), f"row {3 * per_row}", "NaN"):
        metric.update(broken)
    same(metric.compute(), expected(name, x))


@every
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_what_does_not_fit_raises(name):
    metric, x = make(name), features(name)
    with refuses(UsageError, name, 8, 7, "width=7"):
        metric.update(x[..., :7])
    with refuses(UsageError, name, "width", 1, 0):
        type(metric)(0, **STREAMED[name][0])
    with refuses(DataError):
        metric.compute()


def test_lidar_wants_groups_of_one_size():
    metric = make("LiDAR")
    with refuses(UsageError, "LiDAR", 3, 2):
        metric.update(torch.randn(4, 2, WIDTH))


def test_live_dimensions_are_one_count_wherever_they_are_counted():
    generator = torch.Generator().manual_seed(1)
    rank_three = torch.randn(60, 3, generator=generator) @ torch.randn(3, WIDTH, generator=generator) + 50
    few = torch.randn(5, WIDTH, generator=generator) + 1e4
    for x, live in ((rank_three, 3), (few, 4)):
        metric = spectrum.LiveDimensions(WIDTH)
        metric.update(x)
        values = spectrum.singular_values(x)
        assert int(metric.compute()) == spectrum.live_dimensions(x) == live
        assert spectrum.live_dimensions_of(values, rows=len(x)) == live
        assert (
            statistics.live_dimensions(values.tolist()) == int(statistics.live(values.numpy()).sum()) == live
        )


def test_metrics_of_a_collection_keep_their_moments_once():
    names = ["SingularValues", "EffectiveRank", "RankMe", "StableRank"]
    collection = MetricCollection({name: make(name) for name in names})
    x = features("RankMe")
    for part in x.split(10):
        collection.update(part)
    assert len(collection.compute_groups) == 1
    for name, value in collection.compute().items():
        same(value, expected(name, x))
