"""How hard our texts are to read: Flesch reading ease by textstat, and the longest sentence of each.

For README and docs:

    uv run --group benchmark python benchmarks/readability.py

For docstrings, help and errors:

    uv run --group benchmark python benchmarks/readability.py src

For a list of the sentences above 40 words:

    uv run --group benchmark python benchmarks/readability.py --over 40

Code, tables, headings and formulas are left out. A piece of inline code counts as one word. On Flesch's scale
above 60 is plain English, 30 to 50 is college level, below 30 is for graduates.
"""

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs")
CODE_WORD = "`code`"
_ENDS = re.compile(r"(?<=[.!?])[\"')\]*]*\s+(?=[\"'(*]*[A-Z0-9`])")
_ABBREVIATIONS = re.compile(r"\b(e\.g|i\.e|et al|vs|cf|Fig|Eq|Sec|No|approx)\.", re.IGNORECASE)
_FORMULA = re.compile(r"\$\$.*?\$\$|\$[^$\n]+\$", re.DOTALL)
_SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Example|Examples|Source|References|Attributes):\s*$")
# A string in code counts as prose if it begins with a capital and has several words.
_PROSE = re.compile(r"^[A-Z`{'\"][^\n]*( [a-z]+){4}")


def sentences_of(text: str) -> list[str]:
    """The sentences of a paragraph.

    >>> sentences_of("One fact. Two, e.g. three; four? `five` is code.")
    ['One fact.', 'Two, e.g. three; four?', '`five` is code.']
    """
    marked = _ABBREVIATIONS.sub(lambda match: match[0].replace(".", "\0"), " ".join(text.split()))
    return [piece.replace("\0", ".") for piece in _ENDS.split(marked) if piece.strip()]


def paragraphs_of_markdown(text: str) -> Iterator[str]:
    """The prose of a page: paragraphs and list items, without code, tables, headings and formulas."""
    tokens = MarkdownIt("commonmark").enable("table").parse(_FORMULA.sub("", text))
    skipped = 0
    for token, before in zip(tokens, [None, *tokens], strict=False):
        skipped += {"table_open": 1, "table_close": -1}.get(token.type, 0)
        heading = before is not None and before.type == "heading_open"
        if token.type == "inline" and not skipped and not heading:
            yield "".join(map(_plain, token.children or []))


def _plain(token: Token) -> str:
    return {"code_inline": CODE_WORD, "softbreak": " ", "hardbreak": " "}.get(token.type, token.content)


def paragraphs_of_python(source: str) -> Iterator[str]:
    """The prose of a module: paragraphs of docstrings, and other strings that are sentences."""
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in node.values}
            parts = [str(part.value) if isinstance(part, ast.Constant) else CODE_WORD for part in node.values]
            yield from filter(_PROSE.match, ["".join(parts)])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            is_docstring = id(node) in docstrings
            yield from _docstring(node.value) if is_docstring else filter(_PROSE.match, [node.value])


def _docstring(text: str) -> Iterator[str]:
    """Paragraphs without examples and formulas; each entry of a section such as `Args` is one."""
    lines, block, example = [], 10**6, False
    for line in text.split("\n"):
        depth = len(line) - len(line.lstrip())
        example = bool(line.strip()) and (example or line.lstrip().startswith(">>>"))
        block = 10**6 if line.strip() and depth <= block and not line.lstrip().startswith("..") else block
        if line.lstrip().startswith(".. ") or line.rstrip().endswith("::"):
            block = depth
        entry = re.match(r"^\s*[\w*, ]+( \([^)]*\))?: ", line) is not None
        if entry or _SECTION.match(line.strip()) or re.match(r"\s*[-*] ", line):
            lines.append("")
        if not example and depth <= block and not _SECTION.match(line.strip()):
            lines.append(re.sub(r"`+[^`]*`+", CODE_WORD, line.strip()))
    yield from filter(str.strip, "\n".join(lines).split("\n\n"))


def paragraphs_of_yaml(text: str) -> Iterator[str]:
    """The strings in a YAML file that are sentences."""
    stack = [yaml.safe_load(text)]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            yield from filter(_PROSE.match, [re.sub(r"`[^`]*`", CODE_WORD, value)])
        elif isinstance(value, dict | list):
            stack += value.values() if isinstance(value, dict) else value


def paragraphs_of_template(text: str) -> Iterator[str]:
    """The prose of a page's template; a placeholder counts as one word, and each tag ends a paragraph."""
    shown = re.sub(r"<(script|style|svg).*?</\1>|\{#.*?#\}|<!--.*?-->", "", text, flags=re.DOTALL)
    inline = re.sub(r"</?(a|b|i|em|code|strong|span|sub|sup|wbr)\b[^>]*>|\{%.*?%\}", "", shown)
    filled = re.sub(r"\{\{.*?\}\}", CODE_WORD, inline, flags=re.DOTALL)
    yield from filter(_PROSE.match, map(str.strip, re.split(r"<[^>]*>", filled)))


def words_in(sentence: str) -> int:
    """How many words a sentence has; a sign between spaces is no word without a letter or digit."""
    return sum(any(character.isalnum() for character in word) for word in sentence.split())


PARAGRAPHS = {
    ".md": paragraphs_of_markdown,
    ".py": paragraphs_of_python,
    ".yaml": paragraphs_of_yaml,
    ".j2": paragraphs_of_template,
}


def files_under(path: Path) -> list[Path]:
    """A text file itself, or all text files in a folder."""
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in PARAGRAPHS)


def sentences_in(path: Path) -> list[str]:
    """Every sentence of a page, a module, a template or a YAML file."""
    paragraphs = PARAGRAPHS[path.suffix](path.read_text("utf-8"))
    return [sentence for paragraph in paragraphs for sentence in sentences_of(paragraph)]


def main() -> None:
    """Print the table, or the long sentences with --over."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="*", type=Path, default=[ROOT / page for page in PAGES])
    parser.add_argument("--over", type=int, help="list the sentences with more words than this")
    arguments = parser.parse_args()
    texts = {path: sentences_in(path) for top in arguments.paths for path in files_under(top)}
    if arguments.over is not None:
        for path, sentences in texts.items():
            for sentence in sentences:
                if words_in(sentence) > arguments.over:
                    print(f"{path}: {words_in(sentence)} words: {sentence}\n")
        return
    from textstat import textstat

    print(f"{'page':44}{'words':>8}{'sentences':>11}{'per sentence':>14}{'longest':>9}{'reading ease':>14}")
    for path, sentences in [*texts.items(), ("all", [one for each in texts.values() for one in each])]:
        if sentences:
            counts = [words_in(sentence) for sentence in sentences]
            ease = textstat.flesch_reading_ease(" ".join(sentences))
            numbers = f"{sum(counts):8}{len(counts):11}{sum(counts) / len(counts):14.1f}{max(counts):9}"
            print(f"{str(path)[-43:]:44}{numbers}{ease:14.1f}")


if __name__ == "__main__":
    main()
