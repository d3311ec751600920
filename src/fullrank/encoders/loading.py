"""Weights of others into an encoder: which net of a file, what is left out, and what no tensor shows."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor, nn

from fullrank.encoders.architectures import architecture_of
from fullrank.encoders.contract import Encoder
from fullrank.encoders.layouts import AVERAGES, WRAPPERS, Net, Source, by, nets_in
from fullrank.encoders.stems import stem_of
from fullrank.encoders.unseen import assumed_settings, averages_tokens, heads_of, pool_of, stated_options
from fullrank.encoders.weights import Weights, read_weights, statistics_in
from fullrank.encoders.widths import last_width_in
from fullrank.errors import UsageError, count_of

# Name -> its shape in the file, and the needed one.
_Shapes = Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]


@dataclass(frozen=True)
class Loaded:
    """What was loaded into an encoder, and what a user should know about it. As text, it is a few sentences.

    Attributes:
        tensors: Number of tensors in the encoder that were set.
        ignored: The names in the file that were not used.
        file: The name of the file.
        prefix: What is before the names of the chosen net in the file, such as `state_dict.module.encoder_q`.
        others: The prefixes of other nets with other values that fit too.
        left_out: Why names were ignored, and how many for each reason.
        notes: What was converted, in sentences.
        assumed: What tensors do not show, and was assumed.
    """

    tensors: int
    ignored: tuple[str, ...]
    file: str = ""
    prefix: str = ""
    others: tuple[str, ...] = ()
    left_out: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()

    @property
    def remarkable(self) -> bool:
        """Whether another net fits too, or anything was converted or assumed."""
        return bool(self.others or self.notes or self.assumed)

    def __str__(self) -> str:
        of = f' of "{self.prefix}"' if self.prefix else ""
        unused = ", ".join(f"{count} {reason}" for reason, count in self.left_out)
        others = " and ".join(_quoted(other) for other in self.others[:3])
        verb = "fits" if len(self.others) == 1 else "fit"
        sentences = [
            f"Loaded {count_of(self.tensors, 'tensor')}{of} from {self.file}.",
            f"Left out: {unused}." if unused else "",
            f"{others} {verb} too; --weights-prefix or --init-prefix chooses another net." if others else "",
            *self.notes,
            f"Assumed, since no tensor shows it: {'; '.join(self.assumed)}." if self.assumed else "",
        ]
        return " ".join(sentence for sentence in sentences if sentence)


def plain_state(encoder: Encoder) -> dict[str, Tensor]:
    """The encoder's tensors under the names of its library, for other programs to load.

    For a LibraryEncoder these are timm's names, which are also torchvision's for plain residual nets. The
    mean and spread of the images are not included.

    Args:
        encoder: The encoder.

    >>> from fullrank.encoders import encoder
    >>> list(plain_state(encoder("resnet18", image_size=32)))[:2]
    ['conv1.weight', 'bn1.weight']
    """
    root = getattr(encoder, "library_root", "")
    state = encoder.state_dict()
    return {name.removeprefix(root): state[name] for name in state if name.startswith(root)}


def load_weights(encoder: Encoder, path: str | Path, prefix: str | None = None) -> Loaded:
    """Load all weights of a file into an encoder. If they do not fit, the encoder stays unchanged.

    These files are known:

    - our `encoder.safetensors` and our exports, with mean and spread
    - state dicts of timm, and whatever timm itself converts for the architecture
    - torchvision's residual nets, vision transformers and ConvNeXt, and Hugging Face's ViT and DINOv2
    - other checkpoints with any prefix, such as `state_dict`, `module.encoder_q` or `backbone`
    - residual nets saved as an nn.Sequential (lightly), and DINOv2's blocks in chunks

    Of several nets in a file the one that fits best is used. Of equally good ones, an average that timm saved
    for evaluation (`state_dict_ema`) comes first, and a momentum copy or student comes last. Heads and
    classifiers are ignored. Position embeddings of another image size are resampled by timm.

    Args:
        encoder: The encoder.
        path: The file.
        prefix: The net to use, by what is before its names, such as `teacher` or `state_dict.encoder_k`.
            None chooses; "" is the net whose names have nothing before them.

    Returns:
        What was loaded. `str()` of it is text for a user.

    Raises:
        DataError: For a file that cannot be read, see `read_weights`.
        UsageError: For a file that does not fit: a tensor is missing, has another shape, or belongs to a part
            that the encoder lacks; or the file states another number of attention heads or another stem.
    """
    weights = read_weights(path)
    file = Path(path).name
    state = encoder.state_dict()
    root = getattr(encoder, "library_root", "")
    needed = {name: tensor for name, tensor in plain_state(encoder).items() if name not in ("mean", "std")}
    model = encoder.get_submodule(root.removesuffix(".")) if root else None
    nets = nets_in(weights.tensors, needed, model)
    net = _chosen(nets, needed, prefix, file)
    chosen = {root + name: source for name, source in net.sources.items()}
    chosen |= _own_statistics(weights, net.prefix, root, state)
    shapes: _Shapes = {
        name.removeprefix(root): (tuple(source.tensor.shape), tuple(state[name].shape))
        for name, source in chosen.items()
        if source.tensor.shape != state[name].shape
    }
    missing, beyond = net.missing(needed), net.beyond(needed)
    if faults := _faults(len(needed), missing, beyond, shapes):
        remedy = _remedy(encoder, weights, shapes, net, needed)
        raise UsageError(f"{file} does not fit {encoder.name}: {', '.join(faults)}; {remedy}.")
    assumed: tuple[str, ...] = ()
    if model is not None:
        stated = stated_options(weights, net.prefix)
        _check_stated(encoder, model, stated, file)
        if weights.metadata.get("encoder") != str(encoder.spec):
            assumed = tuple(assumed_settings(model, net.prefix, stated))
    fitting = [each for each in nets if each.fits(needed)]
    loaded = replace(_loaded(weights, net, fitting, chosen, file), assumed=assumed)
    encoder.load_state_dict({name: source.tensor for name, source in chosen.items()}, strict=False)
    return loaded


def _chosen(nets: list[Net], needed: Mapping[str, Tensor], prefix: str | None, file: str) -> Net:
    """The best net, or the best one behind `prefix`."""
    if prefix is None:
        return nets[0] if nets else Net("", "", {}, {})
    parts = _parts(prefix)
    exact = [net for net in nets if _parts(net.prefix) == parts]
    within = [net for net in nets if parts and f".{'.'.join(parts)}." in f".{net.prefix}"]
    fitting = [net for net in (*exact, *within) if net.fits(needed)]
    if matching := fitting or exact or within:
        return matching[0]
    names = dict.fromkeys(_quoted(net.prefix) for net in nets if net.fits(needed))
    remedy = f"give {' or '.join(names)}" if names else "leave it out"
    raise UsageError(f'{file} has no net behind the prefix "{prefix}"; {remedy}.')


def _parts(prefix: str) -> list[str]:
    return [part for part in prefix.split(".") if part and part not in WRAPPERS]


def _quoted(prefix: str) -> str:
    return f'"{prefix.removesuffix(".")}"'


def _own_statistics(
    weights: Weights, prefix: str, root: str, state: Mapping[str, Tensor]
) -> dict[str, Source]:
    """Mean and spread of the images in our own files: tensors beside the model, or metadata."""
    owner = prefix.removesuffix(root) if prefix.endswith(root) else prefix
    names = [name for name in ("mean", "std") if name in state]
    pair = {name: weights.tensors.get(owner + name) for name in names}
    tensors = {name: each for name, each in pair.items() if each is not None and each.ndim == 4}
    if len(tensors) == 2:
        return {name: Source(tensor, (owner + name,)) for name, tensor in tensors.items()}
    stated = statistics_in(Weights({}, weights.metadata))
    if owner or stated.mean is None or stated.std is None:
        return {}
    columns = {"mean": stated.mean, "std": stated.std}
    return {name: Source(torch.tensor(columns[name]).reshape(1, -1, 1, 1), ()) for name in names}


def _faults(needed: int, missing: list[str], beyond: list[str], shapes: _Shapes) -> list[str]:
    """The reasons why a file does not fit, each with its first names."""
    texts = [f"{name} is {by(has)}, needed {by(needs)}" for name, (has, needs) in shapes.items()]
    lists = {
        f"{len(missing)} of {needed} tensors are missing": missing,
        f"{len(shapes)} {'has' if len(shapes) == 1 else 'have'} another shape": texts,
        f"{len(beyond)} belong to a larger model": beyond,
    }
    some = {fault: ", ".join([*names[:2], *["..."] * (len(names) > 2)]) for fault, names in lists.items()}
    return [f"{fault} ({names})" for fault, names in some.items() if names]


def _remedy(
    encoder: Encoder, weights: Weights, shapes: _Shapes, net: Net, needed: Mapping[str, Tensor]
) -> str:
    """What to give instead of weights that do not fit."""
    other_parts = bool(net.missing(needed) or net.beyond(needed))
    if encoder.library_root and averages_tokens(net, needed):
        return f"write {_with_options(encoder, {'pool': 'avg'})}, since it averages its tokens"
    if encoder.library_root and not other_parts and (spec := _input_remedy(encoder, shapes)):
        return spec
    if encoder.library_root and (last := _other_last(encoder, net, needed)) is not None:
        return f"write {_with_options(encoder, {'last': str(last)})} for its last block"
    if ",last=" in str(encoder.spec):
        return f"give weights of {encoder.spec}, or leave last out"
    likely = architecture_of(weights.tensors)
    if likely not in (None, encoder.name):
        return f"give weights of {encoder.name}, or name their own encoder, which looks like {likely}"
    return f"give weights of {encoder.name}, or name the encoder that they belong to"


def _other_last(encoder: Encoder, net: Net, needed: Mapping[str, Tensor]) -> int | None:
    """The width of the last block in the file, if it is not that of the encoder."""
    model = encoder.get_submodule(encoder.library_root.removesuffix("."))
    width = last_width_in(model, net.tensors())
    return width if width != last_width_in(model, needed) else None


def _input_remedy(encoder: Encoder, shapes: _Shapes) -> str | None:
    """The spec that makes the first convolution fit, if it alone has another shape."""
    weights = [pair for name, pair in shapes.items() if name not in ("mean", "std")]
    if len(weights) != 1 or any(len(shape) != 4 for shape in weights[0]):
        return None
    has, needs = weights[0]
    stems: dict[tuple[int, ...], str] = {(7, 7): "standard", (3, 3): "small"}
    grey, stem = has[1] != needs[1], has[2:] != needs[2:]
    if has[0] != needs[0] or (grey and needs[1] != 1) or (stem and not {has[2:], needs[2:]} <= set(stems)):
        return None
    changed = {"channels": str(has[1])} if grey else {}
    changed |= {"stem": stems[has[2:]]} if stem else {}
    purposes = ["to repeat the grey channel"] * grey + [f"for its {has[2]}x{has[3]} stem"] * stem
    return f"write {_with_options(encoder, changed)} {' and '.join(purposes)}"


def _with_options(encoder: Encoder, changed: Mapping[str, str]) -> str:
    """The encoder's spec with other options."""
    own = {key: value for key, _, value in (each.partition("=") for each in encoder.spec.split(",")[1:])}
    return ",".join([encoder.name, *(f"{key}={value}" for key, value in (own | dict(changed)).items())])


