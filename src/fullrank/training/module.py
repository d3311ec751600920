"""The training step, as a LightningModule that works under anybody's Trainer."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from fullrank.batch import Batch
from fullrank.errors import UsageError
from fullrank.heads.contract import nested_widths, views_for
from fullrank.objectives import needs_of
from fullrank.objectives.contract import Teaches, check_needs, loss_of_views
from fullrank.objectives.terms.contract import cues_of, loss_of_term
from fullrank.places import HasPlaces, check_place
from fullrank.processes import process_count, process_rank
from fullrank.runs.build import Parts, check_chunks
from fullrank.runs.recipe import Optimizer, Recipe, check_optimizer
from fullrank.specs import write
from fullrank.step import Step
from fullrank.training.chunks import encode_in_chunks
from fullrank.training.session import OptimizerFactory
from fullrank.training.teacher import Teacher
from fullrank.views import step_generator

if TYPE_CHECKING:
    from fullrank.objectives import Auxiliary
    from fullrank.view_numbers import ViewNumbers
    from fullrank.views import ViewParameters, Views


# The name of the objective among the losses of a step.
OBJECTIVE = "objective"


class JointEmbedding(pl.LightningModule):
    """Encoder, head and objective, trained on two or more views of each image: a LightningModule.

    If the objective needs a `teacher`, it has one: a moving average of encoder and head (`Teacher`), which
    sees the global views only and follows after each step of the optimizer.

    Batches are `fullrank.batch.Batch`. The views of step t in epoch e are drawn from (`seed`, e, t), so a
    resumed run sees the same views as an uninterrupted one. Each of several processes has its share of the
    global batch, and draws for all of it.

    Args:
        encoder: Maps images (N, C, H, W) in 0 to 1 to h (N, D).
        head: Maps h (N, D) to z (N, K).
        objective: Called as `loss(z_a, z_b)`, or as `loss(z)` with all views (V, N, K) if it takes them
            (`ViewsLoss`), and with what its `needs` name. Its own weights are trained with the rest.
        views: The pipelines of the views (`view_pipeline`).
        optimizer: The keys of the optimizer, or a function from groups of parameters to an optimizer; None
            has the defaults of a recipe.
        terms: Auxiliary objectives (`auxiliary`). Each is called as `term(step)`, multiplied by its `weight`
            and added to the loss. Their weights are trained too. Labels that a term reads (its `cues`) must
            be in `Batch.cues`.
        seed: The seed of the views.
        encoder_passes: 1 sends all views of a size through the encoder, and all views through the head, at
            once. 2 sends them one by one, so that batch norms see one view at a time, as in P1's code.
        compiled: Whether torch compiles the encoder's forward.
        chunk: The most images that go through the encoder at once; their activations are then computed again
            in the backward pass. None has no limit.
        chunk_statistics: Whether batch norms of the encoder may have the statistics of a chunk.

    Raises:
        UsageError: A part is a class, not an instance, or no training step has what the objective needs. Also
            if a term reads a place that the encoder does not have, the head was built for other views, or the
            head has nested widths that the objective does not have, or chunks would change what the encoder
            computes.

    >>> from fullrank import Optimizer, encoder, head, objective, view_pipeline
    >>> module = JointEmbedding(encoder("tiny-resnet", image_size=8, in_chans=1),
    ...                         head("subvector:24", in_dim=96),
    ...                         objective("infonce:0.2"), view_pipeline("weak", image_size=8, channels=1),
    ...                         Optimizer(lr=1e-3))
    >>> module.head.out_dim
    24
    """

    latest: Step

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module,
        objective: nn.Module,
        views: "Views",
        optimizer: "Optimizer | OptimizerFactory | None" = None,
        *,
        terms: "Sequence[Auxiliary]" = (),
        seed: int = 0,
        encoder_passes: int = 1,
        compiled: bool = False,
        chunk: int | None = None,
        chunk_statistics: bool = False,
    ):
        super().__init__()
        for name, part in (("encoder", encoder), ("head", head), ("objective", objective)):
            if isinstance(part, type):
                raise UsageError(f"{name}={part.__name__} is a class; give an instance of it.")
        check_needs(objective, type(objective).__name__)
        nested = nested_widths(head)
        if nested and nested_widths(objective) != nested:
            raise UsageError(
                f"The head has the nested widths {write(nested)}, but the objective was not built for them; "
                f"build it with objective(..., nested={nested})."
            )
        self.encoder, self.head, self.objective = encoder, head, objective
        self.terms = nn.ModuleList(terms)
        if len({term.name for term in terms}) < len(terms):
            raise UsageError("Two terms have one name; keep one of them, or set `name` of the other.")
        self.places = tuple(dict.fromkeys(place for term in terms for place in getattr(term, "places", ())))
        self.cues = cues_of(terms)
        for place in self.places:
            check_place(cast(HasPlaces, encoder), place)
        self.needs = frozenset[str]().union(*map(needs_of, (objective, head, *terms)))
        self.factory = None if optimizer is None or isinstance(optimizer, Optimizer) else optimizer
        self.optimizer = optimizer if isinstance(optimizer, Optimizer) else Optimizer()
        self.views, self.seed, self.encoder_passes = views, seed, encoder_passes
        self.teacher: Teacher | None = None
        if "teacher" in self.needs:
            self.teacher = Teacher(*self.student)
        dims = cast("dict[str, int] | None", getattr(head, "view_dims", None))
        if dims is not None and dims != views.number_dims:
            raise UsageError(
                f"The head was built for views with the numbers {dims}, but these have {views.number_dims}; "
                "build it with view_dims=views.number_dims."
            )
        self.chunk = chunk
        if chunk is not None:
            check_chunks(encoder, chunk, compiled=compiled, statistics=chunk_statistics)
        if compiled:
            for each in (self, self.teacher):
                if each is not None:
                    each.encoder.compile()

    @classmethod
    def of(cls, recipe: Recipe, parts: Parts, factory: OptimizerFactory | None = None) -> Self:
        """The module for a recipe and its parts; `factory` replaces the optimizer that the recipe names."""
        settings = recipe.engine
        parts_and_rule = (parts.encoder, parts.head, parts.objective, parts.views, recipe.optimizer)
        more: dict[str, Any] = {"seed": recipe.seed, "encoder_passes": recipe.encoder_passes}
        more |= {"compiled": settings.compile, "chunk": settings.chunk}
        more |= {"chunk_statistics": settings.chunk_statistics}
        module = cls(*parts_and_rule, terms=parts.terms, **more)
        module.factory = factory
        return module

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in 0 to 1 -> h (N, D)."""
        return cast(Tensor, self.encoder(images))

    @property
    def student(self) -> list[nn.Module]:
        """What a teacher averages: encoder, head, and the parts that the objective lists."""
        names: tuple[str, ...] = getattr(self.objective, "averaged", ())
        return [self.encoder, self.head, *map(self.objective.get_submodule, names)]

    @property
    def progress(self) -> float:
        """The share of the training that is done, 0 to 1."""
        return min(1.0, self.global_step / self.trainer.estimated_stepping_batches)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a step; its tensors are kept in `latest`."""
        step = self.step(batch, self.current_epoch, batch_idx, self.progress)
        self.latest = step.detached()
        loss = step.loss
        self.log("loss", loss)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Change the weights, and let the teacher follow; a step that was skipped moves no teacher."""
        progress = self.progress
        super().optimizer_step(*args, **kwargs)
        if self.teacher is not None and any(weight.grad is not None for weight in self.parameters()):
            momentum = cast(Teaches, self.objective).momentum_at(progress)
            self.teacher.follow(self.student, momentum)

    def step(self, batch: Batch, epoch: int, number: int, progress: float = 1.0) -> Step:
        """Step `number` of an epoch: draw the views, apply encoder, head and teacher, compute the losses."""
        with self._timed("views"):
            parameters = self.draw(batch, step_generator(self.seed, epoch, number))
            views = self.views.apply(batch, parameters)
            whole, local = views[: self.views.global_count], views[self.views.global_count :]
            numbers = parameters.numbers().to(views[0].device) if "views" in self.needs else None
        with self._timed("encoder"):
            features = self.encoded(whole, local)
            h = features.pop("h")
        with self._timed("head"):
            z = self.embedded(self.head, h, len(views), numbers)
        with self._timed("teacher"):
            targets = None if self.teacher is None else self.taught(self.teacher, whole, numbers)
        # Mixed precision would round the similarities to 16 bits before they are divided by 0.1.
        with self._timed("objective"), torch.autocast(z.device.type, enabled=False):
            h, z = _single(h), _single(z)
            read = {place: _single(rows) for place, rows in features.items()}
            generator = None
            if "generator" in self.needs:  # the same in every process and after a resume
                generator = step_generator(self.seed, epoch, number, stream=1)
            cues, counts = self.cues_in(batch), (self.views.count, self.views.global_count)
            step = Step(h, z, read, numbers, batch.labels, generator, progress, {}, cues, targets, *counts)
            given = {"labels": batch.labels, "generator": generator, "progress": progress}
            given |= {"global_views": step.global_count, "teacher": targets}
            losses = {OBJECTIVE: loss_of_views(self.objective, step.by_view(z), **given)}
            for term in self.terms:
                losses[str(term.name)] = cast(float, term.weight) * loss_of_term(term, step)
            return replace(step, losses=losses)

    def encoded(self, whole: Sequence[Tensor], local: Sequence[Tensor] = ()) -> dict[str, Tensor]:
        """The features (V N, D_p) of all views at h and at the places that the terms name.

        The global views are one call of the encoder and the local crops another, since their sizes differ.
        """
        features = [self._read(part) for views in (whole, local) for part in self._passes(views)]
        return {place: torch.cat([each[place] for each in features]) for place in features[0]}

    def _passes(self, views: Sequence[Tensor]) -> Sequence[Tensor]:
        """The images of each call of the encoder."""
        if self.encoder_passes > 1 or not views:
            return views
        return [torch.cat(list(views))]

    def _read(self, images: Tensor) -> dict[str, Tensor]:
        """The features of images at h and at the places that the terms name."""
        if not self.places:
            return self._in_chunks(lambda part: {"h": self.encoder(part)}, images, self.encoder)
        read = cast(HasPlaces, self.encoder).features
        return self._in_chunks(lambda part: read(part, ("h", *self.places)), images, self.encoder)

    def _in_chunks(
        self, encode: Callable[[Tensor], Mapping[str, Tensor]], images: Tensor, encoder: nn.Module
    ) -> dict[str, Tensor]:
        """What `encode` makes of images, in chunks of them if there is a limit."""
        return encode_in_chunks(encode, images, self.chunk or len(images), encoder)

    def embedded(self, head: nn.Module, h: Tensor, views: int, numbers: "ViewNumbers | None") -> Tensor:
        """The embeddings (V N, K) for h (V N, D) of so many views; a head may take their parameters."""
        given = views_for(head, numbers)
        passes = 1 if self.encoder_passes == 1 else views
        if given is None:
            return torch.cat([head(part) for part in h.chunk(passes)])
        return torch.cat(
            [head(part, views=some) for part, some in zip(h.chunk(passes), given.chunk(passes), strict=True)]
        )

    @torch.no_grad()
    def taught(self, teacher: Teacher, whole: Sequence[Tensor], numbers: "ViewNumbers | None") -> Tensor:
        """What a teacher makes of the global views: (G, N, P), float32 or better, without gradient."""
        parts = self._passes(whole)
        encode = teacher.encoder
        h = torch.cat([self._in_chunks(lambda x: {"h": encode(x)}, part, encode)["h"] for part in parts])
        numbers = None if numbers is None else numbers.first_views(len(whole))
        z = self.embedded(teacher.head, h, len(whole), numbers)
        with torch.autocast(z.device.type, enabled=False):
            z = _single(z)
            for part in teacher.parts:
                z = cast(Tensor, part(z))
        return z.reshape(len(whole), -1, z.shape[1])

    def draw(self, batch: Batch, generator: torch.Generator) -> "ViewParameters":
        """The parameters of the views of `batch`, which is this process's share of the global batch."""
        count, total = len(batch), len(batch) * process_count()
        mine = slice(count * process_rank(), count * (process_rank() + 1))
        sizes = None
        if batch.sizes is not None:
            # Parameters do not depend on sizes, so those of the other processes are not needed.
            sizes = torch.ones(total, 2, dtype=torch.int64)
            sizes[mine] = batch.sizes.cpu()
        height, width = batch.images.shape[-2:]
        return self.views.sample(total, generator, (height, width), sizes)[mine]

    def cues_in(self, batch: Batch) -> dict[str, Tensor]:
        """The labels of `batch` that the terms read; UsageError for one that it does not carry."""
        carried = batch.cues or {}
        if missing := [name for name in self.cues if name not in carried]:
            raise UsageError(
                f"A term reads the label {missing[0]!r}, which the batches do not carry; give the "
                f"BatchLoader cues={self.cues}."
            )
        return {name: carried[name] for name in self.cues}

    def _timed(self, part: str) -> AbstractContextManager[None]:
        """A context in which the trainer's profiler times a part of the step, if there is a trainer."""
        if self._trainer is None:  # the public property raises
            return nullcontext()
        profiler: Profiler = self._trainer.profiler  # type: ignore[attr-defined]  # a connector sets it
        return profiler.profile(part)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, with warm-up and cosine at every step of the run."""
        optimizer = build_optimizer(
            self.optimizer, [self.encoder, self.head, self.objective, self.terms], self.factory
        )
        if not math.isfinite(total := self.trainer.estimated_stepping_batches):
            raise UsageError(
                "The schedule needs the number of steps; give the Trainer max_epochs or max_steps."
            )
        total, warmup = int(total), round(self.optimizer.warmup * total)
        floor = self.optimizer.floor
        schedule = LambdaLR(optimizer, lambda step: warmup_cosine(step, warmup, total, floor))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _single(rows: Tensor) -> Tensor:
    """The rows in float32, or float64."""
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def warmup_cosine(step: int, warmup: int, total: int, floor: float = 0.0) -> float:
    """The relative learning rate at `step`: linear to 1 in `warmup` steps, then cosine to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))
    return floor + (1 - floor) * cosine


