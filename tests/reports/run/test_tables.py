"""Rows of the results table against SciPy's t tests, and the sentences made of them."""

import re
import shlex

import numpy as np
import pytest
from refusals import assert_names
from scipy import stats

from fullrank.record import Comparison, Record
from fullrank.record.comparisons import compare_heads
from fullrank.reports.run import words
from fullrank.reports.run.tables import head_table, probed_places, score_rows


def linear(record: Record, head: str, place: str = "h") -> np.ndarray:
    return np.array([100 * run.probes[place].linear for run in record.runs if run.head == head])


def with_levels(record: Record, levels: dict[str, list[float]]) -> Record:
    """The record with these linear accuracies on h, by head and seed."""
    runs = []
    for run in record.runs:
        if run.head in levels:
            score = run.probes["h"].model_copy(update={"linear": levels[run.head][run.seed]})
            runs.append(run.model_copy(update={"probes": {**run.probes, "h": score}}))
    return record.model_copy(update={"runs": runs})


@pytest.mark.parametrize("place", ["h", "z"])
def test_intervals_are_those_of_the_t_tests(large_record: Record, place: str) -> None:
    rows = head_table(large_record, place)
    first = linear(large_record, "none", place)
    assert rows[0].difference is None
    for row in rows:
        values = linear(large_record, row.head, place)
        oracle = stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=stats.sem(values))
        assert row.linear and row.linear.mean == pytest.approx(values.mean())
        assert (row.linear.low, row.linear.high) == pytest.approx(oracle)
        if row.difference:
            paired = stats.ttest_rel(values, first)
            interval = paired.confidence_interval(0.95)
            assert row.difference.mean == pytest.approx((values - first).mean())
            assert (row.difference.low, row.difference.high) == pytest.approx((interval.low, interval.high))
            assert row.difference.separated == (paired.pvalue < 0.05)
    assert sum(row.difference is not None for row in rows) == 11


def test_the_other_columns(study_record: Record) -> None:
    for row, run in zip(head_table(study_record), study_record.runs, strict=True):
        assert (row.head, row.seeds) == (run.head, (0,))
        assert row.linear and row.linear.mean == 100 * run.probes["h"].linear and row.linear.low is None
        assert row.linear_z and row.linear_z.mean == 100 * run.probes["z"].linear
        assert row.nearest and row.nearest.mean == 100 * run.probes["h"].nearest
        assert row.effective_rank == run.spectrum["h"].effective_rank
        assert study_record.published and row.published == study_record.published.values[run.head]


def test_pairs_only_the_seeds_both_heads_have(large_record: Record) -> None:
    runs = [run for run in large_record.runs if run.head in ("none", "diagonal")]
    runs = [run for run in runs if (run.head, run.seed) not in {("none", 1), ("diagonal", 4)}][::-1]
    runs.sort(key=lambda run: run.head != "none")  # seeds descend: pairing is by seed, not by position
    (comparison,) = compare_heads(runs)
    level = {(run.head, run.seed): run.probes["h"].linear for run in runs}
    expected = [100 * (level["diagonal", seed] - level["none", seed]) for seed in (0, 2, 3)]
    assert comparison.difference == pytest.approx(np.mean(expected))
    assert comparison.low == pytest.approx(stats.ttest_1samp(expected, 0).confidence_interval().low)


def test_recorded_comparisons_are_what_is_shown(study_record: Record) -> None:
    given = [Comparison(head="mlp:48", against="none", place="h", difference=7.25, low=7.0, high=7.5)]
    rows = head_table(study_record.model_copy(update={"comparisons": given}))
    assert [row.difference.mean if row.difference else None for row in rows] == [None, None, None, 7.25]


def test_places_run_from_the_image_to_the_loss(large_record: Record) -> None:
    assert probed_places(large_record) == ["h", "h[:24]", "head.1", "head.2", "head.3", "z"]
    run = large_record.runs[0]
    probes = dict.fromkeys(["z[:4]", "z", "head.10", "head.2", "h", "stage.2", "stage.3"], run.probes["h"])
    record = large_record.model_copy(update={"runs": [run.model_copy(update={"probes": probes})]})
    assert probed_places(record) == ["stage.2", "stage.3", "h", "head.2", "head.10", "z", "z[:4]"]


def test_scores_are_means_over_seeds(large_record: Record) -> None:
    row = next(row for row in score_rows(large_record) if row.head == "diagonal" and row.shots == 10)
    values = [
        score.value
        for run in large_record.runs
        for score in run.scores
        if run.head == "diagonal" and score.shots == 10 and score.place == row.place
    ]
    assert row.seeds == 5 and row.value.mean == pytest.approx(np.mean(values))


