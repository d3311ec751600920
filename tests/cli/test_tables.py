"""Tables in a terminal: what does not fit beside the names of the rows continues below."""

import io

import pytest
from rich.console import Console

from fullrank.cli.tables import plain_table


def printed(width: int, names: list[str], titles: list[str]) -> list[str]:
    table = plain_table(["place"], titles)
    for name in names:
        table.add_row(name, *("100.0" for _ in titles))
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [24, 40, 60, 80])
def test_names_of_rows_stay_whole_and_no_number_is_lost(width):
    titles = ["width", "rank", "rankme", "live", "linear", "near", "recall@1"]
    lines = printed(width, ["layer4.1", "embedding"], titles)
    assert max(map(len, lines)) <= width
    heads = [line.split() for line in lines if "place" in line]
    assert all(head[0] == "place" for head in heads)
    assert [title for head in heads for title in head[1:]] == titles
    for name in ("layer4.1", "embedding"):
        rows = [line.split() for line in lines if line.split()[:1] == [name]]
        assert [len(row) for row in rows] == [len(head) for head in heads]


def test_a_table_that_fits_is_one():
    assert sum("place" in line for line in printed(80, ["h"], ["linear", "near"])) == 1


def test_long_names_fold_before_numbers_move():
    lines = printed(40, ["q" * 60], ["linear", "near", "rank"])
    assert sum("place" in line for line in lines) == 1
    assert sum(line.count("q") for line in lines) == 60
