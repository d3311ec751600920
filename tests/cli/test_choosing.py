"""A choice on a terminal of 80 columns."""

import pytest
from choices import choice_entry, file_entry, run_names

from fullrank.cli.choosing import plan, print_choice

SHAPES = {
    "one run": choice_entry(["mlp"], ("h", "head.1", "z")),
    "many": choice_entry(run_names(12), vetoed=(5, 30, 31)),
    "none": choice_entry(["a", "b"], ("h", "z"), vetoed=(0, 1, 2, 3)),
    "files": file_entry(5),
    "distinct vetoes": choice_entry([f"run[{n}]" for n in range(9)], ("h", "z"), vetoed=tuple(range(12))),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_choice_fits_into_80_columns(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    entry = SHAPES[name]
    print_choice(entry)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    folded = " ".join(text.split())
    assert entry.headline in folded and all(note in folded for note in entry.notes)
    for each in entry.shortlist:
        assert f"{each.score:.2f}" in text and f"{each.low:.2f} to {each.high:.2f}" in text
        assert all(f"{value:.2f}" in text for value in each.parts.values())


def test_the_plan_names_what_is_compared_and_how_many_images(tmp_path):
    assert "3 targets" in plan(["a", "b", "c"], "digits", 5000)
    assert "5,000" in plan(["a"], "digits", 5000) and "digits" in plan(["a"], "digits", 5000)
