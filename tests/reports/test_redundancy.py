"""What pages and the terminal show of diffused redundancy."""

import numpy as np
import pytest

from fullrank.cli.diagnosis import print_diagnosis
from fullrank.cli.tables import print_evaluation, print_redundancy
from fullrank.evaluation.evaluate import Evaluation
from fullrank.record import DimensionCurve, Score
from fullrank.record.scores import ACCURACY_IN, DIFFUSED, WORST_CLASS_IN
from fullrank.reports.page import write_page
from fullrank.reports.redundancy import (
    curves_of_diagnosis,
    curves_of_record,
    curves_of_scores,
    numbers_table,
    redundancy_figure,
    redundancy_section,
    sentences,
)

SIZES = (1, 2, 4, 8, 12)
SHARES = {
    "channels": (0.21, 0.42, 0.63, 0.76, 0.82),
    "principal": (0.52, 0.75, 0.78, 0.81, 0.82),
    "least": (0.11, 0.12, 0.13, 0.31, 0.82),
    "random": (0.24, 0.44, 0.74, 0.79, 0.82),
}
DR = {"channels": 1 - 8 / 12, "principal": 1 - 2 / 12, "least": 0.0, "random": 1 - 4 / 12}


def scores(shift=0.0, place="h"):
    how = {"place": place, "label": "label", "split": "test", "features": "raw", "shots": None}
    how["probe"] = "linear"
    every = []
    for kind, shares in SHARES.items():
        drawn = kind in ("channels", "random")
        every.append(Score(**how, statistic=DIFFUSED, subject=f"{kind}, 0.9", value=DR[kind] + shift))
        for k, share in zip(SIZES, shares, strict=True):
            ends = {"low": share - 0.03, "high": share + 0.03, "episodes": 5} if drawn else {}
            every.append(
                Score(**how, statistic=ACCURACY_IN[kind], subject=str(k), value=share + shift, **ends)
            )
            every.append(Score(**how, statistic=WORST_CLASS_IN[kind], subject=str(k), value=share / 2))
    return every


def test_a_figure_has_four_kinds_with_intervals_and_the_worst_class():
    (places,) = curves_of_scores(scores())
    figure = redundancy_figure(places)
    assert figure.layout.xaxis.type == "log"
    lines = {trace.meta["role"]: trace for trace in figure.data}
    for kind, shares in SHARES.items():
        assert tuple(lines[kind].x) == SIZES
        np.testing.assert_allclose(lines[kind].y, 100 * np.array(shares))
        assert bool(lines[kind].error_y.visible) is (kind in ("channels", "random"))
    np.testing.assert_allclose(lines["channels"].error_y.array, 3)
    worst = [trace for trace in figure.data if trace.meta["role"] == "worst class"]
    np.testing.assert_allclose([trace.y for trace in worst], 50 * np.array(list(SHARES.values())))
    assert [shape.y0 for shape in figure.layout.shapes] == [pytest.approx(0.9 * 82)]


def test_the_sentence_sets_channels_beside_the_control():
    (places,) = curves_of_scores(scores())
    first, cost = sentences(places)
    assert "0.33" in first and "0.67" in first and first.index("0.33") < first.index("0.67")
    assert "basis" in first and " 8 " in first and " 4 " in first
    assert all(number in cost for number in ("8 random channels", "76.0", "82.0", "38.0", "41.0"))
    assert len(sentences(places, chance=0.1)) == 2 and len(sentences(places, chance=0.8)) == 3


