"""Results as tables of text for papers, notebooks and pages: one for all runs and studies. Torch-free."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fullrank.errors import UsageError
from fullrank.record import ChoiceEntry, DiagnosisEntry, Record, Result, TableEntry, TheoryEntry
from fullrank.record.combining import FROM, combine, is_study
from fullrank.record.comparisons import grouped
from fullrank.record.tidy import Row, diagnosis_rows, study_rows, theory_rows
from fullrank.reports.choice import words as choice_words
from fullrank.reports.numbers import decimals, in_points, signed
from fullrank.reports.reproduction import words

REFERENCE = "reference"
_MEASURES = {"linear_points": "linear", "nearest_points": "nearest", "recall_at_1_points": "recall@1"}
_RANKS = {"dimensions": "width", "live_dimensions": "live", "effective_rank": "effective rank"}


@dataclass(frozen=True)
class TextTable:
    """A table of text: the first `texts` columns are words, the others numbers.

    `title` names it, `caption` says what the numbers are in whole sentences, and `notes` what limits them.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str
    notes: tuple[str, ...] = ()
    texts: int = 1


def text_tables(results: Sequence[Result]) -> list[TextTable]:
    """One table for all runs and studies together, and one for each other result, in their order."""
    studies = [result for result in results if is_study(result.record)]
    tables = [study_table(studies)] if studies else []
    return tables + [_table_of(result) for result in results if result not in studies]


def study_table(results: Sequence[Result]) -> TextTable:
    """The results table of runs and studies; rows tested on the same images are paired by seed."""
    combination = combine(results)
    several = len(combination.records) > 1
    named = "row" if any(run.varied for run in combination.runs) else "head"
    by_name = grouped(((row["row"], row["tested_on"]), row) for row in study_rows(results))
    lines = []
    for (name, tested), rows in by_name.items():
        at = {row["place"]: row for row in rows}
        h, z = at.get("h", {}), at.get("z", {})
        line = {named: str(name), "tested on": short_data(str(tested)) if several else ""}
        line["linear on h"] = _with_half(h, "linear")
        line["linear on z"] = _with_half(z, "linear")
        line["nearest on h"] = _with_half(h, "nearest")
        line["difference on h"] = _with_interval(h, "difference")
        line["effective rank of h"] = in_points(_number(h, "effective_rank"))
        line["published"] = in_points(_number(h, "published_points"))
        line["seeds"] = str(rows[0]["seeds"])
        lines.append(line)
    for record in combination.records if len(lines) > len(combination.records) else ():
        first = record.runs[0].row
        next(line for line in lines if line[named] == first)["difference on h"] = REFERENCE
    columns, cells = _filled(lines)
    title = "Results" if several else f"Results on {short_data(combination.tested[0])}"
    caption = _study_caption(combination.records, study_rows(results), columns)
    return TextTable(title, columns, cells, caption, combination.notes, 2 if several else 1)


def reproduction_table(table: TableEntry) -> TextTable:
    """A reproduced table: the paper's numbers beside ours, and the differences to the first setting."""
    first = table.rows[0]
    lines = []
    for row in table.rows:
        line = {"setting": row.title}
        for number, (column, unit) in enumerate(zip(table.columns, table.units, strict=True)):
            if words.with_paper(table, number):
                line[f"{column}, paper"] = words.paper_number(row, number, unit)
            signs, digits = number in table.differences, words.digits(table, number)
            line[column] = words.shown(words.cell(row, number), signs, digits)
        if table.alike and len(table.rows) > 1:
            gap = None if row is first else words.difference(row, first, 0)
            line["difference"] = REFERENCE if row is first else words.shown(gap, sign=True) if gap else "–"
        lines.append(line)
    columns, cells = _filled(lines)
    paper = f"Paper: {table.paper}. " if table.paper else ""
    seeds = _count(len(first.seeds), "seed")
    interval = " with 95 % t intervals" if len(first.seeds) > 1 else ""
    difference = f" The difference is that of {table.columns[0]} to the first row."
    against = difference if "difference" in columns else ""
    caption = f"{table.title} ({table.source}). {paper}Here: {table.here}; {seeds}{interval}.{against}"
    return TextTable(table.title, columns, cells, caption, tuple(table.remarks))


