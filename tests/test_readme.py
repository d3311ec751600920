"""The Python of the README and of some pages of docs/ runs unchanged, on the first digits only."""

import re
import runpy
from pathlib import Path

import pytest

from fullrank.data.sets.digits import Digits

README = Path(__file__).parents[1] / "README.md"


def python_in(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


BLOCKS = python_in(README)
# Pages without a long training, and so cheap to run.
PAGES = ["heads.md", "howto/did-it-collapse.md", "howto/watch-a-loop.md", "howto/compare-embeddings.md"]


@pytest.fixture(autouse=True)
def few_digits(tmp_path, monkeypatch):
    """One batch of 256 to train and 50 images to test, of two digits, in a folder of the test's own."""
    read, counts = Digits.read, {"train": 256, "test": 50}

    def few(self, split, size):
        # A probe of ten classes takes most of the time of such a short run.
        return read(self, split, size).of_classes(["3", "8"]).limited(counts[split], seed=0)

    monkeypatch.setattr(Digits, "read", few)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_python_in_the_readme_runs(block):
    exec(compile(block, str(README), "exec"), {})


def test_there_is_python_in_the_readme():
    assert BLOCKS


def test_python_in_the_page_on_extending_runs_from_top_to_bottom(tmp_path):
    blocks = python_in(README.parent / "docs" / "extending.md")
    (tmp_path / "page.py").write_text("\n".join(blocks))
    assert blocks
    runpy.run_path("page.py", run_name="__main__")


@pytest.mark.parametrize("page", PAGES)
def test_python_in_a_page_runs(page):
    blocks = python_in(README.parent / "docs" / page)
    assert blocks
    exec(compile("\n".join(blocks), page, "exec"), {})
