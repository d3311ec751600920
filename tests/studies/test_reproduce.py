import multiprocessing
import os
import re
import signal
import sys
import time
from pathlib import Path

import forked
import pytest
import yaml
from refusals import assert_names, refuses

from fullrank import load
from fullrank.cli import main
from fullrank.errors import DataError, UsageError
from fullrank.record import Score
from fullrank.record.making import new_record
from fullrank.reports.page import write_page
from fullrank.reports.reproduction.words import outcome, shown, verdict
from fullrank.runs.recipe import Recipe
from fullrank.statistics import Estimate
from fullrank.studies import many_runs, reproduce as reproduce_module, table as tables
from fullrank.studies.forward_forward.pretexts import PRETEXTS
from fullrank.studies.forward_forward.training import METHODS
from fullrank.studies.many_runs import PlannedRun, finish_runs, score_of
from fullrank.studies.reproduce import TablePlan, rehearse, reproduce, run_name
from fullrank.studies.table import (
    SCALES,
    Column,
    RankKey,
    ScoreKey,
    StudyTable,
    Table,
    TheoremFigure,
    chosen_tables,
    table_named,
    table_names,
)
from fullrank.training.dry_run import check_on_generated

LAST = "accuracy after the last epoch"
# Two classes: a probe of ten takes most of the time of such a run.
QUICK = {
    "encoder": "tiny-resnet,width=4",
    "classes": "3+8",
    "limit": 100,
    "batch_size": 50,
    "epochs": 1,
    "monitor_every": 1,
}
SMALL = {
    "title": "A small table",
    "source": "nobody",
    "question": "Does it work?",
    "recipe": {"mini": "digits"},
    "seeds": {"mini": 2},
    "base": QUICK,
    "columns": [
        {"title": "h"},
        {"title": "h less z", "place": "h", "minus": "z"},
        {"title": "rank of z", "place": "z", "spectrum": "effective rank"},
    ],
    "rows": [
        {"title": "none", "paper": [51.5, None, None], "set": {"head": "none"}},
        {"title": "a part", "paper": [62.7, None, None], "set": {"head": {"mini": "subvector:4"}}},
        {
            "title": "alone",
            "paper": [47.9, None, None],
            "set": {"head": "subvector:4"},
            "place": "h[:4]",
        },
        {"title": "elsewhere", "set": {"head": {"paper": "subvector:360"}}},
    ],
}


AT_H = {
    "place": "h",
    "label": "label",
    "split": "test",
    "features": "raw",
    "shots": None,
    "probe": "linear",
    "statistic": "accuracy",
}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """A folder of tables that holds the small one."""
    folder = tmp_path_factory.mktemp("tables")
    (folder / "tests").mkdir()
    (folder / "tests" / "small.yaml").write_text(yaml.safe_dump(SMALL))
    return folder


@pytest.fixture
def small(shipped, monkeypatch):
    """The small table in the place of the real ones."""
    monkeypatch.setattr(tables, "_TABLES", shipped)


@pytest.fixture(scope="module")
def done(shipped, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "_TABLES", shipped)
        (found,) = reproduce("tests/small", out=tmp_path_factory.mktemp("out"))
    return found


def test_a_row_is_the_runs_of_its_recipe_and_each_column_a_number_of_theirs(done):
    table = done.record.table
    assert [row.title for row in table.rows] == ["none", "a part", "alone"]
    store = done.path.parent / "runs"
    assert len(list(store.iterdir())) == 4  # the last two rows share their runs
    for row in table.rows:
        assert row.seeds == [0, 1]
        for seed, folder in enumerate(row.runs):
            run = load(store / folder).record.runs[0]
            own = {(s.place, s.probe): s.value for s in run.scores if s.statistic == "accuracy"}
            place = "h[:4]" if row.title == "alone" else "h"
            assert row.values[0][seed] == pytest.approx(100 * own[place, "linear"])
            assert row.values[1][seed] == pytest.approx(100 * (own[place, "linear"] - own["z", "linear"]))
            assert row.values[2][seed] == run.spectrum["z"].effective_rank
    assert table.units == ["points", "points", "number"] and table.differences == [1]


def test_what_is_finished_is_not_trained_or_probed_again(done, small):
    store = done.path.parent
    before = {path: path.stat().st_mtime_ns for path in store.glob("runs/*/*")}
    (again,) = reproduce("tests/small", out=store, seeds=1)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [row.values[0] for row in again.record.table.rows] == [
        row.values[0][:1] for row in done.record.table.rows
    ]


