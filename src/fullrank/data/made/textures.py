"""Procedural textures and small objects; all but their kind is random, so no pixel reveals the class."""

from collections.abc import Callable

import numpy as np

from fullrank.errors import UsageError

# Levels of 255. With full colours and contrasts it is so easy to tell images apart that an encoder learns
# nothing else: its linear probe then classifies 22 % of the digits on them, where chance is 10 %.
_DARK, _LIGHT, _OBJECT, _TINT, _NOISE = (40.0, 80.0), (115.0, 155.0), (190.0, 235.0), 15.0, 6.0
_LEAST_TEXTURE, _LEAST_OBJECT = 8, 4  # pixels: shorter waves are aliased, a smaller disc is a square

Grid = tuple[np.ndarray, np.ndarray]
"""y and x of the pixels, (side, side), from -1 to 1."""


def textures(kinds: np.ndarray, side: int, random: np.random.Generator) -> np.ndarray:
    """One texture for each of `kinds` (n,), whole numbers into `TEXTURES`: (n, side, side, 3) uint8."""
    _check_side("texture", side, _LEAST_TEXTURE)
    if len(kinds) and not 0 <= kinds.min() <= kinds.max() < len(TEXTURES):
        wrong = kinds.min() if kinds.min() < 0 else kinds.max()
        raise UsageError(f"{wrong} is not a texture; use 0 to {len(TEXTURES) - 1}, {', '.join(TEXTURES)}.")
    grid = _grid(side)
    patterns = np.empty((len(kinds), side, side))
    for row, kind in enumerate(kinds.tolist()):
        patterns[row] = _PATTERNS[kind](grid, random)
    flipped = random.random(len(kinds)) < 0.5
    patterns[flipped] = 1 - patterns[flipped]
    return _coloured(patterns, random)


def objects(shapes: np.ndarray, side: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One light object for each of `shapes` (n,), numbers into `OBJECTS`: (n, side, side, 3), and masks."""
    _check_side("object", side, _LEAST_OBJECT)
    y, x = _grid(side)
    disc = np.hypot(y, x) <= 1.1  # at 4 pixels this is a square without its corners
    cross = np.minimum(np.abs(y - x), np.abs(y + x)) < 1.2 / (side - 1)
    masks = np.stack([disc, cross])[shapes]
    levels = random.uniform(*_OBJECT, (len(shapes), 1, 1, 1))
    colours = np.rint(levels + random.uniform(-_TINT, _TINT, (len(shapes), 1, 1, 3)))
    return np.broadcast_to(colours, (*masks.shape, 3)).astype(np.uint8), masks


def _stripes(angle: float) -> Callable[[Grid, np.random.Generator], np.ndarray]:
    def pattern(grid: Grid, random: np.random.Generator) -> np.ndarray:
        y, x = grid
        turned = angle if random.random() < 0.5 else -angle
        return _wave(np.cos(turned) * y + np.sin(turned) * x, random)

    return pattern


def _checkers(grid: Grid, random: np.random.Generator) -> np.ndarray:
    y, x = grid
    waves = random.uniform(2.0, 2.8)
    shifts = random.uniform(0, 2 * np.pi, 2)
    product = np.sin(np.pi * waves * y + shifts[0]) * np.sin(np.pi * waves * x + shifts[1])
    return _steep(3.0 * product)


def _shade(axis: int) -> Callable[[Grid, np.random.Generator], np.ndarray]:
    def pattern(grid: Grid, random: np.random.Generator) -> np.ndarray:
        tilt = random.uniform(-0.25, 0.25)
        ramp = grid[axis] + tilt * grid[1 - axis]
        return np.asarray(np.clip(0.5 + random.uniform(0.4, 0.6) * ramp, 0, 1))

    return pattern


def _rings(grid: Grid, random: np.random.Generator) -> np.ndarray:
    y, x = grid
    middle = random.uniform(-0.3, 0.3, 2)
    return _wave(np.hypot(y - middle[0], x - middle[1]), random)


def _rays(grid: Grid, random: np.random.Generator) -> np.ndarray:
    y, x = grid
    middle = random.uniform(-0.3, 0.3, 2)
    angle = np.arctan2(y - middle[0], x - middle[1])
    return _steep(2.0 * np.sin(random.integers(3, 5) * angle + random.uniform(0, 2 * np.pi)))


def _blobs(grid: Grid, random: np.random.Generator) -> np.ndarray:
    """Three to five soft spots at random places."""
    y, x = grid
    middles = random.uniform(-1, 1, (random.integers(3, 6), 2, 1, 1))
    spread = random.uniform(0.3, 0.4)
    far = (y - middles[:, 0]) ** 2 + (x - middles[:, 1]) ** 2
    return np.asarray(np.exp(-far / (2 * spread**2)).max(0))


def _noise(grid: Grid, random: np.random.Generator) -> np.ndarray:
    return random.random(grid[0].shape)


def _wave(distance: np.ndarray, random: np.random.Generator) -> np.ndarray:
    waves = random.uniform(2.0, 3.0)
    return _steep(1.5 * np.sin(np.pi * waves * distance + random.uniform(0, 2 * np.pi)))


def _steep(height: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(0.5 + 0.5 * height, 0, 1))


_KINDS: dict[str, Callable[[Grid, np.random.Generator], np.ndarray]] = {
    "stripes-across": _stripes(0.0),
    "stripes-upright": _stripes(np.pi / 2),
    "stripes-diagonal": _stripes(np.pi / 4),
    "checkers": _checkers,
    "shade-downwards": _shade(0),
    "shade-sideways": _shade(1),
    "rings": _rings,
    "rays": _rays,
    "blobs": _blobs,
    "noise": _noise,
}
_PATTERNS = tuple(_KINDS.values())
TEXTURES = tuple(_KINDS)
"""The kinds of textures, in the order of their numbers."""

OBJECTS = ("disc", "cross")
"""The shapes of `objects`, in the order of their numbers."""


def _coloured(patterns: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Patterns (n, side, side) in 0 to 1, coloured between two tinted greys each, with noise, as uint8."""
    tints = random.uniform(-_TINT, _TINT, (2, len(patterns), 1, 1, 3))
    dark = random.uniform(*_DARK, (len(patterns), 1, 1, 1)) + tints[0]
    light = random.uniform(*_LIGHT, (len(patterns), 1, 1, 1)) + tints[1]
    pixels = dark + (light - dark) * patterns[..., None]
    noisy = np.rint(pixels + random.normal(0, _NOISE, pixels.shape)).clip(0, 255)
    return np.asarray(noisy, np.uint8)


def _grid(side: int) -> Grid:
    steps = np.linspace(-1, 1, side)
    y, x = np.meshgrid(steps, steps, indexing="ij")
    return y, x


def _check_side(what: str, side: int, least: int) -> None:
    if side < least:
        raise UsageError(f"A {what} needs a side of {least} pixels, but got {side}; choose a larger canvas.")
