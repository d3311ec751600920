"""The speed benchmarks in their quick form: that they run, and that what they compare is equal."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    loaded = []

    def load(name):
        loaded.append(name)
        return importlib.import_module(name)

    yield load
    for name in loaded:
        sys.modules.pop(name, None)


def test_probes_agree_with_scikit_learn_and_the_bare_product(load, capsys, monkeypatch):
    probes = load("probes")
    monkeypatch.setattr(probes, "CHANNELS", 48)
    monkeypatch.setattr(sys, "argv", ["probes.py", "--rows", "600", "--rounds", "1"])
    assert probes.main() == 0
    printed = capsys.readouterr().out
    assert printed.count("| linear") == 11 and printed.count("| nearest") == 2


def test_the_cost_of_a_watch_is_measured(load, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["watch_cost.py", "--quick"])
    load("watch_cost").main()
    assert capsys.readouterr().out.count("95 % interval") == 3


def test_maps_keep_groups_together(load, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["maps.py", "--quick"])
    load("maps").main()
    assert capsys.readouterr().out.count(": True") == 2


def test_one_command_runs_the_programs_that_measure_speed(load):
    assert all((BENCHMARKS / name).is_file() for name in load("speed").PROGRAMS)


def test_losses_run_alone(load, capsys, monkeypatch):
    losses = load("losses")
    cost = load("paired")._cost  # in this process: its own costs seconds of imports a loss
    monkeypatch.setattr(losses, "alone", lambda run, *arguments: cost(run, arguments))
    monkeypatch.setattr(sys, "argv", ["losses.py", "--alone", "300"])
    assert losses.main() == 0
    assert capsys.readouterr().out.count("| fullrank |") == 3


def test_sigreg_agrees_with_the_plain_computation(load, capsys, monkeypatch):
    sigreg = load("sigreg")
    cost = load("paired")._cost
    monkeypatch.setattr(sigreg, "alone", lambda run, *arguments: cost(run, arguments))
    monkeypatch.setattr(sigreg.torch, "set_num_threads", lambda count: None)  # of this whole process
    monkeypatch.setattr(sys, "argv", ["sigreg.py", "--rows", "100", "--slices", "32", "--rounds", "1"])
    assert sigreg.main() == 0
    printed = capsys.readouterr().out
    assert printed.count("| fullrank |") == printed.count("| plain torch |") == 1


SCRIPT = """
from paired import alone

def resident(small):
    return len(b"1" * (1 if small else 64 * 2**20))

if __name__ == "__main__":
    print(*alone(resident))
"""


def test_what_runs_alone_is_measured_in_a_process_of_its_own(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py")]
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS)}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    seconds, megabytes = map(float, result.stdout.split())
    assert seconds > 0 and 60 < megabytes < 128


@pytest.mark.parametrize(("source", "size", "blur"), [(16, 16, 0.0), (24, 24, 1.0), (24, 16, 0.5)])
def test_exact_views_are_torchvisions_and_the_others_are_near(load, source, size, blur):
    views = load("views")
    apart = views.differences(views.batch_of(8, source), size, blur)
    assert apart["exact"][0] < 1e-4
    assert apart["exact"][1] < apart["composed"][1] < apart["linear"][1] < 0.05


def test_the_soak_finds_a_slope_and_none(load):
    soak = load("soak")
    minutes = [number / 4 for number in range(40)]
    grows = [100 + 3 * at + (50 if at < 1 else 0) for at in minutes]  # a warm-up is left out
    assert soak.slope_of(minutes, grows)[0] == pytest.approx(3.0)
    assert soak.slope_of(minutes, [100.0] * 40) == pytest.approx((0.0, 0.0))


def test_a_round_of_the_soak_trains_and_diagnoses(load, tmp_path):
    small = {"encoder": "tiny-resnet,width=4", "classes": "3+8", "limit": 100, "batch_size": 50}
    load("soak").one_round(0, tmp_path, **small)
    assert {path.parent.name for path in tmp_path.rglob("report.html")} == {"run", "diagnosis"}


def test_the_median_of_ratios_is_taken_round_by_round(load):
    paired = load("paired")
    # The machine was ten times slower in the second round: the ratio is two in all three.
    assert paired.median_ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == 2.0
    calls = []
    seconds = paired.seconds_in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert "".join(calls) == "ab" + "ab" + "ba"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}
