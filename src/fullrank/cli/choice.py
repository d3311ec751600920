"""The options that several commands share: those of a recipe, --import and --threads."""

import functools
import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from fullrank.data import SOURCES
from fullrank.door import import_modules
from fullrank.errors import UsageError, count_of
from fullrank.runs.recipe import RECIPE_FILE, RECIPE_KEYS, Recipe, recipe_names
from fullrank.runs.settings import Setting
from fullrank.specs import split_specs
from fullrank.threads import CoreLoad, choose_threads, limited_threads

DATA = "digits"
_VARIED = "objective=infonce:0.2,vicreg"
Begin = Callable[..., None]
_IMPORTS = "A module, or a file x.py, with parts of yours. Repeatable."
_THREADS = "Threads to compute with. Default: OMP_NUM_THREADS, else one for each free core."
ThreadsOption = Annotated[int | None, typer.Option("--threads", metavar="N", help=_THREADS)]
_RECIPE = (
    "A recipe by name, or a YAML file (`fullrank list recipes`). Keys that it leaves out have the "
    "defaults shown here."
)
_ASSIGNMENTS = "Any key of `fullrank list recipe-keys`: optimizer.lr=0.001; null empties it. Repeatable."


@dataclass(frozen=True)
class RecipeChoice:
    """What the user gave for the recipe: its name, if any, and the keys to replace."""

    name: str | None
    overrides: dict[str, Any]

    def resolve(self, out: Path | None, resume: bool) -> Recipe:
        """The named recipe, else that of a folder to be resumed, else that of the data. Loads no torch."""
        base, overrides = self._base(out, resume)
        return Recipe.resolve(base, overrides)

    def print_plan(
        self, recipe: Recipe, out: Path | None, resume: bool, runs: str, vary: Collection[str] = ()
    ) -> None:
        """Say on standard error what is trained, on what data, and what is a default, except what varies."""
        base, _ = self._base(out, resume)
        named = self.name is not None or "data" in self.overrides or isinstance(base, Path)
        data = "" if named else " (the default; --data SPEC names others)"
        parts = {
            "encoder": f"encoder {recipe.encoder}",
            "objective": f"objective {recipe.objective}",
            "epochs": count_of(recipe.epochs, "epoch"),
        }
        fixed = ", ".join(text for key, text in parts.items() if key not in vary)
        on = f"Training {runs} on {recipe.data}{data} by the recipe {base}"
        print(f"{on}{f': {fixed}' if fixed else ''}.", file=sys.stderr)

    def _base(self, out: Path | None, resume: bool) -> tuple[str | Path, dict[str, Any]]:
        """The recipe to begin with, and the keys to replace."""
        if self.name is not None:
            return self.name, self.overrides
        if out is not None and resume and (out / RECIPE_FILE).is_file():
            return out / RECIPE_FILE, self.overrides
        data = SOURCES.parse(self.overrides.get("data", DATA))
        name = data.name if data.name in recipe_names() else "small-images"
        return name, {**self.overrides, "data": data}

    def of_study(self, vary: Mapping[str, str], out: Path | None, resume: bool) -> Recipe:
        """The recipe that the rows of a study share; where data are varied, it has the first of them.

        Raises UsageError for a key that is both fixed and varied.
        """
        for key in vary:
            if key in self.overrides:
                fixed = f"{key}={self.overrides[key]}"
                raise UsageError(f"--vary {key}={vary[key]} and {fixed} exclude each other; leave one out.")
        first = {"data": split_specs(vary["data"])[0]} if "data" in vary else {}
        return RecipeChoice(self.name, {**first, **self.overrides}).resolve(out, resume)


