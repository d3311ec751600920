import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from refusals import refuses
from sklearn.cluster import DBSCAN
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from fullrank.errors import DataError, UsageError
from fullrank.spectrum import nc1, point_groups, within_class_share


def normal(n, d, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def classes(rows=120, width=8, count=4, noise=0.5, seed=0):
    labels = torch.arange(rows) % count
    return normal(count, width, seed)[labels] + noise * normal(rows, width, seed + 1), labels


def turned(x, seed=9):
    return x @ torch.linalg.qr(normal(x.shape[1], x.shape[1], seed)).Q


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 50), noise=st.floats(0.01, 3))
def test_within_class_share_against_means_of_all_other_rows(seed, noise):
    x, labels = classes(30, 5, 3, noise, seed)
    labels = torch.where(torch.arange(30) % 7 == 0, 2, labels)  # classes of unlike size
    squares = []
    for i in range(30):
        others = (labels == labels[i]) & (torch.arange(30) != i)
        squares.append((x[i] - x[others].mean(0)).square().sum() / (1 + 1 / int(others.sum())))
    # Half of the mean squared distance of two rows is their variance.
    expected = torch.stack(squares).mean() / (torch.pdist(x).square().mean() / 2)
    assert within_class_share(x, labels) == pytest.approx(float(expected), rel=1e-9)


def test_within_class_share_is_one_on_average_if_labels_say_nothing_even_for_pairs_of_rows():
    shares = [within_class_share(normal(200, 6, seed), torch.arange(200) // 2) for seed in range(20)]
    assert np.mean(shares) == pytest.approx(1, abs=0.03)


def test_within_class_share_of_points_follows_the_noise():
    x, labels = classes(400, 64, 10, 0.0)
    assert within_class_share(x, labels) < 1e-12
    between = float(x.var(0).sum())
    for noise in (1e-3, 1e-2, 0.1):
        noisy = x + noise * normal(400, 64, 5)
        assert within_class_share(noisy, labels) == pytest.approx(64 * noise**2 / between, rel=0.15)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 50), scale=st.floats(1e-3, 1e3))
def test_measures_of_classes_depend_neither_on_order_nor_axes_nor_unit_nor_names(seed, scale):
    x, labels = classes(seed=seed)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    for measure in (within_class_share, nc1):
        value = measure(x, labels)
        assert measure(x[order], labels[order]) == pytest.approx(value, rel=1e-9)
        assert measure(scale * turned(x) + 3, labels) == pytest.approx(value, rel=1e-6)
        assert measure(x, 100 - 7 * labels) == pytest.approx(value, rel=1e-9)


def test_measures_of_classes_leave_out_rows_without_a_label_and_classes_of_one_row():
    x, labels = classes()
    more = torch.cat([x, 50 * normal(3, 8, 7)])
    for measure in (within_class_share, nc1):
        assert measure(more, torch.cat([labels, torch.tensor([-1, -5, 9])])) == pytest.approx(
            measure(x, labels)
        )


def test_nc1_against_the_eigenvalues_of_a_discriminant_analysis():
    x, labels = classes(count=4, noise=0.3)
    # The trace of Sigma_W Sigma_B^+ where the classes are equally large and their means span 3 directions.
    means = torch.stack([x[labels == k].mean(0) for k in range(4)])
    within = sum(np.cov((x[labels == k] - means[k]).T, bias=True) for k in range(4)) / 4
    between = np.cov(means.T.numpy(), bias=True)
    assert nc1(x, labels) == pytest.approx(np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / 4)


def test_nc1_of_one_direction_is_the_inverse_ratio_of_fisher():
    x, labels = classes(count=2, noise=0.3)
    fisher = LinearDiscriminantAnalysis(solver="eigen").fit(x.numpy(), labels.numpy())
    along = fisher.transform(x.numpy())[:, 0]
    difference = along[labels.numpy() == 1].mean() - along[labels.numpy() == 0].mean()
    # Fisher's direction has the smallest of all ratios, so no other direction has less noise than this.
    assert nc1(x, labels) >= along[labels.numpy() == 0].var() / difference**2


@pytest.mark.parametrize("measure", [within_class_share, nc1])
def test_measures_of_classes_refuse_what_has_no_classes(measure):
    x, labels = classes()
    with refuses(UsageError, 120, 119, -1):
        measure(x, labels[1:])
    with refuses(DataError, 2, 1):
        measure(x, torch.zeros(120, dtype=torch.int64))
    with refuses(DataError, 0):
        measure(x, torch.arange(120))
    with pytest.raises(DataError):
        measure(torch.full_like(x, float("nan")), labels)
    with pytest.raises(DataError):
        measure(torch.ones(120, 3), labels)


@pytest.mark.parametrize("rows", [300, 1300])  # one tile and several
def test_point_groups_against_dbscan(rows):
    x, labels = classes(rows, 12, 6, 1e-3)
    x[labels == 5] = normal(int((labels == 5).sum()), 12, 3)  # these rows are no point
    distance = float(torch.pdist(x).square().mean().sqrt())
    expected = DBSCAN(eps=0.01 * distance, min_samples=2).fit_predict(x.numpy())
    groups = point_groups(x)
    assert groups.rows.tolist() == list(range(rows))
    assert groups.groups.tolist() == expected.tolist()
    assert groups.share == pytest.approx(5 / 6, abs=0.01)


def test_point_groups_join_rows_through_others_across_tiles():
    x = torch.cat([normal(1200, 3), 10 + torch.linspace(0, 1e-2, 1200)[:, None].expand(-1, 3)])
    order = torch.randperm(2400, generator=torch.Generator().manual_seed(0))
    groups = point_groups(x[order])
    assert groups.sizes == [1200] and bool((groups.groups[order >= 1200] == 0).all())


@pytest.mark.parametrize(
    "healthy",
    [
        lambda: normal(1000, 64),
        lambda: normal(4000, 1),
        lambda: normal(3000, 2),
        lambda: classes(1000, 256, 5, 1.0)[0],
        lambda: torch.eye(16, dtype=torch.float64)[torch.arange(800) % 16],
        lambda: (2 * normal(1000, 3)).round(),
        lambda: normal(400, 16).repeat(3, 1),
        lambda: normal(1000, 64) + torch.outer((torch.arange(1000) % 2) * 120.0, torch.eye(64)[0]),
    ],
    ids=["wide", "line", "plane", "separated", "one-hot", "rounded", "copies", "two-groups"],
)
def test_point_groups_of_healthy_rows_hold_next_to_nothing(healthy):
    assert point_groups(healthy()).share < 0.05


def test_point_groups_keep_their_groups_in_another_unit_and_with_other_axes():
    x, _ = classes(200, 8, 4, 1e-3)
    groups = point_groups(x)
    moved = point_groups(1e3 * turned(x) - 5)
    assert groups.sizes == [50] * 4 and moved.groups.tolist() == groups.groups.tolist()


def test_point_groups_draw_a_sample_and_refuse_what_is_no_share():
    x, labels = classes(300, 8, 2, 1e-4)
    groups = point_groups(x, sample=100, seed=3)
    assert len(groups.rows) == 100 and groups.share == 1
    assert len({(int(a), int(b)) for a, b in zip(labels[groups.rows], groups.groups, strict=True)}) == 2
    assert point_groups(x, least=151).sizes == []
    with refuses(UsageError, "share", 0, 1):
        point_groups(x, 1.0)
    with refuses(UsageError, "least", 2, 1):
        point_groups(x, least=1)
    with refuses(DataError, 2, 1):
        point_groups(x[:1])
