"""Two targets side by side: sentences, tables, page and limits agree with the record, over random entries."""

import io
import re
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from refusals import assert_names, refuses
from rich.console import Console

from fullrank.cli import diagnosis as terminal
from fullrank.cli.diagnosis import Limits
from fullrank.diagnosis.beside.verdict import conclude
from fullrank.errors import UsageError
from fullrank.record import (
    DiagnosisEntry,
    Finding,
    LostDirection,
    MeasureChange,
    PairedScore,
    PlacePair,
    Record,
    SideBySide,
    Spectrum,
)
from fullrank.record.tidy import diagnosis_rows
from fullrank.reports.diagnosis import beside as words, beside_figures
from fullrank.reports.page import write_page

EVIL = "<script>stolen=1</script><img src=x onerror=stolen=1>"
SCORES = ("linear", "nearest", "recall_at_1")


def random_pair(generator: np.random.Generator, place: str, against: str) -> PlacePair:
    """Any numbers within their limits; each may be missing."""

    def some(low: float, high: float) -> float | None:
        return float(generator.uniform(low, high)) if generator.random() < 0.8 else None

    overlap = some(0, 1)
    half = 0.01 if overlap is not None else None
    return PlacePair(
        place=place,
        against=against,
        rows=1797,
        widths=(64, int(generator.choice([32, 64]))),
        cka=some(-0.01, 1),
        overlap=overlap,
        overlap_low=half and max(overlap - half, 0),
        overlap_high=half and min(overlap + half, 1),
        by_chance=half,
        neighbours=18,
        compared=1797,
        angles=sorted(generator.uniform(0, 90, int(generator.integers(0, 9))).tolist()),
        distance=some(0, 3),
        rotated_distance=some(0, 1),
        kept=some(-0.01, 1),
        added=some(-0.01, 1),
    )


def random_score(generator: np.random.Generator, place: str, against: str, name: str) -> PairedScore:
    now, before = generator.uniform(0.3, 1, 2).round(3).tolist()
    difference, half = now - before, 0.1
    ends = {"low": difference - half, "high": difference + half}
    apart = abs(difference) > 1.3 * half
    scored = {"now": now, "before": before, "difference": difference, "tested": 899, "apart": apart}
    return PairedScore(place=place, against=against, name=name, **scored, **ends)


def random_change(generator: np.random.Generator, place: str, against: str) -> MeasureChange:
    now, before = generator.uniform(2, 60, 2).tolist()
    ends = {"now_low": now - 1, "now_high": now + 1, "before_low": before - 1, "before_high": before + 1}
    apart = {"apart": abs(now - before) > 2}
    named = {"place": place, "against": against, "name": "effective_rank", "now": now, "before": before}
    return MeasureChange(**named, **ends, **apart)


def random_entry(seed: int) -> DiagnosisEntry:
    """One place or several, with or without labels and matched rows, new alarms or lost directions."""
    generator = np.random.default_rng(seed)
    places = [["embedding"], ["blocks.0", "blocks.1", "h", "z"], ["layer1", "layer2"]][generator.integers(3)]
    against = [f"other.{i}" for i in range(len(places))] if generator.random() < 0.3 else places
    pairs = list(zip(places, against, strict=True))
    matched = str(generator.choice(["id", "order", "none"]))
    labels = generator.random() < 0.7
    scores = [random_score(generator, *pair, name) for pair in pairs for name in SCORES if labels]
    measures = [random_change(generator, *pair) for pair in pairs]
    alike = [random_pair(generator, *pair) for pair in pairs] if matched != "none" else []
    alarms = [alarm(places[-1])] if generator.random() < 0.3 else []
    lost = [
        LostDirection(
            place=places[-1], number=k + 1, variance=0.3 / (k + 1), kept=0.04 * k, classes=["3", "8"]
        )
        for k in range(int(generator.integers(0, 7)))
        if matched != "none"
    ]
    end = conclude(alike, scores, measures, matched=matched, new_alarms=alarms, lost=lost)
    spectrum = {place: Spectrum(singular_values=[3.0, 2.0, 1.0], effective_rank=2.8) for place in places}
    other = {place: Spectrum(singular_values=[3.0, 0.5, 0.0], effective_rank=1.4) for place in against}
    beside = SideBySide(
        target=str(generator.choice(["/old/A.npy", "/old/B.npy", "a_very_long_name_of_a_model"])),
        matched=matched,
        rows=1797 if matched != "none" else 0,
        only_here=int(generator.choice([0, 1300])),
        only_there=int(generator.choice([0, 7])),
        verdict=end.verdict,
        sentence=end.sentence,
        reasons=end.reasons,
        worse=end.worse,
        pairs=alike,
        scores=scores,
        measures=measures,
        lost=lost,
        new_alarms=[f"{each.cause} at {each.place}" for each in alarms],
        not_compared=["Ranks: unlike widths."],
        spectrum=other,
    )
    return DiagnosisEntry(
        target="/new/B.npy",
        rows=1797,
        places=places,
        verdict="No collapse found.",
        collapsed=bool(alarms),
        cut=None,
        findings=alarms,
        measures=[],
        spectrum=spectrum,
        beside=beside,
    )


