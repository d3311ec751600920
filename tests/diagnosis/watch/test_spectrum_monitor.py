"""The monitor of other people's runs: what it sees, when it alarms, and that training does not feel it."""

import csv
import math
import pickle
import re
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import pytorch_lightning
import torch
from hypothesis import given, settings, strategies as st
from refusals import assert_names, refuses
from runs import quiet_trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fullrank import JointEmbedding, Optimizer, encoder, head, objective, source, view_pipeline
from fullrank.data import BatchLoader
from fullrank.diagnosis.watch.alerts import ALERT_RULES, Alert, AlertRule, CollapseWarning, firings
from fullrank.diagnosis.watch.entry import watched_diagnosis
from fullrank.diagnosis.watch.measurements import MEASURES, look_at, rows_of
from fullrank.diagnosis.watch.spectrum_monitor import SpectrumMonitor
from fullrank.errors import DataError, UsageError
from fullrank.files import load_arrays
from fullrank.record import Record
from fullrank.reports.page import write_page

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning"),
]
LIGHTNINGS = pytest.mark.parametrize("lightning", [pl, pytorch_lightning], ids=lambda module: module.__name__)


# One look


@pytest.mark.parametrize("shape, mean", [((60, 7), 0), ((60, 7), 1000), ((9, 30), 0), ((9, 30), 5)])
def test_a_look_against_numpys_decomposition(shape, mean):
    rows = np.random.default_rng(0).normal(mean, np.linspace(1, 3, shape[1]), shape).astype(np.float32)
    look = look_at(torch.from_numpy(rows), 5, 1e-6)
    rows = rows.astype(np.float64)
    count, width = shape
    centred = np.linalg.svd(rows - rows.mean(0), compute_uv=False)
    expected = np.pad(centred**2 / count, (0, width - len(centred)))
    np.testing.assert_allclose(look.singular_values, expected, rtol=1e-5, atol=1e-6)

    def rank(values, epsilon=0.0):
        p = values / values.sum() + epsilon
        return np.exp(-(p[p > 0] * np.log(p[p > 0])).sum())

    assert look.effective_rank == pytest.approx(rank(centred), rel=1e-6)
    assert look.rankme == pytest.approx(rank(np.linalg.svd(rows, compute_uv=False), 1e-7), rel=1e-6)
    assert look.live_dimensions == min(count - 1, width)
    assert (look.step, look.rows, look.finite_rows) == (5, count, 1)
    cosines = np.corrcoef(np.hstack([rows, -rows]))  # of vectors of mean zero, a correlation is a cosine
    assert look.mean_cosine == pytest.approx(cosines[~np.eye(count, dtype=bool)].mean(), abs=1e-8)


def test_live_dimensions_are_those_above_the_tolerance():
    rows = torch.eye(4).repeat(2, 1) * torch.tensor([1.0, 1.0, 0.1, 1e-4])
    rows[4:] *= -1
    assert look_at(rows, 0, 1e-6).live_dimensions == 3
    assert look_at(rows, 0, 1e-10).live_dimensions == 4
    assert look_at(rows, 0, 0.5).live_dimensions == 2


def test_rows_that_are_not_finite_are_counted_and_leave_no_number():
    rows = torch.randn(8, 3)
    rows[2, 1], rows[5, 0] = torch.nan, torch.inf
    look = look_at(rows, 1, 1e-6)
    assert look.finite_rows == 0.75 and look.rows == 8
    assert all(math.isnan(getattr(look, name)) for name in MEASURES if name != "finite_rows")
    assert look.singular_values.isnan().all() and len(look.singular_values) == 3


