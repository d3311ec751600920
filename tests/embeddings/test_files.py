"""Files of embeddings: the same numbers from every kind of file, and one sentence for every wrong one."""

import io
import pickle
import re
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings, strategies as st
from refusals import refuses
from safetensors.torch import save_file

from fullrank.embeddings.columns import numbered
from fullrank.embeddings.files import check_same_width, open_embeddings, paired
from fullrank.errors import DataError, UsageError
from fullrank.linalg import Moments

ROWS = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
KINDS = [".npy", ".npz", ".safetensors", ".parquet"]


@contextmanager
def fails(kind, *parts):
    """That error, as one sentence with a remedy, which holds the parts."""
    with refuses(kind, *parts) as raised:
        yield
    message = str(raised.value)
    assert type(raised.value) is kind
    assert message.endswith(".") and "\n" not in message, message
    assert not re.search(r"[.!?] +[A-Z]", message), message
    assert ";" in message, f"no remedy: {message}"


def write(folder, kind, features, labels=None, name="x"):
    """Features, and labels if there are any, in a file as others write it."""
    path = folder / f"{name}{kind}"
    if kind == ".npy":
        np.save(path, features)
        if labels is not None:
            np.save(folder / f"{name}.labels.npy", labels)
    elif kind == ".npz":
        np.savez_compressed(path, embeddings=features, **({} if labels is None else {"Y": labels}))
    elif kind == ".safetensors":
        given = {} if labels is None else {"labels": torch.from_numpy(labels)}
        save_file({"features": torch.from_numpy(features.copy()), **given}, path)
    else:
        vectors = pa.array(list(features), pa.list_(pa.from_numpy_dtype(features.dtype)))
        columns = {"id": list(range(len(features))), "embedding": vectors}
        pq.write_table(pa.table(columns | ({} if labels is None else {"label": labels})), path)
    return path


def whole(file, rows=7):
    chunks = list(file.chunks(rows))
    assert all(chunk.dtype == torch.float32 and 1 <= len(chunk) <= rows for chunk in chunks)
    return torch.cat(chunks).numpy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int8", "uint16", "int64"])
def test_every_kind_of_file_gives_its_numbers(tmp_path, kind, dtype):
    features = (ROWS * 40).astype(dtype) if "f" in dtype else (abs(ROWS) * 40).astype(dtype)
    labels = np.arange(50) % 4 - 1
    file = open_embeddings(write(tmp_path, kind, features, labels))
    assert (file.rows, file.width, file.dtype, file.name) == (50, 6, dtype, f"x{kind}")
    np.testing.assert_array_equal(whole(file), features.astype(np.float32))
    np.testing.assert_array_equal(file.labels, labels)
    assert file.labels.dtype == np.int64 and file.classes == ()
    rows = file.sample_rows(20, seed=3)
    np.testing.assert_array_equal(file.sample(20, seed=3), features.astype(np.float32)[rows])


@pytest.mark.parametrize("kind", KINDS)
def test_without_labels_there_are_none(tmp_path, kind):
    assert open_embeddings(write(tmp_path, kind, ROWS)).labels is None
    assert open_embeddings(write(tmp_path, kind, ROWS, np.full(50, -1), "y")).labels is None


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", ">i2", "<f8", np.longdouble])
def test_memory_layout_and_byte_order_do_not_matter(tmp_path, order, dtype):
    features = np.asarray(ROWS * 9, dtype=dtype, order=order)
    file = open_embeddings(write(tmp_path, ".npy", features))
    np.testing.assert_array_equal(whole(file), features.astype(np.float32))
    np.testing.assert_array_equal(file.sample(9, 0), features.astype(np.float32)[file.sample_rows(9, 0)])


def test_bfloat16_is_read_from_safetensors(tmp_path):
    tensor = torch.from_numpy(ROWS).bfloat16()
    save_file({"embedding": tensor}, tmp_path / "x.safetensors")
    file = open_embeddings(tmp_path / "x.safetensors")
    assert file.dtype == "bfloat16"
    np.testing.assert_array_equal(whole(file), tensor.float())


def test_what_embed_writes_is_read(tmp_path, quick_run):
    from fullrank.targets.embed import embed

    for kind in (".npy", ".safetensors", ".parquet"):
        features = embed(quick_run, out=tmp_path / f"h{kind}")
        file = open_embeddings(tmp_path / f"h{kind}")
        np.testing.assert_array_equal(whole(file, 128), features)
        assert len(file.labels) == 500 and set(file.labels.tolist()) == set(range(10))


