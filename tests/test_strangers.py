"""What other people's parts get wrong, or do in a way of their own: a sentence, and no lost run."""

import numpy as np
import pytest
import torch
from refusals import refuses
from torch import nn

from fullrank import diagnose, export, head, load, objective, source, train
from fullrank.data import Source
from fullrank.diagnosis import Evidence, PlaceEvidence, find_causes
from fullrank.diagnosis.causes import CAUSES, Cause, Stage
from fullrank.door import import_modules
from fullrank.encoders import load_weights
from fullrank.errors import DataError, UsageError
from fullrank.heads import HEADS

# Two classes: a probe of ten takes most of the time of such a run.
QUICK = {"encoder": "tiny-resnet,width=4", "classes": "3+8", "limit": 100, "batch_size": 50, "epochs": 1}


class Layered(nn.Module):
    """A head with layers, so that head.1 is a place, and with one tensor under two names."""

    def __init__(self, in_dim: int, out: int = 6):
        super().__init__()
        self.in_dim, self.out_dim = in_dim, out
        self.layers = nn.ModuleList([nn.Linear(in_dim, in_dim), nn.Linear(in_dim, out)])
        self.again = self.layers[0]

    def forward(self, h):
        for layer in self.layers:
            h = layer(h)
        return h


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_head_with_layers_and_shared_weights_is_saved_and_its_layers_are_places(tmp_path, norm):
    spec = f"{HEADS.parse(Layered)},norm={norm}"
    run = train("digits", out=tmp_path / "run", head=spec, **QUICK)
    assert list(run.record.runs[0].probes) == ["h", "head.1", "z"]
    again = load(run.path)
    h = torch.randn(5, 16)
    assert torch.equal(again.head(h), run.head(h))


class Pixels(nn.Module):
    """An encoder that knows nothing of mean and spread."""

    def __init__(self, in_chans: int, image_size: int, width: int = 6):
        super().__init__()
        self.map = nn.Linear(in_chans * image_size**2, width)

    def forward(self, x):
        return self.map(x.flatten(1)).relu()


def test_an_encoder_of_yours_leaves_as_weights_and_as_onnx_and_comes_back(tmp_path):
    run = train("digits", out=tmp_path / "run", **QUICK | {"encoder": Pixels, "head": "none"})
    export(run, tmp_path / "net.onnx")
    export(run, tmp_path / "net.safetensors")
    fresh = train("digits", out=tmp_path / "other", seed=1, **QUICK | {"encoder": Pixels, "head": "none"})
    load_weights(fresh.encoder, run.path / "encoder.safetensors")
    load_weights(fresh.encoder, tmp_path / "net.safetensors")
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(fresh.encoder(images), run.encoder(images))


def test_weights_that_no_longer_fit_blame_the_code_and_not_the_file(tmp_path, monkeypatch):
    (tmp_path / "mine_fit.py").write_text(SOURCE.format(layer="nn.Linear(in_dim, 4)"))
    run = train("digits", out=tmp_path / "run", head=f"{tmp_path}/mine_fit.py:Mine", **QUICK)
    entry = HEADS["mine_fit.py:Mine"]
    monkeypatch.setattr(entry.load(), "make", staticmethod(lambda in_dim: nn.Linear(in_dim, 4, bias=False)))
    with refuses(DataError, run.path, "mine_fit.py", "map.bias"):
        load(run.path)


SOURCE = """
from torch import nn

class Mine(nn.Module):
    @staticmethod
    def make(in_dim):
        return {layer}

    def __init__(self, in_dim: int):
        super().__init__()
        self.in_dim, self.out_dim = in_dim, 4
        self.map = self.make(in_dim)

    def forward(self, h):
        return self.map(h)
"""