def entry_with(*keys: str) -> DiagnosisEntry:
    """The first random entry whose comparison has something under each key."""
    entries = map(random_entry, range(999))
    return next(entry for entry in entries if all(getattr(entry.beside, key) for key in keys))


def alarm(place: str) -> Finding:
    measured = {"measure": "share", "value": 0.5, "threshold": 0.05}
    said = {"evidence": "Half of it is constant.", "remedy": "Train slower."}
    return Finding(cause="dead-channels", place=place, level="alarm", **measured, **said)


def shown(value: float, digits: int = 1) -> str:
    """A number as tables write it; a difference that rounds to zero has no sign."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def cells(table, title: str) -> list[str]:
    return [row[table.columns.index(title)] for row in table.rows]


@given(st.integers(0, 10**6))
@settings(max_examples=12, deadline=None)
def test_tables_hold_the_numbers_of_the_record(seed: int) -> None:
    entry = random_entry(seed)
    beside, names = entry.beside, words.names_of(entry, entry.beside)
    table = words.score_table(entry, beside)
    assert (table is None) == (not beside.scores)
    if table is not None:
        assert cells(table, names.now) == [shown(100 * each.now) for each in beside.scores]
        assert cells(table, names.before) == [shown(100 * each.before) for each in beside.scores]
        for cell, each in zip(cells(table, "difference"), beside.scores, strict=True):
            numbers = re.findall(r"[−+]?[\d.]+", cell)
            values = (each.difference, each.low, each.high)
            assert [number.lstrip("+") for number in numbers] == [shown(100 * value) for value in values]
            assert ("*" in cell) == each.apart
        assert_names(table.caption, 899)
    table = words.likeness_table(beside)
    assert (table is None) == (beside.matched == "none")
    for row, pair in zip(table.rows if table else (), beside.pairs, strict=True):
        line = dict(zip(table.columns, row, strict=True))
        assert line["place"] == pair.place and line.get("against", pair.place) == pair.against
        known = {"CKA": (pair.cka, 3), "distance": (pair.distance, 2), "rotated": (pair.rotated_distance, 2)}
        for name, (value, digits) in known.items():
            assert line.get(name, "–") == ("–" if value is None else shown(value, digits))
        assert line.get("overlap", "–").startswith("–" if pair.overlap is None else shown(pair.overlap, 2))
        for name in ("kept", "added"):
            share = getattr(pair, name)
            assert line.get(name, "–") == ("–" if share is None else f"{shown(100 * share, 0)} %")
        if pair.angles:
            ends = f"{median(pair.angles):.0f}", f"{pair.angles[-1]:.0f}"
            assert tuple(re.findall(r"\d+", line["angles"])) == ends
    table = words.measure_table(entry, beside)
    assert cells(table, "apart") == ["yes" if each.apart else "no" for each in beside.measures]


@given(st.integers(0, 10**6))
@settings(max_examples=12, deadline=None)
def test_no_sentence_contradicts_the_numbers(seed: int) -> None:
    entry = random_entry(seed)
    beside = entry.beside
    said = words.rows_sentence(entry, beside)
    assert ("1,797" in said) == (beside.matched != "none") and beside.target in said
    matched = beside.matched != "none"
    assert ("1,300" in said) == (matched and beside.only_here > 0)
    assert (" 7 only" in said) == (matched and beside.only_there > 0)
    if (pair := beside.main) is not None:
        place, against = beside.main_places
        assert pair.place == place and pair.against == against and ("h" in entry.places) == (place == "h")
        said = words.likeness_sentence(pair)
        assert place in said and (f"CKA {shown(pair.cka or 0, 3)}" in said) == (pair.cka is not None)
        assert (f"overlap {shown(pair.overlap or 0, 2)}" in said) == (pair.overlap is not None)
        short = words.overlap_shortfall(beside, 0.6)
        assert bool(short) == (pair.overlap is None or pair.overlap < 0.6)
    changed = [each for each in beside.measures if each.apart and each.place == beside.main_places[0]]
    for sentence, each in zip(words.changed_sentences(beside), changed, strict=True):
        values = [float(number) for number in re.findall(r"([\d.]+) \[", sentence)]
        assert values == pytest.approx([each.now, each.before], rel=1e-3)
    for sentence, lost in zip(words.lost_sentences(beside), beside.lost, strict=True):
        assert_names(sentence, lost.number, f"{100 * lost.variance:.0f} %", "3", "8")
        assert (lost.place in sentence) == (lost.place != "embedding")
        assert f"{100 * lost.kept:.0f} %" in sentence
    assert words.headline(beside).split()[0].lower() == beside.sentence.split()[0].strip(":").lower()
    assert bool(entry.worse_beside) == beside.worse == bool(words.what_got_worse(entry))
    for each in entry.worse_beside:
        assert not isinstance(each, PairedScore) or each.high < 0
        assert each.before is None or each.now < each.before


@pytest.mark.parametrize("seed", range(12))
def test_the_terminal_answers_first_and_fits_eighty_columns(seed: int, monkeypatch) -> None:
    entry, output = random_entry(seed), io.StringIO()
    monkeypatch.setattr(terminal, "Console", lambda **_: Console(file=output, width=80))
    terminal.print_diagnosis(entry)
    lines = [line.rstrip() for line in output.getvalue().splitlines()]
    text, beside = " ".join(" ".join(lines).split()), entry.beside
    assert max(map(len, lines)) <= 80 and text.startswith(f"{beside.sentence} {entry.verdict}")
    assert words.rows_sentence(entry, beside) in text and beside.not_compared[0] in text
    place, _ = beside.main_places
    for each in beside.scores:
        if each.place == place:
            assert_names(text, words.score_title(each.name), shown(100 * each.now), shown(100 * each.before))
    main = words.lost_sentences(beside, place)
    shown_lost = [sentence for sentence in words.lost_sentences(beside) if sentence in text]
    assert shown_lost == main[: words.MOST_NAMED]
    hidden = len(beside.lost) - len(shown_lost)
    assert not hidden or f"{hidden} direction" in text
    assert all(each in text for each in beside.new_alarms)


def test_the_terminal_without_another_target_is_as_before(capsys) -> None:
    terminal.print_diagnosis(random_entry(0).model_copy(update={"beside": None}))
    assert "Compared" not in capsys.readouterr().out


def with_beside(record: Record, entry: DiagnosisEntry) -> Record:
    return record.model_copy(update={"diagnosis": entry})


@pytest.mark.parametrize("seed", [1, 2])
def test_the_page_answers_below_the_verdict(
    seed: int, file_diagnosis: Record, store, read_page, tmp_path: Path
) -> None:
    entry = random_entry(seed)
    page = read_page(write_page(store(with_beside(file_diagnosis, entry), tmp_path)))
    beside, first = entry.beside, page.words.index
    assert first(entry.verdict) < first(beside.sentence) < first("Findings") and "beside" in page.ids
    for sentence in (*beside.reasons, *words.lost_sentences(beside), *beside.not_compared):
        assert sentence in page.words
    for table in words.tables(entry, beside):
        assert all(cell in page.words for row in table.rows for cell in row)
    roles = [{trace["meta"]["role"] for trace in figure["data"]} for figure in page.figures]
    assert ({"difference"} in roles) == bool(beside.scores)


def test_the_picture_of_differences_has_their_intervals(file_diagnosis: Record) -> None:
    entry = next(entry for entry in map(random_entry, range(99)) if len(entry.beside.scores) > 3)
    figure = beside_figures.differences_figure(entry, entry.beside)
    drawn = {}
    for trace in figure.data:
        for x, y, symbol, up, down in zip(
            trace.x, trace.y, trace.marker.symbol, trace.error_x.array, trace.error_x.arrayminus, strict=True
        ):
            drawn[trace.name, entry.places[round(y)]] = (x, x - down, x + up, "open" not in symbol)
    for each in entry.beside.scores:
        *ends, filled = drawn[words.score_title(each.name), each.place]
        assert ends == pytest.approx([100 * each.difference, 100 * each.low, 100 * each.high])
        assert filled == each.apart
    spectra, styles = beside_figures.sides_figure(entry, entry.beside)
    assert {trace.name for trace in spectra.data} == set(styles) and len(styles) == 2


def test_hostile_names_stay_text(file_diagnosis: Record, store, read_page, tmp_path: Path) -> None:
    entry = next(
        e for e in map(random_entry, range(999)) if e.beside.lost and e.beside.new_alarms and e.beside.scores
    )
    text = entry.model_dump_json()
    for word in ("recall_at_1", "dead-channels", "A.npy", "B.npy", entry.places[-1], '"3"', "unlike widths"):
        text = text.replace(word, f'"{EVIL}"' if word == '"3"' else EVIL)
    hostile = with_beside(file_diagnosis, DiagnosisEntry.model_validate_json(text))
    clean = read_page(write_page(store(with_beside(file_diagnosis, entry), tmp_path / "clean")))
    page = read_page(write_page(store(hostile, tmp_path / "evil")))
    assert len(page.all("script")) == len(clean.all("script")) and not page.all("img")
    assert page.words.count("stolen=1") > 10
    for figure in page.figures:
        names = [trace.get("name") or "" for trace in figure["data"]]
        names += [*figure["layout"]["yaxis"].get("ticktext", []), figure["layout"]["xaxis"]["title"]["text"]]
        assert not any("<script" in name or "<img" in name for name in names)


@pytest.mark.parametrize(
    ("limits", "against", "names"),
    [
        (Limits(("worse",)), None, ("worse", "--against", "--baseline")),
        (Limits(("worst",)), "a.npy", ("worst", "collapse")),
        (Limits(min_overlap=2.0), "a.npy", ("--min-overlap", 0, 1, 2)),
        (Limits(min_overlap=float("nan")), "a.npy", ("--min-overlap", "nan")),
        (Limits(min_overlap=0.6), None, ("--min-overlap", "--against")),
    ],
)
def test_limits_that_cannot_be_checked_are_refused(limits: Limits, against: str | None, names) -> None:
    with refuses(UsageError, *names):
        limits.check(None, against)


@pytest.mark.parametrize("seed", range(30))
def test_a_command_fails_on_what_it_was_told_to(seed: int) -> None:
    entry = random_entry(seed)
    Limits(("worse", "collapse"), 0.6).check(None, "a.npy")
    assert Limits().failures(entry) == []
    assert bool(Limits(("collapse",)).failures(entry)) == entry.collapsed
    assert bool(Limits(("worse",)).failures(entry)) == entry.beside.worse
    pair = entry.beside.main
    measured = None if pair is None else pair.overlap
    for least in (0.0, 0.3, 1.0):
        failed = Limits(min_overlap=least).failures(entry)
        assert bool(failed) == (measured is None or measured < least)
        assert measured is None or not failed or f"{measured:.3g}" in failed[0]


def test_a_row_of_the_frame_has_both_values(file_diagnosis: Record) -> None:
    entry = next(
        entry for entry in map(random_entry, range(99)) if entry.beside.scores and entry.beside.pairs
    )
    rows = {row["place"]: row for row in diagnosis_rows(with_beside(file_diagnosis, entry))}
    assert list(rows) == entry.places
    for score in entry.beside.scores:
        row = rows[score.place]
        assert row[f"{score.name}_now_points"] - row[f"{score.name}_before_points"] == pytest.approx(
            row[f"{score.name}_difference_points"]
        )
        assert row[f"{score.name}_difference_low_points"] == pytest.approx(100 * score.low)
    for pair in entry.beside.pairs:
        assert rows[pair.place]["overlap"] == pair.overlap and rows[pair.place]["against"] == pair.against