def _check_stated(
    encoder: Encoder, model: nn.Module, stated: Mapping[str, tuple[int | str, str]], file: str
) -> None:
    """UsageError if a file states another number of heads or another stem than the encoder has."""
    own = {"num_heads": heads_of(model), "pool": pool_of(model), "stem": stem_of(model)}
    for option, (value, where) in stated.items():
        if own[option] not in (None, value) and value != "auto":
            spec = _with_options(encoder, {option: str(value)})
            raise UsageError(
                f"{file} is of a net with {option}={value} ({where}), but {encoder.name} has "
                f"{option}={own[option]} and would compute another function; write {spec}."
            )


def _loaded(
    weights: Weights, net: Net, fitting: list[Net], chosen: Mapping[str, Source], file: str
) -> Loaded:
    """The account of a load, without what was assumed."""
    others = [each for each in fitting if each.prefix != net.prefix and _differs(each, net)]
    used = {name for source in chosen.values() for name in source.names}
    ignored = tuple(name for name in weights.tensors if name not in used)
    of_others = set().union(*(each.used() for each in fitting if each.prefix != net.prefix)) - used
    rest = [name for name in ignored if name not in of_others]
    groups = list(dict.fromkeys(_group(name, net.prefix) for name in rest))
    names = ", ".join([*groups[:4], *["..."] * (len(groups) > 4)])
    reasons = {"of other nets": len(ignored) - len(rest), f"of other parts ({names})": len(rest)}
    left_out = tuple((reason, count) for reason, count in reasons.items() if count)
    prefixes = tuple(dict.fromkeys(each.prefix.removesuffix(".") for each in others))
    return Loaded(
        len(chosen), ignored, file, net.prefix.removesuffix("."), prefixes, left_out, _notes(net, others)
    )


def _notes(net: Net, others: list[Net]) -> tuple[str, ...]:
    notes = [f"It has {net.layout}."] if net.layout else []
    notes += [f"timm resampled {each}." for each in net.resampled]
    if others and net.prefix.partition(".")[0] in AVERAGES:
        notes.append("timm's load_checkpoint too takes this average, unless use_ema=False.")
    return tuple(notes)


def _differs(net: Net, chosen: Net) -> bool:
    """Whether two nets that fit have other values."""
    return any(
        not torch.equal(source.tensor, chosen.sources[name].tensor)
        for name, source in net.sources.items()
        if name in chosen.sources
    )


def _group(name: str, prefix: str) -> str:
    """The part of a name where it leaves the path to the chosen net."""
    pairs = zip(name.split("."), prefix.split("."), strict=False)
    common = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
    return name.split(".")[common]
