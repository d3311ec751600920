"""The options that choose a recipe, shared by every command that trains."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from fullrank.data import SOURCES
from fullrank.door import import_modules
from fullrank.errors import UsageError
from fullrank.runs.recipe import RECIPE_FILE, Recipe, recipe_names

# Key of the recipe -> its type and its help.
_KEYS: dict[str, tuple[type, str]] = {
    "data": (str, "Where the images come from (`fullrank list data`)."),
    "views": (str, "How views are made (`fullrank list views`)."),
    "encoder": (str, "`fullrank list encoders`"),
    "objective": (str, "`fullrank list objectives`"),
    "epochs": (int, "Passes over the training images."),
    "batch_size": (int, "Images a step; each is seen twice."),
    "image_size": (int, "Bring images to this many pixels square."),
    "classes": (str, "Keep these classes: imagenet-100, a file of names, or A+B+C."),
    "fraction": (float, "Use this share of each class's training images: 0.01, 0.1."),
    "limit": (int, "Use so many training images only."),
    "max_bad": (int, "Pass over so many images that cannot be decoded; bad_images.txt lists them."),
    "seed": (int, "Seed of the (first) run."),
}
_OPTIONS: dict[str, Any] = {
    "recipe": Annotated[
        str | None,
        typer.Option("--recipe", help="A recipe by name, or a YAML file (`fullrank list recipes`)."),
    ],
    **{
        key: Annotated[kind | None, typer.Option(f"--{key.replace('_', '-')}", help=text)]
        for key, (kind, text) in _KEYS.items()
    },
    "assignments": Annotated[
        list[str] | None,
        typer.Option("--set", help="Any key of the recipe: --set optimizer.lr=0.001; null empties it."),
    ],
}


_IMPORTS = Annotated[
    list[str] | None,
    typer.Option("--import", help="A module, or a file x.py, with parts of yours. Repeatable."),
]


@dataclass(frozen=True)
class RecipeChoice:
    """What the user said of the recipe: its name, if any, and the keys to replace."""

    name: str | None
    overrides: dict[str, Any]

    def resolve(self, out: Path | None, resume: bool, **more: str | None) -> Recipe:
        """The resolved recipe, which needs no torch: a mistake in it is said at once."""
        given = {key: value for key, value in more.items() if value is not None}
        return Recipe.resolve(self._base(out, resume), self.overrides | given)

    def _base(self, out: Path | None, resume: bool) -> str | Path:
        """The recipe asked for; else the one in a folder to be resumed; else the data's own."""
        if self.name is not None:
            return self.name
        if out is not None and resume and (out / RECIPE_FILE).is_file():
            return out / RECIPE_FILE
        data = self.overrides.setdefault("data", "digits")
        self.overrides["data"] = SOURCES.parse(data)
        name = self.overrides["data"].name
        return name if name in recipe_names() else "small-images"


def takes_imports(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the option --import, whose modules are imported before it begins."""
    own = inspect.signature(command).parameters.values()

    @functools.wraps(command)
    def with_imports(imports: list[str] | None = None, **given: Any) -> None:
        import_modules(imports or ())
        command(**given)

    option = inspect.Parameter("imports", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_IMPORTS)
    parameters = [*(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own), option]
    with_imports.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_imports.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_imports


def takes_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options above; it receives them as one argument `choice`."""
    own = [p for name, p in inspect.signature(command).parameters.items() if name != "choice"]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in _OPTIONS.items()
    ]

    @functools.wraps(command)
    def with_choice(**given: Any) -> None:
        said = {name: given.pop(name) for name in _OPTIONS}
        name, assignments = said.pop("recipe"), said.pop("assignments") or []
        overrides = {key: value for key, value in said.items() if value is not None}
        command(choice=RecipeChoice(name, overrides | dict(map(assignment, assignments))), **given)

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    with_choice.__signature__ = inspect.Signature([*shared, *parameters])  # type: ignore[attr-defined]
    with_choice.__annotations__ = {p.name: p.annotation for p in (*shared, *parameters)}
    return with_choice


def assignment(text: str) -> tuple[str, str | None]:
    """The key and value of `key=value`; null is None. Raises UsageError for anything else."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set takes key=value, but got '{text}'; for example --set seed=1.")
    return key.strip(), None if value.strip() == "null" else value.strip()
