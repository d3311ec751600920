"""Tables and figures, measured: those of the papers, with their numbers beside ours, and your own."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

from fullrank.door import import_modules
from fullrank.errors import DataError, UsageError
from fullrank.files import write_whole
from fullrank.progress import progress_bar
from fullrank.record import RECORD_FILE, Record, Result, RunEntry, TableEntry, TableRow
from fullrank.record.comparisons import tested_on
from fullrank.record.making import new_record
from fullrank.record.scores import statistic
from fullrank.runs.folders import slug
from fullrank.runs.recipe import Recipe, parsed_parts
from fullrank.statistics import live_dimensions
from fullrank.studies.forward_forward.nets import finish_nets, rehearse_nets
from fullrank.studies.forward_forward.study import StudyPlan
from fullrank.studies.many_runs import PlannedRun, check_parts, finish_runs, score_of
from fullrank.studies.own_tables import OwnTable, chosen_own, names_file
from fullrank.studies.table import (
    AnyTable,
    RankKey,
    Row,
    Scale,
    ScoreKey,
    Setting,
    StudyTable,
    Table,
    TheoremFigure,
    chosen_tables,
)
from fullrank.theory import theorem_named
from fullrank.theory.run import run_theorem
from fullrank.training.dry_run import check_on_generated, dry_run

RUNS = "runs"


@dataclass(frozen=True, repr=False)
class Reproduction(Result):
    """A table or figure that was measured.

    Args:
        path: The folder of the table.
        record: Its record, with the table and its runs.
        name: The name of the table, as in `fullrank list tables`.
        title: Its title.
    """

    name: str
    title: str


@dataclass(frozen=True)
class TablePlan:
    """A table at a scale: the runs that it needs, in folders under `store`, and the record made from them."""

    name: str
    table: Table
    scale: Scale
    seeds: int
    store: Path
    files: Mapping[str, bytes] = field(default_factory=dict)

    def trials(self) -> list[PlannedRun]:
        """The runs that settings are chosen with; none for a table that is not tuned."""
        rows = self.table.rows_at(self.scale) if self.table.tune else []
        return [run for row in rows for _, _, run in self._row_trials(row)]

    def runs(self) -> list[PlannedRun]:
        """The runs whose numbers the table shows, one for each row and seed; tuning must be finished."""
        return [run for row in self.table.rows_at(self.scale) for run in self._row_runs(row)]

    def tabulated(self, folder: Path) -> Record:
        """Write the record of the table and its finished runs into a folder, and return it."""
        table, rows = self.table, self.table.rows_at(self.scale)
        runs = {run.folder: run for run in self.runs()}
        entries = [
            run.entry.model_copy(update={"folder": f"../{RUNS}/{path.name}"}) for path, run in runs.items()
        ]
        recipes = [run.recipe for run in runs.values()]
        settings = [recipe.model_dump(mode="json") for recipe in recipes]
        entry = TableEntry(
            name=self.name,
            file=next(iter(self.files), None),
            scale=self.scale,
            here=_measured_on(recipes),
            alike=len(set(map(tested_on, settings))) == 1 and len({row.label for row in rows}) == 1,
            columns=[column.title for column in table.columns],
            units=[column.unit for column in table.columns],
            differences=[i for i, column in enumerate(table.columns) if column.is_difference],
            accuracies=[i for i, column in enumerate(table.columns) if column.is_accuracy],
            rows=[self._row_entry(row) for row in rows],
            **table.model_dump(
                include={
                    *("title", "source", "question", "paper", "spectrum", "x", "log_x", "remarks", "predicts")
                }
            ),
        )
        needed = tuple(dict.fromkeys(origin for recipe in recipes for origin in recipe.imports))
        shared = recipes[0].model_copy(update={"imports": needed})
        record = new_record("study", shared.model_dump(mode="json"), entries, table=entry)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            write_whole(folder / name, content)
        record.save(folder)
        return record

    def _row_trials(self, row: Row) -> list[tuple[str, Setting, PlannedRun]]:
        """Each key to tune, one of its values, and the run that tries it with the row's other settings."""
        tune = self.table.tune
        if tune is None:
            return []
        recipe = self.table.recipe_of(row, self.scale, tune.seed)
        scores = [self.table.judged_by(row, self.scale)]
        trials = []
        for key, values in (tune.grid | row.grid).items():
            for value in values:
                keys, title = {key: value, "held_out": tune.held_out}, f"{row.title}, trying {key}={value}"
                trials.append((key, value, self._run(title, recipe, scores, keys)))
        return trials

    def _chosen(self, row: Row) -> dict[str, Setting]:
        """For each tuned key the value with the best first column; the first of equal ones."""
        scores: dict[str, dict[Setting, float]] = defaultdict(dict)
        for key, value, run in self._row_trials(row):
            scores[key][value] = score_of(run.entry, self.table.judged_by(row, self.scale))
        return {key: max(by_value, key=by_value.__getitem__) for key, by_value in scores.items()}

    def _row_runs(self, row: Row) -> list[PlannedRun]:
        chosen = self._chosen(row)
        reads = self.table.reads(row, self.scale)
        scores = [key for pair in reads for key in pair if isinstance(key, ScoreKey)]
        recipes = [self.table.recipe_of(row, self.scale, seed) for seed in range(self.seeds)]
        return [self._run(f"{row.title}, seed {r.seed}", r, scores, chosen) for r in recipes]

    def _run(
        self, title: str, recipe: Recipe, scores: Sequence[ScoreKey], keys: Mapping[str, Any]
    ) -> PlannedRun:
        recipe = Recipe.resolve(recipe, parsed_parts(keys))
        return PlannedRun(title, recipe, self.store / run_name(recipe), tuple(scores))

    def _row_entry(self, row: Row) -> TableRow:
        runs = self._row_runs(row)
        entries = [run.entry for run in runs]
        return TableRow(
            title=row.title,
            seeds=[entry.seed for entry in entries],
            runs=[run.folder.name for run in runs],
            paper=row.paper or [None] * len(self.table.columns),
            values=[
                [_value(entry, *keys) for entry in entries] for keys in self.table.reads(row, self.scale)
            ],
            x=row.x,
            expected=row.expected,
            theory=row.theory,
            chosen=", ".join(f"{key}={value}" for key, value in self._chosen(row).items()),
        )


