"""The Python of the README and of docs/extending.md runs as it stands there."""

import re
import runpy
from functools import partial
from pathlib import Path

import pytest

import fullrank

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_python_in_the_readme_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("train", "compare"):  # on fewer images than a reader's
        monkeypatch.setattr(fullrank, name, partial(getattr(fullrank, name), limit=300))
    exec(compile(block, str(README), "exec"), {})


def test_there_is_python_in_the_readme():
    assert BLOCKS


def test_python_in_the_page_on_extending_runs_from_top_to_bottom(tmp_path, monkeypatch):
    page = README.parent / "docs" / "extending.md"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.py").write_text(
        "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL))
    )
    runpy.run_path("page.py", run_name="__main__")
    assert {path.name for path in (tmp_path / "runs").iterdir()} >= {"mine", "mine-study", "given-diagnosis"}
