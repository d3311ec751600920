"""Several heads, several seeds, everything else kept fixed: one table with paired intervals."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fullrank.door import import_modules
from fullrank.errors import UsageError
from fullrank.files import typed_path, write_whole
from fullrank.heads import HEADS
from fullrank.record import RECORD_FILE, Published, Record, Result
from fullrank.record.comparisons import compare_heads
from fullrank.record.making import new_record
from fullrank.runs.folders import check_folder, claim_folder, slug
from fullrank.runs.recipe import RECIPE_FILE, Recipe
from fullrank.specs import Spec, split_specs
from fullrank.studies.many_runs import PlannedRun, check_parts, finish_runs
from fullrank.threads import asked_threads

if TYPE_CHECKING:
    from torch import nn


class Study(Result):
    """A finished study: its folder and its record; each run stands in a folder of its own below."""


def compare(
    recipe: str | Path | Recipe,
    *,
    heads: "str | Sequence[str | Callable[..., nn.Module]]",
    seeds: int = 3,
    out: str | Path | None = None,
    resume: bool = False,
    workers: int = 1,
    threads: int | None = None,
    published: Published | None = None,
    imports: Sequence[str | Path | ModuleType] = (),
    **overrides: Any,
) -> Study:
    """Train `recipe` under each head with each of `seeds` seeds, and compare the heads with the first.

    A head is a spec, or a class of yours; `imports` are modules that register parts.
    The seeds are the recipe's seed and the ones after it; all heads share each seed's batches and views, so
    differences are paired. With `resume`, runs that are finished are taken as they are, one that was cut off
    goes on, heads or seeds may be added, and those not named again stay in the record. `workers` runs go at a
    time. Raises UsageError before any training where a head does not fit, and InterruptedRunError on Ctrl-C,
    after saving.
    """
    import_modules(imports)
    if not isinstance(overrides.get("data", ""), str | type):
        raise UsageError("A study reads images by the spec of a source; train and diagnose take a Dataset.")
    specs = _specs(heads)
    if seeds < 1:
        raise UsageError(f"--seeds must be 1 or more, but got {seeds}.")
    plan = Recipe.resolve(recipe, {**overrides, "head": specs[0]})
    folder = claim_folder(out, plan.data, resume)
    plans = {
        f"{slug(head)}-seed{seed}": Recipe.resolve(plan, {"head": head, "seed": seed})
        for head in specs
        for seed in range(plan.seed, plan.seed + seeds)
    }
    needed = dict.fromkeys(origin for each in plans.values() for origin in each.imports)
    plan = plan.model_copy(update={"imports": tuple(needed)})
    check_folder(folder, plan, resume, free=("head", "seed", "imports"))
    for name, run_plan in plans.items():
        check_folder(folder / name, run_plan, resume)
    check_parts(Recipe.resolve(plan, {"head": head}) for head in specs)
    earlier = Record.load(folder).runs if (folder / RECORD_FILE).is_file() else []
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / RECIPE_FILE, plan.dump().encode())
    runs = [PlannedRun(f"{p.head}, seed {p.seed}", p, folder / name) for name, p in plans.items()]
    go_on = f"the same command with --out {typed_path(folder)} --resume goes on from there"
    with asked_threads(threads):
        entries = finish_runs(runs, workers, go_on=go_on)
    entries += [entry for entry in earlier if entry.folder not in plans]
    settings, comparisons = plan.model_dump(mode="json"), compare_heads(entries)
    record = new_record("study", settings, entries, comparisons=comparisons, published=published)
    record.save(folder)
    return Study(folder, record)


def _specs(heads: object) -> list[Spec]:
    """The specs of the heads, in one text or a list of specs and classes; UsageError for none or a double."""
    if not isinstance(heads, str | Sequence):
        name = getattr(heads, "__name__", type(heads).__name__)
        raise UsageError(f"heads must be a list of specs or classes, but got {name}; write heads=[{name}].")
    specs = [HEADS.parse(head) for head in (split_specs(heads) if isinstance(heads, str) else heads)]
    if not specs or len(set(specs)) < len(specs):
        raise UsageError(f"--heads must name each head once, but got {', '.join(specs) or 'none at all'}.")
    return specs