def test_maps_and_tokens_become_rows_by_their_mean():
    x = torch.randn(3, 4, 5, 6)
    np.testing.assert_allclose(rows_of(x, "a"), x.numpy().mean((2, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rows_of(x[0], "a"), x[0].numpy().mean(1), rtol=1e-5, atol=1e-6)
    rows = torch.randn(3, 4, requires_grad=True)
    copied = rows_of(rows, "a")
    assert torch.equal(copied, rows) and not copied.requires_grad and copied.data_ptr() != rows.data_ptr()
    assert rows_of(rows.half(), "a").dtype == torch.float32


@pytest.mark.parametrize("output, got", [(torch.ones(3), "shape (3,)"), ((None,), "tuple"), ({}, "dict")])
def test_an_output_that_has_no_rows_is_named(output, got):
    with refuses(DataError, "'net.1'", "(N, D)", got):
        rows_of(output, "net.1")


# Rules

FALL = AlertRule("fall", "effective_rank", share=0.5, means="", looks=2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(5.01, 10), min_size=1, max_size=20), st.lists(st.floats(0, 9.9), max_size=20))
def test_a_rule_fires_once_for_each_fall_and_never_above_its_share(high, later):
    assert firings(FALL, high) == []
    widest = max(high)
    below = [min(value, 0.49 * widest) for value in later]
    fired = firings(FALL, [*high, *below])
    assert fired == ([(len(high) + 1, widest / 2)] if len(below) >= 2 else [])
    # Trembling round the threshold does not arm the rule again, and a full recovery does.
    trembling = [*high, *2 * [0.4 * widest], 0.9 * widest, *3 * [0.4 * widest]]
    assert len(firings(FALL, trembling)) == 1
    assert len(firings(FALL, [*trembling, widest, *3 * [0.4 * widest]])) == 2


def test_what_is_not_a_number_is_neither_high_nor_low():
    nan = math.nan
    assert firings(FALL, [nan, 10, nan, 4, nan, 4, 4]) == [(6, 5.0)]


@pytest.mark.parametrize(
    "name, values, at, threshold",
    [
        ("complete-collapse", [0.5, 0.98, 0.995, 0.999], 3, 0.99),
        ("complete-collapse", [0.5, 1 + 1e-9, 1 + 1e-9], 2, 0.99),
        ("complete-collapse", [0.98, 0.991, 0.995, 0.9965, 0.997], 4, 0.996),
        ("rank-fell", [30, 12, 9.9, 9.8], 3, 10),
        ("dimensions-lost", [60, 64, 31, 30], 3, 32),
        ("not-finite", [0.0, 0.0], 0, 1.0),
        ("not-finite", [1.0, 0.99, 1.0, 0.99], 1, 1.0),
    ],
)
def test_the_shipped_rules(name, values, at, threshold):
    rule = next(rule for rule in ALERT_RULES if rule.name == name)
    assert firings(rule, values) == [(at, pytest.approx(threshold))]


# Wrong arguments


@pytest.mark.parametrize(
    "arguments, parts",
    [
        ({"modules": []}, ["modules", 1, "['encoder']"]),
        ({"modules": "encoder"}, ["modules", "'encoder'", "['encoder']"]),
        ({"every_n_steps": 0}, ["every_n_steps", 1, 0, 50]),
        ({"samples": 1}, ["samples", 2, 1, 4096]),
        ({"tolerance": 1.0}, ["tolerance", 0, 1, "1.0", "1e-6"]),
        ({"rules": [AlertRule("a", "rank", 0.5, "")]}, ["measure", "'rank'", *MEASURES]),
    ],
)
def test_wrong_arguments_are_refused(arguments, parts):
    with refuses(UsageError, *parts):
        SpectrumMonitor(**{"modules": ["net"]} | arguments)


@pytest.mark.parametrize(
    "bounds, parts",
    [
        ({"share": math.inf}, ["share", "limit", 0, "inf and inf"]),
        ({"share": 0.0}, ["share", "limit", "0.0 and inf"]),
        ({"share": 0.5, "limit": math.nan}, ["share", "limit", "0.5 and nan"]),
        ({"share": 0.5, "looks": 0}, ["looks", 1, 0, 2]),
    ],
)
def test_a_rule_without_a_bound_is_refused(bounds, parts):
    with refuses(UsageError, "'mine'", *parts):
        AlertRule("mine", "rankme", means="", **bounds)


# Under a Trainer


def foreign(lightning, act=lambda h: h.square().mean(), lr=0.0, **layers):
    """A module nobody here made: names of its own, dropout, a loss `act` of the output of its trunk."""

    class Foreign(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.trunk = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Dropout(0.1), nn.Linear(12, 8))
            self.spare = nn.Linear(8, 8)
            self.seen, self.hooked, self.gradients = [], [], []
            for name, layer in layers.items():
                setattr(self, name, layer)

        def training_step(self, batch, batch_idx):
            h = self.trunk(batch[0])
            self.seen.append(h.detach().clone())
            self.hooked.append(len(self.trunk._forward_hooks))
            return act(h)

        def on_after_backward(self):
            self.gradients.append(self.trunk[0].weight.grad.clone())

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr)

    torch.manual_seed(0)
    return Foreign()


