"""Tables of results for a terminal of 80 columns."""

from collections.abc import Iterable, Sequence
from operator import attrgetter
from statistics import fmean
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from fullrank.errors import count_of
from fullrank.record import Record, RunEntry, Score
from fullrank.record.comparisons import grouped
from fullrank.record.scores import (
    CORRECTIONS,
    LABELS_SCORED,
    LEFT_OUT,
    MEAN_AUROC,
    MEAN_PRECISION,
    PREDICTED,
    RELATIVE,
)
from fullrank.reports.denominators import (
    TITLES,
    baseline_row,
    baseline_sentences,
    error_sentence,
    images_sentence,
    under_table,
)
from fullrank.reports.numbers import in_points, signed
from fullrank.reports.redundancy import curves_of_scores, numbers_table, sentences
from fullrank.reports.run.alarms import alarm_sentences
from fullrank.reports.run.factors import DialCell, dial_factors, dial_rows
from fullrank.reports.run.rows import RowNames, row_names
from fullrank.reports.run.scores import ShiftedScore, shifted_scores
from fullrank.reports.run.tables import HeadRow, head_table
from fullrank.reports.run.words import OTHER_IMAGES, sampling_notes
from fullrank.reports.segmentation import (
    GRADIENT_MEANING,
    MEANING as OBJECTS,
    OF_ATTENTION,
    OF_GRADIENT,
    cell_text as object_text,
    object_tables,
)
from fullrank.reports.view_readout import MEANING, cell_text, readout_table
from fullrank.statistics import Estimate

if TYPE_CHECKING:
    from fullrank.evaluation.evaluate import Evaluation
    from fullrank.training.dry_run import Rehearsal

_SEVERAL = (
    "Points on the test images: means over the labels, of a linear probe for each. Chance of AUROC is 50."
)
# The width to which a column of text may shrink.
_READABLE = 12
_Row = tuple[tuple[str, ...], Iterable[DialCell | None]]


class FittedTable(Table):
    """A table whose columns of numbers continue in tables below it where the terminal is too narrow.

    Columns of text, which come first, fold. In every table they have 12 characters or as many as they need.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table, or its parts one below the other."""
        for columns in _beside(self.columns, options.max_width, sum(self.padding[1::2]) + 1):
            part = Table(box=self.box, pad_edge=self.pad_edge, padding=self.padding)
            for column in columns:
                part.add_column(
                    column.header, justify=column.justify, no_wrap=column.no_wrap, overflow=column.overflow
                )
            for cells in zip(*(column.cells for column in columns), strict=True):
                part.add_row(*cells)
            yield from part.__rich_console__(console, options)


def _beside(columns: Sequence[Column], width: int, between: int) -> list[list[Column]]:
    """The columns of each part of a table: all that fold, and as many of the others as fit into `width`."""
    texts = [column for column in columns if not column.no_wrap]
    taken = sum(min(_widest(column), _READABLE) + between for column in texts)
    parts, room = [list(texts)], width - taken
    for column in columns:
        if column.no_wrap:
            needed = _widest(column) + between
            if needed > room and len(parts[-1]) > len(texts):
                parts.append(list(texts))
                room = width - taken
            parts[-1].append(column)
            room -= needed
    return parts


def _widest(column: Column) -> int:
    """The length of the longest line of a column, its title included."""
    cells = [column.header, *column.cells]
    return max(len(line) for cell in cells for line in (_without_markup(str(cell)).splitlines() or [""]))


def plain_table(texts: Iterable[str], numbers: Iterable[str], *, tight: bool = False) -> Table:
    """An empty table: columns of text, which fold, then columns of numbers, which do not fold."""
    padding = (0, 0, 0, 1) if tight else (0, 1)
    table = FittedTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=padding)
    for title in texts:
        table.add_column(escape(title), overflow="fold")
    for title in numbers:
        table.add_column(escape(title), justify="right", no_wrap=True)
    return table


