import pytest
import torch
from refusals import refuses

from fullrank import encoder, head
from fullrank.errors import UsageError
from fullrank.places import Place, collect_features, head_places, read_places


@pytest.fixture
def parts():
    return encoder("tiny-resnet,width=4", image_size=8, in_chans=1), head("mlp:6,layers=3", in_dim=16)


@pytest.mark.parametrize("text", ["h", "z", "head.1", "stage3.2", "h[:24]", "last-conv-input[:3]"])
def test_a_place_reads_back_as_it_was_written(text):
    assert str(Place.parse(text)) == text


@pytest.mark.parametrize("text", ["", "h[24]", "h[:0]", "h[:-1]", "h[:2", "h z"])
def test_what_is_no_place_raises(text):
    with refuses(UsageError, f"'{text}'", "name[:k]"):
        Place.parse(text)


def test_places_agree_with_the_plain_forward_pass_bit_for_bit(parts):
    encoder, head = (part.eval() for part in parts)
    images = torch.rand(5, 1, 8, 8)
    features = read_places(encoder, head, images, ["h", "z", "head.1", "head.3", "h[:3]"])
    h = encoder(images)
    assert torch.equal(features["h"], h)
    assert torch.equal(features["z"], head(h))
    assert torch.equal(features["head.3"], features["z"])
    assert torch.equal(features["head.1"], head.layers[0](h))
    assert torch.equal(features["h[:3]"], h[:, :3])
    assert head_places(head) == ["head.1", "head.2", "head.3"]


def test_collecting_in_batches_equals_one_batch_and_changes_nothing(parts):
    encoder, head = parts
    encoder.train()
    head.eval()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    images = torch.randint(0, 256, (11, 1, 8, 8), dtype=torch.uint8)
    places = ["h", "z", *encoder.places]
    whole = collect_features(encoder, head, images, places)
    parted = collect_features(encoder, head, images, places, batch_size=4)
    for place in places:
        torch.testing.assert_close(whole[place], parted[place])
        assert len(whole[place]) == 11
    assert encoder.training and not head.training
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    assert not head._forward_hooks and not head.layers[0]._forward_hooks


@pytest.mark.parametrize(
    ("place", "limit"), [("stage9.1", "stage3.1"), ("head.4", "head.3"), ("h[:17]", 16), ("z[:7]", 6)]
)
def test_a_place_the_model_does_not_have_raises(parts, place, limit):
    with refuses(UsageError, f"'{place}'", limit):
        read_places(*parts, torch.rand(2, 1, 8, 8), [place])