def batches(batch_size=8, rows=80):
    inputs = torch.randn(rows, 6, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(inputs), batch_size=batch_size)


def fit(module, callbacks, epochs=2, loader=None, lightning=pl, logger=False, **how):
    trainer = quiet_trainer(
        lightning, logger=logger, max_epochs=epochs, callbacks=callbacks, use_distributed_sampler=False
    )
    trainer.fit(module, loader or batches(), **how)
    return trainer


@LIGHTNINGS
def test_both_lightnings_take_it_and_log_what_it_sees(lightning, tmp_path):
    logger = lightning.loggers.CSVLogger(tmp_path)
    monitor = SpectrumMonitor({"h": "trunk", "first": "trunk.0"}, every_n_steps=6, samples=24)
    module = foreign(lightning)
    # Outside a list the Trainer asks for its own class.
    fit(module, monitor, lightning=lightning, logger=logger)
    assert isinstance(monitor, lightning.Callback)
    assert {name: [look.step for look in looks] for name, looks in monitor.looks.items()} == {
        "h": [3, 6, 12, 18],
        "first": [3, 6, 12, 18],
    }
    logger.save()
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = {int(row["step"]): row for row in csv.DictReader(file) if row["spectrum/h/rankme"]}
    for look in monitor.looks["h"]:
        for measure in MEASURES:
            assert float(rows[look.step][f"spectrum/h/{measure}"]) == getattr(look, measure)
    assert monitor.looks["h"][0].singular_values.shape == (8,) and monitor.alerts == []


def test_each_look_is_at_the_newest_rows_and_hooks_are_there_only_to_take_them():
    # 24 rows are 3 of these batches of 8; the look of step 20 ends both epochs.
    module, monitor = foreign(pl), SpectrumMonitor(["trunk"], every_n_steps=10, samples=20)
    fit(module, [monitor])
    for look in monitor.looks["trunk"]:
        rows = torch.cat(module.seen[: look.step])[-20:]
        assert look.singular_values.tolist() == look_at(rows, look.step, 1e-6).singular_values.tolist()
        assert look.rows == 20
    assert [look.step for look in monitor.looks["trunk"]] == [3, 10, 20]
    collected = [step for step, hooks in enumerate(module.hooked, 1) if hooks]
    assert collected == [1, 2, 3, 8, 9, 10, 18, 19, 20]
    assert not module.trunk._forward_hooks


def test_batches_that_never_fill_the_samples_are_all_kept():
    module, monitor = foreign(pl), SpectrumMonitor(["trunk"], every_n_steps=4, samples=60)
    fit(module, [monitor], epochs=1)
    assert [(look.step, look.rows) for look in monitor.looks["trunk"]] == [(4, 32), (8, 60)]
    expected = look_at(torch.cat(module.seen[:8])[-60:], 8, 1e-6)
    assert monitor.looks["trunk"][-1].effective_rank == expected.effective_rank


