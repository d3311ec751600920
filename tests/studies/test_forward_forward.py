"""Forward-Forward: goodness and losses by hand, pretext tasks, the reach of gradients, nets that are kept."""

import math
from itertools import product

import numpy as np
import pytest
import torch
import yaml
from refusals import refuses

from fullrank.cli import main
from fullrank.data import ImageSet
from fullrank.errors import DataError, InterruptedRunError, UsageError
from fullrank.record import Record, Result
from fullrank.record.tidy import tidy_rows
from fullrank.reports.page import write_page
from fullrank.studies import table as tables
from fullrank.studies.forward_forward import nets as nets_module, study as study_module
from fullrank.studies.forward_forward.layers import (
    LayerNet,
    goodness,
    layer_loss,
    normalised,
    threshold,
)
from fullrank.studies.forward_forward.nets import NET_FILE, PlannedNet, check_settings, finish_nets
from fullrank.studies.forward_forward.pretexts import (
    PERMUTATIONS,
    PRETEXTS,
    check_label_pixels,
    jigsaw,
    neutral_label,
    pretext_named,
    right_labels,
    rotate,
    write_label,
    wrong_labels,
)
from fullrank.studies.forward_forward.settings import Settings
from fullrank.studies.forward_forward.training import (
    METHODS,
    PretextBatch,
    PretextImages,
    Schedule,
    features,
    learn,
    loss_of,
    predicted,
    pretext_accuracy,
)
from fullrank.studies.reproduce import rehearse_studies, reproduce

RATES = {"FF, norm": 0.01, "FF, squares": 0.01, "every layer": 0.01, "last layer": 0.01, "softmax": 0.01}
LEVELS = {"norm": 0.5, "squares": 0.5}
HOW = {"recipe": "digits", "learning_rate": RATES, "level": LEVELS}
QUICK = {**HOW, "width": 4, "depth": 2, "epochs": 1, "batch_size": 32, "judged": 4}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(count=6, side=4, channels=1):
    return torch.randint(256, (count, channels, side, side), generator=generator(), dtype=torch.uint8)


def batch_of(images, name="rotation"):
    task = PretextImages.of(images, PRETEXTS[name], pad=1)
    return task, PretextBatch.draw(task, torch.arange(len(images)), generator())


@pytest.mark.parametrize(("kind", "power"), [("norm", 1), ("squares", 2)])
def test_goodness_scales_with_its_power_and_does_not_see_the_order_of_units(kind, power):
    rows = torch.randn(5, 7, generator=generator(), dtype=torch.float64)
    expected = np.linalg.norm(rows.numpy(), axis=1) ** power
    np.testing.assert_allclose(goodness(rows, kind), expected)
    np.testing.assert_allclose(goodness(3 * rows, kind), 3**power * expected)
    np.testing.assert_allclose(goodness(rows.flip(1), kind), expected)


@pytest.mark.parametrize("kind", ["norm", "squares"])
def test_goodness_equals_the_threshold_where_activations_have_its_level(kind):
    rows = torch.full((1, 9), 0.4)
    assert goodness(rows, kind).item() == pytest.approx(threshold(kind, 9, 0.4))


def test_layer_loss_is_the_log_odds_of_a_wrong_decision():
    positive, negative = torch.tensor([1.0, 4.0]), torch.tensor([3.0, 0.5])
    by_hand = [math.log1p(math.exp(2 - p)) + math.log1p(math.exp(n - 2)) for p, n in [(1.0, 3.0), (4.0, 0.5)]]
    assert float(layer_loss(positive, negative, 2.0)) == pytest.approx(sum(by_hand) / 2)
    swapped = layer_loss(4.0 - negative, 4.0 - positive, 2.0)  # mirrored at the threshold
    assert float(swapped) == pytest.approx(sum(by_hand) / 2)


@pytest.mark.parametrize("kind", ["norm", "squares"])
def test_the_gradient_of_layer_loss_equals_finite_differences(kind):
    rows = torch.randn(4, 3, generator=generator(), dtype=torch.float64, requires_grad=True)

    def loss(values):
        positive, negative = goodness(values, kind).chunk(2)
        return layer_loss(positive, negative, 1.5)

    assert torch.autograd.gradcheck(loss, (rows,))


def test_normalised_rows_have_one_length_and_a_row_of_zeros_has_a_finite_gradient():
    rows = torch.randn(3, 5, generator=generator())
    torch.testing.assert_close(normalised(7 * rows), normalised(rows))
    zeros = torch.zeros(2, 5, requires_grad=True)
    normalised(zeros).sum().backward()
    assert torch.isfinite(zeros.grad).all()


