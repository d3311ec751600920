"""Tables as Markdown, LaTeX and HTML: everything is escaped, and LaTeX compiles."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from studies import small_study

from fullrank.record import Record, Result
from fullrank.reports.formats import html, latex, latex_text, markdown
from fullrank.reports.notebook import summary_html
from fullrank.reports.text_tables import TextTable, short_data, text_tables

LEVELS = {"none": {0: 0.90, 1: 0.92}, "subvector:24,norm=batch": {0: 0.95, 1: 0.96}}
HOSTILE = r"a_b|c & 50 % #1 $x^2$ {y} ~ \input{z} <script>alert(1)</script> − ± – […] é"
PDFLATEX = shutil.which("pdflatex")


def results(run_record: Record, table_record: Record, healthy_diagnosis: Record) -> list[Result]:
    records = {"run": run_record, "table": table_record, "diagnosis": healthy_diagnosis}
    made = [Result(Path("runs") / name, record) for name, record in records.items()]
    return [small_study("runs/a", LEVELS), *made]


@pytest.fixture
def every_kind(run_record: Record, table_record: Record, healthy_diagnosis: Record) -> list[Result]:
    return results(run_record, table_record, healthy_diagnosis)


def test_a_study_is_one_markdown_table():
    study = small_study("runs/a", LEVELS)
    lines = markdown(text_tables([study])).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len(lines) == 4 and {len(row) for row in cells} == {7}
    columns = dict(zip(cells[0], zip(*cells[2:], strict=True), strict=True))
    # t(0.975, 1) is 12.706; half the width of two values is as many times half their distance.
    assert columns["linear on h"] == ("91.0 ± 12.7", "95.5 ± 6.4")
    assert columns["difference on h"] == ("reference", "+4.5 [−1.9, +10.9]")
    assert columns["seeds"] == ("2", "2")


def test_studies_and_runs_are_one_table_and_each_other_result_has_its_own(every_kind):
    tables = text_tables(every_kind)
    assert [len(table.rows) for table in tables] == [3, 4, len(every_kind[3].record.diagnosis.places)]
    text = markdown(tables)
    assert text.count("\n|:---") == 3 and all(f"**{table.title}**" in text for table in tables)
    for table in tables:
        assert {len(row) for row in table.rows} == {len(table.columns)}


def test_papers_numbers_stand_beside_ours(table_record: Record):
    (table,) = text_tables([Result(Path("t"), table_record)])
    paper = [row[table.columns.index("linear on h, paper")] for row in table.rows]
    assert paper[0] == "51.5" and paper[2] == "62.7"


def test_markdown_cells_cannot_end_their_cell():
    (line,) = markdown([TextTable("", ("a",), ((HOSTILE,),), "")]).splitlines()[2:]
    assert len(re.findall(r"(?<!\\)\|", line)) == 2


def test_latex_commands_are_printed_and_not_run():
    escaped = latex_text(HOSTILE)
    assert r"\input" not in escaped and r"\textbackslash{}input" in escaped
    assert not re.search(r"(?<!\\)[&%#_]", escaped)


def test_a_bracket_at_the_start_of_a_cell_is_no_option():
    assert latex_text("[1, 2]").startswith("{[}")


@pytest.mark.skipif(PDFLATEX is None, reason="no pdflatex: apt-get install texlive-latex-recommended")
def test_latex_compiles(every_kind, tmp_path):
    tables = [*text_tables(every_kind), TextTable(HOSTILE, ("a", HOSTILE), (("[x]", HOSTILE),), HOSTILE)]
    source = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
    (tmp_path / "paper.tex").write_text(f"{source}{latex(tables)}\\end{{document}}\n")
    command = [str(PDFLATEX), "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1500:]
    assert "Missing character" not in (tmp_path / "paper.log").read_text(errors="replace")


class Tags(HTMLParser):
    """The open tags, which must nest, and the text of a piece of HTML."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_html_shows_every_name_as_text():
    tags = Tags(str(html(TextTable("", ("a",), ((HOSTILE,),), ""))))
    assert "script" not in tags.seen and HOSTILE in tags.text


def test_a_notebook_shows_the_headline_and_a_small_table(every_kind):
    for result in every_kind:
        shown = summary_html(result)
        assert len(shown) < 9000 and result._repr_html_() == shown
        tags = Tags(shown)
        assert tags.seen.count("table") == 1 and tags.seen.count("tr") <= 13
        assert str(result.path) in tags.text
    assert "+4.5" in Tags(summary_html(every_kind[0])).text


def test_a_long_table_is_cut_in_a_notebook():
    many = {f"linear:{width}": {0: 0.5} for width in range(1, 31)}
    tags = Tags(summary_html(small_study("runs/a", many)))
    assert tags.seen.count("tr") == 13 and "18" in tags.text and "to_frame()" in tags.text


def test_the_folders_of_a_path_are_left_out_of_a_caption():
    study = small_study("runs/a", LEVELS, data="folder:/home/someone/photos")
    (table,) = text_tables([study])
    assert "photos" in table.caption and "someone" not in table.caption + table.title
    assert short_data("folder:~/x/photos/,split=0.2") == "folder:photos,split=0.2"
    assert short_data("huggingface:user/set") == "huggingface:user/set"
