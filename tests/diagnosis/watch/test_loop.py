"""watch in a bare loop: which rows count, that training does not feel it, and what it leaves."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from refusals import assert_names, refuses
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import fullrank
from fullrank.diagnosis.watch.alerts import AlertRule, CollapseWarning, LossWarning
from fullrank.diagnosis.watch.measurements import look_at
from fullrank.diagnosis.watch.spectrum_monitor import SpectrumMonitor
from fullrank.errors import DataError, FullrankWarning, UsageError
from fullrank.files import load_arrays
from fullrank.record import Record
from fullrank.reports.page import write_page


class Net(nn.Module):
    """A trunk and a head; `seen` holds what the trunk gave in training."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Dropout(0.1), nn.Linear(12, 8))
        self.head = nn.Linear(8, 3)
        self.seen = []

    def forward(self, x):
        h = self.trunk(x)
        if self.training:
            self.seen.append(h.detach().clone())
        return self.head(h)


def net():
    torch.manual_seed(0)
    return Net()


def inputs(steps, seed=1):
    return torch.randn(steps, 8, 6, generator=torch.Generator().manual_seed(seed))


def train(model, steps=12, watching=None, lr=0.1, callee=None):
    """A bare loop; the losses of its steps."""
    optimizer, losses = torch.optim.SGD(model.parameters(), lr), []
    for x in inputs(steps):
        loss = (model if callee is None else callee)(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if watching:
            watching.step(loss)
    return losses


def test_watch_sees_what_the_trunk_gave_and_keeps_the_loss():
    model = net()
    with fullrank.watch(model, {"h": "trunk", "head": "head"}, every=5, samples=20) as watching:
        losses = train(model, watching=watching)
    assert (
        [look.step for look in watching.looks["h"]]
        == [3, 5, 10]
        == [look.step for look in watching.looks["head"]]
    )
    for look in watching.looks["h"]:
        expected = look_at(torch.cat(model.seen[: look.step])[-20:], look.step, 1e-6)
        assert look.singular_values.tolist() == expected.singular_values.tolist()
        assert look.mean_cosine == expected.mean_cosine
    arrays = watching.arrays()
    assert arrays["loss/step"].tolist() == [3, 5, 10]
    means = [np.mean(losses[a:b]) for a, b in ((0, 3), (3, 5), (5, 10))]
    np.testing.assert_allclose(arrays["loss/value"], means, rtol=1e-6)
    assert arrays["loss/last"].tolist() == [losses[2], losses[4], losses[9]]


def test_watched_training_is_bit_for_bit_what_it_is_without():
    plain, watched = net(), net()
    losses = train(plain)
    generator = torch.get_rng_state()
    torch.manual_seed(0)
    watched = Net()
    with fullrank.watch(watched, ["trunk", "trunk.1", "head"], every=3, samples=16) as watching:
        assert train(watched, watching=watching) == losses
    assert torch.equal(generator, torch.get_rng_state())
    assert all(map(torch.equal, plain.state_dict().values(), watched.state_dict().values()))
    assert len(watching.looks["trunk"]) == 5


def test_step_returns_the_new_looks_and_none_between():
    model = net()
    watching = fullrank.watch(model, ["head"], every=2, samples=64)
    returned = []
    for x in inputs(4):
        model(x)
        returned.append(watching.step())
    watching.close()
    assert [list(looks) for looks in returned] == [[], ["head"], [], ["head"]]
    assert returned[3]["head"].step == 4 and returned[3]["head"].rows == 32
    assert "loss/step" not in watching.arrays() and not model.head._forward_hooks


@pytest.mark.parametrize("training_only, rows", [(True, 16), (False, 32)])
def test_calls_in_evaluation_mode_count_only_if_asked_for(training_only, rows):
    model = net()
    with fullrank.watch(model, ["trunk"], every=2, samples=64, training_only=training_only) as watching:
        for x in inputs(2):
            model(x)
            model.eval()
            with torch.no_grad():
                model(x)
            model.train()
            watching.step()
    assert watching.looks["trunk"][0].rows == rows


def test_a_model_that_is_only_called_in_evaluation_mode_is_said():
    model = net().eval()
    with pytest.warns(UserWarning) as caught, fullrank.watch(model, ["trunk"], every=2) as watching:
        for x in inputs(2):
            model(x)
            watching.step()
    assert_names(str(caught[0].message), "'trunk'", "0 rows", "model.train()")


def test_all_calls_of_a_step_count():
    model = net()
    with fullrank.watch(model, ["trunk"], every=3, samples=32) as watching:
        for x in inputs(3):
            for view in x.chunk(2):  # two views, or two batches of an accumulated gradient
                model(view)
            watching.step()
    # Two calls of 4 rows a step: 32 rows would need 4 steps, so all 3 are kept.
    (look,) = watching.looks["trunk"]
    assert (look.step, look.rows) == (3, 24)
    assert look.effective_rank == look_at(torch.cat(model.seen), 3, 1e-6).effective_rank


def test_the_module_with_the_fewest_rows_decides_how_many_steps_are_kept():
    model = net()
    with fullrank.watch(model, ["trunk", "head"], every=5, samples=16) as watching:
        for x in inputs(10):
            model.head(model.trunk(x)[:4])
            watching.step()
    for looks in watching.looks.values():
        assert [(look.step, look.rows) for look in looks] == [(4, 16), (5, 16), (10, 16)]


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_call_that_checkpointing_repeats_counts_once(reentrant):
    model = net()
    with fullrank.watch(model, ["trunk"], every=2, samples=64) as watching:
        for x in inputs(2):
            h = checkpoint(model.trunk, x.requires_grad_(), use_reentrant=reentrant)
            model.head(h).sum().backward()
            watching.step()
    assert watching.looks["trunk"][0].rows == 16


def test_wrapped_and_compiled_models_are_watched_by_the_names_inside():
    plain = net()
    with fullrank.watch(plain, ["trunk"], every=5, samples=16) as expected:
        train(plain, watching=expected)
    for wrap in (nn.DataParallel, lambda model: torch.compile(model, backend="eager")):
        model = net()
        callee = wrap(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FullrankWarning)
            watching = fullrank.watch(callee, ["trunk"], every=5, samples=16)
        train(model, watching=watching, callee=callee)
        watching.close()
        for a, b in zip(expected.looks["trunk"], watching.looks["trunk"], strict=True):
            assert (a.step, a.singular_values.tolist()) == (b.step, b.singular_values.tolist())


def test_a_module_inside_compiled_code_gives_a_warning_and_a_compiled_one_none():
    model = net()
    model.trunk.compile(backend="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("error", FullrankWarning)
        fullrank.watch(model, ["trunk", "head"]).close()
    for outer, names in ((model, "'trunk'"), (torch.compile(net(), backend="eager"), "the model")):
        with pytest.warns(FullrankWarning) as caught:
            fullrank.watch(outer, ["trunk.1"]).close()
        assert_names(str(caught[0].message), "'trunk.1'", names, "compiled")


def test_a_step_inside_autocast_measures_the_same():
    looks = []
    for enabled in (False, True):
        model = net().eval()
        with fullrank.watch(model.trunk, ["3"], every=1, samples=8, training_only=False) as watching:
            model(inputs(1)[0])
            with torch.autocast("cpu", enabled=enabled, dtype=torch.bfloat16):
                looks.append(watching.step()["3"])
    assert vars(looks[0]).keys() == vars(looks[1]).keys()
    assert all(np.array_equal(vars(looks[0])[key], vars(looks[1])[key]) for key in vars(looks[0]))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_no_hook_and_what_was_measured(error, tmp_path):
    model = net()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(error), fullrank.watch(model, ["trunk"], every=2, samples=16) as watching:
            train(model, 3, watching)
            raise error
    assert not model.trunk._forward_hooks
    watching.save(tmp_path)
    assert Record.load(tmp_path).diagnosis.places == ["trunk"]
    assert load_arrays(tmp_path)["spectrum/trunk/step"].tolist() == [2]


def test_step_that_is_never_called_is_said_and_save_refuses(tmp_path):
    model = net()
    with pytest.warns(FullrankWarning) as caught, fullrank.watch(model, ["trunk"]) as watching:
        model(inputs(1)[0])
    assert_names(str(caught[0].message), "step()", "never called")
    with refuses(UsageError, "step()", "never called"):
        watching.save(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_loop_too_short_for_a_look_is_said_and_save_refuses(tmp_path):
    model = net()
    with pytest.warns(FullrankWarning) as caught, fullrank.watch(model, ["trunk"], every=7) as watching:
        train(model, 3, watching)
    assert_names(str(caught[0].message), "3 steps", 7, "every")
    with refuses(UsageError, "3 steps", 7):
        watching.save(tmp_path / "a")


def test_step_after_close_is_refused():
    watching = fullrank.watch(net(), ["trunk"])
    watching.close()
    watching.close()
    with refuses(UsageError, "step()", "close()"):
        watching.step()


@pytest.mark.parametrize(
    "loss, got", [(torch.ones(8), "(8,)"), ({"loss": 1.0}, "dict"), ("low", "str"), ([1.0, 2.0], "list")]
)
def test_a_loss_that_is_not_one_number_is_refused(loss, got):
    with refuses(UsageError, "loss", got), fullrank.watch(net(), ["trunk"]) as watching:
        watching.step(loss)


class ReadsOfTheDevice(TorchDispatchMode):
    """Counts what makes a GPU wait: the reads of a tensor's value."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += operation is torch.ops.aten._local_scalar_dense.default
        return operation(*args, **kwargs or {})


def test_a_step_reads_no_value_from_the_device_before_a_look():
    model, reads = net(), []
    with fullrank.watch(model, ["trunk"], every=4, samples=64) as watching:
        for x in inputs(4):
            loss = model(x).mean()
            with ReadsOfTheDevice() as counted:
                watching.step(loss)
            reads.append(counted.count)
    assert reads[:3] == [0, 0, 0] and reads[3] > 0


def test_a_loss_is_kept_as_it_was_when_it_was_given():
    model = net()
    with fullrank.watch(model, ["trunk"], every=3, samples=64) as watching:
        for number, x in enumerate(inputs(3)):
            model(x)
            loss = torch.tensor(float(number))
            watching.step(loss if number else np.float32(0))
            loss.fill_(math.nan)
    assert watching.arrays()["loss/value"].tolist() == [1] and watching.arrays()["loss/last"].tolist() == [2]


@pytest.mark.parametrize(
    "modules, got",
    [
        ([nn.Linear(2, 2)], "Linear"),
        (nn.Sequential(nn.Linear(2, 2)), "Sequential"),
        ({"h": nn.Linear(2, 2)}, "Linear"),
        ({nn.Linear(2, 2): "h"}, "Linear"),
        ([0], "int"),
        (3, "int"),
        (None, "NoneType"),
        ("trunk", "'trunk'"),
        ([], "none"),
        ({}, "none"),
    ],
)
@pytest.mark.parametrize("make", [SpectrumMonitor, lambda modules: fullrank.watch(net(), modules)])
def test_modules_that_are_not_names_are_refused_at_once(make, modules, got):
    with refuses(UsageError, "modules", "['encoder']", got):
        make(modules)


@pytest.mark.parametrize("every", [0, -1, 2.5, "50", None, True])
def test_intervals_that_are_not_whole_numbers_are_refused(every):
    with refuses(UsageError, "every_n_steps", every, 50):
        SpectrumMonitor(["trunk"], every_n_steps=every)
    with refuses(UsageError, "every", every, 50):
        fullrank.watch(net(), ["trunk"], every=every)


@pytest.mark.parametrize("rules", [AlertRule("a", "rankme", 0.5, ""), "rank-fell", ["rank-fell"]])
def test_rules_that_are_not_a_list_of_rules_are_refused(rules):
    with refuses(UsageError, "rules", "AlertRule"):
        fullrank.watch(net(), ["trunk"], rules=rules)


def test_an_unknown_module_is_refused_with_the_nearest_names():
    for wrap in (lambda model: model, nn.DataParallel):
        with refuses(UsageError, "'trunk.4'", "'trunk.3'", "Net", "trunk, head"):
            fullrank.watch(wrap(net()), ["trunk.4"])
    with refuses(UsageError, "nn.Module", "list"):
        fullrank.watch(["trunk"], net())


def test_an_output_without_rows_is_named_with_its_watcher():
    model = nn.Sequential(nn.Flatten(0))
    with refuses(DataError, "watch", "'0'", "shape (12,)"), fullrank.watch(model, ["0"]):
        model(torch.ones(2, 6))
    assert not model[0]._forward_hooks


def test_a_watch_of_a_checkpoint_goes_on_as_an_unbroken_one(tmp_path):
    unbroken = net()
    with fullrank.watch(unbroken, ["trunk"], every=5, samples=32) as expected:
        train(unbroken, 12, expected)
    model = net()
    first = fullrank.watch(model, ["trunk"], every=5, samples=32)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    watching = first
    for number, x in enumerate(inputs(12)):
        if number == 8:  # within the rows of the look of step 10
            torch.save(watching.state_dict(), tmp_path / "state.pt")
            watching.close()
            watching = fullrank.watch(model, ["trunk"], every=5, samples=32)
            watching.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        watching.step(loss)
    arrays = watching.arrays()
    assert list(arrays) == list(expected.arrays()) and "loss/value" in arrays
    for key, values in expected.arrays().items():
        np.testing.assert_array_equal(values, arrays[key])


def test_alerts_warn_can_stop_the_loop_and_are_alarms_of_the_record(tmp_path):
    fallen = AlertRule("fallen", "effective_rank", share=0.5, means="it fell", looks=1)
    model = nn.Sequential(nn.Linear(6, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapseWarning)
        with pytest.raises(CollapseWarning), fullrank.watch(model, ["0"], 2, 16, rules=[fallen]) as watching:
            for number, x in enumerate(inputs(8)):
                model(x if number < 4 else x[:, :1].expand(-1, 6))
                watching.step(1.0)
    assert [(alert.step, alert.rule) for alert in watching.alerts] == [(6, "fallen")]
    watching.save(tmp_path)
    record = Record.load(tmp_path)
    assert record.diagnosis.collapsed and record.diagnosis.target == "Sequential"
    assert record.recipe["monitor"]["every_n_steps"] == 2


def test_a_rule_on_the_loss_fires_once_whatever_is_watched(tmp_path):
    """A rule reads the loss as the mean over the steps since the look before."""
    low = AlertRule("low", "loss", share=math.inf, limit=0.5, means="the loss is low", looks=1)
    model = net()
    with (
        pytest.warns(LossWarning),
        fullrank.watch(model, ["trunk", "head"], 2, 16, rules=[low]) as watching,
    ):
        for number, x in enumerate(inputs(8)):
            model(x)
            watching.step(1.0 if number < 5 else 0.1)
    (alert,) = watching.alerts
    assert (alert.step, alert.module, alert.value) == (8, "loss", pytest.approx(0.1))
    watching.save(tmp_path)
    (finding,) = Record.load(tmp_path).diagnosis.findings
    assert (finding.measure, finding.threshold) == ("loss", 0.5)
    assert low.means in write_page(tmp_path).read_text()


def test_a_state_without_a_loss_loads():
    monitor = SpectrumMonitor(["trunk"])
    state = monitor.state_dict()
    del state["loss"]  # as an earlier version left it
    monitor.load_state_dict(copy.deepcopy(state))
    assert monitor.arrays() == {}
