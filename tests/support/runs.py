"""Trainers that say nothing, and what two runs are compared by."""

import json
from typing import Any

import lightning.pytorch as pl
from safetensors.torch import load_file

from fullrank import Run
from fullrank.files import load_arrays


def quiet_trainer(lightning: Any = pl, **more: Any) -> Any:
    """A Trainer of either Lightning on the CPU that writes and shows nothing."""
    shown = ("enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return lightning.Trainer(**{"accelerator": "cpu", "logger": False, **dict.fromkeys(shown, False), **more})


def fingerprint(run: Run) -> tuple[dict[str, bytes], dict[str, bytes], dict[str, Any]]:
    """Everything a run leaves but times: weights, arrays, record."""
    weights = load_file(run.path / "encoder.safetensors") | load_file(run.path / "head.safetensors")
    record = json.loads((run.path / "record.json").read_text())
    for key in ("created", "machine"):
        record.pop(key)
    for entry in record["runs"]:
        entry.pop("seconds"), entry.pop("views_per_second")
    return (
        {name: tensor.numpy().tobytes() for name, tensor in weights.items()},
        {name: array.tobytes() for name, array in load_arrays(run.path).items()},
        record,
    )