def print_record(record: Record) -> None:
    """The results table of a run or study, with the paper's numbers where the record has some."""
    rows, names, console = head_table(record), row_names(record.runs), Console()
    apart = len({row.against for row in rows}) > 1
    several, published = len(rows) > 1, record.published is not None
    first = rows[0].head if len(names.keys) == 1 and not apart else "first row"
    titles = ["linear h", "z", "near h", *([f"h - {first}"] if several else []), "rank h"]
    titles += ["paper"] if published else []
    numbers = []
    for row in rows:
        cells = [_with_half(row.linear), _mean(row.linear_z), _mean(row.nearest)]
        cells += [_difference(row.difference)] if several else []
        cells += [in_points(row.effective_rank)]
        cells += [in_points(row.published)] if published else []
        numbers.append(cells)
    columns = zip(titles, *(map(_without_markup, cells) for cells in numbers), strict=True)
    room = console.width - 2 - sum(max(map(len, column)) + 2 for column in columns)
    table = plain_table(_label_titles(names, room), titles, tight=True)
    for row, cells in zip(rows, numbers, strict=True):
        table.add_row(*map(escape, _labels(names, row.row, room)), *cells)
    console.print(table)
    labels_table = _several_table(
        [(run.row, score) for run in record.runs for score in run.scores], ", ".join(names.keys)
    )
    console.print(labels_table or _note(rows, record), highlight=False)
    if labels_table:
        console.print(_SEVERAL, highlight=False)
    if apart:
        console.print(OTHER_IMAGES, highlight=False)
    if any(row.linear for row in rows):
        for sentence in (*_under_table(record.runs), *sampling_notes(rows)):
            console.print(escape(sentence), highlight=False)
    for sentence in alarm_sentences(record):
        console.print(escape(sentence), highlight=False)
    print_dial(record)


def _label_titles(names: RowNames, room: int) -> list[str]:
    """The titles of the columns that name a row."""
    return list(names.keys) if _fits(names, room) else [", ".join(names.keys)]


def _labels(names: RowNames, row: str, room: int) -> list[str]:
    """The cells that name a row: one for each setting where they fit, or else one with a line for each."""
    return list(names.values[row]) if _fits(names, room) else [_lines(names, row)]


def _lines(names: RowNames, row: str) -> str:
    """The settings of a row, each on a line of its own."""
    settings = zip(names.keys, names.values[row], strict=True)
    return "\n".join(value if key == "head" else f"{key}={value}" for key, value in settings)


def _fits(names: RowNames, room: int) -> bool:
    """Whether a column for each setting of the rows fits into so many characters."""
    columns = zip(names.keys, *names.values.values(), strict=True)
    return len(names.keys) == 1 or sum(max(map(len, column)) + 2 for column in columns) <= room


def _without_markup(cell: str) -> str:
    return Text.from_markup(cell).plain


def _several_table(scores: Sequence[tuple[str, Score]], title: str) -> Table | None:
    """Mean AUROC and mean average precision of each row and place, means over seeds; None without any."""
    cells = grouped(
        ((row, score.place, score.statistic), score.value) for row, score in scores if score.kind.over_labels
    )
    table = plain_table([title, "place"] if title else ["place"], ["mean AUROC", "mean AP", "labels"])
    for row, place in dict.fromkeys(key[:2] for key in cells):
        means = [fmean(cells[row, place, name]) for name in (MEAN_AUROC, MEAN_PRECISION, LABELS_SCORED)]
        names = [escape(row), escape(place)] if title else [escape(place)]
        table.add_row(*names, in_points(100 * means[0]), in_points(100 * means[1]), f"{means[2]:.0f}")
    return table if cells else None


def print_evaluation(evaluation: "Evaluation") -> None:
    """Each place, what was measured besides the default protocol, classes, factors, shifts, and notes."""
    from fullrank.cli.classes import print_classes

    console = Console(highlight=False)
    console.print(_places(evaluation))
    if several := _several_table([("", score) for score in evaluation.scores], ""):
        console.print(several)
    for sentence in _denominators(evaluation):
        console.print(escape(sentence))
    further = [score for score in evaluation.scores if score.split == "test" and not _in_a_table(score)]
    if further:
        table = plain_table(["place", "measure"], ["shots", "points"])
        for score in further:
            shots = "all" if score.shots is None else str(score.shots)
            table.add_row(escape(score.place), escape(score.measure), shots, _value(score))
        console.print(table)
        if episodes := {score.episodes for score in further if score.low is not None}:
            draws = " or ".join(map(str, sorted(filter(None, episodes))))
            console.print(f"[ ]: 95 % t interval over {draws} draws of the training images.", markup=False)
    print_classes(evaluation.scores)
    print_factors(evaluation.scores)
    print_view_scores(evaluation.scores)
    print_redundancy(evaluation.scores, None if evaluation.images is None else evaluation.images.chance)
    print_objects(evaluation.scores)
    if shifted := shifted_scores(evaluation.scores):
        console.print(_shifts(shifted))
        if any(score.fewer for score in shifted):
            console.print("* of the shift's classes only, and predicted only among these classes.")
    for note in evaluation.notes:
        console.print(escape(note))


