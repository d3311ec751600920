"""Judge the rule of `fullrank choose`: its regret beside that of other rules, of baselines and of labels.

    fullrank reproduce questions/choosing-digits questions/choosing questions/objectives --out FOLDER
    python benchmarks/choosing.py FOLDER/runs --half made     # the runs that the rule was made on
    python benchmarks/choosing.py FOLDER/runs --half judged   # all others, once; --write keeps its regret

A case is a set of runs that differ in head and seed alone, with one label; or seed 0 of all runs of one data
set. Its candidates are the runs at each place (`runs`), the places of one run (`places`), or h of all runs
(`heads`). Accuracies are those of a linear probe, cross-validated over two halves of the images of the
choice. docs/choosing.md has the results.
"""

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from choosing_tables import report, summary

from fullrank import load
from fullrank.choosing.candidates import Candidate, Pool, Reading
from fullrank.choosing.choose import measured_parts
from fullrank.choosing.criteria import CRITERIA, goodness
from fullrank.choosing.frozen import settings
from fullrank.choosing.judging import expected_best, rank_correlation
from fullrank.choosing.labels import choose_with_labels
from fullrank.choosing.parts import Part
from fullrank.choosing.reading import read_pool, sampled_images
from fullrank.choosing.rule import default_order, in_order, rank, ranks_within, relative_ranks, shortlist
from fullrank.choosing.theory import shares_for_h
from fullrank.choosing.vetoes import find_vetoes
from fullrank.probes import LinearProbe
from fullrank.runs.recipe import Recipe
from fullrank.targets.opening import target

OLD = ("infonce", "spectral", "vicreg", "barlow-twins", "cross-entropy")
LABELS = (50, 100, 500)
DRAWS = 2
LIMIT = 3000
# The least share of an image in the crops of the recipe `digits`.
USUAL_CROPS = 0.4
EVIDENCE = Path(__file__).parents[1] / "src/fullrank/choosing/evidence.yaml"


@dataclass(frozen=True, eq=False)
class Read:
    """One run, read: its candidates, whether a probe is right on each image by label and place, and more."""

    case: str
    pool: Pool
    labels: dict[str, np.ndarray]
    hits: dict[tuple[str, str], np.ndarray]
    values: dict[str, list[float]]
    theory: dict[str, float]


@dataclass(frozen=True, eq=False)
class Case:
    """Candidates with one label. `group` names the runs that it shares with other cases."""

    name: str
    group: str
    pool: Pool
    parts: list[Part]
    hits: np.ndarray
    labels: np.ndarray
    values: dict[str, list[float]]
    theory: dict[str, float]


def halves(folder: Path, half: str) -> list[Path]:
    """The runs of a half: those on digits with the objectives of `OLD`, or all others."""
    found = []
    for path in sorted(folder.glob("*/recipe.yaml")):
        recipe = Recipe.resolve(path)
        if not (path.parent / "record.json").is_file() or recipe.held_out or recipe.seed > 1:
            continue
        made = str(recipe.data) == "digits" and recipe.objective.name in OLD
        if made == (half == "made"):
            found.append(path.parent)
    return found


def read(path: Path) -> Read:
    """Read a run once: features, criteria, and what a probe gets right. Vetoed places are gone."""
    run, reading = load(path), Reading(limit=LIMIT)
    whole = read_pool([run], reading)
    kept = [each for each, vetoes in zip(whole.candidates, find_vetoes(whole), strict=True) if not vetoes]
    pool = replace(whole, candidates=kept)
    images, _ = sampled_images(target(run), reading)
    rows = np.flatnonzero(np.isin(images.ids, pool.ids))  # without repeated images
    # "group" is the other labels crossed.
    names = [name for name in images.labels if name != "group" and len(np.unique(images.labels[name])) > 1]
    labels = {name: images.labels[name][rows] for name in names}
    hits = {(name, each.place): crossed(each.clean, labels[name]) for name in names for each in kept}
    values = {name: each.measure(pool) for name, each in CRITERIA.items() if name != "cluster_predictability"}
    return Read(_case_of(run.recipe), pool, labels, hits, values, shares_for_h(pool))


