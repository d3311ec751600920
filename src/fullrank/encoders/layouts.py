"""How other programs name the tensors of a net, and the nets in a file under the names of timm."""

import inspect
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fullrank.encoders.reading import REFUSALS

# torchvision's ResNet as nn.Sequential(*children): the name of each index in the net itself.
RESNET_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
# Parts of a name that only say how the net was run: torch.compile, FSDP, activation checkpoints.
WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# The words of a copy that training keeps beside the net. A teacher is the net that its paper evaluates.
COPIES = {"ema", "k", "m", "momentum", "student", "target"}
# timm's training saves an average of the net for evaluation. timm.models.load_checkpoint prefers it.
AVERAGES = ("state_dict_ema", "model_ema")
# Parts that are not in every net of an architecture, and change what it computes.
OPTIONAL_PARTS = ("attn_pool", "fc_norm", "norm_pre", "patch_embed", "pos_embed", "rel_pos_bias")
# A classifier's tensors are ignored everywhere.
CLASSIFIERS = ("classifier", "fc", "head", "head_dist", "last_linear")
# Buffers that older releases saved and newer ones compute.
COMPUTED = ("attn_mask", "num_batches_tracked", "relative_position_index")
# Nets whose own conversion by timm is tried.
_TRIED = 16


@dataclass(frozen=True)
class Layout:
    """The names of one program: patterns, each with what timm writes instead.

    Attributes:
        name: What the user reads.
        renames: The pairs, applied in order.
    """

    name: str
    renames: tuple[tuple[str, str], ...]

    def rename(self, name: str) -> str:
        """A name of the program as timm writes it."""
        for pattern, own in self.renames:
            name = re.sub(pattern, own, name)
        return name


