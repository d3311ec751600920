from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refuses
from torchvision import datasets

from fullrank.data import SOURCES, class_list, source, write_miniature
from fullrank.data.published.imagenet_9 import VARIANTS
from fullrank.data.published.imagenet_shifts import CORRUPTIONS
from fullrank.errors import DataError, UsageError

NINE = (
    "00_dog",
    "01_bird",
    "02_wheeled vehicle",
    "03_reptile",
    "04_carnivore",
    "05_insect",
    "06_musical instrument",
    "07_primate",
    "08_fish",
)
NAMES = tuple(folder[3:] for folder in NINE)
A = ("n01498041", "n02077923", "n07697313")  # stingray, sea lion, cheeseburger
R = ("n01443537", "n02077923", "n02106662")  # goldfish, sea lion, German shepherd
SHIFTS = {
    "imagenet-a": (A, "jpg"),
    "imagenet-r": (R, "jpg"),
    "imagenet-sketch": (R, "JPEG"),
    "imagenet-v2": (("2", "10", "999"), "jpeg"),
    "imagenet-c": (R, "JPEG"),
}
GIVEN = {"imagenet-c": ",kind=fog,severity=3"}
BELOW = {"imagenet-c": "fog/3"}


def plant(root: Path, folders: Iterable[str], ending: str = "JPEG", count: int = 2) -> Path:
    """Images of many shapes in each of the folders, every one different."""
    random = np.random.default_rng(len(root.parts))
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for row in range(count):
            pixels = random.integers(0, 256, (20 + row, 24, 3), np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{row}.{ending}", "JPEG")
    return root


@pytest.fixture(params=SHIFTS)
def planted(request, tmp_path: Path) -> tuple[str, Path]:
    """The name of a shift, and the root of a tree of three classes in its official structure."""
    folders, ending = SHIFTS[request.param]
    plant(tmp_path / BELOW.get(request.param, "."), folders, ending)
    return request.param, tmp_path


def test_a_shift_is_read_as_torchvision_reads_its_folder(planted):
    name, root = planted
    spec = f"{name}:{root}{GIVEN.get(name, '')}"
    test = source(spec).load("test", image_size=16)
    oracle = datasets.ImageFolder(root / BELOW.get(name, "."))
    assert sorted(str(root / key) for key in test.images.keys) == sorted(path for path, _ in oracle.samples)
    named = dict(oracle.samples)
    for key, label in zip(test.images.keys, test.labels["label"].tolist(), strict=True):
        folder = oracle.classes[named[str(root / key)]]
        wnid = class_list("imagenet-1k")[int(folder)] if name == "imagenet-v2" else folder
        assert test.class_names["label"][label] == wnid
    assert test.image_shape == (16, 16, 3) and test.images.shape == (6, 320, 320, 3)
    assert test.channel_statistics() == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert source(f"{spec},canvas=50").load("test").read(np.array([1]))[1].tolist() == [[21, 24]]


def test_classes_are_matched_by_the_names_of_imagenet(tmp_path: Path):
    plant(tmp_path / "train", (*R, A[0]))
    plant(tmp_path / "val", (*R, A[0]), count=1)
    plant(tmp_path / "sketch", R)
    known = source(f"imagenet:{tmp_path}").load("train").class_names["label"]
    drawn = source(f"imagenet-sketch:{tmp_path / 'sketch'}").load("test").class_names["label"]
    assert drawn == R and set(drawn) < set(known)


def test_folders_of_v2_are_numbers_not_words(tmp_path: Path):
    test = source(f"imagenet-v2:{plant(tmp_path, ('0', '1', '2', '10', '100'), 'jpeg', 1)}").load("test")
    assert [key.split("/")[0] for key in test.images.keys] == ["0", "1", "2", "10", "100"]
    listed = class_list("imagenet-1k")
    assert test.class_names["label"] == tuple(listed[row] for row in (0, 1, 2, 10, 100))
    assert test.class_names["label"] == tuple(sorted(test.class_names["label"]))


def test_a_shift_has_nothing_to_train_on(planted, fails):
    name, root = planted
    spec = str(SOURCES.parse(f"{name}:{root}{GIVEN.get(name, '')},canvas=40"))
    assert source(spec).splits == ("test",)
    with fails(DataError, spec, f"fullrank probe RUN --shift {spec}"):
        source(spec).load("train")


@pytest.mark.parametrize(
    ("name", "folder", "words"),
    [
        ("imagenet-a", "dog", ["1 of 4", "the 200 of ImageNet-A", "'dog'", "n01498041"]),
        ("imagenet-a", "n01440764", ["the 200 of ImageNet-A", "'n01440764'"]),  # tench, of the 1000 alone
        ("imagenet-r", "n01440764", ["the 200 of ImageNet-R", "'n01440764'"]),
        ("imagenet-sketch", "n00000000", ["the 1000 of ImageNet-Sketch", "'n00000000'", "n01440764"]),
        ("imagenet-c", "4", ["the 1000 of ImageNet-C", "'4'"]),
        ("imagenet-v2", "1000", ["the 1000 of ImageNetV2", "'1000'", "folders like 0"]),
        ("imagenet-v2", "07", ["'07'"]),
        ("imagenet-v2", "n01440764", ["'n01440764'"]),
    ],
)
def test_a_folder_that_is_no_class_of_the_set(name, folder, words, tmp_path: Path, fails):
    folders, ending = SHIFTS[name]
    plant(tmp_path / BELOW.get(name, "."), (*folders, folder), ending, 1)
    with fails(DataError, f"{name}:{tmp_path}", *words):
        source(f"{name}:{tmp_path}{GIVEN.get(name, '')}").load("test")


def test_trees_without_images(planted, tmp_path_factory, fails):
    name, root = planted
    empty = tmp_path_factory.mktemp("empty")
    given, ending = GIVEN.get(name, ""), SHIFTS[name][1]
    first = {"imagenet-v2": "0", "imagenet-a": A[0], "imagenet-r": R[0]}.get(name, "n01440764")
    with fails(DataError, f"{empty / BELOW.get(name, '.') / first}/*.{ending}"):
        source(f"{name}:{empty}{given}").load("test")
    for file in root.rglob(f"*.{ending}"):
        file.rename(file.with_suffix(".txt"))
    with fails(DataError, f"{root / BELOW.get(name, '.') / first}/*.{ending}"):
        source(f"{name}:{root}{given}").load("test")
    with fails(DataError, "gone"):
        source(f"{name}:{root}/gone{given}").load("test")


def test_other_files_do_not_matter(planted):
    name, root = planted
    (root / "README.txt").touch()
    (root / BELOW.get(name, ".") / ".cache").mkdir()
    assert len(source(f"{name}:{root}{GIVEN.get(name, '')}").load("test")) == 6


@pytest.mark.parametrize(("category", "kind"), [(c, kinds[-1]) for c, kinds in CORRUPTIONS.items()])
def test_corruptions_stand_alone_or_in_their_categories(category, kind, tmp_path: Path, fails):
    plant(tmp_path / "alone" / kind / "1", R, count=1)
    plant(tmp_path / "sorted" / category / kind / "5", R, count=1)
    alone = source(f"imagenet-c:{tmp_path / 'alone'},kind={kind},severity=1").load("test")
    inside = source(f"imagenet-c:{tmp_path / 'sorted'},kind={kind},severity=5").load("test")
    assert alone.class_names == inside.class_names and len(alone) == len(inside) == 3
    assert inside.images.keys[0] == f"{category}/{kind}/5/{R[0]}/0.JPEG"
    with fails(DataError, f"{kind}/2/n01440764/*.JPEG or", f"{category}/{kind}/2/n01440764/*.JPEG"):
        source(f"imagenet-c:{tmp_path / 'alone'},kind={kind},severity=2").load("test")


def test_the_kinds_of_corruption_are_those_of_the_paper():
    kinds = [kind for kinds in CORRUPTIONS.values() for kind in kinds]
    assert len(kinds) == len(set(kinds)) == 19
    assert len(kinds) - len(CORRUPTIONS["extra"]) == 15


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("", ["no kind", "kind=gaussian_noise,severity=3"]),
        (",severity=2", ["no kind", "severity=2"]),
        (",kind=snow", ["no severity", "kind=snow,severity=3"]),
        (
            ",kind=gaussian_noize,severity=3",
            ["'gaussian_noize'", "did you mean 'gaussian_noise'", "saturate"],
        ),
        (",kind=fog,severity=0", ["1 to 5", "got 0"]),
        (",kind=fog,severity=6", ["1 to 5", "got 6"]),
    ],
)
def test_a_corruption_is_named_in_full(options, words):
    with pytest.raises(UsageError) as caught:
        source(f"imagenet-c:/data{options}")
    assert all(word in str(caught.value) for word in words), str(caught.value)


