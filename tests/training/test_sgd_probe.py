"""The papers' SGD probe: what it learns, what it never touches, and how it goes on."""

import pytest
import torch
from refusals import assert_names, refuses

from fullrank import encoder, source, train
from fullrank.encoders import Encoder
from fullrank.errors import InterruptedRunError
from fullrank.progress import progress_bar
from fullrank.runs.folders import checkpoints_in
from fullrank.runs.recipe import SGDProbe
from fullrank.training.callbacks.checkpoints import load_state, newest_whole
from fullrank.training.callbacks.stopping import Stop
from fullrank.training.sgd_probe import KIND, SGDProbeRun, sgd_probe


class Pixels(Encoder):
    """h is the image, and one weight that is never trained."""

    places = ()

    def __init__(self, mean, std):
        super().__init__(1, mean, std)
        self.feature_dim = 64
        self.weight = torch.nn.Parameter(torch.ones(1))

    def features(self, x, places):
        h = self.weight * self.normalised(x).flatten(1)
        return dict.fromkeys(places, h)


@pytest.fixture
def parts():
    torch.manual_seed(0)
    images = source("digits")
    train_set, test_set = images.load("train").limited(300, seed=0), images.load("test").limited(200, seed=0)
    mean, std = train_set.channel_statistics()
    net = encoder("tiny-resnet,width=4", image_size=8, in_chans=1, mean=mean, std=std)
    return net, train_set, test_set


def carry_out(parts, folder, epochs, stop=None):
    settings = SGDProbe(epochs=epochs, batch_size=50)
    with progress_bar() as shown:
        return sgd_probe(*parts, settings, folder=folder, progress=shown, stop=stop or Stop(folder), seed=3)


def test_it_learns_and_the_best_epoch_is_labelled_as_such(parts, tmp_path):
    _, train_set, test_set = parts
    last, best = carry_out((Pixels(*train_set.channel_statistics()), train_set, test_set), tmp_path, 12)
    assert last.probe == best.probe == "sgd" and (last.place, last.split) == ("h", "test")
    assert_names(last.statistic, "last epoch")
    assert_names(best.statistic, "best", "epoch")
    assert_names(best.measure, "SGD", "best epoch")
    saved = load_state(newest_whole(tmp_path, KIND))["accuracies"]
    assert len(saved) == 12 and last.value == saved[-1] and best.value == max(saved)
    assert best.value > 0.5  # of crops down to 8 percent of 64 pixels; chance is 0.1


def test_the_encoder_is_neither_trained_nor_left_in_eval_mode(parts, tmp_path):
    net = parts[0].train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    carry_out(parts, tmp_path, epochs=1)
    assert net.training and all(p.grad is None for p in net.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_weights_start_as_in_the_paper():
    net = Pixels([0.5], [1.0])
    net.feature_dim = 2048
    run = SGDProbeRun.begin(net, SGDProbe(), 1000, seed=0)
    assert (
        float(run.classifier.weight.detach().std()) == pytest.approx(0.01, rel=0.01)
        and not run.classifier.bias.any()
    )
    group = run.optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.9, 1e-6)


def test_a_probe_that_was_stopped_goes_on_as_if_it_had_not(parts, tmp_path):
    whole = carry_out(parts, tmp_path / "whole", epochs=3)
    stop = Stop(tmp_path)
    stop.set()
    cut = tmp_path / "cut"
    with refuses(InterruptedRunError, "epoch 0", f"--out {cut} --resume"):
        carry_out(parts, cut, epochs=3, stop=stop)

    class StopInSecondEpoch:
        error = InterruptedRunError

        def is_set(self) -> bool:
            return bool(checkpoints_in(cut, KIND))

    with refuses(InterruptedRunError, "epoch 1"):
        carry_out(parts, cut, epochs=3, stop=StopInSecondEpoch())
    assert carry_out(parts, cut, epochs=3) == whole


def test_a_run_records_both_protocols(tmp_path):
    run = train(
        "digits",
        out=tmp_path / "run",
        encoder="tiny-resnet,width=4",
        head="none",
        epochs=1,
        limit=300,
        batch_size=100,
        **{"sgd_probe.epochs": 1, "sgd_probe.batch_size": 50},
    )
    probes = {score.probe for score in run.record.runs[0].scores if score.place == "h"}
    assert {"linear", "nearest", "sgd"} <= probes
    assert run.recipe.sgd_probe.epochs == 1