def test_workers_find_what_one_process_finds(done, small, tmp_path):
    (other,) = reproduce("tests/small", out=tmp_path, seeds=1, workers=2)
    for row, alone in zip(other.record.table.rows, done.record.table.rows, strict=True):
        # Sums over threads may differ in their last digits, and with them one image of 500.
        assert row.values[0] == pytest.approx(alone.values[0][:1], abs=0.5)
        assert row.values[2] == pytest.approx(alone.values[2][:1], rel=1e-3)


def test_its_page_and_its_terminal_table_show_both_numbers(done, capsys, monkeypatch):
    from fullrank.cli.reproduction import print_reproduction

    done.record.save(done.path)  # another test may have asked for fewer seeds in this folder
    page = write_page(done.path).read_text()
    ours = shown(Estimate.of(done.record.table.rows[0].values[0]))
    assert "62.7" in page and ours in page
    monkeypatch.setenv("COLUMNS", "80")
    print_reproduction(done.title, done.record)
    text = capsys.readouterr().out
    assert "62.7" in text and ours in text and max(map(len, text.splitlines())) <= 80
    row = done.record.table.rows[0].model_copy(update={"paper": [None] * 3})
    table = done.record.table.model_copy(update={"rows": [row]})
    print_reproduction(done.title, done.record.model_copy(update={"table": table}))
    assert "not known" in capsys.readouterr().out


def test_settings_are_chosen_on_held_out_images_and_measured_on_the_test_images(small, tmp_path):
    table = Table(
        **{**SMALL, "rows": [SMALL["rows"][1] | {"paper": []}], "columns": SMALL["columns"][:1]},
        tune={"grid": {"optimizer.lr": [1e-8, 3e-3]}, "seed": 5},
    )
    plan = TablePlan("tests/tuned", table, "mini", 1, tmp_path)
    trials = plan.trials()
    assert [(t.recipe.optimizer.lr, t.recipe.held_out, t.recipe.seed) for t in trials] == [
        (1e-8, 0.2, 5),
        (3e-3, 0.2, 5),
    ]
    entries = finish_runs(trials, go_on="")
    key = ScoreKey("h", "label", "test", "linear")
    best = max(zip(trials, entries, strict=True), key=lambda pair: score_of(pair[1], key))[0]
    (run,) = plan.runs()
    assert run.recipe == Recipe.resolve(best.recipe, {"held_out": None, "seed": 0})
    finish_runs([run], go_on="")
    (row,) = plan.tabulated(tmp_path / "table").table.rows
    assert row.chosen == f"optimizer.lr={best.recipe.optimizer.lr}"


def test_of_settings_that_score_alike_the_first_of_the_grid_is_taken(done, tmp_path):
    key, grid = "optimizer.lr", [3e-3, 1e-8, 0.5, 0.1]
    table = Table(**{**SMALL, "rows": SMALL["rows"][:1]}, tune={"grid": {key: grid}})
    plan = TablePlan("tests/tuned", table, "mini", 1, tmp_path)
    for run, value in zip(plan.trials(), (0.25, 0.75, 0.75, 0.5), strict=True):
        score = Score(**AT_H, value=value)
        entry = done.record.runs[0].model_copy(update={"scores": [score], "folder": "."})
        run.folder.mkdir()
        new_record("run", {}, [entry]).save(run.folder)
    (run,) = plan.runs()
    assert run.recipe.optimizer.lr == 1e-8


def test_a_run_is_named_after_all_of_its_recipe_but_defaults():
    recipe = Recipe.resolve("digits", {"head": "mlp:48"})
    assert run_name(recipe) == run_name(Recipe.resolve(recipe, {"held_out": None}))
    for key, value in {"epochs": 3, "optimizer.lr": 0.1, "held_out": 0.2, "head": "mlp:49"}.items():
        assert run_name(Recipe.resolve(recipe, {key: value})) != run_name(recipe)
    seeds = [run_name(Recipe.resolve(recipe, {"seed": seed})) for seed in (0, 1)]
    assert seeds[0] != seeds[1] and seeds[0][:-1] == seeds[1][:-1]


