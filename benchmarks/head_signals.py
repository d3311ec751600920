"""How a head changes what passes between encoder and loss: similarities at z, and the gradient at h.

    uv run fullrank reproduce questions/norms --scale mini --workers 2 --out reproduced
    uv run python benchmarks/head_signals.py reproduced/questions-norms

For every row of a reproduced table, the signals are measured on each seed's run at the start and at the end
of training. For the start, the weights are built again from the recipe. Two views of one batch of training
images go through encoder and head in training mode. The loss then sends its gradient back to h.

- positive: mean cosine of the two views of an image, at z.
- negative: mean cosine of different images, at z.
- spread: standard deviation of the negative cosines over the temperature, which is the spread of the logits.
- mean: share of h's energy in its mean, |mean h|^2 / mean |h|^2.
- along it: share of the gradient's energy along that mean; 1 / width if there is no preference.
- directions: effective rank of the gradients at h, which is the number of directions h is pushed in.
"""

import argparse
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fullrank.data import BatchLoader
from fullrank.devices import flushed_denormals
from fullrank.objectives import loss_of
from fullrank.record import Record
from fullrank.runs.build import build, load_data
from fullrank.runs.run import load
from fullrank.spectrum import effective_rank_of, matrix_singular_values
from fullrank.statistics import Estimate
from fullrank.studies.reproduce import RUNS
from fullrank.training.module import JointEmbedding
from fullrank.views import step_generator


@dataclass(frozen=True)
class Signals:
    """The signals of one batch, named as in the table."""

    positive: float
    negative: float
    spread: float
    mean: float
    along: float
    directions: float

    @classmethod
    def of(cls, module: JointEmbedding, batch: Any) -> "Signals":
        """The signals of a module in training mode, on one batch."""
        module.train()
        views = module.views.apply(batch, module.draw(batch, step_generator(module.seed, 0, 0)))
        h = module.encoder(torch.cat(views)).detach().requires_grad_()
        z = module.head(h)
        (gradient,) = torch.autograd.grad(loss_of(module.objective, *z.chunk(2), batch.labels), h)
        one, two = F.normalize(z.detach(), dim=1).chunk(2)
        cosines = one @ two.T
        others = cosines[~torch.eye(len(cosines), dtype=torch.bool)]
        centre = h.detach().mean(0)
        unit = F.normalize(centre, dim=0)
        energy = gradient.square().sum()
        return cls(
            positive=float(cosines.diag().mean()),
            negative=float(others.mean()),
            spread=float(others.std() / module.objective.temperature),
            mean=float(centre.square().sum() / h.detach().square().sum(1).mean()),
            along=float((gradient @ unit).square().sum() / energy),
            directions=effective_rank_of(matrix_singular_values(gradient)),
        )


def began_and_ended(folder: Path) -> tuple[Signals, Signals]:
    """The signals of a run at the start and at the end of its training."""
    run = load(folder)
    recipe = run.recipe
    images, _ = load_data(recipe)
    batch = next(iter(BatchLoader(images, recipe.batch_size, recipe.seed, label=recipe.label)))
    torch.manual_seed(recipe.seed)
    module = JointEmbedding.of(recipe, build(recipe, images))
    began = Signals.of(module, batch)
    module.encoder.load_state_dict(run.encoder.state_dict())
    module.head.load_state_dict(run.head.state_dict())
    return began, Signals.of(module, batch)


def shown(values: Tensor) -> str:
    """Format a mean over seeds with its interval."""
    estimate = Estimate.of(values.tolist())
    interval = "" if estimate.half is None else f" ±{estimate.half:.2f}"
    return f"{estimate.mean:.2f}{interval}"


@flushed_denormals()
def main() -> None:
    """Print one table for the start and one for the end, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="the folder of a reproduced table")
    folder = parser.parse_args().table
    table = Record.load(folder).table
    if table is None:
        parser.error(f"{folder} has no reproduced table; name a folder that `fullrank reproduce` wrote.")
    names = [field.name.replace("along", "along it") for field in fields(Signals)]
    runs = folder.parent / RUNS
    both = {
        row.title: torch.tensor([[astuple(each) for each in began_and_ended(runs / run)] for run in row.runs])
        for row in table.rows
    }
    for when, title in enumerate(("Where training began", "At its end")):
        print(f"\n{title}, mean over seeds ± 95 % interval\n")
        print(f"| setting | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
        for setting, signals in both.items():
            print(f"| {setting} | {' | '.join(shown(column) for column in signals[:, when].T)} |")


if __name__ == "__main__":
    main()
