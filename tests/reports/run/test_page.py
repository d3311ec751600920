"""The page: whole, self-contained, safe, and written whatever is missing beside the record."""

import base64
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import assert_names, refuses

from fullrank.errors import DataError, UsageError
from fullrank.files import save_arrays
from fullrank.record import Record
from fullrank.reports.page import write_page
from fullrank.reports.run.images import MOST_ROWS, example_rows


@pytest.mark.parametrize("name", ["run_record", "study_record", "large_record"])
def test_page_holds_the_record(
    name: str, request: pytest.FixtureRequest, store, read_page, tmp_path: Path
) -> None:
    record: Record = request.getfixturevalue(name)
    path = write_page(store(record, tmp_path))
    assert path == tmp_path / "report.html"
    page = read_page(path)
    assert page.all("html")[0]["lang"] == "en"
    assert [tag for tag, _ in page.tags].count("h1") == 1
    for run in record.runs:
        assert run.head in page.text
        for probe in run.probes.values():
            assert f"{100 * probe.linear:.1f}" in page.text and f"{100 * probe.nearest:.1f}" in page.text
        for spectrum in run.spectrum.values():
            assert f"{spectrum.effective_rank:.1f}" in page.text
        assert f"{run.loss:.4g}" in page.text and f"{run.seconds:.1f}" in page.text
    for score in record.runs[0].scores if len(record.runs) <= 4 else []:
        assert f"{score.value:.4g}" in page.text
    for value in record.published.values.values() if record.published else []:
        assert f"{value:.1f}" in page.text
    if record.published:
        assert record.published.caption in page.text
    for key in ("infonce:0.2", "batch_size: 256", "AMD EPYC 7B13", "2.15.0"):
        assert key in page.text
    plots = [a for tag, a in page.tags if (a.get("class") or "") == "plot"]
    assert len(plots) == len(page.figures) >= 7
    assert all(a["role"] == "img" and len(a["aria-label"] or "") > 20 for a in plots)
    assert len(page.all("img")) == 18 and all(a["alt"] for a in page.all("img"))


def test_image_size_is_that_of_the_examples_where_the_recipe_has_none(
    run_record, store, read_page, tmp_path: Path
) -> None:
    record = run_record.model_copy(update={"recipe": {"data": "digits", "image_size": None}})
    assert "images of 8 by 8 pixels" in read_page(write_page(store(record, tmp_path))).text


@pytest.mark.parametrize("name", ["study_record", "collapsed_diagnosis"])
def test_nothing_is_fetched(
    name: str, request: pytest.FixtureRequest, store, read_page, tmp_path: Path
) -> None:
    page = read_page(write_page(store(request.getfixturevalue(name), tmp_path)))
    for _, attributes in page.tags:
        for key in ("src", "href", "srcset", "action", "data"):
            assert not re.match(r"\s*(\w+:)?//", attributes.get(key) or "")
    assert not [a for a in page.all("script") if "src" in a] and not page.all("link")
    style = (tmp_path / "report.html").read_text().partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style and "@import" not in style


