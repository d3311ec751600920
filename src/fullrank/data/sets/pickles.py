"""Read the pickled files of CIFAR without executing any code in them."""

import pickle
from pathlib import Path
from typing import Any, final

import numpy as np

from fullrank.data.decoding import UNREADABLE, reason
from fullrank.errors import DataError

_DAMAGED = (*UNREADABLE, pickle.UnpicklingError, AttributeError)


@final
class Array:
    """An array of a pickle: `values` is a uint8 array, or None until its state is read."""

    values: np.ndarray | None = None

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: tuple[int, tuple[int, ...], "_Type", bool, str | bytes]) -> None:
        _, shape, kind, is_fortran, content = state
        if not isinstance(kind, _Type):
            raise pickle.UnpicklingError("an array has no type")
        raw = content.encode("latin1") if isinstance(content, str) else bytes(content)
        self.values = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if is_fortran else "C")


@final
class _Type:
    def __init__(self, code: str, *_: object) -> None:
        if code != "u1":
            raise pickle.UnpicklingError(f"an array has the type {code!r}, but only 'u1' is supported")

    def __setstate__(self, state: object) -> None:
        pass


# A pickle is a program: the usual reader calls every function that the file names. This reader accepts four
# names and replaces them by the two classes above. So a file can make arrays of bytes, text, numbers, lists
# and dictionaries, but it can call nothing, not even NumPy's constructors.
_CLASSES: dict[tuple[str, str], type] = {
    ("numpy.core.multiarray", "_reconstruct"): Array,
    ("numpy._core.multiarray", "_reconstruct"): Array,
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): _Type,
}


@final
class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _CLASSES:
            raise pickle.UnpicklingError(f"it would call {module}.{name}")
        return _CLASSES[module, name]


def read_pickled(path: Path) -> dict[str, Any]:
    """The dictionary in a pickle of text, numbers, lists and uint8 arrays (as `Array`), or DataError."""
    try:
        with path.open("rb") as file:
            content = _Unpickler(file, encoding="latin1").load()
    except _DAMAGED as error:
        problem = f"it cannot be read as a pickle ({reason(error)})"
        raise DataError(f"{path}: {problem}; take it from the original archive again.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} has no dictionary; take it from the original archive again.")
    return content
