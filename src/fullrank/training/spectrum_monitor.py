"""SpectrumMonitor: spectra, ranks and alerts of any module while anybody's Lightning training goes on."""

import math
import sys
import warnings
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fullrank.errors import DataError, UsageError, unknown_name
from fullrank.linalg import Moments
from fullrank.spectrum.functional import effective_rank, live_dimensions, rankme_of
from fullrank.spectrum.geometry import mean_cosine

MEASURES = ("effective_rank", "rankme", "live_dimensions", "mean_cosine", "finite_rows")


@dataclass(frozen=True)
class Look:
    """What was seen of one module at one step, in `rows` rows of its output.

    `singular_values` (D,) are those of the centred covariance (1/N), descending, as float32. Where a row is
    not finite, only `finite_rows`, the share of finite ones, is a number.
    """

    step: int
    rows: int
    effective_rank: float
    rankme: float
    live_dimensions: float
    mean_cosine: float
    finite_rows: float
    singular_values: Tensor


def look_at(rows: Tensor, step: int, tolerance: float) -> Look:
    """The measures of rows (N, D), N of 2 or more, by `fullrank.spectrum`: float64, one pass, two spectra.

    `effective_rank` and `live_dimensions` (variances above `tolerance` times the largest) are centred,
    `rankme` and `mean_cosine` are not. No rank is above min(N, D), so keep N well above D; all compare runs
    of one method only.

    >>> look = look_at(torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), 1, 1e-6)
    >>> look.live_dimensions, look.singular_values.tolist(), round(look.effective_rank, 3)
    (2, [4.5, 0.5], 1.755)
    """
    count, width = rows.shape
    finite = float(torch.isfinite(rows).all(1).double().mean())
    if finite < 1:
        nan = math.nan
        return Look(step, count, nan, nan, nan, nan, finite, torch.full((width,), nan))
    if count < width:
        # The same rows up to a rotation, in N dimensions: the spectra then cost N^3 and not D^3.
        rows = torch.linalg.qr(rows.double().T, mode="r").R.T
    moments = Moments.of(rows)
    values = moments.singular_values()
    return Look(
        step=step,
        rows=count,
        effective_rank=effective_rank(values),
        rankme=rankme_of(moments.matrix_singular_values()),
        live_dimensions=live_dimensions(values, tolerance),
        mean_cosine=mean_cosine(rows),
        finite_rows=finite,
        singular_values=F.pad(values, (0, width - len(values))).float(),
    )


def rows_of(output: object, name: str) -> Tensor:
    """A module's output as rows (N, D), detached: maps (N, C, H, W) and tokens (N, T, D) by their mean.

    The mean is over all positions, a class token among them. The rows are a copy in float32, which what the
    module's caller does to the output cannot change. Raises DataError for anything else.

    >>> rows_of(torch.arange(8.0).view(1, 2, 2, 2), "layer4")
    tensor([[1.5000, 5.5000]])
    """
    if not isinstance(output, Tensor) or output.ndim < 2:
        got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise DataError(
            f"SpectrumMonitor: the output of {name!r} must be one tensor (N, D), (N, T, D) or (N, C, H, W), "
            f"but got {got}; name a module inside it, or one that comes after."
        )
    output = output.detach()
    if output.ndim == 2:
        return output.to(torch.float32, copy=True)
    return output.float().mean(1) if output.ndim == 3 else output.float().flatten(2).mean(2)


# Rules


@dataclass(frozen=True)
class AlertRule:
    """When a measure has come too near its `worst` value: data, not code.

    The gap is |value - worst|. A look counts where the gap is below both `limit` and `share` times the widest
    gap so far (inf: whatever it was); after `looks` such looks in a row the rule fires. It is armed again
    only once the gap is `REARM` times the one that counts, so a value that trembles fires once.
    """

    name: str
    measure: str
    share: float
    means: str
    worst: float = 0.0
    limit: float = math.inf
    looks: int = 2


REARM = 2.0
ALERT_RULES = (
    AlertRule(
        "complete-collapse",
        "mean_cosine",
        share=0.2,
        worst=1.0,
        limit=0.01,
        means="all rows have become nearly one direction; look for a loss that only attracts",
    ),
    AlertRule(
        "rank-fell",
        "effective_rank",
        share=1 / 3,
        means="the variance has moved into few directions; try weaker augmentation, a lower learning rate or "
        "another head",
    ),
    AlertRule(
        "dimensions-lost",
        "live_dimensions",
        share=0.5,
        means="directions have lost their variance; try weaker augmentation, a lower learning rate or "
        "another head",
    ),
    AlertRule(
        "not-finite",
        "finite_rows",
        share=math.inf,
        limit=1.0,
        means="rows hold NaN or infinity; lower the learning rate or look at the precision",
        looks=1,
    ),
)


