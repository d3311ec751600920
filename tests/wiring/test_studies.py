"""Which run stands in which row of a study and of a reproduced table, and what is chosen by which images."""

import pytest
import yaml
from transparent import LOUD, QUIET, SETTINGS, Coded, WithoutLoud

from fullrank import compare, load, reproduce
from fullrank.studies import table as tables

BASE = {key: value for key, value in SETTINGS.items() if key not in ("seed", "encoder")}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "study"
    options = SETTINGS | {"epochs": 1}
    return compare("digits", data=Coded, heads=["none", WithoutLoud], seeds=2, out=out, **options)


def test_each_run_of_a_study_stands_under_its_own_head_and_seed(study):
    entries = {(run.head, run.seed): run for run in study.record.runs}
    assert list(entries) == [(head, seed) for head in ("none", "transparent:WithoutLoud") for seed in (3, 4)]
    for (head, seed), run in entries.items():
        recipe = load(study.path / run.folder).recipe
        assert (recipe.head, recipe.seed) == (head, seed)
        assert run.probes["h"].linear == LOUD
        assert run.probes["z"].linear == (LOUD if head == "none" else QUIET)


def test_heads_are_compared_with_the_first_at_h(study):
    (comparison,) = study.record.comparisons
    assert (comparison.head, comparison.against, comparison.place) == ("transparent:WithoutLoud", "none", "h")
    assert (comparison.difference, comparison.low, comparison.high) == (0.0, 0.0, 0.0)


SMALL = {
    "title": "Two codes",
    "source": "nobody",
    "question": "Which code is read?",
    "recipe": {"mini": "digits"},
    "seeds": {"mini": 2},
    "base": {"data": "transparent:Coded", "encoder": "transparent:Pixels", **BASE, "epochs": 1},
    "columns": [
        {"title": "h"},
        {"title": "h less z", "place": "h", "minus": "z"},
        {"title": "shade", "place": "z", "label": "shade"},
        {"title": "nearest at z", "place": "z", "probe": "nearest"},
        {"title": "live at z", "place": "z", "spectrum": "dimensions"},
    ],
    "rows": [
        {"title": "none", "set": {"head": "none"}},
        {"title": "quiet", "set": {"head": "transparent:WithoutLoud"}},
        {"title": "the place alone", "set": {"head": "none"}, "place": "quiet"},
        {"title": "held out", "set": {"head": "none", "held_out": 0.25, "batch_size": 72}},
    ],
}


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    (folder / "tests").mkdir()
    tuned = SMALL | {
        "columns": SMALL["columns"][:1],
        "rows": SMALL["rows"][:1],
        # Every rate is as good as any other, since nothing is learnt.
        "tune": {"grid": {"optimizer.lr": [0.003, 0.002, 0.001], "optimizer.floor": [0.5, 0.1]}},
        "base": SMALL["base"] | {"batch_size": 40},
    }
    (folder / "tests" / "small.yaml").write_text(yaml.safe_dump(SMALL))
    (folder / "tests" / "tuned.yaml").write_text(yaml.safe_dump(tuned))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "_TABLES", folder)
        names = ["tests/small", "tests/tuned"]
        results = reproduce(names, out=tmp_path_factory.mktemp("out"), imports=["transparent"])
    return dict(zip(names, results, strict=True))


def test_columns_of_a_table_read_the_place_label_probe_and_quantity_that_they_name(reproduced):
    rows = {row.title: row.values for row in reproduced["tests/small"].record.table.rows}
    loud, quiet = 100 * LOUD, 100 * QUIET
    assert rows["none"][:4] == [[loud] * 2, [0.0] * 2, [100.0] * 2, [loud] * 2]
    assert rows["quiet"][:4] == [[loud] * 2, [loud - quiet] * 2, [100.0] * 2, [quiet] * 2]
    # `place` of a row stands for h, in the score and in the difference.
    alone = rows["the place alone"]
    assert alone[:2] == [[quiet] * 2, [quiet - loud] * 2]
    # Both codes are right in what is held out of the training images.
    assert rows["held out"][0] == [100.0] * 2
    # Of each code the pixels have one sum in all images, so a code of k pixels varies in k - 1 directions.
    assert rows["none"][4] == [13.0, 13.0] and rows["quiet"][4] == [10.0, 10.0]


def test_rows_name_their_own_runs_and_seeds(reproduced):
    result = reproduced["tests/small"]
    for row in result.record.table.rows:
        assert row.seeds == [0, 1]
        for name, seed in zip(row.runs, row.seeds, strict=True):
            recipe = load(result.path.parent / "runs" / name).recipe
            expected = "transparent:WithoutLoud" if row.title == "quiet" else "none"
            assert (recipe.head, recipe.seed) == (expected, seed)


def test_of_equal_settings_the_first_is_chosen_and_by_images_held_out_of_training(reproduced):
    result = reproduced["tests/tuned"]
    (row,) = result.record.table.rows
    assert row.chosen == "optimizer.floor=0.5, optimizer.lr=0.003"
    final = [load(result.path.parent / "runs" / name).recipe for name in row.runs]
    assert [(recipe.optimizer.lr, recipe.optimizer.floor) for recipe in final] == [(0.003, 0.5)] * 2
    assert [recipe.held_out for recipe in final] == [None, None]
    runs = result.path.parent / "runs"
    trials = [run for run in map(load, runs.iterdir()) if run.recipe.seed == 1000]
    assert [trial.recipe.held_out for trial in trials] == [0.2] * 5
    # What is held out of the training images has the right code; the table's own numbers are of the test set.
    assert {trial.record.runs[0].probes["h"].linear for trial in trials} == {1.0}
    assert row.values == [[100 * LOUD] * 2]


def test_a_head_without_weights_is_the_same_in_every_row():
    assert not list(WithoutLoud(16).parameters())
