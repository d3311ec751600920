"""The map on the page of a diagnosis: its figure, its colours, its pictures, its size, and hostile texts."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from plotly.offline import get_plotlyjs

from fullrank.files import save_arrays
from fullrank.record import Record, RowMap
from fullrank.reports.diagnosis.map import COLORS, MOST_NAMES, map_section, sentences, sheet_of, swatch
from fullrank.reports.page import page_of, write_page

EVIL = "</script><script>window.stolen=1</script><img src=x onerror=window.stolen=1>"
LIMIT = 10_000_000


def map_of(rows: int, classes: int = 3, **changes: object) -> tuple[RowMap, dict[str, np.ndarray]]:
    """A map of so many rows and its arrays, made up."""
    generator = np.random.default_rng(0)
    arrays = {
        "xy": generator.normal(size=(rows, 2)).astype(np.float32),
        "rows": np.sort(generator.choice(10 * rows, rows, replace=False)),
        "clusters": np.arange(rows, dtype=np.uint8) % 4,
        "findings": np.where(np.arange(rows) % 5, -1, 0).astype(np.int16),
        "causes": np.array(["zero-rows"]),
        "labels": (np.arange(rows) % (classes + 1) - 1).astype(np.int32),
        "classes": np.array([f"class {number}" for number in range(classes)]),
    }
    arrays |= {name: value for name, value in changes.items() if isinstance(value, np.ndarray)}
    said = {name: value for name, value in changes.items() if not isinstance(value, np.ndarray)}
    defaults = {"method": "pca", "place": "h", "rows": rows, "total": 10 * rows, "seed": 0, "clusters": 4}
    shares = {"variance": (0.5, 0.25), "components": 8, "components_variance": 0.9}
    return RowMap(**{**defaults, **shares, **said}), {f"map/{name}": array for name, array in arrays.items()}


def stored(record: Record, folder: Path, entry: RowMap, arrays: dict[str, np.ndarray]) -> Path:
    assert record.diagnosis is not None
    diagnosis = record.diagnosis.model_copy(update={"map": entry})
    folder.mkdir(exist_ok=True)
    record.model_copy(update={"diagnosis": diagnosis}).save(folder)
    save_arrays(folder, arrays)
    return folder


def read(text: str, kind: type) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def test_the_figure_and_its_data_are_the_arrays_in_one_order() -> None:
    entry, arrays = map_of(200, ids=np.array([f"id {row}" for row in range(200)]))
    section = map_section(entry, arrays)
    assert section is not None
    figure, data = json.loads(section.panel.figure), json.loads(section.data)
    points, _ = figure["data"]
    x, y = (read(points[axis]["bdata"], points[axis]["dtype"]) for axis in "xy")
    order = [int(name.split()[1]) for name in data["ids"]]
    assert points["type"] == "scattergl" and sorted(order) == list(range(200))
    np.testing.assert_array_equal(np.stack([x, y], 1), arrays["map/xy"][order])
    np.testing.assert_array_equal(read(data["rows"], np.float64), arrays["map/rows"][order])
    values = {each["name"]: read(each["values"], np.uint16) for each in data["colourings"]}
    np.testing.assert_array_equal(values["label"], arrays["map/labels"][order] + 1)
    np.testing.assert_array_equal(values["cluster"], arrays["map/clusters"][order] + 1)
    np.testing.assert_array_equal(values["finding"], arrays["map/findings"][order] + 1)
    np.testing.assert_array_equal(read(points["marker"]["color"]["bdata"], np.uint8), values["label"])
    # Those that findings name are drawn last, on top.
    assert (np.diff(values["finding"].astype(int)) >= 0).all()


def test_of_many_classes_the_largest_have_colours_and_the_rest_is_grey() -> None:
    labels = np.minimum(np.arange(400) // 2, 50)  # class 50 has the most rows
    entry, arrays = map_of(400, labels=labels, classes=51)
    section = map_section(entry, arrays)
    assert section is not None
    label = section.colourings[0]
    assert label.names[0] == "class 50" and label.counts[0] == 300 and len(label.names) == 51
    assert label.codes.max() == MOST_NAMES and (label.codes == 0).sum() == 2 * (51 - MOST_NAMES)
    marks = [str(swatch(number)) for number in range(MOST_NAMES + 2)]
    assert len(set(marks[: MOST_NAMES + 1])) == MOST_NAMES + 1 and marks[0] == marks[-1]
    assert all(color in "".join(marks) for color in COLORS)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_of_few_pictures_holds_each_exactly(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 6, channels), np.uint8)
    sheet = sheet_of(images)
    kind, _, content = sheet["address"].partition(";base64,")
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))).reshape(
        sheet["lines"] * 4, sheet["columns"] * 6, channels
    )
    assert kind == "data:image/png" and sheet["lines"] * sheet["columns"] >= 7
    for number, image in enumerate(images):
        line, column = divmod(number, sheet["columns"])
        assert (pixels[4 * line : 4 * line + 4, 6 * column : 6 * column + 6] == image).all()


def test_the_page_of_50000_rows_stays_small(file_diagnosis: Record, tmp_path: Path) -> None:
    ids = np.array([f"a/long/folder/of/images/ünïcode/{row:030d}.jpg" for row in range(50_000)])
    entry, arrays = map_of(50_000, classes=5000, ids=ids)
    page = write_page(stored(file_diagnosis, tmp_path, entry, arrays))
    assert page.stat().st_size < LIMIT
    data = json.loads(page.read_text().partition('id="map-data">')[2].partition("</script>")[0])
    # The end of a name differs, and stays.
    assert len(set(data["ids"])) == 50_000 and all(name.endswith(".jpg") for name in data["ids"])


def test_a_sheet_of_2000_pictures_of_noise_stays_small() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2000, 48, 48, 3), np.uint8)
    assert len(get_plotlyjs()) + len(sheet_of(noise)["address"]) < 0.8 * LIMIT


def test_texts_of_a_map_cannot_leave_their_script(file_diagnosis: Record, read_page, tmp_path: Path) -> None:
    evil = np.array([EVIL, "\udce9\u2028 & <b>", *("" for _ in range(8))])
    entry, arrays = map_of(
        10, ids=evil, texts=evil, classes=2, shown=np.arange(10), causes=np.array([EVIL]), shown_as="texts"
    )
    arrays["map/classes"] = np.array([EVIL, "b"])
    folder = stored(file_diagnosis, tmp_path, entry, arrays)
    page = read_page(write_page(folder))
    assert "<script>window" not in (folder / "report.html").read_text()
    assert not page.all("img") and page.words.count("window.stolen=1") >= 2
    assert json.loads(map_section(entry, arrays).data)["texts"] == evil.tolist()


@pytest.mark.parametrize(
    "changes",
    [
        {"xy": np.zeros((9, 2))},
        {"xy": np.full((10, 2), np.nan)},
        {"labels": np.full(10, 3)},
        {"findings": np.full(10, 7)},
        {"shown": np.array([10]), "texts": np.array(["a"])},
        {"ids": np.array(["a"])},
    ],
)
def test_arrays_that_are_not_those_of_the_map_draw_none(
    changes: dict, file_diagnosis: Record, read_page, tmp_path: Path
) -> None:
    entry, arrays = map_of(10, **changes)
    assert map_section(entry, arrays) is None
    page = read_page(write_page(stored(file_diagnosis, tmp_path, entry, arrays)))
    assert "map" in page.ids and not page.all("select")


def test_without_arrays_the_page_says_that_there_is_no_map(file_diagnosis: Record, tmp_path: Path) -> None:
    entry, arrays = map_of(10)
    folder = stored(file_diagnosis, tmp_path, entry, arrays)
    (folder / "arrays.npz").unlink()
    assert page_of(folder).values["map_section"] is None and write_page(folder).exists()


def test_words_hold_the_numbers_of_the_map() -> None:
    entry, _ = map_of(1000, named=1700, named_drawn=40)
    said = " ".join(sentences(entry))
    for number in ("1,000", "10,000", "1,700", "1,660", "50 %", "25 %"):
        assert number in said
    tsne, _ = map_of(1000, method="tsne")
    assert "90 %" in " ".join(sentences(tsne)) and "50 %" not in " ".join(sentences(tsne))
    assert len(sentences(map_of(5, variance=(0.0, 0.0))[0])) == 2