@LIGHTNINGS
def test_training_is_bit_for_bit_what_it_is_without(lightning):
    trained = []
    for callbacks in ([], [SpectrumMonitor(["trunk", "trunk.1"], every_n_steps=3, samples=16)]):
        module = foreign(lightning, lr=0.3)
        fit(module, callbacks, lightning=lightning)
        trained.append((module, torch.get_rng_state()))
    (plain, generator), (watched, other) = trained
    assert torch.equal(generator, other)
    for name in ("seen", "gradients"):
        assert all(map(torch.equal, getattr(plain, name), getattr(watched, name)))
    assert all(map(torch.equal, plain.state_dict().values(), watched.state_dict().values()))
    assert not torch.equal(plain.seen[0], plain.seen[10])


def test_what_is_done_to_an_output_later_is_not_what_was_seen():
    def spoil(h):
        return (h * 1).relu_().mean() + h.detach().mul_(0).sum()

    module, monitor = foreign(pl, act=spoil), SpectrumMonitor(["trunk"], every_n_steps=5, samples=8)
    fit(module, [monitor], epochs=1)
    expected = look_at(module.seen[4], 5, 1e-6).effective_rank
    assert monitor.looks["trunk"][1].effective_rank == expected > 0


@LIGHTNINGS
def test_an_unknown_module_is_refused_with_the_nearest_names(lightning):
    with refuses(UsageError, "'trunk.4'", "'trunk.3'", "Foreign", "trunk, spare"):
        fit(foreign(lightning), [SpectrumMonitor(["trunk.4"])], lightning=lightning)
    with refuses(UsageError, "'net'", "Foreign", "trunk, spare"):
        fit(foreign(lightning), [SpectrumMonitor({"trunk": "net"})], lightning=lightning)


def test_a_module_that_is_not_called_is_said_once_and_the_run_goes_on():
    monitor = SpectrumMonitor(["spare", "trunk"], every_n_steps=5, samples=8)
    with pytest.warns(UserWarning, match="'spare'") as caught:
        fit(foreign(pl), [monitor])
    (said,) = [str(warning.message) for warning in caught if "spare" in str(warning.message)]
    assert_names(said, "0 rows", "step 1", 2)
    assert monitor.looks["spare"] == [] and len(monitor.looks["trunk"]) == 5
    assert not [key for key in monitor.arrays() if "spare" in key]


def test_hooks_go_when_training_fails():
    def fail(h):
        raise RuntimeError("out of memory")

    for act, error in ((fail, RuntimeError), (lambda h: h.mean(), DataError)):
        module = foreign(pl, act=act)
        if error is DataError:
            module.trunk.append(nn.Flatten(0))  # an output without rows
        with pytest.raises(error):
            fit(module, [SpectrumMonitor(["trunk"])])
        assert not module.trunk._forward_hooks


def test_compiled_modules_are_seen():
    module, monitor = foreign(pl), SpectrumMonitor(["trunk"], every_n_steps=5, samples=8)
    module.trunk.compile(backend="eager")
    fit(module, [monitor], epochs=1)
    assert [look.step for look in monitor.looks["trunk"]] == [1, 5, 10]


@pytest.fixture
def of_lightning_alone():
    """The class as it is before pytorch_lightning is imported; monkeypatch cannot put bases back."""
    bases = SpectrumMonitor.__bases__
    SpectrumMonitor.__bases__ = (pl.Callback,)
    yield
    SpectrumMonitor.__bases__ = bases


def test_it_needs_lightning_alone_and_joins_the_other_where_that_is_imported(monkeypatch, of_lightning_alone):
    monkeypatch.delitem(sys.modules, "pytorch_lightning")
    early = SpectrumMonitor(["h"])
    assert isinstance(early, pl.Callback) and not isinstance(early, pytorch_lightning.Callback)
    monkeypatch.setitem(sys.modules, "pytorch_lightning", pytorch_lightning)
    for monitor in (SpectrumMonitor(["h"]), early):
        assert isinstance(monitor, pl.Callback) and isinstance(monitor, pytorch_lightning.Callback)


def test_a_monitor_travels_between_processes():
    monitor = SpectrumMonitor({"h": "trunk"}, samples=9)
    again = pickle.loads(pickle.dumps(monitor))  # noqa: S301  # our own
    assert (again.modules, again.samples, again.rules) == ({"h": "trunk"}, 9, ALERT_RULES)
    assert again.state_key == monitor.state_key != SpectrumMonitor(["trunk"]).state_key


