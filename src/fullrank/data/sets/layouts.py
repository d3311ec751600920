"""Find splits and classes in the paths of image files. Pure: no file is opened here."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from fullrank.data.classes import check_classes, class_name, describe_classes, describe_splits
from fullrank.errors import DataError, count_of, few_of

Role = Literal["train", "test", "eval", "val", "dev"]
"""What a folder of a split is for; of several test folders with labels, the first in this order is used."""

_WORDS: Mapping[str, Role] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
    **dict.fromkeys(("eval", "evaluation"), "eval"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("dev", "devel", "development"), "dev"),
}
_MASKS = {"mask", "masks", "segmentation", "segmentations", "annotation", "annotations", "labels"}
_IMAGES = {"image", "images", "img", "imgs"}

Labelled = list[tuple[str, str]]
"""Image files with the names of their classes, "" for none."""


@dataclass(frozen=True)
class Layout:
    """How the image files of a folder form splits and classes.

    Attributes:
        train: The training files, or all files if the split is still to be drawn.
        test: The test files; None if the split is still to be drawn.
        folders: The folders of the two splits, or the one folder of all images.
        unused: Folder -> number of images in it that belong to neither split.
        remark: A further sentence for the user.
    """

    train: Labelled
    test: Labelled | None
    folders: tuple[str, ...]
    unused: Mapping[str, int] = field(default_factory=dict)
    remark: str = ""


def role_of(folder: str) -> Role | None:
    """The split that a folder is for, by its name; None for any other folder.

    >>> [role_of(name) for name in ("Training", "VAL", "test_images", "dev-set", "trains")]
    ['train', 'val', 'test', 'dev', None]
    """
    return _WORDS.get(re.sub(r"[-_ ]?(images?|imgs?|data|set|split)$", "", folder.lower()))


def layout_of(
    files: Sequence[str], folders: Iterable[str], name: str, lists: Mapping[str, Mapping[str, str]]
) -> Layout:
    """The splits and classes that the paths of image files show.

    Args:
        files: Paths of the image files, with `/`.
        folders: The folders at the top, also those without an image.
        name: The name of the source, for messages.
        lists: Folder of a split -> {file name -> class}, for splits whose classes stand in a list.

    Raises:
        DataError: If the paths can be understood in two ways, or the splits have no class in common.

    >>> paths = ["Train/cat/1.png", "Train/dog/2.png", "Val/dog/3.png"]
    >>> layout = layout_of(paths, ["Train", "Val"], "folder:pets", {})
    >>> layout.test, layout.folders
    ([('Val/dog/3.png', 'dog')], ('Train', 'Val'))
    """
    tops = Counter(file.split("/")[0] if "/" in file else "" for file in files)
    splits = [(role, folder) for folder in sorted({*tops, *folders}) if (role := role_of(folder))]
    if not splits:
        return _wrapped(files, name, lists) or _class_first(files, name) or _drawn(files, "", name)
    roles = [role for role, _ in splits]
    if twice := [role for role, times in Counter(roles).items() if times > 1]:
        same = " and ".join(folder for role, folder in splits if role == twice[0])
        raise DataError(f"{name} has the folders {same} for one split; keep one, or join them.")
    if len(splits) > 1 and "train" in roles:
        return _official(files, dict(splits), name, lists)
    others = [folder for folder in tops if folder not in ("", *(folder for _, folder in splits))]
    if len(splits) > 1:
        folders_seen = ", ".join(folder for _, folder in splits)
        raise DataError(f"{name} has {folders_seen}, but no folder train; name one of the folders so.")
    [(_, only)] = splits
    nested = any(file.startswith(f"{only}/") and file.count("/") > 1 for file in files)
    if not others:
        return replace(_drawn(files, only, name), unused={"no folder": tops[""]} if tops[""] else {})
    if nested:
        problem = f"{only} looks like a split with class folders, but stands beside {few_of(others)}"
        raise DataError(f"{name}: {problem}; move the classes into one folder, or write folder:PATH/{only}.")
    return _drawn(files, "", name)


def _official(
    files: Sequence[str],
    folder_of: Mapping[Role, str],
    name: str,
    lists: Mapping[str, Mapping[str, str]],
) -> Layout:
    """The splits of a folder that has a training folder and one or more to test on."""
    train = _by_folder(files, folder_of["train"])
    classes = {each for _, each in train} - {""}
    candidates: dict[str, Labelled] = {}
    for role in get_args(Role)[1:]:
        folder = folder_of.get(role, "")
        if folder and (by_folder := _by_folder(files, folder)):
            candidates[folder] = _listed(by_folder, classes, lists.get(folder, {}))
    if not train or not candidates:
        empty = few_of([folder for role, folder in folder_of.items() if (role == "train") == (not train)])
        raise DataError(f"{name}: {empty} has no image that can be read; check its files.")
    labelled = [folder for folder, paths in candidates.items() if any(each for _, each in paths)]
    chosen = (labelled or list(candidates))[0]
    check_classes(classes, {each for _, each in candidates[chosen]} - {""}, name)
    unused = Counter(file.split("/")[0] if "/" in file else "no folder" for file in files)
    for used in (folder_of["train"], chosen):
        del unused[used]
    packed = {file.split("/")[1] for file, each in candidates[chosen] if not each and file.count("/") > 1}
    remark = f"{chosen}/{packed.pop()} is no class of {folder_of['train']}" if packed else ""
    return Layout(train, candidates[chosen], (folder_of["train"], chosen), unused, remark)


def _listed(files: Labelled, classes: set[str], listed: Mapping[str, str]) -> Labelled:
    """The files of a test folder with their classes from a list, or else from their folders.

    If they are all in one folder that is no class of training, that folder is no class at all.
    """
    if listed:
        return [(file, listed.get(file.rsplit("/", 1)[-1], "")) for file, _ in files]
    found = {each.casefold() for _, each in files}
    if len(found) == 1 and classes and found.isdisjoint(each.casefold() for each in classes):
        return [(file, "") for file, _ in files]
    return files


def _by_folder(files: Iterable[str], base: str) -> Labelled:
    """The files below `base`; the class is the first folder there."""
    start = len(base) + 1 if base else 0
    parted = ((file, file[start:].split("/")) for file in files if not base or file.startswith(f"{base}/"))
    return [(file, class_name(parts[0]) if len(parts) > 1 else "") for file, parts in parted]


def _drawn(files: Sequence[str], base: str, name: str) -> Layout:
    """All images below `base`, whose splits are still to be drawn."""
    by_folder = _by_folder(files, base)
    classes = {each for _, each in by_folder} - {""}
    lower = {each.lower() for each in classes}
    if lower & _IMAGES and lower & _MASKS:
        problem = f"{few_of(sorted(classes))} look like images and their masks, not like classes"
        inside = next(each for each in sorted(classes) if each.lower() in _IMAGES)
        raise DataError(f"{name}: {problem}; write folder:PATH/{inside}.")
    remark = ""
    below = {"/".join(file.split("/")[:-1]) for file, each in by_folder if each}
    if len(classes) == 1 and len(below) > 1 and not base:
        only = next(iter(classes))
        remark = f"if the folders in {only} are the classes, write folder:PATH/{only}"
    return Layout(by_folder, None, (base,) if base else (), remark=remark)


def _wrapped(files: Sequence[str], name: str, lists: Mapping[str, Mapping[str, str]]) -> Layout | None:
    """The layout inside the one folder that holds all images, if that has folders of splits."""
    tops = {file.split("/")[0] for file in files}
    if len(tops) != 1 or any("/" not in file for file in files):
        return None
    [top] = tops
    inner = [file[len(top) + 1 :] for file in files]
    folders = {file.split("/")[0] for file in inner if "/" in file}
    roles = {role_of(folder) for folder in folders} - {None}
    if "train" not in roles or len(roles) < 2:
        return None
    inner_lists = {key.removeprefix(f"{top}/"): each for key, each in lists.items()}
    found = layout_of(inner, folders, name, inner_lists)
    return _renamed(found, {file: f"{top}/{file}" for file in inner}, f"{top}/{{}}")


def _class_first(files: Sequence[str], name: str) -> Layout | None:
    """The layout CLASS/SPLIT/FILE, if every class folder has folders of splits alone."""
    parted = [file.split("/") for file in files]
    if not all(len(parts) > 2 and role_of(parts[1]) for parts in parted):
        return None
    swapped = {"/".join((parts[1], parts[0], *parts[2:])): "/".join(parts) for parts in parted}
    splits = {path.split("/")[0] for path in swapped}
    if len(splits) < 2:
        return None
    found = layout_of(sorted(swapped), splits, name, {})
    return _renamed(found, swapped, "*/{}")


def _renamed(layout: Layout, path_of: Mapping[str, str], folder: str) -> Layout:
    """The same layout with the paths `path_of` of its files, and folders by a pattern."""
    train = [(path_of[file], each) for file, each in layout.train]
    test = None if layout.test is None else [(path_of[file], each) for file, each in layout.test]
    folders = tuple(folder.format(each) for each in layout.folders)
    return Layout(train, test, folders, {folder.format(key): n for key, n in layout.unused.items()})


def sentence(layout: Layout, drawn: int, skipped: Mapping[str, int]) -> str:
    """What was understood: images and classes of each split, and what was left out.

    Args:
        layout: The splits and classes.
        drawn: The number of test images that are drawn, if the folder has no splits.
        skipped: Ending -> number of files that were not read.

    >>> layout = Layout([("train/cat/1.png", "cat")], [("val/2.png", "")], ("train", "val"), {"test": 3})
    >>> sentence(layout, 0, {".txt": 2})
    '1 training image of 1 class (cat) in train, 1 test image without labels in val; left out: 3 images in \
test, 2 files with .txt'
    """
    train, test = ([each for _, each in part or ()] for part in (layout.train, layout.test))
    if layout.test is None:
        where = f" in {layout.folders[0]}" if layout.folders else ""
        total = f"{count_of(len(train), 'image')} {describe_classes(train)}{where}"
        said = f"{total}; {drawn} are drawn as test images"
    else:
        said = describe_splits(train, test, layout.folders)
    unused = [f"{count_of(count, 'image')} in {folder}" for folder, count in layout.unused.items()]
    endings = [f"{count_of(count, 'file')} with {ending}" for ending, count in skipped.items()]
    if unused or endings:
        said += f"; left out: {few_of([*unused, *endings], 6)}"
    return f"{said}; {layout.remark}" if layout.remark else said
