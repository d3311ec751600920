"""SDSSL: inner places of the encoder learn from the embedding of the other view."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from fullrank.errors import UsageError, unknown_name
from fullrank.objectives.contract import check_number, in_single, unit_rows
from fullrank.objectives.terms.contract import Auxiliary, check_width
from fullrank.objectives.terms.norms import SharedBatchNorm
from fullrank.objectives.tiles import log_sums_between
from fullrank.places import layer_of
from fullrank.processes import gather_rows, own_share
from fullrank.step import Step

# Places that are no block's output.
_NO_BLOCKS = ("stem", "last-conv-input")


class SDSSLTerm(Auxiliary):
    r"""Self-distilled learning in its contrastive form: inner places predict the embedding of the other view.

    Each of P inner places has a projector of its own. With its unit rows u_pi, the unit rows v_j of z, which
    are detached, and i' the other view of image i,

    .. math:: L = a \cdot \frac1{P \cdot 2N} \sum_{p, i}
                  \Big[\log \sum_{j \ne i} e^{u_{pi} \cdot v_j / T} - u_{pi} \cdot v_{i'} / T\Big]

    where a rises from 0 to 1 as half a cosine over the training. The 2N candidates are those of all
    processes. Only the contrastive form is there. The forms for BYOL and MoCo v3 have a predictor, and are
    not done. Shapes: features (2N, D_p) and z (2N, K) -> scalar.

    Args:
        weight: What the step multiplies the term by, 0 or more; the paper's is 0.8 for SimCLR.
        place_dims: Place of the encoder -> its width, in the order of the places.
        out_dim: The width K of z.
        temperature: The divisor T of the cosines, above 0.
        places: The places that learn, joined by `+`. Empty: the output of each block but the last, once.
        hidden: The width of the hidden layers of every projector; None is that of the widest place.
        layers: The number of linear layers of a projector, 1 to 100.
        ramp: Whether the term rises from 0; false: a = 1.

    Raises:
        UsageError: The encoder does not have a place, it has no inner block, or a number is outside its
            limits.

    >>> widths = {"stem": 4, "stage1.1": 4, "stage2.1": 8, "last-conv-input": 8}
    >>> SDSSLTerm(0.8, place_dims=widths, out_dim=3).places
    ('stage1.1',)

    Source: Jang et al. 2023 (SDSSL, 2111.12958), with the masks and projectors of the authors' code.
    """

    def __init__(
        self,
        weight: float = 0.8,
        *,
        place_dims: Mapping[str, int],
        out_dim: int,
        temperature: float = 0.2,
        places: str = "",
        hidden: int | None = None,
        layers: int = 3,
        ramp: bool = True,
    ):
        super().__init__(weight)
        self.temperature, self.ramp = check_number("temperature", temperature, above=0), ramp
        self.places = _named(places, place_dims) if places else inner_places(tuple(place_dims))
        check_width("layers", layers, most=100)
        width = max(place_dims[place] for place in self.places) if hidden is None else hidden
        check_width("hidden", width)
        widths = [[place_dims[place], *[width] * (layers - 1), out_dim] for place in self.places]
        self.projectors = nn.ModuleList(_projector(each) for each in widths)

    def forward(self, step: Step) -> Tensor:
        """The mean over the anchors of all inner places, times the ramp."""
        rise = (1 - math.cos(math.pi * step.progress)) / 2 if self.ramp else 1.0
        places = zip(self.places, self.projectors, strict=True)
        anchors = torch.stack([unit_rows(project(step.features[place])) for place, project in places])
        return rise * distilled(anchors, unit_rows(step.z.detach()), self.temperature)


@in_single
def distilled(anchors: Tensor, last: Tensor, temperature: float) -> Tensor:
    """The mean over P places and 2N views, of unit rows (P, 2N, K) and (2N, K) of this process -> scalar."""
    other = last.roll(len(last) // 2, 0)
    own = ((anchors * other).sum(2) - 1).mean() / temperature
    agreement = gather_rows(own[None]).mean()
    candidates = gather_rows(last)
    # The rows of each place, in the order of the candidates.
    rows = gather_rows(anchors.transpose(0, 1).contiguous()).unbind(1)
    sums = [log_sums_between(each, candidates, 1 / temperature, own_share(), others=True)[0] for each in rows]
    return torch.stack(sums).mean() - agreement


def inner_places(places: Sequence[str]) -> tuple[str, ...]:
    """The output of each block but the last, each with one pooling: that of its class token if it has one.

    >>> inner_places(["stem.mean", "blocks.0.cls", "blocks.0.mean", "blocks.1.cls", "blocks.1.mean"])
    ('blocks.0.cls',)

    Raises:
        UsageError: There is no such block.
    """
    blocks: dict[str, str] = {}
    for place in places:
        if (block := layer_of(place)) not in _NO_BLOCKS and not blocks.get(block, "").endswith(".cls"):
            blocks[block] = place
    inner = tuple(blocks.values())[:-1]
    if not inner:
        raise UsageError(
            f"sdssl needs an inner block beside the last one, but the encoder has {_listed(places)}; name "
            "places with places=, or take another encoder."
        )
    return inner


def _named(text: str, widths: Mapping[str, int]) -> tuple[str, ...]:
    """The places that `text` joins by `+`."""
    places = tuple(place.strip() for place in text.split("+"))
    for place in places:
        if place not in widths:
            raise unknown_name("place", place, widths, f"sdssl can take {_listed(tuple(widths))}")
        if places.count(place) > 1:
            raise UsageError(f"places={text} names {place} twice; keep one.")
    return places


def _listed(places: Sequence[str]) -> str:
    return ", ".join(places) or "none"


def _projector(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers without bias, batch norm after each, ReLU between; the last norm is not affine."""
    steps: list[nn.Module] = []
    for before, after in pairwise(widths[:-1]):
        steps += [nn.Linear(before, after, bias=False), SharedBatchNorm(after), nn.ReLU()]
    last = [nn.Linear(widths[-2], widths[-1], bias=False), SharedBatchNorm(widths[-1], affine=False)]
    return nn.Sequential(*steps, *last)
