"""What is diagnosed: a model with its images, views and loss."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fullrank.diagnosis.norms import has_first_values
from fullrank.targets.images import Images, images_of
from fullrank.targets.opening import Target, about_output

if TYPE_CHECKING:
    from fullrank.data import ImageSet
    from fullrank.objectives.contract import Unguarded
    from fullrank.record.probed import BaselineKind
    from fullrank.runs.run import Run
    from fullrank.views import Views


@dataclass(frozen=True)
class Subject:
    """A model with what is known of it; what is None cannot be examined.

    `all` are the images that are looked at, if these are more than the test images. `rebuild` builds the
    encoder as it was before training. `kind` says whether it then had random weights. `about` is what is
    known of the weights and the input, in words. `supervised` says whether the loss uses labels, if that is
    known. `views_name` is the spec of the views. `unguarded` is what keeps the objective from collapse and is
    switched off.
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
    all: "ImageSet | None" = None
    trained: bool = True
    supervised: bool | None = None
    about: tuple[str, ...] = ()
    views_name: str = ""
    unguarded: "tuple[Unguarded, ...]" = ()


def find_subject(target: Target, data: Any, views: str | None) -> Subject:
    """A target with its images, views and loss."""
    return subject_with(target, images_of(target, data), views, own=data is None)


def subject_with(target: Target, images: Images, views: str | None, *, own: bool = False) -> Subject:
    """A target with images that were prepared for it; `own` says that they are those of its run."""
    if target.run is not None:
        return _subject_of_run(target, images, views, own=own)
    known = (
        images.test if images.train is None else images.train
    )  # whose statistics a net without weights takes
    encoder, preprocessing = target.opened(known), target.preprocessing_of(known)
    fresh = target.trained and has_first_values(encoder)
    about = "All its norm layers hold their first values, so its weights count as random." if fresh else ""
    rebuild = None
    if target.rebuild is not None and preprocessing is not None:
        rebuild = partial(target.rebuild, known, preprocessing)
    return Subject(
        name=target.name,
        encoder=encoder,
        head=target.head,
        train=images.train,
        test=images.test,
        views=None if views is None else _views(views, images.test),
        views_name=views or "",
        rebuild=rebuild,
        all=None if images.official else images.all,
        trained=target.trained and not fresh,
        about=(target.about_weights, about, f"Input: {preprocessing}.", about_output(encoder)),
    )


def _subject_of_run(target: Target, images: Images, views: str | None, *, own: bool) -> Subject:
    from fullrank.objectives import needs
    from fullrank.objectives.contract import unguarded_of
    from fullrank.runs.baselines import initial_encoder, kind_of
    from fullrank.targets.images import own_run

    run = own_run(target)
    needs_labels = "labels" in needs(run.recipe.objective)
    # On other images the encoder would be built with another mean and spread.
    rebuild = partial(initial_encoder, run.recipe, images.train) if own and images.train is not None else None
    made, loss = _views(views or run.recipe.views, images.test), _objective_of(run)
    unguarded = unguarded_of(loss, run.head)
    return Subject(
        name=str(run.path),
        encoder=run.encoder,
        head=run.head,
        train=images.train,
        test=images.test,
        views=made,
        views_name=str(views or run.recipe.views),
        objective=loss if _is_complete(loss) else None,
        fresh_head=run.fresh_head,
        recipe=run.recipe.model_dump(mode="json"),
        rebuild=rebuild,
        kind=kind_of(run.recipe),
        supervised=needs_labels,
        all=None if images.official else images.all,
        about=(_about_head(run.head, made), *(_about_objective(each) for each in unguarded)),
        unguarded=unguarded,
    )


def _about_objective(missing: "Unguarded") -> str:
    return f"The objective lacks a guard against collapse ({missing})."


def _objective_of(run: "Run") -> nn.Module:
    """The objective of a run, with new weights where it has any: a run keeps only encoder and head."""
    from fullrank.heads.contract import nested_widths
    from fullrank.objectives import objective

    with torch.random.fork_rng(devices=()):
        # No classifier is asked for its classes.
        return objective(
            run.recipe.objective.alone, in_dim=run.head.out_dim, num_classes=2, nested=nested_widths(run.head)
        )


def _is_complete(loss: nn.Module) -> bool:
    """Whether a loss has all that it needs: no labels, no teacher, and no trained weights of its own."""
    from fullrank.objectives import needs_of

    return not needs_of(loss) & {"labels", "teacher"} and next(loss.parameters(), None) is None


def _about_head(head: nn.Module, views: "Views") -> str:
    """With which parameters of the views a head is read that takes them; "" for another."""
    if "views" not in getattr(head, "needs", ()):
        return ""
    if getattr(head, "view_dims", views.number_dims) == views.number_dims:
        return "The head is given the parameters of each view; whole images count as unchanged views."
    return "The head was trained with other views, so it is not given the parameters of these."


def _views(spec: str, images: "ImageSet") -> "Views":
    from fullrank.views import view_pipeline

    return view_pipeline(spec, image_size=images.image_size, channels=images.channels).pair
