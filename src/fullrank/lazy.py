"""Names that a package imports on first use (PEP 562), so that importing the package imports nothing else."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def attach(
    package: str, names: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__`, `__all__` for a package; `names` maps a module below it to what it exports.

    A name that is asked for once stays in the package, so the next access costs nothing. No module may be
    called like a name that its package exports: importing the module would replace it.

    >>> get, names, public = attach("fullrank.spectrum", {"functional": ["effective_rank"]})
    >>> get("effective_rank").__module__, names()
    ('fullrank.spectrum.functional', ['effective_rank'])
    """
    homes = {name: f"{package}.{module}" for module, exported in names.items() for name in exported}
    public = sorted(homes)

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(homes[name]), name)
        setattr(import_module(package), name, value)
        return value

    return get, lambda: public, public