def test_the_jigsaw_has_every_order_of_four_quarters_once():
    image = torch.arange(16.0).view(1, 1, 4, 4)
    shown = {tuple(jigsaw(image, order).flatten().tolist()) for order in PERMUTATIONS}
    assert len(PERMUTATIONS) == len(shown) == math.factorial(4)
    for order in PERMUTATIONS:
        inverse = [order.index(place) for place in range(4)]
        assert torch.equal(jigsaw(jigsaw(image, order), inverse), image)
    turned = jigsaw(image, (1, 3, 0, 2))  # a quarter turn of the places, to the left
    assert torch.equal(turned[:, :, :2, :2], image[:, :, :2, 2:])
    assert torch.equal(turned[:, :, :2, 2:], image[:, :, 2:, 2:])


@pytest.mark.parametrize("name", PRETEXTS)
def test_label_0_is_the_image_itself_and_the_labels_form_all_that_is_promised(name):
    task, images = PRETEXTS[name], noise(channels=3)
    views = task.all_of(images)
    assert views.shape == (len(images), task.count, *images.shape[1:])
    assert torch.equal(views[:, 0], images)
    assert len({tuple(view.flatten().tolist()) for view in views[0]}) == task.count
    for view in views.unbind(1):  # no pixel is lost
        assert torch.equal(view.flatten(1).sort().values, images.flatten(1).sort().values)


def test_four_quarters_are_a_full_turn():
    images = noise()
    assert torch.equal(rotate(rotate(rotate(rotate(images, 1), 1), 1), 1), images)


def test_the_label_is_one_hot_in_the_first_channel_and_nothing_else_changes():
    images = torch.rand(3, 2, 2, 3, generator=generator())
    before = images.clone()
    written = write_label(images, torch.tensor([0, 3, 1]), 4)
    assert torch.equal(images, before)
    assert written.flatten(2)[:, 0, :4].tolist() == [[1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0]]
    assert torch.equal(written.flatten(2)[:, 0, 4:], images.flatten(2)[:, 0, 4:])
    assert torch.equal(written[:, 1], images[:, 1])
    neutral = neutral_label(images, 4).flatten(2)
    assert torch.equal(neutral[:, 0, :4], torch.full((3, 4), 0.25))
    assert torch.equal(neutral[:, 1], images[:, 1].flatten(1))


@pytest.mark.parametrize("name", PRETEXTS)
def test_negatives_are_never_right_even_for_images_that_a_transformation_does_not_change(name):
    task = PRETEXTS[name]
    images = noise(8)
    images[2] = torch.maximum(images[2], images[2].flip(2))  # flipped, or with equal quarters in pairs
    images[3] = 7
    right = right_labels(images, task)
    views = task.all_of(images)
    for image, transformation, label in product(range(8), range(task.count), range(task.count)):
        same = torch.equal(views[image, transformation], views[image, label])
        assert bool(right[image, transformation, label]) == same
    drawn = [wrong_labels(right[:, 1], generator(seed)) for seed in range(200)]
    for labels in drawn:
        assert labels[3] == -1  # one grey has no wrong label
        for image in range(8):
            assert labels[image] < 0 or not torch.equal(views[image, 1], views[image, labels[image]])
    reached = {int(labels[0]) for labels in drawn}
    assert reached == set(range(task.count)) - {1}


def test_a_batch_leaves_out_images_without_a_wrong_label():
    images = noise(6)
    images[1] = 9
    task, batch = batch_of(images, "flip")
    assert len(batch.labels) == 5
    count = task.count
    rest = batch.positive[:, count:]
    assert torch.equal(rest, batch.negative[:, count:]) and torch.equal(rest, batch.neutral[:, count:])
    assert not (batch.positive[:, :count] * batch.negative[:, :count]).any()
    assert batch.positive[:, :count].argmax(1).tolist() == batch.labels.tolist()


def test_features_do_not_depend_on_what_the_label_pixels_held():
    images = noise(6, side=6)
    other = images.clone()
    other[:, 0, 0, :4] = 255 - other[:, 0, 0, :4]  # the label pixels of a rotation, without a pad
    net = LayerNet(36, 5, 2, 4)
    one, two = (features(net, PretextImages.of(each, PRETEXTS["rotation"], 0)) for each in (images, other))
    for first, second in zip(one, two, strict=True):
        assert torch.equal(first, second)


