"""The package of examples/plugin, installed: every command finds its parts, and its head is not collapsed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from refusals import refuses
from typer.testing import CliRunner

from fullrank import door, load
from fullrank.cli.commands import app
from fullrank.data import SOURCES
from fullrank.errors import UsageError
from fullrank.heads import HEADS
from fullrank.objectives import OBJECTIVES
from fullrank.testing import check_head, check_objective, check_source

PLUGIN = Path(__file__).parents[1] / "examples" / "plugin"
PARTS = {"heads": (HEADS, "projection"), "objectives": (OBJECTIVES, "sliced"), "data": (SOURCES, "stripes")}
QUICK = [
    *("--data", "stripes:120", "--objective", "sliced:0.5", "--encoder", "tiny-resnet,width=8"),
    *("--batch-size", "30", "--epochs", "1"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the package in it, as an installation leaves it, on the path of this process."""
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(PLUGIN, folder / "source")  # a build leaves its own files beside the package
    command = ["uv", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    where = ["--python", sys.executable, "--target", str(folder / "site"), str(source)]
    subprocess.run([*command, *where], check=True, capture_output=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder / "site")
        door._points.cache_clear()
        yield folder / "site"
    for registry, name in PARTS.values():
        registry.unregister(name)
    for module in [name for name in sys.modules if name.startswith("fullrank_plugin")]:
        del sys.modules[module]


def fullrank(*arguments: object) -> str:
    """What a command prints that ends well."""
    result = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "100"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def run(site) -> Path:
    fullrank("train", "--head", "projection:4", *QUICK, "--out", site.parent / "run")
    return site.parent / "run"


def test_list_names_its_parts_and_their_package_without_importing_them(site):
    for family, (_, name) in PARTS.items():
        text = fullrank("list", family)
        assert name in text and "fullrank-plugin 0.1.0" in text
    assert not [module for module in sys.modules if module.startswith("fullrank_plugin")]


def test_the_folder_of_a_run_names_the_package(run):
    recipe = json.loads((run / "record.json").read_text())["recipe"]
    assert recipe["head"] == "projection:4" and recipe["data"] == "stripes:120"
    assert {each["distribution"] for each in recipe["imports"]} == {"fullrank-plugin 0.1.0"}


def test_a_head_of_low_rank_from_outside_is_not_called_collapsed(run, tmp_path):
    text = fullrank("diagnose", run, "--fail-on", "collapse", "--out", tmp_path / "diagnosis")
    assert "unexplained-low-rank" not in text and "Collapsed" not in text
    diagnosis = json.loads((tmp_path / "diagnosis" / "record.json").read_text())["diagnosis"]
    spectrum = diagnosis["spectrum"]["z"]["singular_values"]
    assert sum(value > 1e-9 * spectrum[0] for value in spectrum) == 4 < len(spectrum)


def test_a_new_process_reads_it_and_needs_to_be_told_no_module(site, run):
    paths = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "fullrank", "embed", "run", "--out", "z.npy", "--place", "z"]
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=run.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert np.load(run.parent / "z.npy").shape == (40, 32)
    assert door.passports(each.module for each in load(run).recipe.imports) == []  # so do workers


def test_commands_read_it(run):
    assert "linear" in fullrank("probe", run, "--place", "z")
    assert type(load(run).head).__module__ == "fullrank_plugin.head"


def test_its_parts_keep_their_contracts(site):
    check_head("projection:4")
    check_objective("sliced", head="projection:2")
    check_source("stripes")


def test_without_the_package_its_run_says_what_is_missing(run, site, monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(site)])
    with refuses(UsageError, run, "fullrank-plugin 0.1.0", "install"):
        load(run)
