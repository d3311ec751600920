"""The recipe: everything that defines a run, validated and resolved. Torch-free."""

from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, PlainSerializer, PlainValidator, ValidationError, ValidationInfo

from fullrank.data import SOURCES
from fullrank.door import Origin, check_needed
from fullrank.encoders import ENCODERS
from fullrank.errors import UsageError, unknown_name
from fullrank.files import is_file
from fullrank.heads import HEADS
from fullrank.objectives import OBJECTIVES
from fullrank.runs.settings import settings_of
from fullrank.specs import Spec
from fullrank.views import VIEWS

RECIPE_FILE = "recipe.yaml"
# PyYAML's own error, and the errors that it does not convert, of invalid numbers, dates and bytes.
_NOT_YAML = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError)
_SHIPPED = files(__package__).joinpath("recipes")


# Name -> class of Lightning's loggers; all but csv need a package of their own.
LOGGERS = {
    "csv": "CSVLogger",
    "tensorboard": "TensorBoardLogger",
    "wandb": "WandbLogger",
    "mlflow": "MLFlowLogger",
    "comet": "CometLogger",
    "litlogger": "LitLogger",
}
# The optimizers that are built here, with their papers; any other name is timm's.
OWN_OPTIMIZERS: dict[str, tuple[str, ...]] = {
    "adamw": ("loshchilov2019decoupled",),
    "sgd": (),
    "lars": ("you2017large",),
}