@pytest.mark.parametrize("name", table_names())
def test_every_table_of_the_package_is_sound(name):
    table = table_named(name)
    assert table.scales and all(scale in SCALES for scale in table.scales)
    others = name.startswith("related/") and re.search(r"\d{4}\.\d{5}", table.source)
    assert table.source[:2] in ("P1", "P2", "fu") or others
    if isinstance(table, TheoremFigure):
        from fullrank.theory import theorem_named

        for settings in table.settings.values():
            theorem_named(table.theorem, **settings)
        return
    if isinstance(table, StudyTable):
        for scale, settings in table.settings.items():
            assert table.seeds[scale] >= 1 and set(settings.methods) <= set(METHODS)
            assert set(table.paper_numbers) <= set(settings.pretexts) <= set(PRETEXTS)
            assert all(set(by_method) <= set(settings.methods) for by_method in table.paper_numbers.values())
            Recipe.resolve(settings.recipe)
        return
    for scale in table.scales:
        rows = table.rows_at(scale)
        assert rows and len({row.title for row in rows}) == len(rows)
        for row in rows:
            assert len(row.paper) in (0, len(table.columns))
            table.recipe_of(row, scale, seed=0)
            table.reads(row, scale)
    used = {row.title for scale in table.scales for row in table.rows_at(scale)}
    assert used == {row.title for row in table.rows}


def test_the_papers_numbers_are_those_of_its_tables():
    # P1, Tables 1 and 2 and Appendix F.
    numbers = {
        name: [row.paper[0] for row in table_named(f"directclr/{name}").rows]
        for name in ("table1", "table2", "ablations")
    }
    assert numbers["table1"] == [51.5, 61.1, 62.7, 66.5]
    assert numbers["table2"] == [51.5, 52.2, 61.1, 60.2, 62.3, 62.7]
    assert numbers["ablations"] == [62.7, 47.9, 43.0, 51.5]


def test_a_table_like_another_has_its_rows_and_its_own_keys():
    first, other = (table_named(f"questions/{name}") for name in ("fixed-heads", "fixed-heads-sgd"))
    assert other.rows == first.rows and other.columns == first.columns and other.title != first.title
    assert {recipe.optimizer.name for row in other.rows for recipe in [other.recipe_of(row, "small", 0)]} == {
        "sgd"
    }


