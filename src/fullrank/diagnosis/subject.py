"""What is diagnosed: a run or a model, with its images, views and loss."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from fullrank.errors import UsageError

if TYPE_CHECKING:
    from fullrank.data import ImageSet
    from fullrank.record.probed import BaselineKind
    from fullrank.runs.run import Run
    from fullrank.views import Views


@dataclass(frozen=True)
class Subject:
    """A model with what is known of it; what is None cannot be examined.

    `rebuild` builds the encoder as it was before training. `kind` says whether it then had random weights.
    """

    name: str
    encoder: nn.Module
    head: nn.Module | None
    train: "ImageSet | None"
    test: "ImageSet"
    views: "Views | None" = None
    objective: nn.Module | None = None
    fresh_head: Callable[[], nn.Module] | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    rebuild: Callable[[], nn.Module] | None = None
    kind: "BaselineKind" = "untrained"


def find_subject(
    target: "str | Path | nn.Module | type[nn.Module] | Run",
    data: Any,
    views: str | None,
    weights: str | Path | None,
    image_size: int | None,
) -> Subject:
    """The model that `target` names, with its images, views and loss."""
    from fullrank.runs.run import Run, load

    if isinstance(target, str | Path) and Path(target).is_dir():
        target = load(target)
    if isinstance(target, Run):
        refuse_given("A run", weights=weights, image_size=image_size)
        return _subject_of_run(target, data, views)
    if isinstance(target, nn.Module):
        refuse_given("A module", weights=weights)
    elif isinstance(target, Path) or (isinstance(target, str) and "/" in target and ":" not in target):
        raise UsageError(f"{target} is neither a folder nor a file; check the path, or name a timm model.")
    name = getattr(type(target) if isinstance(target, nn.Module) else target, "__name__", str(target))
    if data is None:
        what = "" if isinstance(target, nn.Module) else " is neither a folder nor a file here, and a model"
        raise UsageError(f"{name}{what} needs images; give them with --data.")
    train, test = _load(data, image_size)
    shown = None if views is None else _views(views, test)
    if isinstance(target, nn.Module):
        return Subject(name, target, None, train, test, views=shown)
    if weights is not None:
        from fullrank.encoders import with_stem_of

        target = with_stem_of(target, weights)
        name = str(target)
    encoder = _library_encoder(target, train or test, weights)
    rebuild = partial(_untrained, target, train or test)
    return Subject(name, encoder, None, train, test, views=shown, rebuild=rebuild)


def refuse_given(target: str, **options: object) -> None:
    """Raise UsageError for the first given option that does not apply to `target`."""
    if name := next((name for name, value in options.items() if value is not None), None):
        raise UsageError(f"{target} takes no {name}; leave it out, or name a model by its spec.")


def _subject_of_run(run: "Run", data: Any, views: str | None) -> Subject:
    from fullrank.objectives import needs, objective
    from fullrank.runs.baselines import initial_encoder, kind_of
    from fullrank.runs.build import load_data
    from fullrank.runs.run import input_shape

    # Such a loss has trained weights of its own, or asks for the labels of views.
    needs_labels = "labels" in needs(run.recipe.objective)
    train, test = load_data(run.recipe) if data is None else _load(data, input_shape(run.path)[0])
    # On other images the encoder would be built with another mean and spread.
    rebuild = partial(initial_encoder, run.recipe, train) if data is None and train is not None else None
    return Subject(
        name=str(run.path),
        encoder=run.encoder,
        head=run.head,
        train=train,
        test=test,
        views=_views(views or run.recipe.views, test),
        objective=None if needs_labels else objective(run.recipe.objective),
        fresh_head=run.fresh_head,
        recipe=run.recipe.model_dump(mode="json"),
        rebuild=rebuild,
        kind=kind_of(run.recipe),
    )


def _library_encoder(spec: Any, images: "ImageSet", weights: str | Path | None) -> nn.Module:
    from fullrank.encoders import encoder, load_weights

    mean, std = images.channel_statistics()
    built = encoder(spec, image_size=images.image_size, in_chans=images.channels, mean=mean, std=std)
    if weights is not None:
        load_weights(built, weights)
    return built.eval()


def _untrained(spec: Any, images: "ImageSet") -> nn.Module:
    """The same architecture with random weights, drawn from seed 0."""
    import torch

    from fullrank.encoders import without_download

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)
        return _library_encoder(without_download(spec), images, None)


def _load(data: Any, image_size: int | None) -> "tuple[ImageSet | None, ImageSet]":
    from fullrank.data import source
    from fullrank.runs.build import GivenImages

    if isinstance(data, str | type):
        images = source(data)
        return images.load("train", image_size), images.load("test", image_size)
    sets = GivenImages.of(data)
    train, test = (None, sets.train) if sets.test is None else (sets.train, sets.test)
    if image_size is None:
        return train, test
    return train and train.resized(image_size), test.resized(image_size)


def _views(spec: str, images: "ImageSet") -> "Views":
    from fullrank.views import view_pipeline

    return view_pipeline(spec, image_size=images.image_size, channels=images.channels)
