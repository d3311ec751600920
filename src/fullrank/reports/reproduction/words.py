"""What a reproduced table says: its cells, its differences, whether its order is the paper's. Torch-free."""

from itertools import combinations

import numpy as np

from fullrank.record import TableEntry, TableRow
from fullrank.reports.numbers import in_points, signed
from fullrank.statistics import Estimate

NOT_KNOWN = "not known"


def cell(row: TableRow, column: int) -> Estimate:
    """A column of a row: the mean over its seeds and the 95 % t interval."""
    return Estimate.of(row.values[column])


def difference(row: TableRow, other: TableRow, column: int) -> Estimate | None:
    """A row less another one, paired over the seeds both have; None where they share none."""
    base = dict(zip(other.seeds, other.values[column], strict=True))
    own = zip(row.seeds, row.values[column], strict=True)
    paired = [value - base[seed] for seed, value in own if seed in base]
    return Estimate.of(paired) if paired else None


def with_paper(table: TableEntry, column: int) -> bool:
    """Whether the paper's numbers stand beside a column: always beside the first, if a paper asked."""
    known = any(row.paper[column] is not None for row in table.rows)
    return known or (column == 0 and table.paper is not None)


def paper_number(row: TableRow, column: int, unit: str) -> str:
    """What the paper found, or that nobody here has seen it."""
    value = row.paper[column]
    if value is None:
        return NOT_KNOWN
    return in_points(value) if unit == "points" else f"{value:g}"


def shown(estimate: Estimate, unit: str, sign: bool = False) -> str:
    """A mean and its interval: points or numbers with one decimal.

    >>> shown(Estimate(94.0, 93.0, 95.0), "points"), shown(Estimate(3.0), "points", sign=True)
    ('94.0 [93.0, 95.0]', '+3.0')
    """
    written = signed if sign else in_points
    if estimate.low is None:
        return written(estimate.mean)
    return f"{written(estimate.mean)} [{written(estimate.low)}, {written(estimate.high)}]"


def verdict(table: TableEntry) -> list[str]:
    """What came out, in sentences: the paper's order against ours, and predictions against results."""
    sentences = []
    for column, title in enumerate(table.columns):
        if (told := _order(table, column, title)) is not None:
            sentences.append(told)
    if predictions := [row for row in table.rows if row.expected is not None]:
        sentences += [_kept_predictions(predictions, table, column) for column in table.differences]
    known = any(value is not None for row in table.rows for value in row.paper)
    if sentences or known or table.paper is None:
        return sentences
    return ["The paper's numbers are not known here; what stands below was measured."]


def outcome(row: TableRow, column: int) -> str:
    """What became of a prediction in a column: as predicted, contradicted, or not separated from 0.

    "pre" says that the difference of the two places is above 0, "post" that it is below.
    """
    if row.expected in (None, "nothing"):
        return "nothing predicted"
    found = cell(row, column)
    if not found.separated:
        return "not separated"
    return "as predicted" if (found.mean > 0) == (row.expected == "pre") else "contradicted"


def _order(table: TableEntry, column: int, title: str) -> str | None:
    """How many pairs of rows stand in the paper's order; None where it has fewer than two numbers."""
    known = [row for row in table.rows if row.paper[column] is not None]
    pairs = [(a, b, difference(a, b, column)) for a, b in combinations(known, 2)]
    gaps = [
        (np.sign((a.paper[column] or 0.0) - (b.paper[column] or 0.0)), found)
        for a, b, found in pairs
        if found is not None and a.paper[column] != b.paper[column]
    ]
    if not gaps:
        return None
    alike = sum(int(sign == np.sign(found.mean)) for sign, found in gaps)
    separated = [(sign, found) for sign, found in gaps if found.separated]
    agreed = sum(int(sign == np.sign(found.mean)) for sign, found in separated)
    order = f"{title}: {alike} of {len(gaps)} pairs of rows in the paper's order"
    if len(table.rows[0].seeds) < 2:
        return f"{order}; one seed separates nothing."
    return f"{order}; our seeds separate {len(separated)}, {agreed} in the paper's order."


def _kept_predictions(rows: list[TableRow], table: TableEntry, column: int) -> str:
    """What became of the predictions of each kind, beside what always saying "pre" would have got."""
    title = table.columns[column]
    parts = []
    for kind in ("pre", "post"):
        told = [outcome(row, column) for row in rows if row.expected == kind]
        counts = {word: told.count(word) for word in ("as predicted", "not separated", "contradicted")}
        if told:
            found = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
            parts.append(f"of {len(told)} predictions of {kind} {found}")
    means = [cell(row, column) for row in rows if row.expected != "nothing"]
    above = sum(mean.separated and mean.mean > 0 for mean in means)
    sentence = f"{title}: {'; '.join(parts)}; always to say pre would be right in {above} of {len(means)}."
    numbered = [row for row in table.rows if row.theory is not None]
    if len(numbered) > 2:
        rank = _rank_correlation(
            [row.theory or 0.0 for row in numbered], [cell(row, column).mean for row in numbered]
        )
        written = f"{rank:+.2f}".replace("-", "−")
        sentence += f" Rank correlation of the theory's numbers with ours, {len(numbered)} rows: {written}."
    return sentence


def _rank_correlation(first: list[float], second: list[float]) -> float:
    """Spearman's, for numbers that hardly tie."""
    ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