def reproduce(
    names: str | Path | Sequence[str | Path],
    *,
    scale: Scale = "mini",
    seeds: int | None = None,
    workers: int = 1,
    out: str | Path | None = None,
    imports: Sequence[str | Path | ModuleType] = (),
) -> list[Reproduction]:
    """Measure tables and figures at a scale, each in a folder of its own.

    Runs are named by their recipe, so tables share them, and a finished run is never trained again. After
    Ctrl-C the same call continues.

    Args:
        names: Names of shipped tables (`table_names`), of a paper for all of its tables, "all", or YAML files
            with tables of your own (docs/your-own-table.md).
        scale: The scale at which tables are measured.
        seeds: Number of seeds instead of each table's own.
        workers: Number of runs that are trained at a time.
        out: The folder for all tables, and for their runs below runs/; by default runs/reproduce-SCALE.
        imports: Modules that register parts of yours.

    Returns:
        The tables, in the order in which they were chosen.

    Raises:
        UsageError: Before any training, for an unknown name, a wrong file or a table without that scale.
        InterruptedRunError: On Ctrl-C, after saving.
    """
    import_modules(imports)
    own = chosen_own([name for name in _listed(names) if names_file(name)], scale)
    chosen = _chosen(names, own, scale)
    if seeds is not None and seeds < 1:
        raise UsageError(f"--seeds must be 1 or more, but got {seeds}.")
    folder = Path(out) if out is not None else Path("runs") / f"reproduce-{scale}"
    for path in (folder, folder / RUNS, *(folder / slug(name) for name in chosen)):
        if path.is_file():
            raise UsageError(f"{path} is a file, but results need a folder of that name; give another --out.")
    files = {name: each.files for name, each in own.items()}
    plans = {
        name: TablePlan(name, table, scale, seeds or table.seeds[scale], folder / RUNS, files.get(name, {}))
        for name, table in chosen.items()
        if isinstance(table, Table)
    }
    studies = {
        name: StudyPlan(name, table, scale, seeds or table.seeds[scale], folder / RUNS)
        for name, table in chosen.items()
        if isinstance(table, StudyTable)
    }
    for study in studies.values():
        study.check()
    for stage in (TablePlan.trials, TablePlan.runs):  # what is tuned decides which runs there are
        runs: dict[Path, PlannedRun] = {}  # with the scores that any of the tables reads
        for run in chain.from_iterable(map(stage, plans.values())):
            runs[run.folder] = run.with_scores(runs.get(run.folder, run).scores)
        check_parts({run.title: run.recipe for run in runs.values() if not run.trained})
        finish_runs(list(runs.values()), workers, go_on="the same command continues them")
    finish_nets([net for study in studies.values() for net in study.nets()], workers)
    made = {name: plan.tabulated(folder / slug(name)) for name, plan in (plans | studies).items()}
    return [
        _shown(name, table, scale, folder / slug(name))
        if isinstance(table, TheoremFigure)
        else Reproduction(folder / slug(name), made[name], name, table.title)
        for name, table in chosen.items()
    ]


