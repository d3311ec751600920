"""Results as plain rows for spreadsheets, pandas and papers: `fullrank table` and `to_frame()`. Torch-free.

A row is a dictionary of text, numbers and None for no number. All rows have `kind` and `folder`, the result's
own. Accuracies and their differences are points, 0 to 100, at full precision, and their columns end in
`_points`; `_low` and `_high` bound the 95 % t interval over seeds, None for a single seed.

- Runs and studies (`study_rows`): a row for each row of the results table and each `place`. `row` is its
  name: the `head` and the value of each varied key, which has a column of its own. `seeds` counts the runs
  behind the means. `linear`, `nearest` and `effective_rank` are measured on the test images. `dimensions` is
  the width of the place. `difference` is that of the linear probe to the row `against` at the same place,
  paired over `paired_seeds` seeds. `published` is the paper's number. Older records lack `train_images`,
  `test_images`, `test_classes`, `chance` and the probes on `pixels` and on the `untrained` encoder.
- Every score (`score_rows`): a row for each score of each run, in long form: its `seed`, `place`, `label`,
  `split`, `features`, `shots`, `probe`, `statistic`, `subject`, `unit` and `value`. Values in the unit points
  are 0 to 100. A few-shot score is the mean over `episodes` draws, with the interval `low` to `high`.
- Reproduced tables (`table_rows`): a row for each `setting` and `column`, in the column's `unit`: the number
  of the `paper`, `mean`, `low`, `high`, `seeds`, and the `difference` to the first setting, paired by seed.
  `predicted` (pre or post) and `theory` are what the theory said before any run.
- Diagnoses (`diagnosis_rows`): a row for each `place`, with its measures, and its `alarms` and `notes` as
  names of causes. `cut` says whether the diagnosis would cut the model there. Beside another target it also
  has that one's place, `against`, the likeness of both, and `before` of each measure. Of each accuracy it has
  both values on the same rows, `now` and `before`, and their `difference` with its 95 % interval.
- Choices without labels (`choice_rows`): a row for each candidate, a `run` and `place`. `rank` is its number
  on the shortlist, and `vetoes` say why it is left out. `score`, with 95 % of bootstrap samples, and the
  parts, as `part_...`, are 0 to 1. `first` and `listed` are shares of the samples. Criteria have columns of
  their own. `accuracy_points` is what labels saw, where there were some.
- Theory runs (`theory_rows`): a row for each `row` and `column` of the theorem, `predicted` and `simulated`.
"""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import TypeAlias

from fullrank.errors import UsageError
from fullrank.record.beside import SideBySide
from fullrank.record.choice import ChoiceEntry
from fullrank.record.combining import combine, is_study
from fullrank.record.comparisons import by_row, mean_of, paired_difference
from fullrank.record.schema import Record, Result, RunEntry, TableEntry
from fullrank.statistics import Estimate, live_dimensions

Cell: TypeAlias = str | float | int | bool | None
Row: TypeAlias = dict[str, Cell]


def tidy_rows(results: Sequence[Result]) -> list[Row]:
    """The rows of all results, every row with all columns; runs and studies are paired with each other."""
    studies = [result for result in results if is_study(result.record)]
    rows = study_rows(studies) if studies else []
    for result in results:
        rows += [] if result in studies else _rows_of(result)
    return with_all_columns(rows)


def _rows_of(result: Result) -> list[Row]:
    """The rows of a result that is neither a run nor a study."""
    record = result.record
    start: Row = {"kind": "table" if record.table else record.kind, "folder": str(result.path)}
    if record.table is not None:
        rows = table_rows(record.table)
    elif record.diagnosis is not None:
        rows = diagnosis_rows(record)
    elif record.choice is not None:
        rows = choice_rows(record.choice)
    elif record.theory is not None:
        rows = theory_rows(record)
    else:
        raise UsageError(f"{result.path} holds an empty {record.kind}; name a result with numbers.")
    return [start | row for row in rows]


def study_rows(results: Sequence[Result]) -> list[Row]:
    """Runs and studies: means over seeds for each row of their one table and each place."""
    homes = {str(each.path / run.folder): each for each in results for run in each.record.runs}
    rows = []
    combination = combine(results)
    for record, tested in zip(combination.records, combination.tested, strict=True):
        groups = by_row(record.runs)
        first = next(iter(groups))
        for name, runs in groups.items():
            start: Row = {
                "kind": "study" if len(record.runs) > 1 else "run",
                "folder": ", ".join(dict.fromkeys(str(homes[run.folder].path) for run in runs)),
                "row": name,
                "head": runs[0].head,
                **runs[0].varied,
                "tested_on": tested,
            }
            for place in dict.fromkeys(place for run in runs for place in (*run.probes, *run.spectrum)):
                base = None if name == first else groups[first]
                row = start | _at_place(runs, place) | _difference(runs, base, first, place)
                published = homes[runs[0].folder].record.published if place == "h" else None
                row["published_points"] = published.values.get(runs[0].head) if published else None
                rows.append(row | _images(runs))
    return rows


