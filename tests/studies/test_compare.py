import shutil

import pytest
from refusals import refuses

from fullrank import compare
from fullrank.errors import DivergedError, UsageError
from fullrank.record import Record
from fullrank.studies.demo import published_heads

QUICK = {"encoder": "tiny-resnet,width=4", "limit": 100, "batch_size": 50, "epochs": 1, "monitor_every": 1}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "out"
    return compare("digits", heads=["none", "none,norm=batch"], seeds=2, out=out, **QUICK)


def test_one_run_for_each_head_and_seed_in_a_folder_of_its_own(study):
    runs = study.record.runs
    assert [(run.head, run.seed) for run in runs] == [
        ("none", 0),
        ("none", 1),
        ("none,norm=batch", 0),
        ("none,norm=batch", 1),
    ]
    for run in runs:
        alone = Record.load(study.path / run.folder)
        assert alone.runs[0] == run.model_copy(update={"folder": "."})
    assert Record.load(study.path) == study.record


def test_differences_are_paired_by_seed(study):
    points = {(run.head, run.seed): 100 * run.probes["h"].linear for run in study.record.runs}
    difference = sum(points["none,norm=batch", s] - points["none", s] for s in (0, 1)) / 2
    (comparison,) = study.record.comparisons
    assert comparison.difference == pytest.approx(difference) and comparison.against == "none"
    assert comparison.low <= comparison.difference <= comparison.high


def test_resume_takes_what_is_finished_adds_what_is_new_and_keeps_the_rest(study, tmp_path):
    folder = shutil.copytree(study.path, tmp_path / "study")
    before = {path: path.read_bytes() for path in folder.glob("*/*") if path.is_file()}
    again = compare("digits", heads=["diagonal", "none"], seeds=1, out=folder, resume=True, **QUICK)
    runs = [(run.head, run.seed) for run in again.record.runs]
    assert runs == [("diagonal", 0), ("none", 0), ("none", 1), ("none,norm=batch", 0), ("none,norm=batch", 1)]
    assert again.record.runs[1:] == study.record.runs
    assert again.record.comparisons[0].against == "diagonal"
    assert {path: path.read_bytes() for path in before} == before
    with refuses(UsageError, "epochs=1", 2):
        compare("digits", heads=["none"], seeds=1, out=folder, resume=True, **QUICK | {"epochs": 2})


def test_a_run_that_fails_is_named(tmp_path):
    with refuses(DivergedError, "[1/1]", "none, seed 0"):
        compare("digits", heads=["none"], seeds=1, out=tmp_path / "out", **QUICK, **{"optimizer.lr": 1e30})


@pytest.mark.parametrize(
    ("heads", "seeds", "parts"),
    [
        (["none", "subvector:17"], 1, [17, "1 to 16"]),
        (["none", "linaer"], 1, ["'linaer'", "'linear'"]),
        (["directclr", "subvector:360"], 1, ["--heads", "once", "subvector:360, subvector:360"]),
        ([], 1, ["--heads", "none at all"]),
        (["none"], 0, ["--seeds", 1, "got 0"]),
        (["none", "linear:7"], 1, ["groups=2", "7 channels"]),
    ],
)
def test_what_cannot_be_compared_is_said_before_any_training(tmp_path, heads, seeds, parts):
    with refuses(UsageError, *parts):
        compare(
            "digits",
            heads=heads,
            seeds=seeds,
            out=tmp_path / "out",
            objective="infonce:0.1,groups=2",
            **QUICK,
        )
    assert not (tmp_path / "out").exists()


def test_the_demo_has_p1s_numbers():
    # P1 Table 1: SimCLR without projector, with a linear one, DirectCLR, SimCLR with a 2-layer one.
    assert published_heads().values == {"none": 51.5, "linear:48": 61.1, "subvector:24": 62.7, "mlp:48": 66.5}