def diagnosis_table(record: Record, diagnosis: DiagnosisEntry) -> TextTable:
    """A diagnosis: each place with its accuracies, its ranks and the causes that were found there."""
    rows = diagnosis_rows(record)
    lines = []
    for row in rows:
        line = {"place": f"{row['place']} (keep)" if row["cut"] else str(row["place"])}
        line["causes"] = ", ".join(str(row[level]) for level in ("alarms", "notes") if row[level])
        line |= {title: in_points(_number(row, column)) for column, title in _MEASURES.items()}
        line |= {
            title: in_points(value) if isinstance(value := row.get(column), float) else str(value or "–")
            for column, title in _RANKS.items()
        }
        lines.append(line)
    columns, cells = _filled(lines)
    title = f"Diagnosis of {diagnosis.target}"
    points = " Accuracies are points, 0 to 100." if set(columns) & set(_MEASURES.values()) else ""
    texts = 2 if "causes" in columns else 1
    return TextTable(title, columns, cells, f"{title}. {diagnosis.headline}{points}", texts=texts)


def theory_table(record: Record, theory: TheoryEntry) -> TextTable:
    """A theory run: predicted and simulated for each row and column of its theorem."""
    cells = tuple(
        (str(row["row"]), str(row["column"]), _short(row["predicted"]), _short(row["simulated"]))
        for row in theory_rows(record)
    )
    quantity = theory.quantity[:1].upper() + theory.quantity[1:]
    caption = f"{theory.statement} ({theory.source}). {quantity}."
    titles = ("row", "column", "predicted", "simulated")
    return TextTable(f"Theorem: {theory.theorem}", titles, cells, caption, tuple(theory.remarks), texts=2)


def choice_table(entry: ChoiceEntry) -> TextTable:
    """A choice without labels: every candidate, the shortlist first, with its score and its parts."""
    lines = []
    for row in choice_words.in_order(entry):
        line = {"run": row.run, "place": "" if row.place == "embedding" else row.place}
        line["rank"] = choice_words.status(entry, row)
        line["width"] = str(row.width)
        line["score"] = decimals(row.score, 2)
        line["95 % interval"] = choice_words.interval(row.low, row.high)
        line["first"], line["listed"] = map(choice_words.per_cent, (row.first, row.listed))
        line |= {name: decimals(row.parts.get(name), 2) for name in choice_words.part_names(entry)}
        seen = choice_words.accuracy_of(entry, row.run, row.place)
        line["accuracy with labels"] = in_points(None if seen is None else 100 * seen)
        lines.append(line)
    columns, cells = _filled(lines)
    labels = entry.labels
    of_labels = f" Accuracies in points, seen on {_count(labels.labels, 'labelled image')}." if labels else ""
    caption = f"{choice_words.summary(entry)} {entry.headline}{of_labels}"
    notes = (*choice_words.score_sentences(entry), *choice_words.regret_sentences(entry))
    texts = sum(column in ("run", "place", "rank") for column in columns)
    return TextTable("Choice without labels", columns, cells, caption, notes, texts)


def short_data(text: str) -> str:
    """Specs of data without the folders of a path: it is longer than a title and of this machine alone.

    >>> short_data("folder:/home/me/photos,split=0.2"), short_data("huggingface:user/set")
    ('folder:photos,split=0.2', 'huggingface:user/set')
    """
    return re.sub(r"(?<=[:=])[~.]?/(?:[^,]*/)?([^/,]+)/?", r"\1", text)


