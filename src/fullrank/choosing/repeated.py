"""Images that are there twice: all candidates have the same features for them, so they count once."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from fullrank.choosing.candidates import Pool
from fullrank.errors import count_of


def without_repeated(pool: Pool) -> Pool:
    """The pool with one of the images whose clean features are bit-equal in every candidate, the first.

    A repeated image is its own nearest neighbour. So it raises every score that looks at neighbours, and it
    lowers every estimate of dimension.

    Args:
        pool: Candidates with clean features (N, D).

    >>> import torch
    >>> from fullrank.choosing.candidates import Candidate
    >>> rows = torch.tensor([[0.0, 1.0], [2.0, 3.0], [0.0, 1.0]])
    >>> kept = without_repeated(Pool([Candidate("a", "h", rows)], np.array(["x", "y", "z"])))
    >>> kept.ids.tolist(), kept.notes
    (['x', 'y'], ['1 image was left out: in every candidate it has the features of an earlier one.'])
    """
    first = first_of_equal([each.clean for each in pool.candidates])
    rows = np.flatnonzero(first == np.arange(len(first)))
    gone = len(first) - len(rows)
    # If all images are one, every candidate has collapsed. The vetoes say that.
    if not gone or len(rows) == 1:
        return pool
    stays = np.isin(pool.viewed, rows)
    were = f"{count_of(gone, 'image')} {'was' if gone == 1 else 'were'} left out: in every candidate"
    note = f"{were} {'it has' if gone == 1 else 'they have'} the features of an earlier one."
    return replace(
        pool,
        candidates=[
            replace(
                each,
                clean=each.clean[rows],
                views=None if each.views is None else each.views[:, stays],
            )
            for each in pool.candidates
        ],
        ids=pool.ids[rows],
        viewed=np.searchsorted(rows, pool.viewed[stays]),
        labels=None if pool.labels is None else pool.labels[rows],
        notes=[*pool.notes, note],
    )


def first_of_equal(features: Sequence[Tensor]) -> np.ndarray:
    """For each row the number of the first row that is bit-equal to it in all of `features`, (N,).

    >>> import torch
    >>> first_of_equal([torch.tensor([[1.0], [1.0], [1.0]]), torch.tensor([[2.0], [3.0], [2.0]])]).tolist()
    [0, 1, 0]
    """
    count = len(features[0])
    first = np.zeros(count, np.int64)
    for rows in features:
        whole = np.ascontiguousarray(rows.numpy()).view(np.uint8).reshape(count, -1)
        keyed = np.concatenate([first.view(np.uint8).reshape(count, -1), whole], axis=1)
        _, at, group = np.unique(
            keyed.view(f"V{keyed.shape[1]}").ravel(), return_index=True, return_inverse=True
        )
        first = at[group]
        if len(at) == count:  # the other candidates cannot make unlike rows equal
            return first
    return first
