"""A diagnosis beside an earlier one: what is worse, what is not compared, and what is refused."""

import json

import numpy as np
import pytest
from refusals import assert_names, refuses
from typer.testing import CliRunner

from fullrank import diagnose
from fullrank.cli.commands import app
from fullrank.diagnosis import layers
from fullrank.diagnosis.against import Earlier, compare_with
from fullrank.errors import DataError, UsageError
from fullrank.record import Record
from fullrank.statistics import binomial_interval


def write(path, width=16, rank=16, apart=2.0, seed=0):
    """300 labelled rows of three classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(300) % 3
    x = rng.normal(size=(300, width)) + apart * np.eye(3, width)[labels]
    np.savez(path, x=(x[:, :rank] @ np.eye(rank, width)).astype(np.float32), label=labels)
    return path


@pytest.fixture(scope="module", autouse=True)
def one_draw():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "DRAWS", 1)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("against")


@pytest.fixture(scope="module")
def before(folder):
    return diagnose(write(folder / "before.npz"), out=folder / "before")


def told(entry, earlier, **changes):
    """An entry with changes, compared with an earlier one."""
    changed = entry.model_copy(update=changes)
    return changed.model_copy(update={"compared": compare_with(earlier, changed)})


@pytest.fixture
def earlier(before):
    return Earlier(before.path / "record.json", before.entry, before.record.created, "0.1.0")


def test_the_same_rows_are_not_worse(before, folder):
    again = diagnose(folder / "before.npz", baseline=before.path, out=folder / "again")
    assert again.worse == [] and [one.name for one in again.entry.compared.numbers] == [
        "effective_rank",
        "linear",
        "nearest",
    ]
    for number in again.entry.compared.numbers:
        assert number.now == number.before and number.low < number.before < number.high
    assert Record.load(folder / "again").diagnosis == again.entry


def test_a_number_is_worse_just_below_its_interval_only(before, earlier):
    row = before.entry.layers[0]
    low, _ = binomial_interval(row.linear, before.entry.images.test)
    for value, worse in ((low + 1e-9, []), (low - 1e-9, ["linear"]), (1.0, [])):
        now = told(before.entry, earlier, layers=[row.model_copy(update={"linear": value})])
        assert [number.name for number in now.worse] == worse
    rank = before.entry.measures[0]
    assert rank.name == "effective_rank" and rank.low < rank.value < rank.high
    for value, worse in ((rank.low + 1e-9, []), (rank.low - 1e-9, ["effective_rank"]), (99.0, [])):
        measures = [rank.model_copy(update={"value": value}), *before.entry.measures[1:]]
        assert [number.name for number in told(before.entry, earlier, measures=measures).worse] == worse


@pytest.mark.parametrize(
    ("changes", "names", "left"),
    [
        ({"rows": 600}, (300, 600), {"linear", "nearest"}),
        ({"images": None}, (), {"effective_rank"}),
        ({"measures": []}, ("embedding",), {"linear", "nearest"}),
    ],
)
def test_what_means_something_else_is_not_compared_and_said(before, earlier, changes, names, left):
    compared = told(before.entry, earlier, **changes).compared
    (limit,) = compared.not_compared
    assert_names(limit, *names)
    assert {number.name for number in compared.numbers} == left


def test_an_older_record_has_no_interval_of_its_rank(before, earlier):
    measures = [one.model_copy(update={"low": None, "high": None}) for one in before.entry.measures]
    old = Earlier(
        earlier.path, before.entry.model_copy(update={"measures": measures}), earlier.created, "0.0.9"
    )
    compared = told(before.entry, old).compared
    assert_names(compared.not_compared[0], "embedding", "0.0.9")
    assert {number.name for number in compared.numbers} == {"linear", "nearest"}


def test_other_classes_and_another_width_are_not_compared(before, earlier):
    images = before.entry.images.model_copy(update={"classes": 5})
    spectrum = {
        place: one.model_copy(update={"singular_values": one.singular_values[:8]})
        for place, one in before.entry.spectrum.items()
    }
    compared = told(before.entry, earlier, images=images, spectrum=spectrum).compared
    assert compared.numbers == []
    assert_names(compared.not_compared[0], 16, 8)
    assert_names(compared.not_compared[1], 3, 5)


def test_places_without_any_in_common_are_refused(before, earlier):
    with refuses(UsageError, "embedding", "z"):
        compare_with(earlier, before.entry.model_copy(update={"places": ["z"]}))


def test_a_baseline_of_another_kind_is_refused(before, folder, quick_run, tmp_path):
    with refuses(UsageError, quick_run.path, "run"):
        diagnose(folder / "before.npz", baseline=quick_run.path, out=tmp_path / "d")
    with refuses(UsageError, before.path):
        diagnose(quick_run, baseline=before.path, out=tmp_path / "d")
    with refuses(UsageError, folder / "before.npz", "record.json"):
        diagnose(folder / "before.npz", baseline=folder / "before.npz", out=tmp_path / "d")
    with refuses(DataError, tmp_path / "none", "record.json"):
        diagnose(folder / "before.npz", baseline=tmp_path / "none", out=tmp_path / "d")
    assert not list(tmp_path.iterdir())


def test_the_command_prints_only_json_and_ends_with_3_on_worse(before, folder, tmp_path):
    low = write(tmp_path / "low.npz", rank=4)
    arguments = ["diagnose", str(low), "--out", str(tmp_path / "d"), "--json", "--no-report"]
    compared = [*arguments, "--baseline", str(before.path / "record.json")]
    result = CliRunner().invoke(app, [*compared, "--fail-on", "worse", "--fail-on", "collapse"])
    assert result.exit_code == 3
    entry = json.loads(result.stdout)
    record = json.loads((tmp_path / "d" / "record.json").read_text())
    assert entry == record["diagnosis"] and not (tmp_path / "d" / "report.html").exists()
    worse = {one["name"]: one for one in entry["compared"]["numbers"] if one["worse"]}
    assert worse["effective_rank"]["now"] < 4.1 < worse["effective_rank"]["low"]
    alarms = [finding["cause"] for finding in entry["findings"] if finding["level"] == "alarm"]
    assert alarms and {alarms[0]} == set(worse) - {"effective_rank"} and worse[alarms[0]]["before"] is None


def test_the_command_says_what_got_worse_in_80_columns(before, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    near = write(tmp_path / "near.npz", apart=0.0, seed=1)
    arguments = ["diagnose", str(near), "--no-report", "--baseline", str(before.path)]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "d")])
    assert result.exit_code == 0 and max(map(len, result.stdout.splitlines()[:-1])) <= 80
    linear = before.entry.layers[0].linear
    assert_names(result.stdout, "linear", f"{100 * linear:.1f}")
    status = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "e"), "--fail-on", "worse"])
    assert status.exit_code == 3
    status = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "f"), "--fail-on", "collapse"])
    assert status.exit_code == 0


def test_worse_and_too_little_overlap_with_another_target_end_the_command_with_3(before, folder, tmp_path):
    low = write(tmp_path / "low.npz", rank=4)
    arguments = ["diagnose", str(low), "--against", str(folder / "before.npz"), "--no-report", "--json"]
    arguments += ["--baseline", str(before.path), "--out", str(tmp_path / "d")]
    result = CliRunner().invoke(app, [*arguments, "--fail-on", "worse", "--min-overlap", "0.99"])
    entry = Record.load(tmp_path / "d").diagnosis
    assert result.exit_code == 3 and json.loads(result.stdout) == json.loads(entry.model_dump_json())
    assert_names(result.stderr, "--baseline", "--against", "--min-overlap", 0.99, 3)
    assert entry.beside.worse and entry.worse and entry.worse_beside
    assert entry.beside.main.overlap < 0.99 and entry.beside.spectrum == before.entry.spectrum


def test_a_second_target_is_answered_with_against(folder):
    with refuses(UsageError, "a.npy", "b.npy", "--against"):
        CliRunner().invoke(app, ["diagnose", "a.npy", "b.npy"], catch_exceptions=False)


def test_worse_needs_a_baseline(tmp_path):
    with refuses(UsageError, "--fail-on", "--baseline"):
        CliRunner().invoke(app, ["diagnose", "x.npy", "--fail-on", "worse"], catch_exceptions=False)