def test_two_files_of_one_name_in_two_folders_are_refused_in_specs_too(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine_two.py").write_text(SOURCE.format(layer="nn.Linear(in_dim, 4)"))
    HEADS.parse(f"{tmp_path}/one/mine_two.py:Mine")
    assert HEADS.parse(f"{tmp_path}/one/mine_two.py:Mine") == "mine_two.py:Mine"
    with refuses(UsageError, tmp_path / "two" / "mine_two.py", "rename"):
        HEADS.parse(f"{tmp_path}/two/mine_two.py:Mine")


def test_a_file_that_was_imported_as_a_module_is_the_same_one(tmp_path, monkeypatch):
    text = "import fullrank\n\n@fullrank.register_objective('mine-once')\ndef mine(z_a, z_b):\n    return 0\n"
    (tmp_path / "mine_once.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    import_modules("mine_once")  # one name is no list of letters
    import_modules(tmp_path / "mine_once.py")
    assert objective("mine-once")


def distance(z_a, z_b):
    return (z_a - z_b).square().mean()


def test_a_plain_function_is_an_objective(tmp_path):
    run = train("digits", out=tmp_path / "run", objective=distance, head="none", **QUICK)
    assert run.recipe.objective.endswith(":distance") and run.record.runs[0].loss > 0


class Number(nn.Module):
    def forward(self, z_a, z_b):
        return (z_a - z_b).square().mean().item()


class Rows(nn.Module):
    def forward(self, z_a, z_b):
        return (z_a - z_b).square().mean(1)


class Detached(nn.Module):
    def forward(self, z_a, z_b):
        return (z_a - z_b).detach().square().mean()


class OneView(nn.Module):
    def forward(self, z):
        return z.mean()


class Word(nn.Module):
    needs = "labels"

    def forward(self, z_a, z_b):
        return (z_a - z_b).square().mean()


@pytest.mark.parametrize(
    ("part", "word"),
    [
        (Number, "float"),
        (Rows, "(2,)"),
        (Detached, "gradient"),
        (OneView, "two embeddings"),
        (Word, "labels"),
    ],
)
def test_an_objective_is_tried_before_anything_is_written(tmp_path, part, word):
    with refuses(UsageError, part.__name__, word):
        train("digits", out=tmp_path / "run", objective=part, head="none", **QUICK)
    assert not (tmp_path / "run").exists()


class Nothing(Source):
    def read(self, split, image_size):
        return np.zeros((3, 8, 8, 1), np.uint8)


def test_a_source_that_reads_no_image_set_is_named():
    with refuses(UsageError, "read('train')", "Nothing", "ndarray"):
        source(Nothing).load("train")


class Raises(Cause):
    name, stage = "raises", Stage.SHAPE

    def check(self, place, evidence):
        raise ArithmeticError("boom")


class Forgets(Cause):
    name, stage = "forgets", Stage.SHAPE

    def check(self, place, evidence):
        return None


@pytest.mark.parametrize(("part", "word"), [(Raises, "ArithmeticError: boom"), (Forgets, "None")])
def test_a_cause_that_fails_is_named(part, word):
    CAUSES.add(part.name)(part)
    with refuses(UsageError, part.name, "at h", word):
        find_causes(Evidence((PlaceEvidence("h", torch.randn(50, 4)),)))


class Says(Layered):
    def imposed_rank(self, place):
        return "four"


def test_a_rank_that_is_no_number_is_refused_in_a_diagnosis(tmp_path):
    run = train("digits", out=tmp_path / "run", head=Says, **QUICK)
    with refuses(UsageError, "Says", "imposed_rank('head.1')", "four"):
        diagnose(run, out=tmp_path / "diagnosis")


def test_a_lambda_and_a_decorator_without_its_name_are_refused():
    with refuses(UsageError, "head", "lambda"):
        head(lambda in_dim: Layered(in_dim), in_dim=4)
    with refuses(UsageError, "register_head('my-name')"):
        HEADS.add(Layered)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"callbacks": [type]}, ["callbacks", "type"]),
        ({"loggers": ["csv"]}, ["loggers", "'csv'"]),
        ({"optimizer": lambda groups: None}, ["optimizer", "NoneType"]),
    ],
)
def test_machinery_that_is_none_is_one_sentence(tmp_path, given, words):
    with refuses(UsageError, *words):
        train("digits", out=tmp_path / "run", head="none", **QUICK, **given)


def test_another_optimizer_function_is_not_the_one_of_the_run_that_is_resumed(tmp_path):
    makes = [lambda groups: torch.optim.SGD(groups, lr=0.1), lambda groups: torch.optim.SGD(groups, lr=0.2)]
    train("digits", out=tmp_path / "run", head="none", optimizer=makes[0], **QUICK)
    (tmp_path / "run" / "record.json").unlink()
    with refuses(UsageError, "optimizer", "resume"):
        train("digits", out=tmp_path / "run", head="none", resume=True, optimizer=makes[1], **QUICK)
    train("digits", out=tmp_path / "run", head="none", resume=True, optimizer=makes[0], **QUICK)
