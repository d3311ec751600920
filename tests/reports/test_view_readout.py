"""What pages and the terminal show of the read-out of views."""

import pytest

from fullrank.cli.diagnosis import print_diagnosis
from fullrank.cli.tables import print_view_scores
from fullrank.record import Score, ViewReadout
from fullrank.reports.page import write_page
from fullrank.reports.view_readout import readout_table, record_readout


def scores(shift=0.0):
    """Crop falls from h to z, blur is read nowhere, and flips are as plain at z as at h."""
    at = {
        ("R2", "crop"): (0.41, 0.72, 0.21),
        ("R2", "crop row"): (0.43, 0.74, 0.23),
        ("R2", "blur"): (-0.02, -0.31, -0.52),
        ("AUROC", "flip"): (0.91, 0.87, 0.86),
    }
    return [
        Score(
            place=place,
            label="label",
            split="test",
            features="raw",
            shots=None,
            probe="views",
            statistic=statistic,
            subject=subject,
            value=value + shift,
        )
        for (statistic, subject), values in at.items()
        for place, value in zip(("pixels", "h", "z"), values, strict=True)
    ]


def test_the_head_discards_what_falls_and_nothing_below_chance():
    (sentence,) = readout_table(scores()).sentences
    assert "crop" in sentence and "0.72" in sentence and "0.21" in sentence
    assert not {"blur", "flip", "row"} & set(sentence.replace("(", " ").split())
    kept = [one for one in scores() if one.subject == "flip"]
    assert "crop" not in readout_table(kept).sentences[0]
    assert readout_table([one for one in kept if one.place != "z"]).sentences == ()


def test_a_page_of_a_run_has_the_table(run_record, store, read_page, tmp_path):
    (run,) = run_record.runs
    record = run_record.model_copy(
        update={"runs": [run.model_copy(update={"scores": [*run.scores, *scores()]})]}
    )
    page = read_page(write_page(store(record, tmp_path)))
    assert "readout" in page.ids and all(value in page.words for value in ("0.74", "-0.31", "0.91"))
    assert str(record.recipe["views"]) in page.words
    assert "readout" not in read_page(write_page(store(run_record, tmp_path))).ids


def test_seeds_are_averaged_and_a_study_has_a_sentence_for_each_head(large_record):
    runs = [run.model_copy(update={"scores": scores(0.01 * run.seed)}) for run in large_record.runs]
    table = record_readout(large_record.model_copy(update={"runs": runs}))
    heads = dict.fromkeys(run.row for run in runs)
    assert len(table.sentences) == len(heads) and len(table.rows) == 4 * len(heads)
    seeds = [run.seed for run in runs if run.row == runs[0].row]
    assert table.rows[0].cells[1].mean == pytest.approx(0.72 + 0.01 * sum(seeds) / len(seeds))


def test_a_diagnosis_shows_operations_by_place(collapsed_diagnosis, read_page, tmp_path, capsys):
    readout = ViewReadout(views="weak,flip=0.25", train=2048, test=1024, scores=scores(), left_out=["grey"])
    entry = collapsed_diagnosis.diagnosis.model_copy(update={"view_readout": readout})
    record = collapsed_diagnosis.model_copy(update={"diagnosis": entry})
    record.save(tmp_path)
    page = read_page(write_page(tmp_path))
    assert "readout" in page.ids
    print_diagnosis(entry)
    printed = " ".join(capsys.readouterr().out.split())
    for text in (page.words, printed):
        assert all(part in text for part in ("weak,flip=0.25", "2,048", "1,024", "grey", "0.72", "0.86"))
    assert "0.74" in page.words and "0.74" not in printed  # the numbers of an operation are on the page


def test_the_terminal_has_a_row_for_each_operation(capsys):
    print_view_scores(scores())
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["crop", "row", "R²", "0.43", "0.74", "0.23"] for line in lines)
    assert max(map(len, lines)) <= 80
    print_view_scores([])
    assert capsys.readouterr().out == ""