def test_a_net_whose_goodness_is_known_by_hand():
    net = LayerNet(4, 2, 2, 2)
    with torch.no_grad():
        for layer in net.hidden:
            layer.bias.zero_()
        net.hidden[0].weight.copy_(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0]]))
        net.hidden[1].weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    # The row has the root mean square 2.5, so the first unit is 3 / 2.5, and the ReLU cuts off the second.
    # Normalised, (1.2, 0) becomes (sqrt 2, 0), and the last layer doubles it.
    first, second = net(torch.tensor([[3.0, 4.0, 0.0, 0.0]]))
    assert first[0].tolist() == pytest.approx([1.2, 0.0], abs=1e-5)
    assert second[0].tolist() == pytest.approx([2 * math.sqrt(2), 0.0], abs=1e-5)
    assert goodness(second, "squares").item() == pytest.approx(8.0, abs=1e-4)
    torch.testing.assert_close(net.separate(torch.tensor([[3.0, 4.0, 0.0, 0.0]])), [first, second])


def test_the_predicted_label_has_the_highest_mean_goodness_of_the_judging_layers():
    images = torch.rand(5, 1, 2, 2, generator=generator())
    net = LayerNet(4, 3, 3, 2)
    for name, judging in [("FF, norm", (1, 2)), ("last layer", (2,))]:
        by_label = []
        for label in (0, 1):
            layers = net(write_label(images, torch.full((5,), label), 2).flatten(1))
            by_label.append(sum(layers[place].norm(dim=1) for place in judging).detach().numpy())
        expected = np.argmax(np.stack(by_label, 1), axis=1)
        assert predicted(net, METHODS[name], images, 2).tolist() == expected.tolist()


def test_the_gradient_of_a_layer_ends_at_its_own_input_only_in_forward_forward():
    _, batch = batch_of(noise())
    for name, reaches in [("FF, norm", False), ("FF, squares", False), ("every layer", True)]:
        method, net = METHODS[name], LayerNet(36, 5, 3, 4)
        rows = torch.cat([batch.positive, batch.negative])
        activations = net.separate(rows) if method.separate else net(rows)
        goodness(activations[-1], method.goodness).sum().backward()
        assert net.hidden[-1].weight.grad.abs().sum() > 0
        below = [layer.weight.grad for layer in net.hidden[:-1]]
        assert [each is not None for each in below] == [reaches, reaches], name


@pytest.mark.parametrize(("name", "judged"), [("FF, squares", 3), ("every layer", 3), ("last layer", 1)])
def test_the_loss_of_a_method_is_the_sum_over_its_layers(name, judged):
    _, batch = batch_of(noise())
    net, kind = LayerNet(36, 5, 3, 4), METHODS[name].goodness
    layers = zip(net(batch.positive), net(batch.negative), strict=True)
    losses = [
        layer_loss(*(goodness(each, kind) for each in pair), threshold(kind, 5, 0.4)) for pair in layers
    ]
    torch.testing.assert_close(loss_of(net, METHODS[name], batch, 0.4), sum(losses[-judged:]))


@pytest.mark.parametrize("name", ["FF, norm", "FF, squares", "every layer", "last layer", "softmax"])
def test_the_gradient_of_each_method_equals_finite_differences_of_its_own_losses(name):
    _, batch = batch_of(noise())
    rows = torch.cat([batch.positive, batch.negative]).double()
    batch = PretextBatch(*rows.chunk(2), batch.neutral.double(), batch.labels)
    method, net = METHODS[name], LayerNet(36, 4, 2, 4).double()
    loss_of(net, method, batch, 0.5).backward()
    weight = net.hidden[0].weight
    direction = torch.randn(weight.shape, generator=generator(1), dtype=torch.float64)

    def moved(step):
        with torch.no_grad():
            weight.add_(step * direction)
            if method.separate:  # of the first layer alone: what is above it does not teach it
                halves = goodness(net(rows)[0], method.goodness).chunk(2)
                value = layer_loss(*halves, threshold(method.goodness, 4, 0.5))
            else:
                value = loss_of(net, method, batch, 0.5)
            weight.sub_(step * direction)
        return float(value)

    step = 1e-6
    expected = (moved(step) - moved(-step)) / (2 * step)
    assert float((weight.grad * direction).sum()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "untrained"])
