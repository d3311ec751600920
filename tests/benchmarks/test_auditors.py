"""The comparison with other auditors, without them: our verdicts, the watch over a process, the tables."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import assert_names, refuses

from fullrank.spectrum import hubness, mean_cosine, near_duplicates

FILE = Path(__file__).parents[2] / "benchmarks" / "auditors.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_auditors", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def looks(benchmark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    healthy = (benchmark.healthy, benchmark.healthy_at_unit_length)
    chosen = [case for case in benchmark.CASES if case.quick or case.build in healthy]  # probes take long
    cases = [case.at_most(benchmark.QUICK) for case in chosen]
    found = [tuple(benchmark.by_fullrank(case.write(folder))) for case in cases]
    return [
        benchmark.Look(case, "fullrank", 9.0, 1.0, flags) for case, flags in zip(cases, found, strict=True)
    ]


def test_ours_names_all_and_alarms_on_nothing_healthy(benchmark, looks):
    assert benchmark.sum_up("fullrank", looks) == "fullrank names 9 of 9, alarms on 0 of 3 healthy files"
    assert all(not look.others(level) for look in looks for level in ("alarm", "warning"))


def test_every_word_of_ours_is_a_cause(benchmark):
    from fullrank.diagnosis.causes import CAUSES

    ours = {case.names[0] for case in benchmark.CASES if case.names}
    assert ours <= {entry.name for entry in CAUSES}


def test_an_alarm_on_a_healthy_file_is_counted_as_false(benchmark, looks):
    alarm = benchmark.Flag("effective_rank", "alarm", 0.5)
    wrong = [dataclasses.replace(look, flags=(alarm,)) for look in looks]
    # A word for a low rank names a low rank, dead channels and too few rows.
    assert benchmark.sum_up("fullrank", wrong) == "fullrank names 3 of 9, alarms on 3 of 3 healthy files"
    assert "**no** | `effective_rank` 0.5" in str(wrong[4])


def test_labels_split_and_second_view_go_into_the_file(benchmark, tmp_path):
    cases = {case.names[0]: case.at_most(100) for case in benchmark.CASES if case.names}
    path = cases["leakage"].write(tmp_path)
    held = np.load(path)
    train, test = (held["x"][held["split"] == part] for part in ("train", "test"))
    assert (test[:, None] == train).all(2).any(1).mean() == 0.3
    assert np.array_equal(benchmark.labels_of(path), held["label"]) and len(held["label"]) == 100
    path = cases["view-gap"].write(tmp_path)
    assert benchmark.features_of(path).shape == np.load(tmp_path / "second.npy").shape
    cases["zero-rows"].write(tmp_path)
    assert benchmark.labels_of(path) is None and not (tmp_path / "second.npy").exists()


def test_one_process_looks_at_one_file(benchmark, tmp_path):
    case = benchmark.CASES[2].at_most(300)
    look = benchmark.look_at(case, "fullrank", case.write(tmp_path), limit=60)
    assert [flag.word for flag in look.flags] == ["unexplained-low-rank"]
    assert look.processor > 0 and look.wall > 0 and look.anonymous < 500
    assert len(str(look).split(" | ")) == benchmark.LOOKS_HEADER.split("\n")[0].count(" | ") + 1


def test_memory_is_seen_and_what_takes_too_long_is_stopped(benchmark):
    code = (
        "import json, time; print(json.dumps({}), flush=True); x = b'1' * 2**26; "
        "print(json.dumps({'done': len(x)}), flush=True); time.sleep(60)"
    )
    seen = benchmark.watch([sys.executable, "-S", "-c", code], limit=1.0)
    assert seen.stopped and seen.said == [{}, {"done": 2**26}] and seen.anonymous > 64
    look = benchmark.Look(benchmark.CASES[0], "vecscope", 1.0, seen.anonymous)
    assert "| > 1 |" in str(look)
    with refuses(RuntimeError, "status 3"):
        benchmark.watch([sys.executable, "-S", "-c", "raise SystemExit(3)"], limit=1.0)


def test_a_contest_tells_what_differs_and_what_was_stopped(benchmark):
    contest = benchmark.CONTESTS[0]
    result = benchmark.Result(
        contest, (9, 9), ((5.0,), (5.001,)), ((1.0, 2.0), (3.0, 4.0)), ((8.0, 1.0),), 60.0
    )
    assert result.agree and result.seconds == (2.0, 8.0) and "| 4.0 |" in str(result)
    assert "differ" in str(dataclasses.replace(result, values=((5.0,), (5.1,))))
    stopped = dataclasses.replace(result, theirs=())
    assert "| > 30.0 |" in str(stopped)
    assert_names(benchmark.sum_up_times("monai", [stopped]), "monai", "more", 30.0)


def test_no_shared_measure_is_trivial_where_values_are_compared(benchmark):
    rows = torch.from_numpy(benchmark.agreed_rows())
    assert near_duplicates(rows) == 0.1
    assert 0.2 < mean_cosine(rows) < 0.8 and hubness(rows) > 1
    again = benchmark.agreed_rows()
    assert np.array_equal(rows, again) and again.dtype == np.float32


def test_words_are_a_column_for_each_tool(benchmark, tmp_path, capsys):
    cases = [case.at_most(300) for case in benchmark.CASES[1:3]]
    benchmark.print_words(cases, ["fullrank"], tmp_path)
    header, _, healthy, low, *_ = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[1].split()[0] for line in (header, healthy, low)] == [
        "fullrank",
        "–",
        "`unexplained-low-rank`",
    ]
