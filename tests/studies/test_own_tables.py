"""Tables of one's own: the documented file, what is wrong with a file, and making a table again."""

import re
import sys
from pathlib import Path

import pytest
import yaml
from refusals import refuses

from fullrank.errors import UsageError
from fullrank.reports.page import write_page
from fullrank.studies.own_tables import own_table
from fullrank.studies.reproduce import rehearse, reproduce

PAGE = Path(__file__).parents[2] / "docs" / "your-own-table.md"
# Two classes: a probe of ten takes most of the time of such a run.
QUICK = {
    "data": "digits",
    "classes": "3+8",
    "encoder": "tiny-resnet,width=4",
    "limit": 100,
    "batch_size": 50,
    "epochs": 1,
}
SMALL = {
    "title": "Mine",
    "recipe": "quick.yaml",
    "seeds": 1,
    "columns": [{"title": "linear"}],
    "rows": [{"title": "no head", "set": {"head": "none"}}],
}


def written(folder: Path, **changes) -> Path:
    (folder / "quick.yaml").write_text(yaml.safe_dump(QUICK))
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(SMALL | changes, sort_keys=False))
    return path


def test_the_documented_file_is_a_table_whose_parts_fit(tmp_path):
    path = tmp_path / "heads.yaml"
    path.write_text(re.search(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)[1])
    recipes = rehearse(path)
    assert [(each.head, each.objective, each.epochs) for each in recipes] == [
        ("none", "infonce:0.2", 10),
        ("mlp:48", "infonce:0.2", 10),
        ("mlp:48", own_table(path).table.recipe_of(own_table(path).table.rows[2], "mini", 0).objective, 10),
    ]
    assert recipes[2].objective.name == "vicreg"


def test_every_key_of_a_table_is_documented():
    from fullrank.studies.table import Column, Row, Table

    documented = set(re.findall(r"`([a-z_]+)`", PAGE.read_text()))
    for model in (Table, Column, Row):
        assert set(model.model_fields) <= documented


def test_a_table_is_made_again_from_what_lies_beside_its_record(tmp_path):
    (table,) = reproduce(written(tmp_path), out=tmp_path / "out")
    assert table.path == tmp_path / "out" / "mine"
    (tmp_path / "quick.yaml").unlink()
    page = write_page(table.path).read_text()
    assert "reproduce mine.yaml" in page and "--seeds 1" in page
    runs = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").glob("*/*")}
    (again,) = reproduce(table.path / "mine.yaml", out=tmp_path / "out")
    assert again.record.table == table.record.table
    assert {path: path.stat().st_mtime_ns for path in runs} == runs


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"rowz": []}, ["rowz: []", "'rows'"]),
        ({"columns": [{"title": "a", "statistic": "acuracy"}]}, ["columns.0", "'acuracy'", "'accuracy'"]),
        ({"columns": [{"title": "a", "plaze": "h"}]}, ["line 6", "plaze: h", "'place'"]),
        ({"rows": [{"title": "r", "set": {"heda": "none"}}]}, ["rows.0.set.heda", "heda: none", "'head'"]),
        ({"rows": [{"title": "r", "set": {"epochs": 0}}]}, ["rows.0.set.epochs", "epochs: 0", "at least 1"]),
        ({"rows": [{"title": "r", "paper": [1, 2]}]}, ["rows.0.paper", "2 paper numbers", "1 columns"]),
        ({"recipe": "quikc.yaml"}, ["recipe: quikc.yaml", "fullrank list recipes"]),
        ({"seeds": 0}, ["seeds: 0", "greater than or equal to 1"]),
        ({"like": "directclr/tabel1"}, ["'directclr/tabel1'", "'directclr/table1'"]),
        ({"theorem": "x"}, ["theorem: x", "fullrank theory"]),
        ({"study": "x"}, ["study: x", "fullrank reproduce"]),
        ({"like": "related/forward-forward"}, ["study", "fullrank reproduce"]),
    ],
)
def test_a_wrong_file_names_the_key_the_line_and_the_remedy(tmp_path, changes, names):
    with refuses(UsageError, *names):
        own_table(written(tmp_path, **changes))


def test_a_file_imports_nothing_until_the_user_names_the_module(tmp_path, monkeypatch):
    (tmp_path / "own_heads_of_a_test.py").write_text(
        "from torch import nn\n"
        "class Own(nn.Identity):\n"
        "    def __init__(self, in_dim):\n"
        "        super().__init__()\n"
        "        self.in_dim = self.out_dim = in_dim\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = written(tmp_path, rows=[{"title": "own", "set": {"head": "own_heads_of_a_test:Own"}}])
    with refuses(UsageError, "rows.0.set.head", "--import own_heads_of_a_test"):
        reproduce(path, out=tmp_path / "out")
    assert "own_heads_of_a_test" not in sys.modules
    from fullrank.door import import_modules

    import_modules(["own_heads_of_a_test"])
    assert own_table(path).table.rows[0].title == "own"


def test_a_missing_file_and_a_missing_scale_are_named(tmp_path):
    with refuses(UsageError, "nowhere.yaml", "list tables"):
        own_table(tmp_path / "nowhere.yaml")
    with refuses(UsageError, "mine.yaml", "small", "--scale mini"):
        reproduce(written(tmp_path), scale="small", out=tmp_path / "out")
