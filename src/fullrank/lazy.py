"""Names that a package imports on first use (PEP 562), so that importing the package imports nothing else."""

import ast
import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def attach(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package, from the imports in its `if TYPE_CHECKING:`.

    There `from module import name as name` re-exports a name for type checkers (PEP 484), so each package
    lists its names once. A name stays in the package after its first use. No module may be called like a name
    that its package exports: importing the module would replace it.

    >>> import fullrank.spectrum
    >>> get, names, public = attach("fullrank.spectrum")
    >>> get("effective_rank").__module__, "effective_rank" in public
    ('fullrank.spectrum.functional', True)
    """
    imports = [
        node
        for node in ast.walk(ast.parse(inspect.getsource(sys.modules[package])))
        if isinstance(node, ast.ImportFrom)
    ]
    homes = {each.name: node.module for node in imports for each in node.names if each.asname == each.name}
    public = sorted(homes)

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(homes[name] or package), name)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: public, public