def rehearse(names: str | Path | Sequence[str | Path], *, scale: Scale = "mini") -> list[Recipe]:
    """Build the parts of every recipe that tables need, on generated images; nothing is kept.

    Of recipes that differ only in their head, the first is also trained for two steps and probed.

    Args:
        names: What `reproduce` takes.
        scale: The scale of the tables.

    Returns:
        The recipes.

    Raises:
        UsageError: Where parts do not fit, and for what `reproduce` refuses.
    """
    own = chosen_own([name for name in _listed(names) if names_file(name)], scale)
    tables = [table for table in _chosen(names, own, scale).values() if isinstance(table, Table)]
    needed = [table.recipe_of(row, scale, seed=0) for table in tables for row in table.rows_at(scale)]
    recipes = {run_name(recipe): recipe for recipe in needed}
    walked: list[Recipe] = []
    for recipe in recipes.values():
        alike = Recipe.resolve(recipe, {"head": "none"})
        if alike in walked:
            check_on_generated(recipe)
        else:
            dry_run(recipe)
            walked.append(alike)
    return list(recipes.values())


def rehearse_studies(names: str | Path | Sequence[str | Path], *, scale: Scale = "mini") -> list[str]:
    """Train each net that tables with a study of their own need for one epoch, on generated images.

    Args:
        names: What `reproduce` takes.
        scale: The scale of the tables.

    Returns:
        The nets, in words.

    Raises:
        UsageError: Where images are too small for the label pixels.
    """
    shipped = [name for name in _listed(names) if not names_file(name)]
    tables = [table for table in _chosen(shipped, {}, scale).values() if isinstance(table, StudyTable)]
    return [title for table in tables for title in rehearse_nets(table.settings[scale])]


def _listed(names: str | Path | Sequence[str | Path]) -> list[str | Path]:
    return [names] if isinstance(names, str | Path) else list(names)


def _chosen(
    names: str | Path | Sequence[str | Path], own: Mapping[str, OwnTable], scale: Scale
) -> dict[str, AnyTable]:
    """The shipped tables that are named, and those of files."""
    shipped = [str(name) for name in _listed(names) if not names_file(name)]
    return chosen_tables(shipped, scale) | {name: each.table for name, each in own.items()}


def training_minutes(tables: Sequence[Reproduction]) -> tuple[int, float]:
    """The number of runs behind some tables, each counted once, and the minutes that their training took."""
    seconds = {(each.path / run.folder).resolve(): run.seconds for each in tables for run in each.record.runs}
    return len(seconds), sum(seconds.values()) / 60


def run_name(recipe: Recipe) -> str:
    """The folder of a run that many tables may share: its data, head and seed, and a digest of its recipe.

    Keys at their default do not count. A key that a later version adds therefore changes no name.

    >>> run_name(Recipe.resolve("digits", {"head": "mlp:48", "seed": 3}))
    'digits-mlp-48-2ea7a0d9-seed3'
    """
    keys = recipe.model_dump(mode="json", exclude_defaults=True, exclude={"seed"})
    digest = hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()[:8]
    return f"{slug(recipe.data)}-{slug(recipe.head)}-{digest}-seed{recipe.seed}"


def _shown(name: str, figure: TheoremFigure, scale: Scale, folder: Path) -> Reproduction:
    """Run the theorem of a figure, unless the folder already holds its record with the same settings."""
    settings, full = figure.settings[scale], scale in figure.full
    theorem = theorem_named(figure.theorem, full=full, **settings)
    wanted = {"theorem": figure.theorem, **theorem.model_dump(mode="json")}
    if (folder / RECORD_FILE).is_file() and (record := Record.load(folder)).recipe == wanted:
        return Reproduction(folder, record, name, figure.title)
    with progress_bar() as progress:
        run = run_theorem(figure.theorem, full=full, out=folder, progress=progress, **settings)
    return Reproduction(run.path, run.record, name, figure.title)


def _measured_on(recipes: Sequence[Recipe]) -> str:
    """Data, encoders and epochs of some recipes, in a few words; three or more are counted."""
    lengths = [recipe.epochs for recipe in recipes]
    kinds: dict[str, dict[str, None]] = {
        "data sets": dict.fromkeys(recipe.data for recipe in recipes),
        "encoders": dict.fromkeys(recipe.encoder for recipe in recipes),
        "lengths of training": dict.fromkeys(f"{n} epoch{'s' * (n > 1)}" for n in lengths),
    }
    return ", ".join(
        " or ".join(values) if len(values) < 3 else f"{len(values)} {what}" for what, values in kinds.items()
    )


def _value(run: RunEntry, key: ScoreKey | RankKey, minus: ScoreKey | None) -> float:
    """The number that a column reads from a run; shares are multiplied by 100."""
    if isinstance(key, ScoreKey):
        value = score_of(run, key) - (0.0 if minus is None else score_of(run, minus))
        return 100 * value if statistic(key.probe, key.statistic).unit == "points" else value
    if key.place not in run.spectrum:
        remedy = "remove that folder and run the table again"
        raise DataError(f"The record of {run.folder} has no spectrum at {key.place}; {remedy}.")
    spectrum = run.spectrum[key.place]
    if key.quantity == "effective rank":
        return spectrum.effective_rank
    return float(live_dimensions(spectrum.singular_values))
