"""Parts of other people: modules that a user names and installed packages, but never what a file names."""

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from fullrank.errors import FullrankWarning, UsageError, unknown_name

# `package.module:Name` or `folder/file.py:Name`, followed by a value or the end.
MODULE_NAME = re.compile(r"(?:[^:,=\"]*\.py|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):[A-Za-z_]\w*(?=:|$)")
MAIN = ("__main__", "__mp_main__")
Module = str | Path | ModuleType


@dataclass(frozen=True)
class Origin:
    """Where a part that is not ours comes from.

    Attributes:
        module: What `--import` takes: the name of a module or of a file.
        sha256: The checksum of the file.
        distribution: The installed package, with its version, whose entry point offers the part.
    """

    module: str
    sha256: str | None = None
    distribution: str | None = None


@dataclass(frozen=True)
class _Imported:
    """A module that the user named or took a part from, and its file, if it was read from one."""

    origin: Origin
    module: ModuleType
    path: Path | None = None

    @classmethod
    def of_file(cls, module: ModuleType, path: Path) -> "_Imported":
        """A module read from a file, named after the file."""
        return cls(Origin(path.name, hashlib.sha256(path.read_bytes()).hexdigest()), module, path)


#: Label -> module that a user named or took a part from.
imported: dict[str, _Imported] = {}
_under_way: list[Origin] = []


def import_modules(names: "Iterable[Module] | Module") -> None:
    """Import modules that register parts. A module that was imported before is not imported again.

    Args:
        names: One or several modules: names, paths of files that end in .py, or module objects.

    Raises:
        UsageError: For a name that is not a module, a missing file, two files with one name, and a module
            that fails during its import.
    """
    single = isinstance(names, str | Path | ModuleType)
    for name in [cast(Module, names)] if single else cast(Iterable[Module], names):
        if isinstance(name, ModuleType):
            _keep(name)
        else:
            import_named(str(name))


def import_named(name: str, kind: str = "", names: Sequence[str] = ()) -> None:
    """Import one module. If `name` began the spec of a `kind`, the error suggests similar `names`."""
    if name.endswith(".py"):
        _import_file(Path(name).expanduser())
        return
    if name in imported:
        return
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(
            f"{name!r} is not a module; write package.module, or the path of a file that ends in .py."
        )
    try:
        exists = name in sys.modules or importlib.util.find_spec(name) is not None
    except ImportError:  # a parent package is missing
        exists = False
    if not exists and kind:
        raise unknown_name(kind, name, names, f"no module {name!r} can be imported either")
    if not exists:
        beside = Path(f"{name}.py").is_file()
        hint = f"write {name}.py" if beside else "put its folder on PYTHONPATH, or give the path of its file"
        raise UsageError(f"The module {name!r} to import does not exist; {hint}.")
    origin = Origin(name)
    with _importing(origin, name):
        imported[name] = _Imported(origin, importlib.import_module(name))


def label_of(module: str) -> str:
    """The name of a module in records: for a file, its name without the folder."""
    return Path(module).name if module.endswith(".py") else module


def attribute_of(label: str, name: str, kind: str) -> Callable[..., Any]:
    """The class or function `name` of an imported module; raises UsageError if it has none."""
    module = imported[label].module
    target: Callable[..., Any] | None = getattr(module, name, None)
    if target is None or not callable(target):
        classes = [key for key, value in vars(module).items() if inspect.isclass(value) and key[0] != "_"]
        near = [f"{label}:{each}" for each in classes]
        raise unknown_name(kind, f"{label}:{name}", near, f"{label} has no such class")
    home = getattr(target, "__module__", None) or ""
    if home != module.__name__ and not home.startswith(f"{module.__name__}."):
        raise UsageError(f"{label} imports {name} from {home} instead of defining it; write {home}:{name}.")
    return target


def admit(target: Any) -> str:
    """The label of the module that defines a class or function. From now on it counts as imported."""
    module = sys.modules.get(target.__module__)
    if module is None:
        raise UsageError(f"{target.__qualname__} belongs to no module; define it in one, or register it.")
    return _keep(module)


def home_of(target: Any) -> tuple[str, str]:
    """The file (or the module) that defines a class or function, and its name there."""
    module = getattr(target, "__module__", None) or ""
    return str(_file_of(sys.modules.get(module)) or module), getattr(target, "__qualname__", "")


def origin_of(target: Any) -> Origin:
    """The origin of a class or function that is being registered."""
    return _under_way[0] if _under_way else imported[admit(target)].origin


def passports(labels: Iterable[str]) -> list[tuple[str, str]]:
    """What another process needs to import the same modules: the label and the path or name of each.

    Raises UsageError for parts defined in a notebook, which another process cannot read.
    """
    papers = []
    # Labels that are not imported belong to installed packages.
    for label in (each for each in dict.fromkeys(labels) if each in imported):
        module, path = imported[label].module, imported[label].path
        if path is None and module.__name__ in MAIN:
            raise UsageError(
                "A part defined in a notebook cannot be used with workers, which are separate processes; put "
                "it in a file and pass its path as imports."
            )
        papers.append((label, str(path or module.__name__)))
    return papers


