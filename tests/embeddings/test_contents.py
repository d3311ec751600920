"""Files as people have them: names, splits, ids, shards, packed bits, and every kind of label."""

import decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from refusals import refuses
from safetensors.torch import save_file

from fullrank.embeddings.files import open_embeddings, paired
from fullrank.errors import DataError, UsageError

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((60, 6)).astype(np.float32)
NUMBERS = np.arange(60) % 3


def whole(file):
    return torch.cat(list(file.chunks(7))).numpy()


def parquet(path, **columns):
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(ROWS.ravel()), 6)
    pq.write_table(pa.table({"embedding": vectors} | columns), path)
    return path


# Labels


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", ""])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_and_any_line_end_are_no_part_of_a_label(tmp_path, end, mark):
    np.save(tmp_path / "x.npy", ROWS)
    for name, words, classes in (("w", ["b", "a", "c"], ("a", "b", "c")), ("n", ["5", "5.0", "nan"], ())):
        lines = [words[i] for i in NUMBERS]
        text = (end or "\n").join(lines) + end
        (tmp_path / f"{name}.txt").write_bytes(mark + text.encode())
        file = open_embeddings(tmp_path / "x.npy", labels=tmp_path / f"{name}.txt")
        expected = [1, 0, 2] if classes else [5, 5, -1]
        assert file.classes == classes and file.labels.tolist() == expected * 20


@pytest.mark.parametrize(
    ("column", "labels", "classes"),
    [
        (NUMBERS.astype(float), [0, 1, 2], ()),
        (pa.array([0.0, None, 2.0] * 20), [0, -1, 2], ()),
        (pa.array([None, True, False] * 20), [-1, 1, 0], ()),
        (pa.array(["a", None, "b"] * 20, pa.string_view()), [0, -1, 1], ("a", "b")),
        (pa.array(["a", None, "b"] * 20, pa.large_string()).dictionary_encode(), [0, -1, 1], ("a", "b")),
        (pa.array([b"a", None, b"b"] * 20), [0, -1, 1], ("a", "b")),
        (pa.array([1, None, 2] * 20, pa.uint64()), [1, -1, 2], ()),
        (pa.array([2**63 + 5, None, 7] * 20, pa.uint64()), [1, -1, 0], ("7", "9223372036854775813")),
        (pa.array([decimal.Decimal(4), decimal.Decimal(9), None] * 20), [4, 9, -1], ()),
        (pa.nulls(60), None, ()),
    ],
)
def test_label_columns_of_every_type(tmp_path, column, labels, classes):
    file = open_embeddings(parquet(tmp_path / "x.parquet", label=column))
    assert file.classes == classes
    assert labels is None if file.labels is None else file.labels.tolist() == labels * 20


def test_labels_in_bfloat16_are_read_while_they_are_exact(tmp_path):
    for top in (255, 256):
        labels = torch.arange(60).remainder(2).mul(top).bfloat16()
        save_file({"x": torch.from_numpy(ROWS), "y": labels}, tmp_path / f"{top}.safetensors")
    assert open_embeddings(tmp_path / "255.safetensors").labels.tolist() == [0, 255] * 30
    with refuses(DataError, "256"):  # 257 is stored as 256 too
        open_embeddings(tmp_path / "256.safetensors")


def test_fractions_and_lists_are_no_labels(tmp_path):
    with refuses(DataError, 0.5, "row 1"):
        open_embeddings(parquet(tmp_path / "x.parquet", label=NUMBERS / 2))
    with refuses(DataError, "label", "list"):
        open_embeddings(parquet(tmp_path / "x.parquet", label=[[1]] * 60))


# Features


def test_the_column_of_the_features_can_be_named(tmp_path):
    np.savez(tmp_path / "x.npz", title=ROWS, body=ROWS + 1, labels=NUMBERS)
    assert (whole(open_embeddings(tmp_path / "x.npz", column="body")) == ROWS + 1).all()
    with refuses(UsageError, "'head'", "title"):
        open_embeddings(tmp_path / "x.npz", column="head")
    np.save(tmp_path / "x.npy", ROWS)
    with refuses(UsageError, "'body'"):
        open_embeddings(tmp_path / "x.npy", column="body")


def test_tensors_of_arrow_and_lists_of_words_beside_them(tmp_path):
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(ROWS.ravel()), 6)
    tensors = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), [6]), vectors)
    for name, column in (("tensor", tensors), ("list", list(ROWS))):
        pq.write_table(pa.table({"v": column, "tags": [["a"]] * 60}), tmp_path / f"{name}.parquet")
        assert (whole(open_embeddings(tmp_path / f"{name}.parquet")) == ROWS).all()


