"""Affine changes of colour, multiplied together and applied once."""

from torch import Tensor


class ColourMap:
    """Images (N, C, H, W), each with an affine map of its colours, clamp(M x + t, 0, 1), not yet applied."""

    def __init__(self, images: Tensor):
        self._images, self.channels = images, images.shape[1]
        self._matrix: Tensor | None = None
        self._shift: Tensor | None = None

    def add(self, matrix: Tensor, of_mean: Tensor | None = None) -> None:
        """Append x -> matrix x + of_mean m, each (N, C, C). m (C,) is the image's mean colour so far."""
        matrix = matrix.to(self._images.device, non_blocking=True)
        shift = None
        if of_mean is not None:
            shift = of_mean.to(matrix.device, non_blocking=True) @ self._mean()
        if self._shift is not None:
            moved = matrix @ self._shift
            shift = moved if shift is None else moved.add_(shift)
        self._matrix = matrix if self._matrix is None else matrix @ self._matrix
        self._shift = shift

    def applied(self) -> Tensor:
        """The images with the map applied. The memory is new, unless there is no map."""
        if self._matrix is None:
            return self._images
        changed = self._matrix @ self._images.flatten(2)
        if self._shift is not None:
            changed.add_(self._shift)
        return changed.clamp_(0.0, 1.0).view_as(self._images)

    def _mean(self) -> Tensor:
        """The mean colour (N, C, 1) of each image after the map."""
        mean = self._images.mean((2, 3))[:, :, None]
        if self._matrix is not None:
            mean = self._matrix @ mean
        return mean if self._shift is None else mean + self._shift
