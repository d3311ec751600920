"""One page for several studies: one table, one set of figures, and what cannot be paired."""

import pytest
from refusals import assert_names, refuses
from studies import small_study

from fullrank.errors import DataError, UsageError
from fullrank.record import Record
from fullrank.reports.combined.page import write_report


@pytest.fixture
def two(study_record: Record, store, tmp_path):
    """A study with its page, and one with another objective, without arrays or page."""
    store(study_record, tmp_path / "first")
    (tmp_path / "first" / "report.html").touch()
    recipe = study_record.recipe | {"objective": "vicreg"}
    (tmp_path / "second").mkdir()
    study_record.model_copy(update={"recipe": recipe}).save(tmp_path / "second")
    return [tmp_path / "first", tmp_path / "second"]


def test_all_rows_stand_in_one_table_and_in_every_figure(two, read_page, tmp_path):
    before = [folder.joinpath("record.json").read_bytes() for folder in two]
    page = read_page(write_report(two, tmp_path / "out" / "both"))
    assert {"results", "spectra", "training", "sources"} <= page.ids
    for objective in ("infonce:0.2", "vicreg"):
        assert page.text.count(f"mlp:48, objective={objective}") >= 2
    spectra = [figure for figure in page.figures if any(t["meta"].get("key") == 7 for t in figure["data"])]
    assert len(spectra) >= 2
    assert_names(page.words, "arrays.npz", two[0], two[1])
    assert before == [folder.joinpath("record.json").read_bytes() for folder in two]


def test_a_source_links_its_own_page(two, read_page, tmp_path):
    page = read_page(write_report(two, tmp_path / "out" / "both"))
    assert [link["href"] for link in page.all("a")] == ["../../first/report.html"]


def test_other_data_is_said_and_not_subtracted(read_page, tmp_path):
    folders = []
    for name, data in (("a", "digits"), ("b", "fashion-mnist")):
        study = small_study(
            tmp_path / name, {"none": {0: 0.9, 1: 0.91}, "mlp:8": {0: 0.8, 1: 0.83}}, data=data
        )
        study.path.mkdir()
        study.record.save(study.path)
        folders.append(study.path)
    page = read_page(write_report(folders, tmp_path / "out"))
    assert page.words.count("reference") == 2
    assert "fashion-mnist: mlp:8, data=fashion-mnist" in page.words


def test_only_runs_and_studies_make_one_page(healthy_diagnosis, two, store, tmp_path):
    store(healthy_diagnosis, tmp_path / "diagnosis")
    with refuses(UsageError, "diagnosis"):
        write_report([two[0], tmp_path / "diagnosis"], tmp_path / "out")
    with refuses(DataError, "record.json", tmp_path / "nothing"):
        write_report([two[0], tmp_path / "nothing"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
