"""SpectrumMonitor: spectra, ranks and alerts of any module during any Lightning training."""

import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

import lightning.pytorch as pl
import numpy as np
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fullrank.diagnosis.watch.alerts import ALERT_RULES, Alert, AlertRule, CollapseWarning, finding_of, raised
from fullrank.diagnosis.watch.history import History, NewestRows
from fullrank.diagnosis.watch.measurements import MEASURES, Look, look_at, rows_of
from fullrank.errors import UsageError, count_of, unknown_name
from fullrank.files import save_arrays
from fullrank.record import RECORD_FILE, DiagnosisEntry, Measure, Record, Spectrum
from fullrank.record.making import new_record

# What no spectrum of a training can show, and what can.
NOT_SEEN = (
    "Why: the causes (the augmentation, stacked linear maps, dead channels) need the model, its images and "
    "its views; fullrank diagnose, given the model, names them.",
    "Where to cut: the accuracy at each place needs labelled images that were not trained on; fullrank "
    "diagnose, given the model, shows it.",
    "A rank that was low before the first look: the rules compare a module with itself earlier in the "
    "training; fullrank diagnose judges the model by itself.",
)
_MOST_NAMED = 3


def watched_diagnosis(
    target: str, looks: Mapping[str, Sequence[Look]], alerts: Sequence[Alert]
) -> DiagnosisEntry:
    """What the looks at one or more modules and their alerts say of the training of `target`."""
    not_seen = [
        f"{name}: fewer than 2 rows came from it; name a module that each training step calls."
        for name, of_module in looks.items()
        if not of_module
    ]
    last = {name: of_module[-1] for name, of_module in looks.items() if of_module}
    measures, spectrum = [], {}
    for name, look in last.items():
        for measure in MEASURES:
            value = float(getattr(look, measure))
            measures.append(Measure(place=name, name=measure, value=value if math.isfinite(value) else None))
        finite = next((each for each in reversed(looks[name]) if each.singular_values.isfinite().all()), None)
        if finite is not None:
            values = finite.singular_values.tolist()
            spectrum[name] = Spectrum(singular_values=values, effective_rank=finite.effective_rank)
        if finite is not look:
            instead = f"the spectrum is that of step {finite.step}" if finite else "there is no spectrum"
            not_seen.append(f"{name} at step {look.step}: not every number is finite; {instead}.")
    count, step = max(map(len, looks.values())), max(look.step for look in last.values())
    return DiagnosisEntry(
        target=target,
        rows=max(look.rows for look in last.values()),
        places=list(last),
        verdict=_verdict(f"{count} look{'s' if count > 1 else ''} up to step {step}", alerts),
        collapsed=bool(alerts),
        cut=None,
        findings=[finding_of(alert, last[alert.module]) for alert in alerts],
        measures=measures,
        spectrum=spectrum,
        not_seen=[*not_seen, *NOT_SEEN],
    )


def _verdict(looks: str, alerts: Sequence[Alert]) -> str:
    if not alerts:
        return f"No rule fired in {looks}."
    named = [f"{alert.rule} at step {alert.step} in {alert.module}" for alert in alerts[:_MOST_NAMED]]
    if len(alerts) > _MOST_NAMED:
        named.append(f"{len(alerts) - _MOST_NAMED} more")
    listed = " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))
    return f"{len(alerts)} alert{'s' if len(alerts) > 1 else ''} in {looks}: {listed}."


@dataclass
class _Watch:
    """One module: the newest rows, those of the step under way, and the looks so far."""

    path: str
    newest: NewestRows
    fresh: list[Tensor] = field(default_factory=list)
    history: History = field(default_factory=lambda: History(Look.__dataclass_fields__))
    missed: bool = False

    def hook(self, module: nn.Module, inputs: object, output: object) -> None:
        """Keep a copy of the output; nothing is returned, so the output is unchanged."""
        self.fresh.append(rows_of(output, self.path))


