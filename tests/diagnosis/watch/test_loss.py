"""The loss of a watched training: when it has jumped, and when it falls while a module collapses."""

import json
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from fullrank.diagnosis.watch.alerts import ALERT_RULES, CollapseWarning, LossWarning
from fullrank.diagnosis.watch.loss import LossCurve, kept_share, noise_of
from fullrank.diagnosis.watch.watched import WatchedModules

FALL = np.concatenate([np.linspace(5, 1, 60), np.ones(90)])
NOISE = np.random.default_rng(0).normal(0, 0.1, 150)


def test_the_noise_of_losses_is_their_standard_deviation_without_trend_and_spikes():
    losses = np.random.default_rng(1).normal(0, 0.3, 4000) + np.linspace(9, 0, 4000)
    losses[::200] += 30
    assert noise_of(losses) == pytest.approx(0.3, rel=0.05)
    assert noise_of([]) == noise_of([3.0]) == 0


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(-1e3, 1e3), st.floats(1.0, 4.0))
def test_kept_share_is_a_share_whatever_the_unit_of_the_loss(scale, shift, level):
    earlier, new = 1 + 0.01 * np.sin(np.arange(40)), level + 0.01 * np.sin(np.arange(9))
    expected = kept_share(earlier, new, 5)
    scaled = kept_share(scale * earlier + shift, scale * new + shift, scale * 5 + shift)
    assert scaled == pytest.approx(expected, abs=1e-5)
    if level > 1.1:
        assert expected == pytest.approx(1 - (level - 1) / 4, abs=0.02)


def test_kept_share_at_its_ends():
    flat = [1.0, 1.2] * 10
    assert math.isnan(kept_share(flat[:9], [9.0], 5)) and math.isnan(kept_share(flat, [], 5))
    assert kept_share(flat, [9.0], 5) == 0 and kept_share(flat, [-9.0], 5) == 1
    assert kept_share(flat, [9.0], 1.0) == 0  # it had not fallen at all


def alerts(losses, every=10, ranks=None):
    """The alerts of a training of one module, whose features have a rank for each look."""
    net = nn.Identity()
    watched = WatchedModules(["0"], every, samples=64)
    model = nn.Sequential(net)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step, loss in enumerate(losses, 1):
            rank = 8 if ranks is None else ranks[(step - 1) // every]
            watched.begin(model)
            model(torch.eye(8)[:rank].repeat(16, 1)[:64])
            watched.end(step, torch.tensor(loss))
    assert [warning.message.alert for warning in caught] == watched.alerts
    return watched.alerts, [warning.category for warning in caught]


def with_change(change):
    losses = FALL + NOISE
    losses[100:] += change
    return losses


def spike():
    losses = FALL + NOISE
    losses[100:104] += 50
    return losses


@pytest.mark.parametrize(
    "losses", [FALL + NOISE, 3 + NOISE, FALL, spike(), with_change(0.2), with_change(-3)]
)
def test_noise_a_spike_and_a_fall_are_no_jump(losses):
    assert alerts(losses)[0] == []


@pytest.mark.parametrize("change", [1.5, 9.0, 1e6])
@pytest.mark.parametrize("every", [10, 25])
def test_a_loss_that_jumps_and_stays_is_found_at_its_second_look_and_once(change, every):
    (alert,), (warning,) = alerts(with_change(change), every)
    assert (alert.module, alert.rule, alert.step) == ("loss", "loss-jumped", 100 + 2 * every)
    assert alert.value == pytest.approx(max(0, 1 - change / 4), abs=0.05) and alert.threshold == 0.8
    assert warning is LossWarning and not issubclass(warning, CollapseWarning)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_found_at_the_next_look(bad):
    losses = FALL + NOISE
    losses[52] = bad
    (alert,), _ = alerts(losses)
    assert (alert.rule, alert.step, alert.value, alert.threshold) == ("loss-not-finite", 60, 0.9, 1.0)


@pytest.mark.parametrize("falling", [True, False])
def test_a_rank_that_falls_while_the_loss_falls_names_the_loss(falling):
    losses = FALL + NOISE if falling else 3 + NOISE
    found, _ = alerts(losses, ranks=[8] * 3 + [2] * 12)
    rules = {alert.rule: alert for alert in found}
    assert list(rules) == ["rank-fell", "dimensions-lost"]
    rule = next(rule for rule in ALERT_RULES if rule.name == "rank-fell")
    means = rules["rank-fell"].means
    assert means.startswith(rule.means) and (rule.if_loss_fell in means) is falling


def test_a_loss_curve_goes_on_from_its_state_as_json():
    whole, first, second = (LossCurve("watch") for _ in range(3))
    losses = with_change(2.0)
    for step, loss in enumerate(losses, 1):
        if step == 86:
            second.load(json.loads(json.dumps(first.state())))
        for curve in (whole, first if step < 86 else second):
            curve.add(float(loss))
            if step % 10 == 0:
                curve.look(step)
    assert repr(second.history.rows()) == repr(whole.history.rows())
    assert whole.history["kept"][0] != whole.history["kept"][0] and whole.history["kept"][11] < 0.6
