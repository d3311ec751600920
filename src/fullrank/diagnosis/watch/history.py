"""What is kept over time: measurements in columns, and the newest rows of a stream."""

from collections.abc import Iterable, Mapping
from typing import Any, final

import numpy as np
import torch
from torch import Tensor


@final
class History(dict[str, list[Any]]):
    """Measurements over time: a column for each name, of numbers or of tensors of one shape."""

    def __init__(self, names: Iterable[str]):
        super().__init__({name: [] for name in names})

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a value to each column."""
        for name, column in self.items():
            column.append(row[name])

    def rows(self) -> list[dict[str, Any]]:
        """One mapping for each row, oldest first."""
        return [dict(zip(self, row, strict=True)) for row in zip(*self.values(), strict=True)]

    @property
    def last(self) -> dict[str, Any]:
        """The newest row, empty before the first."""
        return {name: column[-1] for name, column in self.items() if column}

    def arrays(self) -> dict[str, np.ndarray]:
        """The columns: numbers (T,), tensors (T, ...)."""
        return {name: np.array(column) for name, column in self.items()}


@final
class NewestRows:
    """The newest `size` rows of what is pushed, as float32 or int64 on the device of the first column.

    Pushing waits for no device, and takes memory the first time only.
    """

    def __init__(self, size: int):
        self.size = size
        self._stores: list[Tensor] = []
        self._pushed = 0

    def __len__(self) -> int:
        return min(self._pushed, self.size)

    def push(self, *columns: Tensor) -> None:
        """Add N rows of each column (N, ...); the oldest are dropped if there is no room."""
        new, device = [rows.detach()[-self.size :] for rows in columns], columns[0].device
        if not self._stores:
            kinds = (torch.float32 if rows.is_floating_point() else torch.int64 for rows in new)
            self._stores = [
                torch.empty(self.size, *rows.shape[1:], dtype=kind, device=device)
                for rows, kind in zip(new, kinds, strict=True)
            ]
        elif self._stores[0].device != device:  # what a checkpoint held is on the CPU
            self._stores = [store.to(device) for store in self._stores]
        start = self._pushed % self.size
        room = self.size - start
        for store, rows in zip(self._stores, new, strict=True):
            store[start : start + len(rows)].copy_(rows[:room], non_blocking=True)
            store[: max(0, len(rows) - room)].copy_(rows[room:], non_blocking=True)
        # Counted round the ring, so that the next row goes behind the last also after a batch beyond `size`.
        self._pushed += len(new[0])

    def rows(self) -> list[Tensor]:
        """The rows (n, ...) of each column, oldest first."""
        oldest = self._pushed % self.size if self._pushed > self.size else 0
        return [torch.cat([store[oldest : len(self)], store[:oldest]]) for store in self._stores]

    def clear(self) -> None:
        """Forget all rows."""
        self._pushed = 0