# ImageNet-9


@pytest.fixture
def challenge(tmp_path: Path) -> Path:
    """The release of the Backgrounds Challenge, and the training images of two of its variants beside it."""
    for variant in VARIANTS[:-1]:
        plant(tmp_path / variant.replace("-", "_") / "val", NINE, count=1)
    for variant in ("original", "mixed_rand"):
        plant(tmp_path / variant / "train", NINE)
    return tmp_path


@pytest.mark.parametrize("variant", VARIANTS[:-1])
def test_every_variant_has_the_same_nine_classes(variant, challenge: Path):
    spec = f"imagenet-9:{challenge}" + ("" if variant == "original" else f",variant={variant}")
    built = source(f"imagenet-9:{challenge},variant={variant}")
    assert built.name == spec
    test, oracle = built.load("test"), datasets.ImageFolder(challenge / variant.replace("-", "_") / "val")
    assert test.class_names["label"] == NAMES and tuple(oracle.classes) == NINE
    assert [
        (str(challenge / k), row) for k, row in zip(test.images.keys, test.labels["label"], strict=True)
    ] == (oracle.samples)


def test_training_images_of_imagenet_9_are_an_archive_of_their_own(challenge: Path, fails):
    train = source(f"imagenet-9:{challenge},variant=mixed-rand").load("train")
    assert len(train) == 18 and train.class_names["label"] == NAMES
    assert train.images.keys[2] == "mixed_rand/train/01_bird/0.JPEG"
    expected = f"{challenge}/only_fg/train/00_dog/*.JPEG"
    with fails(DataError, "(train)", expected, "imagenet:PATH,classes=imagenet-9"):
        source(f"imagenet-9:{challenge},variant=only-fg").load("train")
    with fails(DataError, "(test)", f"{challenge}/in9l/val", "release"):
        plant(challenge / "in9l/train", NINE[:2])
        source(f"imagenet-9:{challenge},variant=in9l").load("test")


