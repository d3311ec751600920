"""How the rules of a watched training do on real trainings: which collapses and jumps they find, and what they alarm on.

    uv run python benchmarks/watch_rules.py
    uv run python benchmarks/watch_rules.py --quick
    uv run python benchmarks/watch_rules.py --runs /tmp/watched

Small nets are trained on real images with the objectives and heads of this package. Half `fix` is digits and
half `held` is Fashion-MNIST, both at 8 pixels. Thresholds were chosen on `fix` alone. What is true is measured:
features have collapsed if their effective rank ends below a quarter of that of the same net trained with
InfoNCE, or if the mean cosine ends above 0.98. From a quarter to 0.6 nobody can say. A jump of the loss is made
on purpose at a known step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product

import torch
import torch.nn.functional as F
from real_training import images, jittered
from torch import Tensor, nn

from fullrank import head, objective
from fullrank.diagnosis.watch.history import NewestRows
from fullrank.diagnosis.watch.measurements import look_at
from fullrank.objectives import needs_of
from fullrank.training.module import warmup_cosine

POINT = 0.98
PLACES = ("h", "z")
MEASURED = ("effective_rank", "live_dimensions", "mean_cosine", "finite_rows")


@dataclass(frozen=True)
class Case:
    """A training: its parts, how it is optimised, and what happens to it a little after its middle."""

    objective: str
    head: str = "mlp:64"
    rate: float = 3e-3
    optimizer: str = "adamw"
    batch: int = 64
    schedule: str = "cosine"
    event: str = ""
    seed: int = 0

    @property
    def name(self) -> str:
        return " ".join(f"{value}" for value in asdict(self).values() if value != "")

    @property
    def twin(self) -> "Case":
        """The training that is healthy for certain."""
        return Case("infonce:0.2", self.head, seed=self.seed)


@dataclass
class Course:
    """What a training was like: its loss at each step, and the measures of h and z at each look."""

    losses: list[float]
    looks: dict[str, list[dict[str, float]]]
    event_at: int


class Alignment(nn.Module):
    """The views agree, and nothing keeps images apart."""

    needs = ()

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(z_a, z_b).mean()


WITH_NEGATIVES = ("infonce:0.2", "infonce:0.5", "ntxent:0.5", "vicreg", "barlow-twins", "spectral")
WITH_LABELS = ("supcon:0.1", "cross-entropy")
WITHOUT = (
    "alignment",
    "vicreg,variance=0,covariance=0",
    "vicreg,variance=0",
    "vicreg,variance=1,covariance=0",
)


def cases(quick: bool) -> Iterator[Case]:
    """All trainings of one half."""
    heads, rates = (("mlp:64",), (1e-2,)) if quick else (("mlp:64", "none"), (3e-3, 1e-2))
    for name, part, rate in product((*WITH_NEGATIVES, *WITH_LABELS), heads, rates):
        yield Case(name, part, rate)
    for name, part, rate in product(WITHOUT, (*heads, "linear:64"), rates):
        yield Case(name, part, rate)
    main = ("infonce:0.2", "vicreg", "cross-entropy")
    for name in main if quick else (*main, "ntxent:0.5", "supcon:0.1"):
        yield from (Case(name, event=event) for event in ("spike", "shake", "rate"))
        yield from (Case(name, schedule=schedule) for schedule in ("restarts", "steps", "constant"))
        yield from (Case(name, batch=batch, rate=1e-3) for batch in (8, 16))
        yield from (Case(name, optimizer="sgd", rate=rate) for rate in (0.03, 0.3))
        yield Case(name, batch=16, rate=1e-3, event="shake")
    for name in WITH_LABELS:
        yield Case(name, event="labels")
    for name in WITHOUT[:2]:
        yield from (Case(name, optimizer="sgd", rate=rate) for rate in (0.03, 0.1))


def scheduled(case: Case, step: int, steps: int) -> float:
    """The relative learning rate of a step."""
    if case.schedule == "restarts":
        return min(1.0, (step + 1) / 10) * warmup_cosine(step % (steps // 4), 0, steps // 4)
    if case.schedule == "steps":
        return 0.1 ** (step // (steps // 3))
    return 1.0 if case.schedule == "constant" else warmup_cosine(step, steps // 10, steps)


def train(case: Case, data: str, steps: int, every: int) -> Course:
    """Train a small net, and look at h and z as a watcher does."""
    torch.manual_seed(case.seed)
    generator = torch.Generator().manual_seed(case.seed)
    every_image = images(data, 8)
    x, y = every_image.train[:, :1], every_image.train_labels
    encoder = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 32)
    )
    top = head(case.head, in_dim=32)
    loss_of = (
        Alignment()
        if case.objective == "alignment"
        else objective(case.objective, in_dim=top.out_dim, num_classes=10)
    )
    weights = [p for part in (encoder, top, loss_of) for p in part.parameters() if p.requires_grad]
    if case.optimizer == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(weights, case.rate, momentum=0.9)
    else:
        optimizer = torch.optim.AdamW(weights, case.rate)
    newest = {place: NewestRows(512) for place in PLACES}
    course = Course([], {place: [] for place in PLACES}, round(0.55 * steps) + 1)
    for step in range(1, steps + 1):
        rows = torch.randint(len(x), (case.batch,), generator=generator)
        batch, labels, happens = x[rows], y[rows], step == course.event_at
        rate = case.rate * scheduled(case, step - 1, steps)
        if case.event == "rate" and step >= course.event_at:
            rate *= 100
        for group in optimizer.param_groups:
            group["lr"] = rate
        if case.event == "shake" and happens:
            shake(weights, generator)
        if case.event == "spike" and happens:
            batch = torch.randn(batch.shape, generator=generator)
        if case.event == "labels" and step >= course.event_at:
            labels = labels[torch.randperm(len(labels), generator=generator)]
        h = encoder(torch.cat([jittered(batch, 0.5, generator), jittered(batch, 0.5, generator)]))
        z = top(h)
        loss = loss_of(*z.chunk(2), **({"labels": labels} if "labels" in needs_of(loss_of) else {}))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        course.losses.append(float(loss.detach()))
        for place, features in zip(PLACES, (h, z), strict=True):
            newest[place].push(features.detach())
            if step % every == 0:
                look = look_at(newest[place].rows()[0], step, 1e-6)
                course.looks[place].append({name: float(getattr(look, name)) for name in MEASURED})
    return course


@torch.no_grad()
def shake(weights: Sequence[nn.Parameter], generator: torch.Generator) -> None:
    """Add noise as strong as the weights themselves."""
    for weight in weights:
        if weight.ndim > 1:
            weight.add_(weight.std() * torch.randn(weight.shape, generator=generator))
