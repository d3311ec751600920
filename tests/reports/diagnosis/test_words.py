"""Sentences of a diagnosis agree with its tables, over many random entries."""

import io
import re

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from rich.console import Console

from fullrank.cli import diagnosis as terminal
from fullrank.diagnosis.entry import verdict
from fullrank.diagnosis.layers import best_cut
from fullrank.record import DiagnosisEntry, Finding, LayerRow, ProbedImages, Spectrum
from fullrank.record.measures import MEASURES
from fullrank.reports.denominators import images_sentence
from fullrank.reports.diagnosis import words

PLACES = ["stem", "layer1.0", "layer2.0", "layer3.1", "h", "head.1", "z"]


def random_entry(seed: int) -> DiagnosisEntry:
    """Places with accuracies on few or many test images, and findings of some causes at some of them."""
    generator = np.random.default_rng(seed)
    places = [place for place in PLACES if generator.random() < 0.8] or ["h"]
    tested = int(generator.choice([60, 500, 10_000]))
    level = np.clip(0.8 + generator.choice([0.01, 0.1]) * generator.normal(size=len(places)), 0, 1)
    accuracies = np.round(level * tested) / tested
    rows = [
        LayerRow(
            place=place,
            width=8,
            effective_rank=1 + generator.random(),
            rankme=2.0,
            linear=float(accuracy),
            nearest=float(accuracy),
            recall_at_1=None,
            gradient_rank=None,
        )
        for place, accuracy in zip(places, accuracies, strict=True)
    ]
    spectrum = {
        row.place: Spectrum(singular_values=[1.0] * 8, effective_rank=row.effective_rank) for row in rows
    }
    findings = [
        Finding(
            cause=cause,
            place=place,
            level=level,
            measure="a share",
            value=float(generator.random()),
            threshold=0.5,
            evidence=f"Something is at {place}.",
            remedy=f"Change the cause {cause}.",
            rows=list(range(min(rows_named, 1000))),
            row_count=rows_named,
        )
        for cause, level, rows_named in (("mean-dominance", "note", 0), ("zero-rows", "note", 4000))
        + ((("dead-channels", "alarm", 3),) if generator.random() < 0.4 else ())
        for place in places
        if generator.random() < 0.6
    ]
    cut = best_cut(rows, tested) if len(rows) > 1 else None
    return DiagnosisEntry(
        target="it",
        rows=5000,
        places=places,
        verdict=verdict(findings, spectrum, cut),
        collapsed=any(finding.level == "alarm" for finding in findings),
        cut=cut,
        findings=findings,
        measures=[],
        spectrum=spectrum,
        layers=rows,
        images=ProbedImages(label="label", train=900, test=tested, classes=10, chance=0.1),
    )


def percents(entry: DiagnosisEntry) -> dict[str, str]:
    return {row.place: f"{100 * row.linear:.1f}" for row in entry.layers}


