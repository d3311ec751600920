"""ImageNet (ILSVRC2012) as folders of JPEG files, decoded on demand."""

from typing import final

from fullrank.data.image_files import list_photographs
from fullrank.data.published.class_folders import FOLDERS, ClassFolders, regroup
from fullrank.data.sources import SPLITS, Split, canonical
from fullrank.data.streaming import CANVAS
from fullrank.errors import DataError


@final
class ImageNet(ClassFolders):
    """The streamed images in train/CLASS and val/CLASS below `path`; a class has the name of its folder.

    Classes are the folders of both splits, sorted. The split that is not loaded may be missing. Mean and
    standard deviation of the channels are the conventional ones.

    Args:
        path: The folder of train and val.
        canvas: Side of the square canvas for training images in pixels.
        classes: A shipped grouping. Then folders must be WordNet numbers, the classes are the groups, and
            images outside all groups are left out.

    Raises:
        DataError: If the folders have another structure.

    >>> ImageNet("data", classes="imagenet-9").name
    'imagenet:data,classes=imagenet-9'

    Source: Russakovsky et al. 2015, arXiv:1409.0575; the tree is that of `torchvision.datasets.ImageNet`.
    """

    def __init__(self, path: str, canvas: int = CANVAS, classes: str | None = None):
        super().__init__(canonical("imagenet", path, canvas=canvas, classes=classes), path, canvas)
        self.classes = classes

    def _find(self) -> dict[Split, dict[str, str]]:
        folders = self._list_splits()
        return {
            split: {
                f"{FOLDERS[split]}/{wnid}": class_name
                for wnid, class_name in regroup(folders[split], self.classes, self.name).items()
            }
            for split in SPLITS
        }

    def _wrong(self, split: Split) -> DataError:
        folder = self.path / FOLDERS[split]
        expected = f"expected {self.path}/train/n01440764/*.JPEG and {self.path}/val/n01440764/*.JPEG"
        if not folder.is_dir():
            return DataError(f"{self.name}: found no {folder}; {expected}.")
        flat = len(list_photographs(folder))
        if flat:
            problem = f"{folder} has {flat} images without class folders, but {expected}"
            remedy = "sort them by torchvision.datasets.ImageNet(PATH, split='val') with the development kit"
            return DataError(f"{self.name}: {problem}; {remedy}.")
        return DataError(f"{self.name}: {folder} has no image; {expected}.")
