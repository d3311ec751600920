"""The door for other people's parts: modules that a user names, never a file, and installed packages."""

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

# `package.module:Name` or `folder/file.py:Name`, where a value, the end or nothing else follows.
MODULE_NAME = re.compile(r"(?:[^:,=\"]*\.py|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):[A-Za-z_]\w*(?=:|$)")
MAIN = ("__main__", "__mp_main__")
Module = str | Path | ModuleType


@dataclass(frozen=True)
class Origin:
    """Where a part that is not ours comes from.

    `module` is what `--import` takes: a module's name, or the name of a file, whose content `sha256` is the
    checksum of. `distribution` is the installed package, with its version, that offers the part by itself.
    """

    module: str
    sha256: str | None = None
    distribution: str | None = None


@dataclass(frozen=True)
class _Imported:
    """A module that the user named or whose part was given, and the file it was read from, if it was one."""

    origin: Origin
    module: ModuleType
    path: Path | None = None

    @classmethod
    def of_file(cls, module: ModuleType, path: Path) -> "_Imported":
        """A module of a file, called by the name of the file."""
        return cls(Origin(path.name, hashlib.sha256(path.read_bytes()).hexdigest()), module, path)


#: By their labels, the modules that a user named, or gave a part of.
imported: dict[str, _Imported] = {}
_under_way: list[Origin] = []


def import_modules(names: "Iterable[Module] | Module") -> None:
    """Import modules that register parts: by name, as a file `x.py`, or as they are; one or several.

    A module that was imported before is not imported again. Raises UsageError for a name that is no module,
    a file that there is not, two files of one name, and for a module that fails while it is imported.
    """
    single = isinstance(names, str | Path | ModuleType)
    for name in [cast(Module, names)] if single else cast(Iterable[Module], names):
        if isinstance(name, ModuleType):
            _keep(name)
        else:
            import_named(str(name))


def import_named(name: str, kind: str = "", names: Sequence[str] = ()) -> None:
    """Import one module; where `name` began the spec of a `kind`, near ones of its `names` are offered."""
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
        hint = f"write {name}.py" if beside else "put its folder on PYTHONPATH, or write its path, x.py"
        raise UsageError(f"There is no module {name!r} to import; {hint}.")
    origin = Origin(name)
    with _importing(origin, name):
        imported[name] = _Imported(origin, importlib.import_module(name))


def label_of(module: str) -> str:
    """How records call a module: a file by its name, without the folder."""
    return Path(module).name if module.endswith(".py") else module


def attribute_of(label: str, name: str, kind: str) -> Callable[..., Any]:
    """The class or function `name` of an imported module; UsageError where it has none of that name."""
    module = imported[label].module
    target: Callable[..., Any] | None = getattr(module, name, None)
    if target is None or not callable(target):
        classes = [key for key, value in vars(module).items() if inspect.isclass(value) and key[0] != "_"]
        near = [f"{label}:{each}" for each in classes]
        raise unknown_name(kind, f"{label}:{name}", near, f"{label} has no such class")
    home = getattr(target, "__module__", None) or ""
    if home != module.__name__ and not home.startswith(f"{module.__name__}."):
        raise UsageError(f"{label} imports {name} from {home} and does not define it; write {home}:{name}.")
    return target


def admit(target: Any) -> str:
    """The label of the module that defines a class or function, which counts as imported from now on."""
    module = sys.modules.get(target.__module__)
    if module is None:
        raise UsageError(f"{target.__qualname__} belongs to no module; define it in one, or register it.")
    return _keep(module)


def home_of(target: Any) -> tuple[str, str]:
    """The file, or else the module, that defines a class or function, and its name there."""
    module = getattr(target, "__module__", None) or ""
    return str(_file_of(sys.modules.get(module)) or module), getattr(target, "__qualname__", "")


def origin_of(target: Any) -> Origin:
    """Where a class or function comes from that is being registered: the module that is being imported."""
    return _under_way[0] if _under_way else imported[admit(target)].origin


def passports(labels: Iterable[str]) -> list[tuple[str, str]]:
    """What another process needs to import the same modules: label and path or name of each.

    Raises UsageError for parts that were defined in a notebook, which no other process can read.
    """
    papers = []
    # Those that nobody imported are of installed packages.
    for label in (each for each in dict.fromkeys(labels) if each in imported):
        module, path = imported[label].module, imported[label].path
        if path is None and module.__name__ in MAIN:
            raise UsageError(
                "A part that was defined in a notebook cannot be used with workers, which are processes of "
                "their own; put it in a file and give its path to imports."
            )
        papers.append((label, str(path or module.__name__)))
    return papers


def enter(papers: Iterable[tuple[str, str]]) -> None:
    """Import, in another process, what `passports` said."""
    for label, where in papers:
        main = sys.modules["__main__"]
        if where.endswith(".py") and _file_of(main) == Path(where):
            _keep(main)
        elif label not in imported:
            import_named(where)


def check_needed(needed: Iterable[Origin], what: str) -> None:
    """Raise UsageError unless every module that `what` was made with is there.

    A file whose content is another one than it was is named in a warning.
    """
    for origin in needed:
        module, package = origin.module, origin.distribution
        if package is not None:
            if not any(metadata.Distribution.discover(name=package.partition(" ")[0])):
                raise UsageError(f"{what} needs the package {package}, which is not installed; install it.")
        elif module not in imported and module in MAIN:
            raise UsageError(
                f"{what} needs a part that was defined in a notebook; define it there again and give "
                f"imports=[{module!r}]."
            )
        elif module not in imported:
            raise UsageError(
                f"{what} needs {module}, and nothing is imported because a file names it; if you trust that "
                f"module, add --import {module} (imports=[{module!r}] in Python)."
            )
        elif origin.sha256 not in (None, imported[module].origin.sha256):
            changed = f"{what} was made with another version of {module}; its results may differ."
            warnings.warn(changed, FullrankWarning, stacklevel=3)


def installed_names(group: str) -> dict[str, str]:
    """The names that installed packages offer in a group of entry points, with the packages; imports none."""
    return {
        name: " and ".join(_package(point) for point in points) for name, points in _points(group).items()
    }


def installed_part(group: str, name: str, kind: str) -> tuple[Callable[..., Any], Origin] | None:
    """The part that an installed package offers under `name`, imported; None where no package does.

    Raises UsageError where two packages offer it, and where it cannot be imported.
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
        # A name alone means the one that is known.
        if before.path != resolved and (len(path.parts) > 1 or resolved.is_file()):
            raise UsageError(f"Both {before.path} and {resolved} are called {label}; rename one of them.")
        return
    if not resolved.is_file():
        raise UsageError(f"There is no file {path} to import; check the path.")
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
    """Parts that are registered meanwhile come from `origin`; whatever fails is one sentence."""
    _under_way.append(origin)
    try:
        yield
    except UsageError:
        raise
    except (Exception, SystemExit) as error:  # somebody else's module may raise anything
        at = traceback.extract_tb(error.__traceback__)[-1]
        line = f" (line {at.lineno} of {Path(at.filename).name})" if at.filename.endswith(".py") else ""
        raise UsageError(f"{what} cannot be imported: {type(error).__name__}: {error}{line}.") from error
    finally:
        _under_way.pop()


def _keep(module: ModuleType) -> str:
    """The label of a module that is loaded already."""
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
    """The file that a module was read from, if it was one."""
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
