"""A source that generates its images."""

import numpy as np

from fullrank.data import ImageSet, Source


class Stripes(Source):
    """Grey stripes in noise, 8 x 8 pixels: horizontal, vertical, or rising; the direction is the label."""

    def __init__(self, count: int = 300):
        super().__init__()
        self.count = count

    def read(self, split, image_size):
        """Generate the images of `split`, the same ones at each call."""
        rng = np.random.default_rng([len(split), self.count])
        count = self.count if split == "train" else max(self.count // 3, 3)
        labels = np.arange(count) % 3
        rows, columns = np.mgrid[:8, :8]
        direction = np.stack([rows, columns, rows + columns])[labels]
        waves = np.sin(direction * 1.6 + rng.uniform(0, 6, (count, 1, 1)))
        pixels = 128 + 60 * waves + rng.normal(0, 20, (count, 8, 8))
        images = np.clip(pixels, 0, 255).astype(np.uint8)[..., None]
        names = ("horizontal", "vertical", "rising")
        return ImageSet(images, {"label": labels.astype(np.int64)}, {"label": names}, self.name, split)
