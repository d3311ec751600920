"""The commands in README and docs/ have names and options that exist; no command is carried out."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from fullrank.cli.commands import app
from fullrank.cli.pages import PAGES

ROOT = Path(__file__).parents[1]
WRITTEN = {f"{name}.md" for name in PAGES}
DOCUMENTS = [
    ROOT / "README.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.name not in WRITTEN),
]


def commands_in(text: str) -> list[list[str]]:
    """The words of each `fullrank` command in the fenced blocks; one with `...` in it is no whole command."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    calls = [re.match(r"(?:uv run |\.venv/bin/)?fullrank (.+)", line.strip()) for line in lines]
    return [shlex.split(call[1], comments=True) for call in calls if call and "..." not in call[1]]


def understand(words: list[str]) -> None:
    """Parse a command as the command line does, without carrying it out."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "list_commands") and words and not words[0].startswith("-"):
        name, *words = words
        assert name in command.list_commands(None), name
        command = command.get_command(None, name)
    if not {"-h", "--help"} & {*words}:
        command.make_context("fullrank", list(words))


@pytest.mark.parametrize("page", DOCUMENTS, ids=[str(page.relative_to(ROOT)) for page in DOCUMENTS])
def test_commands_in_the_page_are_understood(page):
    for words in commands_in(page.read_text()):
        understand(words)


@pytest.mark.parametrize("words", ["train --no-such", "theory depth --no-such", "no-such"])
def test_understand_refuses_an_option_or_a_command_that_does_not_exist(words):
    with pytest.raises(Exception, match="no-such"):
        understand(words.split())


def test_commands_in_joins_lines_and_drops_comments():
    text = "```\nuv run fullrank train \\\n  --head none  # no head\nfullrank list ...\n```\n"
    assert commands_in(text) == [["train", "--head", "none"]]
