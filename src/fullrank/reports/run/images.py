"""Example views as PNG data addresses, so that the page needs no file beside it. Torch-free."""

import base64
import io

import numpy as np
from PIL import Image

SIDE, MOST_ROWS = 96, 8


def example_rows(examples: np.ndarray | None) -> list[list[str]]:
    """At most 8 rows of original, view a and view b, of `examples` (n, 3, H, W, 1 or 3) uint8; else none."""
    if examples is None or examples.ndim != 5 or examples.dtype != np.uint8 or not examples.size:
        return []
    if examples.shape[1] != 3 or examples.shape[-1] not in (1, 3):
        return []
    return [[png_address(image) for image in row] for row in examples[:MOST_ROWS]]


def png_address(image: np.ndarray) -> str:
    """One image (H, W, C) uint8 as a PNG data address, enlarged by a whole factor to at least 96 pixels."""
    height, width = image.shape[:2]
    factor = max(1, -(-SIDE // min(height, width)))
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture = picture.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    content = io.BytesIO()
    picture.save(content, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