def build_optimizer(
    settings: Optimizer, modules: list[nn.Module], factory: OptimizerFactory | None = None
) -> torch.optim.Optimizer:
    """The optimizer that `settings` name, or that `factory` makes.

    One-dimensional parameters, such as norms and biases, have no weight decay and, under LARS, no adaptation.
    LARS (You, Gitman, Ginsburg 2017, 1708.03888) is timm's. It divides by |g| + decay |w|, and P1's code by
    |g + decay w|; with a decay of 1e-6 there is no difference.

    Args:
        settings: The optimizer's name and rates.
        modules: The modules to train.
        factory: Called with two groups of parameters, with and without weight decay; returns an optimizer.

    Raises:
        UsageError: For an unknown name, or a `factory` that does not return an optimizer.
    """
    trained = [p for module in modules for p in module.parameters() if p.requires_grad]
    decay = settings.weight_decay
    many: dict[str, Any] = {"params": [p for p in trained if p.ndim > 1], "weight_decay": decay}
    few: dict[str, Any] = {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0}
    if factory is not None:
        made: object = factory([many, few])
        if not isinstance(made, torch.optim.Optimizer):
            name = type(made).__name__
            raise UsageError(f"The optimizer function returned a {name}; return a torch.optim.Optimizer.")
        return made
    if settings.name == "sgd":
        return torch.optim.SGD([many, few], lr=settings.lr, momentum=settings.momentum)
    if settings.name == "lars":
        from timm.optim.lars import Lars

        groups = [many | {"always_adapt": True}, few | {"always_adapt": False}]
        return Lars(groups, lr=settings.lr, momentum=settings.momentum, trust_coeff=settings.trust)
    if settings.name == "adamw":
        return torch.optim.AdamW([many, few], lr=settings.lr)
    if ":" in settings.name:
        remedy = "pass it again as optimizer=, or name another with --set optimizer.name="
        raise UsageError(f"The optimizer {settings.name} was made in Python; {remedy}.")
    check_optimizer(settings.name)
    from timm.optim._optim_factory import create_optimizer_v2

    rates: dict[str, Any] = {name: getattr(settings, name) for name in ("lr", "weight_decay", "momentum")}
    return create_optimizer_v2([many, few], opt=settings.name, **rates)