def _table_of(result: Result) -> TextTable:
    record = result.record
    if record.table is not None:
        return reproduction_table(record.table)
    if record.theory is not None:
        return theory_table(record, record.theory)
    if record.diagnosis is not None:
        return diagnosis_table(record, record.diagnosis)
    if record.choice is not None:
        return choice_table(record.choice)
    raise UsageError(f"{result.path} holds an empty {record.kind}; name a result with numbers.")


def _study_caption(records: Sequence[Record], rows: Sequence[Row], columns: Sequence[str]) -> str:
    """What the numbers of a study's table are, in a few sentences."""
    seeds = sorted({int(row["seeds"] or 0) for row in rows})
    counts = _count(seeds[0], "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    tested = [short_data(str(each)) for each in dict.fromkeys(row["tested_on"] for row in rows)]
    where = f"{', '.join(tested)}{_images(rows) if len(tested) == 1 else ''}"
    settings = [
        f"{key} {short_data(str(record.recipe[key]))}" for record in records[:1] for key in _shared(record)
    ]
    epochs = " or ".join(map(str, sorted({run.epochs for record in records for run in record.runs})))
    how = f"{', '.join(settings)}{', ' if settings else ''}{epochs} epoch{'' if epochs == '1' else 's'}"
    sentences = [f"Accuracy in points on the test images of {where} ({how}), over {counts}."]
    if any("±" in cell for cell in (_with_half(row, "linear") for row in rows)):
        sentences.append("± is half the 95 % t interval over seeds.")
    if "difference on h" in columns:
        against = records[0].runs[0].row if len(records) == 1 else "the first row of the same test images"
        sentences.append(f"Differences of the linear probe to {against} are paired by seed.")
    if "published" in columns:
        published = next(record.published for record in records if record.published)
        sentences.append(f"Published: {published.caption.rstrip('.')}.")
    return " ".join(sentences)


def _shared(record: Record) -> list[str]:
    """The keys of the recipe that a caption names, where all rows share them."""
    varied = {key for run in record.runs for key in run.varied}
    plain = [key for key in ("encoder", "objective") if isinstance(record.recipe.get(key), str)]
    return [key for key in plain if key not in varied and FROM not in varied]


def _images(rows: Sequence[Row]) -> str:
    """How many images and classes there were, and chance; "" where the record does not say."""
    counted = next((row for row in rows if row["test_images"] is not None), None)
    if counted is None:
        return ""
    train, test = (f"{counted[key]:,}" for key in ("train_images", "test_images"))
    chance = in_points(_number(counted, "chance_points"))
    return (
        f", {train} for training and {test} for testing, {counted['test_classes']} classes, chance {chance}"
    )


def _filled(lines: Sequence[dict[str, str]]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """The columns that hold anything, and their cells; the first column is always there."""
    names = list(lines[0])
    columns = [
        name for name in names if name == names[0] or any(line[name] not in ("", "–") for line in lines)
    ]
    return tuple(columns), tuple(tuple(line[column] for column in columns) for line in lines)


def _number(row: Row, column: str) -> float | None:
    value = row.get(column)
    return float(value) if isinstance(value, int | float) else None


def _with_half(row: Row, name: str) -> str:
    mean, low, high = (_number(row, f"{name}{end}_points") for end in ("", "_low", "_high"))
    return (
        in_points(mean)
        if low is None or high is None
        else f"{in_points(mean)} ± {in_points((high - low) / 2)}"
    )


def _with_interval(row: Row, name: str) -> str:
    mean, low, high = (_number(row, f"{name}{end}_points") for end in ("", "_low", "_high"))
    return signed(mean) if low is None else f"{signed(mean)} [{signed(low)}, {signed(high)}]"


def _short(value: object) -> str:
    return f"{value:.4g}".replace("-", "−") if isinstance(value, int | float) else "–"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def notes_of(tables: Iterable[TextTable]) -> list[str]:
    """The captions and notes of tables, for output that shows only the tables."""
    return [sentence for table in tables for sentence in (table.caption, *table.notes)]
