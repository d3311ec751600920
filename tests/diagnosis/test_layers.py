"""Where to cut: gradients against closed forms and hooks, curves and rows on features made to measure."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from refusals import refuses
from torch import nn

from fullrank import encoder, head, objective, source, view_pipeline
from fullrank.diagnosis import layers
from fullrank.diagnosis.layers import best_cut, dimension_curves, gradient_ranks, layer_rows
from fullrank.errors import UsageError
from fullrank.places import layer_of, read_places
from fullrank.probes import LinearProbe, NearestProbe
from fullrank.record import LayerRow

DIGITS = source("digits").load("test")
WEAK = view_pipeline("weak", image_size=8, channels=1)


class Sum(nn.Module):
    """A loss whose gradient is known: of z_a it is `first`, of z_b `second`."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, z_a, z_b):
        return (z_a * self.first).sum() + (z_b * self.second).sum()


def tiny(seed=0):
    """A small encoder whose residual branches are not at zero, where they would pass no gradient."""
    torch.manual_seed(seed)
    built = encoder("tiny-resnet,width=4", image_size=8, in_chans=1)
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_mean.normal_(0, 0.1)
    return built


def ranks_of(model, last, places, loss=None, limit=40):
    return gradient_ranks(model, last, loss or objective("infonce:0.2"), WEAK, DIGITS, places, limit=limit)


# Rank of the gradient


def gradients_of(model, last, images, push, places):
    """The gradient at each place where it is `push` at z."""
    read = read_places(model, last, images.requires_grad_(), [*places, "z"])
    return layers._pooled_gradients(read, push, places)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_a_head_that_sees_k_channels_gives_h_no_more_and_the_layer_below_more(k):
    ranks = ranks_of(tiny(), head(f"subvector:{k}", in_dim=16), ["last-conv-input", "stage3.2", "h", "z"])
    assert 0 < ranks["h"] <= k + 1e-4
    # The last block's output is h before it is averaged, and the gradient reaches every position alike.
    assert ranks["stage3.2"] == pytest.approx(ranks["h"], rel=1e-4)
    if k < 8:
        assert ranks["last-conv-input"] > ranks["h"]
    images, push = torch.rand(60, 1, 8, 8), torch.randn(60, k)
    model = tiny().eval(), head(f"subvector:{k}", in_dim=16)
    found = gradients_of(*model, images, push, ["last-conv-input", "h"])
    exact = [int(torch.linalg.matrix_rank(gradient, rtol=1e-5)) for gradient in found.values()]
    assert exact[0] > exact[1] == k


def test_without_a_head_the_gradient_at_h_is_full():
    ranks = ranks_of(tiny(), head("none", in_dim=16), ["h", "z", "h[:5]"], limit=128)
    assert ranks["h"] > 8
    assert ranks["z"] == ranks["h"] and ranks["h[:5]"] <= 5
    assert ranks_of(tiny(), None, ["h"], limit=128)["h"] == ranks["h"]


def test_of_a_linear_head_it_is_that_of_the_map_alone():
    torch.manual_seed(0)
    n, linear = 30, head("linear:6", in_dim=16)
    first, second = torch.randn(2, n, 6)
    rank = ranks_of(tiny(), linear, ["h", "z"], Sum(first, second), limit=n)
    push = torch.cat([first, second]).double()
    for place, gradient in (("z", push), ("h", push @ linear.layers[0].weight.detach().double())):
        p = torch.linalg.svdvals(gradient)
        p = p / p.sum()
        assert rank[place] == pytest.approx(math.exp(float(torch.special.entr(p).sum())), rel=1e-5)