LAYOUTS = (
    Layout("", ()),
    Layout("blocks in chunks", ((r"\bblocks\.\d+\.(\d+)\.", r"blocks.\1."),)),
    Layout(
        "Hugging Face's names",
        (
            (r"\bembeddings\.cls_token$", "cls_token"),
            (r"\bembeddings\.position_embeddings$", "pos_embed"),
            (r"\bembeddings\.register_tokens$", "register_tokens"),
            (r"\bembeddings\.mask_token$", "mask_token"),
            (r"\bembeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
            (r"\b(encoder\.layer|layers)\.(\d+)\.", r"blocks.\2."),
            (r"\battention\.attention\.(query|key|value)\.", r"attn.\1."),
            (r"\battention\.output\.dense\.", "attn.proj."),
            (r"\battention\.q_proj\.", "attn.query."),
            (r"\battention\.k_proj\.", "attn.key."),
            (r"\battention\.v_proj\.", "attn.value."),
            (r"\battention\.o_proj\.", "attn.proj."),
            (r"\bintermediate\.dense\.", "mlp.fc1."),
            (r"(?<=\d\.)output\.dense\.", "mlp.fc2."),
            (r"\blayernorm_before\.", "norm1."),
            (r"\blayernorm_after\.", "norm2."),
            (r"\blayer_scale(\d)\.lambda1$", r"ls\1.gamma"),
            (r"\blayernorm\.", "norm."),
        ),
    ),
    Layout(
        "torchvision's names",
        (
            (r"\bclass_token$", "cls_token"),
            (r"\bencoder\.pos_embedding$", "pos_embed"),
            (r"\bconv_proj\.", "patch_embed.proj."),
            (r"\bencoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
            (r"\bencoder\.ln\.", "norm."),
            (r"\bln_([12])\.", r"norm\1."),
            (r"\bself_attention\.in_proj_", "attn.qkv."),
            (r"\bself_attention\.out_proj\.", "attn.proj."),
            (r"\bmlp\.(linear_1|0)\.", "mlp.fc1."),
            (r"\bmlp\.(linear_2|3)\.", "mlp.fc2."),
            (r"\bfeatures\.0\.", "stem."),
            (r"\bfeatures\.2\.", "stages.1.downsample."),
            (r"\bfeatures\.4\.", "stages.2.downsample."),
            (r"\bfeatures\.6\.", "stages.3.downsample."),
            (r"\bfeatures\.1\.(\d+)\.", r"stages.0.blocks.\1."),
            (r"\bfeatures\.3\.(\d+)\.", r"stages.1.blocks.\1."),
            (r"\bfeatures\.5\.(\d+)\.", r"stages.2.blocks.\1."),
            (r"\bfeatures\.7\.(\d+)\.", r"stages.3.blocks.\1."),
            (r"(?<=\d\.)block\.0\.", "conv_dw."),
            (r"(?<=\d\.)block\.2\.", "norm."),
            (r"(?<=\d\.)block\.3\.", "mlp.fc1."),
            (r"(?<=\d\.)block\.5\.", "mlp.fc2."),
            (r"(?<=\d\.)layer_scale$", "gamma"),
            (r"\bclassifier\.0\.", "head.norm."),
        ),
    ),
)


@dataclass(frozen=True)
class Source:
    """A tensor under the name that a layout gives it, and its names in the file."""

    tensor: Tensor
    names: tuple[str, ...]


@dataclass(frozen=True)
class Net:
    """One net in a file, read for an encoder.

    Attributes:
        prefix: What is before its names in the file.
        layout: Whose names it has; "" for timm's own.
        sources: The tensors that the encoder needs, by their names there.
        rest: The other tensors below the prefix, by the names that the layout gives them.
        resampled: What timm resampled, as a name and two shapes.
    """

    prefix: str
    layout: str
    sources: Mapping[str, Source]
    rest: Mapping[str, Source]
    resampled: tuple[str, ...] = ()

    def tensors(self) -> dict[str, Tensor]:
        """All its tensors, by the names that the layout gives them."""
        return {name: source.tensor for name, source in {**self.rest, **self.sources}.items()}

    def fitting(self, needed: Mapping[str, Tensor]) -> int:
        """How many tensors have the needed shape."""
        return sum(source.tensor.shape == needed[name].shape for name, source in self.sources.items())

    def fits(self, needed: Mapping[str, Tensor]) -> bool:
        """Whether it has every tensor in the needed shape, and no part that the encoder lacks."""
        return (
            not self.missing(needed) and not self.beyond(needed) and self.fitting(needed) == len(self.sources)
        )

    def missing(self, needed: Mapping[str, Tensor]) -> list[str]:
        """The needed names that it lacks. Counts of batches may be missing."""
        return [
            name for name in needed if name not in self.sources and not name.endswith("num_batches_tracked")
        ]

    def beyond(self, needed: Mapping[str, Tensor]) -> list[str]:
        """What the encoder lacks: `layer1.2` beside `layer1.0` and `layer1.1`, register tokens, a norm."""
        bodies = {name.partition(".")[0] for name in needed} - set(CLASSIFIERS)
        parts = bodies.union(OPTIONAL_PARTS)
        beyond = [
            name for name in self.rest if name.partition(".")[0] in parts and not name.endswith(COMPUTED)
        ]
        words = {name: set(re.split(r"[._]", name)) for name in self.rest if "." not in name}
        return beyond + [
            name for name, each in words.items() if each & {"token", "tokens"} and "mask" not in each
        ]

    def used(self) -> set[str]:
        """The names in the file of what the encoder gets."""
        return {name for source in self.sources.values() for name in source.names}


def nets_in(
    tensors: Mapping[str, Tensor], needed: Mapping[str, Tensor], model: nn.Module | None
) -> list[Net]:
    """The ways to read a file as the needed tensors, best first.

    More tensors of the needed shape are better, then more of the needed names. Of equally good ones, an
    average for evaluation comes first and a copy that training keeps comes last.

    Args:
        tensors: The tensors of the file by name.
        needed: The encoder's tensors under the names of its library.
        model: timm's model, whose own conversion is tried if nothing else fits.
    """
    nets: list[Net] = []
    for layout in LAYOUTS:
        nets += _nets_of(_renamed(tensors, layout), layout.name, needed)
        if any(net.fits(needed) for net in nets):
            break
    else:
        nets += _converted(tensors, needed, model)
    return sorted(
        nets, key=lambda net: (net.fitting(needed), len(net.sources), _rank(net.prefix)), reverse=True
    )


def _rank(prefix: str) -> int:
    """2 for an average saved for evaluation, 0 for a copy that training keeps, 1 for any other net."""
    if prefix.partition(".")[0] in AVERAGES:
        return 2
    return 0 if COPIES.intersection(re.split(r"[._]", prefix)) else 1


def _renamed(tensors: Mapping[str, Tensor], layout: Layout) -> dict[str, Source]:
    """All tensors of a file, as timm would name them if the file had this layout."""
    renamed = {}
    for name, tensor in tensors.items():
        clean = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        own = layout.rename(clean)
        flat = own.endswith(".gamma") and own != clean  # torchvision keeps this vector as (D, 1, 1)
        renamed[own] = Source(tensor.flatten() if flat else tensor, (name,))
    for name in [name for name in renamed if re.search(r"\battn\.query\.\w+$", name)]:
        parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(part in renamed for part in parts):
            each = [renamed.pop(part) for part in parts]
            joined = torch.cat([source.tensor for source in each])
            renamed[name.replace(".query.", ".qkv.")] = Source(joined, tuple(one.names[0] for one in each))
    return renamed


def _nets_of(file: Mapping[str, Source], layout: str, needed: Mapping[str, Tensor]) -> list[Net]:
    """The nets with needed names behind any prefix. Half of the best one's tensors are the least."""
    found: dict[tuple[str, bool], dict[str, Source]] = defaultdict(dict)
    for name, source in file.items():
        for prefix, indexed, own in _readings_of(name):
            if own in needed:
                found[prefix, indexed][own] = source
    most = max(map(len, found.values()), default=0)
    nets = []
    for (prefix, indexed), sources in found.items():
        if 2 * len(sources) >= most:
            used = {name for source in sources.values() for name in source.names}
            below = {
                name.removeprefix(prefix): each for name, each in file.items() if name.startswith(prefix)
            }
            rest = {
                _own_name(name, indexed): each
                for name, each in below.items()
                if not used.intersection(each.names)
            }
            nets.append(Net(prefix, "an nn.Sequential's names" if indexed else layout, sources, rest))
    return nets


def _readings_of(name: str) -> Iterator[tuple[str, bool, str]]:
    """Every way to read a name in a file: the prefix, whether an index is translated, and the rest."""
    parts = name.split(".")
    for cut in range(len(parts)):
        prefix = "".join(f"{part}." for part in parts[:cut])
        yield prefix, False, ".".join(parts[cut:])
        if parts[cut] in RESNET_CHILDREN:
            yield prefix, True, _own_name(".".join(parts[cut:]), True)


def _own_name(name: str, indexed: bool) -> str:
    first, dot, rest = name.partition(".")
    return RESNET_CHILDREN.get(first, first) + dot + rest if indexed else name


def _converted(
    tensors: Mapping[str, Tensor], needed: Mapping[str, Tensor], model: nn.Module | None
) -> list[Net]:
    """The nets that timm's own conversion for this architecture makes from what is behind each prefix."""
    convert = getattr(sys.modules.get(type(model).__module__), "checkpoint_filter_fn", None)
    if model is None or convert is None:
        return []
    options = (
        {"adapt_layer_scale": True} if "adapt_layer_scale" in inspect.signature(convert).parameters else {}
    )
    nets = []
    for layout in LAYOUTS:
        file = _renamed(tensors, layout)
        if layout.name and not set(file).difference(_renamed(tensors, LAYOUTS[0])):
            continue
        counts = Counter(prefix for name in file for prefix, indexed, _ in _readings_of(name) if not indexed)
        large = [prefix for prefix, count in counts.items() if 2 * count >= len(needed)]
        for prefix in sorted(large, key=_rank, reverse=True)[:_TRIED]:
            below = {
                name.removeprefix(prefix): each for name, each in file.items() if name.startswith(prefix)
            }
            try:
                state = convert({name: each.tensor for name, each in below.items()}, model, **options)
            except REFUSALS:
                continue
            nets.append(_net_of(prefix, layout.name, below, state, needed))
    return nets


def _net_of(
    prefix: str,
    layout: str,
    below: Mapping[str, Source],
    state: Mapping[str, Tensor],
    needed: Mapping[str, Tensor],
) -> Net:
    """A net from what timm made of the tensors below a prefix."""
    names = {source.tensor.data_ptr(): source.names for source in below.values()}
    plain = {name: each.tensor for name, each in below.items()}
    resampled: list[str] = []
    sources: dict[str, Source] = {}
    rest: dict[str, Source] = {}
    for name, tensor in state.items():
        before = plain.get(name, tensor)
        # Another patch size is another net, also if timm can resample its kernel.
        if before.ndim == 4 and before.shape[2:] != tensor.shape[2:]:
            tensor = before
        if before.shape != tensor.shape and name in needed:
            resampled.append(f"{name} from {by(before.shape)} to {by(tensor.shape)}")
        own = below[name].names if name in below else names.get(tensor.data_ptr(), ())
        (sources if name in needed else rest)[name] = Source(tensor, own)
    return Net(prefix, layout or "names that timm converts", sources, rest, tuple(resampled))


def by(shape: Any) -> str:
    """A shape as 64x3x7x7."""
    return "x".join(map(str, shape)) or "a single number"
