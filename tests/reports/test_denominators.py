"""What stands under a table: images, chance, sampling errors, and one row for each different baseline."""

import numpy as np
import pytest
from refusals import assert_names

from fullrank.record import Record
from fullrank.record.probed import ProbedImages
from fullrank.reports.denominators import baseline_rows, sample_sentences, under_table
from fullrank.reports.diagnosis import words as diagnosis_words
from fullrank.reports.reproduction import words as table_words


def test_baselines_are_means_over_seeds_and_the_heads_of_a_seed_count_once(large_record: Record) -> None:
    pixels, untrained = baseline_rows(large_record.runs)
    assert (pixels.title, untrained.title) == ("pixels", "untrained encoder")
    assert pixels.linear is not None and untrained.linear is not None
    assert (pixels.linear.mean, pixels.linear.low) == (pytest.approx(97.2), None)
    assert untrained.linear.mean == pytest.approx(np.mean([86.8, 87.8, 88.8, 89.8, 90.8]))
    assert untrained.linear.half is not None


def test_settings_with_other_baselines_have_rows_of_their_own(study_record: Record) -> None:
    sets = [{"varied": {"data": f"set{i % 2}"}} for i in range(4)]
    varied = [run.model_copy(update=each) for run, each in zip(study_record.runs, sets, strict=True)]
    other = [each.model_copy(update={"linear": 0.5}) for each in varied[1].baselines]
    runs = [run.model_copy(update={"baselines": other}) if i % 2 else run for i, run in enumerate(varied)]
    titles = {row.title: row.linear and row.linear.mean for row in baseline_rows(runs)}
    assert titles["pixels, data=set0"] == pytest.approx(97.2) and titles["pixels, data=set1"] == 50.0
    assert [row.title for row in baseline_rows(varied)] == ["pixels", "untrained encoder"]


def test_a_table_says_images_chance_errors_and_what_was_not_measured(study_record: Record) -> None:
    text = " ".join(under_table(study_record.runs, [95.0]))
    assert_names(
        text, "500 images", "10 classes", "chance 10.2", "1,297", "pixels 97.2", "untrained encoder 86.8"
    )
    assert_names(text, f"{100 * np.sqrt(0.95 * 0.05 / 500):.1f} points")
    (run, *_) = study_record.runs
    pixels = run.baselines[0].model_copy(
        update={"linear": None, "nearest": None, "note": "not measured: why"}
    )
    (note,) = under_table([run.model_copy(update={"baselines": [pixels], "images": None})], [95.0])
    assert_names(note, "Pixels", "not measured", "why")


def test_many_sets_of_test_images_are_counted(study_record: Record) -> None:
    sets = [ProbedImages(label="label", train=9, test=100 * i, classes=2, chance=0.5) for i in range(1, 5)]
    runs = [
        run.model_copy(update={"images": each}) for run, each in zip(study_record.runs, sets, strict=True)
    ]
    (sentence,) = sample_sentences(runs)
    assert_names(sentence, 4, "100 to 400", "50.0")


def test_a_reproduced_table_and_a_diagnosis_have_them_too(
    table_record: Record, healthy_diagnosis: Record
) -> None:
    said = " ".join(table_words.denominators(table_record, table_record.table))
    assert_names(said, "500 images", "1.3 points", "90.0", "1.1 at 94.0", "pixels 97.2")
    images, baselines = table_record.runs[0].images, table_record.runs[0].baselines
    entry = healthy_diagnosis.diagnosis.model_copy(update={"images": images, "baselines": baselines})
    assert_names(" ".join(diagnosis_words.denominators(entry)), "500 images", "untrained encoder 86.8")
    columns = diagnosis_words.layer_columns(entry.layers, 500)
    linear = entry.layers[0].linear
    assert columns["linear"][0] == f"{100 * linear:.1f} ({100 * np.sqrt(linear * (1 - linear) / 500):.1f})"
    assert diagnosis_words.baseline_cells(entry, columns)["pixels"][1:3] == ["97.2", "96.6"]


def test_a_cut_leads_only_by_more_than_the_sampling_error(healthy_diagnosis: Record) -> None:
    rows = [row for row in healthy_diagnosis.diagnosis.layers if row.place in ("layer3.0", "h", "z")]
    levels = {"layer3.0": 0.95, "h": 0.935, "z": 0.80}
    images = ProbedImages(label="label", train=900, test=500, classes=10, chance=0.1)
    update = {
        "layers": [row.model_copy(update={"linear": levels[row.place]}) for row in rows],
        "cut": "layer3.0",
        "images": images,
    }
    said = diagnosis_words.cut_sentence(healthy_diagnosis.diagnosis.model_copy(update=update))
    assert_names(said, "indistinguishable from h", "15.0 above z")