# Alerts


def attract(h):
    """The loss of two views that only attracts: rows that differ by noise alone move together."""
    first, second = nn.functional.normalize(h, dim=1).chunk(2)
    return -(first * second).sum(1).mean()


def silence(h):
    """After a ReLU, all channels but one are pressed below zero, where they die one by one."""
    kept, *others = h.unbind(1)
    return sum(others).mean() + (kept.mean() - 1).square()


@pytest.mark.parametrize(
    "act, lr, rules",
    [(attract, 3.0, ["complete-collapse"]), (silence, 0.03, ["rank-fell", "dimensions-lost"])],
)
def test_a_collapse_raises_its_alert_once(act, lr, rules):
    module, monitor = foreign(pl, act, lr), SpectrumMonitor(["trunk"], every_n_steps=5, samples=40)
    module.trunk[2].p = 0.0
    if act is silence:
        module.trunk.append(nn.ReLU())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(module, [monitor], epochs=20)
    alerts = [warning.message.alert for warning in caught if issubclass(warning.category, CollapseWarning)]
    assert monitor.alerts == alerts
    assert [alert.rule for alert in alerts if alert.rule in rules] == rules
    assert len({alert.rule for alert in alerts}) == len(alerts)
    alert = alerts[0]
    look = next(look for look in monitor.looks["trunk"] if look.step == alert.step)
    assert alert.module == "trunk"
    if act is attract:
        assert alert.value == look.mean_cosine > alert.threshold >= 0.99
    else:
        assert alert.value == look.effective_rank < alert.threshold


def test_an_alert_says_what_where_and_what_to_try_and_can_stop_the_run():
    monitor = SpectrumMonitor(["trunk"], every_n_steps=5, samples=40)
    module = foreign(pl, attract, 3.0)
    module.trunk[2].p = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapseWarning)
        with pytest.raises(CollapseWarning) as raised:
            fit(module, [monitor], epochs=20)
    alert, said = raised.value.alert, str(raised.value)
    assert monitor.alerts == [alert] and isinstance(alert, Alert)
    assert_names(said, f"Step {alert.step}", "'trunk'", "complete-collapse", "mean cosine")
    assert_names(
        said,
        f"{alert.value:.4g}",
        f"{alert.threshold:.4g}",
        *(each.partition(" ")[2] for each in (alert.means, alert.remedy)),
    )
    assert not module.trunk._forward_hooks and len(module.seen) == monitor.alerts[0].step


def test_a_module_at_its_start_raises_no_alert_whatever_it_is():
    trunk = nn.Linear(8, 8)
    nn.init.zeros_(trunk.weight)  # one and the same row from the start
    module = foreign(pl, constant=trunk, act=lambda h: trunk(h).mean() + h.mean())
    monitor = SpectrumMonitor(["trunk", "constant"], every_n_steps=2, samples=16)
    fit(module, [monitor])
    assert monitor.looks["constant"][0].mean_cosine == pytest.approx(1) and monitor.alerts == []


@pytest.mark.parametrize("spec", ["none", "subvector:24", "mlp:16"])
def test_a_healthy_run_raises_no_alert(spec):
    torch.manual_seed(0)
    module = JointEmbedding(
        encoder("tiny-resnet,width=8", image_size=8, in_chans=1),
        head(spec, in_dim=32),
        objective("infonce:0.2"),
        view_pipeline("weak", image_size=8, channels=1),
        Optimizer(lr=3e-3),
    )
    loader = BatchLoader(source("digits").load("train").limited(480, seed=0), 96, seed=0)
    monitor = SpectrumMonitor(["encoder", "head"], every_n_steps=3, samples=384)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapseWarning)
        fit(module, [monitor], epochs=4, loader=loader)
    assert monitor.alerts == [] and len(monitor.looks["encoder"]) == 7


# What it leaves


def same_arrays(a, b):
    assert list(a) == list(b)
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