def score_rows(results: Sequence[Result]) -> list[Row]:
    """Every score of every run, in long form; results without runs have none."""
    studies = [result for result in results if result.record.runs]
    rows: list[Row] = []
    for result in studies:
        for run in result.record.runs:
            start: Row = {
                "kind": result.record.kind,
                "folder": str(result.path),
                "row": run.row,
                "head": run.head,
                **run.varied,
                "seed": run.seed,
            }
            for score in run.scores:
                scale = 100 if score.kind.unit == "points" else 1
                numbers = {"value": score.value, "low": score.low, "high": score.high}
                scaled = {name: None if end is None else scale * end for name, end in numbers.items()}
                rows.append(start | score.model_dump() | {"unit": score.kind.unit} | scaled)
    return with_all_columns(rows)


def table_rows(table: TableEntry) -> list[Row]:
    """A reproduced table: each setting and column, and its difference to the first setting."""
    rows: list[Row] = []
    for setting in table.rows:
        for number, (column, unit) in enumerate(zip(table.columns, table.units, strict=True)):
            base = table.rows[0] if table.alike and setting is not table.rows[0] else None
            own = dict(zip(setting.seeds, setting.values[number], strict=True))
            against = dict(zip(base.seeds, base.values[number], strict=True)) if base else {}
            row: Row = {"table": table.name, "scale": table.scale, "setting": setting.title, "column": column}
            row |= {"x": setting.x, "unit": unit, "paper": setting.paper[number]}
            row |= _interval("", Estimate.of(setting.values[number]), "") | {"seeds": len(own)}
            row |= {"against": base.title if base else None}
            row |= _interval("difference", paired_difference(own, against) if base else None, "")
            row |= {"predicted": setting.expected, "theory": setting.theory, "chosen": setting.chosen or None}
            rows.append(row)
    return rows


def diagnosis_rows(record: Record) -> list[Row]:
    """A diagnosis: each place with its measures and the causes that were found there."""
    diagnosis = record.diagnosis
    if diagnosis is None:
        return []
    layers = {layer.place: layer for layer in diagnosis.layers}
    rows = []
    for place in diagnosis.places:
        row: Row = {"target": diagnosis.target, "rows": diagnosis.rows, "place": place}
        row |= {measure.name: measure.value for measure in diagnosis.measures if measure.place == place}
        if place in diagnosis.spectrum:
            values = diagnosis.spectrum[place].singular_values
            row |= {"dimensions": len(values), "live_dimensions": live_dimensions(values)}
            row |= {"effective_rank": diagnosis.spectrum[place].effective_rank}
        if layer := layers.get(place):
            row |= {"dimensions": layer.width, "effective_rank": layer.effective_rank, "rankme": layer.rankme}
            shares = {"linear": layer.linear, "nearest": layer.nearest, "recall_at_1": layer.recall_at_1}
            row |= {f"{name}_points": _points(share) for name, share in shares.items()}
            row |= {"gradient_rank": layer.gradient_rank}
        for level in ("alarm", "note"):
            here = [one for one in diagnosis.findings if one.place in (place, "images")]
            causes = [one.cause for one in here if one.level == level]
            row[f"{level}s"] = ", ".join(dict.fromkeys(causes)) or None
        row |= {"cut": place == diagnosis.cut}
        rows.append(row if diagnosis.beside is None else row | _beside(diagnosis.beside, place))
    return with_all_columns(rows)


def _beside(beside: SideBySide, place: str) -> Row:
    """What the comparison with another target says of a place."""
    row: Row = {"other": beside.target}
    for pair in beside.pairs:
        if pair.place == place:
            row |= {"against": pair.against, "matched_rows": pair.rows, "cka": pair.cka}
            row |= {
                "overlap": pair.overlap,
                "overlap_low": pair.overlap_low,
                "overlap_high": pair.overlap_high,
            }
            row |= {"overlap_by_chance": pair.by_chance}
            row |= {"angle_median": median(pair.angles) if pair.angles else None}
            row |= {"angle_largest": max(pair.angles, default=None)}
            row |= {"distance": pair.distance, "rotated_distance": pair.rotated_distance}
            row |= {"kept": pair.kept, "added": pair.added}
    for score in beside.scores:
        if (score.place, score.against) == (place, row.get("against", score.against)):
            ends = {"now": score.now, "before": score.before, "difference": score.difference}
            ends |= {"difference_low": score.low, "difference_high": score.high}
            row |= {f"{score.name}_{end}_points": _points(share) for end, share in ends.items()}
            row |= {f"{score.name}_apart": score.apart}
    for measure in beside.measures:
        if measure.place == place:
            row |= {f"{measure.name}_before": measure.before, f"{measure.name}_apart": measure.apart}
    return row


