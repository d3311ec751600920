"""Labels that a term reads beside the classes: carried by every batch that needs them, and by no other."""

import signal
from shutil import copytree

import numpy as np
import pytest
import torch
from refusals import assert_names, refuses
from runs import fingerprint
from torch import nn
from transparent import STILL, Pixels, coded_images

from fullrank import JointEmbedding, dry_run, head, load, train, view_pipeline
from fullrank.data import BatchLoader, ImageSet, StreamedImages
from fullrank.errors import InterruptedRunError, UsageError
from fullrank.objectives.terms.contract import Auxiliary
from fullrank.record import Record
from fullrank.reports.corrections import correction_sentence, corrections_section
from fullrank.studies.many_runs import PlannedRun, finish_runs
from fullrank.studies.table import ScoreKey
from fullrank.training.callbacks.finite import _packed


class Recorder(Auxiliary):
    """A term that keeps what it is given."""

    cues = ("shade",)

    def __init__(self, weight: float = 1.0):
        super().__init__(weight)
        self.steps = []

    def forward(self, step):
        self.steps.append(step)
        return step.h.mean()


def module_with(*terms):
    views = view_pipeline(STILL, image_size=4, channels=1)
    return JointEmbedding(Pixels(1, 4), head("none", in_dim=16), nn.MSELoss(), views, terms=terms)


def streamed(images):
    """The same images, decoded on demand."""
    of = StreamedImages(lambda row: images.images[row], images.ids, 4, 4, 1)
    return ImageSet(of, images.labels, images.class_names)


@pytest.mark.parametrize("kept", [lambda images: images, streamed], ids=["in memory", "streamed"])
def test_the_label_of_each_image_reaches_the_term(kept):
    """The pixels 8 and 9 of an image show its shade."""
    term = Recorder()
    module = module_with(term)
    for number, batch in enumerate(BatchLoader(kept(coded_images("train")), 32, seed=0, cues=module.cues)):
        module.step(batch, 0, number)
    assert len(term.steps) == 3
    for step in term.steps:
        assert step.cues.keys() == {"shade"} and len(step.cues["shade"].unique()) == 2
        assert torch.equal(step.cues["shade"], step.h_a[:, 8:10].argmax(1))


def test_what_no_term_names_is_not_carried():
    (batch, *_) = BatchLoader(coded_images("train"), 32, seed=0)
    assert batch.cues is None and not module_with().step(batch, 0, 0).cues
    term = Recorder()
    (batch, *_) = BatchLoader(coded_images("train"), 32, seed=0, cues=("group", "shade"))
    module_with(term).step(batch, 0, 0)
    assert term.steps[0].cues.keys() == {"shade"}


def test_rows_and_devices_keep_the_cues_beside_their_images():
    (batch, *_) = BatchLoader(coded_images("train"), 32, seed=0, cues=("shade",))
    taken = batch.take(torch.tensor([3, 1])).to("meta")
    assert taken.cues["shade"].device.type == "meta" and taken.cues["shade"].shape == (2,)
    assert torch.equal(batch.take(torch.tensor([3, 1])).cues["shade"], batch.cues["shade"][[3, 1]])


def test_each_process_has_the_cues_of_its_share(monkeypatch):
    loader = BatchLoader(coded_images("train"), 32, seed=0, cues=("shade",))
    whole = next(iter(loader)).cues["shade"]
    shares = []
    for rank in range(2):
        monkeypatch.setattr("fullrank.data.loader.process_count", lambda: 2)
        monkeypatch.setattr("fullrank.data.loader.process_rank", lambda rank=rank: rank)
        loader.load_state_dict(loader.state_dict() | {"epoch": 0, "position": 0})
        shares.append(next(iter(loader)).cues["shade"])
    assert torch.equal(torch.cat(shares), whole)


def test_batches_without_the_label_are_refused_with_the_remedy():
    (batch, *_) = BatchLoader(coded_images("train"), 32, seed=0)
    with refuses(UsageError, "shade", "BatchLoader"):
        module_with(Recorder()).step(batch, 0, 0)