def test_the_arrays_hold_every_look(tmp_path):
    module, monitor = foreign(pl), SpectrumMonitor({"h": "trunk"}, every_n_steps=5, samples=16)
    assert monitor.arrays() == {}
    fit(module, [monitor])
    arrays = monitor.arrays()
    assert arrays["spectrum/h/step"].tolist() == [2, 5, 10, 15, 20]
    assert arrays["spectrum/h/rows"].tolist() == 5 * [16]
    assert arrays["spectrum/h/singular_values"].shape == (5, 8)
    names = {f"spectrum/h/{name}" for name in ("step", "rows", "singular_values", *MEASURES)}
    columns = ("step", "value", "error", "last", "kept", "finite")
    assert set(arrays) == names | {f"loss/{column}" for column in columns}
    np.savez(tmp_path / "arrays.npz", **arrays)
    with np.load(tmp_path / "arrays.npz", allow_pickle=False) as file:
        same_arrays(arrays, dict(file))


@LIGHTNINGS
@pytest.mark.filterwarnings("ignore::fullrank.diagnosis.watch.alerts.CollapseWarning")
def test_a_resumed_run_has_the_curves_and_alerts_of_an_unbroken_one(lightning, tmp_path):
    # After 4 epochs of 10 batches, the look of step 42 already has its first rows; the collapse is under way.
    def begin():
        module = foreign(lightning, attract, 3.0)
        module.trunk[2].p = 0.0
        return module, SpectrumMonitor(["trunk"], every_n_steps=7, samples=32)

    module, unbroken = begin()
    fit(module, [unbroken], epochs=12, lightning=lightning)
    module, first = begin()
    trainer = fit(module, [first], epochs=4, lightning=lightning)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    state = torch.load(tmp_path / "run.ckpt", weights_only=True)["callbacks"][first.state_key]
    assert len(state["rows"]["trunk"]) == 16
    module, resumed = begin()
    fit(module, [resumed], epochs=12, lightning=lightning, ckpt_path=tmp_path / "run.ckpt", weights_only=True)
    same_arrays(unbroken.arrays(), resumed.arrays())
    assert unbroken.alerts == resumed.alerts and len(resumed.alerts) == 1
    assert resumed.alerts[0].step > 40 or resumed.alerts == first.alerts


def test_between_looks_a_checkpoint_holds_no_rows():
    monitor = SpectrumMonitor(["trunk"], every_n_steps=10, samples=16)
    fit(foreign(pl), [monitor], epochs=1)
    assert monitor.state_dict()["rows"] == {} and len(monitor.state_dict()["looks"]["trunk"]) == 2


def spectra_drawn(page):
    """The modules whose spectrum over time a page draws, by the headings of its figures."""
    return re.findall(r"Spectrum over time: (\w+)", page)


def records(folder):
    record = Record.load(folder)
    assert record.kind == "diagnosis" and record.runs == []
    return record, record.diagnosis


def test_a_save_holds_the_last_look_and_all_arrays(tmp_path):
    monitor = SpectrumMonitor({"late": "trunk.3", "spare": "spare", "h": "trunk"}, 5, 16, tolerance=1e-4)
    with pytest.warns(UserWarning, match="'spare' gave 0 rows"):
        fit(foreign(pl), [monitor])
    monitor.save(tmp_path / "a" / "b")
    same_arrays(load_arrays(tmp_path / "a" / "b"), monitor.arrays())
    record, entry = records(tmp_path / "a" / "b")
    assert (entry.target, entry.rows, entry.places) == ("Foreign", 16, ["late", "h"])
    assert (entry.collapsed, entry.findings, entry.cut) == (False, [], None)
    assert_names(entry.verdict, "5 looks", "step 20")
    for place in entry.places:
        look = monitor.looks[place][-1]
        assert {m.name: m.value for m in entry.measures if m.place == place} == {
            name: getattr(look, name) for name in MEASURES
        }
        assert entry.spectrum[place].singular_values == look.singular_values.tolist()
        assert entry.spectrum[place].effective_rank == look.effective_rank
    said = " ".join(entry.not_seen)
    assert_names(said, "spare:", "2 rows")
    assert said.count("fullrank diagnose") == 3
    settings = record.recipe["monitor"]
    assert settings["modules"] == monitor.modules and settings["tolerance"] == 1e-4
    page = write_page(tmp_path / "a" / "b").read_text()
    assert spectra_drawn(page) == ["late", "h"]
    # A later save takes the place of an earlier one.
    fit(foreign(pl), [monitor])
    monitor.save(str(tmp_path / "a" / "b"))
    same_arrays(load_arrays(tmp_path / "a" / "b"), monitor.arrays())
    assert "9 looks" in records(tmp_path / "a" / "b")[1].verdict