def _denominators(evaluation: "Evaluation") -> list[str]:
    """Images, classes and chance, of shifts too; the sampling errors of the table; baselines."""
    if (images := evaluation.images) is None:
        return []
    accuracies = [100 * probe.linear for probe in evaluation.probes.values()]
    sentences = [images_sentence(images), error_sentence(accuracies, images.test)]
    rows = [baseline_row(TITLES[each.features], [each]) for each in evaluation.baselines]
    return sentences + baseline_sentences(rows) + [images_sentence(each) for each in evaluation.shifted]


def _places(evaluation: "Evaluation") -> Table:
    probed = evaluation.probes
    table = plain_table(["place"], [*(["linear", "nearest"] if probed else []), "width", "rank"])
    for place, spectrum in evaluation.spectrum.items():
        shares = [probed[place].linear, probed[place].nearest] if probed else []
        accuracies = [in_points(100 * share) for share in shares]
        sizes = [str(len(spectrum.singular_values)), in_points(spectrum.effective_rank)]
        table.add_row(escape(place), *accuracies, *sizes)
    return table


def _shifts(shifted: Sequence[ShiftedScore]) -> Table:
    """Accuracy under each shift beside that on the test images of the same classes."""
    table = plain_table(["place", "shift", "probe"], ["test", "shift", "difference"])
    for score in shifted:
        inside = None if score.inside is None else 100 * score.inside
        difference = None if inside is None else 100 * score.shifted - inside
        tested = in_points(inside) + ("*" if score.fewer else "")
        cells = [tested, in_points(100 * score.shifted), signed(difference)]
        table.add_row(escape(score.place), escape(score.shift), score.probe, *cells)
    return table


def print_rehearsal(rehearsal: "Rehearsal") -> None:
    """What a dry run tried, and which keys of the recipe it replaced."""
    entry, recipe = rehearsal.entry, rehearsal.recipe
    console = Console(highlight=False)
    table = plain_table(["key", "recipe", "dry run"], [])
    for key, value in rehearsal.replaced.items():
        if key != "data" and (own := attrgetter(key)(recipe)) != value:
            table.add_row(key, str(own), str(value))
    console.print(table)
    millions = sum(entry.parameters.values()) / 1e6
    kind = rehearsal.replaced["data"].partition(":")[0].partition(",")[0]
    where = f"in the layout of {kind}" if recipe.data.startswith(kind) else f"in a {kind}"
    console.print(
        f"Tried: {recipe.encoder}, {recipe.head}, {recipe.objective}, {recipe.views}; {millions:.1f} "
        f"million weights, {count_of(entry.steps, 'step')} in {entry.seconds:.0f} s, loss {entry.loss:.2f}, "
        f"probes at {escape(', '.join(entry.probes))}. The images were generated, {where}: the numbers mean "
        "nothing, and nothing was kept."
    )


def _in_a_table(score: Score) -> bool:
    """Whether a score is in another table: of places, labels, shifts, classes, corrections and so on."""
    kind = score.kind
    in_first = (kind.by_default and score.shots is None) or kind.over_labels
    in_others = kind.by_class or kind.by_factor or kind.by_operation or kind.by_directions or kind.of_objects
    return in_first or kind.subject == "shift" or in_others or kind.measure == CORRECTIONS


def _value(score: Score) -> str:
    if score.kind.unit != "points":
        return f"{score.value:.3g}"
    value = in_points(100 * score.value)
    if score.low is None or score.high is None:
        return value
    return f"{value} \\[{in_points(100 * score.low)}, {in_points(100 * score.high)}]"


def _under_table(runs: Sequence[RunEntry]) -> list[str]:
    """What the accuracies are based on: images, classes, chance, sampling errors and baselines."""
    accuracies = [
        100 * run.probes[place].linear for run in runs for place in ("h", "z") if place in run.probes
    ]
    return under_table(runs, accuracies)


def _note(rows: list[HeadRow], record: Record) -> str:
    if all(row.linear is None for row in rows):
        return "No probes: they need 2 classes or more to train on, and labelled test images."
    sentences = ["Points on the test images: linear probe on h and z, nearest neighbours on h."]
    if any(row.linear is not None and row.linear.half is not None for row in rows):
        sentences.append("± and [ ]: 95 % t intervals over seeds; differences are paired.")
    if record.published is not None:
        sentences.append(f"paper: {escape(record.published.caption)}.")
    return " ".join(sentences)


