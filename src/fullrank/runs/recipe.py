"""The recipe: everything that defines a run, validated and resolved. Torch-free."""

from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
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
from fullrank.runs.settings import settings_of
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
    """YAML without aliases: a few aliases of aliases would make gigabytes of one line."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, "an alias (*) is not read; write the value out", mark
            )
        return super().compose_node(parent, index)


# The keys that name a part, and where its specs are registered.
_REGISTRIES: dict[str, Registry] = {
    "data": SOURCES,
    "views": VIEWS,
    "encoder": ENCODERS,
    "head": HEADS,
    "objective": OBJECTIVES,
}
_FROM_FILE = {"from_file": True}


def _parsed(value: Any, info: ValidationInfo) -> Spec:
    """The spec of a part; what stands in a file imports nothing."""
    registry = _REGISTRIES[str(info.field_name)]
    if not isinstance(value, str) and not callable(value):
        raise UsageError(
            f"A {registry.kind} is named by a word, but got {value!r}; `fullrank list {registry.room}` "
            "shows all."
        )
    return registry.parse(value, from_file=info.context == _FROM_FILE)


# In the type, not as a serializer of the model: pydantic would then no longer know which keys are at their
# default, and the digest of a recipe has only the others.
_PartSpec = Annotated[Spec, PlainValidator(_parsed), PlainSerializer(str, return_type=str)]


def _spec(key: str, meaning: str, default: str | None = None) -> Any:
    registry = _REGISTRIES[key]
    spec = ... if default is None else registry.parse(default)
    return Field(spec, description=f"{meaning} (`fullrank list {registry.room}`).")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Optimizer(_Part):
    """How the weights move: linear warm-up, then cosine to `floor` times the rate, both per step.

    Norms, biases and other 1-d parameters have no decay and, under lars, no adaptation. A function that was
    given in Python is called by its module and name, and makes the optimizer from the weight decay alone:
    `lr`, `momentum` and `trust` are then not used.
    """

    name: str = Field(
        "adamw",
        pattern=r"^[A-Za-z_][\w.:]*$",
        description="adamw, sgd, lars, or any name in `timm.optim.list_optimizers()`.",
    )
    lr: float = Field(3e-3, gt=0, description="The learning rate, used as it is whatever the batch size.")
    weight_decay: float = Field(1e-4, ge=0, description="Weight decay.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum, for optimizers that have one.")
    trust: float = Field(1e-3, gt=0, description="The trust coefficient of lars (P1's eta).")
    warmup: float = Field(0.1, ge=0, lt=1, description="The share of the run in which the rate rises.")
    floor: float = Field(0.0, ge=0, le=1, description="The rate at the end, as a share of `lr`.")
    clip: float | None = Field(
        None, gt=0, description="The norm over all parameters to which a larger gradient is scaled down."
    )


class Engine(_Part):
    """How the step is computed; none of it is meant to change what is learnt, beyond rounding."""

    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = Field(
        "32-true", description="The precision on a GPU; a CPU always computes in 32 bits."
    )
    accumulate: int = Field(
        1, ge=1, description="Batches whose gradients are added up; the negatives still come from one batch."
    )
    channels_last: bool = Field(False, description="Keep the encoder's weights channels last in memory.")
    compile: bool = Field(False, description="Compile the encoder with `torch.compile`.")
    sync_batchnorm: bool = Field(
        True, description="Share batch statistics between several GPUs; CPUs cannot share them."
    )
    logger: Literal["csv", "tensorboard", "wandb", "mlflow", "comet", "litlogger"] | None = Field(
        None, description="A logger of Lightning, beside `metrics.csv`."
    )
    keep_checkpoints: int = Field(2, ge=1, description="Checkpoints to keep, in case the newest is damaged.")


class SGDProbe(_Part):
    """The papers' linear probe: SGD on random crops of the training images, the encoder frozen in eval mode.

    Cosine per epoch; the weights start at N(0, 0.01), the bias at 0. It is scored after each epoch on the
    test images, and both the last epoch and the best one are recorded: the best is chosen on the test
    images themselves, as P1 does. A recipe has no such probe until one of these keys is set.

    Source: P1's published code.
    """

    epochs: int = Field(100, ge=1, description="Passes over the training images.")
    lr: float = Field(0.1, gt=0, description="The learning rate at the start.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum.")
    weight_decay: float = Field(1e-6, ge=0, description="Weight decay.")
    batch_size: int = Field(256, ge=2, description="Images per step.")


class Recipe(_Part):
    """All that defines a run; two equal recipes give the same record on one machine.

    The training images are cut by `classes`, `fraction`, `limit` and `held_out`, in this order; `classes`
    cuts the test images too. With `held_out`, settings are chosen without a look at the test images. A
    finished run is probed on "label", whatever `label` it learnt. `imports` are the modules that parts of
    yours come from; they are found, not chosen.

    >>> Recipe.resolve("digits", {"head": "directclr", "epochs": 2}).head
    'subvector:360'
    """

    data: _PartSpec = _spec("data", "Source of the images")
    image_size: int | None = Field(None, ge=1, description="Resize images to this many pixels square.")
    classes: str | None = Field(None, description="Classes to keep: imagenet-100, a file of names, or A+B+C.")
    fraction: float | None = Field(
        None, gt=0, le=1, description="The share of each class's training images to use."
    )
    limit: int | None = Field(None, ge=1, description="Use at most this many training images.")
    held_out: float | None = Field(
        None, gt=0, lt=1, description="The share of each class's training images to test on instead."
    )
    max_bad: int = Field(
        0, ge=0, description="Tolerate this many undecodable images; bad_images.txt lists them."
    )
    views: _PartSpec = _spec("views", "How views are made", "simclr")
    encoder: _PartSpec = _spec("encoder", "The encoder", "tiny-resnet")
    head: _PartSpec = _spec("head", "The head", "subvector:24")
    objective: _PartSpec = _spec("objective", "The objective", "infonce:0.2")
    label: str = Field(
        "label", description="The labels that supervised objectives and online probes use, as in `coarse`."
    )
    optimizer: Optimizer = Optimizer()
    encoder_passes: int = Field(
        1, ge=1, le=2, description="1: batch norm sees both views at once; 2: one at a time, as in P1's code."
    )
    engine: Engine = Engine()
    init: str | None = Field(None, description="Weights to start from: .safetensors, .pth, .ckpt.")
    epochs: int = Field(40, ge=1, description="Passes over the training images.")
    batch_size: int = Field(256, ge=2, description="Images per step; each is seen in two views.")
    seed: int = Field(0, ge=0, lt=2**32, description="The seed; `compare` takes it and those after it.")
    monitor_every: int = Field(10, ge=1, description="Steps between two points of the curves.")
    online_every: int | None = Field(
        None, ge=1, description="Epochs between two probes of the features that training steps make."
    )
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
                part[parent] = {} if part.get(parent) is None else part[parent]
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
        origins = dict.fromkeys(
            registry[spec.name].origin
            for key, registry in _REGISTRIES.items()
            for spec in getattr(self, key).nested()
        )
        return self.model_copy(update={"imports": tuple(filter(None, origins))})

    def dump(self) -> str:
        """The recipe as YAML, every key written out."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False)