def test_alerts_are_the_alarms_of_a_save(tmp_path):
    module = foreign(pl, silence, 0.03)
    module.trunk[2].p = 0.0
    module.trunk.append(nn.ReLU())
    own = AlertRule("own", "effective_rank", share=0.9, means="", remedy="rest")
    monitor = SpectrumMonitor(["trunk"], every_n_steps=5, samples=40, rules=[*ALERT_RULES, own])
    with pytest.warns(CollapseWarning):
        fit(module, [monitor], epochs=20)
    monitor.save(tmp_path)
    _, entry = records(tmp_path)
    assert entry.collapsed and len(entry.findings) == len(monitor.alerts) >= 3
    last = monitor.looks["trunk"][-1]
    for finding, alert in zip(entry.findings, monitor.alerts, strict=True):
        assert (finding.cause, finding.place, finding.level) == (alert.rule, "trunk", "alarm")
        assert (finding.measure, finding.value) == (alert.measure, alert.value)
        assert finding.threshold == alert.threshold != finding.value
        assert finding.evidence.startswith(f"Step {alert.step}: ")
        now = f"{getattr(last, alert.measure):.4g}."
        assert f"step {last.step}" in finding.evidence and finding.evidence.endswith(now)
    for alert in monitor.alerts[:3]:
        assert f"{alert.rule} at step {alert.step} in trunk" in entry.verdict
    by_cause = {finding.cause: finding for finding in entry.findings}
    shipped = next(rule for rule in ALERT_RULES if rule.name == "rank-fell")
    assert by_cause["rank-fell"].title == shipped.title != "" and not by_cause["own"].title
    assert by_cause["own"].remedy == "Rest." and by_cause["rank-fell"].remedy[1:] == f"{shipped.remedy[1:]}."
    assert_names(by_cause["own"].evidence, "own", "fired")
    page = write_page(tmp_path).read_text()
    assert shipped.title in page and "Alert" in page


def test_many_alerts_are_counted():
    alerts = [Alert(step, "h", "fell", "rankme", 1.0, 2.0, "", "") for step in (3, 4, 5, 6, 7)]
    looks = {"h": [look_at(torch.eye(3), 7, 1e-6)]}
    entry = watched_diagnosis("Foreign", looks, alerts)
    assert_names(
        entry.verdict, "5 alerts", "1 look", "step 7", "step 3 in h", "step 4 in h", "step 5 in h", 2
    )
    assert "step 6" not in entry.verdict
    assert_names(entry.findings[-1].evidence, "Step 7", "fell")


@pytest.mark.filterwarnings("ignore::fullrank.diagnosis.watch.alerts.CollapseWarning")
@pytest.mark.filterwarnings("ignore::fullrank.diagnosis.watch.alerts.LossWarning")
@pytest.mark.parametrize("good", [0, 12])
def test_a_look_that_is_not_finite_breaks_no_record(good, tmp_path):
    module = foreign(pl, act=lambda h: h.square().mean())
    module.trunk[2] = nn.Identity()
    module.trunk.register_forward_hook(
        lambda trunk, inputs, h: h * (torch.nan if len(module.seen) >= good else 1)
    )
    monitor = SpectrumMonitor(["trunk"], every_n_steps=5, samples=8)
    fit(module, [monitor])
    monitor.save(tmp_path)
    _, entry = records(tmp_path)
    values = {measure.name: measure.value for measure in entry.measures}
    assert values.pop("finite_rows") == 0 and set(values.values()) == {None}
    assert [finding.cause for finding in entry.findings] == ["not-finite", "loss-not-finite"]
    assert entry.collapsed
    page = write_page(tmp_path).read_text()
    if good:
        finite = monitor.looks["trunk"][2]
        assert finite.step == 10
        assert entry.spectrum["trunk"].singular_values == finite.singular_values.tolist()
        assert_names(entry.not_seen[0], "trunk", "step 20", "step 10")
        assert spectra_drawn(page) == ["trunk"]
    else:
        assert entry.spectrum == {} and spectra_drawn(page) == []
        assert_names(entry.not_seen[0], "trunk", "step 20", "no spectrum")


