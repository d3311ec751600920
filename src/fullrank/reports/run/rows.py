"""What the rows of a study are called: the settings in which they differ. Torch-free."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fullrank.record import RunEntry
from fullrank.record.comparisons import by_row
from fullrank.record.schema import row_name


@dataclass(frozen=True)
class RowNames:
    """The rows of a study, in its order.

    `keys` are the settings in which rows differ, the head first; `values` has each row's value of each key.
    A setting that all rows share is left out, unless the rows differ in nothing: then the head stays.
    """

    keys: tuple[str, ...]
    values: dict[str, tuple[str, ...]]

    def short(self, row: str) -> str:
        """The name of a row without the settings that all rows share.

        >>> RowNames(("objective",), {"none, objective=vicreg": ("vicreg",)}).short("none, objective=vicreg")
        'objective=vicreg'
        """
        settings = dict(zip(self.keys, self.values[row], strict=True))
        head = settings.pop("head", None)
        return row_name(head, settings) if head is not None else row_name("", settings)[2:]

    @property
    def shorts(self) -> list[str]:
        """The short names of all rows."""
        return [self.short(row) for row in self.values]

    def counted(self) -> str:
        """How many values each setting has, as in `3 heads and 2 values of objective`."""
        kinds = {key: list(dict.fromkeys(each)) for key, each in self._columns().items()}
        heads = kinds.pop("head", None)
        parts = [] if heads is None else [heads[0] if len(heads) == 1 else f"{len(heads)} heads"]
        parts += [f"{len(values)} values of {key}" for key, values in kinds.items()]
        return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))

    def _columns(self) -> dict[str, list[str]]:
        return {key: [values[i] for values in self.values.values()] for i, key in enumerate(self.keys)}


def row_names(runs: Iterable[RunEntry]) -> RowNames:
    """The rows of some runs, and the settings in which they differ."""
    firsts = {row: entries[0] for row, entries in by_row(runs).items()}
    settings = {row: {"head": run.head, **run.varied} for row, run in firsts.items()}
    keys = _differing(list(settings.values())) or ("head",)
    # A study of an older version may have rows without a key that a later one varies.
    return RowNames(keys, {row: tuple(each.get(key, "–") for key in keys) for row, each in settings.items()})


def _differing(settings: Sequence[dict[str, str]]) -> tuple[str, ...]:
    keys = dict.fromkeys(key for each in settings for key in each)
    return tuple(key for key in keys if len({each.get(key) for each in settings}) > 1)
