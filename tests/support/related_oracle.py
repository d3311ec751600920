"""Targets and losses of AugSelf, SDSSL, CASSLE and the read-out of views, in plain NumPy.

Everything is float64, one row at a time. It was written from a digest of the papers and of their authors'
code, before its author saw the implementation; `sdssl_projector` was added after that. Each function quotes
the sentence that it computes. `values` are the drawn values of one view (`ViewParameters.first` or
`.second`), and `source` is the height and width of the images.

What the digest leaves open, and what is done here:

1. AugSelf, a view without an operation that the other view has: it has the values of "not applied" (whole
   image, no flip, factor 1, no blur, threshold 1).
2. AugSelf, four colours of which some are off: "only for operations that are on", so only their numbers are
   there, always in the order brightness, contrast, saturation, hue, not in the drawn order of application.
3. AugSelf, "the op's own sampling range": each view is divided by the span hi - lo of its own pipeline.
4. AugSelf, "MSE": the mean over all rows and numbers, as torch's default; "BCE" the mean over all rows.
5. AugSelf, "sum_t lambda_t L_t": every lambda_t is 1, so that the weight of the term is the only one.
6. AugSelf, blur: standard deviations reach 2 pixels, so targets reach 2, which a tanh cannot. Not rescaled.
7. AugSelf, same flip: the same number for both orders. It needs a flip in at least one of the two pipelines.
8. SDSSL, "temperature": 0.2 for inner places. The mean is over all P * 2N anchors, and not a sum over places.
9. SDSSL, "over all steps": the ramp is a function of the share t of the training that is done, 0 at the start
   and the ratio at t = 1. The authors' list of steps ends one step before t = 1.
10. Read-out, "R^2": against the mean of the held-out rows, one number each, then their mean. The intercept is
    not penalised. A number that is constant on the held-out rows has no R^2 and is left out (NaN if all are).
11. Read-out, AUROC: of any score; which classifier gives it is not said.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Rows = np.ndarray
Values = Mapping[str, Rows]
Source = tuple[int, int]
Spans = Mapping[str, float]

COLOURS = ("brightness", "contrast", "saturation", "hue")
THRESHOLD = 128 / 255


# AugSelf: what was drawn, as numbers


def box(values: Values, row: int, source: Source) -> tuple[float, float, float, float]:
    """Centre row, centre column, height, width in units of the image.

    "centre = corner + size/2 in units of image height/width".
    """
    if "crop" not in values:
        return 0.5, 0.5, 1.0, 1.0
    top, left, height, width = (float(number) for number in values["crop"][row])
    return (
        (top + height / 2) / source[0],
        (left + width / 2) / source[1],
        height / source[0],
        width / source[1],
    )


def flipped(values: Values, row: int) -> bool:
    """Whether the view is mirrored."""
    return "flip" in values and bool(values["flip"][row])


def colour_number(values: Values, name: str, row: int, span: float) -> float:
    """(f - 1)/(hi - lo), and hue/(hi - lo), "0 if jitter was not applied"."""
    if name not in values:
        return 0.0
    neutral = 0.0 if name == "hue" else 1.0
    return (float(values[name][row]) - neutral) / span


def blur_number(values: Values, row: int) -> float:
    """The standard deviation in pixels, "0 if not applied"."""
    return float(values["blur"][row]) if "blur" in values else 0.0


def solarize_number(values: Values, row: int) -> float:
    """The threshold, "where not applied = 1"."""
    return THRESHOLD if "solarize" in values and bool(values["solarize"][row]) else 1.0


def colours_on(a: Values, b: Values) -> list[str]:
    """The colours that are on in either view, in the order of the digest."""
    return [name for name in COLOURS if name in a or name in b]


def crop_target(a: Values, b: Values, row: int, source: Source) -> list[float]:
    """The differences of centres and sizes, "[centre_a-centre_b (row, col), size_a-size_b (h, w)]".

    "The horizontal centre of BOTH views is mirrored where the FIRST view of the pair is mirrored".
    """
    row_a, column_a, height_a, width_a = box(a, row, source)
    row_b, column_b, height_b, width_b = box(b, row, source)
    if flipped(a, row):
        column_a = 1.0 - column_a
        column_b = 1.0 - column_b
    return [row_a - row_b, column_a - column_b, height_a - height_b, width_a - width_b]


def pair_targets(
    a: Values, b: Values, count: int, source: Source, spans_a: Spans, spans_b: Spans
) -> dict[str, Rows]:
    """The targets of the pair (a, b), for the operations that are on: name -> (N, k).

    "crop (4) ... colour (4): target w_a-w_b. blur (1): sigma_a-sigma_b. solarise (1):
    threshold_a-threshold_b. flip: 1 if both views have the same flip." "Grayscale has no target (ignored)."
    "operations switched off must drop their head, not train on constant 0".
    """
    on = {*a, *b}
    targets: dict[str, list[list[float]]] = {}
    for row in range(count):
        if "crop" in on:
            targets.setdefault("crop", []).append(crop_target(a, b, row, source))
        if colours_on(a, b):
            targets.setdefault("colour", []).append(
                [
                    colour_number(a, name, row, spans_a.get(name, 1.0))
                    - colour_number(b, name, row, spans_b.get(name, 1.0))
                    for name in colours_on(a, b)
                ]
            )
        if "blur" in on:
            targets.setdefault("blur", []).append([blur_number(a, row) - blur_number(b, row)])
        if "solarize" in on:
            targets.setdefault("solarize", []).append([solarize_number(a, row) - solarize_number(b, row)])
        if "flip" in on:
            targets.setdefault("flip", []).append([float(flipped(a, row) == flipped(b, row))])
    return {name: np.array(rows) for name, rows in targets.items()}


def augself_targets(
    a: Values, b: Values, count: int, source: Source, spans_a: Spans, spans_b: Spans
) -> dict[str, Rows]:
    """Name -> (2N, k): "rows 1..N use the pair (a,b), rows N+1..2N the pair (b,a), computed anew"."""
    forth = pair_targets(a, b, count, source, spans_a, spans_b)
    back = pair_targets(b, a, count, source, spans_b, spans_a)
    return {name: np.concatenate([forth[name], back[name]]) for name in forth}


# AugSelf: heads and losses


@dataclass(frozen=True)
class Layer:
    """One linear layer: weight (out, in), bias (out,), and scale and shift (out,) of the norm behind it."""

    weight: Rows
    bias: Rows | None = None
    scale: Rows | None = None
    shift: Rows | None = None


def augself_head(layers: Sequence[Layer], rows: Rows) -> Rows:
    """The head of one operation, (2N, 2D) -> (2N, n_out).

    "3 linear layers 2D-512-512-n_out, BN+ReLU on the two hidden ones, last layer plain".
    """
    for number, layer in enumerate(layers):
        rows = np.array([layer.weight @ row + layer.bias for row in rows])
        if number < len(layers) - 1:
            rows = np.maximum(batch_normed(rows) * layer.scale + layer.shift, 0.0)
    return rows


def batch_normed(rows: Rows) -> Rows:
    """Batch norm in training: the statistics of these rows, with the biased variance and eps 1e-5."""
    mean = rows.mean(0)
    variance = ((rows - mean) ** 2).mean(0)
    return (rows - mean) / np.sqrt(variance + 1e-5)


def augself_inputs(h_a: Rows, h_b: Rows) -> Rows:
    """What every head reads, (2N, 2D): "concat(h_a, h_b)"; "both orders are stacked"."""
    rows = [[*a, *b] for a, b in zip(h_a, h_b, strict=True)]
    rows += [[*b, *a] for a, b in zip(h_a, h_b, strict=True)]
    return np.array(rows)


def augself_loss_of(name: str, outputs: Rows, targets: Rows) -> float:
    """The loss of one operation.

    "MSE(tanh(out), target) for crop, colour, blur, solarise; BCE-with-logits for flip".
    """
    total, count = 0.0, 0
    for output_row, target_row in zip(outputs, targets, strict=True):
        for output, target in zip(output_row, target_row, strict=True):
            if name == "flip":
                right = 1.0 / (1.0 + math.exp(-output))
                total -= target * math.log(right) + (1.0 - target) * math.log(1.0 - right)
            else:
                total += (math.tanh(output) - target) ** 2
            count += 1
    return total / count


def augself_loss(
    heads: Mapping[str, Sequence[Layer]], h_a: Rows, h_b: Rows, targets: Mapping[str, Rows]
) -> float:
    """The sum over operations; "with BN heads call both orders in one batch"."""
    rows = augself_inputs(h_a, h_b)
    return sum(augself_loss_of(name, augself_head(heads[name], rows), targets[name]) for name in targets)


# CASSLE: the numbers that the head is given


def neutral_numbers(operation: str, colours: Sequence[str]) -> list[float]:
    """The numbers of a view to which nothing was applied: the same as those of a view without any value.

    CASSLE: "z = g([h ; e(omega)])". So g given no omega must equal g given the omega of the untouched image.
    """
    nothing: Values = {}
    if operation == "crop":
        return list(box(nothing, 0, (1, 1)))
    if operation == "colour":
        return [colour_number(nothing, name, 0, 1.0) for name in colours]
    return [solarize_number(nothing, 0)] if operation == "solarize" else [0.0]


def view_numbers(values: Values, other: Values, count: int, source: Source, spans: Spans) -> dict[str, Rows]:
    """The numbers of one view, for the operations that are on in it or in the other: name -> (N, k)."""
    numbers: dict[str, list[list[float]]] = {}
    for name in ("crop", "flip", "colour", "grey", "blur", "solarize", "drop"):
        on = bool(colours_on(values, other)) if name == "colour" else name in values or name in other
        for row in range(count if on else 0):
            if name == "crop":
                mine = list(box(values, row, source))
            elif name == "colour":
                mine = [
                    colour_number(values, each, row, spans.get(each, 1.0))
                    for each in colours_on(values, other)
                ]
            elif name == "blur":
                mine = [blur_number(values, row)]
            elif name == "solarize":
                mine = [solarize_number(values, row)]
            else:
                mine = [float(name in values and bool(values[name][row]))]
            numbers.setdefault(name, []).append(mine)
    return {name: np.array(rows) for name, rows in numbers.items()}


# SDSSL


def unit_row(row: Rows) -> Rows:
    """A row divided by its length."""
    return row / math.sqrt(sum(float(number) ** 2 for number in row))


def sdssl_projector(layers: Sequence[Layer], rows: Rows) -> Rows:
    """The projector of one place, (2N, D_p) -> (2N, K), not yet of unit length.

    "3 layers ... linear layers without bias, BN+ReLU between, last BN without affine".
    """
    for number, layer in enumerate(layers):
        rows = batch_normed(np.array([layer.weight @ row for row in rows]))
        if number < len(layers) - 1:
            rows = np.maximum(rows * layer.scale + layer.shift, 0.0)
    return rows


def sdssl_loss(inner: Sequence[Rows], last: Rows, temperature: float = 0.2) -> float:
    """L_mid of P inner places, (2N, K) each, against the (2N, K) rows of the last embedding.

    "anchors = 11 x 2N intermediate projections; candidates = detached final projections; the candidate of
    the same view of the same image is masked out; positive = the other view"; "All outputs L2-normalised". So
    each anchor has one positive and 2N - 2 negatives. `last` is detached: only `inner` has a slope.
    """
    count = len(last) // 2
    total, anchors = 0.0, 0
    for place in inner:
        for number in range(2 * count):
            anchor = unit_row(place[number])
            positive = number + count if number < count else number - count
            scores = {
                candidate: float(anchor @ unit_row(last[candidate])) / temperature
                for candidate in range(2 * count)
                if candidate != number
            }
            largest = max(scores.values())
            total += largest + math.log(sum(math.exp(score - largest) for score in scores.values()))
            total -= scores[positive]
            anchors += 1
    return total / anchors


def sdssl_ramp(progress: float, ratio: float = 0.8) -> float:
    """a(t): "cosine schedule written as cosine_scheduler(0 -> ratio) over all steps (so it rises)"."""
    return ratio + 0.5 * (0.0 - ratio) * (1.0 + math.cos(math.pi * progress))


# The read-out of what the views' randomness left


def ridge_r2(
    train_x: Rows, train_y: Rows, test_x: Rows, test_y: Rows, penalty: float
) -> tuple[float, list[float]]:
    """Mean R^2 on held-out rows of "ridge on [x_a, x_b] of the target differences", and that of each number.

    The normal equations with a column of ones, which is not penalised.
    """
    ones = np.column_stack([train_x, np.ones(len(train_x))])
    keep_small = penalty * np.eye(ones.shape[1])
    keep_small[-1, -1] = 0.0
    weights = np.linalg.solve(ones.T @ ones + keep_small, ones.T @ train_y)
    predicted = np.column_stack([test_x, np.ones(len(test_x))]) @ weights
    scores = []
    for number in range(train_y.shape[1]):
        actual = test_y[:, number]
        missed = sum((actual[row] - predicted[row, number]) ** 2 for row in range(len(actual)))
        spread = sum((actual[row] - actual.mean()) ** 2 for row in range(len(actual)))
        scores.append(1.0 - missed / spread if spread > 0 else math.nan)
    defined = [score for score in scores if not math.isnan(score)]
    return (sum(defined) / len(defined) if defined else math.nan), scores


def auroc(scores: Rows, hit: Rows) -> float:
    """The share of pairs of a hit and a spared row where the hit one has the higher score; ties one half."""
    won, pairs = 0.0, 0
    for score_hit in scores[hit.astype(bool)]:
        for score_spared in scores[~hit.astype(bool)]:
            won += 1.0 if score_hit > score_spared else 0.5 if score_hit == score_spared else 0.0
            pairs += 1
    return won / pairs
