"""The linear theory beside a real run: which directions it says are kept, and which the run kept."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

import numpy as np

from fullrank.errors import UsageError
from fullrank.files import result_folder
from fullrank.places import Place
from fullrank.theory.common.theorem import Curve, Outcome, Panel
from fullrank.theory.run import TheoryRun, write_theory
from fullrank.theory.weighting.prediction import FATES, KEPT, LOST, Prediction, fates, predict_directions

if TYPE_CHECKING:
    from fullrank.diagnosis.evidence import Pair
    from fullrank.runs.run import Run

STATEMENT = (
    "The minimiser of the spectral contrastive loss gives each direction the square root of its agreement "
    "between two views."
)
SOURCE = "P2's linear model; derived here"


def predict(
    run: "str | Path | Run",
    *,
    place: str | None = None,
    outcome: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    imports: Sequence[str | Path | ModuleType] = (),
) -> TheoryRun:
    """What the linear theory predicts of each direction at `place`, and what the run made of it at `outcome`.

    `place` is by default the one before the last map: h, or the last place of the encoder where the head has
    no map of its own; `outcome` is by default z. Second moments of one view and across two are measured on at
    most 1024 training images. Leaves record and arrays in `out`, by default under runs/. Raises UsageError
    for places that there are not or that stand in the wrong order.
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
        raise UsageError("The encoder has no place below h; name the places with --place and --outcome.")
    place = place or order[default]
    if place == outcome:
        raise UsageError(f"The place and its outcome are both {place}; name a place below with --place.")
    bases = [Place.parse(name).name for name in (place, outcome)]
    if set(bases) <= set(order) and order.index(bases[0]) > order.index(bases[1]):
        raise UsageError(f"{place} comes after {outcome}; give the one nearer to the image as the place.")
    train, _ = load_data(run.recipe)
    views = view_pipeline(run.recipe.views, image_size=train.image_size, channels=train.channels)
    subject = Subject(str(run.path), run.encoder, run.head, None, train, views, fresh_head=run.fresh_head)
    before, after = collect(subject, [place, outcome], limit=VIEWED, seed=seed, replay=False).evidence.places
    (a, b), (z_a, z_b) = cast("Pair", before.views), cast("Pair", after.views)
    rank = after.imposed_rank or after.features.shape[1]
    prediction = predict_directions((a.numpy(), b.numpy()), (z_a.numpy(), z_b.numpy()), rank, seed)
    settings = {"run": str(run.path), "place": place, "outcome": outcome, "seed": seed}
    theorem = described_prediction(prediction, place, outcome, rank)
    return write_theory(folder, "predict", STATEMENT, SOURCE, settings, theorem)


def described_prediction(prediction: Prediction, place: str, outcome: str, rank: int) -> Outcome:
    """A prediction as the outcome of a theorem: the weight of each direction, and their fates counted."""
    predicted, measured = fates(prediction.predicted), fates(prediction.measured)
    agreed = sum(a == b for a, b in zip(predicted, measured, strict=True))
    number = np.arange(1, len(predicted) + 1, dtype=float)
    title = f"Weight of each direction of {place} in {outcome}"
    verdict = (
        f"Of {len(predicted)} directions of {place} the theory says that {_counted(predicted)}; in {outcome} "
        f"{_counted(measured)}, {agreed} of them as predicted. Spearman's correlation of the weights is "
        f"{prediction.correlation:.2f} ({prediction.low:.2f} to {prediction.high:.2f} over splits of the "
        "images)."
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
        remarks=(
            f"Kept is a weight of {KEPT:g} of the strongest or more, lost one below {LOST:g}; the rank that "
            f"{outcome} can have is {rank}.",
            "The theory is that of a linear net under the spectral contrastive loss at its minimum: without "
            "cosine, temperature, ReLU or an early end of training.",
            f"What stands at {place} was itself trained with the same views: a direction that it has lost "
            "already is not among these.",
        ),
    )


def _counted(each: Sequence[str]) -> str:
    counts = Counter(each)
    return ", ".join(f"{counts[fate]} are {fate}" for fate in FATES)
