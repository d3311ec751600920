"""Changes of colour that are linear in the image, put together before any of them is made."""

from torch import Tensor


class ColourMap:
    r"""Images (N, C, H, W), and an affine map of the colours of each that is due and not yet applied.

    .. math:: y = \mathrm{clamp}(M x + t, 0, 1), \quad M \in \mathbb R^{C \times C}

    for every pixel x: one pass over the images in place of one for each operation. Only the clamping between
    them is left out.

    >>> import torch
    >>> due = ColourMap(torch.full((1, 1, 1, 1), 0.25))
    >>> due.add(torch.tensor([[[8.0]]]))
    >>> due.add(torch.tensor([[[0.25]]]))
    >>> due.applied().item()  # one by one the first would be clamped to 1, and this 0.25
    0.5
    """

    def __init__(self, images: Tensor):
        self._images = images
        self._matrix: Tensor | None = None
        self._shift: Tensor | None = None

    @property
    def channels(self) -> int:
        """How many colours a pixel has."""
        return self._images.shape[1]

    def add(self, matrix: Tensor, of_mean: Tensor | None = None) -> None:
        """x -> matrix x + of_mean m is due too, (N, C, C) each, m (C,) the image's mean colour so far.

        The matrices may be on the CPU, where they are drawn; the images' device does not wait for them.
        """
        matrix = matrix.to(self._images.device, non_blocking=True)
        of_mean = None if of_mean is None else of_mean.to(self._images.device, non_blocking=True)
        shift = None if of_mean is None else of_mean @ self._mean()
        if self._shift is not None:
            moved = matrix @ self._shift
            shift = moved if shift is None else moved.add_(shift)
        self._matrix = matrix if self._matrix is None else matrix @ self._matrix
        self._shift = shift

    def applied(self) -> Tensor:
        """The images with what was due; new memory, unless nothing was."""
        if self._matrix is None:
            return self._images
        changed = self._matrix @ self._images.flatten(2)
        if self._shift is not None:
            changed.add_(self._shift)
        return changed.clamp_(0.0, 1.0).view_as(self._images)

    def _mean(self) -> Tensor:
        """The mean colour (N, C, 1) of each image as it will be."""
        mean = self._images.mean((2, 3))[:, :, None]
        if self._matrix is not None:
            mean = self._matrix @ mean
        return mean if self._shift is None else mean + self._shift
