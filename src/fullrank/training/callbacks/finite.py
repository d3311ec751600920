"""Steps whose loss or gradient is not finite: find, name and save them, or skip them."""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from fullrank.batch import Batch
from fullrank.errors import DataError, DivergedError, UsageError
from fullrank.files import write_whole
from fullrank.runs.build import build, load_data
from fullrank.runs.recipe import RECIPE_FILE, Recipe
from fullrank.training.module import JointEmbedding

STEP_FILE = "nonfinite-step.safetensors"


@dataclass(frozen=True)
class Culprit:
    """The loss of a step, and the first layer with an output (or else a gradient) that is not finite."""

    loss: float
    layer: str | None
    of: str

    def __str__(self) -> str:
        where = "no layer shows it alone" if self.layer is None else f"first in the {self.of} of {self.layer}"
        return f"the loss is {self.loss:g}, {where}"


class FiniteGuard(pl.Callback):
    """Ends a run at a step whose loss or gradient is not finite, after skipping the first `skip` of them.

    A skipped step changes no weight, moment or batch statistic. When the run ends, the batch and the weights
    before the step are saved as `nonfinite-step.safetensors`. On a GPU only every `every`-th step is checked
    unless steps may be skipped, so the named step may not be the first. With 16-mixed precision, whose
    gradient scaler skips steps by itself, only the loss is checked.
    """

    def __init__(self, folder: Path, every: int, skip: int = 0):
        if skip < 0:
            raise UsageError(f"--skip-nonfinite must be 0 or more, but got {skip}; 0 ends the run at once.")
        self.folder, self.every, self.skip = folder, every, skip
        self.skipped = 0
        self._spoilt = False
        self._buffers: list[Tensor] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Batch, batch_idx: int) -> None:
        self._batch, self._number = batch, batch_idx
        # An update may use several batches.
        if self.skip > self.skipped and batch_idx % trainer.accumulate_grad_batches == 0:
            self._buffers = [buffer.clone() for buffer in module.buffers()]

    def on_before_backward(  # type: ignore[override]  # it watches our module and no other
        self, trainer: pl.Trainer, module: JointEmbedding, loss: Tensor
    ) -> None:
        # The loss may be finite in the other processes; the gradient is the same in all.
        if trainer.world_size == 1 and self._is_checked(trainer, module) and not loss.isfinite():
            self._refuse(trainer, module)

    def on_before_optimizer_step(  # type: ignore[override]
        self, trainer: pl.Trainer, module: JointEmbedding, optimizer: Optimizer
    ) -> None:
        slopes = [p.grad for p in module.parameters() if p.grad is not None]
        scaled = trainer.precision == "16-mixed"
        if not self._spoilt and self._is_checked(trainer, module) and not scaled and not _all_finite(slopes):
            self._refuse(trainer, module)
        if self._spoilt:
            self._spoilt = False
            # An optimizer ignores weights without a gradient: no decay, no moments.
            optimizer.zero_grad(set_to_none=True)
            for buffer, before in zip(module.buffers(), self._buffers, strict=True):
                buffer.copy_(before)

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]

    def _is_checked(self, trainer: pl.Trainer, module: pl.LightningModule) -> bool:
        due = (trainer.global_step + 1) % self.every == 0 or trainer.is_last_batch
        return module.device.type == "cpu" or self.skip > 0 or due

    def _refuse(self, trainer: pl.Trainer, module: JointEmbedding) -> None:
        """Skip the step, or end the run."""
        if self.skipped == self.skip:
            raise self._ended(trainer, module)
        self.skipped += 1
        self._spoilt = True
        if trainer.is_global_zero:
            count = f"{self.skipped} of {self.skip}"
            print(f"Step {trainer.global_step + 1} is not finite and was skipped ({count}).", file=sys.stderr)

    def _ended(self, trainer: pl.Trainer, module: JointEmbedding) -> DivergedError:
        file, step = self.folder / STEP_FILE, (module, self._batch, trainer.current_epoch, self._number)
        if trainer.is_global_zero:
            write_whole(file, _packed(*step))
        culprit = find_culprit(*step)
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        images = self._batch.index.tolist()
        shown = ", ".join(map(str, images[:3])) + (f" and {len(images) - 3} others" if images[3:] else "")
        skipped = f" after {self.skipped} skipped steps" if self.skipped else ""
        return DivergedError(
            f"Step {trainer.global_step + 1} (epoch {trainer.current_epoch}, images {shown}) is not "
            f"finite{skipped}: {culprit}; it is saved in {file}; lower the learning rate (now {rate:.2g}; "
            f"--set optimizer.lr=...), raise the temperature, or add --resume --skip-nonfinite "
            f"{self.skip + 5}."
        )


