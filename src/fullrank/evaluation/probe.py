"""Probe a finished run on its own images and under distribution shifts."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from fullrank.devices import flushed_denormals, on_accelerator
from fullrank.evaluation.evaluate import Evaluation, check_probeable, evaluate
from fullrank.evaluation.factors import factor_scores
from fullrank.evaluation.scores import Request
from fullrank.evaluation.shifts import load_shift
from fullrank.probes.few_shots import EPISODES
from fullrank.probes.linear import Treatment
from fullrank.record import Baseline
from fullrank.record.scores import BASELINES
from fullrank.runs.baselines import run_baselines
from fullrank.runs.build import GivenImages, load_data
from fullrank.runs.run import Run, load


@flushed_denormals()
def probe(
    run: str | Path | Run,
    places: Sequence[str] | None = None,
    *,
    label: str = "label",
    measures: Sequence[str] = (),
    shots: Sequence[int] = (),
    shifts: Sequence[str] = (),
    features: str = "raw",
    data: Any = None,
    episodes: int = EPISODES,
    imports: Sequence[str | Path | ModuleType] = (),
) -> Evaluation:
    """Probe a finished run at any place, on its own images and under distribution shifts.

    Args:
        run: A run, or its folder.
        places: Where features are read; None is h, the inner layers of the head, and z.
        label: The name of the labels, if there are several kinds (`coarse` of CIFAR-100).
        measures: Further measures: "retrieval", "per-class", "groups", "group-balanced" (see `evaluate`),
            "factors" (see `factor_scores`) and "baselines". The last are the same probes on pixels and on the
            encoder before training; the default is to return the run's own baselines.
        shots: Also probe on these numbers of training images per class: the mean accuracy over random draws
            of the images, with its 95 % t interval.
        shifts: Specs of sources whose test images the same probes also score, at the run's image size. The
            `split` of their scores is the canonical spec.
        features: What the linear probe does to features first: "raw", "l2" or "standardised".
        data: The images of a run that was trained on a torch Dataset, as passed to `train`.
        episodes: Number of these draws.
        imports: Modules or files that register your own parts, as `--import` does.

    Raises:
        DataError: The images have fewer than two classes, or a shift cannot be read.
        UsageError: A place, label, measure or shift is unknown.

    >>> import tempfile
    >>> from fullrank import train
    >>> run = train("digits", out=tempfile.mkdtemp() + "/run", head="none", epochs=1, classes="3+8")
    >>> list(probe(run, ["h", "h[:24]"]).probes)
    ['h', 'h[:24]']
    """
    run = run if isinstance(run, Run) else load(run, imports=imports)
    request = Request(label, measures, shots, cast(Treatment, features), run.recipe.seed, episodes)
    train, test = load_data(run.recipe, None if data is None else GivenImages.of(data))
    check_probeable(train, test, label)
    sets = dict(load_shift(spec, train) for spec in shifts)
    parts = run.encoder, run.head
    with on_accelerator(*parts):
        evaluation = evaluate(*parts, train, test, places, request, sets)
        scores = evaluation.scores
        if "factors" in measures:
            scores = [*scores, *factor_scores(run.recipe, *parts, train, test, places)]
    beside: list[Baseline] = []
    if BASELINES in measures:
        beside = run_baselines(run.recipe, train, test, label)
    elif (label, features) == ("label", "raw"):
        beside = [
            each for entry in run.record.runs if entry.images == evaluation.images for each in entry.baselines
        ]
    return replace(evaluation, scores=scores, baselines=beside)