def test_the_table_has_a_row_for_each_k_and_fits_80_columns(capsys, monkeypatch):
    (places,) = curves_of_scores(scores())
    table = numbers_table(places)
    assert [row[0] for row in table.rows[:-1]] == [str(k) for k in SIZES]
    assert table.rows[-1][1:] == ("0.33", "0.83", "0.00", "0.67")
    monkeypatch.setenv("COLUMNS", "80")
    wide = [one.model_copy(update={"low": 0.111, "high": 0.512}) if one.low else one for one in scores()]
    print_evaluation(Evaluation({}, wide, {}))
    printed = capsys.readouterr().out.splitlines()
    assert max(map(len, printed)) <= 80 and len(printed) < 30
    (row,) = [line for line in printed if line.split()[:1] == ["8"]]
    assert all(part in row for part in ("76.0", "81.0", "31.0", "79.0", "(38.0)"))
    print_redundancy([])
    assert not capsys.readouterr().out


def test_a_page_of_a_run_has_a_figure_for_each_place(run_record, store, read_page, tmp_path):
    (run,) = run_record.runs
    more = [*run.scores, *scores(), *scores(place="z")]
    record = run_record.model_copy(update={"runs": [run.model_copy(update={"scores": more})]})
    plain = read_page(write_page(store(run_record, tmp_path)))
    page = read_page(write_page(store(record, tmp_path)))
    assert "directions" in page.ids and "directions" not in plain.ids
    assert len(page.figures) == len(plain.figures) + 2
    assert all(f"{100 * share:.1f}" in page.words for shares in SHARES.values() for share in shares)
    assert "0.33" in page.words and "0.67" in page.words


def test_seeds_are_averaged_and_rows_are_named(large_record):
    runs = [run.model_copy(update={"scores": scores(0.01 * run.seed)}) for run in large_record.runs]
    names = {run.row: run.row for run in runs}
    every = curves_of_record(large_record.model_copy(update={"runs": runs}), names)
    assert [each.row for each in every] == list(names)
    seeds = [run.seed for run in runs if run.row == runs[0].row]
    shift = 0.01 * sum(seeds) / len(seeds)
    curve = every[0].curves["channels"]
    assert curve.accuracies[2].mean == pytest.approx(100 * (0.63 + shift))
    assert curve.diffused.mean == pytest.approx(DR["channels"] + shift) and curve.diffused.half > 0
    section = redundancy_section(every, "seeds")
    assert len(section["overview"].rows) == len(names) and len(section["panels"]) <= 12


def test_labels_and_treatments_of_features_are_kept_apart():
    others = [
        one.model_copy(update={"features": "l2", "label": "coarse", "value": one.value / 2})
        for one in scores()
    ]
    plain, other = curves_of_scores([*scores(), *others])
    assert plain.about == "" and "l2" in other.about and "coarse" in other.about
    assert other.curves["least"].accuracies[-1].mean == pytest.approx(41)


def curve(kind, accuracy, **more):
    return DimensionCurve(place="h", kind=kind, dimensions=SIZES, accuracy=accuracy, **more)


def test_a_diagnosis_shows_the_same_and_an_older_one_its_two_curves(
    healthy_diagnosis, read_page, tmp_path, capsys
):
    names = {
        "channels": "random channels",
        "principal": "leading components",
        "least": "least components",
        "random": "random directions",
    }
    worst = [0.1, 0.2, 0.3, 0.4, 0.5]
    new = [curve(names[kind], SHARES[kind], diffused=DR[kind], worst_class=worst) for kind in names]
    old = [curve(names[kind], SHARES[kind]) for kind in ("channels", "principal")]
    for curves, said in ((new, True), (old, False)):
        entry = healthy_diagnosis.diagnosis.model_copy(update={"dimensions": curves})
        record = healthy_diagnosis.model_copy(update={"diagnosis": entry})
        record.save(tmp_path)
        page = read_page(write_page(tmp_path))
        print_diagnosis(entry)
        printed = " ".join(capsys.readouterr().out.split())
        assert "dimensions" in page.ids and "76.0" in page.words and "81.0" in page.words
        for text in (page.words, printed):
            assert ("0.33 for channels" in text) is ("0.67 for random" in text) is said
        (places,) = curves_of_diagnosis(entry)
        assert len(redundancy_figure(places).data) == (8 if said else 2)
