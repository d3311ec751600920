"""Collapse in a training: what raises an alarm, what it names, and that a resume continues the watch."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from runs import fingerprint

import fullrank
from fullrank import VICRegLoss, load, objective, target, train
from fullrank.diagnosis.subject import find_subject
from fullrank.diagnosis.watch.alerts import CollapseWarning
from fullrank.diagnosis.watch.measurements import look_at
from fullrank.errors import InterruptedRunError
from fullrank.reports.page import write_page
from fullrank.step import Step
from fullrank.training.callbacks.collapse import LOOKS, PLACES, TOLERANCE, CollapseWatch, rules_for

# On a head that does not normalise its output.
QUICK = {"encoder": "tiny-resnet,width=8", "limit": 300, "batch_size": 64, "monitor_every": 2}
COLLAPSING = {
    **QUICK,
    "objective": "vicreg,variance=0",
    "head": "linear:8",
    "epochs": 8,
    "optimizer.lr": 2e-2,
}


def watched(steps, features, every=5, world=0, **more):
    """A watch after `steps` steps, each with `features(step)`, the h and z of first views."""
    watch = CollapseWatch(every, **more)
    trainer = SimpleNamespace(is_global_zero=world == 0, estimated_stepping_batches=steps, global_step=0)
    watch.on_train_start(trainer, None)
    for step in range(1, steps + 1):
        advance(watch, trainer, step, features)
    return watch


def advance(watch, trainer, step, features):
    h, z = features(step)
    losses = {"objective": torch.tensor(1.0)}
    module = SimpleNamespace(latest=Step(torch.cat([h, h]), torch.cat([z, z]), losses=losses))
    trainer.global_step = step
    watch.on_train_batch_end(trainer, module, None, None, 0)


def narrowing(step, start=20):
    """h is healthy; from step `start` on, z lies along one direction."""
    generator = torch.Generator().manual_seed(step)
    h, z = torch.randn(128, 16, generator=generator), torch.randn(128, 8, generator=generator)
    return h, z if step < start else z[:, :1] * torch.ones(8) + 1e-5 * z


def test_a_look_measures_the_newest_rows_of_both_places():
    watch = watched(20, narrowing, every=10)
    assert watch.looks["h"]["step"] == watch.looks["z"]["step"] == [4, 10, 20]  # 4 steps fill 512 rows
    rows = torch.cat([narrowing(step)[0] for step in range(17, 21)])
    assert watch.looks["h"].last["effective_rank"] == look_at(rows, 20, TOLERANCE).effective_rank


def test_the_place_that_collapses_raises_the_alarm_after_two_looks():
    with pytest.warns(CollapseWarning):
        watch = watched(40, narrowing)
    assert {(alert.module, alert.step) for alert in watch.alerts} == {("z", 30)}
    assert {"rank-fell"} <= {alert.rule for alert in watch.alerts}
    findings = watch.findings()
    assert [each.place for each in findings] == ["z"] * len(watch.alerts)
    assert all(each.level == "alarm" and "30" in each.evidence and "40" in each.evidence for each in findings)


def test_rows_that_shrink_keep_their_rank_and_raise_an_alarm():
    def shrinking(step):
        h, z = narrowing(step, start=99)
        return h, z * 0.9**step

    with pytest.warns(CollapseWarning):
        watch = watched(40, shrinking, rules=rules_for(VICRegLoss()))
    assert [(alert.rule, alert.module) for alert in watch.alerts] == [("spread-fell", "z")]
    # The spread of 512 rows falls by 0.9 each step: below 0.2 of that of step 4 from step 20 on.
    assert watch.alerts[0].step == 25
    expected = torch.cat([shrinking(step)[1] for step in range(37, 41)]).var(0, correction=0).sum().sqrt()
    assert watch.looks["z"].last["spread"] == pytest.approx(float(expected), rel=1e-6)


def test_lengths_are_free_under_a_temperature_and_ranks_under_labels():
    names = {spec: {rule.name for rule in rules_for(built(spec))} for spec in ("vicreg", "ntxent", "supcon")}
    assert "spread-fell" in names["vicreg"] and not names["ntxent"] & {"spread-fell", "not-finite"}
    assert "rank-fell" in names["ntxent"] and not names["supcon"] & {"rank-fell", "dimensions-lost"}
    assert all({"complete-collapse", "loss-jumped"} <= each for each in names.values())


def built(spec):
    return objective(spec, in_dim=8, num_classes=10)


def test_healthy_features_raise_nothing():
    assert watched(40, lambda step: narrowing(step, start=99)).alerts == []


def test_z_that_is_h_is_looked_at_once():
    watch = watched(10, lambda step: (narrowing(step)[0],) * 2)
    assert watch.looks["h"]["step"] and not watch.looks["z"]["step"]


def test_rows_that_are_not_finite_are_left_out():
    def spoilt(step):
        h, z = narrowing(step, start=99)
        h[0] = torch.nan
        return h, z

    watch = watched(20, spoilt)
    assert watch.looks["z"].last["finite_rows"] == 1 and watch.looks["z"].last["effective_rank"] > 7


def test_a_long_run_looks_at_most_so_often_and_a_later_process_never():
    watch = watched(1000, lambda step: narrowing(step % 50, start=99), every=1)
    assert LOOKS * 0.8 < len(watch.looks["h"]["step"]) <= LOOKS + 1
    assert not watched(20, narrowing, world=1).looks["h"]["step"]


@pytest.mark.parametrize("split", [3, 17, 27, 33])
def test_a_watch_goes_on_from_its_state(split):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        whole, first, second = watched(40, narrowing), watched(split, narrowing), CollapseWatch(5)
        trainer = SimpleNamespace(is_global_zero=True, estimated_stepping_batches=40, global_step=split)
        second.load_state_dict(first.state_dict())
        second.on_train_start(trainer, None)
        for step in range(split + 1, 41):
            advance(second, trainer, step, narrowing)
    assert second.alerts == whole.alerts and second.loss.history == whole.loss.history
    for place in PLACES:
        assert second.looks[place] == whole.looks[place]


def test_the_remedy_is_that_of_what_the_objective_has_switched_off():
    (missing,) = VICRegLoss(variance=0).unguarded()
    for rule in rules_for(VICRegLoss(variance=0)):
        of_features = rule.measure not in ("loss_kept", "finite_losses", "loss")
        assert (rule.remedy == missing.remedy) == (missing.name in rule.means) == of_features
    assert not any(missing.name in rule.means for rule in rules_for(VICRegLoss()))


@pytest.fixture(scope="module")
def collapsed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("collapsed") / "run"
    with pytest.warns(CollapseWarning):
        return train("digits", out=folder, **COLLAPSING)


def test_a_collapsing_run_has_the_alarm_in_its_record_and_on_its_page(collapsed):
    (entry,) = load(collapsed.path).record.runs
    assert {finding.place for finding in entry.findings} <= {"h", "z"} and entry.findings
    (missing,) = VICRegLoss(variance=0).unguarded()
    assert all(missing.name in finding.evidence for finding in entry.findings)
    page = write_page(collapsed.path).read_text()
    assert 'id="alarms"' in page and missing.name in page


def test_the_subject_of_a_run_says_what_its_objective_has_switched_off(collapsed, quick_run):
    found, healthy = (find_subject(target(run), None, None) for run in (collapsed, quick_run))
    assert found.unguarded == VICRegLoss(variance=0).unguarded()
    assert any(found.unguarded[0].name in sentence for sentence in found.about)
    assert healthy.unguarded == () and healthy.objective is not None


def test_a_healthy_run_has_no_alarm(quick_run):
    assert quick_run.record.runs[0].findings == []
    assert 'id="alarms"' not in write_page(quick_run.path).read_text()


def test_a_resumed_run_raises_the_same_alarms(collapsed, tmp_path):
    class StopAfter(fullrank.training.train.pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.global_step == 19:
                next(each for each in trainer.callbacks if hasattr(each, "stop")).stop.set()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        with pytest.raises(InterruptedRunError):
            train("digits", out=tmp_path / "run", callbacks=[StopAfter()], **COLLAPSING)
        resumed = train("digits", out=tmp_path / "run", resume=True, **COLLAPSING)
    assert fingerprint(resumed) == fingerprint(collapsed)


@pytest.mark.parametrize(("channels", "alarms"), [(6, 0), (1, 1)])
def test_a_rank_that_falls_to_a_healthy_one_raises_nothing(channels, alarms):
    def narrowed(step):
        h, _ = narrowing(step, start=99)
        z = torch.randn(len(h), 32, generator=torch.Generator().manual_seed(step))
        z[:, channels:] *= 1e-4 if step > 10 else 1
        return h, z

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        watch = watched(40, narrowed, rules=rules_for(built("ntxent")))
    assert len([alert for alert in watch.alerts if alert.rule == "rank-fell"]) == alarms