def test_an_unknown_label_names_the_known():
    with refuses(UsageError, "tone", "label", "shade", "group"):
        BatchLoader(coded_images("train"), 32, seed=0, cues=("tone",))


CUES = {
    "data": "composite:two-cues,n=200,correlation=0.7",
    "encoder": "tiny-resnet,width=4",
    "head": "correction,hidden=8",
    "objective": "infonce:0.2 + mmd:5,label=background",
    "batch_size": 100,
    "epochs": 2,
    "monitor_every": 1,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train("digits", out=tmp_path_factory.mktemp("cues") / "run", **CUES)


def test_a_run_with_a_cue_resumes_bit_for_bit(run, tmp_path, at_batch):
    at_batch(0, 1, signal.SIGINT)
    with refuses(InterruptedRunError, "--resume"):
        train("digits", out=tmp_path / "run", **CUES)
    again = train("digits", out=tmp_path / "run", resume=True, **CUES)
    assert fingerprint(again) == fingerprint(run)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objective": "infonce:0.2 + mmd:5,label=sky"}, ("sky", "background", "object")),
        ({"objective": "infonce:0.2 + mmd:5,label=group"}, ("group", "label", "background")),
        ({"batch_size": 4}, (4, "background")),
    ],
)
def test_a_cue_that_cannot_be_compared_is_refused_before_the_folder_is_made(changes, words, tmp_path):
    with refuses(UsageError, *words):
        train("digits", out=tmp_path / "run", **CUES | changes)
    assert not (tmp_path / "run").exists()


def test_a_step_that_ended_a_run_is_kept_with_its_cues():
    term = Recorder()
    (batch, *_) = BatchLoader(coded_images("train"), 32, seed=0, cues=("shade",))
    assert b'"cue.shade"' in _packed(module_with(term), batch, 0, 0)


def test_the_record_says_what_the_head_corrects_by_cue_and_by_group(run):
    entry = Record.load(run.path).runs[0]
    assert [table.label for table in entry.corrections] == ["background", "group"]
    first = entry.corrections[0]
    assert first.values == ["lines", "clouds"] and sum(first.counts) == run.record.runs[0].images.test
    assert first.width == len(run.encoder(torch.zeros(1, 3, 12, 12))[0]) and len(first.mean) == 2
    ranges = np.ptp(first.mean, axis=0)
    assert (np.diff(ranges) <= 0).all() and (np.abs(first.mean) <= np.array(first.size) + 1e-12).all()
    assert len(corrections_section(entry_record := Record.load(run.path))["panels"]) == 2
    assert (
        str(first.channels[0]) in correction_sentence(first) and entry_record.runs[0].head == run.recipe.head
    )


def test_a_run_without_such_a_head_has_no_corrections(plain_run):
    assert not plain_run.record.runs[0].corrections and corrections_section(plain_run.record) is None


def test_a_dry_run_has_the_labels_that_its_terms_read():
    small = {"encoder": "tiny-resnet,width=4", "head": "correction,hidden=4", "image_size": 16}
    for data in ("composite:two-cues", "waterbirds:x"):
        entry = dry_run("digits", data=data, objective="infonce:0.2 + mmd:1,label=place", **small).entry
        assert entry.steps == 2 and entry.corrections


def test_a_loaded_head_gives_the_correction_that_is_on_the_page(run):
    head_ = load(run.path).head
    h = torch.randn(5, head_.in_dim)
    torch.testing.assert_close(head_(h) - h, head_.correction(h))


def test_what_corrections_of_frozen_features_change_is_kept_with_their_scores(run, tmp_path):
    folder = copytree(run.path, tmp_path / "run")
    keys = tuple(ScoreKey("h", "label", "test", probe, "worst group") for probe in ("linear", "correction"))
    finish_runs([PlannedRun("a", run.recipe, folder, keys)], go_on="")
    (*_, table) = (record := Record.load(folder)).runs[0].corrections
    assert (table.method, table.place, table.label) == ("correction", "h", "group")
    (*of_head, panel) = corrections_section(record)["panels"]
    assert len(of_head) == 2
    assert_names(panel.heading, "frozen", "h", "group")
