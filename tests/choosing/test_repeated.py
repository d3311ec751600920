"""Repeated images count once."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fullrank.choosing.candidates import Candidate, Pool, Reading
from fullrank.choosing.reading import read_pool
from fullrank.choosing.repeated import first_of_equal, without_repeated
from fullrank.errors import DataError


@pytest.mark.parametrize("seed", range(5))
def test_equal_rows_are_those_of_a_loop_over_pairs(seed):
    generator = torch.Generator().manual_seed(seed)
    features = [torch.randint(0, 2, (40, width), generator=generator).float() for width in (2, 1, 2)]
    rows = torch.cat(features, dim=1).tolist()
    assert first_of_equal(features).tolist() == [rows.index(row) for row in rows]


def test_the_rest_of_the_pool_follows_its_images():
    source = np.array([0, 1, 0, 2, 1, 3])
    clean, viewed = torch.from_numpy(source)[:, None].float(), np.array([0, 2, 3, 5])
    views = torch.arange(4).float().expand(2, 4)[..., None]
    pool = Pool([Candidate("a", "h", clean, views)], source.astype(str), viewed, labels=10 * source)
    kept = without_repeated(pool)
    assert kept.candidates[0].clean.flatten().tolist() == [0, 1, 2, 3]
    assert kept.ids.tolist() == ["0", "1", "2", "3"]
    assert kept.labels is not None
    assert kept.labels.tolist() == [0, 10, 20, 30]
    assert kept.viewed.tolist() == [0, 2, 3]  # image 2 is the second copy of image 0
    assert kept.candidates[0].views is not None
    assert kept.candidates[0].views[1].flatten().tolist() == [0, 2, 3]


def test_images_that_one_candidate_tells_apart_stay():
    same, unlike = torch.zeros(4, 2), torch.arange(4.0)[:, None]
    pool = Pool([Candidate("a", "h", same), Candidate("b", "h", unlike)], np.arange(4).astype(str))
    assert without_repeated(pool) is pool


def test_too_few_unlike_rows_are_refused(tmp_path: Path):
    rows = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    paths = [str(tmp_path / name) for name in ("a.npy", "b.npy")]
    for path in paths:
        np.save(path, np.repeat(rows, 3, axis=0))
    with pytest.raises(DataError, match="40"):
        read_pool(paths, Reading())
