"""Sources that need no files keep the contract as `fullrank.testing` says it; tests/data has the rest."""

import pytest
from refusals import refuses

from fullrank.data import SOURCES, source
from fullrank.errors import DataError
from fullrank.testing import check_encoder, check_source


@pytest.mark.parametrize(
    "spec", ["digits", "composite:digits-on-textures,n=60", "corrupted:motion-blur,data=digits,severity=1"]
)
def test_a_source_without_files_keeps_the_contract(spec):
    check_source(spec)


def test_images_that_were_given_in_python_cannot_be_read_again():
    assert "given" in {entry.name for entry in SOURCES}
    with refuses(DataError, "given:Mine", "data=", "--data"):
        source("given:Mine").load("train")


@pytest.mark.parametrize(("spec", "size"), [("tiny-resnet,width=4", 8), ("resnet10t", 32), ("test_vit", 64)])
def test_encoders_keep_the_contract(spec, size):
    check_encoder(spec, image_size=size, in_chans=3)