def test_values_beyond_single_precision_break_no_record():
    rows = 1e30 * torch.randn(9, 3)
    look = look_at(rows, 1, 1e-6)
    assert look.singular_values.isinf().any() and look.finite_rows == 1
    entry = watched_diagnosis("Foreign", {"h": [look]}, [])
    assert entry.spectrum == {}
    assert_names(entry.not_seen[0], "h at step 1", "finite")


def test_where_a_save_cannot_go(tmp_path):
    monitor = SpectrumMonitor(["trunk"], every_n_steps=5, samples=8)
    with refuses(UsageError, "0 batches", "Trainer", "fullrank.watch"):
        monitor.save(tmp_path / "early")
    assert not (tmp_path / "early").exists()
    fit(foreign(pl), [monitor])
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with refuses(UsageError, tmp_path / "file", "folder"):
            monitor.save(folder)
    monitor.save(tmp_path)
    record = Record.load(tmp_path)
    record.model_copy(update={"recipe": {}}).save(tmp_path)
    with refuses(UsageError, tmp_path, "diagnosis", "folder"):
        monitor.save(tmp_path)
    (tmp_path / "record.json").write_text("{}")
    with refuses(DataError, tmp_path / "record.json"):
        monitor.save(tmp_path)
    assert (tmp_path / "record.json").read_text() == "{}"


def test_another_trainer_is_refused():
    """The Trainers of transformers call these; its callbacks have no common class that would tell sooner."""
    monitor = SpectrumMonitor(["trunk"])
    for event in (monitor.on_init_end, monitor.on_train_begin):
        with refuses(UsageError, "Lightning", "TrainerMonitor", "fullrank.watch"):
            event(None, None, None, model=None)


def test_the_loss_is_that_of_the_training_step_before_lightning_divides_it(tmp_path):
    for accumulated in (1, 2):
        module = foreign(pl, act=lambda h: h.square().mean())
        monitor = SpectrumMonitor(["trunk"], every_n_steps=5, samples=80)
        trainer = quiet_trainer(
            pl, logger=False, max_epochs=1, callbacks=[monitor], accumulate_grad_batches=accumulated
        )
        trainer.fit(module, batches())
        losses = [float(h.square().mean()) for h in module.seen]
        expected = [np.mean(losses[:5]), np.mean(losses[5:])]
        np.testing.assert_allclose(monitor.arrays()["loss/value"], expected, rtol=1e-6)


def test_a_process_that_is_not_the_first_saves_nothing(tmp_path):
    monitor = SpectrumMonitor(["trunk"])
    monitor.on_fit_start(SimpleNamespace(is_global_zero=False), foreign(pl))
    monitor.save(tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_a_monitor_of_a_checkpoint_saves_as_the_first_did(tmp_path):
    monitor = SpectrumMonitor(["trunk"], every_n_steps=5, samples=8)
    fit(foreign(pl), [monitor])
    again = SpectrumMonitor(["trunk"], every_n_steps=5, samples=8)
    again.load_state_dict(monitor.state_dict())
    monitor.save(tmp_path / "first")
    again.save(tmp_path / "again")
    assert records(tmp_path / "first")[1] == records(tmp_path / "again")[1]
    same_arrays(load_arrays(tmp_path / "first"), load_arrays(tmp_path / "again"))
