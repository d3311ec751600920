"""What loggers get of a run, under which names, and how a resumed run continues its own log."""

import csv
import json
from typing import ClassVar

import pytest
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import Logger
from refusals import assert_names, refuses

from fullrank import SpectrumMonitor, compare, train
from fullrank.errors import DataError, FullrankWarning, UsageError
from fullrank.record import Baseline, ProbedImages, ProbeScore, Score
from fullrank.runs.recipe import RECIPE_KEYS, Recipe
from fullrank.training import loggers
from fullrank.training.loggers import final_scores, hyperparameters
from fullrank.training.session import Logging


class InMemory(Logger):
    """A logger that keeps what it gets."""

    made: ClassVar[list] = []

    def __init__(self, version="0", fails_at=""):
        super().__init__()
        self.number, self.fails_at = version, fails_at
        self.parameters, self.metrics, self.closed = [], [], []
        self.made.append(self)

    name, version = "memory", property(lambda self: self.number)

    def log_hyperparams(self, params):
        if self.fails_at == "start":
            raise ConnectionError("no network")
        self.parameters.append(params)

    def log_metrics(self, metrics, step=None):
        if self.fails_at == "end" and any(name.startswith("final/") for name in metrics):
            raise ConnectionError("no network")
        self.metrics.append((step, metrics))

    def finalize(self, status):
        self.closed.append(status)

    def series(self, name):
        return [(step, row[name]) for step, row in self.metrics if name in row]


@pytest.fixture
def made(monkeypatch):
    monkeypatch.setattr(InMemory, "made", [])
    return InMemory.made


def crash(module):
    raise ArithmeticError


def of_csv(folder):
    """The rows of a CSV log: name -> [(step, value)]."""
    (file,) = folder.glob("lightning_logs/*/metrics.csv")
    series = {}
    for row in csv.DictReader(file.open()):
        step = int(row.pop("step"))
        for name, text in row.items():
            if text:
                series.setdefault(name, []).append((step, float(text)))
    return series