def test_endings_in_upper_case_and_commas_in_names(tmp_path):
    with (tmp_path / "a, b.NPY").open("wb") as stream:
        np.save(stream, ROWS)
    (tmp_path / "l, m.TXT").write_text("1\n" * 60)
    file = open_embeddings(tmp_path / "a, b.NPY", labels=str(tmp_path / "l, m.TXT"))
    assert (whole(file) == ROWS).all() and set(file.labels) == {1}


def test_tables_and_files_of_torch_are_refused_with_the_way(tmp_path):
    for name, way in (("x.csv", "numpy.loadtxt"), ("x.pt", "weights_only"), ("x.h5", "h5py.File")):
        with refuses(UsageError, way):
            open_embeddings(tmp_path / name)


# Bits


def coded(values):
    """Real numbers (N, D) as a sign code: the bits, and the bits in bytes."""
    return values > 0, np.packbits(values > 0, axis=1)


def test_packed_bits_are_refused_or_unpacked_and_never_taken_for_numbers(tmp_path):
    centres = RNG.standard_normal((5, 64))
    bits, packed = coded(RNG.standard_normal((300, 64)) + 0.8 * centres[np.arange(300) % 5])
    for name, array in (("u.npy", packed), ("i.npy", (packed.astype(int) - 128).astype(np.int8))):
        np.save(tmp_path / name, array)
        with refuses(DataError, name, "packed=True"):
            open_embeddings(tmp_path / name)
        file = open_embeddings(tmp_path / name, packed=True)
        assert (file.width, file.dtype) == (64, "bit")
        np.testing.assert_array_equal(whole(file), np.where(bits, 1, -1))
        np.testing.assert_array_equal(file.sample(9, 0), np.where(bits, 1, -1)[file.sample_rows(9, 0)])
        assert whole(open_embeddings(tmp_path / name, packed=False)).max() <= 255


@pytest.mark.parametrize("scale", [5, 20, 40])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_numbers_of_eight_bits_are_read_and_said(tmp_path, scale, dtype):
    middle = 128 if dtype == "uint8" else 0
    values = np.clip(np.rint(RNG.standard_normal((300, 32)) * scale) + middle, middle - 128, middle + 127)
    np.save(tmp_path / "x.npy", values.astype(dtype))
    file = open_embeddings(tmp_path / "x.npy")
    assert (whole(file) == values).all() and dtype in file.notes[0]


def test_only_bytes_hold_bits(tmp_path):
    np.save(tmp_path / "x.npy", ROWS)
    with refuses(DataError, "float32", "uint8"):
        open_embeddings(tmp_path / "x.npy", packed=True)


# Ids


def test_ids_come_from_a_column_or_from_lines_beside_the_array(tmp_path):
    names = [f"café/{i}, b.png" for i in range(60)]
    np.save(tmp_path / "x.npy", ROWS)
    (tmp_path / "x.ids.txt").write_text("\n".join(names), encoding="utf-8")
    np.savez(tmp_path / "x.npz", emb=ROWS, Path=np.array(names)[:, None])
    for path in (tmp_path / "x.npy", tmp_path / "x.npz", parquet(tmp_path / "x.parquet", key=names)):
        file = open_embeddings(path)
        assert file.ids.tolist() == names and file.notes == ()
    broken = ROWS.copy()
    broken[1] = np.nan
    np.save(tmp_path / "x.npy", broken)
    assert open_embeddings(tmp_path / "x.npy", skip_bad=True).ids.tolist() == names[:1] + names[2:]
    (tmp_path / "x.ids.txt").write_text("a\nb\n")
    with refuses(DataError, "60 rows", "2 ids"):
        open_embeddings(tmp_path / "x.npy")


def test_an_id_twice_is_said(tmp_path):
    file = open_embeddings(parquet(tmp_path / "x.parquet", id=["a", "a", *map(str, range(58))]))
    (note,) = file.notes
    assert "'a'" in note and "59 ids" in note


def test_pairs_with_other_ids_are_refused(tmp_path):
    for name, ids in (("a", range(60)), ("b", [1, 0, *range(2, 60)])):
        np.savez(tmp_path / f"{name}.npz", x=ROWS, id=np.array(ids))
    one, other = (open_embeddings(tmp_path / f"{name}.npz") for name in "ab")
    assert paired(one, one)[0].rows == 60
    with refuses(DataError, "row 0", "'0'", "'1'"):
        paired(one, other)


# Splits