def _mean(estimate: Estimate | None) -> str:
    return in_points(None if estimate is None else estimate.mean)


def _with_half(estimate: Estimate | None) -> str:
    half = None if estimate is None else estimate.half
    return _mean(estimate) + ("" if half is None else f" ±{in_points(half)}")


def _difference(estimate: Estimate | None) -> str:
    if estimate is None or estimate.low is None:
        return signed(None if estimate is None else estimate.mean)
    return f"{signed(estimate.mean)} \\[{signed(estimate.low)}, {signed(estimate.high)}]"


def print_dial(record: Record) -> None:
    """The weights at h and z in each row of a record; nothing without factors."""
    rows: list[_Row] = []
    names, named = row_names(record.runs), ""
    for row in dial_rows(record):
        rows.append((("" if row.head == named else _lines(names, row.head), row.place), row.cells))
        named = row.head
    left_out = ", ".join(dial_factors(record, LEFT_OUT))
    note = f" Left out, because they are associated with another factor: {left_out}." if left_out else ""
    _print_weights(
        (", ".join(names.keys), "place"), dial_factors(record), rows, ", on clean test images", note
    )


def print_view_scores(scores: Sequence[Score]) -> None:
    """What the features at each place know of the views; nothing without such scores."""
    table = readout_table(scores)
    if table is None:
        return
    console, shown = Console(highlight=False), plain_table(["operation", ""], table.places, tight=True)
    for row in table.rows:
        shown.add_row(escape(row.operation), row.shown, *map(cell_text, row.cells))
    console.print(shown)
    for sentence in (*table.sentences, MEANING):
        console.print(escape(sentence))


def print_redundancy(scores: Sequence[Score], chance: float | None = None) -> None:
    """Accuracy by number of directions at each place, and DR in sentences; nothing without such scores."""
    console = Console(highlight=False)
    places = curves_of_scores(scores)
    for each in places:
        table = numbers_table(each)
        shown = plain_table([], table.columns, tight=True)
        for row in table.rows:
            shown.add_row(*map(escape, row))
        console.print(escape(table.title))
        console.print(shown)
        for sentence in sentences(each, chance):
            console.print(escape(sentence))
    for caption in dict.fromkeys(numbers_table(each).caption for each in places):
        console.print(escape(caption))


def print_objects(scores: Sequence[Score]) -> None:
    """How well attention and gradient find the objects; nothing without such scores."""
    tables = object_tables(scores)
    if tables is None:
        return
    console = Console(highlight=False)
    for rows, columns, meaning in (
        (tables.attention, OF_ATTENTION, OBJECTS),
        (tables.gradient, OF_GRADIENT, GRADIENT_MEANING),
    ):
        if rows:
            table = plain_table(["share"], columns.values(), tight=True)
            for row in rows:
                table.add_row(row.share or "on objects", *map(object_text, row.cells))
            console.print(table)
            console.print(escape(f"{meaning} ± is half the 95 % t interval over images."))
    for sentence in tables.sentences:
        console.print(escape(sentence))


def print_factors(scores: Sequence[Score]) -> None:
    """The weights at each place of a run; nothing without factors."""
    weights = {(s.place, s.label): Estimate(s.value) for s in scores if s.statistic == RELATIVE}
    predicted = {(s.place, s.label): s.value for s in scores if s.statistic == PREDICTED}
    cells = {key: DialCell(weight, predicted.get(key)) for key, weight in weights.items()}
    factors = list(dict.fromkeys(factor for _, factor in weights))
    places = dict.fromkeys(place for place, _ in weights)
    rows: list[_Row] = [((place,), [cells[place, factor] for factor in factors]) for place in places]
    _print_weights(("place",), factors, rows)


def _print_weights(
    titles: Sequence[str], factors: Sequence[str], rows: Sequence[_Row], where: str = "", note: str = ""
) -> None:
    if not rows:
        return
    table = plain_table(titles, factors, tight=len(titles) > 1)
    for labels, cells in rows:
        table.add_row(*map(escape, labels), *map(_cell, cells))
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"Weight of each factor relative to the largest at that place{where}; in brackets the prediction "
        f"of the linear theory.{escape(note)}"
    )


def _cell(cell: DialCell | None) -> str:
    if cell is None:
        return "–"
    predicted = "–" if cell.predicted is None else f"{cell.predicted:.2f}"
    return f"{cell.measured.mean:.2f} ({predicted})"