@pytest.mark.parametrize(
    ("spec", "size"),
    [
        ("tiny-resnet,width=4", 8),
        ("resnet10t", 32),
        ("vit_tiny_patch16_224", 32),
        ("swin_tiny_patch4_window7_224", 56),
    ],
)
def test_the_gradient_of_a_map_is_that_of_its_module_summed_over_positions(spec, size):
    """Against hooks on the modules, whose maps are kept with their gradient."""
    torch.manual_seed(0)
    model = tiny() if spec.startswith("tiny") else encoder(spec, image_size=size, in_chans=1)
    last = head("linear:4", in_dim=model.feature_dim)
    inner = ["stage2.1", "stage3.1"] if spec.startswith("tiny") else list(model.places)[1:-1:4][:3]
    model.eval()
    images, push = torch.rand(3, 1, size, size), torch.randn(3, 4)
    maps, hooks = {}, []
    for place in inner:
        path = f"blocks.{place.replace('.', '_')}" if spec.startswith("tiny") else f"model.{layer_of(place)}"

        def keep(module, inputs, output, place=place):
            maps[place] = output[0] if isinstance(output, tuple) else output
            maps[place].retain_grad()

        hooks.append(model.get_submodule(path).register_forward_hook(keep))
    with torch.enable_grad():
        (last(model(images)) * push).sum().backward()
    for hook in hooks:
        hook.remove()
    found = gradients_of(model, last, images, push, [*inner, "h", f"{inner[0]}[:3]"])
    for place in inner:
        gradient = maps[place].grad
        if gradient.ndim == 4:
            axes = (2, 3) if gradient.shape[2] == gradient.shape[3] != gradient.shape[1] else (1, 2)
            expected = gradient.mean(axes)
        else:
            # The gradient of the class token, or that of all image tokens.
            expected = gradient[:, 0] if place.endswith(".cls") else gradient[:, 1:].mean(1)
        torch.testing.assert_close(found[place], expected, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(found["h"], push @ last.layers[0].weight)
    torch.testing.assert_close(found[f"{inner[0]}[:3]"], found[inner[0]][:, :3])


def test_tokens_are_pooled_without_those_that_stand_before():
    """A model of two linear maps over tokens: the gradient is a product that can be written down."""

    class Tokens(nn.Module):
        places = ("block", "both")

        def __init__(self):
            super().__init__()
            self.mix = nn.Parameter(torch.randn(6))

        def features(self, x, places):
            block = 3 * x[:, 0]  # (N, T, D): the rows of the image are tokens
            pooled = block[:, 2:].mean(1)
            both = torch.cat([block[:, 2:].mean(1), block.clone().amax(1)], 1)
            block += 1  # as models overwrite what they gave
            return {"block": pooled, "both": both, "h": (block * self.mix[:, None]).sum(1)}

    torch.manual_seed(0)
    model, images, push = Tokens(), torch.rand(4, 1, 6, 5), torch.randn(4, 5)
    found = gradients_of(model, nn.Identity(), images, push, ["block", "both", "h", "z"])
    # The gradient of token t is mix[t] * push.
    torch.testing.assert_close(found["block"], model.mix[2:].mean().detach() * push)
    largest = images[:, 0].argmax(1)
    torch.testing.assert_close(found["both"][:, 5:], model.mix.detach()[largest] * push)
    torch.testing.assert_close(found["both"][:, :5], found["block"])
    assert torch.equal(found["h"], push) and torch.equal(found["z"], push)


def test_a_whole_batch_is_what_the_loss_sees(monkeypatch):
    """However few rows are in memory, each row is pushed by all others."""
    model, last = tiny(), head("mlp:5", in_dim=16)
    places = ["stem", "stage2.1", "h", "head.1", "z"]
    few = ranks_of(model, last, places)
    monkeypatch.setattr(layers, "_ROWS_AT_ONCE", 1000)
    assert few == pytest.approx(ranks_of(model, last, places), rel=1e-4)


def test_nothing_in_the_model_changes():
    model, last, loss = (
        tiny().train(),
        head("mlp:5,norm=batch", in_dim=16).train(),
        objective("infonce,groups=5"),
    )
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    before = {
        name: value.clone() for name, value in [*model.state_dict().items(), *last.state_dict().items()]
    }
    state = torch.get_rng_state()
    with torch.no_grad():
        first = ranks_of(model, last, ["stem", "h"], loss)
    assert torch.equal(state, torch.get_rng_state())
    assert first == ranks_of(model, last, ["stem", "h"], loss)
    after = {**model.state_dict(), **last.state_dict()}
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert model.training and last.training and all(p.grad is None for p in last.parameters())


def test_a_plain_module_has_h():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 9))
    ranks = ranks_of(net, nn.Linear(9, 2, bias=False), ["h", "z"])
    assert 1 <= ranks["h"] <= 2.001


def test_a_place_that_nothing_passes_through_has_rank_zero():
    zero = encoder("tiny-resnet,width=4", image_size=8, in_chans=1)  # its branches start at zero
    assert ranks_of(zero, None, ["last-conv-input"])["last-conv-input"] == 0.0


def test_what_cannot_be_done_is_said():
    class Frozen(nn.Module):
        def forward(self, x):
            return x.flatten(1).detach()

    with refuses(UsageError, "gradient", "z", "detach"):
        ranks_of(Frozen(), None, ["h"])
    with refuses(UsageError, "'layer9'"):
        ranks_of(tiny(), None, ["layer9"])
    with refuses(UsageError, "limit", 1, 0, 256):
        ranks_of(tiny(), None, ["h"], limit=0)