@pytest.mark.parametrize(("names", "chosen"), [(["other", "X"], "X"), (["x", "embeddings"], "embeddings")])
def test_names_are_looked_for_in_order_and_in_any_case(tmp_path, names, chosen):
    arrays = {name: ROWS + i for i, name in enumerate(names)}
    np.savez(tmp_path / "x.npz", **arrays)
    np.testing.assert_array_equal(whole(open_embeddings(tmp_path / "x.npz")), arrays[chosen])


def test_the_only_matrix_needs_no_name(tmp_path):
    np.savez(tmp_path / "x.npz", what=ROWS, ever=np.arange(50), cube=np.zeros((2, 2, 2)))
    file = open_embeddings(tmp_path / "x.npz", labels="ever")
    np.testing.assert_array_equal(whole(file), ROWS)
    np.testing.assert_array_equal(file.labels, np.arange(50))


def test_two_matrices_without_a_name_are_not_chosen_between(tmp_path):
    np.savez(tmp_path / "x.npz", a=ROWS, b=ROWS)
    with fails(DataError, "a (50, 6), b (50, 6)", "'features'"):
        open_embeddings(tmp_path / "x.npz")


def test_parquet_takes_lists_of_any_making(tmp_path):
    flat = pa.array(ROWS.reshape(-1))
    fixed = pa.FixedSizeListArray.from_arrays(flat, 6)
    large = fixed.cast(pa.large_list(pa.float32()))
    for name, column in (("fixed", fixed), ("large", large)):
        table = pa.table({"vector": column, "y": pa.array(["a", None] * 25).dictionary_encode()})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=11)
        file = open_embeddings(tmp_path / f"{name}.parquet")
        np.testing.assert_array_equal(whole(file), ROWS)
        assert file.labels.tolist() == [0, -1] * 25 and file.classes == ("a",)


# Labels


def test_words_are_numbered_in_their_order(tmp_path):
    labels = np.array(["dog", "", "cat", "dog", "ape"] * 10)
    for kind in (".npz", ".npy", ".parquet"):
        file = open_embeddings(write(tmp_path, kind, ROWS, labels))
        assert file.classes == ("ape", "cat", "dog")
        assert file.labels.tolist() == [2, -1, 1, 2, 0] * 10


@pytest.mark.parametrize(
    ("text", "labels", "classes"),
    [
        ("3\n-1\n" * 25, [3, -1] * 25, ()),
        ("b\n a \n" * 25, [1, 0] * 25, ("a", "b")),
        ("b\n\n" * 25, [0, -1] * 25, ("b",)),
    ],
)
def test_labels_in_a_file_of_lines(tmp_path, text, labels, classes):
    (tmp_path / "l.txt").write_text(text)
    file = open_embeddings(write(tmp_path, ".npy", ROWS), labels=tmp_path / "l.txt")
    assert file.labels.tolist() == labels and file.classes == classes


def test_labels_in_another_file_are_preferred(tmp_path):
    np.save(tmp_path / "other.npy", np.arange(50)[:, None])
    path = write(tmp_path, ".npz", ROWS, np.zeros(50, int))
    assert open_embeddings(path, labels=str(tmp_path / "other.npy")).labels.tolist() == list(range(50))