class _Loader(yaml.SafeLoader):
    """YAML without aliases: a few nested aliases would expand one line to gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            remedy = "an alias (*) is not allowed; write the value out"
            raise yaml.composer.ComposerError(None, None, remedy, mark)
        return super().compose_node(parent, index)


# Key that names a part -> the registry of its specs.
_REGISTRIES = {"data": SOURCES, "views": VIEWS, "encoder": ENCODERS, "head": HEADS, "objective": OBJECTIVES}
_FROM_FILE = {"from_file": True}


def _parsed(value: Any, info: ValidationInfo) -> Spec:
    """The spec of a part; a spec in a file imports nothing."""
    registry = _REGISTRIES[str(info.field_name)]
    if not isinstance(value, str) and not callable(value):
        raise UsageError(
            f"A {registry.kind} is named by a word, but got {value!r}; `fullrank list {registry.room}` "
            "shows all."
        )
    return registry.parse(value, from_file=info.context == _FROM_FILE)


# A serializer of the type, not of the model: with the latter pydantic would no longer know which keys have
# their default, and the digest of a recipe has only the other keys.
_PartSpec = Annotated[Spec, PlainValidator(_parsed), PlainSerializer(str, return_type=str)]


def _spec(key: str, meaning: str, default: str | None = None) -> Any:
    registry = _REGISTRIES[key]
    spec = ... if default is None else registry.parse(default)
    return Field(spec, description=f"{meaning} (`fullrank list {registry.room}`).")


def _key(default: Any, meaning: str, **limits: Any) -> Any:
    return Field(default, description=meaning, **limits)


class _Part(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """A recipe, or a group of its keys."""


class Optimizer(_Part):
    """The optimizer and its schedule: linear warm-up, then cosine to `floor` times the rate, both per step.

    Norms, biases and other 1-d parameters have no decay, and no adaptation under lars. A function that was
    passed in Python appears under its module and name. It makes the optimizer from the weight decay only;
    `lr`, `momentum` and `trust` are then not used.
    """

    name: str = Field(
        "adamw",
        pattern=r"^[A-Za-z_][\w.:]*$",
        description="adamw, sgd, lars, or any name in `timm.optim.list_optimizers()`.",
    )
    lr: float = _key(3e-3, "The learning rate, not scaled with the batch size.", gt=0)
    weight_decay: float = _key(1e-4, "Weight decay.", ge=0)
    momentum: float = _key(0.9, "Momentum, for optimizers that have one.", ge=0, lt=1)
    trust: float = _key(1e-3, "The trust coefficient of lars (P1's eta).", gt=0)
    warmup: float = _key(0.1, "The share of the run with a rising rate.", ge=0, lt=1)
    floor: float = _key(0.0, "The rate at the end, as a share of `lr`.", ge=0, le=1)
    clip: float | None = _key(
        None, "The largest gradient norm over all parameters; larger gradients are scaled down.", gt=0
    )


class Engine(_Part):
    """How the step is computed; apart from rounding, only `chunk_statistics` changes the result."""

    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = _key(
        "32-true", "The precision on a GPU; a CPU always computes in 32 bits."
    )
    accumulate: int = _key(
        1, "Batches whose gradients are accumulated; the negatives still come from one batch.", ge=1
    )
    channels_last: bool = _key(False, "Keep the encoder's weights channels last in memory.")
    chunk: int | None = _key(
        None,
        "Images that go through the encoder at once, the last time fewer; saves memory and costs time.",
        ge=1,
    )
    chunk_statistics: bool = _key(False, "Let batch norms have the statistics of a chunk.")
    compile: bool = _key(False, "Compile the encoder with `torch.compile`.")
    sync_batchnorm: bool = _key(True, "Share batch statistics between several GPUs; CPUs cannot share them.")
    logger: Literal["csv", "tensorboard", "wandb", "mlflow", "comet", "litlogger"] | None = _key(
        None, "A Lightning logger for curves, recipe and final scores, beside `metrics.csv`."
    )
    keep_checkpoints: int = _key(2, "Checkpoints to keep, in case the newest is damaged.", ge=1)


class SGDProbe(_Part):
    """The papers' linear probe: SGD on random crops of the training images, with the encoder frozen.

    The rate follows a cosine over epochs. Weights start at N(0, 0.01), the bias at 0. The probe is scored on
    the test images after each epoch, and the record has both the last and the best epoch. The best epoch is
    chosen on the test images themselves, as in P1. A recipe has this probe only if one of these keys is set.

    Source: P1's published code.
    """

    epochs: int = _key(100, "Passes over the training images.", ge=1)
    lr: float = _key(0.1, "The learning rate at the start.", gt=0)
    momentum: float = _key(0.9, "Momentum.", ge=0, lt=1)
    weight_decay: float = _key(1e-6, "Weight decay.", ge=0)
    batch_size: int = _key(256, "Images per step.", ge=2)


class Recipe(_Part):
    """All settings of a run; two equal recipes give the same record on one machine.

    `classes`, `fraction`, `limit` and `held_out` select training images, in this order. `classes` also
    selects test images. `held_out` lets you choose settings without the test images. A finished run is probed
    on the labels named "label", even if it was trained on another `label`. `imports` lists the modules of
    your own parts; fullrank fills it in.

    >>> Recipe.resolve("digits", {"head": "directclr", "epochs": 2}).head
    'subvector:360'
    """

    data: _PartSpec = _spec("data", "Source of the images")
    image_size: int | None = _key(None, "Resize images to this many pixels square.", ge=1)
    classes: str | None = _key(None, "Classes to keep: imagenet-100, a file of names, or A+B+C.")
    fraction: float | None = _key(None, "The share of each class's training images to use.", gt=0, le=1)
    limit: int | None = _key(None, "Use at most this many training images.", ge=1)
    held_out: float | None = _key(
        None, "The share of each class's training images to test on instead.", gt=0, lt=1
    )
    max_bad: int = _key(0, "Tolerate this many undecodable images; bad_images.txt lists them.", ge=0)
    views: _PartSpec = _spec("views", "How views are made", "simclr")
    encoder: _PartSpec = _spec("encoder", "The encoder", "tiny-resnet")
    head: _PartSpec = _spec("head", "The head", "subvector:24")
    objective: _PartSpec = _spec("objective", "The objective", "infonce:0.2")
    label: str = _key("label", "The labels for supervised objectives and online probes, such as `coarse`.")
    optimizer: Optimizer = Optimizer()
    encoder_passes: int = _key(
        1, "1: batch norm sees both views at once; 2: one at a time, as in P1's code.", ge=1, le=2
    )
    engine: Engine = Engine()
    init: str | None = _key(None, "Weights to start from: .safetensors, .pth, .ckpt.")
    init_prefix: str | None = _key(None, "Which net of that file: what is before its names, as in `teacher`.")
    epochs: int = _key(40, "Passes over the training images.", ge=1)
    batch_size: int = _key(256, "Images per step; each is seen in all of its views.", ge=2)
    seed: int = _key(0, "The seed; `compare` takes it and those after it.", ge=0, lt=2**32)
    monitor_every: int = _key(10, "Steps between two points of the curves.", ge=1)
    online_every: int | None = _key(
        None, "Epochs between two probes of the features that training steps make.", ge=1
    )
    sgd_probe: SGDProbe | None = None
    imports: tuple[Origin, ...] = ()

    @classmethod
    def resolve(cls, recipe: "str | Path | Recipe", overrides: Mapping[str, Any] | None = None) -> "Recipe":
        """A recipe by name, from a YAML file, or a given one, with some of its keys replaced.

        Args:
            recipe: The name of a shipped recipe (`fullrank list recipes`), a YAML file, or a recipe.
            overrides: Key -> value; the key of a nested part has a dot, as in `optimizer.lr`. Your own parts
                may be named here, which imports their modules. A file may only name parts whose modules were
                imported before.

        Raises:
            UsageError: A recipe, key or name is unknown, a value is outside its limits, or a module is
                missing.
        """
        if isinstance(recipe, Recipe):
            content = {key: each.model_dump() if isinstance(each, _Part) else each for key, each in recipe}
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
        """The recipe with the list of modules that its parts come from."""
        origins = dict.fromkeys(
            registry.of(spec).origin
            for key, registry in _REGISTRIES.items()
            for spec in getattr(self, key).nested()
        )
        return self.model_copy(update={"imports": tuple(filter(None, origins))})

    def dump(self) -> str:
        """The recipe as YAML, every key written out."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False)