@given(st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_what_is_said_of_the_place_to_keep_is_in_the_table(seed: int) -> None:
    entry = random_entry(seed)
    said, table = words.cut_sentence(entry), percents(entry)
    if entry.cut is None:
        assert said == ""
        return
    assert f"keep {entry.cut}." in said and f"{table[entry.cut]} points" in said
    linear = {row.place: row.linear for row in entry.layers}
    best, tested = max(linear.values()), entry.images.test
    # Only a place other than the best one is compared with the best, by its name and its number.
    named = re.search(r"the best, (\S+) \((\S+)\)", said)
    assert (named is not None) == (float(table[entry.cut]) < max(map(float, table.values())))
    if named is not None:
        assert linear[named[1]] == best and table[named[1]] == named[2]
        smoothed = (best * tested + 1) / (tested + 2)
        near = best - linear[entry.cut] <= np.sqrt(smoothed * (1 - smoothed) / tested) + 1e-12
        assert ("within one standard error" in said) == near
    for points, side, place in re.findall(r"([\d.]+) (above|below) (h|z)\b", said):
        gap = 100 * (linear[entry.cut] - linear[place])
        assert float(points) == pytest.approx(abs(gap), abs=0.051) and (gap > 0) == (side == "above")


def test_a_place_far_below_the_best_is_not_called_near() -> None:
    entry = next(entry for entry in map(random_entry, range(99)) if len(entry.layers) > 2)
    layers = [row.model_copy(update={"linear": 0.5 + 0.1 * i}) for i, row in enumerate(entry.layers)]
    said = words.cut_sentence(entry.model_copy(update={"layers": layers, "cut": layers[0].place}))
    assert "standard error" not in said and f"{layers[-1].place} ({100 * layers[-1].linear:.1f})" in said


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_the_verdict_names_every_alarm_and_counts_its_places(seed: int) -> None:
    entry = random_entry(seed)
    shown = [each for each in entry.findings if each.level == "alarm"] or entry.findings
    assert entry.verdict.startswith("Collapsed") == entry.collapsed
    for cause in {finding.cause for finding in shown}:
        own = [finding.place for finding in shown if finding.cause == cause]
        text = re.search(rf"{cause} at (.*?)[;.] ", entry.verdict.replace("layer1.0", "layer1_0"))
        assert text is not None and own[0].replace("layer1.0", "layer1_0") in text[1]
        more = re.search(r"(\d+) more", text[1])
        assert len(own) == (2 + int(more[1]) if more else len(re.findall(r"[^\s,]+(?=,|$| and)", text[1])))
    rank = re.search(r"effective rank of (\S+) is ([\d.]+) of (\d+)", entry.verdict)
    assert rank is not None
    assert f"{entry.spectrum[rank[1]].effective_rank:.1f}" == rank[2] and int(rank[3]) == 8


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_values_of_many_places_are_all_shown_or_within_the_span(seed: int) -> None:
    for cause in words.causes(random_entry(seed).findings):
        text = words.places_and_values(cause.findings)
        for each in cause.findings[: words.MOST_PLACES]:
            assert f"{each.place} ({each.value:.3g})" in text
        rest = [each.value for each in cause.findings[words.MOST_PLACES :]]
        span = re.search(r"(\d+) more \((\S+) to (\S+)\)", text)
        assert (span is not None) == bool(rest)
        if span is not None:
            numbers = (len(rest), f"{min(rest):.3g}", f"{max(rest):.3g}")
            assert (int(span[1]), span[2], span[3]) == numbers


@pytest.mark.parametrize("count", [0, 1, 4, 5, 4000])
def test_rows_are_counted_and_the_first_are_named(count: int) -> None:
    (finding, *_) = next(entry for entry in map(random_entry, range(99)) if entry.findings).findings
    rows = list(range(7, 7 + min(count, 1000)))
    said = words.rows_sentence(finding.model_copy(update={"rows": rows, "row_count": count}))
    numbers = [int(number.replace(",", "")) for number in re.findall(r"[\d,]*\d", said)]
    assert numbers == ([count, *rows[: words.MOST_PLACES]] if count else [])


@pytest.mark.parametrize("seed", [2, 3, 11])
def test_the_terminal_has_the_table_before_the_findings_and_each_note_once(seed: int, monkeypatch) -> None:
    entry, output = random_entry(seed), io.StringIO()
    monkeypatch.setattr(terminal, "Console", lambda **_: Console(file=output, width=80))
    terminal.print_diagnosis(entry)
    lines = [line.rstrip() for line in output.getvalue().splitlines()]
    assert max(map(len, lines)) <= 80
    table = next(i for i, line in enumerate(lines) if line.split()[:2] == ["place", "width"])
    heads = [i for i, line in enumerate(lines) if line.startswith(("alarm ", "note "))]
    assert len(heads) == len({(each.cause, each.level) for each in entry.findings})
    assert all(table < i for i in heads) and table < 12
    levels = [lines[i].split()[0] for i in heads]
    assert levels == sorted(levels)
    for remedy in {each.remedy for each in entry.findings}:
        assert " ".join(" ".join(lines).split()).count(remedy) == 1


def test_rows_and_classes_of_a_file_are_counted() -> None:
    counts = {"train": 2500, "test": 2400, "classes": 100, "all_rows": 50_000, "all_classes": 1000}
    said = images_sentence(ProbedImages(label="label", chance=0.01, **counts))
    assert all(f"{count:,}" in said for count in counts.values()) and "image" not in said
    few = images_sentence(ProbedImages(label="label", chance=0.01, **{**counts, "all_classes": 100}))
    assert "1,000" not in few and few.count("100 ") == 1


def test_every_measure_has_a_title_and_its_limits(healthy_diagnosis) -> None:
    notes = words.measure_notes(healthy_diagnosis.diagnosis)
    assert set(notes) <= set(MEASURES)
    assert all(each.title and each.blind.endswith(".") for each in MEASURES.values())
