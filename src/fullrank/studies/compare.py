"""Several heads, several seeds, everything else alike: one table with paired intervals."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fullrank.errors import FullrankError, InterruptedRunError, UsageError
from fullrank.heads import HEADS
from fullrank.machine import new_record
from fullrank.progress import progress_bar
from fullrank.record import RECORD_FILE, Published, Record, RunEntry, write_whole
from fullrank.reports.tables import compare_heads
from fullrank.specs import split_specs
from fullrank.training.folders import check_folder, claim_folder, slug
from fullrank.training.parts import check_plan, load_data
from fullrank.training.recipe import RECIPE_FILE, Recipe
from fullrank.training.run import carry_out, flushed_denormals


@dataclass(frozen=True)
class Study:
    """A finished study: its folder and its record; each run stands in a folder of its own below."""

    path: Path
    record: Record


@flushed_denormals()
def compare(
    recipe: str | Path | Recipe,
    *,
    heads: str | Sequence[str],
    seeds: int = 3,
    out: str | Path | None = None,
    resume: bool = False,
    published: Published | None = None,
    **overrides: Any,
) -> Study:
    """Train `recipe` under each head with each of `seeds` seeds, and compare the heads with the first.

    The seeds are the recipe's seed and the ones after it; all heads share each seed's batches and views, so
    differences are paired. With `resume`, runs that are finished are taken as they are, one that was cut off
    goes on, heads or seeds may be added, and those not named again stay in the record. Raises UsageError
    before any training where a head does not fit, and InterruptedRunError on Ctrl-C, after saving.
    """
    heads = [str(HEADS.parse(head)) for head in (split_specs(heads) if isinstance(heads, str) else heads)]
    if not heads or len(set(heads)) < len(heads):
        raise UsageError(f"--heads must name each head once, but got {', '.join(heads) or 'none at all'}.")
    if seeds < 1:
        raise UsageError(f"--seeds must be 1 or more, but got {seeds}.")
    plan = Recipe.resolve(recipe, {**overrides, "head": heads[0]})
    folder = claim_folder(out, plan.data, resume)
    plans = {
        f"{slug(head)}-seed{seed}": Recipe.resolve(plan, {"head": head, "seed": seed})
        for head in heads
        for seed in range(plan.seed, plan.seed + seeds)
    }
    check_folder(folder, plan, resume, free=("head", "seed"))
    for name, run_plan in plans.items():
        check_folder(folder / name, run_plan, resume)
    train_set, test_set = load_data(plan)
    for head in heads:
        check_plan(Recipe.resolve(plan, {"head": head}), train_set)
    earlier = Record.load(folder).runs if (folder / RECORD_FILE).is_file() else []
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / RECIPE_FILE, plan.dump().encode())

    entries: list[RunEntry] = []
    durations: list[float] = []
    with progress_bar() as progress:
        for number, (name, run_plan) in enumerate(plans.items(), start=1):
            title = f"[{number}/{len(plans)}] {run_plan.head}, seed {run_plan.seed}"
            if not (folder / name / RECORD_FILE).is_file():
                left = _time_left(durations, len(plans) - number + 1)
                progress.console.print(f"{title}: training{left}", highlight=False, soft_wrap=True)
                started = time.perf_counter()
                try:
                    carry_out(
                        run_plan,
                        folder / name,
                        train_set,
                        test_set,
                        resume=(folder / name / RECIPE_FILE).is_file(),
                        progress=progress,
                    )
                except InterruptedRunError:
                    raise InterruptedRunError(
                        f"Stopped in run {number} of {len(plans)} ({run_plan.head}, seed {run_plan.seed}); "
                        f"it is saved, and the same command with --out {folder} --resume goes on from there."
                    ) from None
                except FullrankError as error:
                    raise type(error)(f"{title}: {error}") from None
                durations.append(time.perf_counter() - started)
            entry = Record.load(folder / name).runs[0].model_copy(update={"folder": name})
            progress.console.print(f"{title}: {_summary(entry)}", highlight=False, soft_wrap=True)
            entries.append(entry)
    entries += [entry for entry in earlier if entry.folder not in plans]

    record = new_record(
        "study", plan.model_dump(), entries, comparisons=compare_heads(entries), published=published
    )
    record.save(folder)
    return Study(folder, record)


def _time_left(durations: Sequence[float], runs: int) -> str:
    """How long `runs` more runs take if they take as long as those of this session."""
    if not durations:
        return ""
    minutes = sum(durations) / len(durations) * runs / 60
    return f", about {minutes:.0f} min left in all" if minutes >= 1 else ", less than a minute left in all"


def _summary(run: RunEntry) -> str:
    rank = f"rank of h {run.spectrum['h'].effective_rank:.1f}"
    scores = [f"linear on {place} {100 * probe.linear:.1f}" for place, probe in run.probes.items()]
    return ", ".join([*scores, rank, f"{run.seconds:.0f} s"])
