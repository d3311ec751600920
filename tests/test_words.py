"""No text of ours has a sentence of more than 40 words; `benchmarks/readability.py --over 40` lists them."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READABILITY = runpy.run_path(str(ROOT / "benchmarks/readability.py"))
MOST_WORDS = 40
PACKAGE = ROOT / "src/fullrank"
ROOMS = sorted(p.name for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file())
TOPS = [*READABILITY["PAGES"], "examples", "benchmarks", *(f"src/fullrank/{room}" for room in ROOMS)]
SENTENCES = {
    ".md": ("# Head\n\nOne `a b` two. Three\nfour.\n\n| a |\n|---|\n", ["One `code` two.", "Three four."]),
    ".py": ('"""One.\n\nArgs:\n    a: Two.\n    b: 3.\n\n>>> 1\n1\n"""\n', ["One.", "a: Two.", "b: 3."]),
    ".yaml": ("a: [Some words that make a sentence., a name]", ["Some words that make a sentence."]),
    ".j2": ("<p>{% if a %}{{ b }} words that make a sentence.</p>", ["`code` words that make a sentence."]),
}


@pytest.mark.parametrize("top", TOPS)
def test_no_sentence_is_longer_than_forty_words(top):
    words, sentences = READABILITY["words_in"], READABILITY["sentences_in"]
    paths = READABILITY["files_under"](ROOT / top)
    long = [f"{path}: {one}" for path in paths for one in sentences(path) if words(one) > MOST_WORDS]
    assert not long, "\n".join(long)


@pytest.mark.parametrize("suffix", SENTENCES)
def test_sentences_are_found_in_each_kind_of_file(tmp_path, suffix):
    text, sentences = SENTENCES[suffix]
    path = tmp_path / f"text{suffix}"
    path.write_text(text)
    assert READABILITY["sentences_in"](path) == sentences


def test_an_error_message_is_read_as_a_sentence_whatever_it_quotes(tmp_path):
    path = tmp_path / "text.py"
    path.write_text('raise E(f"The value {x!r} is not a valid one; use 1.")')
    (sentence,) = READABILITY["sentences_in"](path)
    assert READABILITY["words_in"](sentence) == 10 and "`code`" in sentence
