"""The parameters of views as numbers: for AugSelf to predict, CASSLE's heads to take, probes to read."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# The four factors of the colour jitter, in the order of their numbers.
COLOURS = ("brightness", "contrast", "saturation", "hue")
# Pillow's `solarize` inverts values of 128 and above, as ours does.
SOLARIZE_THRESHOLD = 128 / 255
# Operation -> its numbers for a view to which nothing was applied; the colours are those that are on.
NEUTRAL: dict[str, tuple[float, ...]] = {
    "drop": (0.0,),
    "crop": (0.5, 0.5, 1.0, 1.0),
    "flip": (0.0,),
    "colour": (0.0,) * len(COLOURS),
    "grey": (0.0,),
    "blur": (0.0,),
    "solarize": (1.0,),
}
# The operations that either were applied or not.
SWITCHES = ("drop", "flip", "grey", "solarize")


@dataclass(frozen=True, eq=False)
class ViewNumbers:
    """The parameters of views of N images as numbers, for the operations that are on in any view.

    - `crop`: row and column of the centre, height and width of the box, in units of the image's.
    - `colour`: for each of brightness, contrast, saturation and hue that is on, (factor - 1) / (hi - lo), and
      hue / (hi - lo), where lo and hi bound the draw; 0 for a view that the jitter did not hit.
    - `blur`: the standard deviation in pixels, 0 for a view that is not blurred.
    - `solarize`: the threshold in 0 to 1; 1 for a view that is not solarized.
    - `flip`, `grey` and `drop`: 1 or 0.

    Attributes:
        first: Operation -> the numbers (N, k) of the first view, float32.
        second: The same for the second view.
        more: The same for the views after it.

    >>> one, other = (torch.tensor([[0.5, column, 1.0, 0.4]]) for column in (0.3, 0.6))
    >>> flips = torch.tensor([[1.0]]), torch.tensor([[0.0]])
    >>> numbers = ViewNumbers({"crop": one, "flip": flips[0]}, {"crop": other, "flip": flips[1]})
    >>> numbers.dims, numbers.joined().shape
    ({'crop': 4, 'flip': 1}, torch.Size([2, 5]))
    >>> [round(float(x), 3) for x in numbers.differences()["crop"][0]]  # mirrored, as the first view is
    [0.0, 0.3, 0.0, 0.0]

    Source: Lee et al. 2021 (AugSelf, 2111.09613), the authors' code.
    """

    first: Mapping[str, Tensor]
    second: Mapping[str, Tensor]
    more: tuple[Mapping[str, Tensor], ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.first.values()), ()))

    @property
    def dims(self) -> dict[str, int]:
        """Operation -> how many numbers it has."""
        return {name: values.shape[1] for name, values in self.first.items()}

    def to(self, device: torch.device | str) -> "ViewNumbers":
        """The same numbers on another device."""
        first, second, *more = (
            {name: values.to(device, non_blocking=True) for name, values in view.items()}
            for view in self.views
        )
        return ViewNumbers(first, second, tuple(more))

    @property
    def views(self) -> tuple[Mapping[str, Tensor], ...]:
        """The numbers of every view, in order."""
        return self.first, self.second, *self.more

    def first_views(self, count: int) -> "ViewNumbers":
        """The numbers of the first `count` views, 2 or more."""
        return ViewNumbers(self.first, self.second, self.more[: count - 2])

    def pair(self, one: int, other: int) -> "ViewNumbers":
        """The numbers of two of the views."""
        return ViewNumbers(self.views[one], self.views[other])

    def swapped(self) -> "ViewNumbers":
        """The numbers with the second view as the first."""
        return ViewNumbers(self.second, self.first)

    def joined(self) -> Tensor:
        """All numbers of each view in one row: (V N, P), view after view."""
        return torch.cat([torch.cat(list(view.values()), 1) for view in self.views])

    def differences(self) -> dict[str, Tensor]:
        """Operation -> what is to be predicted of the pair (first, second), (N, k).

        It is the first view's numbers minus the second's, and for `flip` whether both views have the same
        flip. Where the first view is flipped, the column of both centres is mirrored before, since the offset
        is expressed in the first view's frame. `grey` and `drop` have no difference.
        """
        differences = {
            name: values - self.second[name]
            for name, values in self.first.items()
            if name not in ("grey", "drop")
        }
        if "flip" in self.first:
            differences["flip"] = (self.first["flip"] == self.second["flip"]).to(self.first["flip"])
        if "crop" in self.first and "flip" in self.first:
            mirrored = 1 - 2 * self.first["flip"][:, 0]
            differences["crop"] = differences["crop"].clone()
            differences["crop"][:, 1] *= mirrored
        return differences


def neutral_numbers(dims: Mapping[str, int]) -> Tensor:
    """The numbers (P,) of a view to which nothing was applied, in the order of `ViewNumbers.joined`.

    >>> neutral_numbers({"crop": 4, "colour": 2, "solarize": 1})
    tensor([0.5000, 0.5000, 1.0000, 1.0000, 0.0000, 0.0000, 1.0000])
    """
    return torch.tensor([value for name, width in dims.items() for value in NEUTRAL[name][:width]])


def view_numbers(
    values: Mapping[str, Tensor],
    names: tuple[str, ...],
    spans: Mapping[str, float],
    source: tuple[int, int],
    count: int,
) -> dict[str, Tensor]:
    """Operation -> numbers (count, k) of one view, for the operations `names` that are on in either view.

    Args:
        values: What was drawn for this view, by name; a missing name was not applied.
        names: The names that are on in either view.
        spans: Name of a colour -> the width of the range that its factor is drawn from.
        source: Height and width of the images.
        count: The number of images.
    """
    colours = [name for name in COLOURS if name in names]
    numbers: dict[str, Tensor] = {}
    for operation, neutral in NEUTRAL.items():
        if operation == "colour" and colours:
            columns = [_colour(name, values, spans, count) for name in colours]
            numbers[operation] = torch.stack(columns, 1)
        elif operation in names:
            nothing = torch.tensor(neutral).expand(count, -1)
            drawn = values.get(operation)
            numbers[operation] = nothing if drawn is None else _OF_DRAWN[operation](drawn, source)
    return numbers


def _colour(name: str, values: Mapping[str, Tensor], spans: Mapping[str, float], count: int) -> Tensor:
    if name not in values:
        return torch.zeros(count)
    neutral = 0.0 if name == "hue" else 1.0
    return (values[name].float() - neutral) / spans[name]


def _box(drawn: Tensor, source: tuple[int, int]) -> Tensor:
    """Boxes (N, 4) of top, left, height and width in pixels as centres and sizes in units of the image."""
    corner, extent = drawn.double().chunk(2, dim=1)
    return (torch.cat([corner + extent / 2, extent], 1) / torch.tensor([*source, *source])).float()


def _column(drawn: Tensor, source: tuple[int, int]) -> Tensor:
    return drawn.float()[:, None]


def _threshold(drawn: Tensor, source: tuple[int, int]) -> Tensor:
    return torch.where(drawn, SOLARIZE_THRESHOLD, 1.0)[:, None]


_OF_DRAWN = {
    "crop": _box,
    "solarize": _threshold,
    "drop": _column,
    "flip": _column,
    "grey": _column,
    "blur": _column,
}
