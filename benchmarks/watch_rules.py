"""The rules of a watched training on real trainings: which collapses and jumps they find, and false alarms.

    uv run python benchmarks/watch_rules.py
    uv run python benchmarks/watch_rules.py --quick
    uv run python benchmarks/watch_rules.py --runs /tmp/watched  # keeps the trainings there

Small nets are trained on real images with the objectives and heads of this package. Half `fix` is digits,
half `held` is Fashion-MNIST, both at 8 pixels. Thresholds were chosen on `fix` alone. The truth is measured.
Features have collapsed if their effective rank ends below a quarter of that of the same net trained with
InfoNCE, or if their mean cosine ends above 0.98. From a quarter to 0.6 nobody can say. Trainings with labels
are not counted there, as their rank falls by design. A loss has jumped if, in the two looks after the event,
its median is above that of the same training without the event, by 0.3 of the fall before.
"""

import argparse
import json
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from real_training import COLLAPSED, HALVES, HURT, images, jittered
from torch import Tensor, nn

from fullrank import head, objective
from fullrank.diagnosis.watch.alerts import ALERT_RULES, Alert, AlertRule, raised
from fullrank.diagnosis.watch.history import History, NewestRows
from fullrank.diagnosis.watch.loss import LOSS, LOSS_MEASURES, LossCurve
from fullrank.diagnosis.watch.measurements import look_at
from fullrank.objectives import needs_of
from fullrank.training.module import warmup_cosine

POINT, LASTING = 0.98, 0.3
STEPS, EVERY = 240, 10
PLACES = ("h", "z")
FACTS = {"collapsed": True, "healthy": False, "unclear": None}
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
        yield Case(name, schedule="restarts")
        yield Case(name, optimizer="sgd", rate=0.3)
        yield Case(name, batch=8, rate=1e-3)
        yield Case(name, batch=16, rate=1e-3, event="shake")
    for name in WITH_LABELS:
        yield Case(name, event="labels")
    for name in WITHOUT[:2]:
        yield from (Case(name, optimizer="sgd", rate=rate) for rate in (0.03, 0.1))