def test_hostile_text_stays_text(study_record: Record, store, read_page, tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    runs = [study_record.runs[0].model_copy(update={"head": evil}), *study_record.runs[1:]]
    record = study_record.model_copy(
        update={
            "runs": runs,
            "recipe": {"data": evil, "note": evil, "command": evil, evil: 1},
            "published": study_record.published.model_copy(update={"caption": evil}),
        }
    )
    page = read_page(write_page(store(record, tmp_path)))
    clean = read_page(write_page(store(study_record, tmp_path / "clean")))
    assert [tag for tag, _ in page.tags].count("script") == [tag for tag, _ in clean.tags].count("script")
    assert not [a for _, a in page.tags if "onerror" in a]
    assert page.text.count("alert(1)") > 5
    assert not any("<" in text for text in page.scripts[:-2]) and len(page.figures) == len(clean.figures)


def test_missing_and_damaged_arrays(large_record: Record, store, read_page, tmp_path: Path) -> None:
    store(large_record, tmp_path)
    gone, broken, bare = (run.folder for run in large_record.runs[:3])
    (tmp_path / gone / "arrays.npz").unlink()
    (tmp_path / broken / "arrays.npz").write_bytes(b"PK\x03\x04 no zip")
    save_arrays(tmp_path / bare, {"epoch": np.arange(3.0)})
    page = read_page(write_page(tmp_path))
    text = " ".join(page.text.split())
    assert f"{gone} (no arrays.npz)" in text
    assert f"{broken} (arrays.npz cannot" in text
    assert text.count(f"arrays of {bare}.") == 4  # one for each series that the others have


def test_no_arrays_at_all(run_record: Record, read_page, tmp_path: Path) -> None:
    run_record.save(tmp_path)
    page = read_page(write_page(tmp_path))
    assert "this run (no arrays.npz)" in page.text and "Example views" not in page.text


def test_collapsed_chanceless_and_without_z(study_record: Record, store, read_page, tmp_path: Path) -> None:
    runs = []
    for run in study_record.runs:
        zeros = run.spectrum["h"].model_copy(update={"singular_values": [0.0] * 96, "effective_rank": 1.0})
        probes = {"h": run.probes["h"]}
        runs.append(run.model_copy(update={"chance": None, "spectrum": {"h": zeros}, "probes": probes}))
    page = read_page(write_page(store(study_record.model_copy(update={"runs": runs}), tmp_path)))
    assert_names(page.text, "none: 0 of 96", "live")
    assert "places" not in page.ids and "embedding z" not in page.text
    assert len(page.figures) == 5


def test_pages_of_the_runs_are_linked_where_they_exist(
    study_record: Record, store, read_page, tmp_path: Path
) -> None:
    store(study_record, tmp_path)
    folder = study_record.runs[1].folder
    (tmp_path / folder / "report.html").write_text("")
    page = read_page(write_page(tmp_path))
    assert [a["href"] for a in page.all("a")] == [f"{folder}/report.html"]


def test_what_is_no_run_has_no_page(study_record: Record, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        write_page(tmp_path)
    study_record.model_copy(update={"runs": []}).save(tmp_path)
    with refuses(UsageError, tmp_path, "empty study", 0):
        write_page(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


@pytest.mark.parametrize("channels", [1, 3])
def test_example_pixels(channels: int) -> None:
    examples = np.random.default_rng(0).integers(0, 256, (11, 3, 8, 8, channels)).astype(np.uint8)
    rows = example_rows(examples)
    assert len(rows) == MOST_ROWS
    content = base64.b64decode(rows[2][1].removeprefix("data:image/png;base64,"))
    pixels = np.asarray(Image.open(io.BytesIO(content))).reshape(96, 96, channels)
    np.testing.assert_array_equal(pixels[::12, ::12], examples[2, 1])
    np.testing.assert_array_equal(pixels[11::12, 11::12], examples[2, 1])


def test_odd_examples_give_no_rows() -> None:
    assert example_rows(None) == []
    assert example_rows(np.zeros((2, 2, 8, 8, 1), np.uint8)) == []
    assert example_rows(np.zeros((2, 3, 8, 8, 1), np.float32)) == []
    assert example_rows(np.zeros((2, 3, 8, 8, 2), np.uint8)) == []


def test_torch_is_never_loaded(
    run_record: Record, collapsed_diagnosis: Record, table_record: Record, store, tmp_path: Path
) -> None:
    records = (run_record, collapsed_diagnosis, table_record)
    folders = [str(store(record, tmp_path / str(i))) for i, record in enumerate(records)]
    code = (
        "import sys; from pathlib import Path; from fullrank.reports.page import write_page; "
        f"print([write_page(Path(folder)).name for folder in {folders}], "
        "[m for m in ('torch', 'lightning', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{['report.html'] * 3} []"