def _case_of(recipe: Recipe) -> str:
    """What names a case: everything that is neither the head nor the seed, in few words."""
    short = {"composite:digits-on-textures,strength=1": "textures", "composite:two-cues,n=3000": "two cues"}
    words = [short.get(str(recipe.data), str(recipe.data)), recipe.objective.name]
    words += [] if recipe.encoder.name == "tiny-resnet" else [recipe.encoder.name]
    scale = dict(recipe.views.options).get("scale")
    words += [f"crops of {scale:g}"] if recipe.data.name == "digits" and scale != USUAL_CROPS else []
    words += [f"{recipe.epochs} epochs"] if recipe.epochs < 4 else []
    return ", ".join(words)


def crossed(features: torch.Tensor, labels: np.ndarray) -> np.ndarray:
    """Whether a linear probe is right on each image, learnt on the other half of the images."""
    half = np.random.default_rng(0).permutation(len(labels)) % 2
    right = np.zeros(len(labels), bool)
    for number in (0, 1):
        learn = torch.from_numpy(half != number)
        probe = LinearProbe([1e-5], tol=1e-4).fit(features[learn], labels[half != number])
        right[half == number] = np.asarray(probe.predict(features[~learn])) == labels[half == number]
    return right


def anywhere(candidate: Candidate) -> bool:
    """Keeps every place."""
    return True


def at_h(candidate: Candidate) -> bool:
    """Keeps h."""
    return candidate.place == "h"


def joined(reads: Sequence[Read], keep: Callable[[Candidate], bool]) -> tuple[Pool, list[tuple[Read, int]]]:
    """The pool of several runs on the same images; and the (run, place) rows that are kept."""
    if any(not np.array_equal(one.pool.ids, reads[0].pool.ids) for one in reads):
        raise ValueError(f"the runs of {reads[0].case} have unlike images")
    rows = [(one, number) for one in reads for number, each in enumerate(one.pool.candidates) if keep(each)]
    pool = replace(reads[0].pool, candidates=[one.pool.candidates[number] for one, number in rows])
    return pool, rows


def grouped(reads: Sequence[Read], kind: str) -> dict[str, list[list[Read]]]:
    """Name of a group -> the sets of runs of its cases."""
    reads = [one for one in reads if one.pool.candidates]
    if kind == "places":
        groups = defaultdict(list)
        for one in reads:
            groups[one.case].append([one])
        return groups
    sets: dict[str, list[Read]] = defaultdict(list)
    for one in reads:
        sets[one.case].append(one)
        plain = one.case.count(",") == 1
        if plain and one.pool.candidates[0].seed == 0:
            sets[f"{one.case.partition(',')[0]}, all objectives"].append(one)
    recipes = {name: {one.pool.candidates[0].recipe for one in some} for name, some in sets.items()}
    return {name: [some] for name, some in sets.items() if len(recipes[name]) >= 3}


def cases(group: str, sets: Sequence[Sequence[Read]], kind: str) -> Iterator[Case]:
    """The cases of a group: one for each set of runs and label."""
    for some in sets:
        pool, rows = joined(some, at_h if kind == "heads" else anywhere)
        if len(rows) < 3:
            continue
        parts = measured_parts(pool, settings())
        for label in some[0].labels:
            hits = np.stack([one.hits[label, one.pool.candidates[n].place] for one, n in rows])
            values = {each: [one.values[each][n] for one, n in rows] for each in some[0].values}
            title = f"{group}, {label}" if label != "label" else group
            theory = {run: share for one in some for run, share in one.theory.items()}
            yield Case(title, group, pool, parts, hits, some[0].labels[label], values, theory)