def test_a_papers_name_stands_for_its_tables_at_the_scale():
    assert set(chosen_tables("directclr", "mini")) == {n for n in table_names() if n.startswith("directclr/")}
    assert "directclr/figure3" not in chosen_tables("all", "cifar")


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda out: reproduce("directclr/tabel1", out=out), ["'directclr/tabel1'", "'directclr/table1'"]),
        (
            lambda out: reproduce("directclr/figure3", scale="cifar", out=out),
            ["directclr/figure3", "scale cifar", "--scale mini or paper"],
        ),
        (lambda out: reproduce("directclr/table1", seeds=0, out=out), ["--seeds", 1, "got 0"]),
        (lambda out: reproduce("directclr/table1", workers=0, out=out), ["--workers", 1, "got 0"]),
        (lambda out: chosen_tables("questions", "paper"), ["questions", "scale paper", "--scale mini"]),
        (lambda out: tables.known_scale("tiny"), ["'tiny'", "mini, small, cifar, paper"]),
    ],
)
def test_a_wrong_request_is_told_before_any_training(tmp_path, call, parts):
    with refuses(UsageError, *parts):
        call(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_way_is_seen_before_any_training(small, tmp_path):
    (tmp_path / "tests-small").write_text("")
    with refuses(UsageError, "tests-small", "--out"):
        reproduce("tests/small", out=tmp_path)
    assert not (tmp_path / "runs").exists()


def test_a_row_whose_parts_do_not_fit_is_told_before_any_training(shipped, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_TABLES", shipped)
    wide = SMALL | {"rows": [SMALL["rows"][0], {"title": "too wide", "set": {"head": "subvector:99"}}]}
    (shipped / "tests" / "wide.yaml").write_text(yaml.safe_dump(wide))
    with refuses(UsageError, "dim=99", "1 to 16"):
        reproduce("tests/wide", out=tmp_path)
    assert not (tmp_path / "runs").exists()
    (shipped / "tests" / "wide.yaml").unlink()


def test_a_measure_that_no_probe_gives_is_told_and_not_asked_for_ever(done):
    folder = done.path.parent / "runs" / done.record.table.rows[0].runs[0]
    recipe = load(folder).recipe
    key = ScoreKey("h", "label", "test", "linear", "class accuracy", "ten")
    with refuses(UsageError, "linear", "ten", "'label'", "h", "test"):
        finish_runs([PlannedRun("a", recipe, folder, (key,))], go_on="")
    key = ScoreKey("h", "label", "test", "lineal")
    with refuses(UsageError, "probe", "'lineal'", "'linear'"):
        finish_runs([PlannedRun("a", recipe, folder, (key,))], go_on="")


@pytest.mark.parametrize(
    ("column", "parts"),
    [
        ({"statistic": "worst grup"}, ["'worst grup'", "'worst group'"]),
        ({"probe": "retrieval"}, ["retrieval", "'accuracy'"]),
        ({"statistic": "gap"}, ["gap", "cues", "subject"]),
        ({"subject": "3"}, ["accuracy", "nothing", "subject"]),
        ({"statistic": "worst group", "shots": 5}, ["worst group", "linear", "shots"]),
        ({"spectrum": "effective rank", "minus": "z"}, ["spectrum", "no minus"]),
        ({"spectrum": "rank"}, ["spectrum"]),
        ({"measure": "linear"}, ["measure"]),
        ({"probe": {"mini": "sgd"}, "statistic": {"paper": "accuracy"}}, ["probe", "statistic", "scale"]),
        ({"statistic": {"mini": "accuracy", "paper": "acuracy"}}, ["'acuracy'", "'accuracy'"]),
        ({"probe": "group-balanced", "statistic": "worst group", "minus_probe": "nearest"}, ["nearest"]),
    ],
)
def test_a_column_of_what_no_probe_gives_is_refused(column, parts):
    with refuses(ValueError, *parts):
        Column(title="a", **column)


def test_a_column_may_subtract_another_probe_at_the_same_or_at_another_place():
    worst = {"title": "a", "statistic": "worst group", "minus_probe": "linear"}
    columns = [{**worst, "probe": "leace"}, {**worst, "probe": "leace", "minus": "z"}]
    table = Table(**{**SMALL, "columns": columns, "rows": [{"title": "a", "place": "h[:4]"}]})
    keys = [ScoreKey(place, "label", "test", "linear", "worst group") for place in ("h[:4]", "z")]
    assert [less for _, less in table.reads(table.rows[0], "mini")] == keys
    assert all(key.probe == "leace" and key.place == "h[:4]" for key, _ in table.reads(table.rows[0], "mini"))
    assert [column.is_difference for column in table.columns] == [True, True]


def test_columns_say_what_is_read_of_a_run():
    columns = [
        {"title": "few", "minus": "z", "shots": 5},
        {"title": "gap", "statistic": "gap", "subject": "background"},
        {
            "title": "SGD",
            "probe": {"mini": "linear", "paper": "sgd"},
            "statistic": {"mini": "accuracy", "paper": LAST},
        },
        {"title": "dimensions", "spectrum": "dimensions"},
        {"title": "bias", "statistic": "prediction bias", "subject": 3},
    ]
    row = {"title": "a part", "place": "h[:4]"}
    table = Table(**{**SMALL, "columns": columns, "rows": [row]})
    at = ("h[:4]", "label", "test")
    few = ScoreKey(*at, shots=5)
    gap, bias = ScoreKey(*at, "linear", "gap", "background"), ScoreKey(*at, "linear", "prediction bias", "3")
    rank = RankKey("h[:4]", "dimensions")
    assert table.reads(table.rows[0], "mini") == [
        (few, few._replace(place="z")),
        (gap, None),
        (ScoreKey(*at), None),
        (rank, None),
        (bias, None),
    ]
    assert table.reads(table.rows[0], "paper")[2] == (ScoreKey(*at, "sgd", LAST), None)
    assert [column.unit for column in table.columns] == ["points", "points", "points", "number", "number"]
    with refuses(ValueError, "first column"):
        Table(**{**SMALL, "columns": columns[3:], "rows": [row]}, tune={"grid": {"optimizer.lr": [0.1]}})


def test_the_figure_of_a_theorem_is_run_once_for_its_settings(tmp_path):
    (first,) = reproduce("directclr/figure3", out=tmp_path)
    (again,) = reproduce("directclr/figure3", out=tmp_path)
    assert again.record == first.record and again.record.theory.theorem == "strong-augmentation"


@pytest.mark.parametrize(
    ("expected", "values", "found"),
    [
        ("pre", [2.0, 2.1, 2.2], "as predicted"),
        ("pre", [-2.0, -2.1, -2.2], "contradicted"),
        ("pre", [2.0, -2.1, 0.3], "not separated"),
        ("post", [-2.0, -2.1, -2.2], "as predicted"),
        ("post", [2.0, 2.1, 2.2], "contradicted"),
        ("post", [2.0, -2.1, 0.3], "not separated"),
        ("nothing", [2.0, 2.1, 2.2], "nothing predicted"),
    ],
)
def test_a_prediction_is_kept_broken_or_left_open(done, expected, values, found):
    row = done.record.table.rows[0].model_copy(update={"expected": expected, "values": [values]})
    assert outcome(row, 0) == found


def test_the_verdict_on_predictions_has_the_score_of_always_saying_pre(done):
    row = done.record.table.rows[0]
    cases = [("pre", 0.5, [2.0, 2.1]), ("pre", 0.1, [1.0, 1.01]), ("post", -0.4, [3.0, 3.1])]
    rows = [
        row.model_copy(update={"expected": kind, "theory": number, "values": [values], "seeds": [0, 1]})
        for kind, number, values in cases
    ]
    table = done.record.table.model_copy(update={"rows": rows, "differences": [0], "paper": None})
    (sentence,) = verdict(table)
    assert_names(
        sentence, "of 2", "pre", "2 as predicted", "of 1", "post", "1 contradicted", "3 of 3", "−0.50"
    )


def test_a_score_that_is_not_there_is_named(done):
    run = done.record.runs[0]
    with refuses(DataError, "'linear'", "'coarse'", "h", "test"):
        score_of(run, ScoreKey("h", "coarse", "test"))
    whole = Score(**{**AT_H, "label": "x"}, value=0.5)
    few = whole.model_copy(update={"shots": 5, "value": 0.4})
    run = run.model_copy(update={"scores": [few, whole]})
    assert score_of(run, ScoreKey("h", "x", "test")) == 0.5
    assert score_of(run, ScoreKey("h", "x", "test", shots=5)) == 0.4


def test_every_recipe_of_the_cifar_scale_fits_its_parts_and_the_first_of_its_kind_is_trained(monkeypatch):
    trained = []

    def build(recipe):  # a dry run, whose training has its own tests, builds the same parts
        trained.append(recipe.head)
        check_on_generated(recipe)

    monkeypatch.setattr(reproduce_module, "dry_run", build)
    recipes = rehearse("directclr/table1", scale="cifar")
    assert [recipe.head for recipe in recipes] == ["none", "linear:128", "subvector:128", "mlp:128"]
    assert trained == ["none"]


def study(out):
    """`fullrank compare` with two workers, forked from this process, which leads a group of its own."""
    os.setsid()
    many_runs.get_context = lambda _: multiprocessing.get_context("fork")
    words = "compare --data digits --heads none,diagonal,orthogonal --workers 2 --resume --epochs 2000"
    more = "--seeds 1 --limit 100 --batch-size 50 --set encoder=tiny-resnet,width=4 --out"
    sys.argv = ["fullrank", *f"{words} {more}".split(), str(out)]
    return main()


def test_ctrl_c_saves_the_runs_under_way_and_the_same_call_goes_on(tmp_path):
    """Two workers, interrupted as a terminal does it: the whole group of processes at once."""
    out, said = tmp_path / "out", tmp_path / "said.txt"
    first = forked.start(said, study, out)
    deadline = time.monotonic() + 240
    while len(list(out.glob("*/metrics.csv"))) < 2 and first.is_alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGINT)
    assert forked.finish([first]) == [130], said.read_text()
    assert "0 of 3" in said.read_text() and "Traceback" not in said.read_text()
    reached = last_steps(out)
    assert len(reached) == 2  # nothing is begun after Ctrl-C
    # SIGTERM reaches this process alone, as `kill` sends it; it sees to its workers.
    second = forked.start(said, study, out)
    while any(last_steps(out)[folder] <= step for folder, step in reached.items()):
        assert second.is_alive() and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(second.pid, signal.SIGTERM)
    assert forked.finish([second]) == [143], said.read_text()
    assert "0 of 3" in said.read_text() and "Traceback" not in said.read_text()
    assert last_steps(out).keys() == reached.keys()


def last_steps(out):
    """The step of the last checkpoint of each run that has one."""
    steps = {}
    for path in out.glob("*/checkpoints/step-*.ckpt"):
        steps[path.parent.parent.name] = max(
            int(path.name.split("-")[1]), steps.get(path.parent.parent.name, 0)
        )
    return steps


def test_runs_are_planned_with_all_scores_that_any_table_reads():
    run = PlannedRun("a", Recipe.resolve("digits"), Path("x"), (ScoreKey("h", "label", "test", "linear"),))
    both = run.with_scores([ScoreKey("z", "label", "test", "linear"), run.scores[0]])
    assert [key.place for key in both.scores] == ["h", "z"]