def takes_imports(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the option --import, whose modules are imported before it begins."""

    def with_imports(imports: list[str] | None = None, **arguments: Any) -> None:
        import_modules(imports or ())
        command(**arguments)

    option = _option("imports", list[str] | None, "--import", metavar="MODULE", help=_IMPORTS)
    return _signed(with_imports, command, [*_parameters_of(command), option])


@dataclass(frozen=True)
class ModelOptions:
    """What the user gave about a model beside its name."""

    weights: Path | None
    prefix: str | None
    image_size: int | None
    mean: str | None
    std: str | None

    def open(self, text: str) -> Any:
        """The target with these options; loads torch."""
        from fullrank.targets.opening import target

        return target(text, weights=self.weights, prefix=self.prefix, **self._input)

    def open_other(self, text: str, weights: Path | None) -> Any:
        """A second target with weights of its own and the same input, unless it is a run; loads torch."""
        from fullrank.targets.opening import other_target

        return other_target(text, weights=weights, **self._input)

    @property
    def _input(self) -> dict[str, Any]:
        return {
            "image_size": self.image_size,
            "mean": None if self.mean is None else numbers(self.mean, "--mean"),
            "std": None if self.std is None else numbers(self.std, "--std"),
        }

    def refuse_for_file(self, text: str) -> None:
        """Raise UsageError if any is given, since the target is a file of embeddings."""
        given = {"--weights": self.weights, "--weights-prefix": self.prefix, "--image-size": self.image_size}
        given |= {"--mean": self.mean, "--std": self.std}
        if option := next((option for option, value in given.items() if value is not None), None):
            raise UsageError(f"{option} is for a model, but {text} holds embeddings; leave it out.")


def takes_model(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a model that fullrank did not train; it receives them as `model`."""
    options = [
        _option("weights", Path | None, help="A file of weights for the encoder: .safetensors, .pth, .ckpt."),
        _option("weights_prefix", str | None, help="Which net of that file, by the prefix of its tensors."),
        _option(
            "image_size", int | None, "--image-size", "--size", help="Side of the net's input in pixels."
        ),
        _option(
            "mean", str | None, metavar="NUMBERS", help="Mean of each channel, in 0 to 1: 0.48,0.45,0.4."
        ),
        _option("std", str | None, metavar="NUMBERS", help="Spread of each channel, in the same form."),
    ]

    def with_model(
        weights: Path | None,
        weights_prefix: str | None,
        image_size: int | None,
        mean: str | None,
        std: str | None,
        **arguments: Any,
    ) -> None:
        command(model=ModelOptions(weights, weights_prefix, image_size, mean, std), **arguments)

    own = [parameter for parameter in _parameters_of(command) if parameter.name != "model"]
    return _signed(with_model, command, [*own, *options])


def numbers(text: str, option: str) -> tuple[float, ...]:
    """The numbers of a comma-separated list; UsageError for anything else.

    >>> numbers("0.5, 0.25", "--mean")
    (0.5, 0.25)
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} needs numbers such as 0.48,0.45,0.41, but got '{text}'.") from None


def takes_threads(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the option --threads; the command calls `begin` right before it computes."""

    def with_threads(threads: int | None = None, **arguments: Any) -> None:
        with ExitStack() as work:
            command(begin=partial(begin_work, work, threads), **arguments)

    own = [parameter for parameter in _parameters_of(command) if parameter.name != "begin"]
    keyword = inspect.Parameter.KEYWORD_ONLY
    option = inspect.Parameter("threads", keyword, default=None, annotation=ThreadsOption)
    return _signed(with_threads, command, [*own, option])


def begin_work(work: ExitStack, asked: int | None, processes: int = 1, *, needs_torch: bool = True) -> None:
    """Set the number of threads until `work` ends, and print it.

    Args:
        work: Puts the number back when the command ends.
        asked: The value of --threads, or None.
        processes: How many processes of this command share the cores.
        needs_torch: Whether the command needs torch. The load is measured while torch is imported.

    Raises:
        UsageError: Fewer than one thread is asked for.
    """
    load = CoreLoad()
    if needs_torch:
        import torch  # noqa: F401
    threads = choose_threads(asked, load, processes)
    more = "" if threads.free is None else "; --threads N sets another number"
    print(f"Computing with {threads}{more}.", file=sys.stderr)
    work.enter_context(limited_threads(threads.count, asked=threads.free is None))


def takes_recipe(*, without: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each key of a recipe that has no dot; it receives them as `choice`."""
    keys = [key for key in RECIPE_KEYS if "." not in key and key not in without]
    options = [
        _option("recipe", str | None, help=_RECIPE),
        *(_key_option(RECIPE_KEYS[key]) for key in keys),
        _option("assignments", list[str] | None, "--set", metavar="KEY=VALUE", help=_ASSIGNMENTS),
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def with_choice(recipe: str | None, assignments: list[str] | None, **arguments: Any) -> None:
            values = {key: arguments.pop(key) for key in keys}
            overrides = {key: value for key, value in values.items() if value is not None}
            overrides |= dict(map(assignment, assignments or ()))
            command(choice=RecipeChoice(recipe, overrides), **arguments)

        own = [parameter for parameter in _parameters_of(command) if parameter.name != "choice"]
        return _signed(with_choice, command, [*options, *own])

    return decorate


def _key_option(setting: Setting) -> inspect.Parameter:
    default = DATA if setting.key == "data" else setting.default
    notes = [setting.bounds, "" if default == "null" else f"default: {default}"]
    text = setting.meaning + (f" \\[{'; '.join(filter(None, notes))}]" if any(notes) else "")
    return _option(setting.key, str | None, metavar=setting.metavar, help=text)


def _option(name: str, kind: Any, *flags: str, **shown: Any) -> inspect.Parameter:
    hint: Any = Annotated[kind, typer.Option(*flags, **shown)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)


def _parameters_of(command: Callable[..., None]) -> list[inspect.Parameter]:
    parameters = inspect.signature(command).parameters.values()
    return [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]


def _signed(
    wrapper: Callable[..., None], command: Callable[..., None], parameters: list[inspect.Parameter]
) -> Callable[..., None]:
    """The wrapper under the command's name, with the signature that typer makes options of."""
    functools.update_wrapper(wrapper, command)
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper


def assignment(text: str) -> tuple[str, str | None]:
    """The key and value of `key=value`; null is None. Raises UsageError for anything else."""
    key, value = _key_and_value(text, "--set", "seed=1")
    return key, None if value == "null" else value


def varied(texts: Sequence[str]) -> dict[str, str]:
    """The values of each varied key, still as one text; UsageError for a key that is given twice.

    >>> varied(["objective=infonce:0.2,vicreg", "epochs=10,20"])
    {'objective': 'infonce:0.2,vicreg', 'epochs': '10,20'}
    """
    values: dict[str, str] = {}
    for text in texts:
        key, value = _key_and_value(text, "--vary", _VARIED)
        if not value:
            raise UsageError(f"--vary {key} has no values; write them after the equals sign: {_VARIED}.")
        if key in values:
            together = f"--vary {key}={values[key]},{value}"
            raise UsageError(f"--vary {key} is given twice; write all values as {together}.")
        values[key] = value
    return values


def _key_and_value(text: str, option: str, example: str) -> tuple[str, str]:
    """Both sides of the first equals sign; UsageError without that sign or without a key."""
    key, equals, value = (part.strip() for part in text.partition("="))
    if not key or not equals:
        raise UsageError(f"{option} needs key=value, but got '{text}'; for example {option} {example}.")
    return key, value