@dataclass(frozen=True)
class Alert:
    """A rule that fired: at `step` the measure of `module` had come past `threshold` and was `value`."""

    step: int
    module: str
    rule: str
    value: float
    threshold: float


class CollapseWarning(UserWarning):
    """The warning with which an alert is raised; it holds the `alert`.

    `warnings.simplefilter("error", CollapseWarning)` lets it stop the training.
    """

    def __init__(self, message: str, alert: Alert):
        super().__init__(message)
        self.alert = alert


def firings(rule: AlertRule, values: Iterable[float]) -> list[tuple[int, float]]:
    """Where in a series of its measure a rule fires, and the threshold there.

    >>> fell = AlertRule("fell", "effective_rank", share=0.5, means="", looks=2)
    >>> firings(fell, [8, 10, 4, 4, 3, 6, 3, 3, 10, 4, 4])
    [(3, 5.0), (10, 5.0)]
    """
    found, widest, counted, armed = [], 0.0, 0, True
    for index, value in enumerate(values):
        gap = value - rule.worst
        if abs(gap) > abs(widest):
            widest = gap
        narrow = min(rule.limit, rule.share * abs(widest))
        counted = counted + 1 if abs(gap) < narrow else 0
        if armed and counted == rule.looks:
            found.append((index, rule.worst + math.copysign(narrow, widest)))
            armed = False
        armed = armed or abs(gap) >= REARM * narrow
    return found


# Watching


@final
class NewestRows:
    """The newest `size` rows of what is pushed, oldest first.

    >>> newest = NewestRows(3)
    >>> for rows in torch.arange(4.0).view(2, 2, 1):
    ...     newest.push(rows)
    >>> newest.rows()[:, 0].tolist()
    [1.0, 2.0, 3.0]
    """

    def __init__(self, size: int):
        self.size = size
        self._chunks: deque[Tensor] = deque()
        self._held = 0

    def __len__(self) -> int:
        return min(self._held, self.size)

    def push(self, rows: Tensor) -> None:
        """Keep rows (N, D); chunks that are no longer among the newest go."""
        self._chunks.append(rows)
        self._held += len(rows)
        while self._held - len(self._chunks[0]) >= self.size:
            self._held -= len(self._chunks.popleft())

    def rows(self) -> Tensor:
        """The rows (n, D), on the device of the last ones; there must be some."""
        device = self._chunks[-1].device
        return torch.cat([chunk.to(device) for chunk in self._chunks])[-self.size :]

    def clear(self) -> None:
        """Forget all rows."""
        self._chunks.clear()
        self._held = 0


@final
class _Watch:
    """One module: the rows of the step under way, the newest rows, and the looks so far."""

    def __init__(self, path: str, samples: int):
        self.path = path
        self.fresh: list[Tensor] = []
        self.newest = NewestRows(samples)
        self.looks: list[Look] = []
        self.missed = False

    def hook(self, module: nn.Module, inputs: object, output: object) -> None:
        """Keep a copy of the output; nothing is returned, so the output stays as it is."""
        self.fresh.append(rows_of(output, self.path))


