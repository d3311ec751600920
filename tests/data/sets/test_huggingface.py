import io
import sys
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from refusals import refuses
from torchvision.transforms import CenterCrop, Resize

from fullrank.data import source
from fullrank.errors import DataError, UsageError


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path_factory) -> None:
    """No test asks the hub, and none writes to the cache of the user."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def pixels(image: Image.Image, size: int) -> np.ndarray:
    return np.asarray(CenterCrop(size)(Resize(round(size * 256 / 224))(image)))


def test_a_saved_set_is_read_as_its_library_does(tmp_path: Path, saved):
    path = saved(tmp_path)
    theirs = datasets.load_from_disk(str(path))
    for split in ("train", "test"):
        for spec in (f"huggingface:{path}", f"hf:{path},image=picture,label=kind"):
            ours = source(spec).load(split, image_size=8)
            assert ours.class_names == {"label": ("cat", "dog")}
            assert ours.labels["label"].tolist() == theirs[split][:]["kind"]
            assert ours.image_shape == (8, 8, 3) and ours.images.shape == (len(ours), 320, 320, 3)
            for found, row in zip(ours.tensor(), theirs[split], strict=True):
                assert np.array_equal(found.permute(1, 2, 0).numpy(), pixels(row["picture"], 8))
    _, sizes = source(f"hf:{path},canvas=16").load("train", image_size=8).read(np.array([3, 0]))
    assert sizes.tolist() == [[13, 12], [10, 12]]
    assert source(f"hf:{path}").load("train").image_size == 224


def test_a_column_of_numbers_may_be_the_labels(tmp_path: Path, saved):
    path = saved(tmp_path, train=12, test=3)
    train = source(f"hf:{path},label=number").load("train")
    assert train.class_names == {"label": tuple(map(str, range(12)))}
    assert train.labels["label"].tolist() == list(range(12))


def test_words_are_classes_and_missing_labels_unlabelled(tmp_path: Path):
    images = [Image.new("RGB", (9, 9), (row * 20,) * 3) for row in range(6)]
    features = datasets.Features(x=datasets.Image(), y=datasets.Value("string"), z=datasets.Value("float32"))
    columns = {"x": images, "y": ["b", "a", None, "b", "a", "c"], "z": [0.5] * 6}
    table = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict(train=table, validation=table.select([1, 0])).save_to_disk(tmp_path / "x")
    train = source(f"hf:{tmp_path / 'x'},label=y").load("train")
    assert train.class_names == {"label": ("a", "b", "c")}
    assert train.labels["label"].tolist() == [1, 0, -1, 1, 0, 2]
    assert source(f"hf:{tmp_path / 'x'},label=y").load("test").labels["label"].tolist() == [0, 1]
    unlabelled = source(f"hf:{tmp_path / 'x'}").load("train")
    assert unlabelled.class_names == {"label": ()} and set(unlabelled.labels["label"]) == {-1}
    with refuses(DataError, "'z'", "label=COLUMN"):
        source(f"hf:{tmp_path / 'x'},label=z").load("train")


def test_a_test_split_without_labels_is_the_last_choice(tmp_path: Path, saved):
    loaded = datasets.load_from_disk(str(saved(tmp_path, train=6, test=3, validation=4)))
    hidden = loaded["test"].map(lambda row: {"kind": -1})
    datasets.DatasetDict({**loaded, "test": hidden}).save_to_disk(tmp_path / "hidden")
    assert len(source(f"hf:{tmp_path / 'saved'}").load("test")) == 3
    assert len(source(f"hf:{tmp_path / 'hidden'}").load("test")) == 4


@pytest.mark.parametrize("name", ["test", "Validation", "valid", "dev"])
def test_the_names_of_the_test_split(name, tmp_path: Path, saved):
    path = saved(tmp_path, train=4, **{name: 2})
    assert [len(source(f"hf:{path}").load(split)) for split in ("train", "test")] == [4, 2]


def test_one_split_is_parted_once_and_for_all(tmp_path: Path, saved):
    table = datasets.load_from_disk(str(saved(tmp_path, train=20)))
    table["train"].save_to_disk(tmp_path / "table")  # a table alone, without splits
    for path in (tmp_path / "saved", tmp_path / "table"):
        train, test = (source(f"hf:{path}").load(split) for split in ("train", "test"))
        assert np.bincount(train.labels["label"]).tolist() == [8, 8]
        assert np.bincount(test.labels["label"]).tolist() == [2, 2]
        assert set(train.images.rows) | set(test.images.rows) == set(range(20))


def test_folders_of_images_and_parquet_files(tmp_path: Path, saved, image_folder):
    image_folder(tmp_path / "images" / "train", count=3)
    image_folder(tmp_path / "images" / "test", count=2)
    images = source(f"hf:{tmp_path / 'images'}").load("train", image_size=12)
    assert images.class_names == {"label": ("cat", "dog")} and len(images) == 6
    found = sorted(image.tobytes() for image in images.tensor().permute(0, 2, 3, 1).numpy())
    files = (tmp_path / "images" / "train").glob("*/*.png")
    assert found == sorted(pixels(Image.open(path), 12).tobytes() for path in files)
    loaded = datasets.load_from_disk(str(saved(tmp_path)))
    (tmp_path / "parquet").mkdir()
    for split in ("train", "test"):
        loaded[split].to_parquet(tmp_path / "parquet" / f"{split}.parquet")
    for path, count in ((tmp_path / "parquet", 12), (tmp_path / "parquet/train.parquet", 10)):
        train = source(f"hf:{path}").load("train", image_size=8)
        assert len(train) == count and train.class_names == {"label": ("cat", "dog")}
        assert train.tensor().shape == (count, 3, 8, 8)


def test_without_the_library_its_extra_is_named(tmp_path: Path, monkeypatch, fails):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with fails(UsageError, f"huggingface:{tmp_path}", "pip install", "'fullrank[huggingface]'"):
        source(f"hf:{tmp_path}").load("train")


def test_what_cannot_be_loaded_is_named(tmp_path: Path, saved, fails):
    for missing in ("nobody/has-this", str(tmp_path / "gone")):
        with fails(DataError, f"huggingface:{missing}", "loaded"):
            source(f"hf:{missing}").load("train")
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    with fails(DataError, "x.parquet", "loaded"):
        source(f"hf:{tmp_path / 'x.parquet'}").load("train")
    path = saved(tmp_path, train=3, other=2)
    with fails(DataError, "train, other", "validation"):
        source(f"hf:{path}").load("train")
    path = saved(tmp_path / "second", test=3, validation=2)
    with fails(DataError, "test, validation", "needs train"):
        source(f"hf:{path}").load("train")


@pytest.mark.parametrize(
    ("option", "kind", "words"),
    [
        ("image=pictur", UsageError, ["'pictur'", "'picture'"]),
        ("label=knd", UsageError, ["'knd'", "'kind'"]),
        ("image=number", DataError, ["column 'number'", "datasets.Image"]),
    ],
)
def test_columns_must_be_there(option, kind, words, tmp_path: Path, saved):
    path = saved(tmp_path)
    with pytest.raises(kind) as caught:
        source(f"hf:{path},{option}").load("train")
    assert all(word in str(caught.value) for word in words)


def test_a_set_without_images_is_refused(tmp_path: Path, fails):
    datasets.Dataset.from_dict({"a": [1], "b": ["x"]}).save_to_disk(tmp_path / "x")
    with fails(DataError, "datasets.Image", "a, b"):
        source(f"hf:{tmp_path / 'x'}").load("train")


def test_a_row_without_an_image_is_named(tmp_path: Path, fails):
    features = datasets.Features(x=datasets.Image())
    table = datasets.Dataset.from_dict({"x": [Image.new("L", (4, 4)), None]}, features=features)
    datasets.DatasetDict(train=table, test=table).save_to_disk(tmp_path / "x")
    with fails(DataError, "image 1", "train", "row"):
        source(f"hf:{tmp_path / 'x'}").load("train", image_size=4).tensor()


def write_shards(folder: Path, shards: int = 2, each: int = 4) -> list[np.ndarray]:
    """Tar shards as WebDataset lays them out: files of one stem are a sample; the training images."""
    folder.mkdir()
    rng, written = np.random.default_rng(0), []
    for split in ("train", "test"):
        for shard in range(shards):
            with tarfile.open(folder / f"{split}-{shard:05}.tar", "w") as archive:
                for row in range(each):
                    pixels = rng.integers(0, 256, (12, 12, 3), np.uint8)
                    file = io.BytesIO()
                    Image.fromarray(pixels).save(file, "PNG")
                    written += [pixels] if split == "train" else []
                    for ending, content in (("png", file.getvalue()), ("cls", str(row % 2).encode())):
                        member = tarfile.TarInfo(f"{shard}{row:04}.{ending}")
                        member.size = len(content)
                        archive.addfile(member, io.BytesIO(content))
    return written


def test_tar_shards_are_random_access_in_the_order_of_their_names(tmp_path: Path):
    written = write_shards(tmp_path / "shards")
    built = source(f"hf:{tmp_path / 'shards'},image=png,label=cls,canvas=12")
    train, test = built.load("train", 12), built.load("test", 12)
    assert len(train) == len(test) == 8 and train.labels["label"].tolist() == [0, 1] * 4
    rows = np.array([6, 1, 3])
    assert np.array_equal(train.read(rows)[0].permute(0, 2, 3, 1), np.stack([written[row] for row in rows]))
    again = source(built.name).load("train", 12)
    assert again.checksum() == train.checksum() and np.array_equal(again.tensor(), train.tensor())


def test_a_tar_shard_that_was_cut_off_is_a_sentence(tmp_path: Path, fails):
    write_shards(tmp_path / "shards")
    path = tmp_path / "shards/train-00001.tar"
    path.write_bytes(path.read_bytes()[:700])
    with fails(DataError, "shards", "loaded"):
        source(f"hf:{tmp_path / 'shards'},image=png,label=cls").load("train")


def test_bytes_of_files_are_images_whatever_the_columns_kind(tmp_path: Path):
    def png(row):
        file = io.BytesIO()
        Image.new("RGB", (5, 5), (row * 20, 0, 0)).save(file, "PNG")
        return file.getvalue()

    cells = [png(row) for row in range(5)]
    for kind, column in {
        "plain": cells,
        "mapping": [{"bytes": cell, "path": None} for cell in cells],
    }.items():
        pq.write_table(pa.table({"word": ["a"] * 5, "picture": column}), tmp_path / f"{kind}.parquet")
        train = source(f"hf:{tmp_path / kind}.parquet").load("train", image_size=5)
        assert sorted(train.tensor()[:, 0, 0, 0].tolist()) == [20 * row for row in train.images.originals]


def test_deeper_pixels_need_their_bits(tmp_path: Path):
    deep = [np.full((8, 8), value, np.uint16) for value in (4095, 0, 2048, 1024) * 3]
    features = datasets.Features(picture=datasets.Image())
    columns = {"picture": [Image.fromarray(image) for image in deep]}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "deep")
    spec = f"huggingface:{tmp_path / 'deep'}"
    with refuses(DataError, spec, 255, "bits=12"):
        source(spec).load("all", 8).tensor()
    images = source(f"{spec},bits=12").load("all", 8).tensor()
    assert images[:4, 0, 0, 0].tolist() == [255, 0, 128, 64]
