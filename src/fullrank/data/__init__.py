"""Data: sources of images with their labels, and batches of them.

The catalogue imports nothing; `source` builds a source, and the classes are imported on first use.
"""

from typing import TYPE_CHECKING

from fullrank.lazy import attach
from fullrank.specs import Entry, Parameter, Registry, Spec

if TYPE_CHECKING:
    from fullrank.data.digits import Digits as Digits
    from fullrank.data.folder import ImageFolder as ImageFolder
    from fullrank.data.idx import IdxFiles as IdxFiles
    from fullrank.data.image_set import ImageSet as ImageSet
    from fullrank.data.loader import BatchLoader as BatchLoader
    from fullrank.data.npz import NpzArchive as NpzArchive
    from fullrank.data.sources import Source as Source

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "sources": ["Source"],
        "image_set": ["ImageSet"],
        "loader": ["BatchLoader"],
        "digits": ["Digits"],
        "idx": ["IdxFiles"],
        "folder": ["ImageFolder"],
        "npz": ["NpzArchive"],
    },
)
__all__ += ["SOURCES", "source"]

_IDX_FOLDER = Parameter("path", str, "folder of the four IDX files, plain or gzipped")

SOURCES = Registry("data", "data")
for _entry in [
    Entry(
        "digits",
        "fullrank.data.digits:Digits",
        "1797 handwritten digits, 8 x 8 grey, embedded: 1297 to train, 500 to test",
        "scikit-learn, load_digits (UCI Optical Recognition of Handwritten Digits)",
    ),
    Entry(
        "fashion-mnist",
        "fullrank.data.idx:fashion_mnist",
        "70,000 pieces of clothing, 28 x 28 grey, ten classes",
        "Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747",
        value=_IDX_FOLDER,
    ),
    Entry(
        "mnist",
        "fullrank.data.idx:mnist",
        "70,000 handwritten digits, 28 x 28 grey, ten classes",
        "LeCun, Bottou, Bengio, Haffner 1998",
        value=_IDX_FOLDER,
    ),
    Entry(
        "folder",
        "fullrank.data.folder:ImageFolder",
        "a folder of image files; its first level of folders are the classes",
        "your own",
        value=Parameter("path", str, "the folder", required=True),
    ),
    Entry(
        "npz",
        "fullrank.data.npz:NpzArchive",
        "a NumPy .npz file of uint8 images and labels, as MedMNIST and Keras name them",
        "your own",
        value=Parameter("path", str, "the file", required=True),
    ),
]:
    SOURCES.register(_entry)


def source(spec: str | Spec) -> "Source":
    """Build a source of data from its spec; nothing is read before its `load`.

    Raises UsageError for an unknown name or a path that is missing from the spec.

    >>> source("digits").load("test", image_size=16).images.shape
    (500, 16, 16, 1)
    """
    built: Source = SOURCES.build(spec)
    return built