@pytest.mark.parametrize("above", [".", "in9l"])
def test_the_larger_set_is_found_in_its_folder_or_above(above, tmp_path: Path):
    plant(tmp_path / above / "train", NINE)
    plant(tmp_path / above / "val", NINE, count=1)
    built = source(f"imagenet-9:{tmp_path},variant=in9l")
    assert (len(built.load("train")), len(built.load("test"))) == (18, 9)


def test_wrong_trees_and_variants_of_imagenet_9(challenge: Path, fails):
    with refuses(UsageError, "'mixed-random'", "'mixed-rand'", "only-bg-t"):
        source(f"imagenet-9:{challenge},variant=mixed-random")
    (challenge / "no_fg/val/08_fish").rename(challenge / "no_fg/val/fish")
    with fails(DataError, "1 of 9", "ImageNet-9", "'fish'", "00_dog"):
        source(f"imagenet-9:{challenge},variant=no-fg").load("test")
    (challenge / "original/train/08_fish").rename(challenge / "fish")
    with fails(DataError, "1 of 9", "val", "train", "'08_fish'"):
        source(f"imagenet-9:{challenge}").load("test")


# The nine super-classes of other sets

MIXED = {  # by hand: ImageNet's class -> its super-class
    "n02085620": "dog",  # Chihuahua
    "n01514668": "bird",  # cock
    "n01440764": "fish",  # tench
    "n02114367": "carnivore",  # timber wolf
    "n03785016": "wheeled vehicle",  # moped
    "n07697313": None,  # cheeseburger
    "n02091032": None,  # Italian greyhound, which the authors leave out
}
IN_ORDER = ("dog", "bird", "wheeled vehicle", "carnivore", "fish")


def grouped(images) -> dict[str, str]:
    """Class folder -> the class of its images."""
    names = images.class_names["label"]
    return {
        k.split("/")[-2]: names[row]
        for k, row in zip(images.images.keys, images.labels["label"], strict=True)
    }


def test_imagenet_in_nine_classes(tmp_path: Path):
    plant(tmp_path / "train", MIXED)
    plant(tmp_path / "val", MIXED, count=1)
    built = source(f"imagenet:{tmp_path},classes=imagenet-9,canvas=64")
    assert built.name == str(SOURCES.parse(f"imagenet:{tmp_path},canvas=64,classes=imagenet-9"))
    for split, count in (("train", 2), ("test", 1)):
        images = built.load(split)
        assert images.class_names == {"label": IN_ORDER}
        assert grouped(images) == {wnid: name for wnid, name in MIXED.items() if name}
        assert np.bincount(images.labels["label"]).tolist() == [count] * 5