# Every key that can be set, in the order of a recipe file.
RECIPE_KEYS = settings_of(Recipe)


def _needed_by_file(imports: Any) -> list[Origin]:
    """The modules that a recipe file lists in `imports`."""
    try:
        return [each if isinstance(each, Origin) else Origin(**each) for each in imports or ()]
    except TypeError:
        remedy = "give modules, each with a key `module`, or leave it out"
        raise UsageError(f"'imports' of a recipe is not valid: {imports!r:.80}; {remedy}.") from None


def check_optimizer(name: str) -> None:
    """Raise UsageError if timm does not have an optimizer and it was not passed in Python."""
    if name in OWN_OPTIMIZERS or ":" in name:
        return
    from timm.optim._optim_factory import list_optimizers

    names = [each for each in list_optimizers() if isinstance(each, str)]
    if name not in names:
        remedy = "`timm.optim.list_optimizers()` shows all; pass your own in Python"
        raise unknown_name("optimizer", name, [*OWN_OPTIMIZERS, *names], remedy)


def recipe_names() -> list[str]:
    """The recipes that the package ships."""
    return sorted(p.name.removesuffix(".yaml") for p in _SHIPPED.iterdir())


def recipe_summary(name: str) -> str:
    """The purpose of a shipped recipe: the comment at its start."""
    return _SHIPPED.joinpath(f"{name}.yaml").read_text().splitlines()[0].removeprefix("# ")


def _read(recipe: str | Path) -> dict[str, Any]:
    if str(recipe) in recipe_names():
        file: Traversable = _SHIPPED.joinpath(f"{recipe}.yaml")
    elif is_file(Path(recipe)):
        file = Path(recipe)
    else:
        remedy = "`fullrank list recipes` shows all, or name a YAML file"
        if is_file(Path(recipe) / RECIPE_FILE):
            raise UsageError(f"{recipe} is a folder; name the recipe in it, {Path(recipe) / RECIPE_FILE}.")
        if Path(recipe).suffix in (".yaml", ".yml"):
            raise UsageError(f"The recipe file {recipe} does not exist; check the path; {remedy}.")
        if str(recipe).partition(":")[0] in {entry.name for entry in SOURCES}:
            raise UsageError(f"{recipe} is data, not a recipe; write --data {recipe}; {remedy}.")
        raise unknown_name("recipe", str(recipe), recipe_names(), remedy)
    return yaml_keys(file.read_bytes(), f"Recipe {recipe}", "data: digits")


def yaml_keys(file: bytes, what: str, example: str) -> dict[str, Any]:
    """The keys of a YAML file; UsageError, which begins with `what`, if it is not YAML or has no keys."""
    try:
        content = yaml.load(file.decode(), _Loader)  # a SafeLoader
    except RecursionError:
        raise UsageError(f"{what} nests too deeply; write one key per line, as in `{example}`.") from None
    except _NOT_YAML as error:
        raise UsageError(f"{what} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise UsageError(f"{what} has no keys; write lines such as `{example}`, one key per line.")
    return content


def parsed_parts(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of a recipe from a file, with the specs of parts parsed but without importing any module."""
    parsed = {
        key: registry.parse(settings[key], from_file=True)
        for key, registry in _REGISTRIES.items()
        if settings.get(key) is not None
    }
    return {**settings, **parsed}


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
    allowed = f"{RECIPE_KEYS[key].limits} (default: {RECIPE_KEYS[key].default})"
    return UsageError(f"{label}: {key}={fault['input']!r} is not allowed; expected {allowed}.")


# Logger that needs a further package -> its module, and the package to install.
_LOGGER_PACKAGES = {
    "tensorboard": ("tensorboard", "'fullrank[loggers]'"),
    "wandb": ("wandb", "'fullrank[wandb]'"),
    "mlflow": ("mlflow", "'fullrank[mlflow]'"),
    "comet": ("comet_ml", "comet-ml"),
    "litlogger": ("litlogger", "litlogger"),
}


def check_logger(name: str) -> None:
    """Raise UsageError unless the package that a logger needs is installed."""
    module, package = _LOGGER_PACKAGES.get(name, (None, ""))
    if module is not None and find_spec(module) is None:
        raise UsageError(f"The logger {name} needs a package; run `pip install {package}`.")
