"""Compare a trained run with the linear theory: the directions that it should keep, and those it kept."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

import numpy as np

from fullrank.errors import UsageError
from fullrank.files import result_folder
from fullrank.places import Place
from fullrank.theory.common.theorem import Curve, Outcome, Panel, measure
from fullrank.theory.run import TheoremSource, TheoryRun, write_theory
from fullrank.theory.weighting.prediction import FATES, KEPT, LOST, Prediction, fates, predict_directions
from fullrank.theory.weighting.statements import PREDICT

if TYPE_CHECKING:
    from fullrank.diagnosis.evidence import Pair
    from fullrank.runs.run import Run

STATEMENT = (
    "The minimiser of the spectral contrastive loss gives each direction the square root of its agreement "
    "between two views."
)
SOURCE = "our linear model of a claim of Xue et al. 2024 (P2)"


def predict(
    run: "str | Path | Run",
    *,
    place: str | None = None,
    outcome: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    imports: Sequence[str | Path | ModuleType] = (),
) -> TheoryRun:
    """The weight of each direction of `place` in `outcome`: as the linear theory predicts it, and in the run.

    Second moments of one view and across two views are measured on at most 1024 training images. The record
    and its arrays are written into `out`.

    Args:
        run: A finished run or its folder.
        place: Where the directions are taken from. By default the place before the last map: h, or the last
            place of the encoder if the head has no map of its own.
        outcome: Where the weight of the directions is measured; by default z.
        seed: Random seed of the images and views.
        out: Folder of the result; by default a new one under runs/.
        imports: Modules with parts that the run needs.

    Raises:
        UsageError: A place does not exist, or `outcome` comes before `place`.
    """
    from fullrank.diagnosis.features import VIEWED, collect, thinned_places
    from fullrank.diagnosis.subject import Subject
    from fullrank.runs.build import load_data
    from fullrank.runs.run import Run, load
    from fullrank.views import view_pipeline

    folder = result_folder(out, "theory-predict")
    run = run if isinstance(run, Run) else load(run, imports=imports)
    order = [*thinned_places(run.encoder, run.head), "z"]
    outcome = outcome or "z"
    default = order.index("h") - getattr(run.head, "passes_h", False)
    if not place and default < 0:
        raise UsageError("The encoder has no place before h; name the places with --place and --outcome.")
    place = place or order[default]
    if place == outcome:
        raise UsageError(f"The place and its outcome are both {place}; name an earlier place with --place.")
    bases = [Place.parse(name).name for name in (place, outcome)]
    if set(bases) <= set(order) and order.index(bases[0]) > order.index(bases[1]):
        raise UsageError(f"{place} comes after {outcome}; give the one nearer to the image as --place.")
    train, _ = load_data(run.recipe)
    views = view_pipeline(run.recipe.views, image_size=train.image_size, channels=train.channels).pair
    subject = Subject(str(run.path), run.encoder, run.head, None, train, views, fresh_head=run.fresh_head)
    before, after = collect(subject, [place, outcome], limit=VIEWED, seed=seed, replay=False).evidence.places
    (a, b), (z_a, z_b) = cast("Pair", before.views), cast("Pair", after.views)
    rank = after.imposed_rank or after.features.shape[1]
    prediction = predict_directions((a.numpy(), b.numpy()), (z_a.numpy(), z_b.numpy()), rank, seed)
    settings = {"run": str(run.path), "place": place, "outcome": outcome, "seed": seed}
    theorem = described_prediction(prediction, place, outcome, rank)
    about = TheoremSource("predict", STATEMENT, SOURCE, PREDICT)
    return write_theory(folder, about, settings, theorem)


def described_prediction(prediction: Prediction, place: str, outcome: str, rank: int) -> Outcome:
    """A prediction as the outcome of a theorem: the weight of each direction, and what is kept or lost."""
    predicted, measured = fates(prediction.predicted), fates(prediction.measured)
    agreed = sum(a == b for a, b in zip(predicted, measured, strict=True))
    number = np.arange(1, len(predicted) + 1, dtype=float)
    title = f"Weight of each direction of {place} in {outcome}"
    verdict = (
        f"The theory predicts the fate of {agreed} of {len(predicted)} directions of {place} correctly; "
        f"Spearman's correlation of predicted and measured weights is {prediction.correlation:.2f}."
    )
    return Outcome(
        quantity=f"weight of each direction of {place} in {outcome}, relative to the strongest",
        rows=("weight",),
        columns=tuple(f"direction {i}" for i in range(1, len(predicted) + 1)),
        predicted=prediction.predicted[None],
        simulated=prediction.measured[None],
        verdict=verdict,
        panels=(
            Panel(title, "direction, by agreement of the two views", "relative weight"),
            Panel("Agreement of the two views", "direction", "correlation between views"),
        ),
        curves=(
            Curve(title, "predicted", number, prediction.predicted, dashed=True),
            Curve(title, "the run", number, prediction.measured),
            Curve("Agreement of the two views", "agreement", number, prediction.agreement),
        ),
        explanation=(
            f"By the theory, {_counted(predicted)}. In {outcome} of this run, {_counted(measured)}.",
            f"A direction is kept if its weight is at least {KEPT:g} of the strongest one, and lost below "
            f"{LOST:g}. The rank that {outcome} can have is {rank}.",
            f"For 95 % of the splits of the images, the correlation is from {prediction.low:.2f} to "
            f"{prediction.high:.2f}. This is no confidence interval, since splits share images.",
        ),
        observed="measured",
        measures=(measure("directions kept", predicted.count(FATES[0]), measured.count(FATES[0])),),
        remarks=(
            "The theory is that of a linear net at the minimum of the spectral contrastive loss. A real run "
            "has "
            "another loss, a temperature, ReLUs, and ends before the minimum.",
            f"{place} was itself trained with the same views. Directions that it has already lost are not "
            "among "
            "these.",
        ),
    )


def _counted(each: Sequence[str]) -> str:
    counts = Counter(each)
    return ", ".join(f"{counts[fate]} {'is' if counts[fate] == 1 else 'are'} {fate}" for fate in FATES)