@pytest.mark.parametrize("name", SHIFTS)
def test_shifts_in_nine_classes(name, tmp_path: Path):
    folders = {
        "imagenet-a": {"n01498041": "fish", "n02077923": None, "n01531178": "bird"},
        "imagenet-v2": {"0": "fish", "151": "dog", "171": None, "670": "wheeled vehicle"},
    }.get(name, {"n01443537": "fish", "n02077923": None, "n02106662": "dog"})
    plant(tmp_path / BELOW.get(name, "."), folders, SHIFTS[name][1])
    spec = f"{name}:{tmp_path}{GIVEN.get(name, '')},classes=imagenet-9"
    test = source(spec).load("test")
    assert grouped(test) == {folder: group for folder, group in folders.items() if group}
    assert test.name == str(SOURCES.parse(spec))
    assert set(test.class_names["label"]) <= set(NAMES)


def test_what_cannot_be_grouped(tmp_path: Path, fails):
    plant(tmp_path / "a", ("n07697313", "n02077923"), "jpg")
    with fails(DataError, "2 classes", "'n02077923'", "370 of imagenet-9", "classes=imagenet-9"):
        source(f"imagenet-a:{tmp_path / 'a'},classes=imagenet-9").load("test")
    plant(tmp_path / "b/train", ("n02085620", "dogs"))
    with fails(DataError, "1 of 2 class folders", "the 1000 that imagenet-9 groups", "'dogs'"):
        source(f"imagenet:{tmp_path / 'b'},classes=imagenet-9").load("train")
    with refuses(UsageError, "classes", "imagenet-9", "'imagenet-10'"):
        source(f"imagenet:{tmp_path},classes=imagenet-10")


def test_nine_classes_of_every_set_are_called_alike(tmp_path: Path):
    """P2's protocol: what is learnt on imagenet-9 is tested on its variants, on R and on A."""
    options = {"images": 36, "classes": 9, "size": 8}
    specs = ["imagenet-9", "imagenet-9,variant=only-fg", "imagenet-9,variant=mixed-rand"]
    specs += [f"{name},classes=imagenet-9" for name in ("imagenet", "imagenet-r", "imagenet-a")]
    for row, spec in enumerate(specs):
        made = write_miniature(spec, tmp_path / str(row), **options)
        assert source(made).load("test").class_names["label"] == NAMES, spec


# The shipped lists


def test_the_lists_are_timms():
    from importlib import resources

    info = resources.files("timm.data").joinpath("_info")
    for ours, theirs, count in (("1k", "", 1000), ("a", "a_", 200), ("r", "r_", 200)):
        listed = info.joinpath(f"imagenet_{theirs}synsets.txt").read_text().split()
        assert list(class_list(f"imagenet-{ours}")) == listed and len(listed) == count
    every = class_list("imagenet-1k")
    assert list(every) == sorted(set(every))
    for name in ("imagenet-a", "imagenet-r", "imagenet-100"):
        assert set(class_list(name)) < set(every)


def test_imagenet_9_takes_370_classes_together():
    from timm.data import ImageNetInfo

    from fullrank.data import class_groups

    groups = class_groups("imagenet-9")
    assert tuple(dict.fromkeys(groups.values())) == NAMES
    # the classes of each name in the authors' table from index to super-class
    counts = (116, 52, 42, 36, 35, 27, 26, 20, 16)
    assert tuple(list(groups.values()).count(name) for name in NAMES) == counts
    assert set(groups) < set(class_list("imagenet-1k")) and len(groups) == sum(counts) == 370
    # words that WordNet's own descriptions of the classes hold
    info = ImageNetInfo()
    words = {
        "dog": "dog",
        "bird": "bird",
        "reptile": "lizard",
        "insect": "beetle",
        "primate": "monkey",
        "fish": "fish",
    }
    for name, word in words.items():
        described = [info.label_name_to_description(w, detailed=True) for w, g in groups.items() if g == name]
        assert sum(word in text for text in described) >= 3, name
    with refuses(UsageError, "imagenet-9"):
        class_groups("imagenet9")