def scheduled(case: Case, step: int, steps: int) -> float:
    """The relative learning rate of a step."""
    if case.schedule == "restarts":
        return min(1.0, (step + 1) / 10) * warmup_cosine(step % (steps // 4), 0, steps // 4)
    return warmup_cosine(step, steps // 10, steps)


def event_step(steps: int) -> int:
    """The step at which an event happens."""
    return round(0.55 * steps) + 1


def train(case: Case, data: str, steps: int, every: int) -> Course:
    """Train a small net, and look at h and z as a watcher does."""
    torch.manual_seed(case.seed)
    generator = torch.Generator().manual_seed(case.seed)
    x, y = images(data, 8).train[:, :1], images(data, 8).train_labels
    layers = (nn.Flatten(), nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 32))
    encoder, top = nn.Sequential(*layers), head(case.head, in_dim=32)
    loss_of: nn.Module = Alignment()
    if case.objective != "alignment":
        loss_of = objective(case.objective, in_dim=top.out_dim, num_classes=10)
    weights = [p for part in (encoder, top, loss_of) for p in part.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(weights)
    if case.optimizer == "sgd":
        optimizer = torch.optim.SGD(weights, momentum=0.9)
    newest = {place: NewestRows(512) for place in PLACES}
    course = Course([], {place: [] for place in PLACES})
    for step in range(1, steps + 1):
        rows = torch.randint(len(x), (case.batch,), generator=generator)
        event = case.event if step >= event_step(steps) else ""
        batch, labels = x[rows], y[rows]
        for group in optimizer.param_groups:
            group["lr"] = case.rate * scheduled(case, step - 1, steps) * (100 if event == "rate" else 1)
        if event == "shake" and step == event_step(steps):
            shake(weights, generator)
        if event == "spike" and step == event_step(steps):
            batch = torch.randn(batch.shape, generator=generator)
        if event == "labels":
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


# What is true, and what the rules say


def alerts(course: Course, every: int, rules: Sequence[AlertRule] = ALERT_RULES) -> list[Alert]:
    """What a watcher says of a training, look by look."""
    loss = LossCurve("watch")
    histories = {place: History(("step", *MEASURED)) for place in PLACES}
    found = []
    for look, step in enumerate(range(every, len(course.losses) + 1, every)):
        for value in course.losses[step - every : step]:
            loss.add(value)
        loss.look(step)
        for place, history in histories.items():
            history.add({"step": step} | course.looks[place][look])
        for rule in rules:
            read = {LOSS: loss.history} if rule.measure in LOSS_MEASURES else histories
            found += [raised(rule, name, history, loss) for name, history in read.items()]
    return [alert for alert in found if alert]


def collapsed(course: Course, twin: Course, place: str) -> bool | None:
    """Whether a place ends collapsed; None where nobody can say."""
    last, other = course.looks[place][-1], twin.looks[place][-1]
    share = last["effective_rank"] / other["effective_rank"]
    if share < COLLAPSED or last["mean_cosine"] > POINT:
        return True
    return None if share < HURT else False


def jumped(course: Course, twin: Course, every: int) -> bool:
    """Whether the loss has risen at the event, and stays up for two looks."""
    event = event_step(len(course.losses)) - 1
    before = statistics.median(twin.losses[event - every : event])
    fall = statistics.median(twin.losses[:every]) - before
    later = [slice(event + shift, event + shift + every) for shift in (0, every)]
    rises = [statistics.median(course.losses[at]) - statistics.median(twin.losses[at]) for at in later]
    return min(rises) > LASTING * fall


def trained(half: str, quick: bool, folder: Path | None) -> dict[Case, Course]:
    """All trainings of a half, and their twins; with a folder those that it holds are read."""
    steps = STEPS // 2 if quick else STEPS
    every_case = [each for case in cases(quick) for each in (case.twin, replace(case, event=""), case)]
    courses = {}
    for case in dict.fromkeys(every_case):
        file = folder and folder / f"{half} {case.name} {steps}.json".replace(":", "-")
        if file and file.is_file():
            courses[case] = Course(**json.loads(file.read_text()))
            continue
        courses[case] = train(case, HALVES[half], steps, EVERY)
        if file:
            file.write_text(json.dumps(asdict(courses[case])))
    return courses


def report_collapses(courses: dict[Case, Course]) -> None:
    """How many collapses are found, by the rules and by an earlier share of the rank while the loss falls."""
    own = [rule for rule in ALERT_RULES if rule.measure not in LOSS_MEASURES]
    truth = {
        (case, place): collapsed(course, courses[case.twin], place)
        for case, course in courses.items()
        for place in PLACES
        if case.objective not in WITH_LABELS and not case.event
    }
    counts = {name: sum(value is fact for value in truth.values()) for name, fact in FACTS.items()}
    print(f"  {len(truth)} places: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    attempts = [("all rules", own, False), ("all rules, and the loss fell", own, True)]
    rank_fell = next(rule for rule in own if rule.name == "rank-fell")
    for share in (0.6, 0.5, 0.4, 1 / 3):
        rule = replace(rank_fell, share=share)
        attempts.append((f"rank below {share:.2f}, and the loss fell", [rule], True))
    for name, rules, falls in attempts:
        hits = {
            (case, alert.module)
            for case, course in courses.items()
            for alert in alerts(course, EVERY, rules)
            if not falls or "loss fell" in alert.means
        }
        found = {each: sum(truth[key] is fact for key in hits & truth.keys()) for each, fact in FACTS.items()}
        told = ", ".join(f"{found[each]} of {counts[each]} {each}" for each in FACTS)
        print(f"  {name:35} alarms at {told}", flush=True)


def report_jumps(courses: dict[Case, Course]) -> None:
    """How many jumps of the loss are found, by event, and how many alerts are false."""
    counts: Counter[tuple[str, bool, bool]] = Counter()
    for case, course in courses.items():
        true = bool(case.event) and jumped(course, courses[replace(case, event="")], EVERY)
        found = any(alert.rule == "loss-jumped" for alert in alerts(course, EVERY))
        counts[case.event or "none", true, found] += 1
    for event in sorted({event for event, *_ in counts}):
        stays, back = ([counts[event, true, found] for found in (True, False)] for true in (True, False))
        print(
            f"  event {event:7} stays up: {stays[0]} of {sum(stays)} found; "
            f"comes back or never rose: {back[0]} of {sum(back)} alarm"
        )


def main() -> None:
    """Train, and print both reports for each half."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter trainings")
    parser.add_argument("--runs", type=Path, help="a folder where trainings are kept and read again")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.runs:
        arguments.runs.mkdir(parents=True, exist_ok=True)
    for half, data in HALVES.items():
        courses = trained(half, arguments.quick, arguments.runs)
        print(f"{half} ({data}), {len(courses)} trainings", flush=True)
        report_collapses(courses)
        report_jumps(courses)


if __name__ == "__main__":
    main()
