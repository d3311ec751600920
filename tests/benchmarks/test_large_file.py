"""The benchmark of a large file, with a small one: every kind of file is diagnosed and checked."""

import importlib.util
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "large_file.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_large_file", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_every_kind_of_file_gives_the_spectrum_of_the_bare_product(benchmark, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["large_file.py", "--quick", "--folder", str(tmp_path)])
    benchmark.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines[1:]] == [f"| {kind}" for kind in benchmark.KINDS]
    assert not list(tmp_path.iterdir())


def test_two_files_side_by_side_are_measured_and_checked(benchmark, capsys, monkeypatch, tmp_path):
    arguments = ["--quick", "--against", "--kinds", "float32", "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["large_file.py", *arguments])
    benchmark.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines[1:]] == ["| float32"]
    assert not list(tmp_path.iterdir())


def test_a_wrong_spectrum_fails(benchmark, tmp_path):
    path = benchmark.write_features(tmp_path, 500, 8)
    entry, _ = benchmark.peak_above(lambda: benchmark.diagnose_file(benchmark.open_embeddings(path)))
    benchmark.check_equal(entry, path)
    halved = [value / 2 for value in entry.spectrum["embedding"].singular_values]
    spectrum = {"embedding": entry.spectrum["embedding"].model_copy(update={"singular_values": halved})}
    with pytest.raises(AssertionError):
        benchmark.check_equal(entry.model_copy(update={"spectrum": spectrum}), path)