@final
class SpectrumMonitor(pl.Callback):
    """Spectrum, ranks and live dimensions of modules of any LightningModule, and an alert when they collapse.

    It goes into the callbacks of a Trainer of `lightning.pytorch` or `pytorch_lightning`. `modules` are
    dotted paths inside the LightningModule, as `named_modules()` has them, or names of your own mapped to
    such paths. An output is (N, D), or maps (N, C, H, W) or tokens (N, T, D), of which the mean over the
    positions is taken. All calls in a step count, so two views through one encoder are twice the rows.

    Every `every_n_steps` training batches it looks at the newest `samples` rows: those of so many batches
    before the look as fill them. Only in these batches, and only while they are trained on, do modules carry
    a hook. The first look is at the first `samples` rows. Rank is at most rows - 1, so keep `samples` above
    twice the width where you can; `tolerance` is the share of the largest variance above which a direction
    is live. See `look_at` for the measures. The time of a look grows as (samples + D) min(samples, D)^2.

    The measures go to every logger of the Trainer as `spectrum/NAME/effective_rank` and so on; `looks` and
    `arrays` hold them and the spectra. When one of `rules` fires there is an `Alert` in `alerts` and a
    `CollapseWarning`. The rules on rank and direction compare a module with itself earlier in the run: an
    untrained module or a low rank from the start is no alert, and a supervised classifier, whose rank falls
    to the number of its classes, needs rules of its own.

    Training is bit for bit what it is without the monitor. Looks, alerts and rows not yet looked at are part
    of the checkpoint; a callback that saves after a step must come after this one. Of many processes the
    first watches its own share.

    Raises UsageError for no modules, `every_n_steps` below 1, `samples` below 2, a `tolerance` outside 0 to
    1, and, when the training starts, for a module that there is not. Raises DataError for an output that is
    not a tensor of rows, maps or tokens.

    >>> monitor = SpectrumMonitor(["encoder", "head"])
    >>> import lightning.pytorch as pl
    >>> trainer = pl.Trainer(callbacks=[monitor], accelerator="cpu", logger=False, enable_checkpointing=False)
    >>> monitor.alerts
    []
    """

    def __init__(
        self,
        modules: Sequence[str] | Mapping[str, str],
        every_n_steps: int = 50,
        samples: int = 4096,
        *,
        tolerance: float = 1e-6,
        rules: Sequence[AlertRule] = ALERT_RULES,
    ):
        if isinstance(modules, str) or not modules:
            raise UsageError(
                f"SpectrumMonitor: modules must be a list of 1 or more names, but got {modules!r}; write "
                "['encoder']."
            )
        ranges = (
            ("every_n_steps", every_n_steps, every_n_steps >= 1, "1 or more", "50"),
            ("samples", samples, samples >= 2, "2 rows or more", "4096"),
            ("tolerance", tolerance, 0 < tolerance < 1, "between 0 and 1", "1e-6"),
        )
        for name, value, fits, limits, default in ranges:
            if not fits:
                raise UsageError(
                    f"SpectrumMonitor: {name} must be {limits}, but got {value}; the default is {default}."
                )
        for rule in rules:
            if rule.measure not in MEASURES:
                raise unknown_name("measure", rule.measure, MEASURES, f"rules may use {', '.join(MEASURES)}")
        join_pytorch_lightning()
        self.modules = dict(modules) if isinstance(modules, Mapping) else {path: path for path in modules}
        self.every_n_steps, self.samples = every_n_steps, samples
        self.tolerance, self.rules = tolerance, tuple(rules)
        self.alerts: list[Alert] = []
        self._watches = {name: _Watch(path, samples) for name, path in self.modules.items()}
        self._batches = 0
        self._window: int | None = None  # batches that fill `samples`; known after the first
        self._hooks: list[RemovableHandle] = []

    @property
    def state_key(self) -> str:
        """One for each set of modules, so that a Trainer may have several monitors."""
        return f"SpectrumMonitor{self.modules!r}"

    @property
    def looks(self) -> dict[str, list[Look]]:
        """The looks so far, by name."""
        return {name: list(watch.looks) for name, watch in self._watches.items()}

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Check the names, before any step is made."""
        known = [name for name, _ in pl_module.named_modules() if name]
        for path in self.modules.values():
            if path not in known:
                top = ", ".join(name for name, _ in pl_module.named_children())
                raise unknown_name("module", path, known, f"{type(pl_module).__name__} has {top}")

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Hook the modules, where this batch's rows are looked at."""
        self._release()
        if trainer.is_global_zero and self._collects(self._batches + 1):
            for watch in self._watches.values():
                module = pl_module.get_submodule(watch.path)
                self._hooks.append(module.register_forward_hook(watch.hook))

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the batch's rows, and look where it is time."""
        self._batches += 1
        if not self._hooks:
            return
        counts = [sum(map(len, watch.fresh)) for watch in self._watches.values() if watch.fresh]
        for watch in self._watches.values():
            for rows in watch.fresh:
                watch.newest.push(rows)
        self._release()
        if self._window is None and counts:
            self._window = min(self.every_n_steps, -(-self.samples // max(1, min(counts))))
        if self._batches % self.every_n_steps == 0 or self._batches == self._window:
            for name, watch in self._watches.items():
                self._look(name, watch, trainer)
        if not self._collects(self._batches + 1):
            for watch in self._watches.values():
                watch.newest.clear()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Take the hooks away."""
        self._release()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Take the hooks away."""
        self._release()

    def arrays(self) -> dict[str, np.ndarray]:
        """The looks over time, as `arrays.npz` may hold them.

        For each name with a look: `spectrum/NAME/step` and `rows` (T,), each of `MEASURES` (T,), and
        `singular_values` (T, D).
        """
        found: dict[str, np.ndarray] = {}
        for name, watch in self._watches.items():
            if watch.looks:
                for field in ("step", "rows", *MEASURES):
                    found[f"spectrum/{name}/{field}"] = np.array(
                        [getattr(look, field) for look in watch.looks]
                    )
                spectra = torch.stack([look.singular_values for look in watch.looks])
                found[f"spectrum/{name}/singular_values"] = spectra.numpy()
        return found

    def state_dict(self) -> dict[str, Any]:
        """Looks, alerts, and rows that have not been looked at."""
        watches = self._watches.items()
        return {
            "batches": self._batches,
            "window": self._window,
            "alerts": [asdict(alert) for alert in self.alerts],
            "looks": {name: [dict(vars(look)) for look in watch.looks] for name, watch in watches},
            "rows": {name: watch.newest.rows() for name, watch in watches if len(watch.newest)},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state."""
        self._batches, self._window = state_dict["batches"], state_dict["window"]
        self.alerts = [Alert(**alert) for alert in state_dict["alerts"]]
        for name, watch in self._watches.items():
            watch.looks = [Look(**look) for look in state_dict["looks"][name]]
            watch.newest.clear()
            if name in state_dict["rows"]:
                watch.newest.push(state_dict["rows"][name])

    def _collects(self, batch: int) -> bool:
        """Whether batch number `batch`, from 1, is one of those before a look."""
        return self._window is None or batch <= self._window or -batch % self.every_n_steps < self._window

    def _release(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        for watch in self._watches.values():
            watch.fresh = []

    def _look(self, name: str, watch: _Watch, trainer: Any) -> None:
        if len(watch.newest) < 2:
            if not watch.missed:
                watch.missed = True
                warnings.warn(
                    f"SpectrumMonitor: {watch.path!r} gave {len(watch.newest)} rows up to step "
                    f"{trainer.global_step}, and a spectrum needs 2; name a module that each training step "
                    "calls, and of a compiled one itself, not a module inside it.",
                    stacklevel=1,
                )
            return
        look = look_at(watch.newest.rows(), trainer.global_step, self.tolerance)
        watch.looks.append(look)
        shown = {f"spectrum/{name}/{measure}": getattr(look, measure) for measure in MEASURES}
        # Not by the module's `log`: it costs as much as the look, and hands on only what falls on its own
        # log_every_n_steps.
        for logger in trainer.loggers:
            logger.log_metrics(shown, look.step)
        self._judge(name, watch.looks)

    def _judge(self, name: str, looks: list[Look]) -> None:
        for rule in self.rules:
            fired = firings(rule, [getattr(look, rule.measure) for look in looks])
            if not fired or fired[-1][0] != len(looks) - 1:
                continue
            value, threshold = getattr(looks[-1], rule.measure), fired[-1][1]
            alert = Alert(looks[-1].step, name, rule.name, value, threshold)
            self.alerts.append(alert)
            what = f"{rule.measure.replace('_', ' ')} is {value:.4g}, past {threshold:.4g}"
            message = f"Step {alert.step}, {name!r}, {rule.name}: {what}: {rule.means}."
            warnings.warn(CollapseWarning(message, alert), stacklevel=1)


def join_pytorch_lightning() -> None:
    """Make the monitor a callback of `pytorch_lightning` too, where that has been imported.

    It has a class of its own. A Trainer calls what stands in its list of callbacks by name, so in a list
    either class will do; but one callback outside a list, a class named in a file of the command line, and
    a hook that only one of the two has come to know, need the class itself. It is not imported here: that
    takes the logger away from Lightning.
    """
    callback = getattr(sys.modules.get("pytorch_lightning"), "Callback", SpectrumMonitor)
    if not issubclass(SpectrumMonitor, callback):
        SpectrumMonitor.__bases__ += (callback,)


join_pytorch_lightning()