def test_every_method_learns_a_pretext_task_that_can_be_seen(name):
    """The upper half of every image is bright, so that a rotation is plain."""
    images = noise(24, side=4) // 4
    images[:, :, :2] += 180
    task = PretextImages.of(images, PRETEXTS["rotation"], 1)
    net = LayerNet(task.inputs, 32, 2, 4)
    schedule = Schedule(epochs=40, draws=2, batch_size=12, learning_rate=0.015, level=0.5)
    losses = list(learn(net, METHODS[name], task, schedule, generator()))
    assert losses[-1] < losses[0] / 2
    assert pretext_accuracy(net, METHODS[name], task) > 0.9


def test_any_label_of_an_image_that_looks_the_same_counts_as_correct():
    task = PretextImages.of(torch.full((3, 1, 4, 4), 5, dtype=torch.uint8), PRETEXTS["jigsaw"], 1)
    assert pretext_accuracy(LayerNet(36, 3, 2, 24), METHODS["FF, norm"], task) == 1.0
    net = LayerNet(36, 3, 2, 24)
    assert list(learn(net, METHODS["FF, norm"], task, Schedule(1, 1, 2, 0.1, 0.5), generator())) == [0.0]


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda: check_label_pixels(4, 4, 24), ["4x4", 16, 24, "5x5", "pad"]),
        (lambda: write_label(torch.zeros(1, 3, 1, 3), torch.tensor([0]), 4), ["1x3", 3, 4, "2x2"]),
        (lambda: jigsaw(torch.zeros(1, 1, 4, 5), (0, 1, 2, 3)), ["4x5", "even"]),
        (lambda: jigsaw(torch.zeros(1, 1, 4, 4), (0, 1, 2, 2)), ["0, 1, 2, 2", 0, 3]),
        (lambda: goodness(torch.zeros(1, 2), "mean"), ["'mean'", "norm", "squares"]),
        (lambda: pretext_named("jigsa"), ["'jigsa'", "'jigsaw'"]),
    ],
)
def test_what_cannot_be_is_refused(call, parts):
    with refuses(UsageError, *parts):
        call()


def images_of_side(side):
    labels = {"label": np.array([0, 1])}
    return ImageSet(np.zeros((2, side, side, 1), np.uint8), labels, {"label": ("a", "b")})


