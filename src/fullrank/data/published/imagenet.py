"""ImageNet (ILSVRC2012) as folders of JPEG files, decoded on demand."""

from typing import final

from fullrank.data.image_files import list_photographs
from fullrank.data.published.class_folders import FOLDERS, ClassFolders, regroup
from fullrank.data.sources import SPLITS, Split, canonical
from fullrank.data.streaming import CANVAS
from fullrank.errors import DataError


@final
class ImageNet(ClassFolders):
    """The images in train/CLASS and val/CLASS below `path`, streamed; a class is called as its folder.

    Classes are the folders of both splits, sorted; the split that is not loaded may be missing. With
    `classes`, a shipped grouping, folders are WordNet numbers, the classes are its groups, and what belongs
    to none is left out. Mean and spread of the channels are those that convention fixes.

    Raises DataError for a tree of another shape.

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
            return DataError(f"{self.name}: there is no {folder}; {expected}.")
        flat = len(list_photographs(folder))
        if flat:
            problem = f"{folder} holds {flat} images without class folders, but {expected}"
            remedy = "sort them by torchvision.datasets.ImageNet(PATH, split='val') with the development kit"
            return DataError(f"{self.name}: {problem}; {remedy}.")
        return DataError(f"{self.name}: {folder} holds no image; {expected}.")
