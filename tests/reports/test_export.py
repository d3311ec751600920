"""Figures as files: white, with a legend and letters that can be read, each named by what it shows."""

import shutil
import sys
import xml.etree.ElementTree as ET

import pytest
from refusals import refuses

from fullrank.errors import UsageError
from fullrank.record import Record
from fullrank.reports.export import LETTERS, WIDTH, for_paper, named, write_figures
from fullrank.reports.layout import panels
from fullrank.reports.page import page_of, write_page

FOUR = ["none", "linear:48", "subvector:24", "mlp:48"]


@pytest.fixture
def shown(study_record: Record, store, tmp_path):
    return list(page_of(store(study_record, tmp_path)).panels)


def test_every_figure_of_a_page_has_a_name_of_its_own(shown):
    names = named(shown)
    assert len(names) == len(shown) == 7
    assert {"loss", "spectrum-of-the-representation-h", "linear-accuracy-by-place"} <= set(names)
    twice = named([*shown, *shown])
    assert len(twice) == 14 and "loss--2" in twice


@pytest.mark.parametrize("name", ["healthy_diagnosis", "watched_record", "table_record"])
def test_the_figures_of_every_kind_of_page_are_found(name, request, store, tmp_path):
    folder = store(request.getfixturevalue(name), tmp_path)
    page = page_of(folder)
    assert len(list(page.panels)) == page.text.count('<div class="plot"') > 0


def test_the_legend_names_each_head_once(shown):
    for panel in shown:
        figure = for_paper(panel)
        named_lines = [trace.name for trace in figure.data if trace.showlegend]
        assert named_lines == FOUR and figure.layout.showlegend, panel.heading
        assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "white"
        assert figure.layout.font.size == LETTERS and figure.layout.width == WIDTH


def test_one_line_needs_no_legend_and_long_legends_have_room(run_record: Record, large_record, tmp_path):
    heights = []
    for name, record in (("run", run_record), ("study", large_record)):
        (tmp_path / name).mkdir()
        record.save(tmp_path / name)
        layout = for_paper(next(page_of(tmp_path / name).panels)).layout
        heights.append(layout.height)
        assert layout.showlegend == (name == "study")
    assert heights[1] > heights[0] + 100


def test_a_page_without_figures_writes_none(tmp_path):
    assert write_figures(panels(None, "", ""), tmp_path, ["svg"]) == []
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format_is_refused(shown, tmp_path):
    with refuses(UsageError, "gif", "svg", "pdf", "png"):
        write_figures(shown, tmp_path, ["gif"])


def test_without_kaleido_the_extra_is_named_before_anything_is_written(
    study_record: Record, store, tmp_path, monkeypatch
):
    folder = store(study_record, tmp_path)
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with refuses(UsageError, "kaleido", "fullrank[figures]"):
        write_page(folder, ["svg"])
    assert not (folder / "report.html").exists()


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium: apt-get install chromium")
def test_a_browser_draws_every_format(shown, tmp_path):
    pytest.importorskip("kaleido")
    paths = write_figures(shown[:1], tmp_path / "out", ["svg", "pdf", "png"])
    svg, pdf, png = paths
    assert {path.parent.name for path in paths} == {"figures"}
    texts = [element.text for element in ET.parse(svg).iter() if element.text]
    assert set(FOUR) <= set(texts) and "linear accuracy (points)" in texts
    assert pdf.read_bytes().startswith(b"%PDF") and png.read_bytes().startswith(b"\x89PNG")