def of_tensorboard(folder):
    """The same of TensorBoard's event files, as its own reader gives them."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (log,) = folder.glob("lightning_logs/*")
    events = reader.EventAccumulator(str(log))
    events.Reload()
    names = events.Tags()["scalars"]
    return {name: [(each.step, each.value) for each in events.Scalars(name)] for name in names}


@pytest.mark.parametrize(("name", "read"), [("csv", of_csv), ("tensorboard", of_tensorboard)])
def test_a_run_that_crashed_continues_its_log_without_a_step_twice(quick, tmp_path, at_batch, name, read):
    plan = quick | {"engine.logger": name}
    at_batch(2, 1, crash)  # two steps after the last checkpoint
    with pytest.raises(ArithmeticError):
        train("digits", out=tmp_path / "run", **plan)
    run = train("digits", out=tmp_path / "run", resume=True, **plan)
    series = read(run.path)
    for curve in ("loss", "positive_similarity", "negative_similarity", "effective_rank"):
        assert [step for step, _ in series[curve]] == list(range(15)), curve
    assert series["loss"][-1][1] == pytest.approx(run.record.runs[0].loss, rel=1e-6)
    rank = run.record.runs[0].spectrum["z"].effective_rank
    assert series["final/effective_rank/z"] == [(14, pytest.approx(rank, rel=1e-6))]
    (log,) = (run.path / "lightning_logs").iterdir()
    assert log.name == "none--seed-0"
    assert "optimizer.lr: 0.003" in (log / "hparams.yaml").read_text()


def test_each_key_of_a_recipe_is_a_hyperparameter():
    plan = Recipe.resolve("digits", {"head": "mlp:16", "sgd_probe.epochs": 3})
    values = hyperparameters(plan)
    assert list(values) == list(RECIPE_KEYS)
    assert (values["head"], values["optimizer.lr"], values["sgd_probe.epochs"]) == ("mlp:16", 3e-3, 3)
    without = hyperparameters(Recipe.resolve("digits"))
    assert set(values) - set(without) == {key for key in RECIPE_KEYS if key.startswith("sgd_probe.")}


def test_the_final_scores_are_those_of_the_record(plain_run):
    (entry,) = plain_run.record.runs
    score = {"place": "h[:8]", "label": "fine", "split": "test", "features": "raw", "shots": None}
    score |= {"probe": "linear", "statistic": "class accuracy", "subject": "cat", "value": 0.25}
    entry = entry.model_copy(
        update={
            "probes": {
                "h": ProbeScore(linear=0.9, nearest=0.6),
                "head.1": ProbeScore(linear=0.5, nearest=0.4),
            },
            "images": ProbedImages(label="label", train=300, test=500, classes=10, chance=0.1),
            "baselines": [Baseline(features="pixels", linear=0.8, nearest=0.7)],
            "scores": [Score(**score)],
        }
    )
    scores = final_scores(entry)
    for name in ("loss", "seconds", "views_per_second"):
        assert scores.pop(f"final/{name}") == getattr(entry, name)
    assert scores == {
        "final/chance/loss": entry.chance,
        "final/chance/accuracy": 0.1,
        "final/alarms": len(entry.findings),
        "final/linear/h": 0.9,
        "final/nearest/h": 0.6,
        "final/linear/head.1": 0.5,
        "final/nearest/head.1": 0.4,
        "final/linear/pixels": 0.8,
        "final/nearest/pixels": 0.7,
        "final/effective_rank/h": entry.spectrum["h"].effective_rank,
        "final/effective_rank/z": entry.spectrum["z"].effective_rank,
        "final/linear/class cat/h_8_/label fine": 0.25,
    }


def test_a_logger_of_the_caller_gets_recipe_and_scores_and_stays_the_callers(quick, tmp_path, made, capsys):
    monitor = SpectrumMonitor(["encoder"], every_n_steps=5, samples=40)
    plan = quick | {"epochs": 1}
    run = train("digits", out=tmp_path / "run", loggers=[InMemory()], callbacks=[monitor], **plan)
    (logger,) = made
    assert logger.parameters == [hyperparameters(run.recipe)]
    assert [step for step, _ in logger.series("effective_rank")] == list(range(5))
    assert logger.series("final/alerts") == [(4, len(monitor.alerts))]
    assert logger.closed == ["success"]  # by Lightning, at the end of training
    (run.path / "record.json").unlink()
    train("digits", out=run.path, resume=True, loggers=[InMemory()], **plan)
    assert made[1].parameters == [] and not capsys.readouterr().err  # the same version: the same log
    (run.path / "record.json").unlink()
    train("digits", out=run.path, resume=True, loggers=[InMemory(version="7")], **plan)
    assert made[2].parameters
    assert_names(capsys.readouterr().err, "InMemory", 7, 0)
    assert json.loads((run.path / "loggers.json").read_text()) == {"InMemory": ["0", "7"]}


def test_a_logger_that_fails_stops_a_run_before_training_and_never_after_it(quick, tmp_path, made):
    plan = quick | {"epochs": 1}
    with refuses(UsageError, "InMemory", "no network"):
        train("digits", out=tmp_path / "a", loggers=lambda recipe: InMemory(fails_at="start"), **plan)
    assert made[0].closed == ["failed"] and not made[0].metrics
    with pytest.warns(FullrankWarning, match="InMemory"):
        run = train("digits", out=tmp_path / "b", loggers=lambda recipe: InMemory(fails_at="end"), **plan)
    assert (run.path / "record.json").is_file()


def test_what_a_function_of_loggers_returns_must_be_loggers(quick, tmp_path):
    with refuses(UsageError, "loggers", 3):
        train("digits", out=tmp_path / "run", loggers=lambda recipe: [3], **quick)


def test_a_damaged_memory_of_loggers_names_its_file(quick, tmp_path):
    plan = quick | {"epochs": 1, "engine.logger": "csv"}
    run = train("digits", out=tmp_path / "run", **plan)
    (run.path / "record.json").unlink()
    (run.path / "loggers.json").write_text("[1]")
    with refuses(DataError, run.path / "loggers.json"):
        train("digits", out=run.path, resume=True, **plan)


def test_each_run_of_a_study_has_loggers_of_its_own_which_are_closed(quick, tmp_path, made):
    plan = quick | {"epochs": 1}
    plan.pop("head")
    study = compare(
        "digits", heads="none,none,norm=batch", seeds=2, out=tmp_path / "s", loggers=of_run, **plan
    )
    assert [(each.parameters[0]["head"], each.parameters[0]["seed"]) for each in made] == [
        (run.head, run.seed) for run in study.record.runs
    ]
    for logger, run in zip(made, study.record.runs, strict=True):
        assert logger.closed[-1] == "success"
        assert logger.series("final/loss") == [(4, run.loss)] and len(logger.series("loss")) == 5


def of_run(recipe):
    return InMemory(version=f"{recipe.head}-{recipe.seed}")


def test_a_study_takes_a_function_of_loggers_that_its_workers_can_call(tmp_path):
    for given, workers, words in (
        ([CSVLogger(tmp_path)], 1, ["loggers", "recipe"]),
        (lambda recipe: [], 2, ["loggers", "module", 2]),
    ):
        with refuses(UsageError, *words):
            compare("digits", heads="none", out=tmp_path / "s", loggers=given, workers=workers)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("name", "extra"), [("wandb", "wandb"), ("mlflow", "mlflow"), ("tensorboard", "loggers")]
)
def test_a_logger_that_is_not_installed_names_its_extra(monkeypatch, quick, tmp_path, name, extra):
    monkeypatch.setattr("fullrank.runs.recipe.find_spec", lambda module: None)
    plan = {key: value for key, value in quick.items() if key != "head"} | {"engine.logger": name}
    with refuses(UsageError, name, f"fullrank[{extra}]"):
        compare("digits", heads="none", out=tmp_path / "study", **plan)
    assert not (tmp_path / "study").exists()


def test_a_study_is_one_experiment_of_mlflow_with_a_run_each(quick, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    # A store of files is built in a moment; tables of a database take seconds.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'store'}")
    plan = quick | {"epochs": 1, "engine.logger": "mlflow"}
    plan.pop("head")
    study = compare("digits", heads="none,none,norm=batch", seeds=1, out=tmp_path / "study", **plan)
    client = mlflow.MlflowClient(f"file:{tmp_path / 'store'}")
    experiment = client.get_experiment_by_name("study")
    found = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(found) == {"none, seed 0", "none,norm=batch, seed 0"}
    for entry in study.record.runs:
        run = found[f"{entry.head}, seed {entry.seed}"]
        assert run.data.params["head"] == entry.head and run.info.status == "FINISHED"
        assert run.data.metrics["final/effective_rank/h"] == entry.spectrum["h"].effective_rank
        memory = json.loads((study.path / entry.folder / "loggers.json").read_text())
        assert memory == {"MLFlowLogger": [run.info.run_id]}
    assert loggers._mlflow_experiment(Logging(group="study", store=tmp_path))[1] == "study"


def test_a_study_is_a_group_of_wandb_with_a_run_each_and_a_resumed_one_keeps_its_id(
    quick, tmp_path, monkeypatch
):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    plan = quick | {"epochs": 1, "engine.logger": "wandb"}
    plan.pop("head")
    study = compare("digits", heads="none,none,norm=batch", seeds=1, out=tmp_path / "grouped", **plan)
    assert wandb.run is None
    for entry in study.record.runs:
        (log,) = (study.path / entry.folder / "wandb").glob("offline-run-*/run-*.wandb")
        content = log.read_bytes()
        for text in (f"{entry.head}, seed 0", "grouped", "optimizer.lr", "final/effective_rank/h"):
            assert text.encode() in content
    ids = {path.name for path in study.path.glob("*/wandb/offline-run-*/run-*.wandb")}
    assert len(ids) == 2
    resumed = study.path / study.record.runs[0].folder
    (resumed / "record.json").unlink()
    compare("digits", heads="none,none,norm=batch", seeds=1, out=study.path, resume=True, **plan)
    again = list(resumed.glob("wandb/offline-run-*/run-*.wandb"))
    assert len({path.name for path in again}) == 1 and wandb.run is None