def test_the_words_of_a_split_column_say_which_rows_learn(tmp_path):
    split = ["Training", "dev", " test ", None] * 15
    file = open_embeddings(parquet(tmp_path / "x.parquet", split=split))
    fit, score = file.splits()
    assert fit.tolist() == list(range(0, 60, 4)) and score.tolist() == list(range(2, 60, 4))
    without = open_embeddings(parquet(tmp_path / "y.parquet", split=["train", "val"] * 30))
    assert without.splits()[1].tolist() == list(range(1, 60, 2))
    broken = ROWS.copy()
    broken[0] = np.inf
    np.savez(tmp_path / "x.npz", x=broken, split=np.array(["train", "test"] * 30))
    fit, score = open_embeddings(tmp_path / "x.npz", skip_bad=True).splits()
    assert fit[0] == 1 and score[0] == 0 and len(fit) == 29


@pytest.mark.parametrize(
    ("words", "part"), [(["train", "fold7"], "'fold7'"), (["train", "train"], "'train'")]
)
def test_a_split_with_unknown_words_or_one_side_is_refused(tmp_path, words, part):
    with refuses(DataError, part):
        open_embeddings(parquet(tmp_path / "x.parquet", split=words * 30))


@pytest.mark.parametrize("kind", [".npz", ".safetensors"])
@pytest.mark.parametrize("names", ["{0}_{1}", "{1}_{0}"])
def test_arrays_of_two_splits_are_one_file(tmp_path, kind, names):
    parts = {"train": slice(0, 40), "test": slice(40, 60)}
    arrays = {
        names.format(what, word): array[rows]
        for word, rows in parts.items()
        for what, array in (("X", ROWS), ("y", NUMBERS))
    }
    if kind == ".npz":
        np.savez(tmp_path / "x.npz", **arrays)
    else:
        save_file(
            {name: torch.from_numpy(array.copy()) for name, array in arrays.items()},
            tmp_path / "x.safetensors",
        )
    file = open_embeddings(tmp_path / f"x{kind}")
    fit, score = file.splits()
    for rows, part in ((fit, "train"), (score, "test")):
        np.testing.assert_array_equal(file.take(rows), ROWS[parts[part]])
        assert file.labels[rows].tolist() == NUMBERS[parts[part]].tolist()


def test_without_a_split_there_are_two_halves_drawn_by_a_seed(tmp_path):
    np.save(tmp_path / "x.npy", ROWS)
    file = open_embeddings(tmp_path / "x.npy")
    fit, score = file.splits(3)
    assert len(fit) == len(score) == 30 and sorted([*fit, *score]) == list(range(60))
    assert fit.tolist() == file.splits(3)[0].tolist() != file.splits(4)[0].tolist()


# Shards


@pytest.mark.parametrize("kind", [".npy", ".parquet", ".safetensors"])
def test_a_folder_of_shards_is_one_file(tmp_path, kind):
    for number, rows in enumerate((slice(0, 9), slice(9, 10), slice(10, 60))):
        path = tmp_path / f"part-{number}{kind}"
        if kind == ".npy":
            np.save(path, ROWS[rows])
            np.save(path.with_suffix(".labels.npy"), NUMBERS[rows])
        elif kind == ".safetensors":
            save_file(
                {"x": torch.from_numpy(ROWS[rows].copy()), "y": torch.from_numpy(NUMBERS[rows].copy())}, path
            )
        else:
            pq.write_table(pa.table({"vector": list(ROWS[rows]), "label": NUMBERS[rows]}), path)
    (tmp_path / "README.md").write_text("shards")
    file = open_embeddings(tmp_path)
    assert (file.rows, file.width) == (60, 6)
    np.testing.assert_array_equal(whole(file), ROWS)
    np.testing.assert_array_equal(file.take(np.array([59, 0, 9, 20, 8])), ROWS[[59, 0, 9, 20, 8]])
    assert file.labels.tolist() == NUMBERS.tolist()


def test_shards_that_do_not_fit_are_refused(tmp_path):
    with refuses(DataError, tmp_path.name):
        open_embeddings(tmp_path)
    np.save(tmp_path / "a.npy", ROWS)
    np.save(tmp_path / "b.npy", ROWS[:, :5])
    with refuses(DataError, "a.npy has width 6", "b.npy has width 5"):
        open_embeddings(tmp_path)
    np.save(tmp_path / "b.npy", ROWS)
    np.save(tmp_path / "a.labels.npy", NUMBERS)
    with refuses(DataError, "1 of 2", "b.npy"):
        open_embeddings(tmp_path)
    np.savez(tmp_path / "c.npz", x=ROWS)
    with refuses(DataError, ".npy", ".npz"):
        open_embeddings(tmp_path)