@final
class SpectrumMonitor(pl.Callback):
    """Spectrum, ranks and live dimensions of modules of any LightningModule, with alerts on collapse.

    Put it into the callbacks of a Trainer of `lightning.pytorch` or `pytorch_lightning`. The output of a
    watched module is (N, D), a map (N, C, H, W) or tokens (N, T, D); maps and tokens are averaged over their
    positions. All calls in a step count, so two views through one encoder give twice the rows.

    Every `every_n_steps` training batches the monitor measures the newest `samples` rows (see `look_at`).
    Modules carry a hook only in the batches just before a measurement. The first measurement is of the first
    `samples` rows. The time of one grows as (samples + D) min(samples, D)^2.

    The measures go to every logger of the Trainer, as `spectrum/NAME/effective_rank` and so on. `looks` and
    `arrays` hold them and the spectra; `save` writes them for `fullrank report`. A rule that fires adds an
    `Alert` to `alerts` and gives a `CollapseWarning`. The rules on rank and direction compare a module
    with itself earlier in the run. An untrained module, or a rank that is low from the start, is therefore no
    alert. A supervised classifier, whose rank falls to the number of classes, needs rules of its own.

    Training stays bit for bit the same. Measurements, alerts and pending rows are part of the checkpoint; a
    callback that saves after a step must come after this one. With several processes, the first one watches
    its own share.

    Args:
        modules: Dotted paths inside the LightningModule, as in `named_modules()`, or a mapping from names of
            your choice to such paths.
        every_n_steps: Training batches between two measurements, 1 or more.
        samples: Rows per measurement, 2 or more. A rank is at most rows - 1, so choose more than twice the
            width if you can.
        tolerance: The share of the largest variance above which a direction is live, between 0 and 1.
        rules: The rules that raise alerts.

    Raises:
        UsageError: An argument is outside its limits or, when the training starts, a module does not exist.
        DataError: An output is not a tensor of rows, maps or tokens.

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
        limits = (
            ("modules", modules, modules and not isinstance(modules, str), "1 or more, as ['encoder']"),
            ("every_n_steps", every_n_steps, every_n_steps >= 1, "1 or more (the default is 50)"),
            ("samples", samples, samples >= 2, "2 rows or more (the default is 4096)"),
            ("tolerance", tolerance, 0 < tolerance < 1, "between 0 and 1 (the default is 1e-6)"),
        )
        for name, value, fits, limit in limits:
            if not fits:
                raise UsageError(f"SpectrumMonitor: {name} must be {limit}, but got {value!r}.")
        for rule in rules:
            if rule.measure not in MEASURES:
                raise unknown_name("measure", rule.measure, MEASURES, f"rules may use {', '.join(MEASURES)}")
        join_pytorch_lightning()
        self.modules = dict(modules) if isinstance(modules, Mapping) else {path: path for path in modules}
        self.every_n_steps, self.samples = every_n_steps, samples
        self.tolerance, self.rules = tolerance, tuple(rules)
        self.alerts: list[Alert] = []
        self._watches = {name: _Watch(path, NewestRows(samples)) for name, path in self.modules.items()}
        self._batches = 0
        self._window: int | None = None  # batches that fill `samples`; known after the first
        self._hooks: list[RemovableHandle] = []
        self._target, self._first = "LightningModule", True

    @property
    def state_key(self) -> str:
        """One for each set of modules, so that a Trainer may have several monitors."""
        return f"SpectrumMonitor{self.modules!r}"

    @property
    def looks(self) -> dict[str, list[Look]]:
        """The looks so far, by name."""
        return {name: [Look(**row) for row in watch.history.rows()] for name, watch in self._watches.items()}

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Check the names, before any step is made."""
        self._target, self._first = type(pl_module).__name__, trainer.is_global_zero
        names = [name for name, _ in pl_module.named_modules() if name]
        top = ", ".join(name for name, _ in pl_module.named_children())
        for path in self.modules.values():
            if path not in names:
                raise unknown_name("module", path, names, f"{self._target} has {top}")

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

    def arrays(self) -> dict[str, np.ndarray]:
        """The looks over time, as `arrays.npz` may hold them.

        For each name with a look: `spectrum/NAME/step` and `rows` (T,), each of `MEASURES` (T,), and
        `singular_values` (T, D).
        """
        return {
            f"spectrum/{name}/{column}": values
            for name, watch in self._watches.items()
            if watch.history.last
            for column, values in watch.history.arrays().items()
        }

    def save(self, folder: str | Path) -> None:
        """Write the measurements into `folder`, of which `fullrank report` makes a page.

        Writes `arrays.npz`, the looks over time, and `record.json`, a diagnosis: the last look at each
        module, the alerts as alarms, and what only `fullrank diagnose` of the model can say. The folder is
        made if it is missing; an earlier save of a monitor in it is replaced. Of many processes the first
        writes, the others do nothing. Raises UsageError before the first look, and for a folder that is a
        file or holds the record of something else; DataError for one that holds a damaged record.
        """
        if not self._first:
            return
        folder = Path(folder)
        if not any(watch.history.last for watch in self._watches.values()):
            empty = f"SpectrumMonitor: nothing was measured in {self._batches} batches"
            raise UsageError(f"{empty}; save after training, or lower every_n_steps ({self.every_n_steps}).")
        if file := next(filter(Path.is_file, (folder, *folder.parents)), None):
            raise UsageError(f"SpectrumMonitor: {file} is a file, but save needs a folder; name another one.")
        if (folder / RECORD_FILE).is_file() and "monitor" not in (earlier := Record.load(folder)).recipe:
            record = f"{folder} holds the record of a {earlier.kind}"
            raise UsageError(f"SpectrumMonitor: {record}, which save would replace; name another folder.")
        settings = {key: vars(self)[key] for key in ("modules", "every_n_steps", "samples", "tolerance")}
        settings["rules"] = [rule.name for rule in self.rules]
        entry = watched_diagnosis(self._target, self.looks, self.alerts)
        folder.mkdir(parents=True, exist_ok=True)
        save_arrays(folder, self.arrays())
        new_record("diagnosis", {"monitor": settings}, [], diagnosis=entry).save(folder)

    def state_dict(self) -> dict[str, Any]:
        """Looks, alerts, and rows that have not been looked at."""
        watches = self._watches.items()
        return {
            "batches": self._batches,
            "window": self._window,
            "target": self._target,
            "alerts": [asdict(alert) for alert in self.alerts],
            "looks": {name: watch.history.rows() for name, watch in watches},
            "rows": {name: watch.newest.rows()[0] for name, watch in watches if len(watch.newest)},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state."""
        self._batches, self._window = state_dict["batches"], state_dict["window"]
        self._target = state_dict["target"]
        self.alerts = [Alert(**alert) for alert in state_dict["alerts"]]
        for name, watch in self._watches.items():
            watch.history = History(watch.history)
            for look in state_dict["looks"][name]:
                watch.history.add(look)
            watch.newest.clear()
            if name in state_dict["rows"]:
                watch.newest.push(state_dict["rows"][name])

    def _collects(self, batch: int) -> bool:
        """Whether batch number `batch`, from 1, is one of those before a look."""
        return self._window is None or batch <= self._window or -batch % self.every_n_steps < self._window

    def _release(self, *_: Any, **__: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        for watch in self._watches.values():
            watch.fresh = []

    on_exception = teardown = _release

    def _look(self, name: str, watch: _Watch, trainer: Any) -> None:
        if len(watch.newest) < 2 and not watch.missed:
            watch.missed = True
            warnings.warn(
                f"SpectrumMonitor: {watch.path!r} gave {count_of(len(watch.newest), 'row')} up to step "
                f"{trainer.global_step}, and a spectrum needs 2; name a module that each training step "
                "calls, and of a compiled one itself, not a module inside it.",
                stacklevel=1,
            )
        if len(watch.newest) < 2:
            return
        look = look_at(watch.newest.rows()[0], trainer.global_step, self.tolerance)
        watch.history.add(vars(look))
        shown = {f"spectrum/{name}/{measure}": getattr(look, measure) for measure in MEASURES}
        # Not by the module's `log`: it costs as much as the look, and hands on only what falls on its own
        # log_every_n_steps.
        for logger in trainer.loggers:
            logger.log_metrics(shown, look.step)
        for alert in filter(None, (raised(rule, name, watch.history) for rule in self.rules)):
            self.alerts.append(alert)
            warnings.warn(CollapseWarning(alert), stacklevel=1)


def join_pytorch_lightning() -> None:
    """Make the monitor a callback of `pytorch_lightning` too, where that has been imported."""
    # A Trainer takes any object in a list of callbacks; a callback outside a list, or one that is named in a
    # file of the command line, must be of its own class. To import it here would take Lightning's logger.
    callback = getattr(sys.modules.get("pytorch_lightning"), "Callback", SpectrumMonitor)
    if not issubclass(SpectrumMonitor, callback):
        SpectrumMonitor.__bases__ += (callback,)


join_pytorch_lightning()