def choice_rows(entry: ChoiceEntry) -> list[Row]:
    """A choice without labels: each candidate with its score, its parts, its criteria and its vetoes."""
    ranks = {(each.run, each.place): rank for rank, each in enumerate(entry.shortlist, 1)}
    accuracies = entry.labels.accuracies if entry.labels else [None] * len(entry.candidates)
    rows = []
    for each, accuracy in zip(entry.candidates, accuracies, strict=True):
        row: Row = {"run": each.run, "place": each.place, "dimensions": each.width}
        row |= {"rank": ranks.get((each.run, each.place)), "score": each.score}
        row |= {"score_low": each.low, "score_high": each.high, "first": each.first, "listed": each.listed}
        row |= {f"part_{name}": value for name, value in each.parts.items()} | each.values
        row |= {"trained_on": ", ".join(each.trained_on) or None, "vetoes": " ".join(each.vetoes) or None}
        rows.append(row | {"accuracy_points": _points(accuracy)})
    return with_all_columns(rows)


def theory_rows(record: Record) -> list[Row]:
    """A theory run: each row and column of its theorem, predicted and simulated."""
    theory = record.theory
    if theory is None:
        return []
    pairs = zip(theory.rows, record.predicted or [], record.simulated or [], strict=True)
    return [
        {"theorem": theory.theorem, "row": row, "column": column, "predicted": said, "simulated": done}
        for row, predicted, simulated in pairs
        for column, said, done in zip(theory.columns, predicted, simulated, strict=True)
    ]


def with_all_columns(rows: Iterable[Row]) -> list[Row]:
    """The rows with one and the same columns, in the order in which they first appear; None for no value."""
    rows = list(rows)
    columns = dict.fromkeys(column for row in rows for column in row)
    return [{column: row.get(column) for column in columns} for row in rows]


def _at_place(runs: Sequence[RunEntry], place: str) -> Row:
    """What the probes and the spectrum say at a place, means over the runs of a row."""
    probed = [run.probes[place] for run in runs if place in run.probes]
    spectra = [run.spectrum[place] for run in runs if place in run.spectrum]
    return {
        "place": place,
        "seeds": max(len(probed), len(spectra)),
        **_interval("linear", mean_of([100 * each.linear for each in probed])),
        **_interval("nearest", mean_of([100 * each.nearest for each in probed])),
        **_interval("effective_rank", mean_of([each.effective_rank for each in spectra]), ""),
        "dimensions": len(spectra[0].singular_values) if spectra else None,
    }


def _difference(runs: Sequence[RunEntry], base: Sequence[RunEntry] | None, first: str, place: str) -> Row:
    """Linear accuracy less that of the first row at the same place, paired over the seeds both have."""
    own, against = (
        {run.seed: run.probes[place].linear for run in each if place in run.probes}
        for each in (runs, base or ())
    )
    estimate = paired_difference(own, against, 100)
    return {
        "against": first if estimate else None,
        **_interval("difference", estimate),
        "paired_seeds": len(own.keys() & against.keys()) if estimate else None,
    }


def _images(runs: Sequence[RunEntry]) -> Row:
    """What the probes were fitted and scored on, and the same probes on features that no training made."""
    images = next((run.images for run in runs if run.images), None)
    row: Row = {
        "train_images": images.train if images else None,
        "test_images": images.test if images else None,
        "test_classes": images.classes if images else None,
        "chance_points": _points(images.chance if images else None),
    }
    for features in ("pixels", "untrained"):
        same = [each for run in runs for each in run.baselines if each.features == features]
        for probe in ("linear", "nearest"):
            shares = [getattr(each, probe) for each in same]
            estimate = mean_of([100 * share for share in shares if share is not None])
            row[f"{features}_{probe}_points"] = estimate.mean if estimate else None
    return row


def _interval(name: str, estimate: Estimate | None, unit: str = "points") -> Row:
    """A mean and the ends of its interval, named by what they are and their unit."""
    ends = {"" if name else "mean": "mean", "low": "low", "high": "high"}
    columns = {"_".join(filter(None, (name, end, unit))): field for end, field in ends.items()}
    return {column: getattr(estimate, field) if estimate else None for column, field in columns.items()}


def _points(share: float | None) -> float | None:
    return None if share is None else 100 * share