def find_culprit(module: JointEmbedding, batch: Batch, epoch: int, number: int) -> Culprit:
    """The first layer that is not finite in step `number` of an epoch."""
    layers: list[str] = []

    def check(name: str, output: Any) -> None:
        if isinstance(output, Tensor) and not output.isfinite().all():
            layers.append(name)

    hooks = [
        layer.register_forward_hook(lambda layer, inputs, output, name=name: check(name, output))
        for name, layer in module.named_modules()
        if not list(layer.children())
    ]
    try:
        step = module.step(batch, epoch, number)
    finally:
        for hook in hooks:
            hook.remove()
    loss = step.loss.item()
    weights = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    # Not backward(): with several processes its hooks would start to exchange gradients.
    # Also if a layer is known: processes whose layers are finite would wait for this one.
    slopes = torch.autograd.grad(step.loss, list(weights.values()), allow_unused=True, materialize_grads=True)
    if layers:
        return Culprit(loss, layers[0], "output")
    spoilt = [name for name, slope in zip(weights, slopes, strict=True) if not _all_finite([slope])]
    # Gradients flow from the loss down, so the fault began at the last of these weights.
    return Culprit(loss, spoilt[-1] if spoilt else None, "gradient")


def replay(folder: str | Path) -> Culprit:
    """Repeat the step that ended a run: its loss, and the first layer that is not finite.

    Args:
        folder: The folder of the run.

    Raises:
        DataError: If the folder has no such step.
    """
    folder = Path(folder)
    if not (folder / STEP_FILE).is_file():
        raise DataError(f"{folder} has no {STEP_FILE}; name the folder of a run that ended at such a step.")
    recipe = Recipe.resolve(folder / RECIPE_FILE)
    module = JointEmbedding.of(recipe, build(recipe, load_data(recipe)[0]))
    try:
        with safe_open(folder / STEP_FILE, framework="pt") as file:
            place = json.loads(file.metadata()["place"])
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
        module.load_state_dict(_under("module.", tensors))
        images, labels, index = (tensors[name] for name in ("images", "labels", "index"))
        layers, cues = (_under(prefix, tensors) or None for prefix in ("layer.", "cue."))
        batch = Batch(images, labels, index, layers, tensors.get("sizes"), cues)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{folder / STEP_FILE} cannot be read ({reason}); run the training again.") from None
    return find_culprit(module.train(), batch, place["epoch"], place["number"])


def _packed(module: nn.Module, batch: Batch, epoch: int, number: int) -> bytes:
    tensors = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    tensors |= {"images": batch.images, "labels": batch.labels, "index": batch.index}
    tensors |= {f"layer.{name}": layer for name, layer in (batch.layers or {}).items()}
    tensors |= {f"cue.{name}": labels for name, labels in (batch.cues or {}).items()}
    if batch.sizes is not None:
        tensors["sizes"] = batch.sizes
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(tensors, {"place": json.dumps({"epoch": epoch, "number": number})})


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}


def _all_finite(tensors: list[Tensor]) -> bool:
    # The sum of squares is several times faster than the largest entry, but can overflow for finite entries.
    norms = (torch.nn.utils.get_total_norm(tensors, norm_type=order) for order in (2.0, math.inf))
    return any(bool(norm.isfinite()) for norm in norms)
