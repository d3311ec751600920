import shlex
import shutil

import pytest
from refusals import refuses

from fullrank import compare
from fullrank.cli.choice import varied as cli_varied
from fullrank.errors import DivergedError, UsageError
from fullrank.record import Record
from fullrank.record.comparisons import compare_heads
from fullrank.reports.page import write_page
from fullrank.reports.run.words import OTHER_IMAGES, reproduce_command, verdict
from fullrank.specs import split_specs
from fullrank.studies.demo import published_heads
from fullrank.studies.variations import planned_rows

# Two classes: a probe of ten takes most of the time of such a run.
QUICK = {
    "encoder": "tiny-resnet,width=4",
    "classes": "3+8",
    "limit": 100,
    "batch_size": 50,
    "epochs": 1,
    "monitor_every": 1,
}


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


@pytest.fixture(scope="module")
def varied(study, tmp_path_factory):
    """The study of heads, to which a second objective was added."""
    folder = shutil.copytree(study.path, tmp_path_factory.mktemp("varied") / "out")
    vary = {"objective": ["infonce:0.2", "vicreg"]}
    return compare("digits", heads=["none"], vary=vary, seeds=2, out=folder, resume=True, **QUICK)


def test_a_resumed_study_may_vary_a_key_and_trains_only_what_is_new(study, varied):
    runs = varied.record.runs
    (vicreg,) = {run.varied["objective"] for run in runs} - {"infonce:0.2"}
    assert vicreg.startswith("vicreg")
    assert [(run.row, run.seed) for run in runs] == [
        ("none, objective=infonce:0.2", 0),
        ("none, objective=infonce:0.2", 1),
        (f"none, objective={vicreg}", 0),
        (f"none, objective={vicreg}", 1),
        ("none,norm=batch, objective=infonce:0.2", 0),
        ("none,norm=batch, objective=infonce:0.2", 1),
    ]
    untouched = [run.model_copy(update={"varied": {}}) for run in (*runs[:2], *runs[4:])]
    assert untouched == study.record.runs
    assert Record.load(varied.path / runs[2].folder).recipe["objective"] == vicreg


def test_each_row_is_compared_with_the_first_paired_by_seed(varied):
    points = {(run.row, run.seed): 100 * run.probes["h"].linear for run in varied.record.runs}
    rows = list(dict.fromkeys(row for row, _ in points))
    assert [(each.head, each.against) for each in varied.record.comparisons] == [
        (row, rows[0]) for row in rows[1:]
    ]
    for comparison in varied.record.comparisons:
        gaps = [points[comparison.head, seed] - points[rows[0], seed] for seed in (0, 1)]
        assert comparison.difference == pytest.approx(sum(gaps) / 2)


def test_pages_and_tables_name_the_settings_in_which_rows_differ(varied, capsys, monkeypatch):
    from fullrank.cli.tables import print_record

    page = write_page(varied.path).read_text()
    assert '<th scope="col" class="left">objective</th>' in page
    assert "--vary objective=infonce:0.2,vicreg" in page.replace("<wbr>", "")
    monkeypatch.setenv("COLUMNS", "80")
    print_record(varied.record)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(" objective=infonce:0.2 " in line for line in lines)


def test_the_line_of_a_page_makes_the_same_rows(varied):
    arguments = shlex.split(reproduce_command(varied.record))
    options = dict(zip(arguments[2::2], arguments[3::2], strict=True))
    heads = split_specs(options["--heads"])
    rows = planned_rows(varied.path / options["--recipe"], {}, heads, cli_varied([options["--vary"]]))
    assert {row.name for row in rows} >= {run.row for run in varied.record.runs}


@pytest.mark.parametrize(
    ("vary", "names"),
    [
        ({"objektive": ["vicreg"]}, ["'objektive'", "'objective'"]),
        ({"objective": ["infonce:0.2", "vicregg"]}, ["objective=vicregg", "'vicreg'"]),
        ({"optimizer.lr": [0.1, -1]}, ["optimizer.lr=-1", "above 0"]),
        ({"epochs": ["1", "01"]}, ["none, epochs=1", "--vary"]),
        ({"epochs": []}, ["--vary epochs"]),
        ({"epochs": 3}, ["--vary epochs", 3]),
        ({"head": ["none"]}, ["--vary", "--heads"]),
        ({"seed": [1, 2]}, ["--vary", "--seeds"]),
        ({"limit": [100]}, ["--vary limit", "limit=100"]),
        ({"image_size": [4, 8], "batch_size": [1]}, ["image_size=4", "batch_size=1", "at least 2"]),
    ],
)
def test_what_cannot_be_varied_is_named_before_any_training(tmp_path, vary, names):
    quick = {key: value for key, value in QUICK.items() if key not in ("epochs", "batch_size")}
    with refuses(UsageError, *names):
        compare("digits", heads=["none"], vary=vary, seeds=1, out=tmp_path / "out", **quick)
    assert not (tmp_path / "out").exists()


def test_a_row_that_does_not_fit_is_named(tmp_path):
    vary = {"encoder": ["tiny-resnet,width=4", "tiny-resnet,width=2"]}
    quick = {key: value for key, value in QUICK.items() if key != "encoder"}
    with refuses(UsageError, "subvector:16", "width=2", "1 to 8"):
        compare("digits", heads=["subvector:16"], vary=vary, seeds=1, out=tmp_path / "out", **quick)


def test_values_with_commas_keys_and_types():
    vary = {"objective": "infonce:0.1,groups=2,vicreg", "optimizer.lr": "1e-3,3e-3", "image_size": "null,8"}
    rows = planned_rows("digits", {"head": "none"}, [], vary)
    assert len(rows) == 8
    assert rows[0].varied == {
        "objective": "infonce:0.1,groups=2",
        "optimizer.lr": "0.001",
        "image_size": "null",
    }
    assert (rows[-1].recipe.optimizer.lr, rows[-1].recipe.image_size) == (0.003, 8)
    assert len({row.folder for row in rows}) == 8
    assert {row.recipe.head for row in rows} == {"none"}


def test_folders_of_long_or_similar_values_differ():
    data = ["folder:/a/b", "folder:/a-b", *(f"folder:/{'long' * 40}/{end}" for end in "xy")]
    rows = planned_rows("small-images", {}, [], {"data": data})
    assert len({row.folder for row in rows}) == 4 and max(len(row.folder) for row in rows) < 110


def test_rows_on_other_test_images_are_compared_among_themselves(study):
    runs = [
        run.model_copy(update={"varied": {"data": data}})
        for data in ("digits", "other")
        for run in study.record.runs
    ]
    recipe = study.record.recipe
    comparisons = compare_heads(runs, recipe=recipe)
    assert [(each.head, each.against) for each in comparisons] == [
        (f"none,norm=batch, data={data}", f"none, data={data}") for data in ("digits", "other")
    ]
    record = study.record.model_copy(update={"runs": runs, "comparisons": comparisons})
    assert OTHER_IMAGES in verdict(record) and OTHER_IMAGES not in verdict(study.record)
    limits = [run.model_copy(update={"varied": {"limit": str(i // 2)}}) for i, run in enumerate(runs)]
    assert {each.against for each in compare_heads(limits, recipe=recipe)} == {"none, limit=0"}
    assert compare_heads(limits[::2], recipe=recipe | {"held_out": 0.2}) == []


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
