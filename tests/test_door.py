"""The door: parts of other people by module, file, class, decorator and entry point, and what is refused."""

import sys
from importlib.metadata import EntryPoint

import pytest
import torch
from refusals import refuses
from torch import nn

import fullrank
from fullrank import door, head, objective, train
from fullrank.data import source
from fullrank.door import Origin, import_modules
from fullrank.errors import FullrankWarning, UsageError
from fullrank.heads import HEADS
from fullrank.runs.recipe import RECIPE_FILE, Recipe
from fullrank.specs import Spec

MODULE = '''
import fullrank
import torch
from torch import nn


class Whiten(nn.Module):
    """The first channels."""

    def __init__(self, in_dim: int, rank: int = 4, *, eps: float = 1e-5, deep: bool = False):
        super().__init__()
        self.in_dim, self.out_dim, self.eps = in_dim, rank, eps

    def forward(self, h):
        return h[:, : self.out_dim] / (1 + self.eps)


@fullrank.register_head("{name}", aliases=("{name}-too",))
def half(in_dim):
    return Whiten(in_dim, in_dim // 2)
'''
# Two classes: a probe of ten takes most of the time of such a run.
QUICK = {"encoder": "tiny-resnet,width=4", "classes": "3+8", "limit": 100, "batch_size": 50, "epochs": 1}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A file with a head, which nothing has imported, under a name of its own for each test."""
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE.format(name=name.replace("_", "-")))
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield name
    for module in set(sys.modules) - before:
        if name in module:
            del sys.modules[module]


def test_a_file_names_a_head_with_value_and_options(mine):
    built = head(f"{mine}.py:Whiten:3,eps=1e-3", in_dim=12)
    assert built.out_dim == 3 and built.eps == 1e-3
    spec = HEADS.parse(f"{mine}.py:Whiten:3,eps=1e-3,deep=false")
    assert spec == f"{mine}.py:Whiten:3,eps=0.001" and spec.value == 3 and spec.options == (("eps", 0.001),)
    assert HEADS.parse(str(spec)) == spec


def test_a_folder_before_the_file_is_no_part_of_the_canonical_name(mine, tmp_path):
    assert HEADS.parse(f"{tmp_path}/{mine}.py:Whiten") == f"{mine}.py:Whiten:4"


def test_a_module_on_the_path_names_a_head(mine, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    assert head(f"{mine}:Whiten", in_dim=12).out_dim == 4
    assert HEADS[f"{mine}:Whiten"].origin == Origin(mine)


def test_an_import_registers_what_its_decorators_name(mine):
    name = mine.replace("_", "-")
    with refuses(UsageError, "head", name):
        HEADS.parse(name)
    import_modules([f"{mine}.py"])
    import_modules([f"{mine}.py"])  # twice does no harm
    assert head(name, in_dim=12).out_dim == 6 and HEADS.parse(f"{name}-too") == name
    origin = HEADS[name].origin
    assert origin.module == f"{mine}.py" and len(origin.sha256) == 64


def test_norm_is_an_option_of_every_head(mine):
    built = head(f"{mine}.py:Whiten:3,norm=batch", in_dim=12).train()
    z = built(5 + 3 * torch.randn(400, 12))
    torch.testing.assert_close(z.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(3), atol=1e-2, rtol=0)


class Doubled(nn.Module):
    def __init__(self, in_dim: int, factor: float = 2.0):
        super().__init__()
        self.in_dim = self.out_dim = in_dim
        self.factor = factor

    def forward(self, h):
        return self.factor * h


class Keyed(Doubled):
    def __init__(self, in_dim: int, *, factor: float = 2.0):
        super().__init__(in_dim, factor)


def test_what_goes_by_name_alone_is_an_option_and_no_value(mine):
    assert HEADS.parse(Keyed).value is None
    assert HEADS.parse(f"{HEADS.parse(Keyed)},factor=3").options == (("factor", 3.0),)


class Pull(nn.Module):
    def forward(self, z_a, z_b):
        return (z_a - z_b).square().mean()


def test_a_class_is_named_by_its_module(mine):
    spec = HEADS.parse(Doubled)
    assert spec.endswith(":Doubled:2") and spec is HEADS.parse(spec) and head(Doubled, in_dim=3).factor == 2
    assert type(objective(Pull)) is Pull


@pytest.mark.parametrize("given", [Doubled(4), 3, None])
def test_an_instance_is_refused_and_its_class_is_asked_for(given):
    with refuses(UsageError, "head", type(given).__name__, "class"):
        HEADS.parse(given)


def test_a_run_with_a_part_of_a_file_names_the_file_loads_with_it_alone_and_knows_its_content(mine, tmp_path):
    run = train("digits", out=tmp_path / "run", head=f"{mine}.py:Whiten:3", **QUICK)
    assert [origin.module for origin in run.recipe.imports] == [f"{mine}.py"]
    assert fullrank.load(run.path).head.out_dim == 3
    forget(mine)
    with refuses(UsageError, f"needs {mine}.py", f"--import {mine}.py"):
        fullrank.load(run.path)
    assert f"{mine}.py" not in door.imported
    loaded = fullrank.load(run.path, imports=[tmp_path / f"{mine}.py"])
    h = torch.randn(5, 16)
    assert torch.equal(loaded.head(h), run.head(h)) and loaded.recipe == run.recipe
    forget(mine)
    file = tmp_path / f"{mine}.py"
    file.write_text(file.read_text() + "\n# changed\n")
    with pytest.warns(FullrankWarning, match=f"{mine}.py"):  # of a file that changed since
        fullrank.load(run.path, imports=[file])


def forget(mine: str) -> None:
    """What a new process would not know."""
    for entry in [entry for entry in HEADS if entry.origin is not None]:
        HEADS.unregister(entry.name)
    door.imported.pop(f"{mine}.py")
    sys.modules.pop(f"fullrank_import_{mine}")


MARK = "import pathlib; pathlib.Path('imported').touch()\nclass Head: pass\n"


@pytest.mark.parametrize(
    ("recipe", "module"),
    [
        ("data: digits\nhead: trap.py:Head", "trap.py"),
        ("data: digits\nencoder: trap.py:Head", "trap.py"),
        ("data: trap.py:Head", "trap.py"),
        ("data: 'corrupted:jpeg,data=\"trap.py:Head\"'", "trap.py"),
        ("data: 'composite:any,foreground=digits,background=\"trap.py:Head\"'", "trap.py"),
        ("data: digits\nobjective: trap:Head", "trap"),
        ("data: digits\nimports: [{module: trap.py}]", "trap.py"),
        ("data: digits\nhead: os:system", "os"),
    ],
)
def test_nothing_is_imported_because_a_recipe_names_it(tmp_path, monkeypatch, recipe, module):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "trap.py").write_text(MARK)
    (tmp_path / RECIPE_FILE).write_text(recipe)
    with refuses(UsageError, f"--import {module}", "imports=", "trust"):
        Recipe.resolve(tmp_path / RECIPE_FILE)
    assert not (tmp_path / "imported").exists()


def test_what_a_user_types_over_a_recipe_is_imported(tmp_path, mine):
    (tmp_path / RECIPE_FILE).write_text("data: digits")
    plan = Recipe.resolve(tmp_path / RECIPE_FILE, {"head": f"{mine}.py:Whiten"})
    assert plan.head.value == 4
    assert Recipe.resolve(plan, {"seed": 1}).imports == plan.imports != ()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_module", ["module", "PYTHONPATH"]),
        ("no such", ["package.module", ".py"]),
        ("absent.py", ["file", "path"]),
        ("fails.py", ["ZeroDivisionError", "line 1"]),
        ("broken.py", ["SyntaxError"]),
    ],
)
def test_an_import_of_what_is_no_module_is_one_sentence(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fails.py").write_text("1 / 0")
    (tmp_path / "broken.py").write_text("class")
    with refuses(UsageError, name, *words) as error:
        import_modules([name])
    assert "\n" not in str(error.value) and name not in door.imported


def test_two_files_of_one_name_are_refused(mine, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / f"{mine}.py").write_text("")
    import_modules([f"{mine}.py"])
    with refuses(UsageError, tmp_path / "other" / f"{mine}.py", f"called {mine}.py", "rename"):
        import_modules([tmp_path / "other" / f"{mine}.py"])


def test_two_modules_that_register_one_name_are_refused_and_the_first_is_named(mine, tmp_path):
    (tmp_path / "second.py").write_text(MODULE.format(name=mine.replace("_", "-")))
    import_modules([f"{mine}.py"])
    with refuses(UsageError, mine.replace("_", "-"), f"taken by {mine}.py"):
        import_modules(["second.py"])


def test_a_built_in_name_cannot_be_taken():
    with refuses(UsageError, "head", "mlp", "taken"):
        HEADS.add("mlp")(Doubled)


def test_a_cell_of_a_notebook_may_run_again(mine):
    for factor in (2.0, 3.0):

        class Scaled(Doubled):
            def __init__(self, in_dim: int, factor: float = factor):
                super().__init__(in_dim, factor)

        fullrank.register_head("scaled")(Scaled)
        assert HEADS.parse("scaled") == f"scaled:{factor:g}"

        class Bare(Scaled):
            pass

        assert HEADS.parse(Bare).endswith(f"Bare:{factor:g}") and head(Bare, in_dim=3).factor == factor


class Wide(Doubled):
    def forward(self, h):
        return torch.cat([h, h], 1)


class Silent(nn.Module):
    def __init__(self, in_dim: int):
        super().__init__()


class Greedy(nn.Module):
    def __init__(self, in_dim: int, layers: dict):
        super().__init__()


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (Wide, ["Wide", "out_dim=6", "(2, 6)", "(2, 12)"]),
        (Silent, ["Silent", "out_dim"]),
        (Greedy, ["Greedy", "layers", "tuple[int, ...]"]),
        (dict, ["builtins:dict", "built"]),
        (Pull, ["Pull", "built"]),
    ],
)
def test_what_is_no_head_is_one_sentence(mine, part, words):
    with refuses(UsageError, *words):
        head(part, in_dim=6)


def test_what_a_module_only_imports_is_not_its_own(mine, tmp_path):
    (tmp_path / f"{mine}.py").write_text("from torch.nn import Linear, MSELoss")
    with refuses(UsageError, f"{mine}.py", "torch.nn.modules.loss:MSELoss"):
        objective(f"{mine}.py:MSELoss")


def test_a_loss_of_torch_is_an_objective(mine):
    assert objective("torch.nn:MSELoss", in_dim=4)(torch.ones(2, 3), torch.zeros(2, 3)).item() == 1


def points(monkeypatch, *found: EntryPoint) -> None:
    """What installed packages offer."""
    monkeypatch.setattr(door, "entry_points", lambda group: [each for each in found if each.group == group])
    door._points.cache_clear()


def test_an_entry_point_is_listed_unseen_and_imported_when_it_is_built(mine, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    points(monkeypatch, EntryPoint("whiten", f"{mine}:Whiten", "fullrank.heads"))
    assert HEADS.installed() == {"whiten": mine} and mine not in sys.modules
    assert head("whiten:3", in_dim=12).out_dim == 3 and mine in sys.modules
    assert HEADS["whiten"].origin == Origin(mine, distribution=mine)


def test_built_in_names_win_over_entry_points(monkeypatch):
    points(monkeypatch, EntryPoint("mlp", "no_such_module:Head", "fullrank.heads"))
    assert head("mlp:4", in_dim=6).out_dim == 4 and "mlp" not in HEADS.installed()


def test_two_entry_points_of_one_name_are_refused(monkeypatch):
    twice = [EntryPoint("whiten", f"{module}:Head", "fullrank.heads") for module in ("one", "two")]
    points(monkeypatch, *twice)
    with refuses(UsageError, "head", "whiten", "one", "two", "uninstall"):
        HEADS.parse("whiten")


def test_an_entry_point_that_cannot_be_imported_is_named_and_the_rest_goes_on(mine, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    good = EntryPoint("whiten", f"{mine}:Whiten", "fullrank.heads")
    points(monkeypatch, EntryPoint("bad", "no_such_module:Head", "fullrank.heads"), good)
    with refuses(UsageError, "head", "bad", "no_such_module", "ModuleNotFoundError"):
        HEADS.parse("bad")
    assert HEADS.parse("whiten") == "whiten:4"


def test_a_spec_is_its_canonical_text_and_travels_between_processes():
    import copy
    import pickle

    spec = HEADS.parse("mlp:128,hidden=64")
    for twin in (pickle.loads(pickle.dumps(spec)), copy.deepcopy(spec)):  # noqa: S301
        assert twin == spec == "mlp:128,hidden=64" and isinstance(twin, Spec)
        assert (twin.name, twin.value, twin.options, twin.family) == ("mlp", 128, (("hidden", 64),), "head")


def test_a_source_of_yours_is_one_in_python_too(mine, tmp_path):
    from fullrank.data import ImageSet, Source

    class Blank(Source):
        def read(self, split, image_size):
            import numpy as np

            labels = np.arange(10) % 2
            return ImageSet(
                np.zeros((10, 8, 8, 1), np.uint8), {"label": labels}, {"label": ("a", "b")}, "blank", split
            )

    assert len(source(Blank).load("train", 16)) == 10
    with refuses(UsageError, "source", "fullrank.data.Source"):
        source(Pull)
