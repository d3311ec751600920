"""The modules of a model that are watched while it trains: their newest rows, looks, alerts and record."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from fullrank.diagnosis.watch.alerts import (
    ALERT_RULES,
    RULE_MEASURES,
    Alert,
    AlertRule,
    CollapseWarning,
    LossWarning,
    raised,
)
from fullrank.diagnosis.watch.entry import watched_diagnosis
from fullrank.diagnosis.watch.history import History, NewestRows
from fullrank.diagnosis.watch.loss import LOSS, LOSS_MEASURES, LossCurve
from fullrank.diagnosis.watch.measurements import Look, look_at, rows_of
from fullrank.diagnosis.watch.outputs import mask_in
from fullrank.errors import FullrankWarning, UsageError, count_of, unknown_name
from fullrank.files import save_arrays
from fullrank.record import RECORD_FILE, Record
from fullrank.record.making import new_record


@dataclass
class _WatchedModule:
    """One module: the newest rows, those of the step under way, and the looks so far."""

    path: str
    newest: NewestRows
    called_by: str
    training_only: bool
    fresh: list[Tensor] = field(default_factory=list)
    history: History = field(default_factory=lambda: History(Look.__dataclass_fields__))
    in_evaluation: bool = False  # whether a call was left out, as the module was in evaluation mode
    missed: bool = False
    mask: Tensor | None = None  # of the tokens: that of the newest call of the module, or of one around it

    def before(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Keep the mask that a call has; the layers inside a model get it in forms of their own."""
        mask = mask_in(arguments, named)
        self.mask = self.mask if mask is None else mask

    def hook(self, module: nn.Module, inputs: object, output: object) -> None:
        """Keep a copy of the output; nothing is returned, so the output is unchanged."""
        if self.training_only and not module.training:
            self.in_evaluation = True
        elif torch._C._current_graph_task_id() == -1:  # else a checkpointed call is computed again
            self.fresh.append(rows_of(output, self.path, self.called_by, self.mask))


