"""Whether h or z collapses while a run trains: the rules of a watched training, on the run's own steps."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, final

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from fullrank.batch import Batch
from fullrank.diagnosis.watch.alerts import (
    ALERT_RULES,
    Alert,
    AlertRule,
    CollapseWarning,
    LossWarning,
    finding_of,
    raised,
)
from fullrank.diagnosis.watch.history import History, NewestRows
from fullrank.diagnosis.watch.loss import LOSS, LOSS_MEASURES, LossCurve
from fullrank.diagnosis.watch.measurements import MEASURES, look_at
from fullrank.objectives.contract import needs_of, unguarded_of
from fullrank.objectives.trial import ignores_lengths
from fullrank.record import Finding
from fullrank.training.module import OBJECTIVE, JointEmbedding

PLACES = ("h", "z")
# A run of any length has about so many looks at most, so that looking stays a small share of its time.
LOOKS = 200
# A look has four rows for each channel, so that its rank is not that of the sample, within these bounds.
LEAST_ROWS, MOST_ROWS = 512, 4096
# The share of the largest variance above which a direction is live, as in a monitor.
TOLERANCE = 1e-6
# The guard of a run already ends or skips a step that is not finite.
_GUARDED = ("not-finite", "loss-not-finite")
# What the rules read of a look; its spectrum would make checkpoints large.
_READ = ("step", *MEASURES, "spread")
# A collapse that keeps directions and ranks, as of a loss whose variance term is off. The largest fall of a
# healthy run was to 0.63, and that of runs without a variance term to 0.11 (docs/causes.md).
SPREAD_FELL = AlertRule(
    "spread-fell",
    "spread",
    share=0.2,
    means="all rows have shrunk towards one point",
    remedy="check whether the loss has a repulsive term or one on the variance",
    title="All rows have shrunk towards one point",
)
# The rank of features that learn labels falls to the number of classes, as it should.
_FALL_BY_DESIGN = ("rank-fell", "dimensions-lost")
# An untrained head has a high rank, and healthy losses give z a third of it and less, down to 6 in
# `questions/objective-rates`. So a run's rank must be below this too.
_LOW_RANK = 3.0
# The targets of a teacher sharpen and move, so the loss of a healthy run may rise.
_RISE_BY_DESIGN = ("loss-jumped",)
# Without a guard a cone is likely a collapse, so the mean cosine need not be as high as in other trainings.
_LIMIT_WITHOUT_GUARD = 0.05


def rules_for(objective: nn.Module, head: nn.Module | None = None) -> tuple[AlertRule, ...]:
    """The rules for a run with an objective: those of a watched training, as far as they apply, and one more.

    Rules on numbers that are not finite are left out. So are those on the rank for an objective with labels,
    and that on the loss for one with a teacher. A rank that fell must also be below 3.
    `SPREAD_FELL` is added unless the objective sees directions only, since the lengths of rows are then free.
    Where the objective has switched off what keeps it from collapse, the rules on features name that, and its
    remedy takes the place of theirs.

    >>> from fullrank import VICRegLoss
    >>> rules_for(VICRegLoss())[0].remedy
    'check whether the loss has a repulsive term'
    >>> rules_for(VICRegLoss(variance=0))[0].remedy
    'give the variance a weight, as in vicreg,variance=25'
    """
    needs = needs_of(objective)
    left_out = (
        [*_GUARDED] + [*_FALL_BY_DESIGN] * ("labels" in needs) + [*_RISE_BY_DESIGN] * ("teacher" in needs)
    )
    rules = [rule for rule in ALERT_RULES if rule.name not in left_out]
    rules = [replace(rule, limit=_LOW_RANK) if rule.name == "rank-fell" else rule for rule in rules]
    if not ignores_lengths(objective, getattr(head, "out_dim", 8)):
        rules.append(SPREAD_FELL)
    missing = unguarded_of(objective, head)
    if not missing:
        return tuple(rules)
    named = f"A likely reason is the objective ({'; '.join(map(str, missing))})"
    remedy = "; ".join(each.remedy for each in missing)
    return tuple(rule if rule.measure in LOSS_MEASURES else _named(rule, named, remedy) for rule in rules)


def _named(rule: AlertRule, reason: str, remedy: str) -> AlertRule:
    """A rule on features for an objective without a guard: with the reason, its remedy and a wider limit."""
    limit = _LIMIT_WITHOUT_GUARD if rule.name == "complete-collapse" else rule.limit
    means = f"{rule.means}. {reason}"
    return replace(rule, means=means, remedy=remedy, if_loss_fell="", limit=limit)


@final
class CollapseWatch(pl.Callback):
    """Looks at h and z of the first views while a run trains, and raises alerts on collapse.

    At a look the newest rows are measured (`look_at`), and the rules compare them with the looks before, as
    in `SpectrumMonitor`. A look has four rows for each channel, at least 512 and at most 4,096. An alert
    gives a `CollapseWarning`, or a `LossWarning` if its rule is about the loss, and becomes a finding of the
    run's record. Where z is h, only h is looked at. The first of several processes looks at its own share.

    Training stays bit for bit the same. Looks, alerts and pending rows are part of the checkpoint, so a
    callback that saves after a step must come after this one.

    Args:
        every: Steps between two looks. A run with more than 200 of them looks less often.
        rules: The rules that raise alerts.
    """

    def __init__(self, every: int, rules: Sequence[AlertRule] = ALERT_RULES):
        self.every, self.rules = every, tuple(rules)
        self.loss = LossCurve("train")
        self.looks = {place: History(_READ) for place in PLACES}
        self.alerts: list[Alert] = []
        self._newest = NewestRows(MOST_ROWS)
        self._window = 0  # steps that fill the rows of a look; known after the first
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Space the looks over the run."""
        total = trainer.estimated_stepping_batches
        self._between = self.every * max(1, math.ceil(total / (LOOKS * self.every)))

    def on_train_batch_end(  # type: ignore[override]  # it watches our module and no other
        self, trainer: pl.Trainer, module: JointEmbedding, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Keep the rows and the loss of a step, and look where it is time."""
        step = trainer.global_step
        if step == self._step or not trainer.is_global_zero:  # gradients are still being accumulated
            return
        self._step = step
        latest = module.latest
        self.loss.add(latest.losses[OBJECTIVE])
        if not self._window:
            self._size_for(latest.h_a, latest.z_a)
        if step > self._window and -step % self._between >= self._window:
            return  # these rows would have been replaced before the next look
        self._newest.push(latest.h_a, latest.z_a)
        if step == self._window or step % self._between == 0:
            self._look(step)

    def _size_for(self, h: Tensor, z: Tensor) -> None:
        rows = min(MOST_ROWS, max(LEAST_ROWS, 4 * max(h.shape[1], z.shape[1])))
        self._newest, self._window = NewestRows(rows), -(-rows // len(h))

    def _look(self, step: int) -> None:
        """Measure the newest rows, and raise the alerts."""
        h, z = self._newest.rows()
        finite = h.isfinite().all(1) & z.isfinite().all(1)  # a skipped step may have others
        rows = {"h": h[finite]} if torch.equal(h, z) else {"h": h[finite], "z": z[finite]}
        self.loss.look(step)
        of_loss = [rule for rule in self.rules if rule.measure in LOSS_MEASURES]
        of_features = [rule for rule in self.rules if rule.measure not in LOSS_MEASURES]
        new = [raised(rule, LOSS, self.loss.history, self.loss) for rule in of_loss]
        for place, each in rows.items() if int(finite.sum()) > 1 else ():
            look = look_at(each, step, TOLERANCE)
            spread = float(look.singular_values.sum().sqrt())
            self.looks[place].add(vars(look) | {"spread": spread})
            new += [raised(rule, place, self.looks[place], self.loss) for rule in of_features]
        for alert in filter(None, new):
            self.alerts.append(alert)
            warning = LossWarning if alert.measure in LOSS_MEASURES else CollapseWarning
            warnings.warn(warning(alert), stacklevel=1)
        if self._window < self._between:
            self._newest.clear()

    def findings(self) -> list[Finding]:
        """The alerts as findings of a record, with what their measures were at the last look."""
        findings = []
        for alert in self.alerts:
            last = self.looks[alert.module].last if alert.module in self.looks else {}
            step, value = last.get("step", alert.step), last.get(alert.measure, alert.value)
            findings.append(finding_of(alert, step, value))
        return findings

    def state_dict(self) -> dict[str, Any]:
        """Looks, alerts, losses, and rows that have not been looked at."""
        return {
            "step": self._step,
            "window": self._window,
            "size": self._newest.size,
            "alerts": [asdict(alert) for alert in self.alerts],
            "looks": {place: history.rows() for place, history in self.looks.items()},
            "loss": self.loss.state(),
            "rows": tuple(self._newest.rows()) if len(self._newest) else (),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state."""
        self._step, self._window = state_dict["step"], state_dict["window"]
        self.alerts = [Alert(**alert) for alert in state_dict["alerts"]]
        self.loss.load(state_dict["loss"])
        for place, looks in state_dict["looks"].items():
            self.looks[place] = History(_READ)
            for look in looks:
                self.looks[place].add(look)
        self._newest = NewestRows(state_dict["size"])
        if state_dict["rows"]:
            self._newest.push(*state_dict["rows"])