def listed(scores: np.ndarray, pool: Pool) -> list[int]:
    """A shortlist by scores alone."""
    return shortlist(np.argsort(-scores, kind="stable").tolist(), pool.candidates)


def judge(case: Case) -> dict[str, Any]:
    """Regrets, in points, of each way to choose: of its first candidate, and of its best of three."""
    rule, pool = settings(), case.pool
    parts = case.parts
    ranking = rank(parts, rule.weights, pool.candidates, len(pool.ids), samples=rule.samples)
    defaults = default_order(pool.candidates, rule.heads)
    best = expected_best(case.hits)
    accuracies = case.hits.mean(1)

    def lost(numbers: Sequence[int]) -> float:
        return 100 * (best - expected_best(case.hits[list(numbers)]))

    def of_scores(scores: np.ndarray) -> tuple[float, float, float]:
        correlation = rank_correlation(scores, accuracies) if np.ptp(scores) > 0 else math.nan
        return lost([int(scores.argmax())]), lost(listed(scores, pool)), correlation

    ways: dict[str, tuple[float, float | None, float]] = {}
    order = in_order(ranking, defaults)
    ways["rule"] = (
        lost(order[:1].tolist()),
        lost(shortlist(order.tolist(), pool.candidates)),
        rank_correlation(ranking.scores, accuracies),
    )
    ways["rule, no default"] = of_scores(ranking.scores)
    by_name = {part.name: part for part in parts}
    ways["structure alone"] = of_scores(by_name["structure"].values)
    runs = np.array([each.run for each in pool.candidates])
    told = relative_ranks(goodness("infonce", case.values["infonce"]))
    d4 = relative_ranks(by_name["structure"].values) + told
    ways["D4: S + I + E"] = of_scores(d4 + ranks_within(goodness("gride", case.values["gride"]), runs))
    recalled = relative_ranks(goodness("view_recall", case.values["view_recall"]))
    lidars = ranks_within(goodness("lidar", case.values["lidar"]), runs)
    first_try = relative_ranks(by_name["structure"].values) + recalled + lidars
    ways["structure, recall, LiDAR"] = of_scores(first_try)
    for name, values in case.values.items():
        ways[name] = of_scores(goodness(name, values))
    means = accuracies
    candidates = pool.candidates

    def mean_of(chosen: list[int]) -> tuple[float, None, float] | None:
        return (100 * (best - float(means[chosen].mean())), None, math.nan) if chosen else None

    def of_h(test: Callable[[Candidate], bool]) -> list[int]:
        return [n for n, each in enumerate(candidates) if each.place == "h" and test(each)]

    middle = {
        run: sorted(n for n, each in enumerate(candidates) if each.run == run) for run in set(runs.tolist())
    }
    least = min((each.loss for each in candidates if each.loss is not None), default=math.nan)
    baselines = {
        "h of the MLP head": of_h(lambda each: each.head is not None and each.head.name == "mlp"),
        "h of the sub-vector": of_h(lambda each: each.head is not None and each.head.name == "subvector"),
        "h of a random run": of_h(lambda each: True),
        "z of a random run": [n for n, each in enumerate(candidates) if each.place == "z"],
        "middle place": [rows[len(rows) // 2] for rows in middle.values()],
        "h at the lowest loss": of_h(lambda each: each.loss == least),
        "random": list(range(len(candidates))),
    }
    for name, chosen in baselines.items():
        if (found := mean_of(chosen)) is not None:
            ways[name] = found
    theory = [n for n, each in enumerate(candidates) if each.place == _theory_place(case, each.run)]
    if (found := mean_of(theory)) is not None:
        ways["theory: h or z"] = found
    for count in LABELS:
        if count < len(case.labels):
            draws = DRAWS if len(set(runs.tolist())) > 1 else 1
            picks = [with_labels(case, count, seed) for seed in range(draws)]
            ways[f"{count} labels"] = (float(np.mean([lost([each]) for each in picks])), None, math.nan)
    return {
        "case": case.name,
        "group": case.group,
        "candidates": len(candidates),
        "best": 100 * best,
        "spread": 100 * float(means.max() - means.min()),
        "ways": ways,
    }


def _theory_place(case: Case, run: str) -> str:
    return "h" if case.theory.get(run, 1.0) >= 0.5 else "z"


def with_labels(case: Case, count: int, seed: int) -> int:
    """The number of the candidate that so many labels choose."""
    chosen = choose_with_labels(replace(case.pool, labels=case.labels), count, settings().heads, seed=seed)
    names = [(each.run, each.place) for each in case.pool.candidates]
    return names.index((chosen.run, chosen.place))


def _read_kept(job: tuple[Path, Path]) -> Path:
    path, kept = job
    torch.set_num_threads(1)
    out = kept / f"{path.name}.pt"
    if not out.is_file():
        torch.save(vars(read(path)), out)
        print(f"read {path.name}", flush=True)
    return out


def _read_back(file: Path) -> Read:
    # Written by this script, so it may be unpickled.
    return Read(**torch.load(file, weights_only=False))


def _judge_group(job: tuple[str, str, list[list[Path]]]) -> list[dict[str, Any]]:
    kind, group, files = job
    torch.set_num_threads(1)
    judged = []
    for some in files:
        for case in cases(group, [[_read_back(file) for file in some]], kind):
            judged.append(judge(case))
            if kind != "places":
                first, three, _ = judged[-1]["ways"]["rule"]
                about = f"{kind}: {case.name}, {judged[-1]['candidates']} candidates"
                print(f"{about}, best {judged[-1]['best']:.1f}: {first:.2f}, {three:.2f}", flush=True)
    return judged


def main() -> None:
    """Read the runs of a half, judge all cases, print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path)
    parser.add_argument("--half", choices=("made", "judged"), default="made")
    parser.add_argument("--out", type=Path, default=Path("runs/choosing"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--most", type=int, help="at most this many runs, for a quick try")
    parser.add_argument("--write", action="store_true", help=f"keep the regret in {EVIDENCE.name}")
    given = parser.parse_args()
    kept = given.out / given.half
    kept.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    jobs = [(path, kept) for path in halves(given.runs, given.half)[: given.most]]
    with get_context("spawn").Pool(given.workers) as workers:
        files = workers.map(_read_kept, jobs, chunksize=1)
        reads = {file: _read_back(file) for file in files}
        file_of = {id(one): file for file, one in reads.items()}
        every = {}
        for kind in ("runs", "heads", "places"):
            groups = grouped(list(reads.values()), kind)
            work = [
                (kind, name, [[file_of[id(one)] for one in some] for some in sets])
                for name, sets in groups.items()
            ]
            every[kind] = [each for found in workers.map(_judge_group, work, chunksize=1) for each in found]
    (given.out / f"{given.half}.json").write_text(json.dumps(every, indent=1))
    print(f"\n{len(reads)} runs, {(time.perf_counter() - begin) / 60:.1f} minutes\n\n{report(every)}")
    if given.write:
        names = ("cases", "first", "first_low", "first_high", "shortlist", "shortlist_low", "shortlist_high")
        names += ("mean_first", "mean_shortlist", "worst_first", "worst_shortlist")
        names += ("within_first", "within_shortlist")
        source = (
            "Fashion-MNIST, composites, and digits with newer objectives, all short runs (docs/choosing.md)"
        )
        kept_regret = {
            kind: {name: round(summary(every[kind])["rule"][name], 3) for name in names} | {"source": source}
            for kind in ("runs", "places")
        }
        EVIDENCE.write_text(
            f"# Written by benchmarks/choosing.py --half judged --write.\n{yaml.safe_dump(kept_regret)}"
        )


if __name__ == "__main__":
    main()
