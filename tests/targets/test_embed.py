"""Features carried away: the same numbers in every kind of file, and nothing written in place of another."""

import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from refusals import refuses
from safetensors import safe_open
from safetensors.numpy import load_file
from transparent import TEST, TRAIN, Coded, Pixels, pixel_rows

from fullrank import source, train
from fullrank.embeddings.files import open_embeddings
from fullrank.errors import DataError, InterruptedRunError, UsageError
from fullrank.targets.embed import embed, write_embeddings

DIGITS = tuple("0123456789")


@pytest.fixture
def unlike(tmp_path):
    """Images of another size than the digits', a third of them unlabelled; the spec that reads them."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (9, 12, 12), dtype=np.uint8)
    labels = np.array([0, 1, -1] * 3)
    np.savez(tmp_path / "images.npz", train_images=images, train_labels=labels, test_images=images[:4])
    return f"npz:{tmp_path}/images.npz"


def test_features_are_those_of_the_modules_on_the_images(quick_run):
    images = source("digits").load("test").images
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()) / 255
    with torch.no_grad():
        h = quick_run.encoder(x)
        z = quick_run.head(h)
    features = embed(quick_run)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, h, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(embed(quick_run.path, place="z"), z, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(embed(quick_run, place="h[:3]"), features[:, :3])


def test_the_runs_own_training_images_are_those_it_was_trained_on(quick_run):
    chosen = source("digits").load("train").limited(300, seed=0).images
    own = embed(quick_run, split="train", place="stem")
    every = embed(quick_run, "digits", split="train", place="stem")
    assert own.shape == (300, 8) and every.shape == (1297, 8)
    pixels = source("digits").load("train").images.reshape(1297, -1)
    rows = [int(np.flatnonzero((pixels == image.ravel()).all(1))[0]) for image in chosen[:20]]
    np.testing.assert_allclose(own[:20], every[rows], atol=1e-5)


def test_images_of_another_size_are_brought_to_the_runs(quick_run, unlike):
    resized = source(unlike).load("train", image_size=8).tensor()
    with torch.no_grad():
        expected = quick_run.encoder(resized / 255)
    np.testing.assert_allclose(embed(quick_run, unlike, split="train"), expected, rtol=1e-5, atol=1e-6)


def test_images_that_are_streamed_have_the_features_they_would_have_in_memory(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "colour.npz", images=rng.integers(0, 256, (40, 16, 16, 3), dtype=np.uint8))
    for name in range(9):
        pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    settings = {"encoder": "tiny-resnet,width=4", "head": "none", "batch_size": 10, "epochs": 1}
    run = train("digits", out=tmp_path / "run", data=f"npz:{tmp_path}/colour.npz", **settings)
    streamed = f"folder:{tmp_path},canvas=32"
    images = source(streamed).load("train", image_size=16).tensor()
    with torch.no_grad():
        expected = run.encoder(images / 255)
    monkeypatch.setattr("fullrank.targets.embed.BATCH", 4)
    features = embed(run, streamed, split="train")
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)


def test_npy_holds_the_features_and_beside_them_the_labels(quick_run, tmp_path):
    features = embed(quick_run, out=tmp_path / "x.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy", allow_pickle=False), features)
    labels = np.load(tmp_path / "x.labels.npy", allow_pickle=False)
    np.testing.assert_array_equal(labels, source("digits").load("test").labels["label"])
    assert (tmp_path / "x.ids.txt").read_text().splitlines() == list(source("digits").load("test").ids)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.ids.txt", "x.labels.npy", "x.npy"]


def test_without_a_label_there_is_no_file_of_labels(quick_run, unlike, tmp_path):
    embed(quick_run, unlike, out=tmp_path / "x.npy")
    assert not (tmp_path / "x.labels.npy").exists()


def test_safetensors_say_what_they_hold(quick_run, unlike, tmp_path):
    out = tmp_path / "x.safetensors"
    features = embed(quick_run, unlike, split="train", place="head.1", out=str(out))
    tensors = load_file(out)
    np.testing.assert_array_equal(tensors["features"], features)
    assert tensors["labels"].tolist() == [0, 1, -1] * 3 and tensors["labels"].dtype == np.int64
    with safe_open(out, framework="np") as file:
        notes = file.metadata()
    assert notes["data"] == unlike and notes["split"] == "train" and notes["place"] == "head.1"
    assert notes["encoder"] == "tiny-resnet,width=8" and notes["head"] == "mlp:16"
    assert json.loads(notes["classes"]) == list(source(unlike).load("train").class_names["label"])


def test_parquet_has_a_row_for_each_image(quick_run, unlike, tmp_path):
    embed(quick_run, out=tmp_path / "digits.parquet")
    table = pq.read_table(tmp_path / "digits.parquet")
    labels = source("digits").load("test").labels["label"]
    assert table.column("label").to_pylist() == labels.tolist()
    assert table.column("class").to_pylist() == [DIGITS[label] for label in labels]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 32)
    rows = np.array(table.column("embedding").to_pylist(), np.float32)
    np.testing.assert_array_equal(rows, embed(quick_run))
    assert table.schema.metadata[b"data"] == b"digits"
    assert json.loads(table.schema.metadata[b"classes"]) == list(DIGITS)


def test_parquet_leaves_unlabelled_cells_empty(quick_run, unlike, tmp_path):
    embed(quick_run, unlike, split="train", out=tmp_path / "x.parquet")
    table = pq.read_table(tmp_path / "x.parquet")
    assert table.column("label").to_pylist() == [0, 1, None] * 3
    assert [name is None for name in table.column("class").to_pylist()] == [False, False, True] * 3


@pytest.mark.parametrize("name", ["x.csv", "x", "x.npz"])
def test_another_ending_is_refused(quick_run, tmp_path, name):
    with refuses(UsageError, name, ".npy", ".safetensors", ".parquet"):
        embed(quick_run, out=tmp_path / name)


@pytest.mark.parametrize(
    ("taken", "out"),
    [("x.npy", "x.npy"), ("x.labels.npy", "x.npy"), ("x.ids.txt", "x.npy"), ("x.parquet", "x.parquet")],
)
def test_nothing_is_overwritten(quick_run, tmp_path, taken, out):
    (tmp_path / taken).write_text("precious")
    with refuses(UsageError, tmp_path / taken):
        embed(quick_run, out=tmp_path / out)
    assert [p.name for p in tmp_path.iterdir()] == [taken]
    assert (tmp_path / taken).read_text() == "precious"


def test_a_folder_that_is_not_there_is_said(quick_run, tmp_path):
    with refuses(UsageError, tmp_path / "nowhere", "x.npy"):
        embed(quick_run, out=tmp_path / "nowhere" / "x.npy")


def test_a_missing_extra_is_said_before_anything_is_computed(quick_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with refuses(UsageError, "pyarrow", "fullrank[parquet]"):
        embed(tmp_path / "no run here", out=tmp_path / "x.parquet")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"place": "stage9.1"}, ["stage9.1", "stage3.1"]),
        ({"place": "h[:99]"}, ["h[:99]", 99, 32]),
        ({"split": "val"}, ["val", "train", "test", "all"]),
        ({"data": "digitz"}, ["digitz", "digits"]),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_leaves_no_file(quick_run, tmp_path, options, names):
    with refuses(UsageError, *names) as error:
        embed(quick_run, **options, out=tmp_path / "x.npy")
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_colour_images_are_not_for_an_encoder_of_grey_ones(quick_run, tmp_path):
    np.savez(tmp_path / "colour.npz", images=np.zeros((4, 8, 8, 3), np.uint8))
    with refuses(DataError, 3, 1, quick_run.path, "grey"):
        embed(quick_run, f"npz:{tmp_path}/colour.npz", split="train")


def numbered_folder(folder, count=9):
    """Images of 4 x 4 pixels, each filled with its number, in classes by turns; the spec that reads them."""
    for number in range(count):
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), number).save(path)
    return f"folder:{folder}"


def numbers_in(features):
    return np.rint(np.asarray(features)[:, 0] * 255).astype(int).tolist()


@pytest.mark.parametrize("ending", [".npy", ".safetensors", ".parquet"])
@pytest.mark.parametrize("model", [Pixels, Pixels(1, 4)])
def test_every_image_of_a_folder_is_written_with_its_own_path(tmp_path, monkeypatch, ending, model):
    monkeypatch.setattr("fullrank.targets.embed.BATCH", 4)
    data = numbered_folder(tmp_path / "images")
    written = write_embeddings(model, data, tmp_path / f"x{ending}")
    file = open_embeddings(written.files[0])
    assert (written.rows, written.width, written.dtype) == (9, 16, "float32")
    assert file.ids.tolist() == [f"a/{n}.png" for n in range(0, 9, 2)] + [
        f"b/{n}.png" for n in range(1, 9, 2)
    ]
    assert numbers_in(file.sample(9, seed=0)) == [0, 2, 4, 6, 8, 1, 3, 5, 7]
    assert file.labels.tolist() == [0] * 5 + [1] * 4


@pytest.mark.parametrize(
    ("split", "expected"), [(None, ["test"]), ("train", ["train"]), ("all", ["train", "test"])]
)
def test_splits_that_the_data_state(tmp_path, split, expected):
    features = torch.cat([pixel_rows(each) for each in expected])
    np.testing.assert_array_equal(embed(Pixels, Coded, split=split), features)
    write_embeddings(Pixels, Coded, tmp_path / "x.parquet", split=split)
    table = pq.read_table(tmp_path / "x.parquet")
    assert table.column("embedding").to_pylist() == features.tolist()
    assert len(set(table.column("id").to_pylist())) == len(features)
    if split == "all":
        assert table.column("split").to_pylist() == ["train"] * TRAIN + ["test"] * TEST
    else:
        assert "split" not in table.column_names


def test_data_without_splits_of_their_own_are_embedded_whole(quick_run):
    assert len(embed(quick_run, "digits")) == len(embed(quick_run, "digits", split="all")) == 1797
    assert len(embed(quick_run, "digits", split="test")) == len(embed(quick_run)) == 500
    assert len(embed(quick_run, split="all")) == 800


class Stops(Pixels):
    """The pixels, until an interruption after a number of batches."""

    left = 99

    def features(self, x, places):
        Stops.left -= len(x) == 4  # a batch, not a trial of the encoder
        if Stops.left < 0:
            raise InterruptedRunError("any")
        return super().features(x, places)


@pytest.mark.parametrize("batches", range(3))
def test_an_interrupted_call_is_continued_to_the_same_bytes(tmp_path, monkeypatch, batches):
    monkeypatch.setattr("fullrank.targets.embed.BATCH", 4)
    data, whole, out = numbered_folder(tmp_path / "images", 12), tmp_path / "whole.npy", tmp_path / "x.npy"
    write_embeddings(Stops, data, whole, dtype="float16")
    monkeypatch.setattr(Stops, "left", batches)
    with refuses(InterruptedRunError, 4 * batches, 12):
        write_embeddings(Stops, data, out, dtype="float16")
    monkeypatch.setattr(Stops, "left", 99)
    if batches:
        with refuses(UsageError, "place", "h", "quiet"):
            write_embeddings(Stops, data, out, dtype="float16", place="quiet", resume=True)
    write_embeddings(Stops, data, out, dtype="float16", resume=True)
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.glob("x.*")) == ["x.ids.txt", "x.labels.npy", "x.npy"]


def test_other_weights_are_not_mixed_into_a_part(tmp_path, monkeypatch):
    monkeypatch.setattr("fullrank.targets.embed.BATCH", 4)
    data, out, net = numbered_folder(tmp_path / "images"), tmp_path / "x.npy", Stops(1, 4)
    monkeypatch.setattr(Stops, "left", 1)
    with pytest.raises(InterruptedRunError):
        write_embeddings(net, data, out)
    monkeypatch.setattr(Stops, "left", 99)
    torch.nn.init.ones_(net.idle)
    with refuses(UsageError, "weights_crc32"):
        write_embeddings(net, data, out, resume=True)


@pytest.mark.parametrize("ending", [".npy", ".safetensors", ".parquet"])
def test_a_file_of_embeddings_is_converted(tmp_path, monkeypatch, ending):
    monkeypatch.setattr("fullrank.targets.embed.BATCH", 50)
    write_embeddings(Pixels, Coded, tmp_path / "x.parquet", split="all")
    written = write_embeddings(tmp_path / "x.parquet", None, tmp_path / f"y{ending}", dtype="float16")
    first, second = open_embeddings(tmp_path / "x.parquet"), open_embeddings(tmp_path / f"y{ending}")
    assert (written.rows, written.width, second.dtype) == (TRAIN + TEST, 16, "float16")
    assert second.ids.tolist() == first.ids.tolist() and second.labels.tolist() == first.labels.tolist()
    torch.testing.assert_close(next(second.chunks()), next(first.chunks()), rtol=1e-3, atol=0)
    with refuses(UsageError, "x.parquet", "split"):
        write_embeddings(tmp_path / "x.parquet", None, tmp_path / "z.npy", split="all")


def test_what_a_model_without_a_head_lacks_is_said(tmp_path):
    with refuses(UsageError, "z", "h"):
        embed(Pixels, Coded, place="z")
    with refuses(UsageError, "float64", "float32", "float16"):
        write_embeddings(Pixels, Coded, tmp_path / "x.npy", dtype="float64")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_run_is_said(tmp_path):
    with refuses(DataError, tmp_path, "record.json"):
        embed(tmp_path)