def enter(papers: Iterable[tuple[str, str]]) -> None:
    """Import, in another process, what `passports` listed."""
    for label, where in papers:
        main = sys.modules["__main__"]
        if where.endswith(".py") and _file_of(main) == Path(where):
            _keep(main)
        elif label not in imported:
            import_named(where)


def check_needed(needed: Iterable[Origin], what: str) -> None:
    """Raise UsageError unless every module that `what` was made with is available.

    A warning names each file whose content has changed.
    """
    for origin in needed:
        module, package = origin.module, origin.distribution
        if package is not None:
            if not any(metadata.Distribution.discover(name=package.partition(" ")[0])):
                raise UsageError(f"{what} needs the package {package}, which is not installed; install it.")
        elif module not in imported and module in MAIN:
            raise UsageError(
                f"{what} needs a part that was defined in a notebook; define it again and pass "
                f"imports=[{module!r}]."
            )
        elif module not in imported:
            raise UsageError(
                f"{what} needs {module}, which is not imported because a file names it; if you trust that "
                f"module, add --import {module} (imports=[{module!r}] in Python)."
            )
        elif origin.sha256 not in (None, imported[module].origin.sha256):
            changed = f"{what} was made with another version of {module}; its results may differ."
            warnings.warn(changed, FullrankWarning, stacklevel=3)


def installed_names(group: str) -> dict[str, str]:
    """The names that installed packages offer in a group of entry points, each with its package."""
    return {
        name: " and ".join(_package(point) for point in points) for name, points in _points(group).items()
    }


def installed_part(group: str, name: str, kind: str) -> tuple[Callable[..., Any], Origin] | None:
    """Import the part that an installed package offers under `name`; None if no package does.

    Raises UsageError if two packages offer it, or if it cannot be imported.
    """
    points = _points(group).get(name, [])
    if len(points) > 1:
        packages = " and ".join(_package(point) for point in points)
        raise UsageError(f"The {kind} {name!r} is offered by {packages}; uninstall all but one.")
    if not points:
        return None
    point = points[0]
    origin = Origin(point.module, distribution=_package(point))
    with _importing(origin, f"The {kind} {name!r} of the package {_package(point)}"):
        part = point.load()
    if not callable(part):
        raise UsageError(
            f"The {kind} {name!r} of the package {_package(point)} is a {type(part).__name__}, not a class; "
            "its entry point must be written module:Class."
        )
    return part, origin


def _import_file(path: Path) -> None:
    label, resolved = path.name, path.resolve()
    if (before := imported.get(label)) is not None:
        # A name alone means the file that is already known.
        if before.path != resolved and (len(path.parts) > 1 or resolved.is_file()):
            raise UsageError(f"Both {before.path} and {resolved} are called {label}; rename one.")
        return
    if not resolved.is_file():
        raise UsageError(f"The file {path} to import does not exist; check the path.")
    for module in list(sys.modules.values()):
        if _file_of(module) == resolved:  # imported by its name already
            imported[label] = _Imported.of_file(module, resolved)
            return
    name = f"fullrank_import_{path.stem}"
    spec: Any = importlib.util.spec_from_file_location(name, resolved)
    module = importlib.util.module_from_spec(spec)
    imported[label], sys.modules[name] = _Imported.of_file(module, resolved), module
    try:
        with _importing(imported[label].origin, str(path)):
            spec.loader.exec_module(module)
    except BaseException:
        del imported[label], sys.modules[name]
        raise


@contextmanager
def _importing(origin: Origin, what: str) -> Iterator[None]:
    """Parts registered in the block come from `origin`; any failure becomes one sentence."""
    _under_way.append(origin)
    try:
        yield
    except UsageError:
        raise
    except (Exception, SystemExit) as error:  # a foreign module may raise anything
        at = traceback.extract_tb(error.__traceback__)[-1]
        line = f" (line {at.lineno} of {Path(at.filename).name})" if at.filename.endswith(".py") else ""
        raise UsageError(f"{what} cannot be imported: {type(error).__name__}: {error}{line}.") from error
    finally:
        _under_way.pop()


def _keep(module: ModuleType) -> str:
    """The label of a module that is already loaded."""
    for label, known in imported.items():
        inside = module.__name__.startswith(f"{known.module.__name__}.")
        if known.module is module or (inside and known.path is None):
            return label
    path = _file_of(module)
    if module.__name__ in MAIN and path is not None and path.is_file():
        imported[path.name] = _Imported.of_file(module, path)
        return path.name
    name = "__main__" if module.__name__ in MAIN else module.__name__
    imported[name] = _Imported(Origin(name), module)
    return name


def _file_of(module: ModuleType | None) -> Path | None:
    """The file that a module was read from, if any."""
    file = getattr(module, "__file__", None)
    return None if file is None else Path(file).resolve()


@cache
def _points(group: str) -> dict[str, list[EntryPoint]]:
    points: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=group):
        points.setdefault(point.name, []).append(point)
    return points


def _package(point: EntryPoint) -> str:
    return point.module if point.dist is None else f"{point.dist.name} {point.dist.version}"
