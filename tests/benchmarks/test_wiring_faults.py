"""The quick form of benchmarks/faults.py: every fault can be put in, and one of them is noticed."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks/faults.py"


@pytest.fixture(scope="module")
def faults():
    spec = importlib.util.spec_from_file_location("faults", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "faults", module)
        spec.loader.exec_module(module)
        yield module


def test_every_fault_can_be_put_into_the_package_and_changes_it(faults, tmp_path):
    listed = faults.listed_faults()
    assert len(listed) >= 40 and len({fault.name for fault in listed}) == len(listed)
    for fault in listed:
        target = tmp_path / "src/fullrank" / fault.file
        target.parent.mkdir(parents=True, exist_ok=True)
        original = (ROOT / "src/fullrank" / fault.file).read_text("utf-8")
        target.write_text(original, "utf-8")
        fault.apply(tmp_path)
        assert target.read_text("utf-8") != original
        assert fault.tests and all((ROOT / "tests" / test.split("::")[0]).exists() for test in fault.tests)


def test_a_fault_whose_text_is_gone_is_refused(faults, tmp_path):
    (tmp_path / "src/fullrank").mkdir(parents=True)
    (tmp_path / "src/fullrank/a.py").write_text("x = 1\nx = 1\n")
    for old, times in (("x = 1", 2), ("x = 2", 0)):
        with pytest.raises(ValueError, match=f" {times} "):
            faults.Fault("a fault", "a.py", old, "x = 3", ()).apply(tmp_path)


@pytest.mark.timeout(280)
def test_a_fault_is_noticed():
    result = subprocess.run(
        [sys.executable, str(SCRIPT), "--only", "floor of the cosine"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "test_the_rate_warms_up_and_falls_to_the_floor_of_the_recipe" in result.stdout