def test_verdict_names_the_best_and_how_sure(large_record: Record) -> None:
    levels = {
        "none": [0.95, 0.951, 0.949, 0.95, 0.95],
        "diagonal": [0.979, 0.981, 0.978, 0.978, 0.979],
        "orthogonal": [0.95, 0.949, 0.951, 0.953, 0.949],
        "lowrank:24": [0.93, 0.931, 0.929, 0.93, 0.93],
    }
    text = " ".join(words.verdict(with_levels(large_record, levels)))
    low, high = stats.ttest_rel(levels["diagonal"], levels["none"]).confidence_interval(0.95)
    assert_names(text, "diagonal is 2.9", "above none", f"{100 * low:.1f} to {100 * high:.1f}")
    assert_names(text, "none: diagonal.", "none: lowrank:24.", "none: orthogonal.")
    pair = {"none": levels["none"], "orthogonal": levels["orthogonal"]}
    (level, *_) = words.verdict(with_levels(large_record, pair))
    assert_names(level, "indistinguishable", "none", "orthogonal")
    assert not re.search("above|below", level)
    worse = {"none": levels["none"], "lowrank:24": levels["lowrank:24"]}
    assert_names(words.verdict(with_levels(large_record, worse))[0], "lowrank:24", "2.0 points", "below none")


@pytest.mark.parametrize(
    ("others", "parts", "absent"),
    [
        (
            {"diagonal": 0.951, "lowrank:24": 0.952},
            ["indistinguishable", "+0.2", "lowrank:24"],
            "above|below",
        ),
        ({"diagonal": 0.99, "lowrank:24": 0.95}, ["diagonal is 4.0 points above none"], "below"),
        ({"diagonal": 0.9, "lowrank:24": 0.91}, ["none is above", "4.0 points above lowrank:24"], "below"),
        ({"diagonal": 0.90, "lowrank:24": 0.952}, ["No row", "none"], "lowrank:24|below"),
    ],
)
def test_the_headline_ranks_only_what_is_separated(
    large_record: Record, others: dict[str, float], parts: list[str], absent: str
) -> None:
    """Also for one seed, by the sampling error of its 500 test images: 2.3 to 3.2 points here."""
    levels = {"none": 0.95, **others}
    single = [run for run in large_record.runs if run.seed == 0]
    one_seed = large_record.model_copy(update={"runs": single})
    for record, seeds in ((large_record, 5), (one_seed, 1)):
        spread = np.array([0.0, 1e-3, -1e-3, 5e-4, -5e-4][:seeds])
        own = {
            head: level + (20 if abs(level - 0.95) < 0.005 else 1) * spread * (head != "none")
            for head, level in levels.items()
        }
        said = words.verdict(with_levels(record, own))
        assert_names(said[0], *parts)
        assert not re.search(absent, said[0])


def test_one_seed_is_judged_by_the_sampling_error_of_the_test_images(
    study_record: Record, run_record: Record
) -> None:
    levels = {"none": [0.95], "linear:48": [0.97], "subvector:24": [0.94], "mlp:48": [0.952]}
    text = " ".join(words.verdict(with_levels(study_record, levels)))
    limit = 196 * np.sqrt((0.95 * 0.05 + 0.94 * 0.06) / 500)
    assert_names(text, "500 test images", f"{limit:.1f} points")
    assert "interval 9" not in text
    (first, *_) = words.verdict(run_record)
    probes = run_record.runs[0].probes
    assert_names(first, f"{100 * probes['h'].linear:.1f}", "on h", f"{100 * probes['z'].linear:.1f} on z")


def test_a_record_without_the_number_of_test_images_ranks_nothing(study_record: Record) -> None:
    runs = [run.model_copy(update={"images": None, "baselines": []}) for run in study_record.runs]
    text = " ".join(words.verdict(study_record.model_copy(update={"runs": runs})))
    assert not re.search("above|below|indistinguishable", text, re.IGNORECASE)


def test_command(run_record: Record, study_record: Record) -> None:
    assert words.reproduce_command(run_record) == "fullrank train --recipe recipe.yaml --threads 2"
    assert words.reproduce_command(study_record) == (
        "fullrank compare --recipe recipe.yaml --heads none,linear:48,subvector:24,mlp:48 --seeds 1 "
        "--threads 2"
    )


def test_the_command_imports_the_files_of_parts_that_are_not_ours(run_record: Record) -> None:
    needed = [{"module": "my parts.py"}, {"module": "plugin.heads", "distribution": "plugin 1.0"}]
    record = run_record.model_copy(update={"recipe": {**run_record.recipe, "imports": needed}})
    assert shlex.split(words.reproduce_command(record))[-2:] == ["--import", "my parts.py"]


def test_no_runs_and_no_probes(study_record: Record) -> None:
    assert head_table(study_record.model_copy(update={"runs": []})) == []
    bare = [run.model_copy(update={"probes": {}, "spectrum": {}}) for run in study_record.runs]
    record = study_record.model_copy(update={"runs": bare, "published": None})
    for row in head_table(record):
        assert (row.linear, row.linear_z, row.nearest, row.difference, row.effective_rank) == (None,) * 5
    assert len(words.verdict(record)) == 1 and not re.search(r"\d", words.verdict(record)[0])
