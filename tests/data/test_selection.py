import numpy as np

from fullrank.data.selection import stratified_order


def test_the_drawn_order_is_that_of_counting_label_by_label():
    labels = np.random.default_rng(0).integers(-1, 9, 500)
    shuffled = np.random.default_rng(np.random.SeedSequence([3])).permutation(500)
    counts, standing = {}, []
    for row in shuffled:
        counts[labels[row]] = counts.get(labels[row], -1) + 1
        standing.append((counts[labels[row]] + 0.5) / (labels == labels[row]).sum())
    assert stratified_order(labels, 3).tolist() == shuffled[np.argsort(standing, kind="stable")].tolist()
