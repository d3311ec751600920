"""A reproduced table in words: cells, differences, and whether its order is the paper's. Torch-free."""

from collections import Counter
from itertools import combinations

import numpy as np

from fullrank.record import Record, TableEntry, TableRow
from fullrank.record.comparisons import paired_difference
from fullrank.reports.denominators import (
    baseline_rows,
    baseline_sentences,
    error_sentence,
    images_of,
    sample_sentences,
)
from fullrank.reports.numbers import decimals, in_points, signed
from fullrank.reports.reproduction.predictors import predictor_sentence
from fullrank.statistics import Estimate, correlations, mean_ranks


def cell(row: TableRow, column: int) -> Estimate:
    """One cell: the mean over the seeds of a row, with its 95 % t interval."""
    return Estimate.of(row.values[column])


def difference(row: TableRow, other: TableRow, column: int) -> Estimate | None:
    """A row minus another one, paired over the seeds that both have; None where they share none."""
    one, base = (dict(zip(each.seeds, each.values[column], strict=True)) for each in (row, other))
    return paired_difference(one, base)


def with_paper(table: TableEntry, column: int) -> bool:
    """Whether a column shows the paper's numbers; the first always does, if the table is a paper's."""
    numbers = any(row.paper[column] is not None for row in table.rows)
    return numbers or (column == 0 and table.paper is not None)


def paper_number(row: TableRow, column: int, unit: str) -> str:
    """The paper's number, or that it is not known."""
    value = row.paper[column]
    if value is None:
        return "not known"
    return in_points(value) if unit == "points" else f"{value:g}"


def digits(table: TableEntry, column: int) -> int:
    """How many decimals a column has: two where all its numbers lie within 1, such as R2, otherwise one."""
    values = [abs(value) for row in table.rows for value in row.values[column]]
    return 2 if table.units[column] == "number" and max(values, default=0.0) <= 1 else 1


def shown(estimate: Estimate, sign: bool = False, digits: int = 1) -> str:
    """A mean and its interval, with so many decimals."""
    written = signed if sign else decimals
    mean, low, high = (written(value, digits) for value in (estimate.mean, estimate.low, estimate.high))
    return mean if estimate.low is None else f"{mean} [{low}, {high}]"


def denominators(record: Record, table: TableEntry) -> list[str]:
    """The sentences under a table: images, classes, chance, sampling errors and baselines.

    The errors are those of the columns that are accuracies on all test images. A difference of two, and the
    accuracy of a class or a group, have others.
    """
    columns = table.accuracies
    if columns is None:  # an older record
        columns = [i for i, unit in enumerate(table.units) if unit == "points" and i not in table.differences]
    values = [value for row in table.rows for i in columns for value in row.values[i]]
    accuracies = [value for value in values if 0 <= value <= 100]
    sentences = sample_sentences(record.runs, None)
    if accuracies and len(tested := {each.test for each in images_of(record.runs, None)}) == 1:
        sentences.append(error_sentence(accuracies, tested.pop()))
    return sentences + baseline_sentences(baseline_rows(record.runs))


def verdict(table: TableEntry) -> list[str]:
    """The results in sentences: the paper's order against ours, and predictions against results."""
    sentences = [_order(table, column, title) for column, title in enumerate(table.columns)]
    if predictions := [row for row in table.rows if row.expected is not None]:
        sentences += [_outcomes(predictions, table, column) for column in table.differences]
    said = [sentence for sentence in (*sentences, predictor_sentence(table)) if sentence]
    if said or table.paper is None or any(value is not None for row in table.rows for value in row.paper):
        return said
    return ["The paper's numbers are not known here; the numbers below were measured."]


def outcome(row: TableRow, column: int) -> str:
    """The outcome of a prediction in a column: as predicted, contradicted, or not separated from 0."""
    if row.expected in (None, "nothing"):
        return "nothing predicted"
    mean = cell(row, column)
    if not mean.separated:
        return "not separated"
    return "as predicted" if (mean.mean > 0) == (row.expected == "pre") else "contradicted"


def _order(table: TableEntry, column: int, title: str) -> str:
    """How many pairs of rows are in the paper's order; "" where it has fewer than two numbers."""
    in_order, separated = [], []
    for one, other in combinations((row for row in table.rows if row.paper[column] is not None), 2):
        papers = (one.paper[column] or 0.0) - (other.paper[column] or 0.0)
        ours = difference(one, other, column)
        if papers != 0 and ours is not None:
            in_order.append(np.sign(papers) == np.sign(ours.mean))
            separated += in_order[-1:] * ours.separated
    if not in_order:
        return ""
    order = f"{title}: {sum(in_order)} of {len(in_order)} pairs of rows have the paper's order"
    if len(table.rows[0].seeds) < 2:
        return f"{order}; with one seed no difference has an interval."
    return f"{order}; our seeds separate {len(separated)}, {sum(separated)} in the paper's order."


def _outcomes(rows: list[TableRow], table: TableEntry, column: int) -> str:
    """The outcomes of the predictions of each kind, and how often always predicting "pre" would be right."""
    title, parts = table.columns[column], []
    for kind in ("pre", "post"):
        counts = Counter(outcome(row, column) for row in rows if row.expected == kind)
        words = [word for word in ("as predicted", "not separated", "contradicted") if word in counts]
        if words:
            listed = ", ".join(f"{counts[word]} {word}" for word in words)
            parts.append(f"of {counts.total()} predictions of {kind} {listed}")
    means = [cell(row, column) for row in rows if row.expected != "nothing"]
    above = sum(mean.separated and mean.mean > 0 for mean in means)
    sentence = (
        f"{title}: {'; '.join(parts)}; always predicting pre would be right in {above} of {len(means)}."
    )
    numbered = [row for row in table.rows if row.theory is not None]
    if len(numbered) > 2:
        both = np.array([[row.theory or 0.0, cell(row, column).mean] for row in numbered]).T
        rank = float(correlations(*mean_ranks(both)))
        written = f"{rank:+.2f}".replace("-", "−")
        sentence += (
            f" The rank correlation of the theory's numbers with ours over {len(numbered)} rows is {written}."
        )
    return sentence
