"""The page of a choice, its notebook form and its rows, for every shape of a choice."""

import csv
import io
from pathlib import Path

import pytest
from choices import choice_entry, choice_record, file_entry, run_names

from fullrank.record import Result
from fullrank.record.tidy import tidy_rows
from fullrank.reports.choice import figures, words
from fullrank.reports.formats import csv_text
from fullrank.reports.notebook import headline
from fullrank.reports.page import write_page
from fullrank.reports.text_tables import text_tables

EVIL = "<script>window.stolen=1</script>"
SHAPES = {
    "one run": (choice_entry(["mlp"], ("h", "head.1", "z")), 2),
    "many": (choice_entry(run_names(12), vetoed=(5, 30, 31)), 3),
    "none": (choice_entry(["a", "b"], ("h", "z"), vetoed=(0, 1, 2, 3)), 1),
    "files": (file_entry(5), 2),
    "hostile": (choice_entry([EVIL, "b"], ("h", "z")), 3),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_page_holds_the_same_sentences_and_numbers(name, read_page, tmp_path: Path):
    entry, pictures = SHAPES[name]
    choice_record(entry).save(tmp_path)
    page = read_page(write_page(tmp_path))
    assert len(page.figures) == pictures
    sentences = [entry.headline, words.summary(entry), words.left_out_sentence(entry), *entry.notes]
    sentences += [*words.labels_sentences(entry), *words.theory_sentences(entry)]
    sentences += [*words.tie_sentences(entry), *words.score_sentences(entry), *words.trained_sentences(entry)]
    sentences += words.regret_sentences(entry) if entry.shortlist else []
    assert all(sentence in page.words for sentence in sentences)
    for row in entry.candidates:
        shown = [] if row.score is None else [f"{row.score:.2f}", *(f"{v:.2f}" for v in row.parts.values())]
        assert all(number in page.words for number in [*shown, *(f"{v:.4g}" for v in row.values.values())])
    assert ("fine" if entry.shortlist else "alarm") in (page.all("div")[0]["class"] or "")
    assert not any("stolen" in script for script in page.scripts[1:] if "fullrank" in script)


def test_every_candidate_has_a_point_and_a_vetoed_one_a_grey_cross():
    entry, _ = SHAPES["many"]
    figure = figures.scores_figure(entry, figures.run_styles(entry))
    by_role = {role: [t for t in figure.data if t.meta["role"] == role] for role in ("score", "left out")}
    scores = sorted(x for trace in by_role["score"] for x in trace.x)
    assert scores == pytest.approx(sorted(row.score for row in entry.candidates if row.score is not None))
    (crosses,) = by_role["left out"]
    assert len(crosses.x) == 3 and all(
        row.vetoes[0] in crosses.customdata[0] for row in entry.candidates[5:6]
    )
    for trace in by_role["score"]:
        assert min(trace.error_x.array) == pytest.approx(0.05, abs=0.01)


def test_the_map_has_the_score_of_each_run_and_place():
    entry, _ = SHAPES["many"]
    heat = figures.map_figure(entry).data[0]
    runs = list(dict.fromkeys(row.run for row in entry.candidates))
    flat = [score for line in heat.z for score in line]
    assert flat == [row.score for row in entry.candidates] and len(heat.z) == len(runs)


def test_rows_have_every_candidate_with_full_precision():
    entry, _ = SHAPES["many"]
    result = Result(Path("choice"), choice_record(entry))
    rows = tidy_rows([result])
    assert [row["score"] for row in rows] == [row.score for row in entry.candidates]
    assert [row["part_structure"] for row in rows] == [row.parts.get("structure") for row in entry.candidates]
    assert sorted(row["rank"] for row in rows if row["rank"]) == [1, 2, 3]
    read = list(csv.DictReader(io.StringIO(csv_text([result]))))
    assert [each["run"] for each in read] == [row.run for row in entry.candidates]
    (table,) = text_tables([result])
    assert len(table.rows) == len(rows) and headline(result.record) == entry.headline


def test_places_of_all_runs_keep_the_order_of_each():
    runs = [["h", "z"], ["stem", "h", "head.1", "head.2", "z"], ["block", "h", "head.1", "z"]]
    merged = figures.merged_places(runs)
    for places in runs:
        assert [place for place in merged if place in places] == places
