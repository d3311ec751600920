"""What every command hands back: the folder of what it left, and its record. Torch-free."""

from dataclasses import dataclass
from pathlib import Path

from fullrank.record.schema import Record


@dataclass(frozen=True)
class Result:
    """Something that is finished: its folder and its record."""

    path: Path
    record: Record
