"""Two files side by side: streams, orders of rows, rows left out, and what changed between diagnoses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from fullrank.diagnosis.beside.compare import compare_files
from fullrank.diagnosis.beside.of_files import files_beside, open_other
from fullrank.diagnosis.beside.pair import measure_changes, new_alarms, place_beside
from fullrank.diagnosis.beside.rows import match_rows
from fullrank.diagnosis.diagnose import diagnose
from fullrank.diagnosis.of_file import ExaminedFile
from fullrank.embeddings.files import open_embeddings
from fullrank.errors import FullrankError, UsageError
from fullrank.linalg import Moments
from fullrank.record import DiagnosisEntry, Finding, Measure, Spectrum
from tests.support.refusals import assert_names, refuses

COUNT = 150
RNG = np.random.default_rng(0)
BEFORE = (RNG.normal(size=(COUNT, 6)) * [4, 3, 2, 1, 1, 0.5] + 1).astype(np.float32)
NOW = np.maximum(BEFORE @ RNG.normal(size=(6, 9)), -2).astype(np.float32)
IDS = np.array([f"{row:03}.png" for row in range(COUNT)])
LABELS = RNG.integers(0, 3, COUNT)
MIXED = np.random.default_rng(1).permutation(COUNT)


def write(folder, kind, x, cuts=(), ids=None):
    """Features as a folder of files of one kind, cut before these rows; one .npy file for the kind `npy`."""
    folder.mkdir()
    pieces = np.split(np.arange(len(x)), cuts)
    for number, rows in enumerate(pieces):
        path = folder / f"{number}.{kind}"
        if kind == "npy":
            np.save(path, x[rows])
            if ids is not None:
                path.with_suffix(".ids.txt").write_text("\n".join(ids[rows]) + "\n")
        elif kind == "safetensors":
            save_file({"x": x[rows], "ids": np.arange(len(rows))}, path)
        else:
            pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
            columns = {"embedding": list(x[rows])} | ({} if ids is None else {"id": ids[rows]})
            pq.write_table(pa.table(columns), path, row_group_size=31)
    return folder


def examined(file):
    """As after a diagnosis, of which the comparison needs no entry."""
    return ExaminedFile(None, file, Moments.of(torch.cat(list(file.chunks()))))


def beside(now, before):
    files = open_embeddings(now), open_embeddings(before)
    return files_beside(match_rows(*files), *map(examined, files))


def same(pair, other):
    """Whether all numbers of two pairs are equal to 1e-9; angles near 0 are rounding below 1e-5 degrees."""
    names = {name for name, value in other.model_dump().items() if value != "embedding"} - {"angles"}
    for name in sorted(names):
        value = getattr(other, name)
        assert getattr(pair, name) == (
            value if value is None else pytest.approx(value, rel=1e-9, abs=1e-9)
        ), name
    assert pair.angles == pytest.approx(other.angles, rel=1e-9, abs=1e-5)
    return True


@pytest.fixture(scope="module")
def in_memory():
    return place_beside(torch.from_numpy(NOW), torch.from_numpy(BEFORE), "embedding", "embedding").pair


def test_cka_is_that_of_the_sum_over_pairs_of_rows(in_memory):
    kernels = []
    for x in (NOW.astype(float), BEFORE.astype(float)):
        kernel = x @ x.T
        np.fill_diagonal(kernel, 0)
        kernels.append(kernel)

    def hsic(k, one):  # Song et al. 2012, Equation 5
        n, ones = len(k), np.ones(len(k))
        whole = np.trace(k @ one) + (ones @ k @ ones) * (ones @ one @ ones) / ((n - 1) * (n - 2))
        return whole - 2 / (n - 2) * (ones @ k @ one @ ones)

    k, one = kernels
    assert in_memory.cka == pytest.approx(hsic(k, one) / np.sqrt(hsic(k, k) * hsic(one, one)), abs=1e-9)


@pytest.mark.parametrize(
    ("kinds", "cuts"),
    [
        (("npy", "npy"), ((), (1, 77, 149))),
        (("npy", "parquet"), ((), (40, 41, 100))),
        (("parquet", "safetensors"), ((10, 75), (75, 140))),
        (("safetensors", "npy"), ((3,), (5, 6, 7))),
    ],
)
def test_folders_cut_anywhere_give_the_numbers_of_features_in_memory(tmp_path, in_memory, kinds, cuts):
    paths = [
        write(tmp_path / side, kind, x, cut)
        for side, kind, x, cut in zip(("now", "before"), kinds, (NOW, BEFORE), cuts, strict=True)
    ]
    result = beside(*paths)
    assert same(result.place.pair, in_memory)
    assert torch.equal(result.place.now, torch.from_numpy(NOW))
    assert torch.equal(result.place.before, torch.from_numpy(BEFORE))


@pytest.mark.parametrize(
    "kinds", [("npy", "npy"), ("npy", "parquet"), ("parquet", "npy"), ("parquet", "parquet")]
)
def test_another_order_of_ids_gives_the_numbers_of_the_sorted_files(tmp_path, in_memory, kinds):
    now = write(tmp_path / "now", kinds[0], NOW[MIXED], (60,), IDS[MIXED])
    before = write(tmp_path / "before", kinds[1], BEFORE, (20, 90), IDS)
    result = beside(now, before)
    assert same(result.place.pair, in_memory)
    rows = np.hstack([torch.cat(list(file.chunks())).numpy() for file in (result.now, result.before)])
    assert np.array_equal(np.unique(rows, axis=0), np.unique(np.hstack([NOW, BEFORE]), axis=0))


def test_one_swapped_row_is_seen(tmp_path):
    changed = BEFORE.copy()
    changed[[3, 9]] = changed[[9, 3]]
    paths = [write(tmp_path / name, "npy", x) for name, x in (("now", changed), ("before", BEFORE))]
    pair = beside(*paths).place.pair
    spread = ((BEFORE - BEFORE.mean(0)) ** 2).sum(dtype=float)
    assert pair.distance == pytest.approx(
        np.sqrt(2 * ((BEFORE[3] - BEFORE[9]) ** 2).sum(dtype=float) / spread), rel=1e-6
    )
    assert beside(paths[1], paths[1]).place.pair.distance == pytest.approx(0, abs=1e-7)


def test_rows_that_one_file_leaves_out_do_not_count(tmp_path):
    paths = [write(tmp_path / name, "npy", x) for name, x in (("now", NOW), ("before", BEFORE))]
    files = [open_embeddings(path) for path in paths]
    without = [replace(files[0], dropped=np.array([4])), replace(files[1], dropped=np.array([4, 80]))]
    result = files_beside(match_rows(*files), *map(examined, without))
    kept = np.delete(np.arange(COUNT), [4, 80])
    expected = place_beside(
        torch.from_numpy(NOW[kept]), torch.from_numpy(BEFORE[kept]), "embedding", "embedding"
    )
    assert same(result.place.pair, expected.pair)
    assert_names(result.notes[0], 2)


def test_more_channels_than_rows_give_the_numbers_in_memory(tmp_path):
    wide = np.random.default_rng(2).normal(size=(COUNT, 200)).astype(np.float32)
    paths = [write(tmp_path / name, "npy", x) for name, x in (("now", wide), ("before", BEFORE))]
    pair = beside(*paths).place.pair
    expected = place_beside(torch.from_numpy(wide), torch.from_numpy(BEFORE), "embedding", "embedding").pair
    assert same(pair, expected)
    assert (pair.widths, pair.distance) == ((200, 6), None)
    assert pair.kept is None  # 149 directions explain 150 rows


def test_more_channels_than_rows_have_the_distance_of_their_rows(tmp_path):
    wide = np.random.default_rng(2).normal(size=(COUNT, 200)).astype(np.float32)
    moved = wide + 0.5
    paths = [write(tmp_path / name, "npy", x) for name, x in (("now", moved), ("before", wide))]
    spread = ((wide - wide.mean(0)) ** 2).sum(dtype=float)
    expected = np.sqrt(wide.size * 0.25 / spread)
    assert beside(*paths).place.pair.distance == pytest.approx(expected, rel=1e-6)
    assert beside(paths[1], paths[1]).place.pair.distance == 0


def test_two_files_have_one_entry_with_labels_of_either(tmp_path):
    np.savez(tmp_path / "now.npz", features=NOW[MIXED], id=IDS[MIXED])
    np.savez(tmp_path / "before.npz", features=BEFORE, id=IDS, labels=LABELS)
    files = [open_embeddings(tmp_path / f"{name}.npz") for name in ("now", "before")]
    entry = compare_files(*files)
    assert entry.beside.matched == "id" and entry.beside.rows == COUNT
    assert {score.name for score in entry.beside.scores} >= {"linear", "nearest"}
    assert entry.images is not None  # its own probes have the labels too
    assert_names(" ".join(entry.beside.about), "before.npz")
    assert {change.name for change in entry.beside.measures} >= {"mean_cosine"}
    assert "effective_rank" not in {change.name for change in entry.beside.measures}  # widths 9 and 6
    assert_names(" ".join(entry.beside.not_compared), 9, 6)


def test_unrelated_rows_are_compared_as_two_sets(tmp_path):
    np.save(tmp_path / "now.npy", BEFORE[MIXED])
    np.save(tmp_path / "before.npy", BEFORE)
    entry = compare_files(*(open_embeddings(tmp_path / f"{name}.npy") for name in ("now", "before")))
    assert (entry.beside.matched, entry.beside.rows, entry.beside.pairs) == ("none", 0, [])
    rank = next(change for change in entry.beside.measures if change.name == "effective_rank")
    assert rank.now == pytest.approx(rank.before) and not rank.apart


def test_the_other_file_has_the_labels_of_the_same_name_or_none(tmp_path):
    np.savez(tmp_path / "a.npz", features=BEFORE, labels=LABELS, fine=LABELS + 3)
    read = {name: open_other(tmp_path / "a.npz", name) for name in (None, "fine", "no")}
    assert read[None].labels.max() == 2 and read["fine"].labels.max() == 5 and read["no"].labels is None
    np.save(tmp_path / "b.npy", BEFORE)
    assert open_other(tmp_path / "b.npy", None, columns=("emb", None)).rows == COUNT


def an_entry(measures, rows=100, findings=(), width=4):
    return DiagnosisEntry(
        target="x",
        rows=rows,
        places=["h"],
        verdict="",
        collapsed=False,
        cut=None,
        findings=list(findings),
        measures=measures,
        spectrum={"h": Spectrum(singular_values=[1.0] * width, effective_rank=1.0)},
    )


def a_rank(value, low, high):
    return Measure(place="h", name="effective_rank", value=value, low=low, high=high)


@pytest.mark.parametrize(("ends", "apart"), [((3.5, 4.5), True), ((1.5, 3.5), False), ((None, None), False)])
def test_a_measure_is_apart_where_both_intervals_exist_and_do_not_overlap(ends, apart):
    now, before = an_entry([a_rank(2.0, 1.0, 3.0)]), an_entry([a_rank(4.0, *ends)])
    changes, limits = measure_changes(now, before, [("h", "h")])
    assert (changes[0].now, changes[0].before, changes[0].apart) == (2.0, 4.0, apart)
    assert not limits


def test_ranks_of_very_unlike_numbers_of_rows_are_not_compared():
    cosine = Measure(place="h", name="mean_cosine", value=0.5)
    now, before = (
        an_entry([a_rank(2.0, 1.0, 3.0), cosine]),
        an_entry([a_rank(4.0, 3.5, 4.5), cosine], rows=900),
    )
    changes, limits = measure_changes(now, before, [("h", "h")])
    assert [change.name for change in changes] == ["mean_cosine"]
    assert_names(limits[0], 100, 900)


def test_alarms_are_new_where_the_other_lacks_them_at_the_place_beside():
    def finding(cause, level="alarm"):
        return Finding(
            cause=cause, level=level, place="h", measure="m", value=1.0, threshold=1.0, evidence="", remedy=""
        )

    now = an_entry([], findings=[finding("zero-rows"), finding("dead-channels"), finding("leakage", "note")])
    before = an_entry([], findings=[finding("zero-rows")])
    assert [alarm.cause for alarm in new_alarms(now, before, [("h", "h")])] == ["dead-channels"]


def test_a_model_beside_a_file_is_refused_and_so_is_a_column_without_a_file(tmp_path):
    np.save(tmp_path / "a.npy", BEFORE)
    with refuses(UsageError, "a.npy", "Linear", "fullrank embed"):
        diagnose(tmp_path / "a.npy", against=torch.nn.Linear(2, 2))
    with refuses(UsageError, "a.npy", "resnet18", "fullrank embed"):
        diagnose("resnet18", data="digits", against=tmp_path / "a.npy")
    with refuses(UsageError, "against_column", "emb"):
        diagnose(tmp_path / "a.npy", against_column="emb")


@pytest.mark.parametrize("name", ["t.csv", "t.pt", "mixed"])
def test_a_file_of_another_type_is_named_on_either_side(tmp_path, name):
    np.save(tmp_path / "a.npy", BEFORE)
    (tmp_path / "mixed").mkdir()
    np.save(tmp_path / "mixed" / "a.npy", BEFORE)
    np.savez(tmp_path / "mixed" / "b.npz", x=BEFORE)
    with refuses(FullrankError, name, ".parquet"):
        diagnose(tmp_path / "a.npy", against=tmp_path / name)


def test_two_columns_of_one_file_are_compared(tmp_path):
    np.savez(tmp_path / "a.npz", one=BEFORE, two=2 * BEFORE)
    entry = diagnose(
        tmp_path / "a.npz",
        column="two",
        against=tmp_path / "a.npz",
        against_column="one",
        out=tmp_path / "out",
    ).entry
    assert entry.beside.pairs[0].distance > 0.5
    assert entry.beside.pairs[0].rotated_distance == pytest.approx(0, abs=1e-6)
