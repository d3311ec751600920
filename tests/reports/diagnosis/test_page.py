"""The page of a diagnosis: its verdict, its findings in words, its tables, and what is left out."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fullrank.errors import UsageError
from fullrank.files import save_arrays
from fullrank.record import DiagnosisEntry, Finding, LayerRow, Record
from fullrank.reports.diagnosis import words
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
        assert f"{finding.measure} {finding.value:.4g}, " in page.words
        assert f"its threshold of {finding.threshold:.4g}" in page.words
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
    assert "Numerically zero from the cross on: h 128 of 256; z 256 of 512." in page.words
    assert "not a score of quality" in page.words


def test_every_picture_has_words_for_who_cannot_see_it(
    collapsed_diagnosis: Record, page_of, tmp_path: Path
) -> None:
    page = page_of(collapsed_diagnosis, tmp_path)
    plots = [a for a in page.all("div") if a.get("class") == "plot"]
    assert len(plots) == len(page.figures) == 6
    assert all(a["role"] == "img" and len(a["aria-label"] or "") > 20 for a in plots)
    regions = [a for a in page.all("div") if (a.get("class") or "").startswith("scroll")]
    assert regions and all(a["tabindex"] == "0" and a["role"] == "region" for a in regions)
    assert all("scope" in a for a in page.all("th"))
    named = {a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a}
    assert named <= {a["id"] for _, a in page.tags if "id" in a}
    assert len({a["id"] for _, a in page.tags if "id" in a}) == len([a for _, a in page.tags if "id" in a])


def test_a_healthy_page_says_so(healthy_diagnosis: Record, page_of, tmp_path: Path) -> None:
    page = page_of(healthy_diagnosis, tmp_path)
    assert "No collapse found" in page.words and "No rule fired" in page.words
    assert "Collapsed" not in page.words and "could not be looked at" not in page.words
    assert len(page.figures) == 5 and "Alignment" not in page.words


def test_parts_without_data_are_left_out(file_diagnosis: Record, page_of, tmp_path: Path) -> None:
    page = page_of(file_diagnosis, tmp_path)
    assert len(page.figures) == 1 and not page.all("button")
    assert file_diagnosis.diagnosis.not_seen[0] in page.words
    for absent in ("Where to cut", "How many dimensions", "What the augmentation", "Alignment", "linear"):
        assert absent not in page.words
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
    headings = [figure["layout"]["yaxis"]["title"]["text"] for figure in page.figures]
    assert headings == ["ln of singular value / largest", "rank (dimensions)", *2 * ["ln singular value"]]
    for said in (
        "Watched training of Foreign",
        "At the last look 1,297 rows, read at 2 places, from encoder to head.0;",
        "Spectrum over time: encoder",
        "Spectrum over time: head.0",
        "A gap: numerically zero, or not finite.",
        "The variance has moved into few directions",
        "Settings of the monitor",
        "samples: 4096",
    ):
        assert said in page.words
    assert "Not shown" not in page.words and "Collapsed" not in page.words
    first = page.words.index
    assert first("Alert") < first(watched_record.diagnosis.verdict) < first("Findings")
    calm = changed(watched_record, findings=[], collapsed=False)
    assert "No alert" in read_page(write_page(store(calm, tmp_path / "calm"))).words


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), r"Not shown: no arrays\.npz\."),
        (lambda path: path.write_bytes(b"PK\x03\x04 no zip"), r"Not shown: arrays\.npz cannot be read \("),
        (lambda path: path.write_bytes(path.read_bytes()[:400]), r"Not shown: arrays\.npz cannot be read \("),
    ],
)
def test_arrays_that_cannot_be_read_leave_the_pictures_out(
    spoil: Callable, said: str, watched_record: Record, store, read_page, tmp_path: Path
) -> None:
    spoil(store(watched_record, tmp_path) / "arrays.npz")
    page = read_page(write_page(tmp_path))
    assert re.search(said, page.words) and len(page.figures) == 1
    assert watched_record.diagnosis.verdict in page.words


@pytest.mark.parametrize("place", [0.2, 0.4, 0.6, 0.8])
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
    for name, wrong in (
        ("singular_values", np.zeros((21, 8))),
        ("singular_values", np.ones((20, 8))),
        ("singular_values", np.ones(21)),
        ("singular_values", np.full((21, 8), "x")),
        ("step", np.zeros(0)),
    ):
        save_arrays(tmp_path, watched_arrays | {f"spectrum/encoder/{name}": wrong})
        page = read_page(write_page(tmp_path))
        assert "Not shown over time, for arrays.npz holds nothing to draw: encoder." in page.words
        assert "Spectrum over time: head.0" in page.words and len(page.figures) == 3
    save_arrays(tmp_path, {"other": np.zeros(3)})
    page = read_page(write_page(tmp_path))
    assert "nothing to draw: encoder, head.0." in page.words and len(page.figures) == 1


def test_another_diagnosis_lacks_nothing_and_shows_what_it_has(
    file_diagnosis: Record, watched_arrays: dict, page_of, tmp_path: Path
) -> None:
    assert "Over time" not in page_of(file_diagnosis, tmp_path).words
    renamed = {key.replace("/encoder/", "/features/"): value for key, value in watched_arrays.items()}
    save_arrays(tmp_path, renamed)
    page = page_of(file_diagnosis, tmp_path)
    assert "Spectrum over time: features" in page.words and "head.0" not in page.words
    assert "Not shown" not in page.words


def test_hostile_names_over_time_stay_text(watched_record: Record, store, read_page, tmp_path: Path) -> None:
    text = watched_record.model_dump_json().replace("head.0", EVIL).replace("Foreign", EVIL)
    page = read_page(write_page(store(Record.model_validate_json(text), tmp_path)))
    clean = read_page(write_page(store(watched_record, tmp_path / "clean")))
    assert len(page.all("script")) == len(clean.all("script")) and not page.all("img")
    names = [trace["name"] for figure in page.figures for trace in figure["data"]]
    assert len(page.figures) == 4 and not any("<script" in name for name in names)


def test_nothing_is_fetched(collapsed_diagnosis: Record, page_of, tmp_path: Path) -> None:
    page = page_of(collapsed_diagnosis, tmp_path)
    for _, attributes in page.tags:
        for key in ("src", "href", "srcset", "action", "data"):
            assert key not in attributes
    style = (tmp_path / "report.html").read_text().partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style and "@import" not in style


def test_a_diagnosis_without_content_has_no_page(healthy_diagnosis: Record, tmp_path: Path) -> None:
    healthy_diagnosis.model_copy(update={"diagnosis": None}).save(tmp_path)
    with pytest.raises(UsageError, match="holds an empty diagnosis") as error:
        write_page(tmp_path)
    assert "\n" not in str(error.value) and not (tmp_path / "report.html").exists()


def test_findings_are_grouped_alarms_first(collapsed_diagnosis: Record) -> None:
    groups = words.causes(collapsed_diagnosis.diagnosis.findings)
    assert [(group.level, len(group.findings)) for group in groups] == [
        ("alarm", 2),
        ("alarm", 1),
        ("note", 1),
    ]
    assert [finding.place for finding in groups[0].findings] == ["layer3.0", "z"]
    assert len(groups[0].remedies) == 1
    assert [group.heading for group in groups] == [
        "The views outweigh the data",
        "Some channels never change",
        "Mean dominance",
    ]


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
    ("cut", "rows", "sentence"),
    [
        ("layer3", {"layer3": 0.9, "h": 0.88, "z": 0.7}, "is 90.0 points, 2.0 above h and 20.0 above z."),
        ("h", {"layer3": 0.9, "h": 0.9, "z": 0.9001}, "is 90.0 points, level with z."),
        ("h", {"h": 0.9}, "keep h. Its linear accuracy is 90.0 points."),
        ("h", {"h": None}, "Where to cut: keep h."),
        ("gone", {"h": 0.5}, "Where to cut: keep gone."),
    ],
)
def test_where_to_cut(healthy_diagnosis: Record, cut: str, rows: dict, sentence: str) -> None:
    layers = [row(place, linear) for place, linear in rows.items()]
    said = words.cut_sentence(changed(healthy_diagnosis, cut=cut, layers=layers).diagnosis)
    assert said.endswith(sentence)


def test_an_accuracy_of_zero_is_shown(healthy_diagnosis: Record) -> None:
    columns = words.layer_columns([row("h", 0.0), row("z", None)])
    assert columns == {
        "width": ["8", "8"],
        "linear": ["0.0", "–"],
        "effective rank": ["4.0", "4.0"],
        "RankMe": ["4.0", "4.0"],
    }


def test_torch_is_never_loaded(collapsed_diagnosis: Record, tmp_path: Path) -> None:
    collapsed_diagnosis.save(tmp_path)
    code = (
        "import sys; from pathlib import Path; from fullrank.reports.page import write_page; "
        f"write_page(Path({str(tmp_path)!r})); "
        "print([m for m in ('torch', 'lightning', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert re.search(r"<title>Diagnosis of runs/digits", (tmp_path / "report.html").read_text())
