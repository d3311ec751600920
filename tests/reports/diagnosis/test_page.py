"""The page of a diagnosis: its verdict, its findings in words, its tables, and what is left out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import assert_names, refuses

from fullrank.errors import UsageError
from fullrank.files import save_arrays
from fullrank.record import DiagnosisEntry, Finding, LayerRow, Record
from fullrank.reports.diagnosis import figures, words
from fullrank.reports.page import write_page

EVIL = "</script><script>window.stolen = 1</script><img src=x onerror=window.stolen=1>"


@pytest.fixture
def page_of(read_page) -> Callable[[Record, Path], Any]:
    def write(record: Record, folder: Path) -> Any:
        folder.mkdir(exist_ok=True)
        record.save(folder)
        path = write_page(folder)
        assert path == folder / "report.html"
        return read_page(path)

    return write


def changed(record: Record, **changes: object) -> Record:
    assert record.diagnosis is not None
    return record.model_copy(update={"diagnosis": record.diagnosis.model_copy(update=changes)})


def test_the_page_holds_the_diagnosis(collapsed_diagnosis: Record, page_of, tmp_path: Path) -> None:
    page, diagnosis = page_of(collapsed_diagnosis, tmp_path), collapsed_diagnosis.diagnosis
    assert [tag for tag, _ in page.tags].count("h1") == 1 and page.all("html")[0]["lang"] == "en"
    first = page.words.index
    assert first("Collapsed") < first(diagnosis.verdict) < first("Findings") < first("Spectrum")
    for finding in diagnosis.findings:
        assert finding.evidence in page.words and finding.remedy in page.words
        assert_names(page.words, f"{finding.measure} {finding.value:.4g}", f"{finding.threshold:.4g}")
    for row in diagnosis.layers:
        for value in (100 * row.linear, 100 * row.nearest, 100 * row.recall_at_1, row.rankme):
            assert f"{value:.1f}" in page.words
    for measure in diagnosis.measures:
        assert measure.name in page.words
        assert measure.value is None or f"{measure.value:.4g}" in page.words
    for share in diagnosis.augmentation:
        assert f"{100 * share.share:.1f}" in page.words
    for curve in diagnosis.dimensions:
        assert all(f"{100 * value:.1f}" in page.words for value in curve.accuracy)
    assert "1,297 rows" in page.words and "torch 2.15.0" in page.words
    assert_names(page.words, "h: 128 of 256", "z: 256 of 512", "live")


def test_every_picture_has_words_for_who_cannot_see_it(
    collapsed_diagnosis: Record, page_of, tmp_path: Path
) -> None:
    page = page_of(collapsed_diagnosis, tmp_path)
    plots = [a for a in page.all("div") if a.get("class") == "plot"]
    assert len(plots) == len(page.figures) == 7
    assert all(a["role"] == "img" and len(a["aria-label"] or "") > 20 for a in plots)
    regions = [a for a in page.all("div") if (a.get("class") or "").startswith("scroll")]
    assert regions and all(a["tabindex"] == "0" and a["role"] == "region" for a in regions)
    assert all("scope" in a for a in page.all("th"))
    named = {a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a}
    assert named <= {a["id"] for _, a in page.tags if "id" in a}
    assert len({a["id"] for _, a in page.tags if "id" in a}) == len([a for _, a in page.tags if "id" in a])


def test_a_healthy_page_says_so(healthy_diagnosis: Record, page_of, tmp_path: Path) -> None:
    page = page_of(healthy_diagnosis, tmp_path)
    assert words.headline(healthy_diagnosis, healthy_diagnosis.diagnosis) in page.words
    assert (
        "Collapsed" not in page.words and not page.ids & {"unseen", "alignment"} and "alarm" not in page.words
    )
    assert len(page.figures) == 6


def test_parts_without_data_are_left_out(file_diagnosis: Record, page_of, tmp_path: Path) -> None:
    page = page_of(file_diagnosis, tmp_path)
    assert len(page.figures) == 1 and not page.all("button")
    assert file_diagnosis.diagnosis.not_seen[0] in page.words
    assert page.ids == {"findings", "unseen", "spectra", "layers", "measures"} and "linear" not in page.words
    bare = changed(file_diagnosis, spectrum={}, measures=[], layers=[], not_seen=[])
    page = page_of(bare, tmp_path / "bare")
    assert not page.figures and not page.all("table")


def test_hostile_text_stays_text(collapsed_diagnosis: Record, page_of, tmp_path: Path) -> None:
    diagnosis = collapsed_diagnosis.diagnosis
    clean = page_of(collapsed_diagnosis, tmp_path / "clean")
    text = diagnosis.model_dump_json()
    for word in (
        "layer3.0",
        "crop",
        "stable_rank",
        "runs/digits",
        "constant",
        "Weaken",
        "Half",
        "dead-channels",
    ):
        assert word in text
        text = text.replace(word, EVIL)
    hostile = collapsed_diagnosis.model_copy(
        update={"diagnosis": DiagnosisEntry.model_validate_json(text), "recipe": {EVIL: EVIL}}
    )
    page = page_of(hostile, tmp_path / "evil")
    assert len(page.all("script")) == len(clean.all("script")) and not page.all("img")
    assert not [a for _, a in page.tags if "onerror" in a]
    assert page.words.count("window.stolen = 1") > 20
    for figure in page.figures:
        shown = [trace.get("name") or "" for trace in figure["data"]]
        shown += figure["layout"]["yaxis"].get("ticktext", [])
        assert not any("<script" in text or "<img" in text for text in shown)


# A training that SpectrumMonitor watched


def test_the_page_of_a_watched_training(watched_record: Record, store, read_page, tmp_path: Path) -> None:
    page = read_page(write_page(store(watched_record, tmp_path)))
    roles = [{trace["meta"]["role"] for trace in figure["data"]} for figure in page.figures]
    assert roles[1:] == [{"effective rank", "live dimensions"}, {"rank"}, {"rank"}]
    finding = watched_record.diagnosis.findings[0]
    assert_names(page.words, "Foreign", "1,297 rows", "2 places", "encoder", "head.0", finding.title)
    assert page.words.count(" A gap: ") == 3 and "samples: 4096" in page.words
    assert "Not shown" not in page.words and "Collapsed" not in page.words
    first = page.words.index
    assert first("Alert") < first(watched_record.diagnosis.verdict) < first("Findings")
    calm = changed(watched_record, findings=[], collapsed=False)
    assert "No alert" in read_page(write_page(store(calm, tmp_path / "calm"))).words


def test_the_loss_of_a_watched_training_is_drawn_beside_its_ranks(
    watched_record: Record, watched_arrays: dict, store, read_page, tmp_path: Path
) -> None:
    step, loss = np.array([3, 50, 100]), np.array([2.5, np.nan, 1.0])
    for values, drawn in ((loss, True), (np.full(3, np.nan), False), (loss[:2], False)):
        store(watched_record, tmp_path)
        save_arrays(tmp_path, watched_arrays | {"loss/step": step, "loss/value": values})
        page = read_page(write_page(tmp_path))
        lines = [trace for figure in page.figures for trace in figure["data"] if trace["name"] == "loss"]
        assert len(lines) == drawn
        if drawn:
            assert page.figures[2]["data"] == lines
    (line,) = figures.loss_over_time_figure({"loss/step": step, "loss/value": loss}).data
    np.testing.assert_array_equal([line.x, line.y], [step, loss])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), "no arrays.npz"),
        (lambda path: path.write_bytes(b"PK\x03\x04 no zip"), "arrays.npz cannot"),
        (lambda path: path.write_bytes(path.read_bytes()[:400]), "arrays.npz cannot"),
    ],
)
def test_arrays_that_cannot_be_read_leave_the_pictures_out(
    spoil: Callable, said: str, watched_record: Record, store, read_page, tmp_path: Path
) -> None:
    spoil(store(watched_record, tmp_path) / "arrays.npz")
    page = read_page(write_page(tmp_path))
    assert f"Not shown: {said}" in page.words and len(page.figures) == 1
    assert watched_record.diagnosis.verdict in page.words


@pytest.mark.parametrize("place", [0.2, 0.6])
def test_a_flipped_byte_leaves_the_pictures_out(
    place: float, watched_record: Record, store, read_page, tmp_path: Path
) -> None:
    path = store(watched_record, tmp_path) / "arrays.npz"
    content = bytearray(path.read_bytes())
    at = int(place * len(content))
    content[at : at + 9] = bytes(byte ^ 0xFF for byte in content[at : at + 9])
    path.write_bytes(content)
    page = read_page(write_page(tmp_path))
    assert "Not shown" in page.words and len(page.figures) < 4


def test_series_that_are_not_there_are_named(
    watched_record: Record, watched_arrays: dict, store, read_page, tmp_path: Path
) -> None:
    store(watched_record, tmp_path)
    save_arrays(tmp_path, watched_arrays | {"spectrum/encoder/singular_values": np.ones((20, 8))})
    page = read_page(write_page(tmp_path))
    assert words.not_drawn(["encoder"], "") in page.words and len(page.figures) == 3
    save_arrays(tmp_path, {"other": np.zeros(3)})
    page = read_page(write_page(tmp_path))
    assert words.not_drawn(["encoder", "head.0"], "") in page.words and len(page.figures) == 1


def test_another_diagnosis_lacks_nothing_and_shows_what_it_has(
    file_diagnosis: Record, watched_arrays: dict, page_of, tmp_path: Path
) -> None:
    assert "Over time" not in page_of(file_diagnosis, tmp_path).words
    renamed = {key.replace("/encoder/", "/features/"): value for key, value in watched_arrays.items()}
    save_arrays(tmp_path, renamed)
    page = page_of(file_diagnosis, tmp_path)
    assert "time: features" in page.words and "head.0" not in page.words
    assert "Not shown" not in page.words


def test_hostile_names_over_time_stay_text(watched_record: Record, store, read_page, tmp_path: Path) -> None:
    text = watched_record.model_dump_json().replace("head.0", EVIL).replace("Foreign", EVIL)
    page = read_page(write_page(store(Record.model_validate_json(text), tmp_path)))
    clean = read_page(write_page(store(watched_record, tmp_path / "clean")))
    assert len(page.all("script")) == len(clean.all("script")) and not page.all("img")
    names = [trace["name"] for figure in page.figures for trace in figure["data"]]
    assert len(page.figures) == 4 and not any("<script" in name for name in names)


def test_a_diagnosis_without_content_has_no_page(healthy_diagnosis: Record, tmp_path: Path) -> None:
    healthy_diagnosis.model_copy(update={"diagnosis": None}).save(tmp_path)
    with refuses(UsageError, tmp_path, "empty diagnosis", 0):
        write_page(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_findings_are_grouped_alarms_first(
    collapsed_diagnosis: Record, store, read_page, tmp_path: Path
) -> None:
    groups = words.causes(collapsed_diagnosis.diagnosis.findings)
    assert [(group.level, len(group.findings)) for group in groups] == [
        ("alarm", 2),
        ("alarm", 1),
        ("note", 1),
    ]
    assert [finding.place for finding in groups[0].findings] == ["layer3.0", "z"]
    (remedy,) = {finding.remedy for finding in groups[0].findings}
    assert read_page(write_page(store(collapsed_diagnosis, tmp_path))).words.count(remedy) == 1
    titles = [group.findings[0].title for group in groups]
    assert [group.heading for group in groups] == [*titles[:2], "Mean dominance"] and titles[2] == ""


@pytest.mark.parametrize(("value", "side"), [(0.3, "above"), (0.2, "at"), (0.1, "below")])
def test_the_side_of_the_threshold(value: float, side: str) -> None:
    finding = Finding(
        cause="new-cause",
        place="h",
        level="note",
        measure="m",
        value=value,
        threshold=0.2,
        evidence="E.",
        remedy="R.",
    )
    assert words.side(finding) == side
    assert words.causes([finding])[0].heading == "New cause"


def row(place: str, linear: float | None) -> LayerRow:
    return LayerRow(
        place=place,
        width=8,
        effective_rank=4.0,
        rankme=4.0,
        linear=linear,
        nearest=None,
        recall_at_1=None,
        gradient_rank=None,
    )


@pytest.mark.parametrize(
    ("cut", "rows", "parts", "absent"),
    [
        ("layer3", {"layer3": 0.9, "h": 0.88, "z": 0.7}, ["90.0", "2.0 above h", "20.0 above z"], "level"),
        ("h", {"layer3": 0.9, "h": 0.9, "z": 0.9001}, ["90.0", "level with z"], "layer3"),
        ("h", {"h": 0.9}, ["90.0"], "z"),
        ("h", {"h": None}, [], "0"),
        ("gone", {"h": 0.5}, [], "0"),
    ],
)
def test_where_to_cut(healthy_diagnosis: Record, cut: str, rows: dict, parts: list[str], absent: str) -> None:
    layers = [row(place, linear) for place, linear in rows.items()]
    said = words.cut_sentence(changed(healthy_diagnosis, cut=cut, layers=layers).diagnosis)
    assert_names(said, f"keep {cut}", *parts)
    assert absent not in said.split(f"keep {cut}")[1].replace("90.0", "")


def test_an_accuracy_of_zero_is_shown(healthy_diagnosis: Record) -> None:
    columns = words.layer_columns([row("h", 0.0), row("z", None)])
    assert columns == {
        "width": ["8", "8"],
        "linear": ["0.0", "–"],
        "effective rank": ["4.0", "4.0"],
        "RankMe": ["4.0", "4.0"],
    }