# Rows


def separated(n, width, classes, seed, noise=0.3):
    """Gaussian clusters, one a class, in the first `classes` channels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    return noise * torch.randn(n, width, generator=generator) + torch.eye(width)[labels], labels


def test_rows_are_in_order_with_what_probes_and_spectra_say():
    x, y = separated(120, 6, 3, 0)
    features = {
        "layer1": torch.randn(120, 4, generator=torch.Generator().manual_seed(1)),
        "h": x,
        "z": x[:, :1],
    }
    train, test = ({place: f[rows] for place, f in features.items()} for rows in (slice(80), slice(80, None)))
    rows = layer_rows(train, test, (y[:80].numpy(), y[80:]), seed=3, gradient_ranks={"h": 2.5})
    assert [(row.place, row.width) for row in rows] == [("layer1", 4), ("h", 6), ("z", 1)]
    h = rows[1]
    assert h.linear == LinearProbe(seed=3).fit(train["h"], y[:80]).score(test["h"], y[80:]) > 0.8
    assert h.nearest == NearestProbe().fit(train["h"], y[:80]).score(test["h"], y[80:])
    assert h.gradient_rank == 2.5 and rows[0].gradient_rank is None
    unit = test["h"] / test["h"].norm(dim=1, keepdim=True)
    nearest = (unit @ unit.T).fill_diagonal_(-2).argmax(1)
    assert h.recall_at_1 == pytest.approx(float((y[80:][nearest] == y[80:]).float().mean()), abs=1e-6)
    s = torch.linalg.svdvals(test["h"].double())
    p = s / s.sum()
    assert h.rankme == pytest.approx(float(torch.exp(-(p * p.log()).sum())), rel=1e-4)
    assert 1 <= h.effective_rank <= 6
    assert rows[0].linear < 0.6 < h.linear


@pytest.mark.parametrize(
    ("known", "asked", "scored", "found"),
    [
        (None, None, False, False),
        ([0] * 10, [0, 1] * 5, False, True),
        ([0, 1] * 5, [-1] * 10, False, False),
        ([0, 1] * 5, [0, 1, *[-1] * 8], True, False),
        ([0, 1] * 5, [0, 0, *[-1] * 8], True, True),
    ],
)
def test_what_labels_do_not_suffice_for_is_none(known, asked, scored, found):
    x = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    labels = None if known is None else (torch.tensor(known), torch.tensor(asked))
    row = layer_rows({} if known is None else {"h": x}, {"h": x}, labels)[0]
    assert (row.linear is not None) == (row.nearest is not None) == scored
    assert (row.recall_at_1 is not None) == found and row.effective_rank > 1


def test_a_place_without_training_features_is_said():
    x, y = separated(20, 3, 2, 0)
    with refuses(UsageError, "1 of 2 places", "z"):
        layer_rows({"h": x}, {"h": x, "z": x}, (y, y))


# The cut


def row(place, linear):
    return LayerRow(
        place=place, width=4, effective_rank=1.0, rankme=1.0, linear=linear, nearest=None, recall_at_1=None,
        gradient_rank=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("accuracies", "cut"),
    [
        ({"a": 0.5, "h": 0.9, "z": 0.7}, "h"),
        ({"a": 0.5, "h": 0.9, "z": 0.905}, "h"),  # not told apart
        ({"a": 0.9, "h": 0.5, "z": 0.7}, "a"),
        ({"a": 0.9, "b": 0.895, "h": 0.5, "z": 0.7}, "b"),
        ({"a": 0.5, "h": 0.7, "head.1": 0.9, "z": 0.895}, "z"),
        ({"a": 1.0, "h": 0.999, "z": 0.2}, "h"),  # a perfect score has an error too
        ({"h": 0.0, "z": 0.0}, "h"),
        ({"embedding": 0.3}, "embedding"),
        ({"h": None, "z": None}, None),
        ({}, None),
    ],
)
def test_the_cut_is_h_unless_another_place_is_better_by_more_than_chance(accuracies, cut):
    assert best_cut([row(place, linear) for place, linear in accuracies.items()], tested=500) == cut


def test_more_test_rows_tell_more_apart():
    rows = [row("a", 0.91), row("h", 0.90)]
    assert [best_cut(rows, tested) for tested in (100, 100_000)] == ["h", "a"]
    with refuses(UsageError, 1, 0):
        best_cut(rows, 0)


@given(hits=st.lists(st.integers(0, 200), min_size=1, max_size=6), at=st.integers(0, 5))
@settings(deadline=None, max_examples=50)
def test_no_place_is_cut_that_is_surely_worse(hits, at):
    names = [f"p{i}" for i in range(len(hits))]
    names[at % len(hits)] = "h"
    cut = best_cut([row(name, k / 200) for name, k in zip(names, hits, strict=True)], tested=200)
    lost = max(hits) / 200 - hits[names.index(cut)] / 200
    assert lost <= math.sqrt(0.25 / 200) + 1e-9


# Dimensions


def test_components_that_hold_the_labels_suffice_where_random_channels_do_not():
    torch.manual_seed(0)
    n, width = 240, 16
    y = torch.arange(n) % 4
    inner = 3 * torch.eye(4)[y] + 0.2 * torch.randn(n, 4)
    rotation = torch.linalg.qr(torch.randn(width, width))[0][:4]
    x = inner @ rotation + 0.3 * torch.randn(n, width)
    random, leading, least, control = dimension_curves(x[:160], x[160:], (y[:160], y[160:]), "h")
    assert random.kind == "random channels" and leading.kind == "leading components"
    assert random.dimensions == leading.dimensions == [1, 2, 4, 8, 16]
    assert random.place == leading.place == "h"
    assert leading.accuracy[2] > 0.95 > random.accuracy[1]
    assert least.accuracy[2] < 0.5 and leading.diffused == 0.875 > control.diffused
    assert leading.accuracy[1] > random.accuracy[1] + 0.1
    assert random.accuracy[-1] == leading.accuracy[-1] > 0.95


def test_all_dimensions_are_the_rows_of_the_layer():
    x, y = separated(90, 5, 3, 1)
    curves = dimension_curves(x[:60], x[60:], (y[:60], y[60:]), "h", seed=4)
    expected = layer_rows({"h": x[:60]}, {"h": x[60:]}, (y[:60], y[60:]), seed=4)[0].linear
    assert [curve.accuracy[-1] for curve in curves] == 4 * [expected]
    assert curves[0].dimensions == [1, 2, 4, 5]


def test_random_channels_are_channels_and_leading_components_do_not_feel_a_rotation():
    x, y = separated(150, 8, 2, 2)
    x[:, 2:] = 0  # two channels of 8 tell everything
    labels = (y[:100], y[100:])
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))[0]
    plain = dimension_curves(x[:100], x[100:], labels, "h")
    turned = dimension_curves(x[:100] @ rotation, x[100:] @ rotation, labels, "h")
    assert turned[1].accuracy == pytest.approx(plain[1].accuracy, abs=0.021)
    assert turned[0].accuracy[0] > plain[0].accuracy[0]
    assert plain == dimension_curves(x[:100], x[100:], labels, "h")


def test_one_dimension_is_a_curve_of_one():
    y = torch.arange(40) % 2
    x = y[:, None] + torch.rand(40, 1)
    assert [curve.dimensions for curve in dimension_curves(x, x, (y, y), "z")] == 4 * [[1]]


def test_more_channels_than_rows_are_measured_as_their_coordinates(monkeypatch):
    monkeypatch.setattr(layers, "DRAWS", 1)
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(40) % 2
    narrow = torch.randn(40, 20, generator=generator, dtype=torch.float64) + 2 * torch.eye(20)[y]
    turn = torch.linalg.qr(torch.randn(150, 20, generator=generator, dtype=torch.float64))[0]
    rows, curves = [], []
    for x in (narrow, narrow @ turn.T):
        rows.append(layer_rows({"h": x[:20]}, {"h": x[20:]}, (y[:20], y[20:]))[0])
        curves.append(dimension_curves(x[:20], x[20:], (y[:20], y[20:]), "h")[1])
    few, many = rows
    assert (few.width, many.width) == (20, 150)
    assert (few.linear, few.nearest, few.recall_at_1) == (many.linear, many.nearest, many.recall_at_1)
    assert many.effective_rank == pytest.approx(few.effective_rank)
    assert many.rankme == pytest.approx(few.rankme, rel=1e-4)
    # The leading 1 to 16 components are the same; more than the rows span add nothing.
    assert curves[1].dimensions == [1, 2, 4, 8, 16, 32, 64, 128, 150]
    assert curves[1].accuracy[:5] == curves[0].accuracy[:5]
    assert set(curves[1].accuracy[5:]) == {many.linear}
