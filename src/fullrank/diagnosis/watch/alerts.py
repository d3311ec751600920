"""Alerts: the rules by which a watched training reports that a module has collapsed, and their text."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from fullrank.diagnosis.watch.history import History
from fullrank.diagnosis.watch.loss import LOSS_MEASURES, LossCurve
from fullrank.diagnosis.watch.measurements import MEASURES
from fullrank.errors import FullrankWarning, UsageError
from fullrank.record import Finding


@dataclass(frozen=True)
class AlertRule:
    """When a measure has come too close to its `worst` value. Rules are data, not code.

    The gap is |value - worst|. A look counts if the gap is below both `limit` and `share` times the widest
    gap so far. After `looks` such looks in a row the rule fires. It can fire again only after the gap has
    grown to `REARM` times the one that counts, so a fluctuating value fires once.

    Args:
        name: The name of the rule.
        measure: The name of a measure of a look at a module, or of the loss. `loss` is its mean, `loss_kept`
            the share of its fall that it has kept, and `finite_losses` the share of losses that are numbers.
        share: A share of the widest gap so far. inf is no limit.
        means: What has happened, without a capital and a full stop.
        worst: The value of a collapse.
        limit: An absolute limit of the gap. inf is no limit.
        looks: How many looks in a row must count.
        remedy: What to try, without a capital and a full stop.
        title: The heading of its findings in a report, by default `name`.
        if_loss_fell: What it means if the loss has fallen meanwhile (`LossCurve.fall`), without a full stop.

    Raises:
        UsageError: If neither `share` nor `limit` is finite, one is not above 0, or `looks` is below 1.
    """

    name: str
    measure: str
    share: float
    means: str
    worst: float = 0.0
    limit: float = math.inf
    looks: int = 2
    remedy: str = "check what changed in the steps before"
    title: str = ""
    if_loss_fell: str = ""

    def __post_init__(self) -> None:
        rule = f"AlertRule {self.name!r}"
        if not (self.share > 0 and self.limit > 0 and math.isfinite(min(self.share, self.limit))):
            bounds = f"above 0 and one of them finite, but got {self.share} and {self.limit}"
            raise UsageError(f"{rule}: share and limit must be {bounds}; a share of 0.5 is half the gap.")
        if self.looks < 1:
            raise UsageError(f"{rule}: looks must be 1 or more, but got {self.looks}; the default is 2.")


# What a rule may be about: the measures of a look at a module, and the loss.
RULE_MEASURES = (*MEASURES, *LOSS_MEASURES)
REARM = 2.0
# A reason and no rule of its own: healthy contrastive losses fall too while the rank falls to under half
# (docs/causes.md).
_LOSS_FELL = (
    "it does not resist this, so its negatives or variance term may be missing or too weak (expected in a "
    "classifier)"
)
ALERT_RULES = (
    AlertRule(
        "complete-collapse",
        "mean_cosine",
        share=0.2,
        worst=1.0,
        limit=0.01,
        means="all rows point in nearly one direction",
        remedy="check whether the loss has a repulsive term",
        title="All inputs get nearly the same features",
        if_loss_fell=_LOSS_FELL,
    ),
    AlertRule(
        "rank-fell",
        "effective_rank",
        share=1 / 3,
        means="the variance has moved into few directions",
        remedy="try weaker augmentation, a lower learning rate or another head",
        title="The variance has moved into few directions",
        if_loss_fell=_LOSS_FELL,
    ),
    AlertRule(
        "dimensions-lost",
        "live_dimensions",
        share=0.5,
        means="directions have lost their variance",
        remedy="try weaker augmentation, a lower learning rate or another head",
        title="Directions have lost their variance",
        if_loss_fell=_LOSS_FELL,
    ),
    AlertRule(
        "not-finite",
        "finite_rows",
        share=math.inf,
        limit=1.0,
        means="rows hold NaN or infinity",
        remedy="lower the learning rate or check the precision",
        looks=1,
        title="Rows hold NaN or infinity",
    ),
    AlertRule(
        "loss-jumped",
        "loss_kept",
        share=math.inf,
        limit=0.8,
        means="the loss has risen far beyond its noise and stays up; it keeps this share of its fall",
        remedy="lower the learning rate, clip gradients, or check the data from that step on",
        title="The loss has jumped",
    ),
    AlertRule(
        "loss-not-finite",
        "finite_losses",
        share=math.inf,
        limit=1.0,
        means="losses are NaN or infinite",
        remedy="lower the learning rate or check the precision",
        looks=1,
        title="The loss is NaN or infinite",
    ),
)


@dataclass(frozen=True)
class Alert:
    """A rule that fired: at `step` the measure of `module` passed `threshold` and was `value`.

    An alert holds the words of its rule, so it is complete even if the rules have changed since.

    Attributes:
        step: The training step.
        module: The name of the module.
        rule: The name of the rule.
        measure: The name of the measure.
        value: What was measured.
        threshold: What it passed.
        means: What has happened.
        remedy: What to try.
        title: The heading of its finding in a report.

    >>> print(Alert(35, "encoder", "cone", "mean_cosine", 0.995, 0.99, "rows agree", "add negatives"))
    Step 35, 'encoder', cone: mean cosine is 0.995, past 0.99. Rows agree. Add negatives.
    """

    step: int
    module: str
    rule: str
    measure: str
    value: float
    threshold: float
    means: str
    remedy: str
    title: str = ""

    def __str__(self) -> str:
        what = f"{self.measure.replace('_', ' ')} is {self.value:.4g}, past {self.threshold:.4g}"
        said = "".join(f" {_sentence(each)}" for each in (self.means, self.remedy) if each)
        return f"Step {self.step}, {self.module!r}, {self.rule}: {what}.{said}"


class _AlertWarning(FullrankWarning):
    def __init__(self, alert: Alert):
        super().__init__(str(alert))
        self.alert = alert


class CollapseWarning(_AlertWarning):
    """The warning that an alert about a module raises. It holds the `alert`.

    `warnings.simplefilter("error", CollapseWarning)` stops the training at an alert.
    """


class LossWarning(_AlertWarning):
    """The warning that an alert about the loss raises. It holds the `alert`."""


def firings(rule: AlertRule, values: Iterable[float]) -> list[tuple[int, float]]:
    """Where in a series of its measure a rule fires, and the threshold there."""
    fired, widest, narrow_looks, armed = [], 0.0, 0, True
    for index, value in enumerate(values):
        gap = value - rule.worst
        if abs(gap) > abs(widest):
            widest = gap
        limit = min(rule.limit, rule.share * abs(widest))
        narrow_looks = narrow_looks + 1 if abs(gap) < limit else 0
        if armed and narrow_looks == rule.looks:
            fired.append((index, rule.worst + math.copysign(limit, widest)))
            armed = False
        armed = armed or abs(gap) >= REARM * limit
    return fired


def raised(rule: AlertRule, module: str, looks: History, loss: LossCurve) -> Alert | None:
    """The alert that the newest look raises by a rule, or None.

    Args:
        rule: The rule. One about the loss reads only the loss.
        module: The name of the module, or `loss`.
        looks: The looks at the module, or the history of the loss.
        loss: The loss over the steps of the looks.
    """
    values = looks[LOSS_MEASURES.get(rule.measure, rule.measure)]
    fired = firings(rule, values)
    if not fired or fired[-1][0] != len(values) - 1:
        return None
    step, value, threshold = looks.last["step"], float(values[-1]), fired[-1][1]
    means = rule.means
    if rule.if_loss_fell:
        widest = max(range(len(values)), key=lambda look: _gap(rule, values[look]))
        if fall := loss.fall(looks["step"][widest], step):
            means += f". The loss fell from {fall[0]:.4g} to {fall[1]:.4g}: {rule.if_loss_fell}"
    said = means, rule.remedy, rule.title
    return Alert(step, module, rule.name, rule.measure, value, threshold, *said)


def _gap(rule: AlertRule, value: float) -> float:
    return -1.0 if math.isnan(value) else abs(value - rule.worst)


def finding_of(alert: Alert, step: int, value: float) -> Finding:
    """The finding of an alert for a record; at the last look, that of `step`, its measure was `value`."""
    said = alert.means or f"the rule {alert.rule} fired"
    if step > alert.step:
        now = f"{value:.4g}" if math.isfinite(value) else "not a number"
        said += f". At the last look, step {step}, the {alert.measure.replace('_', ' ')} was {now}"
    return Finding(
        cause=alert.rule,
        title=alert.title,
        place=alert.module,
        level="alarm",
        measure=alert.measure,
        value=alert.value,
        threshold=alert.threshold,
        evidence=f"Step {alert.step}: {said}.",
        remedy=_sentence(alert.remedy),
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
