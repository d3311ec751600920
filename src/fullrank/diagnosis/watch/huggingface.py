"""TrainerMonitor: what SpectrumMonitor does, as a callback of the Trainers of transformers."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch

from fullrank.diagnosis.watch.alerts import ALERT_RULES, Alert, AlertRule
from fullrank.diagnosis.watch.measurements import Look
from fullrank.diagnosis.watch.watched import WatchedModules
from fullrank.errors import UsageError


class TrainerMonitor:
    """Spectrum, ranks and live dimensions of modules while a Hugging Face Trainer trains, with alerts.

    Put it into the callbacks of a `transformers.Trainer`, or of a Trainer built on it, such as
    `SentenceTransformerTrainer`. Looks, rules, alerts and the saved record are those of `SpectrumMonitor`. A
    step is an optimizer step, and all batches that it accumulates count. Evaluation in between does not.

    A module may give a tensor (N, D), (N, T, D) or (N, C, H, W). Of a tuple the first tensor counts, and of a
    mapping `sentence_embedding`, `token_embeddings`, `last_hidden_state`, `pooler_output` or `logits`. Tokens
    are averaged without padding where the model, or a module around the watched one, is called with an
    `attention_mask` (N, T). Otherwise padding counts.

    The loss is the one that the Trainer logs, so let it log at least as often as the monitor looks. By
    default the Trainer leaves losses that are not finite out of its logs (`logging_nan_inf_filter`). The
    measures do not go to the Trainer's logs: read `looks` and `arrays`, or `save`.

    Looks and alerts are part of the Trainer's checkpoints, and `resume_from_checkpoint` continues them. A
    checkpoint between two looks holds no rows, so the look after it is left out. Each new `train` without a
    checkpoint starts again. Of several processes the first one watches its own share.

    Args:
        modules: Dotted paths inside the model, as in `named_modules()`, or a mapping from names of your
            choice to such paths.
        every: Optimizer steps between two looks, 1 or more.
        samples: Rows per look, 2 or more. A rank is at most rows - 1, so choose more than twice the width if
            you can.
        tolerance: The share of the largest variance above which a direction is live, between 0 and 1.
        rules: The rules that raise alerts.

    Raises:
        UsageError: An argument is outside its limits, transformers is not installed or, when the training
            starts, a module does not exist.
        DataError: An output holds no rows, maps or tokens.

    >>> monitor = TrainerMonitor({"layer": "encoder.layer.1", "pooler": "pooler"}, every=20)
    >>> monitor.alerts  # after Trainer(model, ..., callbacks=[monitor]).train()
    []
    """

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """An instance that is a callback of transformers, which is imported here and not before."""
        return cast(Self, super().__new__(_joined(cast(Any, cls))))

    def __init__(
        self,
        modules: Sequence[str] | Mapping[str, str],
        every: int = 50,
        samples: int = 4096,
        *,
        tolerance: float = 1e-6,
        rules: Sequence[AlertRule] = ALERT_RULES,
    ):
        # From a checkpoint transformers gives rules as mappings.
        rules = [AlertRule(**rule) if isinstance(rule, Mapping) else rule for rule in rules]
        self._settings: dict[str, Any] = {
            "every": every,
            "samples": samples,
            "tolerance": tolerance,
            "rules": rules,
        }
        self._watched = WatchedModules(modules, **self._settings, called_by="TrainerMonitor")
        self._ended: int | None = None  # a step whose loss is about to be logged
        self._resumed = False

    @property
    def looks(self) -> dict[str, list[Look]]:
        """The looks so far, by name."""
        return self._watched.looks

    @property
    def alerts(self) -> list[Alert]:
        """The alerts so far."""
        return self._watched.alerts

    def arrays(self) -> dict[str, np.ndarray]:
        """The looks over time, as `SpectrumMonitor.arrays` gives them."""
        return self._watched.arrays()

    def save(self, folder: str | Path) -> None:
        """Write the measurements into `folder`, as `SpectrumMonitor.save` does."""
        self._watched.save(folder)

    # What a checkpoint of the Trainer holds: `trainer_state.json`

    def state(self) -> dict[str, Any]:
        """The arguments, and the looks, alerts and losses, as JSON holds them; without rows not looked at."""
        rules = [asdict(rule) for rule in self._watched.rules]
        arguments = {"modules": self._watched.modules} | self._settings | {"rules": rules}
        return {"args": arguments, "attributes": {"progress": self.progress}}

    @property
    def progress(self) -> dict[str, Any]:
        """Looks, alerts and losses. The singular values are float32 in base64, as a state is read as text."""
        state = self._watched.state_dict() | {"rows": {}}
        looks: dict[str, Any] = {}
        spectra: dict[str, str] = {}
        for name, rows in state["looks"].items():
            looks[name] = [{key: row[key] for key in row if key != "singular_values"} for row in rows]
            values = [row["singular_values"].numpy().astype("<f4") for row in rows]
            spectra[name] = base64.b64encode(b"".join(each.tobytes() for each in values)).decode()
        return state | {"looks": looks, "singular_values": spectra}

    @progress.setter
    def progress(self, progress: Mapping[str, Any]) -> None:
        looks = {}
        for name, rows in progress["looks"].items():
            values = np.frombuffer(base64.b64decode(progress["singular_values"][name]), "<f4")
            spectra = torch.from_numpy(values.reshape(len(rows), -1).copy()) if rows else []
            looks[name] = [row | {"singular_values": each} for row, each in zip(rows, spectra, strict=True)]
        self._watched.load_state_dict({**progress, "looks": looks})
        self._resumed = True

    # The events of the Trainer, in their order

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        """Check the names, and continue from a checkpoint or begin anew."""
        if not state.global_step and self._watched.steps:
            modules = self._watched.modules
            self._watched = WatchedModules(modules, **self._settings, called_by="TrainerMonitor")
        self._watched.first = state.is_world_process_zero
        self._watched.check(model)
        name = type(self).__name__
        saved = state.stateful_callbacks.setdefault(name, self.state())
        for each in reversed(saved if isinstance(saved, list) else [saved]):
            if state.global_step and each["args"]["modules"] == self._watched.modules:
                self.progress = each["attributes"]["progress"]
                break

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        """Hook the modules, where the rows of this step are looked at."""
        self._end()
        # The rows before a checkpoint are not in it; too few rows would look like a rank that fell.
        self._resumed = self._resumed and self._watched.steps % self._watched.every != 0
        if not self._resumed:
            self._watched.begin(model)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look where it is time; at a step whose loss is logged, when the loss comes."""
        self._ended = state.global_step
        if not control.should_log:
            self._end()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any
    ) -> None:
        """Take the loss, the mean since the last one."""
        loss = (logs or {}).get("loss")
        if self._ended is not None:
            self._end(loss)
        elif loss is not None:
            self._watched.loss.add(loss)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take the hooks off."""
        self._end()
        self._watched.release()

    def _end(self, loss: float | None = None) -> None:
        step, self._ended = self._ended, None
        if step is not None:
            self._watched.end(step, loss)


@cache
def _joined(cls: type[TrainerMonitor]) -> type[TrainerMonitor]:
    """The class as one of transformers' callbacks, whose state its checkpoints hold."""
    if find_spec("transformers") is None:
        raise UsageError(f"{cls.__name__} needs transformers; pip install 'fullrank[huggingface]'.")
    theirs = import_module("transformers.trainer_callback")
    if issubclass(cls, theirs.TrainerCallback):
        return cls
    bases = (cls, theirs.TrainerCallback, theirs.ExportableState)
    return type(cls.__name__, bases, {"__doc__": cls.__doc__, "__module__": cls.__module__})
