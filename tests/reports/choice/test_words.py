"""A choice in words: every number of a sentence is in the record, and names are never ambiguous."""

import re

import pytest
from choices import PARTS, REGRET, VETO, choice_entry, file_entry, run_names
from refusals import assert_names

from fullrank.record import CandidateRow, ChoiceEntry, Shortlisted
from fullrank.record.choice import place_of_run
from fullrank.reports.choice import tables, words

SHAPES = {
    "one run": choice_entry(["mlp"], ("h", "head.1", "z")),
    "many": choice_entry(run_names(12), vetoed=(5, 30, 31)),
    "none": choice_entry(["a", "b"], ("h", "z"), vetoed=(0, 1, 2, 3)),
    "files": file_entry(5),
    "no samples": choice_entry(["a", "b"], ("h",), samples=0, labels=False, tied=False),
}


@pytest.fixture(params=SHAPES)
def entry(request) -> ChoiceEntry:
    return SHAPES[request.param]


def test_regret_sentences_hold_the_numbers_of_the_record():
    text = " ".join(words.regret_sentences(SHAPES["many"]))
    assert_names(text, REGRET.cases, "0.6 [0.3, 0.9]", "0.1 [0.0, 0.3]", "46 %", "81 %", REGRET.source)
    numbers = re.findall(r"\d+(?:\.\d+)?", text.replace(REGRET.source, ""))
    means = ["1.4", "0.6", "7.1", "2.3"]
    assert numbers == ["37", "0.6", "0.3", "0.9", "0.1", "0.0", "0.3", "46", "81", *means]


def test_an_unknown_regret_has_no_number():
    assert not re.search(r"\d", " ".join(words.regret_sentences(SHAPES["files"])))


def test_labels_sentences_hold_the_accuracy_of_what_they_choose_and_of_the_first(entry):
    text, labels = " ".join(words.labels_sentences(entry)), entry.labels
    if labels is None:
        assert not text
        return
    best = words.accuracy_of(entry, labels.run, labels.place)
    assert best == max(each for each in labels.accuracies if each is not None)
    assert_names(text, labels.labels, f"{100 * best:.1f}", f"{100 * labels.standard_error:.1f}", labels.run)
    first = entry.shortlist[0]
    if (first.run, first.place) != (labels.run, labels.place):
        assert_names(text, f"{100 * words.accuracy_of(entry, first.run, first.place):.1f}", first.run)


def test_tie_sentences_name_the_tied_candidates_and_no_others():
    entry = SHAPES["many"]
    text = " ".join(words.tie_sentences(entry))
    tied = [place_of_run(row.run, row.place) for row in entry.candidates if row.tied]
    others = [place_of_run(row.run, row.place) for row in entry.candidates if not row.tied]
    assert_names(text, len(tied), *tied, entry.shortlist[0].reason)
    assert not [name for name in others if name in text]
    assert not re.search(r"\d", " ".join(words.tie_sentences(choice_entry(["a", "b"], tied=False))))
    assert words.tie_sentences(SHAPES["no samples"]) == words.tie_sentences(SHAPES["none"]) == []


def test_a_highest_score_that_is_not_listed_is_named():
    rows = [
        CandidateRow(run=run, place="h", width=8, score=score, tied=score > 0.6)
        for run, score in (("first", 0.64), ("twin", 0.72), ("third", 0.5))
    ]
    listed = [
        Shortlisted(run=row.run, place=row.place, score=row.score, parts={}, low=0.4, high=0.8, tied=row.tied)
        for row in (rows[0], rows[2])
    ]
    entry = ChoiceEntry(rule="r", candidates=rows, shortlist=listed, images=100, samples=200)
    text = " ".join(words.tie_sentences(entry))
    assert_names(text, 2, *(place_of_run(row.run, row.place) for row in rows[:2]), "0.72")
    assert text.count("twin") == 2 and "third" not in text


def test_every_veto_is_told_with_its_candidate(entry):
    groups = words.left_out(entry)
    vetoed = [row for row in entry.candidates if row.vetoes]
    assert sum(len(group.names) for group in groups) == len(vetoed)
    assert all(group.reasons == (VETO,) for group in groups)
    sentence = words.left_out_sentence(entry)
    assert re.findall(r"\d+", sentence) == ([str(len(vetoed)), str(len(entry.candidates))] if vetoed else [])


def test_order_begins_with_the_shortlist_and_ends_with_what_is_left_out(entry):
    rows = words.in_order(entry)
    names = [(row.run, row.place) for row in rows]
    assert names[: len(entry.shortlist)] == [(each.run, each.place) for each in entry.shortlist]
    assert len({*names}) == len(names) == len(entry.candidates)
    scores = [row.score for row in rows[len(entry.shortlist) :]]
    kept = [score for score in scores if score is not None]
    assert kept == sorted(kept, reverse=True) and scores[: len(kept)] == kept


def test_shortlist_table_shows_the_scores_shares_and_parts_of_the_record(entry):
    table = tables.shortlist_table(entry)
    rows = {(row.run, row.place): row for row in entry.candidates}
    for line, each in zip(table.rows, entry.shortlist, strict=True):
        cells = dict(zip(table.columns, line, strict=True))
        row = rows[each.run, each.place]
        assert cells["score"] == f"{each.score:.2f}"
        assert cells["95 % interval"] == f"{each.low:.2f} to {each.high:.2f}"
        assert cells["first"] == words.per_cent(row.first)
        assert [cells[name] for name in row.parts] == [f"{each.parts[name]:.2f}" for name in row.parts]


def test_criteria_that_a_candidate_is_trained_on_are_in_parentheses():
    entry = SHAPES["many"]
    table, ordered = tables.criteria_table(entry), words.in_order(entry)
    column = table.columns.index(words.title_of("infonce"))
    marked = [line[column].startswith("(") for line in table.rows]
    assert marked == [bool(row.trained_on) for row in ordered] and any(marked) and not all(marked)


def test_the_score_sentences_explain_the_parts_that_there_are():
    with_views = " ".join(words.score_sentences(SHAPES["many"]))
    assert all(part.capitalize() in with_views for part in PARTS)
    assert_names(with_views, 69, 200, "sie-1")
    assert words.score_sentences(SHAPES["none"]) == []


NAMES = [
    run_names(12),
    ["a" * 90, "a" * 89 + "b", "a" * 88 + "bb"],
    ["x/" * 30 + "run", "y/" * 30 + "run", "short"],
    [f"{'left' * 9}{number}{'right' * 9}" for number in range(30)],
    ["one-very-long-name-of-a-run-that-stands-alone"],
]


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("longest", [10, 16, 26])
def test_short_names_fit_and_differ(names, longest):
    short = words.short_names(names, longest)
    assert list(short) == names and len({*short.values()}) == len(names)
    assert all(0 < len(each) <= longest for each in short.values())


def test_short_names_leave_names_that_fit():
    assert words.short_names(["mlp", "none"], 8) == {"mlp": "mlp", "none": "none"}


def test_theory_sentences_name_both_ends_and_count_the_runs_above_a_half():
    entry = SHAPES["many"]
    shares = entry.theory
    text = " ".join(words.theory_sentences(entry))
    above = sum(share > 0.5 for share in shares.values())
    assert_names(
        text, f"{above} of {len(shares)}", *(f"{100 * end(shares.values()):.0f} %" for end in (min, max))
    )
    assert words.theory_sentences(SHAPES["files"]) == []