# Every key that can be set, in the order of a recipe's file.
RECIPE_KEYS = settings_of(Recipe)


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, BaseModel) else value


def _needed_by_file(imports: Any) -> list[Origin]:
    """The modules that a recipe says it needs."""
    try:
        return [each if isinstance(each, Origin) else Origin(**each) for each in imports or ()]
    except TypeError:
        raise UsageError(
            "The key 'imports' of a recipe is a list of modules, each with the key `module`; leave it out."
        ) from None


def check_optimizer(name: str) -> None:
    """Raise UsageError for an optimizer that timm does not know, unless it was given in Python."""
    if name in OWN_OPTIMIZERS or ":" in name:
        return
    from timm.optim._optim_factory import list_optimizers

    names = [each for each in list_optimizers() if isinstance(each, str)]
    if name not in names:
        remedy = "`timm.optim.list_optimizers()` shows all; give one of yours in Python"
        raise unknown_name("optimizer", name, [*OWN_OPTIMIZERS, *names], remedy)


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
        siblings = [each for each in RECIPE_KEYS if each.rpartition(".")[0] == key.rpartition(".")[0]]
        remedy = f"known keys are {', '.join(siblings)}; `fullrank list recipe-keys` explains all"
        return unknown_name("recipe key", key, RECIPE_KEYS, remedy)
    if fault["type"] == "missing":
        return UsageError(f"{label} has no '{key}'; add it, for example `{key}: digits`.")
    if isinstance(reason := fault.get("ctx", {}).get("error"), UsageError):
        return reason
    if key not in RECIPE_KEYS:
        return UsageError(f"{label}: {key} has keys of its own; write {key}.KEY=VALUE, as in recipe.yaml.")
    limits, default = RECIPE_KEYS[key].limits, RECIPE_KEYS[key].default
    return UsageError(
        f"{label}: {key}={fault['input']!r} is not allowed; expected {limits} (default: {default})."
    )


def check_logger(name: str) -> None:
    """Raise UsageError unless the package that a logger needs is installed."""
    package = {"comet": "comet-ml"}.get(name, name)
    if name != "csv" and find_spec(package.replace("-", "_")) is None:
        raise UsageError(
            f"The logger {name} needs the package {package}, which is not installed; `pip install {package}`."
        )
