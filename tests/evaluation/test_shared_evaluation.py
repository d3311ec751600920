"""Three processes evaluate as one: every image read once, the same probes and spectra to the last bit."""

import json
from collections import Counter
from datetime import timedelta
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image

from fullrank import encoder, head, source
from fullrank.data import ImageSet
from fullrank.data.streaming import StreamedImages
from fullrank.data.undecodable import BadImages
from fullrank.errors import DataError
from fullrank.evaluation import evaluate as evaluate_module
from fullrank.evaluation.evaluate import evaluate, help_evaluate
from fullrank.processes import own_share

PROCESSES, BATCH = 3, 32
# The third process has none of the second set's two batches.
TRAIN, TEST = 2 * BATCH + 20, BATCH + 10
# One of the first process's images, and one of the second's.
DAMAGED, OTHER = 7, BATCH + 5


def images(read, damaged=(DAMAGED,), most=1):
    """Digits, the test images decoded one by one, those `damaged` not at all; `read` is told of each."""
    train, test = (source("digits").load(split) for split in ("train", "test"))
    test = test.subset(np.arange(TEST))
    pixels = test.images[..., 0]

    def decode(row):
        read.append(row)
        if row in damaged:
            raise OSError("truncated")
        return Image.fromarray(pixels[row])

    keys = [f"{row}.png" for row in range(TEST)]
    streamed = ImageSet(
        StreamedImages(decode, keys, canvas=8, image_size=8, channels=1), test.labels, test.class_names
    )
    return train.subset(np.arange(TRAIN)), streamed.despite(BadImages(most))


def parts(seed):
    """An encoder and a head whose weights and batch statistics come from `seed`."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        net = encoder("tiny-resnet,width=4", image_size=8, in_chans=1)
        with torch.no_grad():
            net(torch.rand(20, 1, 8, 8))
        return torch.nn.ModuleList([net, head("linear:8", in_dim=net.feature_dim)])


def evaluated(module, train, test):
    """What this process has of an evaluation by all: all of it, nothing, or why it was refused."""
    share = own_share()
    try:
        if share.number == 0:
            return repr(evaluate(*module, train, test, share=share))
        return help_evaluate(*module, train, test, share)
    except DataError as error:
        return str(error)


def one_of_three(rank, folder):
    """Leave what a process finds: evaluations, the images that it read, the bad ones that it knows of."""
    evaluate_module.BATCH_SIZE = BATCH
    store = f"file://{folder}/store"
    patience = timedelta(minutes=2)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=PROCESSES, timeout=patience)
    module, read = parts(seed=rank), []
    own_share().follow_first(module)
    train, test = images(read)
    evaluation = evaluated(module, train, test)
    refused = evaluated(module, *images([], damaged=(OTHER,), most=0))
    too_many = evaluated(module, *images([], damaged=(DAMAGED, OTHER), most=1))
    dist.destroy_process_group()
    # Python writes a float so that it is read back to the last bit.
    Path(folder, f"{rank}.json").write_text(json.dumps([evaluation, read, test.bad.found, refused, too_many]))


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    outputs = [folder / f"{rank}.txt" for rank in range(PROCESSES)]
    workers = [forked.start(output, one_of_three, rank, folder) for rank, output in enumerate(outputs)]
    assert forked.finish(workers) == [0] * PROCESSES, [output.read_text() for output in outputs]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(PROCESSES)]


def test_probes_and_spectra_are_those_of_one_process(together, monkeypatch):
    monkeypatch.setattr(evaluate_module, "BATCH_SIZE", BATCH)
    read = []
    alone = evaluate(*parts(seed=0), *images(read))
    assert together[0][0] == repr(alone)
    assert Counter(read) == Counter(row for _, some, *_ in together for row in some)


def test_every_image_is_read_by_one_process(together):
    counts = [Counter(read) for _, read, *_ in together]
    standing_in = {row for row, times in sum(counts, Counter()).items() if times > 1}
    assert set().union(*counts) == set(range(TEST)) and len(standing_in) == 1
    assert [len(count) for count in counts] == [BATCH, 10, 0]


def test_all_processes_know_the_bad_images_of_all(together):
    assert [bad for _, _, bad, *_ in together] == [{f"{DAMAGED}.png": "truncated"}] * PROCESSES


def test_what_one_process_cannot_read_all_refuse(together):
    refused = {each[3] for each in together}
    assert len(refused) == 1 and f"{OTHER}.png" in refused.pop()


def test_the_bad_images_that_are_allowed_are_those_of_all_processes_together(together):
    assert all(each[4] is not None and "than 1" in each[4] for each in together)