@final
class WatchedModules:
    """Modules of a model in training: the newest rows of each, the looks at them, alerts, loss and record.

    Call `check` once before the training, `begin` before each step and `end` after it.

    Args:
        modules: Dotted paths inside the model, as in `named_modules()`, or a mapping from names of your
            choice to such paths.
        every: Steps between two looks, 1 or more.
        samples: Rows per look, 2 or more.
        tolerance: The share of the largest variance above which a direction is live, between 0 and 1.
        rules: The rules that raise alerts.
        called_by: What the errors call the watcher.
        every_called: What the errors call `every`.
        training_only: Leave out the calls of a module that is in evaluation mode.

    Raises:
        UsageError: An argument is outside its limits or of a wrong type, or a module does not exist.
        DataError: An output is not a tensor of rows, maps or tokens.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    >>> watched = WatchedModules(["0"], every=1)
    >>> watched.check(net)
    >>> watched.begin(net)
    >>> _ = net(torch.eye(4))
    >>> watched.end(step=1)["0"].rows
    4
    """

    def __init__(
        self,
        modules: Iterable[str] | Mapping[str, str],
        every: int,
        samples: int = 4096,
        *,
        tolerance: float = 1e-6,
        rules: Sequence[AlertRule] = ALERT_RULES,
        called_by: str = "watch",
        every_called: str = "every",
        training_only: bool = False,
    ):
        self.modules = _checked_paths(modules, called_by)
        share = isinstance(tolerance, float) and 0 < tolerance < 1
        limits = (
            (every_called, every, _whole(every, 1), "a whole number, 1 or more (the default is 50)"),
            ("samples", samples, _whole(samples, 2), "a whole number, 2 or more (the default is 4096)"),
            ("tolerance", tolerance, share, "between 0 and 1 (the default is 1e-6)"),
        )
        for name, value, fits, limit in limits:
            if not fits:
                raise UsageError(f"{called_by}: {name} must be {limit}, but got {value!r}.")
        if isinstance(rules, AlertRule | str) or not all(isinstance(rule, AlertRule) for rule in rules):
            raise UsageError(f"{called_by}: rules must be a list of AlertRule, but got {rules!r}.")
        for rule in rules:
            if rule.measure not in RULE_MEASURES:
                use = f"rules may use {', '.join(RULE_MEASURES)}"
                raise unknown_name("measure", rule.measure, RULE_MEASURES, use)
        self.every, self.samples, self.tolerance, self.rules = every, samples, tolerance, tuple(rules)
        self.called_by, self.every_called = called_by, every_called
        self.alerts: list[Alert] = []
        self.loss = LossCurve(called_by)
        self.steps = 0
        self.target = "model"
        self.first = True  # of many processes the first one watches
        self._watches = {
            name: _WatchedModule(path, NewestRows(samples), called_by, training_only)
            for name, path in self.modules.items()
        }
        self._window: int | None = None  # steps that fill `samples`; known after the first
        self._hooks: list[RemovableHandle] = []

    @property
    def looks(self) -> dict[str, list[Look]]:
        """The looks so far, by name."""
        return {name: [Look(**row) for row in watch.history.rows()] for name, watch in self._watches.items()}

    def check(self, model: nn.Module) -> None:
        """Check that the modules exist in `model`, and warn of those inside compiled code."""
        inner = unwrapped(model)
        self.target = type(inner).__name__
        names = [name for name, _ in inner.named_modules() if name]
        top = ", ".join(name for name, _ in inner.named_children())
        for path in self.modules.values():
            if path not in names:
                raise unknown_name("module", path, names, f"{self.target} has {top}")
            if around := compiled_around(model, path):
                late = "its rows count only if this begins before the first call, and last digits may differ"
                compiled = f"{path!r} is inside {around}, which is compiled; {late}"
                warnings.warn(
                    f"{self.called_by}: {compiled}; compile {path!r} itself instead.",
                    FullrankWarning,
                    stacklevel=2,
                )

    def begin(self, model: nn.Module) -> None:
        """Hook the modules, where the rows of the step that begins are looked at."""
        self.release()
        if self.first and self._collects(self.steps + 1):
            inner = unwrapped(model)
            for watch in self._watches.values():
                names = watch.path.split(".")
                for depth in range(len(names) + 1):
                    module = inner.get_submodule(".".join(names[:depth]))
                    self._hooks.append(module.register_forward_pre_hook(watch.before, with_kwargs=True))
                self._hooks.append(module.register_forward_hook(watch.hook))

    def end(self, step: int, loss: object = None) -> dict[str, Look]:
        """Keep the rows of a step, look where it is time, and raise alerts: `measure`, then `judge`.

        Args:
            step: The number that looks and alerts of this step bear.
            loss: The loss of the step: a number, or a tensor of one element.

        Returns:
            The new looks by name; empty where it was not time.
        """
        looks = self.measure(step, loss)
        self.judge(step, looks)
        return looks

    def measure(self, step: int, loss: object = None) -> dict[str, Look]:
        """Keep the rows of a step, and look where it is time; the new looks by name."""
        self.steps += 1
        if self.first and loss is not None:
            self.loss.add(loss)
        if not self._hooks:
            return {}
        counts = [sum(map(len, watch.fresh)) for watch in self._watches.values() if watch.fresh]
        for watch in self._watches.values():
            for rows in watch.fresh:
                watch.newest.push(rows)
        self.release()
        if self._window is None and counts:
            self._window = min(self.every, -(-self.samples // max(1, min(counts))))
        looks = {}
        if self.steps % self.every == 0 or self.steps == self._window:
            self.loss.look(step)
            new = {name: self._look(watch, step) for name, watch in self._watches.items()}
            looks = {name: look for name, look in new.items() if look}
        if not self._collects(self.steps + 1):
            for watch in self._watches.values():
                watch.newest.clear()
        return looks

    def judge(self, step: int, looks: Iterable[str]) -> None:
        """Add the alerts that the newest looks raise, and give a `CollapseWarning` for each."""
        of_modules = [rule for rule in self.rules if rule.measure not in LOSS_MEASURES]
        histories = ((name, self._watches[name].history) for name in looks)
        new = [raised(rule, name, history, self.loss) for name, history in histories for rule in of_modules]
        if self.loss.history.last.get("step") == step:
            of_loss = [rule for rule in self.rules if rule.measure in LOSS_MEASURES]
            new += [raised(rule, LOSS, self.loss.history, self.loss) for rule in of_loss]
        alerts = [alert for alert in new if alert]
        self.alerts += alerts
        for alert in alerts:
            warning = LossWarning if alert.measure in LOSS_MEASURES else CollapseWarning
            warnings.warn(warning(alert), stacklevel=1)

    def release(self) -> None:
        """Take the hooks off, and forget the rows of a step under way."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        for watch in self._watches.values():
            watch.fresh, watch.mask = [], None

    def arrays(self) -> dict[str, np.ndarray]:
        """The looks over time, as `arrays.npz` may hold them.

        For each name with a look: `spectrum/NAME/step` and `rows` (T,), each of `MEASURES` (T,), and
        `singular_values` (T, D). With a loss also (T,) `loss/step` and the columns of `LossCurve`, as
        `loss/value`, the mean over the steps since the look before, and `loss/last`, the last value.
        """
        histories = {f"spectrum/{name}": watch.history for name, watch in self._watches.items()}
        return {
            f"{name}/{column}": values
            for name, history in (histories | {LOSS: self.loss.history}).items()
            if history.last
            for column, values in history.arrays().items()
        }

    def save(self, folder: str | Path) -> None:
        """Write `arrays.npz` and `record.json` into `folder`; processes that are not the first do nothing.

        Raises:
            UsageError: Before the first look, and for a folder that is a file or holds the record of
                something else.
            DataError: The folder holds a damaged record.
        """
        if not self.first:
            return
        folder = Path(folder)
        if not any(watch.history.last for watch in self._watches.values()):
            empty = f"{self.called_by}: nothing was measured in {count_of(self.steps, 'step')}"
            lower = f"lower {self.every_called} ({self.every})"
            raise UsageError(f"{empty}; save after training, or {lower}.")
        if file := next(filter(Path.is_file, (folder, *folder.parents)), None):
            raise UsageError(
                f"{self.called_by}: {file} is a file, but save needs a folder; name another one."
            )
        if (folder / RECORD_FILE).is_file() and "monitor" not in (earlier := Record.load(folder)).recipe:
            record = f"{folder} holds the record of a {earlier.kind}"
            raise UsageError(f"{self.called_by}: {record}, which save would replace; name another folder.")
        settings = {
            "modules": self.modules,
            "every_n_steps": self.every,
            "samples": self.samples,
            "tolerance": self.tolerance,
            "rules": [rule.name for rule in self.rules],
        }
        entry = watched_diagnosis(self.target, self.looks, self.alerts, self.loss.history)
        folder.mkdir(parents=True, exist_ok=True)
        save_arrays(folder, self.arrays())
        new_record("diagnosis", {"monitor": settings}, [], diagnosis=entry).save(folder)

    def state_dict(self) -> dict[str, Any]:
        """Looks, alerts, losses, and rows that have not been looked at."""
        watches = self._watches.items()
        return {
            "batches": self.steps,
            "window": self._window,
            "target": self.target,
            "alerts": [asdict(alert) for alert in self.alerts],
            "looks": {name: watch.history.rows() for name, watch in watches},
            "rows": {name: watch.newest.rows()[0] for name, watch in watches if len(watch.newest)},
            "loss": self.loss.state(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a state; one of an earlier version holds no loss."""
        self.steps, self._window = state_dict["batches"], state_dict["window"]
        self.target = state_dict["target"]
        self.alerts = [Alert(**alert) for alert in state_dict["alerts"]]
        self.loss.load(state_dict.get("loss", {}))
        for name, watch in self._watches.items():
            watch.history = History(watch.history)
            for look in state_dict["looks"][name]:
                watch.history.add(look)
            watch.newest.clear()
            if name in state_dict["rows"]:
                watch.newest.push(state_dict["rows"][name])

    def _collects(self, step: int) -> bool:
        """Whether step number `step`, from 1, is one of those before a look."""
        return self._window is None or step <= self._window or -step % self.every < self._window

    def _look(self, watch: _WatchedModule, step: int) -> Look | None:
        if len(watch.newest) < 2:
            if not watch.missed:
                watch.missed = True
                warnings.warn(self._too_few_rows(watch, step), stacklevel=1)
            return None
        look = look_at(watch.newest.rows()[0], step, self.tolerance)
        watch.history.add(vars(look))
        return look

    def _too_few_rows(self, watch: _WatchedModule, step: int) -> str:
        rows = count_of(len(watch.newest), "row")
        gave = f"{self.called_by}: {watch.path!r} gave {rows} up to step {step}, and a spectrum needs 2; "
        if watch.in_evaluation:
            return f"{gave}calls in evaluation mode do not count, so call model.train() before the training."
        return (
            f"{gave}name a module that each training step calls, and of a compiled one itself, not a module "
            "inside it."
        )


def _whole(value: object, least: int) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= least


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DataParallel, DistributedDataParallel and `torch.compile`."""
    return _with_wrapped(model)[-1]


def compiled_around(model: nn.Module, path: str) -> str | None:
    """The compiled module around that at `path`, None without one.

    >>> net = nn.Sequential(nn.Sequential(nn.Linear(2, 2)))
    >>> net[0].compile(backend="eager")
    >>> compiled_around(net, "0"), compiled_around(net, "0.0")
    (None, "'0'")
    """
    *wrappers, inner = _with_wrapped(model)
    if any(map(_is_compiled, (*wrappers, inner))):
        return "the model"
    parents = [path[:end] for end, character in enumerate(path) if character == "."]
    return next((repr(name) for name in parents if _is_compiled(inner.get_submodule(name))), None)


def _with_wrapped(model: nn.Module) -> list[nn.Module]:
    """The model, and from outside to inside what it wraps."""
    if isinstance(model, nn.DataParallel | DistributedDataParallel):
        return [model, *_with_wrapped(model.module)]
    compiled = getattr(model, "_orig_mod", None)
    return [model, *(_with_wrapped(compiled) if isinstance(compiled, nn.Module) else [])]


def _is_compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def check_is_module(model: object, called_by: str) -> None:
    """UsageError unless a model is a torch module."""
    if not isinstance(model, nn.Module):
        got = type(model).__name__
        raise UsageError(f"{called_by}: the model must be a torch.nn.Module, but got a {got}.")


def _checked_paths(modules: object, called_by: str) -> dict[str, str]:
    """Names and paths, from a list of paths or a mapping from names to paths."""
    dotted = "1 or more dotted names, such as ['encoder'] (model.named_modules() lists them)"
    if isinstance(modules, str | nn.Module) or not isinstance(modules, Iterable):
        got = repr(modules) if isinstance(modules, str) else f"a {type(modules).__name__}"
        raise UsageError(f"{called_by}: modules must be a list of {dotted}, but got {got}.")
    paths = dict(modules) if isinstance(modules, Mapping) else modules
    pairs = list(paths.items()) if isinstance(paths, dict) else [(path, path) for path in paths]
    if not pairs:
        raise UsageError(f"{called_by}: modules must be {dotted}, but got none.")
    for each in (each for pair in pairs for each in pair):
        if not isinstance(each, str):
            raise UsageError(f"{called_by}: modules must be {dotted}, but got a {type(each).__name__}.")
    return dict(pairs)
