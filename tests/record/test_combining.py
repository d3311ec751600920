"""Several studies as one table: which rows there are, and which of them are subtracted."""

import pytest
from refusals import assert_names, refuses
from scipy import stats
from studies import small_study

from fullrank.errors import UsageError
from fullrank.record import Result
from fullrank.record.combining import combine
from fullrank.record.comparisons import by_row
from fullrank.record.tidy import study_rows

A = {"none": {0: 0.90, 1: 0.92, 2: 0.91}, "mlp:8": {0: 0.95, 1: 0.96, 2: 0.97}}
B = {"none": {0: 0.80, 1: 0.83, 2: 0.81}}


def rows(combination) -> list[list[str]]:
    """The rows of each record."""
    return [list(by_row(record.runs)) for record in combination.records]


def test_rows_are_named_by_what_differs_and_paired_over_seeds():
    combination = combine([small_study("a", A), small_study("b", B, objective="vicreg")])
    names = ["none, objective=infonce:0.2", "mlp:8, objective=infonce:0.2", "none, objective=vicreg"]
    assert rows(combination) == [names] and combination.notes == ()
    (record,) = combination.records
    last = record.comparisons[-1]
    paired = stats.ttest_rel(list(B["none"].values()), list(A["none"].values()))
    interval = paired.confidence_interval(0.95)
    assert (last.head, last.against) == (names[2], names[0])
    assert last.difference == pytest.approx(100 * (0.80 + 0.83 + 0.81 - 0.90 - 0.92 - 0.91) / 3)
    assert (last.low, last.high) == pytest.approx((100 * interval.low, 100 * interval.high))


def test_rows_trained_on_other_labels_are_subtracted_since_probes_use_the_same_ones():
    combination = combine([small_study("a", A), small_study("b", B, label="coarse")])
    (record,) = combination.records
    assert [each.against for each in record.comparisons] == 2 * ["none, label=label"]


def test_a_limit_on_training_images_decides_the_test_images_only_where_they_are_held_out_of_these():
    with_limit = [small_study(path, A, limit=limit) for path, limit in (("a", None), ("b", 100))]
    assert len(combine(with_limit).records) == 1
    held_out = [small_study(each.path, A, **each.record.recipe | {"held_out": 0.2}) for each in with_limit]
    combination = combine(held_out)
    assert combination.tested == ("digits, held_out=0.2", "digits, held_out=0.2, limit=100")


def test_rows_of_one_study_on_other_test_images_are_not_subtracted():
    varied = {"none": {"data": "digits"}, "mlp:8": {"data": "other"}}
    combination = combine([small_study("a", A, varied)])
    assert rows(combination) == [["none, data=digits"], ["mlp:8, data=other"]]
    assert combination.tested == ("digits", "other")
    assert [row["difference_points"] for row in study_rows([small_study("a", A, varied)])] == 4 * [None]


@pytest.mark.parametrize("key", ["data", "held_out", "classes"])
def test_rows_on_other_test_images_are_not_subtracted(key):
    combination = combine([small_study("a", A), small_study("b", B, **{key: "other"})])
    assert [len(each) for each in rows(combination)] == [2, 1]
    assert [len(record.comparisons) for record in combination.records] == [1, 0]
    assert all("other" not in each.against for record in combination.records for each in record.comparisons)
    assert_names(combination.notes[-1], "other", "digits")


def test_more_seeds_of_one_recipe_are_one_row():
    more = small_study("b", {"none": {3: 0.93, 4: 0.94}})
    combination = combine([small_study("a", A), more])
    (record,) = combination.records
    assert [run.seed for run in by_row(record.runs)["none"]] == [0, 1, 2, 3, 4]
    assert_names(" ".join(combination.notes), "none", "mlp:8")


def test_a_run_counts_once_beside_its_study(tmp_path):
    study = small_study(tmp_path / "a", A)
    run = study.record.runs[0].model_copy(update={"folder": "."})
    alone = study.record.model_copy(update={"kind": "run", "runs": [run]})
    combination = combine([study, Result(tmp_path / "a" / "none-seed0", alone)])
    assert len(combination.runs) == 6 and combination.notes == ()


def test_of_two_runs_of_one_row_and_seed_the_first_counts():
    again = small_study("b", {"none": {2: 0.1, 3: 0.5}})
    combination = combine([small_study("a", A), again])
    levels = {run.seed: run.probes["h"].linear for run in combination.runs if run.head == "none"}
    assert levels == {0: 0.90, 1: 0.92, 2: 0.91, 3: 0.5}
    assert_names(combination.notes[0], "none", 2, "b/none-seed2")


def test_rows_without_a_shared_seed_are_not_paired():
    combination = combine([small_study("a", A), small_study("b", {"linear:8": {7: 0.5}})])
    (record,) = combination.records
    assert [each.head for each in record.comparisons] == ["mlp:8"]
    assert_names(combination.notes[-1], "linear:8", "none")


def test_studies_that_differ_in_many_keys_are_named_by_their_folders():
    other = small_study("x/b", B, objective="vicreg", epochs=3, views="weak", init="w.pth", batch_size=2)
    one = small_study("x/a", A, views="simclr", init=None, batch_size=4)
    combination = combine([one, other])
    assert rows(combination) == [["none, study=a", "mlp:8, study=a", "none, study=b"]]
    assert_names(combination.notes[0], "objective", "epochs", "views", "init", "batch_size")


def test_several_keys_at_once_are_said():
    combination = combine([small_study("a", A), small_study("b", B, epochs=3, objective="vicreg")])
    assert_names(combination.notes[0], "objective", "epochs")


def test_what_only_changes_the_records_names_no_row():
    combination = combine([small_study("a", A), small_study("b", {"linear:8": {0: 0.5}}, monitor_every=1)])
    assert rows(combination) == [["none", "mlp:8", "linear:8"]]


def test_equal_numbers_are_one_value_however_they_are_written():
    swept = small_study("a", A, {"none": {"optimizer.lr": "3e-3"}, "mlp:8": {"optimizer.lr": "0.01"}})
    combination = combine([swept, small_study("b", {"none": {3: 0.9}})])
    assert rows(combination) == [["none, optimizer.lr=0.003", "mlp:8, optimizer.lr=0.01"]]


def test_an_older_recipe_lacks_keys_that_are_at_their_default():
    older = small_study("a", A)
    recipe = {key: value for key, value in older.record.recipe.items() if key not in ("held_out", "classes")}
    older = Result(older.path, older.record.model_copy(update={"recipe": recipe}))
    assert rows(combine([older, small_study("b", {"linear:8": {0: 0.5}})])) == [["none", "mlp:8", "linear:8"]]
    assert len(rows(combine([older, small_study("b", A, held_out="a.txt")]))) == 2


def test_one_result_stays_as_it_is():
    study = small_study("a", A)
    combination = combine([study])
    assert rows(combination) == [["none", "mlp:8"]] and combination.tested == ("digits",)
    assert combination.runs[0].folder == "a/none-seed0"


def test_what_is_no_study_is_refused():
    empty = small_study("a", {})
    with refuses(UsageError, "a", "study"):
        combine([small_study("b", A), empty])
    with refuses(UsageError, "none"):
        combine([])
