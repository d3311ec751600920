import numpy as np

from fullrank.data.selection import grouped_split, stratified_order


def test_the_drawn_order_is_that_of_counting_label_by_label():
    labels = np.random.default_rng(0).integers(-1, 9, 500)
    shuffled = np.random.default_rng(np.random.SeedSequence([3])).permutation(500)
    counts, standing = {}, []
    for row in shuffled:
        counts[labels[row]] = counts.get(labels[row], -1) + 1
        standing.append((counts[labels[row]] + 0.5) / (labels == labels[row]).sum())
    assert stratified_order(labels, 3).tolist() == shuffled[np.argsort(standing, kind="stable")].tolist()


def test_grouped_split_keeps_groups_whole_and_near_a_fifth():
    random = np.random.default_rng(0)
    groups = [str(group) for group in random.integers(0, 30, 400)]
    labels = random.integers(-1, 3, 400)
    train, test = (grouped_split(labels, groups, split, "x") for split in ("train", "test"))
    assert sorted([*train, *test]) == list(range(400)) and abs(len(test) - 80) < 14
    assert {groups[row] for row in train}.isdisjoint({groups[row] for row in test})
    assert np.array_equal(test, grouped_split(labels, groups, "test", "another"))
    assert len(grouped_split(labels[:10], [""] * 10, "test", "x")) == 2  # no group: each row is one
    assert len(grouped_split(np.zeros(9, int), [*"aaaaaaaab"], "train", "x")) in (1, 8)