@pytest.mark.parametrize(
    ("labels", "parts"),
    [
        (np.arange(49), ["50 rows", "49 labels"]),
        (np.arange(50) - 2, [-2, -1]),
        (np.arange(50) / 2, [0.5, "row 1"]),
        (np.zeros((50, 2), int), ["(50, 2)"]),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels, parts):
    path = write(tmp_path, ".npy", ROWS, labels)
    with fails(DataError, *parts):
        open_embeddings(path)


def test_labels_that_are_not_there_are_said(tmp_path):
    with fails(UsageError, "x.npz", "'age'", "Y"):
        open_embeddings(write(tmp_path, ".npz", ROWS, np.arange(50)), labels="age")
    with fails(UsageError, "x.npy", "'age'", ".txt"):
        open_embeddings(write(tmp_path, ".npy", ROWS), labels="age")
    with fails(DataError, "none.txt"):
        open_embeddings(write(tmp_path, ".npy", ROWS), labels="none.txt")
    (tmp_path / "l.txt").write_bytes(b"\xff\xfe\x00")
    with fails(DataError, "l.txt", "UTF-8"):
        open_embeddings(write(tmp_path, ".npy", ROWS), labels=tmp_path / "l.txt")


def test_bytes_are_words_too():
    labels, classes = numbered(np.array([b"b", b"", b"a"]), "x")
    assert labels.tolist() == [1, -1, 0] and classes == ("a", "b")


# Rows that are not finite


@given(
    bad=st.dictionaries(st.integers(0, 29), st.sampled_from([np.nan, np.inf, -np.inf]), max_size=25),
    column=st.integers(0, 3),
    rows=st.integers(1, 31),
    seed=st.integers(0, 5),
)
@settings(max_examples=30, deadline=None)
def test_rows_that_are_not_finite_are_counted_located_and_left_out(tmp_path_factory, bad, column, rows, seed):
    folder = tmp_path_factory.mktemp("bad")
    features = np.random.default_rng(seed).standard_normal((30, 4)).astype(np.float32)
    for row, value in bad.items():
        features[row, column] = value
    path = write(folder, ".npy", features, np.arange(30))
    left = np.array([row for row in range(30) if row not in bad])
    if bad:
        with fails(DataError, f"{len(bad)} of 30", f"row {min(bad)}"):
            open_embeddings(path)
    file = open_embeddings(path, skip_bad=True)
    assert file.dropped.tolist() == sorted(bad) and file.rows == len(left)
    np.testing.assert_array_equal(whole(file, rows), features[left])
    np.testing.assert_array_equal(file.labels, left)
    np.testing.assert_array_equal(file.sample(5, seed), features[left][file.sample_rows(5, seed)])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_finds_them(tmp_path, kind):
    features = ROWS.copy()
    features[[4, 9, 44]] = np.nan
    path = write(tmp_path, kind, features)
    with fails(DataError, "3 of 50", "row 4", "skip_bad"):
        open_embeddings(path)
    file = open_embeddings(path, skip_bad=True)
    np.testing.assert_array_equal(whole(file, 3), np.delete(ROWS, [4, 9, 44], 0))
    np.testing.assert_array_equal(file.sample(99, 0), np.delete(ROWS, [4, 9, 44], 0))


def test_a_number_beyond_float32_is_found(tmp_path):
    features = ROWS.astype(np.float64)
    features[7, 2] = 1e39
    with fails(DataError, "1 of 50", "float32", "row 7"):
        open_embeddings(write(tmp_path, ".npy", features))


def test_empty_cells_of_parquet_are_rows_that_are_not_finite(tmp_path):
    cells = [[1, 2], None, [3, None], [5, 6], [7, 8]]
    for kind in (pa.list_(pa.int32()), pa.list_(pa.float16(), 2)):
        pq.write_table(pa.table({"x": pa.array(cells, kind)}), tmp_path / "x.parquet")
        with fails(DataError, "2 of 5", "row 1"):
            open_embeddings(tmp_path / "x.parquet")
        file = open_embeddings(tmp_path / "x.parquet", skip_bad=True)
        assert whole(file).tolist() == [[1, 2], [5, 6], [7, 8]]


def test_too_few_rows_are_left(tmp_path):
    features = ROWS[:3].copy()
    features[1:] = np.inf
    with fails(DataError, "x.npy", "1 row", 2):
        open_embeddings(write(tmp_path, ".npy", features), skip_bad=True)


def test_constant_features_are_read(tmp_path):
    assert (whole(open_embeddings(write(tmp_path, ".npy", np.ones((5, 3), np.float32)))) == 1).all()


# Files that are wrong


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_that_are_no_features_are_refused(tmp_path, kind):
    with fails(DataError, f"x{kind}", "1 row", 2):
        open_embeddings(write(tmp_path, kind, ROWS[:1]))
    with fails(DataError, "empty", "(0, 6)" if kind != ".parquet" else "(0, 0)"):
        open_embeddings(write(tmp_path, kind, ROWS[:0]))
    if kind != ".parquet":
        with fails(DataError, "(N, D)", "(50,)"):
            open_embeddings(write(tmp_path, kind, ROWS[:, 0]))
        with fails(DataError, "(N, D)", "(5, 10, 6)"):
            open_embeddings(write(tmp_path, kind, ROWS.reshape(5, 10, 6)))
        with fails(DataError, "complex64", "float32"):
            open_embeddings(write(tmp_path, kind, ROWS.astype(np.complex64)))


@pytest.mark.parametrize("kind", [".npy", ".npz"])
def test_words_truths_and_objects_are_no_features(tmp_path, kind):
    with fails(DataError, "<U32", "float32"):
        open_embeddings(write(tmp_path, kind, ROWS.astype(str)))
    with fails(DataError, "bool"):
        open_embeddings(write(tmp_path, kind, ROWS > 0))
    with fails(DataError, "Python objects", "pickle"):
        open_embeddings(write(tmp_path, kind, ROWS.astype(object)))


def test_nothing_is_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    pickled = pickle.dumps(Bomb())
    for kind in KINDS:
        (tmp_path / f"p{kind}").write_bytes(pickled)
        with fails(DataError, f"p{kind}"):
            open_embeddings(tmp_path / f"p{kind}")
    for kind in (".npy", ".npz"):
        with fails(DataError, "Python objects"):
            open_embeddings(write(tmp_path, kind, np.array([[Bomb(), 1]] * 3, dtype=object)))
        with fails(DataError, "Python objects"):
            open_embeddings(write(tmp_path, kind, ROWS, np.array([Bomb()] * 50, dtype=object)))
    assert not (tmp_path / "exploded").exists()
    pickle.loads(pickled).close()  # noqa: S301
    assert (tmp_path / "exploded").exists()  # the bomb works


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_cut_off_is_refused(tmp_path, kind):
    path = write(tmp_path, kind, ROWS[:9], np.arange(9))
    content = path.read_bytes()
    for length in [*range(0, len(content), 1 + len(content) // 30), len(content) - 1]:
        path.write_bytes(content[:length])
        with fails(DataError, path.name):
            open_embeddings(path)


@pytest.mark.parametrize("shape", [(51, 6), (49, 6), (10**9, 10**9), (50, 5), (-1, -300), (2**62, 2**62)])
def test_a_file_that_lies_about_its_shape_is_refused(tmp_path, shape):
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f4", "fortran_order": False, "shape": shape})
    lie = content.getvalue() + ROWS.tobytes()
    (tmp_path / "x.npy").write_bytes(lie)
    with fails(DataError, str(shape), 1200):
        open_embeddings(tmp_path / "x.npy")
    import zipfile

    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("features.npy", lie)
    with fails(DataError, str(shape), 1200):
        open_embeddings(tmp_path / "x.npz")


def test_a_flipped_bit_of_an_archive_is_found(tmp_path):
    np.savez(tmp_path / "x.npz", features=ROWS)
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[len(content) // 2] ^= 4
    (tmp_path / "x.npz").write_bytes(content)
    with fails(DataError, "x.npz"):
        open_embeddings(tmp_path / "x.npz")


def test_rows_of_mixed_width_are_located(tmp_path):
    cells = [[1.0, 2.0]] * 30 + [[1.0, 2.0, 3.0]] + [[1.0, 2.0]] * 5
    pq.write_table(pa.table({"embedding": cells}), tmp_path / "x.parquet", row_group_size=8)
    with fails(DataError, "row 30", "3 numbers", "has 2"):
        open_embeddings(tmp_path / "x.parquet")


def test_a_column_that_is_no_list_is_refused(tmp_path):
    pq.write_table(pa.table({"embedding": [1.0, 2.0]}), tmp_path / "x.parquet")
    with fails(DataError, "embedding", "double"):
        open_embeddings(tmp_path / "x.parquet")
    pq.write_table(pa.table({"embedding": [["a"], ["b"]]}), tmp_path / "x.parquet")
    with fails(DataError, "string", "float32"):
        open_embeddings(tmp_path / "x.parquet")


def test_names_of_files_are_checked(tmp_path):
    with fails(UsageError, "'.csv'", ".npy, .npz, .safetensors, .parquet"):
        open_embeddings("x.csv")
    with fails(UsageError, "'nothing'"):
        open_embeddings("x")
    for kind in KINDS:
        with fails(DataError, f"{tmp_path / 'none'}{kind}"):
            open_embeddings(tmp_path / f"none{kind}")
    (tmp_path / "folder.npy").mkdir()
    with fails(DataError, "folder.npy"):
        open_embeddings(tmp_path / "folder.npy")


def test_a_missing_extra_is_said(tmp_path, monkeypatch):
    path = write(tmp_path, ".parquet", ROWS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with fails(UsageError, "pyarrow", "pip install 'fullrank[parquet]'"):
        open_embeddings(path)


# Two files, samples, chunks


def test_two_files_must_have_one_width_and_the_same_rows(tmp_path):
    first = open_embeddings(write(tmp_path, ".npy", ROWS, name="a"))
    with fails(DataError, "a.npy has width 6", "b.npy has width 5"):
        check_same_width(first, open_embeddings(write(tmp_path, ".npy", ROWS[:, :5], name="b")))
    with fails(DataError, "50 rows", "49"):
        paired(first, open_embeddings(write(tmp_path, ".npy", ROWS[:49], name="c")))


def test_rows_dropped_from_one_are_dropped_from_both(tmp_path):
    first, second = ROWS.copy(), ROWS + 1
    first[3], second[[5, 49]] = np.nan, np.inf
    pair = paired(
        open_embeddings(write(tmp_path, ".npy", first, np.arange(50), "a"), skip_bad=True),
        open_embeddings(write(tmp_path, ".npz", second, name="b"), skip_bad=True),
    )
    for file, features in zip(pair, (first, second), strict=True):
        np.testing.assert_array_equal(whole(file), np.delete(features, [3, 5, 49], 0))
        np.testing.assert_array_equal(
            file.sample(8, 1), np.delete(features, [3, 5, 49], 0)[file.sample_rows(8, 1)]
        )
    assert pair[0].labels.tolist() == np.delete(np.arange(50), [3, 5, 49]).tolist()


def test_a_sample_is_drawn_by_its_seed_and_grows(tmp_path):
    file = open_embeddings(write(tmp_path, ".npy", ROWS))
    small, large = file.sample_rows(10, 0), file.sample_rows(30, 0)
    assert (np.diff(small) > 0).all() and set(small) < set(large)
    assert small.tolist() == file.sample_rows(10, 0).tolist() != file.sample_rows(10, 1).tolist()
    assert torch.equal(file.sample(500, 0), torch.from_numpy(ROWS))
    for call, number in (
        (lambda: file.sample(0, 0), 0),
        (lambda: file.sample(5, -1), -1),
        (lambda: list(file.chunks(0)), 0),
    ):
        with fails(UsageError, number):
            call()


@pytest.mark.parametrize("kind", [".npy", ".safetensors"])
def test_what_is_written_into_a_chunk_does_not_reach_the_file(tmp_path, kind):
    path = write(tmp_path, kind, ROWS)
    content = path.read_bytes()
    for chunk in open_embeddings(path).chunks():
        chunk.zero_()
    assert path.read_bytes() == content


def test_moments_streamed_from_a_file_are_those_of_the_whole(tmp_path):
    features = np.random.default_rng(1).standard_normal((400, 7)).astype(np.float32) * 3 + 5
    moments = None
    for chunk in open_embeddings(write(tmp_path, ".npy", features)).chunks(33):
        moments = Moments.of(chunk) if moments is None else moments.merge(Moments.of(chunk))
    np.testing.assert_allclose(moments.covariance, np.cov(features.T.astype(float), bias=True), rtol=1e-10)


_MEASURE = """
import sys
from pathlib import Path
import torch
from fullrank.embeddings.files import open_embeddings
torch.set_num_threads(1)
def anonymous():
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("RssAnon:") + 1]) / 1024
def loaded(*libraries):
    return sorted(set(libraries) & set(sys.modules))
folder = Path(sys.argv[1])
for name in ("x.npy", "x.safetensors"):
    start, most = anonymous(), 0.0
    for chunk in open_embeddings(folder / name).chunks(4096):
        chunk.sum(0)
        most = max(most, anonymous())
    print(most - start)
heavy = "torchvision", "timm", "lightning", "torchmetrics"
print(loaded(*heavy, "sklearn", "pyarrow"))
from fullrank import diagnose
diagnose(folder / "small.npy", out=folder / "d")
print(loaded(*heavy))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the memory")
def test_a_mapped_file_takes_no_memory_and_no_heavy_library(tmp_path):
    mapped = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(30_000, 512))
    mapped[:] = 1.0  # 61 MB
    save_file({"x": torch.from_numpy(np.asarray(mapped))}, tmp_path / "x.safetensors")
    mapped.flush()
    del mapped
    np.save(tmp_path / "small.npy", ROWS)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(tmp_path)], capture_output=True, text=True, check=True
    )
    *mebibytes, reading, diagnosing = done.stdout.splitlines()
    assert max(map(float, mebibytes)) < 25 and reading == diagnosing == "[]"
