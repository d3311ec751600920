"""Several heads or varied settings, several seeds, the rest kept fixed: one table with paired intervals."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fullrank.door import import_modules
from fullrank.errors import UsageError
from fullrank.files import typed_path, write_whole
from fullrank.heads import HEADS
from fullrank.record import RECORD_FILE, Published, Record, Result, RunEntry
from fullrank.record.comparisons import compare_heads
from fullrank.record.making import new_record
from fullrank.runs.folders import check_folder, claim_folder
from fullrank.runs.recipe import RECIPE_FILE, Recipe
from fullrank.specs import Spec, split_specs
from fullrank.studies.many_runs import PlannedRun, check_parts, finish_runs
from fullrank.studies.variations import PlannedRow, planned_rows, value_of
from fullrank.threads import asked_threads
from fullrank.training.loggers import check_factory, open_store
from fullrank.training.session import LoggerFactory, Logging

if TYPE_CHECKING:
    from torch import nn


class Study(Result):
    """A finished study. Each run has a folder of its own below that of the study.

    Args:
        path: The folder of the study.
        record: Its record, with an entry for each run.
    """


def compare(
    recipe: str | Path | Recipe,
    *,
    heads: "str | Sequence[str | Callable[..., nn.Module]] | None" = None,
    vary: Mapping[str, Any] | None = None,
    seeds: int = 3,
    out: str | Path | None = None,
    resume: bool = False,
    workers: int = 1,
    threads: int | None = None,
    published: Published | None = None,
    imports: Sequence[str | Path | ModuleType] = (),
    loggers: LoggerFactory | None = None,
    **overrides: Any,
) -> Study:
    """Train `recipe` under each head and each combination of varied values, and compare the rows.

    Each row is compared with the first row that has the same test images. All rows share each seed's batches
    and views as far as their settings allow, so differences are paired by seed.

    Args:
        recipe: A recipe by name, the path of a YAML file, or a `Recipe`.
        heads: Specs or classes of heads; by default the recipe's head alone.
        vary: Keys of the recipe, each with its values: `{"objective": ["infonce:0.2", "vicreg"]}`. Every head
            is trained with every combination.
        seeds: Number of seeds for each row: the recipe's seed and those after it.
        out: The folder of the study; by default a new one under runs/.
        resume: Keep the runs in `out` that are finished and continue the others. Heads, seeds, values and
            varied keys may be added. Finished runs that are not named again stay in the record.
        workers: Number of runs that are trained at a time.
        threads: Number of threads for all workers together; None leaves torch's own.
        published: Numbers of a paper to show beside the heads.
        imports: Modules that register parts of yours.
        loggers: A function that gets the recipe of a run and returns Lightning loggers for it. Each run has
            its own, which are closed when it ends.
        **overrides: Further keys of the recipe, the same for all rows.

    Raises:
        UsageError: Before any training, where a row cannot be trained.
        InterruptedRunError: On Ctrl-C, after saving.
    """
    import_modules(imports)
    if not isinstance(overrides.get("data", ""), str | type):
        raise UsageError("A study reads images by the spec of a source; train and diagnose take a Dataset.")
    check_factory(loggers, workers)
    rows = planned_rows(recipe, overrides, [] if heads is None else _specs(heads), vary or {})
    if seeds < 1:
        raise UsageError(f"--seeds must be 1 or more, but got {seeds}.")
    folder = claim_folder(out, rows[0].recipe.data, resume)
    earlier = _earlier_runs(folder) if resume else []
    rows = [_with_keys(row, [key for entry, _ in earlier for key in entry.varied]) for row in rows]
    runs = _planned_runs(rows, seeds, folder, earlier)
    keys = rows[0].varied
    needed = dict.fromkeys(origin for run in runs for origin in run.recipe.imports)
    plan = rows[0].recipe.model_copy(update={"imports": tuple(needed)})
    check_folder(folder, plan, resume, free=("head", "seed", "imports", *keys))
    for run in runs:
        check_folder(run.folder, run.recipe, resume)
    check_parts({row.name: row.recipe for row in rows})
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / RECIPE_FILE, plan.dump().encode())
    logging = Logging(group=folder.name, store=folder, make=loggers)
    open_store(plan, logging)
    runs = [replace(run, logging=replace(logging, name=run.title)) for run in runs]
    go_on = f"the same command with --out {typed_path(folder)} --resume continues them"
    with asked_threads(threads):
        finished = finish_runs(runs, workers, go_on=go_on)
    entries = [_with_values(entry, run.recipe, keys) for entry, run in zip(finished, runs, strict=True)]
    again = {entry.folder for entry in entries}
    entries += [_with_values(*each, keys) for each in earlier if each[0].folder not in again]
    settings = plan.model_dump(mode="json")
    comparisons = compare_heads(entries, recipe=settings)
    # The runs made the numbers: with several workers each of them has fewer threads than this process.
    machine = Record.load(runs[0].folder).machine
    record = new_record("study", settings, entries, comparisons=comparisons, published=published)
    record = record.model_copy(update={"machine": machine})
    record.save(folder)
    return Study(folder, record)


def _earlier_runs(folder: Path) -> list[tuple[RunEntry, Recipe | None]]:
    """The runs in the record of a study, each with the recipe in its folder, if that still exists."""
    if not (folder / RECORD_FILE).is_file():
        return []
    record = Record.load(folder)
    if record.kind != "study":
        raise UsageError(f"{folder} holds a {record.kind} and not a study; name another --out.")
    entries = record.runs
    files = [folder / entry.folder / RECIPE_FILE for entry in entries]
    recipes = [Recipe.resolve(file) if file.is_file() else None for file in files]
    return list(zip(entries, recipes, strict=True))


def _planned_runs(
    rows: Sequence[PlannedRow], seeds: int, folder: Path, earlier: Sequence[tuple[RunEntry, Recipe | None]]
) -> list[PlannedRun]:
    """A run for each row and seed; one that the study has already keeps its folder."""
    folders = {recipe: entry.folder for entry, recipe in earlier}
    runs = []
    for row in rows:
        for seed in range(row.recipe.seed, row.recipe.seed + seeds):
            recipe = Recipe.resolve(row.recipe, {"seed": seed})
            name = folders.get(recipe, f"{row.folder}-seed{seed}")
            runs.append(PlannedRun(f"{row.name}, seed {seed}", recipe, folder / name))
    return runs


def _with_keys(row: PlannedRow, keys: Sequence[str]) -> PlannedRow:
    """The row, which also names its values of keys that the study varied earlier."""
    added = {key: value_of(row.recipe, key) for key in keys if key not in row.varied}
    return replace(row, varied={**added, **row.varied})


def _with_values(entry: RunEntry, recipe: Recipe | None, keys: Iterable[str]) -> RunEntry:
    """The entry of a run with the value of each varied key, as far as its recipe is known."""
    values = {} if recipe is None else {key: value_of(recipe, key) for key in keys}
    return entry.model_copy(update={"varied": values or entry.varied})


def _specs(heads: object) -> list[Spec]:
    """The specs of heads, given as one text or as a list; UsageError for an empty list or a repeated head."""
    if not isinstance(heads, str | Sequence):
        name = getattr(heads, "__name__", type(heads).__name__)
        raise UsageError(f"heads must be a list of specs or classes, but got {name}; write heads=[{name}].")
    specs = [HEADS.parse(head) for head in (split_specs(heads) if isinstance(heads, str) else heads)]
    if not specs or len(set(specs)) < len(specs):
        raise UsageError(f"--heads must name each head once, but got {', '.join(specs) or 'none at all'}.")
    return specs
