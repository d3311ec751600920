"""Others' machinery in ours: callbacks, loggers, optimizers; and what one run builds and parses."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from refusals import refuses

from fullrank import Optimizer, compare, encoders, train
from fullrank.errors import InterruptedRunError, UsageError
from fullrank.registry import Registry
from fullrank.runs.recipe import Recipe
from fullrank.training.module import JointEmbedding, build_optimizer
from fullrank.training.session import Session


@pytest.fixture(scope="module")
def short(quick):
    """Two epochs of four steps."""
    return quick | {"head": "linear:8", "batch_size": 50, "epochs": 2}


@pytest.fixture(scope="module")
def plain(short, tmp_path_factory):
    return train("digits", out=tmp_path_factory.mktemp("short") / "run", **short)


class Counter(pl.Callback):
    def __init__(self):
        self.steps, self.loss = 0, []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.steps += 1
        self.loss.append(float(trainer.callback_metrics["loss"]))


def test_callbacks_of_others_see_every_step_and_change_nothing(short, plain, tmp_path):
    counter = Counter()
    watched = train("digits", out=tmp_path / "watched", callbacks=[counter], **short)
    assert counter.steps == 8 and len(set(counter.loss)) == 8
    assert watched.record.runs[0].loss == plain.record.runs[0].loss == counter.loss[-1]


def test_a_callback_of_another_keeps_its_state_over_a_resume(short, tmp_path):
    class Ends(Counter):
        def state_dict(self):
            return {"steps": self.steps}

        def load_state_dict(self, state):
            self.steps = state["steps"]

        def on_train_epoch_start(self, trainer, module):
            if self.steps == 4 and trainer.current_epoch == 1 and not self.again:
                raise InterruptedRunError("enough")

    first, second = Ends(), Ends()
    first.again, second.again = False, True
    with pytest.raises(InterruptedRunError):
        train("digits", out=tmp_path / "run", callbacks=[first], **short)
    train("digits", out=tmp_path / "run", callbacks=[second], resume=True, **short)
    assert second.steps == 8


def test_a_logger_of_another_gets_the_curves(short, tmp_path):
    logger = CSVLogger(tmp_path / "logs")
    train("digits", out=tmp_path / "run", loggers=[logger], **short)
    logger.save()
    text = (tmp_path / "logs").rglob("metrics.csv").__next__().read_text()
    assert "effective_rank" in text and len(text.splitlines()) > 8


@pytest.mark.parametrize("name", ["callbacks", "loggers"])
def test_what_is_no_callback_or_logger_is_refused_by_its_name(tmp_path, name):
    with refuses(UsageError, name, "Counter"):
        train("digits", out=tmp_path / "run", **{name: [Counter]})
    assert not (tmp_path / "run").exists()


def weights(run):
    return torch.cat([p.flatten() for p in run.encoder.parameters()])


def test_an_optimizer_of_timms_factory_by_its_name(short, plain, tmp_path):
    by_name = train("digits", out=tmp_path / "one", optimizer="lion", **short)
    by_key = train("digits", out=tmp_path / "two", **short, **{"optimizer.name": "lion"})
    assert by_name.recipe.optimizer.name == "lion" and torch.equal(weights(by_name), weights(by_key))
    assert not torch.equal(weights(by_name), weights(plain))


def test_an_unknown_optimizer_is_refused_before_the_folder_is_made(short, tmp_path):
    with refuses(UsageError, "'adamv'", "'adam'"):
        train("digits", out=tmp_path / "run", optimizer="adamv", **short)
    assert not (tmp_path / "run").exists()


def test_an_optimizer_that_is_made_in_python(short, plain, tmp_path):
    calls = []

    def make(groups):
        calls.append([(group["weight_decay"], len(group["params"])) for group in groups])
        return torch.optim.AdamW(groups, lr=3e-3)

    own = train("digits", out=tmp_path / "own", optimizer=make, **short)
    assert torch.equal(weights(own), weights(plain))  # 3e-3 is the recipe's rate too
    assert len(calls) == 1 and calls[0][0][0] == plain.recipe.optimizer.weight_decay and calls[0][1][0] == 0
    assert "make" in own.recipe.optimizer.name
    with refuses(UsageError, own.recipe.optimizer.name, "optimizer=", "--set optimizer.name="):
        train(own.recipe, out=tmp_path / "again")


def test_what_an_optimizer_function_returns_must_be_an_optimizer():
    with refuses(UsageError, "int", "torch.optim.Optimizer"):
        build_optimizer(Optimizer(), [torch.nn.Linear(2, 2)], lambda groups: 3)


def test_a_module_of_ours_takes_an_optimizer_too():
    class Linear(torch.nn.Linear):
        pass

    parts = Linear(2, 2), Linear(2, 2), torch.nn.MSELoss(), None
    module = JointEmbedding(*parts, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.5))
    made = build_optimizer(module.optimizer, [module.encoder], module.factory)
    assert isinstance(made, torch.optim.SGD) and made.param_groups[0]["lr"] == 0.5


def test_a_long_gradient_is_clipped(short, tmp_path):
    norms = []

    class Norms(pl.Callback):
        def on_before_zero_grad(self, trainer, module, optimizer):
            grads = [p.grad for p in module.parameters() if p.grad is not None]
            if grads:
                norms.append(float(torch.stack([grad.norm() for grad in grads]).norm()))

    train("digits", out=tmp_path / "run", callbacks=[Norms()], **short, **{"optimizer.clip": 0.01})
    assert norms and max(norms) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("machines", [{"devices": 0}, {"nodes": 0}])
def test_machines_are_one_or_more(machines):
    with refuses(UsageError, "devices", "nodes", 0, 1):
        Session(**machines)


@pytest.fixture
def counts(monkeypatch):
    """How often encoders are built and texts are parsed."""
    tally = {"built": 0, "parsed": []}
    init, parse = encoders.TinyResNet.__init__, Registry._parse_text

    def counted_init(self, *args, **kwargs):
        tally["built"] += 1
        init(self, *args, **kwargs)

    def counted_parse(self, text, from_file):
        tally["parsed"].append((self.kind, text))
        return parse(self, text, from_file)

    monkeypatch.setattr(encoders.TinyResNet, "__init__", counted_init)
    monkeypatch.setattr(Registry, "_parse_text", counted_parse)
    return tally


def test_a_run_builds_one_encoder_and_parses_each_part_once(counts, short, tmp_path):
    train("digits", out=tmp_path / "run", **short)
    assert counts["built"] == 1
    kinds = [kind for kind, _ in counts["parsed"]]
    assert {kind: kinds.count(kind) for kind in ("data", "encoder", "head", "objective")} == {
        "data": 1,
        "encoder": 1,
        "head": 1,
        "objective": 1,
    }


def test_a_recipe_that_is_resolved_again_parses_nothing(counts):
    plan = Recipe.resolve("digits")
    counts["parsed"].clear()
    assert Recipe.resolve(plan, {"seed": 3}).head is plan.head and counts["parsed"] == []


def test_a_study_builds_one_encoder_for_each_run_and_one_to_check_each_head(counts, tmp_path):
    settings = {
        "encoder": "tiny-resnet,width=4",
        "classes": "3+8",
        "limit": 100,
        "batch_size": 50,
        "epochs": 1,
    }
    compare("digits", heads=["none", "linear:8"], seeds=1, out=tmp_path / "study", **settings)
    assert counts["built"] == 2 + 2
