"""Batch norms whose running statistics do not fit their input."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from fullrank.batch import as_float
from fullrank.devices import first_device
from fullrank.places import evaluating

# A channel is off if its variance differs from the running one by this factor, or its mean by so many running
# standard deviations. Of nets on their own images next to none does; docs/causes.md has the figures.
OFF_RATIO, OFF_MEAN = 4.0, 2.0
# Running statistics are settled once their first values weigh less than this.
_SETTLED = 0.01


@dataclass(frozen=True)
class NormShift:
    """The input of a batch norm, in eval mode, compared with its running statistics.

    Attributes:
        layer: The name of the layer in the encoder.
        channels: The number of its channels.
        log_ratio: The median over channels of the logarithm of the input's variance over the running one.
        mean_shift: The median over channels of the distance of the means, in running standard deviations.
        off: The share of channels that are off in variance or in mean.
        settled: False after so few updates that the first values still weigh 1 % or more.
        of_head: Whether the layer belongs to the head.
    """

    layer: str
    channels: int
    log_ratio: float
    mean_shift: float
    off: float = 0.0
    settled: bool = True
    of_head: bool = False


def norm_shifts(
    encoder: nn.Module, images: Tensor | Iterable[Tensor], head: nn.Module | None = None
) -> tuple[NormShift, ...]:
    r"""Compare the input of every batch norm with its running statistics, in eval mode.

    .. math:: \log \frac{v + \epsilon}{v_r + \epsilon}, \qquad |m - m_r| / \sqrt{v_r + \epsilon}

    m and v are the mean and the variance of a channel over images and positions, m_r and v_r the running
    ones. Weights, buffers and mode do not change. A norm counts if it is a module with `running_mean` and
    `running_var` that is called in the forward pass; instance norms do not count. An exported program has no
    such modules.

    Args:
        encoder: The encoder, which takes images in 0 to 1.
        images: The images, (N, C, H, W), or an iterable of such batches.
        head: The head, which takes the output of the encoder. Its layers are called head.NAME.

    Returns:
        One for each norm, in the order in which they run; empty if there is none.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4))
    >>> net[1].running_var.fill_(1e4)
    tensor([10000., 10000., 10000., 10000.])
    >>> shift = norm_shifts(net, torch.rand(8, 1, 8, 8))[0]
    >>> shift.layer, shift.off
    ('1', 1.0)
    """
    batches = [images] if isinstance(images, Tensor) else images
    inputs: dict[nn.Module, _Channels] = {}
    parts = [encoder] if head is None else [encoder, head]
    names = {
        module: f"head.{name}" if part is head else name
        for part in parts
        for name, module in part.named_modules()
        if is_batch_norm(module)
    }
    if not names:
        return ()

    def see(module: nn.Module, args: tuple[object, ...]) -> None:
        x = args[0] if args else None
        if isinstance(x, Tensor) and x.ndim > 1 and x.shape[1] == len(_running(module)[0]):
            inputs.setdefault(module, _Channels()).add(x)

    with ExitStack() as hooks, torch.no_grad():
        for part in parts:
            hooks.enter_context(evaluating(part))
        for module in names:
            hooks.enter_context(module.register_forward_pre_hook(see))
        for batch in batches:
            x = as_float(batch.to(first_device(encoder)))
            for part in parts:
                x = part(x)
    inside = set() if head is None else set(head.modules())
    return tuple(_shift(names[norm], norm, seen, norm in inside) for norm, seen in inputs.items())


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module normalises channels by running statistics in eval mode."""
    if isinstance(module, _InstanceNorm | torch.jit.ScriptModule):
        return False
    mean, variance = (getattr(module, name, None) for name in ("running_mean", "running_var"))
    if not (isinstance(mean, Tensor) and isinstance(variance, Tensor)):
        return False
    return mean.ndim == 1 and mean.shape == variance.shape


def _running(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """The running mean and variance of a batch norm, (C,) each, float64 on the CPU."""
    mean, variance = (torch.as_tensor(getattr(norm, name)) for name in ("running_mean", "running_var"))
    return mean.double().cpu(), variance.double().cpu()


class _Channels:
    """Mean and variance of channels over the batches so far, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.variance = torch.zeros(())

    def add(self, x: Tensor) -> None:
        """Add a batch (N, C, ...)."""
        count = x.numel() // x.shape[1]
        dims = [dim for dim in range(x.ndim) if dim != 1]
        variance, mean = (part.double().cpu() for part in torch.var_mean(x.float(), dims, correction=0))
        share = count / (self.count + count)
        apart = mean - self.mean
        self.variance = torch.lerp(self.variance.double(), variance, share) + share * (1 - share) * apart**2
        self.mean = self.mean + share * apart
        self.count += count


def _shift(name: str, norm: nn.Module, channels: _Channels, of_head: bool) -> NormShift:
    epsilon = float(getattr(norm, "eps", 0.0)) + torch.finfo(torch.float32).tiny
    mean, variance = _running(norm)
    running = variance + epsilon
    log_ratio = ((channels.variance + epsilon) / running).log()
    mean_shift = (channels.mean - mean).abs() / running.sqrt()
    off = (log_ratio.exp() > OFF_RATIO) | ((-log_ratio).exp() > OFF_RATIO) | (mean_shift > OFF_MEAN)
    numbers = (float(log_ratio.median()), float(mean_shift.median()), float(off.double().mean()))
    return NormShift(name, len(running), *numbers, settled=_is_settled(norm), of_head=of_head)


def _is_settled(norm: nn.Module) -> bool:
    """Whether the first values weigh next to nothing by now. It is True if the updates were not counted."""
    updates, momentum = (getattr(norm, name, None) for name in ("num_batches_tracked", "momentum"))
    if not isinstance(updates, Tensor) or not isinstance(momentum, float) or not int(updates):
        return True
    return bool((1 - momentum) ** int(updates) < _SETTLED)


def has_first_values(encoder: nn.Module) -> bool:
    """Whether all norm layers scale by exactly 1 or 0 and add 0, as before the first step of a training.

    It is False if there is no norm layer with a scale for several channels: nothing is then known.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    >>> has_first_values(net)
    True
    """
    scales = [(getattr(m, "weight", None), getattr(m, "bias", None)) for m in encoder.modules()]
    norms = [(w.detach(), b) for w, b in scales if isinstance(w, Tensor) and w.ndim == 1 and len(w) > 1]
    return bool(norms) and all(_is_first(weight, bias) for weight, bias in norms)


def _is_first(weight: Tensor, bias: Tensor | None) -> bool:
    plain = float(weight.detach()[0]) in (0.0, 1.0) and bool((weight == weight[0]).all())
    return plain and (bias is None or not bool(bias.any()))
