"""The package of examples/plugin, installed: every command finds its parts, and its head is not collapsed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[1] / "examples" / "plugin"
QUICK = [
    *("--data", "stripes:240", "--objective", "sliced:0.5", "--encoder", "tiny-resnet,width=8"),
    *("--batch-size", "60", "--epochs", "2"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the package in it, as an installation leaves it."""
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(PLUGIN, folder / "source")  # a build leaves its own files beside the package
    command = ["uv", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    where = ["--python", sys.executable, "--target", str(folder / "site"), str(source)]
    subprocess.run([*command, *where], check=True, capture_output=True)
    return folder / "site"


@pytest.fixture(scope="module")
def fullrank(site, tmp_path_factory):
    """Runs a command in a process that finds the package, in a folder of its own."""
    work = tmp_path_factory.mktemp("work")
    paths = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])

    def run(*arguments: str, path: str = paths, status: int = 0) -> str:
        found = subprocess.run(
            [sys.executable, "-m", "fullrank", *arguments],
            cwd=work,
            env={**os.environ, "PYTHONPATH": path, "COLUMNS": "100", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert found.returncode == status, found.stderr
        return found.stdout + found.stderr

    run.folder = work
    return run


@pytest.fixture(scope="module")
def run(fullrank) -> Path:
    fullrank("train", "--head", "projection:4", *QUICK, "--out", "run")
    return fullrank.folder / "run"


def test_list_names_its_parts_and_their_package_without_importing_them(fullrank):
    for family, name in (("heads", "projection"), ("objectives", "sliced"), ("data", "stripes")):
        text = fullrank("list", family)
        assert name in text and "fullrank-plugin 0.1.0" in text


def test_the_folder_of_a_run_names_the_package(run):
    recipe = json.loads((run / "record.json").read_text())["recipe"]
    assert recipe["head"] == "projection:4" and recipe["data"] == "stripes:240"
    assert {each["distribution"] for each in recipe["imports"]} == {"fullrank-plugin 0.1.0"}


def test_a_head_of_low_rank_from_outside_is_not_called_collapsed(fullrank, run):
    text = fullrank("diagnose", "run", "--fail-on", "collapse", "--out", "diagnosis")
    assert "unexplained-low-rank" not in text and "Collapsed" not in text
    diagnosis = json.loads((fullrank.folder / "diagnosis" / "record.json").read_text())["diagnosis"]
    spectrum = diagnosis["spectrum"]["z"]["singular_values"]
    assert sum(value > 1e-9 * spectrum[0] for value in spectrum) == 4 < len(spectrum)


def test_probe_and_embed_read_it_in_a_new_process(fullrank, run):
    assert "linear" in fullrank("probe", "run", "--place", "z")
    assert "80 x 32" in fullrank("embed", "run", "--out", "z.npy", "--place", "z")


def test_workers_know_its_parts(fullrank):
    text = fullrank(
        *("compare", "--heads", "none,projection:4,norm=batch", "--seeds", "1", "--workers", "2"),
        *(*QUICK, "--out", "study"),
    )
    assert "projection:4,norm=batch" in text


def test_load_reads_it(fullrank, run, site):
    code = f"from fullrank import load; print(type(load({str(run)!r}).head).__module__)"
    paths = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "fullrank_plugin.head"


def test_its_parts_keep_their_contracts(site):
    code = (
        "from fullrank.testing import check_head, check_objective, check_source;"
        "check_head('projection:4'); check_objective('sliced', head='projection:2'); check_source('stripes')"
    )
    paths = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, check=True)


def test_without_the_package_its_run_says_what_is_missing(fullrank, run):
    text = fullrank("probe", "run", path=os.environ.get("PYTHONPATH", ""), status=2)
    assert "fullrank-plugin 0.1.0" in text and "Traceback" not in text
