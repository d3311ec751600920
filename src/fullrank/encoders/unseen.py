"""Settings of a net that no tensor shows: what a file states about them, and what is assumed."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from fullrank.encoders.layouts import Net, nets_in
from fullrank.encoders.reading import REFUSALS
from fullrank.encoders.stems import STANDARD, STEMS, stem_of
from fullrank.encoders.weights import Weights
from fullrank.encoders.widths import last_width_in

# How files name the number of attention heads.
_HEADS = {"heads", "n_heads", "num_attention_heads", "num_heads", "vit_heads"}
_ARCHITECTURE = {"arch", "architecture", "backbone", "encoder", "model", "model_name"}
_POOLS = {"avg": "the mean", "token": "the class token"}


def stated_options(weights: Weights, prefix: str = "") -> dict[str, tuple[int | str, str]]:
    """The options that a file states for its net: name -> the value, and where the file says so.

    Args:
        weights: The content of the file.
        prefix: What is before the names of the net.

    >>> stated_options(Weights({}, {}, {"args.arch": "vit_small", "args.num_heads": 12}))
    {'num_heads': (12, 'args.num_heads=12')}
    """
    stated: dict[str, tuple[int | str, str]] = {}
    spec = weights.metadata.get("encoder", "")
    for option, value in re.findall(r",(num_heads|pool|stem)=([\w-]+)", spec):
        stated[option] = (int(value) if value.isdecimal() else value, f"encoder={spec}")
    last = {name: name.rpartition(".")[2] for name in weights.facts}
    for name, value in weights.facts.items():
        if last[name] in _HEADS and isinstance(value, int):
            stated.setdefault("num_heads", (value, f"{name}={value}"))
        if last[name] in _ARCHITECTURE and value == "vit_small" and _is_moco(prefix):
            # Chen et al. 2021 (2104.02057), their table of models: ViT-Small has 12 heads, and timm's has 6.
            stated.setdefault("num_heads", (12, f"MoCo v3's {name}=vit_small"))
    return stated


def options_of(name: str, weights: Weights) -> dict[str, int | str]:
    """The options with which a timm model fits a file: its stem and last width, and what it states.

    Args:
        name: The name of the model.
        weights: The content of the file.
    """
    import timm

    try:
        with torch.device("meta"):
            model: nn.Module = timm.create_model(name, num_classes=0)
    except REFUSALS:  # building the encoder gives the error
        return {}
    needed = model.state_dict()
    nets = nets_in(weights.tensors, needed, None)
    if not nets:
        return {}
    stated = {option: value for option, (value, _) in stated_options(weights, nets[0].prefix).items()}
    first = nets[0].sources.get("conv1.weight")
    kernels: dict[tuple[int, ...], str] = {(7, 7): "standard", (3, 3): "small"}
    if stem_of(model) is None or first is None or tuple(first.tensor.shape[2:]) not in kernels:
        stated.pop("stem", None)
    else:
        stated.setdefault("stem", kernels[tuple(first.tensor.shape[2:])])
    if heads_of(model) in (None, stated.get("num_heads")):
        stated.pop("num_heads", None)
    if averages_tokens(nets[0], needed):
        stated["pool"] = "avg"
    last = last_width_in(model, nets[0].tensors())
    if last is not None and last != last_width_in(model, needed):
        stated["last"] = last
    return stated


def averages_tokens(net: Net, needed: Mapping[str, Tensor]) -> bool:
    """Whether a vision transformer averages its tokens, where the encoder takes the class token."""
    return "fc_norm.weight" in net.rest and "norm.weight" in net.missing(needed)


def assumed_settings(
    model: nn.Module, prefix: str, stated: Mapping[str, tuple[int | str, str]]
) -> Iterator[str]:
    """What a timm model has and no tensor shows, with the option that changes it."""
    stem, heads = stem_of(model), heads_of(model)
    if stem is not None and "stem" not in stated:
        meaning = {each.name: each.meaning for each in STEMS}.get(stem, STANDARD)
        others = " or ".join(each.name for each in STEMS if each.name != stem)
        yield f"stem={stem} ({meaning}{f'; else stem={others}' if stem != 'standard' else ''})"
    if heads is not None and "num_heads" not in stated and not _shown(model):
        paper = ", but MoCo v3's vit_small has 12" if _is_moco(prefix) and heads == 6 else ""
        yield f"num_heads={heads}{paper}"
    if (pool := pool_of(model)) is not None and "pool" not in stated:
        yield f"pool={pool}{f' ({_POOLS[pool]})' if pool in _POOLS else ''}"
    layers = [layer for layer in model.modules() if not next(layer.children(), None)]
    names = Counter(type(layer).__name__ for layer in layers if _is_activation(layer))
    if names:
        yield f"activation {names.most_common(1)[0][0]}"
    norms = Counter(layer.eps for layer in layers if isinstance(getattr(layer, "eps", None), float))
    if norms:
        yield f"norm epsilon {norms.most_common(1)[0][0]:g}"


def heads_of(model: nn.Module) -> int | None:
    """The number of attention heads of a model that has one number in all its blocks, else None."""
    each = (getattr(layer, "num_heads", None) for layer in model.modules())
    numbers = {number for number in each if isinstance(number, int)}
    return numbers.pop() if len(numbers) == 1 else None


def pool_of(model: nn.Module) -> str | None:
    """How a timm model pools, by timm's words."""
    pool = getattr(model, "global_pool", None)
    return pool if isinstance(pool, str) else getattr(pool, "pool_type", None)


def _shown(model: nn.Module) -> bool:
    """Whether the shapes of an attention's own tensors depend on its number of heads."""
    layers = [layer for layer in model.modules() if isinstance(getattr(layer, "num_heads", None), int)]
    return any(layer.num_heads in each.shape for layer in layers for each in layer.parameters(recurse=False))


def _is_activation(layer: nn.Module) -> bool:
    modules = ("torch.nn.modules.activation", "timm.layers.activations")
    return type(layer).__module__ in modules and not isinstance(layer, nn.Softmax)


def _is_moco(prefix: str) -> bool:
    return bool({"base_encoder", "momentum_encoder"}.intersection(prefix.split(".")))
