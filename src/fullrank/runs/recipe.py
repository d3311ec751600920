"""The recipe: everything that defines a run, validated and resolved. Torch-free."""

from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    ValidationInfo,
)

from fullrank.data import SOURCES
from fullrank.door import Origin, check_needed
from fullrank.encoders import ENCODERS
from fullrank.errors import UsageError, unknown_name
from fullrank.files import is_file
from fullrank.heads import HEADS
from fullrank.objectives import OBJECTIVES
from fullrank.registry import Registry
from fullrank.specs import Spec
from fullrank.views import VIEWS

RECIPE_FILE = "recipe.yaml"
# PyYAML's own error, and what it lets pass of numbers, dates and bytes that are none.
_NOT_YAML = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError)
_SHIPPED = files(__package__).joinpath("recipes")


# Names of Lightning's loggers -> their classes; each but csv needs its own package.
LOGGERS = {
    "csv": "CSVLogger",
    "tensorboard": "TensorBoardLogger",
    "wandb": "WandbLogger",
    "mlflow": "MLFlowLogger",
    "comet": "CometLogger",
    "litlogger": "LitLogger",
}


# What is built here; any other name is timm's.
OWN_OPTIMIZERS = ("adamw", "sgd", "lars")


class _Loader(yaml.SafeLoader):
    """YAML of plain values, each written out: a few aliases of aliases would make gigabytes of one line."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, "an alias (*) is not read; write the value out", mark
            )
        return super().compose_node(parent, index)


def _known_logger(name: str) -> str:
    if name not in LOGGERS:
        raise unknown_name("logger", name, LOGGERS, f"Lightning has {', '.join(LOGGERS)}")
    return name


def _parsed_by(registry: Registry) -> PlainValidator:
    """A field that holds a parsed spec of a family; what stands in a file imports nothing."""

    def parsed(value: Any, info: ValidationInfo) -> Spec:
        if not isinstance(value, str) and not callable(value):
            raise ValueError(
                f"a {registry.kind} is named by a word; `fullrank list {registry.room}` shows all"
            )
        return registry.parse(value, from_file=info.context == _FROM_FILE)

    return PlainValidator(parsed)


_FROM_FILE = {"from_file": True}
_AS_TEXT = PlainSerializer(str, return_type=str)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Optimizer(_Part):
    """How the weights move: linear warm-up, then cosine to `floor` times the rate, both per step.

    `name` is adamw, sgd, lars or any name of timm's factory (`timm.optim.list_optimizers()`). `lr` is used as
    it is, whatever the batch size; `warmup` is the share of the run in which it rises. Norms, biases and
    other 1-d parameters have no decay and, under lars, no adaptation. `momentum` belongs to optimizers that
    have one, `trust` (P1's eta) to lars alone. A gradient whose norm over all parameters is above `clip` is
    shortened to it. A function that was given in Python is called by its module and name, and makes the
    optimizer from the weight decay alone: `lr`, `momentum` and `trust` are then not used.
    """

    name: str = Field("adamw", pattern=r"^[A-Za-z_][\w.:]*$")
    lr: float = Field(3e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    trust: float = Field(1e-3, gt=0)
    warmup: float = Field(0.1, ge=0, lt=1)
    floor: float = Field(0.0, ge=0, le=1)
    clip: float | None = Field(None, gt=0)


class Engine(_Part):
    """How the step is computed; none of it is meant to change what is learnt, beyond rounding.

    `precision` is that of a GPU; a CPU always computes in 32 bits, for in 16 it is far slower.
    `accumulate` adds the gradients of so many batches before each update: the negatives of a contrastive
    loss still come from one batch, so it is not a larger batch. `logger` is a logger of Lightning
    (`csv`, `tensorboard`, `wandb`, ...), which gets every curve beside our own `metrics.csv`. Several GPUs
    have batch statistics in common with `sync_batchnorm`; CPUs cannot have them. The last
    `keep_checkpoints` stay on the disk: should the newest be damaged, the one before it is used.
    """

    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    accumulate: int = Field(1, ge=1)
    channels_last: bool = False
    compile: bool = False
    sync_batchnorm: bool = True
    logger: Annotated[str, AfterValidator(_known_logger)] | None = None
    keep_checkpoints: int = Field(2, ge=1)


class SGDProbe(_Part):
    """The papers' linear probe: SGD on random crops of the training images, the encoder frozen in eval mode.

    Cosine per epoch; the weights start at N(0, 0.01), the bias at 0. It is scored after each epoch on the
    test images, and both the last epoch and the best one are recorded: the best is chosen on the test
    images themselves, as P1 does.

    Source: P1, authors' code (PAPERS P1.6).
    """

    epochs: int = Field(100, ge=1)
    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-6, ge=0)
    batch_size: int = Field(256, ge=2)


class Recipe(_Part):
    """All that defines a run; two equal recipes give the same record on one machine.

    Of the training images, `classes` keeps those of a class list, `fraction` that share of each class, and
    `limit` so many, in this order; of the test images `classes` alone does. `held_out` puts that share of
    each class of the training images that are left in the place of the test images, so that settings are
    chosen without a look at these. `max_bad` images that cannot be decoded are passed over (see
    `load_data`). `label` names the labels that a supervised objective learns, where the
    images have several (CIFAR-100's `coarse`), and that online probes use; a finished run is probed on
    "label" all the same. `encoder_passes` of 2 sends each view through the encoder and the head by itself, so
    that batch norms see one view at a time, as P1's code does; 1 sends both at once. `init` is a file of
    weights to start the encoder from. `online_every` probes every so many epochs on features of the training
    steps. `sgd_probe` adds the papers' probe to ours. `imports` are the modules that parts of yours come
    from; they are found, not chosen.

    >>> Recipe.resolve("digits", {"head": "directclr", "epochs": 2}).head
    'subvector:360'
    """

    data: Annotated[Spec, _parsed_by(SOURCES), _AS_TEXT]
    image_size: int | None = Field(None, ge=1)
    classes: str | None = None
    fraction: float | None = Field(None, gt=0, le=1)
    limit: int | None = Field(None, ge=1)
    held_out: float | None = Field(None, gt=0, lt=1)
    max_bad: int = Field(0, ge=0)
    views: Annotated[Spec, _parsed_by(VIEWS), _AS_TEXT] = VIEWS.parse("simclr")
    encoder: Annotated[Spec, _parsed_by(ENCODERS), _AS_TEXT] = ENCODERS.parse("tiny-resnet")
    head: Annotated[Spec, _parsed_by(HEADS), _AS_TEXT] = HEADS.parse("subvector:24")
    objective: Annotated[Spec, _parsed_by(OBJECTIVES), _AS_TEXT] = OBJECTIVES.parse("infonce:0.2")
    label: str = "label"
    optimizer: Optimizer = Optimizer()
    encoder_passes: int = Field(1, ge=1, le=2)
    engine: Engine = Engine()
    init: str | None = None
    epochs: int = Field(40, ge=1)
    batch_size: int = Field(256, ge=2)
    seed: int = Field(0, ge=0, lt=2**32)
    monitor_every: int = Field(10, ge=1)
    online_every: int | None = Field(None, ge=1)
    sgd_probe: SGDProbe | None = None
    imports: tuple[Origin, ...] = ()

    @classmethod
    def resolve(cls, recipe: "str | Path | Recipe", overrides: Mapping[str, Any] | None = None) -> "Recipe":
        """A recipe by name, from a YAML file, or as it is, with some of its keys replaced.

        A key of a nested part is written with a dot: `optimizer.lr`. A part of yours may be named in the
        `overrides`, which imports its module; what a file names must have been imported before. Raises
        UsageError for an unknown recipe, key or name, a value out of range and a module that is missing.
        """
        if isinstance(recipe, Recipe):
            content = {key: _plain(value) for key, value in recipe}
        else:
            content = _read(recipe)
        for key, value in (overrides or {}).items():
            *parents, last = key.split(".")
            part = content
            for parent in parents:
                if part.get(parent) is None:
                    part[parent] = {}
                part = part[parent]
                if not isinstance(part, dict):
                    raise UsageError(f"'{key}': {parent} has no keys below it; write {parent}=VALUE.")
            registry = _REGISTRIES.get(key)
            part[last] = value if registry is None or value is None else registry.parse(value)
        try:
            check_needed(_needed_by_file(content.pop("imports", ())), f"The recipe {recipe}")
            return cls.model_validate(content, context=_FROM_FILE)._with_imports()
        except ValidationError as error:
            raise _first_fault(error, recipe) from None

    def _with_imports(self) -> "Recipe":
        """The recipe, with the modules that its parts come from."""
        found: dict[Origin, None] = {}
        for key, registry in _REGISTRIES.items():
            spec: Spec = getattr(self, key)
            origins = (registry[each.name].origin for each in spec.nested())
            found |= dict.fromkeys(origin for origin in origins if origin is not None)
        return self.model_copy(update={"imports": tuple(found)})

    def dump(self) -> str:
        """The recipe as YAML, every key written out."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False)


_REGISTRIES: dict[str, Registry] = {
    "data": SOURCES,
    "views": VIEWS,
    "encoder": ENCODERS,
    "head": HEADS,
    "objective": OBJECTIVES,
}


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, BaseModel) else value


def _needed_by_file(imports: Any) -> list[Origin]:
    """The modules that a recipe says it needs; UsageError where that is not how a recipe says it."""
    try:
        return [each if isinstance(each, Origin) else Origin(**each) for each in imports or ()]
    except TypeError:
        raise UsageError(
            "The key 'imports' of a recipe is a list of modules, each with the key `module`; leave it out, "
            "it is found by itself."
        ) from None


def check_optimizer(name: str) -> None:
    """Raise UsageError for an optimizer that timm does not know, unless it was given in Python."""
    if name in OWN_OPTIMIZERS or ":" in name:
        return
    from timm.optim._optim_factory import list_optimizers

    known = [each for each in list_optimizers() if isinstance(each, str)]
    if name not in known:
        remedy = "`timm.optim.list_optimizers()` shows all; give one of yours in Python"
        raise unknown_name("optimizer", name, [*OWN_OPTIMIZERS, *known], remedy)


def recipe_names() -> list[str]:
    """The recipes that the package ships."""
    return sorted(p.name.removesuffix(".yaml") for p in _SHIPPED.iterdir())


def recipe_summary(name: str) -> str:
    """What a shipped recipe is for: the comment it starts with."""
    return _SHIPPED.joinpath(f"{name}.yaml").read_text().splitlines()[0].removeprefix("# ")


def _read(recipe: str | Path) -> dict[str, Any]:
    if str(recipe) in recipe_names():
        file: Traversable = _SHIPPED.joinpath(f"{recipe}.yaml")
    elif is_file(Path(recipe)):
        file = Path(recipe)
    else:
        raise unknown_name(
            "recipe", str(recipe), recipe_names(), "`fullrank list recipes` shows all, or name a YAML file"
        )
    try:
        content = yaml.load(file.read_text("utf-8"), _Loader)  # a SafeLoader
    except RecursionError:
        raise UsageError(f"Recipe {recipe} nests too deeply; a recipe has two levels.") from None
    except _NOT_YAML as error:
        raise UsageError(f"Recipe {recipe} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise UsageError(f"Recipe {recipe} holds no keys; write `data: digits` and so on, one key a line.")
    return content


def _first_fault(error: ValidationError, recipe: object) -> UsageError:
    fault = error.errors()[0]
    key = ".".join(map(str, fault["loc"]))
    label = "Recipe" if isinstance(recipe, Recipe) else f"Recipe {recipe}"
    if fault["type"] == "extra_forbidden":
        part = _part_of(fault["loc"])
        return unknown_name(
            "recipe key", key, part.model_fields, f"known keys are {', '.join(part.model_fields)}"
        )
    if fault["type"] == "missing":
        return UsageError(f"{label} has no '{key}'; add it, for example `{key}: digits`.")
    if isinstance(reason := fault.get("ctx", {}).get("error"), UsageError):
        return reason
    if fault["type"] == "model_type":
        return UsageError(
            f"{label}: {key} has keys of its own; write {key}.KEY=VALUE, as in its recipe.yaml."
        )
    message = fault["msg"][0].lower() + fault["msg"][1:]
    return UsageError(f"{label}: {key}={fault['input']!r}: {message}.")


def _part_of(location: tuple[int | str, ...]) -> type[BaseModel]:
    """The part of a recipe in which the key at `location` is looked for."""
    parts: dict[int | str, type[BaseModel]] = {
        "optimizer": Optimizer,
        "engine": Engine,
        "sgd_probe": SGDProbe,
    }
    return parts[location[0]] if len(location) > 1 else Recipe


# Logger -> the module it needs, and the package that has it.
_LOGGER_PACKAGES = {
    "tensorboard": ("tensorboard", "tensorboard"),
    "wandb": ("wandb", "wandb"),
    "mlflow": ("mlflow", "mlflow"),
    "comet": ("comet_ml", "comet-ml"),
    "litlogger": ("litlogger", "litlogger"),
}


def check_logger(name: str) -> None:
    """Raise UsageError unless the package that a logger needs is installed."""
    module, package = _LOGGER_PACKAGES.get(name, (None, None))
    if module is not None and find_spec(module) is None:
        raise UsageError(
            f"The logger {name} needs the package {package}, which is not installed; `pip install {package}`."
        )
