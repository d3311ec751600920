"""What is expected over time: columns of measurements, and the newest rows."""

import numpy as np
import torch
from hypothesis import given, settings, strategies as st

from fullrank.diagnosis.watch.history import History, NewestRows


def test_a_history_gives_back_its_rows_its_last_and_its_arrays():
    history = History(["step", "rank", "spectrum"])
    assert history.rows() == [] and history.last == {}
    rows = [{"step": n, "rank": n / 2, "spectrum": torch.arange(3.0) + n, "other": 0} for n in (1, 2)]
    for row in rows:
        history.add(row)
    expected = [{name: row[name] for name in history} for row in rows]
    assert history.rows() == expected and history.last == expected[1]
    arrays = history.arrays()
    assert arrays["step"].dtype == np.int64 and arrays["rank"].tolist() == [0.5, 1.0]
    assert arrays["spectrum"].dtype == np.float32 and arrays["spectrum"].tolist() == [[1, 2, 3], [2, 3, 4]]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.lists(st.integers(0, 15), min_size=1, max_size=8))
def test_the_newest_rows_are_kept_oldest_first(size, batches):
    newest, pushed = NewestRows(size), torch.arange(sum(batches))
    for rows in pushed.split(batches):
        newest.push(rows[:, None].expand(-1, 2).double(), rows.int() + 100, rows + 200)
    features, labels, index = newest.rows()
    assert features.dtype == torch.float32 and labels.dtype == index.dtype == torch.int64
    assert torch.equal(features, pushed[-size:, None].expand(-1, 2).float())
    assert torch.equal(labels - 100, pushed[-size:]) and torch.equal(index - 200, pushed[-size:])
    assert len(newest) == min(size, len(pushed))


def test_they_are_a_copy_and_begin_anew_after_clear():
    newest, rows = NewestRows(4), torch.arange(6.0)
    newest.push(rows)
    rows.zero_()
    assert newest.rows()[0].tolist() == [2, 3, 4, 5]
    newest.clear()
    assert len(newest) == 0
    newest.push(torch.tensor([9.0]))
    assert newest.rows()[0].tolist() == [9]
