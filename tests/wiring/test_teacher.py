"""The teacher of a run is a run: every command that takes a run folder takes it."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from fullrank import load
from fullrank.cli.commands import app

SMALL = ["--data", "digits", "--encoder", "tiny-resnet,width=4", "--head", "linear:8", "--limit", "200"]
LENGTH = ["--batch-size", "50", "--epochs", "1"]
OBJECTIVE = ["--objective", "byol,hidden=8,momentum=0.5"]
VIEWS = ["--views", "multicrop,local=1,size=4,blur=0,solarize=0"]


def call(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    folder = tmp_path_factory.mktemp("taught") / "run"
    result = call("train", *SMALL, *LENGTH, *OBJECTIVE, *VIEWS, "--out", folder)
    assert str(folder / "teacher") in result.output.replace("\n", "")
    return folder


def test_the_commands_take_the_teacher_of_a_run_as_a_run(taught, tmp_path):
    teacher = taught / "teacher"
    probes = json.loads(call("probe", teacher, "--json").stdout)
    assert probes["probes"]["h"]["linear"] == load(teacher).record.runs[0].probes["h"].linear
    call("report", teacher)
    assert (teacher / "report.html").is_file()
    call("embed", teacher, "--out", tmp_path / "h.npy")
    call("embed", taught, "--out", tmp_path / "student.npy")
    rows, students = np.load(tmp_path / "h.npy"), np.load(tmp_path / "student.npy")
    assert rows.shape == students.shape and not np.allclose(rows, students)
    call("export", teacher, "--out", tmp_path / "t.safetensors")
    assert (tmp_path / "t.safetensors").is_file()


def test_diagnose_takes_the_teacher_of_a_run(taught, tmp_path):
    options = ["--out", tmp_path / "diagnosis", "--no-report", "--limit", 60]
    call("diagnose", taught / "teacher", *options)
    assert json.loads((tmp_path / "diagnosis" / "record.json").read_text())["kind"] == "diagnosis"
