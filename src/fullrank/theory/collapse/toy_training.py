r"""P1's toys: small linear and rectified nets, trained by SGD on InfoNCE with inner products."""

from dataclasses import dataclass, replace

import numpy as np

from fullrank.errors import DivergedError, UsageError
from fullrank.theory.collapse.inner_products import inner_gradients, inner_loss
from fullrank.theory.collapse.linear_stack import Network, Pullback, linear
from fullrank.theory.common.flow import Array, Weights
from fullrank.theory.common.inputs import number, whole_number
from fullrank.theory.common.theorem import OnStep

# Embeddings of the toys have size 1 or so. Beyond this SGD has diverged, though floats are still finite.
_LARGEST = 1e6


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a toy is trained: plain SGD, each batch drawn without replacement from `samples` Gaussian inputs.

    Raises UsageError for a batch larger than the samples, or a number that is not above 0.

    >>> Schedule(learning_rate=1e-2).steps
    10000
    """

    learning_rate: float
    steps: int = 10_000
    batch: int = 128
    samples: int = 10_000
    temperature: float = 0.1
    seed: int = 0
    snapshots: int = 32

    def __post_init__(self) -> None:
        for name in ("learning_rate", "steps", "batch", "samples", "temperature", "snapshots"):
            if not getattr(self, name) > 0:
                raise UsageError(f"A toy's {name} must be above 0, but got {getattr(self, name)}.")
        if self.batch > self.samples:
            raise UsageError(
                f"A batch of {self.batch} cannot be drawn from {self.samples} samples without replacement; "
                "take a smaller batch."
            )


@dataclass(frozen=True)
class ToyRun:
    """The state of a toy at T of its steps, the first of them step 0.

    `weights` has one array (T, D, D) a layer, `biases` (T, D) is 0 for layers without a bias, `spectra` (T,
    D) has the descending eigenvalues of the embedding covariance on 1000 fresh inputs, `losses` (T,) each a
    batch's.
    """

    steps: Array
    weights: Weights
    spectra: Array
    losses: Array
    biases: Array

    @property
    def singular_values(self) -> Weights:
        """The singular values (T, D) of each layer, descending."""
        return tuple(np.linalg.svdvals(layer) for layer in self.weights)

    def collapsed(self, threshold: float = 1e-3) -> Array:
        """How many eigenvalues of the embedding covariance are below that share of the largest, (T,)."""
        return collapsed_dimensions(self.spectra, threshold)


def collapsed_dimensions(spectra: Array, threshold: float = 1e-3) -> Array:
    """How many eigenvalues (..., D) of an embedding covariance are below `threshold` times the largest.

    >>> float(collapsed_dimensions(np.array([2.0, 1.0, 1e-3])))
    1.0
    """
    largest = spectra.max(-1, keepdims=True)
    return np.asarray((spectra < threshold * largest).sum(-1, dtype=np.float64))


def strong_augmentation(
    noise: float,
    schedule: Schedule | None = None,
    *,
    width: int = 16,
    augmented: int = 8,
    on_step: OnStep | None = None,
) -> ToyRun:
    """Case 1: one linear layer with bias, and Gaussian noise on the last coordinates of both views.

    The layer starts as torch's `nn.Linear` does, uniform within 1/sqrt(width). Raises UsageError for negative
    noise or more augmented coordinates than there are. Source: P1 Figure 3 and its code.

    >>> run = strong_augmentation(1.0, Schedule(learning_rate=1e-3, steps=2, snapshots=2))
    >>> run.steps.tolist(), run.weights[0].shape
    ([0.0, 1.0, 2.0], (3, 16, 16))
    """
    noise = number("noise", noise)
    if not 0 <= augmented <= width:
        raise UsageError(
            f"{augmented} augmented coordinates do not fit the width {width}; give from 0 to {width} of them."
        )
    schedule = schedule or Schedule(learning_rate=1e-3)
    rng = np.random.default_rng(schedule.seed)
    start = rng.uniform(-1, 1, (width, width + 1)) / width**0.5
    run = _train(_affine, (start,), noise, augmented, schedule, rng, on_step)
    (layer,) = run.weights
    return replace(run, weights=(layer[:, :, :width],), biases=layer[:, :, width])


def stacked_layers(
    depth: int = 2,
    schedule: Schedule | None = None,
    *,
    network: Network = linear,
    width: int = 16,
    decay: float = 0.35,
    scale: float = 1.0,
    noise: float = 1e-3,
    on_step: OnStep | None = None,
) -> ToyRun:
    r"""Case 2 and its sweeps: layers without bias that start with one spectrum in random bases.

    .. math:: W_l(0) = s \, U_l \, \mathrm{diag}(e^{-\gamma i}) \, V_l^\top, \qquad i = 0, \dots, D - 1

    with U_l and V_l from the SVD of a matrix uniform in [0, 1], and noise on all coordinates of both views.
    The paper has s = 1. `network` is `linear`, or `rectified` for the nonlinear sweep. Raises UsageError for
    a depth below 1, a scale that is not above 0, or negative decay or noise. Source: P1 Section 5 and Figures
    5, 6 and 11; settings from the public code.

    >>> run = stacked_layers(2, Schedule(learning_rate=1e-2, steps=2, snapshots=1))
    >>> run.singular_values[0][0, :3].round(3).tolist()
    [1.0, 0.705, 0.497]
    """
    depth, decay = whole_number("depth", depth, 1), number("decay", decay)
    noise, scale = number("noise", noise), number("scale", scale, above=True)
    schedule = schedule or Schedule(learning_rate=1e-2)
    rng = np.random.default_rng(schedule.seed)
    start = tuple(_with_spectrum(rng, scale * np.exp(-decay * np.arange(width))) for _ in range(depth))
    return _train(network, start, noise, width, schedule, rng, on_step)


def _affine(weights: Weights, x: Array) -> tuple[Array, Pullback]:
    """One layer with a bias, which is the weight of a last input that is always 1."""
    return linear(weights, np.concatenate([x, np.ones((len(x), 1))], 1))


def _with_spectrum(rng: np.random.Generator, values: Array) -> Array:
    u, _, vt = np.linalg.svd(rng.uniform(size=(len(values), len(values))))
    return np.asarray(u * values @ vt)


def _train(
    network: Network,
    start: Weights,
    noise: float,
    augmented: int,
    schedule: Schedule,
    rng: np.random.Generator,
    on_step: OnStep | None,
) -> ToyRun:
    """SGD from `start`; both views have noise on the last `augmented` inputs."""
    temperature, count, width = schedule.temperature, schedule.batch, len(start[-1])
    data, fresh = (rng.standard_normal((rows, width)) for rows in (schedule.samples, 1000))
    snapshots = np.unique(np.linspace(0, schedule.steps, schedule.snapshots + 1).astype(int))
    weights, saved, spectra, losses = start, [], [], []
    # Weights that diverge exceed the largest float before the embeddings do.
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(schedule.steps + 1):
            views = np.tile(data[rng.choice(len(data), count, replace=False)], (2, 1))
            views[:, width - augmented :] += noise * rng.standard_normal((2 * count, augmented))
            z, pull = network(weights, views)
            if not np.abs(z).max() < _LARGEST:
                raise DivergedError(
                    f"The toy's embeddings have grown beyond {_LARGEST:g} after {step} steps at a learning "
                    f"rate of {schedule.learning_rate:g}; take a smaller one, or less noise."
                )
            if step in snapshots:
                saved.append(weights)
                values = np.linalg.eigvalsh(np.atleast_2d(np.cov(network(weights, fresh)[0], rowvar=False)))
                spectra.append(np.maximum(values[::-1], 0.0))
                losses.append(inner_loss(z[:count], z[count:], temperature))
            if step == schedule.steps:
                break
            gradients = pull(np.concatenate(inner_gradients(z[:count], z[count:], temperature)))
            weights = tuple(
                layer - schedule.learning_rate * gradient
                for layer, gradient in zip(weights, gradients, strict=True)
            )
            if on_step is not None:
                on_step(step + 1)
    return ToyRun(
        steps=snapshots.astype(np.float64),
        weights=tuple(np.stack(layer) for layer in zip(*saved, strict=True)),
        spectra=np.stack(spectra),
        losses=np.array(losses),
        biases=np.zeros((len(saved), width)),
    )
