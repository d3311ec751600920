"""One process and several: an objective that does not gather is found out, and what is refused."""

import pytest
from refusals import refuses

from fullrank.errors import UsageError
from fullrank.objectives import agreement
from fullrank.objectives.agreement import check_agreement

ALONE = """
import torch.nn.functional as F

class Alone:
    def __call__(self, z_a, z_b):
        return F.cross_entropy(F.normalize(z_a) @ F.normalize(z_b).T, labels(z_a))

def labels(z):
    import torch
    return torch.arange(len(z))

def constant():
    return lambda z_a, z_b: (z_a * 0).sum().detach()
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_losses.py").write_text(ALONE)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_loss_that_sees_its_own_rows_alone_is_found_out(own):
    result = check_agreement("own_losses:Alone", images=24, width=8)
    # Half of the negatives: the loss at chance is ln 12 in place of ln 24.
    assert not result.agrees and result.loss_apart > 0.1 and result.gradient_apart > 0.1


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("infonc", ["'infonc'", "'infonce'"]),
        ("infonce:hot", ["infonce", "hot"]),
        ("no_such_module:Loss", ["'no_such_module'"]),
        ("own_losses:Absent", ["own_losses:Absent", "own_losses:Alone"]),
        ("torch.nn:Linear", ["torch.nn:Linear", "value"]),
        ("torch.nn:CosineEmbeddingLoss", ["torch.nn:CosineEmbeddingLoss", "(64, 32)", "target"]),
        ("own_losses:constant", ["own_losses:constant", "gradient"]),
    ],
)
def test_what_is_no_objective_is_refused_before_any_process_starts(own, monkeypatch, name, parts):
    monkeypatch.delattr(agreement, "ProcessPoolExecutor")
    with refuses(UsageError, *parts):
        check_agreement(name)


@pytest.mark.parametrize(("processes", "images"), [(1, 64), (3, 64), (4, 4)])
def test_images_are_shared_evenly(processes, images):
    with refuses(UsageError, images, processes, "--processes", "--images"):
        check_agreement("infonce", processes=processes, images=images)