def test_settings_that_do_not_fit_the_images_are_refused_before_any_training():
    with refuses(UsageError, "4x4", 16, 24):
        check_settings(Settings(**HOW, pad=0), images_of_side(4))
    check_settings(Settings(**HOW, pad=1), images_of_side(4))  # 6x6
    with refuses(UsageError, "5x5", "even"):
        check_settings(Settings(**HOW), images_of_side(5))
    with refuses(UsageError, "'FF, nrm'", "'FF, norm'"):
        check_settings(Settings(**HOW, methods=("FF, nrm",)), images_of_side(8))
    with refuses(UsageError, "'softmax'", "learning_rate"):
        check_settings(
            Settings(**HOW | {"learning_rate": {"FF, norm": 0.1}}, methods=("softmax",)), images_of_side(8)
        )


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A small table of the study in the place of the real ones."""
    folder = tmp_path / "tables"
    (folder / "tests").mkdir(parents=True)
    content = {
        "title": "Layers",
        "source": "nobody",
        "question": "Does it work?",
        "paper": "not ours",
        "study": "forward-forward",
        "seeds": {"mini": 2},
        "settings": {
            "mini": {
                "pretexts": ["flip"],
                "methods": ["FF, norm", "softmax", "untrained"],
                **QUICK,
            }
        },
        "paper_numbers": {"flip": {"FF, norm": [99.3, 83.9]}},
    }
    (folder / "tests" / "layers.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr(tables, "_TABLES", folder)
    for module in (nets_module, study_module):
        monkeypatch.setattr(module, "images_of", few_digits)
    return tmp_path / "out"


def few_digits(recipe):
    """Forty training and twenty test digits of two classes: the probes then take no time."""
    from fullrank.runs.build import load_data
    from fullrank.runs.recipe import Recipe

    train, test = load_data(Recipe.resolve(recipe, {"classes": "3+8", "limit": 40}))
    return train, test.limited(20, 0)


def test_the_table_has_the_numbers_of_its_nets_and_the_same_after_a_stop(shipped, monkeypatch):
    (whole,) = reproduce("tests/layers", out=shipped)
    table = whole.record.table
    assert [row.title for row in table.rows] == ["flip: FF, norm", "flip: softmax", "flip: untrained"]
    assert table.columns[0] == "pretext" and [table.columns[at] for at in table.differences] == [
        each for each in table.columns if "minus" in each
    ]
    store = shipped / "runs"
    for row, seed in product(table.rows, (0, 1)):
        net = nets_module.TrainedNet.model_validate_json((store / row.runs[seed] / NET_FILE).read_bytes())
        values = {title: row.values[at][seed] for at, title in enumerate(table.columns)}
        assert values["pretext"] == pytest.approx(100 * net.pretext_accuracy)
        at_layers = [100 * net.entry.probes[f"layer {layer}"].linear for layer in (1, 2)]
        assert [values["class, layer 1"], values["class, layer 2"]] == pytest.approx(at_layers)
        assert values["best layer"] == 1 + int(np.argmax(at_layers))
        assert net.entry.seed == seed and f"{row.runs[seed]}" in net.entry.folder
    softmax = table.rows[1]
    for at in table.differences:
        assert softmax.values[at] == [0.0, 0.0]
        assert table.rows[0].values[at] == pytest.approx(
            np.subtract(table.rows[0].values[at - 1], softmax.values[at - 1])
        )
    before = {path: path.stat().st_mtime_ns for path in store.glob(f"*/{NET_FILE}")}
    lost = sorted(before)[0]
    lost.unlink()
    (again,) = reproduce("tests/layers", out=shipped)
    assert [row.values for row in again.record.table.rows] == [row.values for row in table.rows]
    assert {path for path in before if path.stat().st_mtime_ns != before[path]} == {lost}


def test_ctrl_c_keeps_finished_nets_and_says_so(shipped, monkeypatch):
    settings = tables.table_named("tests/layers").settings["mini"]
    nets = [PlannedNet(settings, "untrained", "flip", seed, shipped / "runs") for seed in range(3)]
    measured = nets_module.measured

    def stopped_at_the_second(net, *images):
        if net.seed == 1:
            raise KeyboardInterrupt
        return measured(net, *images)

    monkeypatch.setattr(nets_module, "measured", stopped_at_the_second)
    with refuses(InterruptedRunError, 1, 3):
        finish_nets(nets, workers=1)
    assert [net.finished for net in nets] == [True, False, False]


def test_a_damaged_net_is_named_and_fewer_than_one_worker_refused(tmp_path):
    net = PlannedNet(Settings(**HOW), "softmax", "flip", 0, tmp_path)
    net.folder.mkdir()
    (net.folder / NET_FILE).write_text("{")
    with refuses(DataError, NET_FILE, "remove"):
        _ = net.result
    with refuses(UsageError, "--workers", 1, 0):
        finish_nets([net], workers=0)


def test_a_nets_folder_depends_on_every_setting_but_the_rows_of_the_table(tmp_path):
    one = Settings(**HOW)

    def folder(**changed):
        return PlannedNet(one.model_copy(update=changed), "softmax", "flip", 0, tmp_path).folder

    assert folder() == folder(pretexts=("flip",)) == folder(methods=("softmax",))
    changed = {
        "width": 8,
        "level": LEVELS | {"norm": 0.1},
        "epochs": 3,
        "pad": 1,
        "recipe": "fashion-mnist",
        "judged": 5,
    }
    folders = {folder(), *(folder(**{key: value}) for key, value in changed.items())}
    assert len(folders) == 1 + len(changed)


def test_the_page_the_terminal_and_the_export_show_it(shipped, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    words = f"fullrank reproduce tests/layers --seeds 1 --out {shipped}"
    monkeypatch.setattr("sys.argv", words.split())
    with pytest.raises(SystemExit, match="0"):
        main()
    printed = capsys.readouterr().out
    assert "99.3" in printed and "softmax" in printed
    assert max(len(line) for line in printed.splitlines() if str(shipped) not in line) <= 80
    folder = shipped / "tests-layers"
    page = write_page(folder).read_text()
    assert "99.3" in page and "83.9" in page and "class, layer 2" in page
    rows = tidy_rows([Result(folder, Record.load(folder))])
    assert {(row["setting"], row["column"], row["paper"]) for row in rows} >= {
        ("flip: FF, norm", "pretext", 99.3),
        ("flip: softmax", "best layer", None),
    }


def test_a_rehearsal_names_every_net_and_keeps_nothing(shipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    assert len(rehearse_studies("tests/layers")) == 3
    assert set(tmp_path.iterdir()) == before
