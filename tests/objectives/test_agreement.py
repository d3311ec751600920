"""One process and several: what the command finds of objectives that gather, and of one that does not."""

import pytest

from fullrank.errors import UsageError
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


def test_an_objective_of_the_catalogue_agrees():
    found = check_agreement("ntxent:0.2", processes=3, images=24, width=8)
    assert found.agrees and found.one == pytest.approx(found.many, rel=1e-12)
    assert found.gradient_apart < 1e-12


def test_a_loss_that_sees_its_own_rows_alone_is_found_out(own):
    found = check_agreement("own_losses:Alone", images=24, width=8)
    # Half of the negatives: the loss at chance is ln 12 in place of ln 24.
    assert not found.agrees and found.loss_apart > 0.1 and found.gradient_apart > 0.1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("infonc", "did you mean 'infonce'"),
        ("infonce:hot", "infonce"),
        ("no_such_module:Loss", "no module 'no_such_module'"),
        ("own_losses:Absent", "own_losses:Absent.*own_losses:Alone"),
        ("torch.nn:Linear", "needs a value"),
        ("torch.nn:CosineEmbeddingLoss", r"does not take two embeddings \(64, 32\)"),
        ("own_losses:constant", "with a gradient"),
    ],
)
def test_what_is_no_objective_is_refused_before_any_process_starts(own, name, words):
    with pytest.raises(UsageError, match=words):
        check_agreement(name)


@pytest.mark.parametrize(("processes", "images"), [(1, 64), (3, 64), (4, 4)])
def test_images_are_shared_evenly(processes, images):
    with pytest.raises(UsageError, match=f"^{images} images cannot be shared by {processes} processes"):
        check_agreement("infonce", processes=processes, images=images)
