"""Steps of several views and with a teacher: what the encoder sees, what is averaged, and what is resumed."""

import signal

import pytest
import torch
from refusals import refuses
from runs import fingerprint
from torch import Tensor, nn

from fullrank import JointEmbedding, head, load, train, view_pipeline
from fullrank.batch import Batch
from fullrank.errors import InterruptedRunError, UsageError
from fullrank.objectives import register_objective
from fullrank.objectives.contract import ViewsLoss
from fullrank.training.teacher import Teacher
from fullrank.views import Views
from fullrank.views.operations import Crop
from fullrank.views.pipeline import Pipeline

VIEWS = "multicrop,global=2,local=3,size=4,solarize=0,blur=0"


class Distilled(ViewsLoss):
    """The squared distance of predictions to a teacher's prototypes, less a centre that moves."""

    needs = frozenset({"teacher", "global_views", "progress"})
    averaged = ("prototypes",)

    def __init__(self, in_dim: int, momentum: float = 0.5):
        super().__init__(gather=False)
        self.predictor, self.prototypes = nn.Linear(in_dim, in_dim), nn.Linear(in_dim, 3, bias=False)
        self.momentum = momentum
        self.register_buffer("centre", torch.zeros(3))
        self.seen: list[tuple[int, ...]] = []

    def momentum_at(self, progress: float) -> float:
        return self.momentum

    def forward(self, z: Tensor, teacher: Tensor, global_views: int, progress: float) -> Tensor:
        self.seen.append((*z.shape, *teacher.shape, global_views))
        loss = (self.prototypes(self.predictor(z))[:, None] - teacher + self.centre).square().mean()
        if self.training:
            self.centre.lerp_(teacher.mean((0, 1)), 0.1)
        return loss + 0 * progress


@pytest.fixture(scope="module")
def distilled():
    register_objective("distilled-test", summary="test", source="test")(Distilled)
    yield "distilled-test"
    from fullrank.objectives import OBJECTIVES

    OBJECTIVES.unregister("distilled-test")


class Pixels(nn.Module):
    """h is the mean pixel and the side of each image, so every wrong order or size is a wrong number."""

    places = ()
    feature_dim, in_chans = 2, 1

    def __init__(self):
        super().__init__()
        self.calls: list[tuple[int, ...]] = []
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        self.calls.append(tuple(images.shape))
        side = torch.full((len(images),), float(images.shape[-1]))
        return self.scale * torch.stack([images.mean((1, 2, 3)), side], 1)


class Spread(nn.Module):
    """The squared distance of two views in their sides."""

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        return (z_a[:, 1] - z_b[:, 1]).square().mean()


def batch_of(count: int) -> Batch:
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(count, 1, 8, 8).contiguous()
    return Batch(images, torch.full((count,), -1), torch.arange(count))


def bare_views(*sides: int, local: int) -> Views:
    first, second, *more = (Pipeline(Crop(side, scale=1.0, flip=0.0)) for side in sides)
    return Views(first, second, 1, tuple(more), local)


def test_views_of_each_size_are_one_call_and_come_in_order():
    net = Pixels()
    module = JointEmbedding(net, head("none", in_dim=2), Spread(), bare_views(8, 8, 8, 4, 4, local=2))
    step = module.step(batch_of(3), 0, 0)
    assert net.calls == [(9, 1, 8, 8), (6, 1, 4, 4)]
    assert step.by_view(step.h)[:, :, 1].tolist() == [[8.0] * 3] * 3 + [[4.0] * 3] * 2
    torch.testing.assert_close(step.by_view(step.h)[:, :, 0], torch.arange(3.0).expand(5, 3) / 255)
    # 3 pairs are of global views, and 6 of a global view and a crop, which differ by 4 pixels.
    assert step.loss.item() == pytest.approx(6 / 9 * 16)


def test_a_head_sees_all_views_at_once_or_each_alone():
    for passes, rows in ((1, [10]), (2, [2] * 5)):
        seen = []
        top = head("none", in_dim=2)
        top.register_forward_hook(lambda part, given, z, seen=seen: seen.append(len(z)))
        net = Pixels()
        views = bare_views(8, 8, 4, 4, 4, local=3)
        module = JointEmbedding(net, top, Distilled(2), views, encoder_passes=passes)
        module.step(batch_of(2), 0, 0)
        # The hook belongs to the head of the teacher too, which is a copy: it sees the two global views.
        assert seen == rows + ([4] if passes == 1 else [2, 2])
        assert len(net.calls) == (2 if passes == 1 else 5)


def test_the_teacher_sees_the_global_views_alone_and_gives_what_the_objective_averages():
    loss = Distilled(2)
    module = JointEmbedding(Pixels(), head("none", in_dim=2), loss, bare_views(8, 8, 4, local=1))
    module.step(batch_of(3), 0, 0)
    assert module.teacher.encoder.calls == [(6, 1, 8, 8)]
    assert loss.seen == [(3, 3, 2, 2, 3, 3, 2)]


def test_a_teacher_follows_by_its_momentum_and_keeps_buffers_of_its_own():
    student = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), nn.Linear(3, 2)
    teacher = Teacher(*student)
    before = [weight.clone() for weight in teacher.parameters()]
    for part in student:
        for weight in part.parameters():
            weight.data.add_(1)
    student[0](torch.randn(8, 3) + 5)
    teacher.follow(student, 0.9)
    for weight, old in zip(teacher.parameters(), before, strict=True):
        torch.testing.assert_close(weight, old + 0.1)
        assert not weight.requires_grad
    assert not teacher.encoder[1].running_mean.any()
    with refuses(UsageError, 1.5, "momentum"):
        teacher.follow(student, 1.5)


@pytest.fixture(scope="module")
def taught(quick, distilled):
    return quick | {"objective": distilled, "views": VIEWS, "epochs": 2, "engine.accumulate": 2}


@pytest.fixture(scope="module")
def taught_run(taught, tmp_path_factory):
    return train("digits", out=tmp_path_factory.mktemp("taught") / "run", **taught)


def test_a_run_with_a_teacher_and_crops_resumes_bit_for_bit(taught, taught_run, tmp_path, at_batch):
    at_batch(0, 3, signal.SIGINT)
    with refuses(InterruptedRunError, "--resume"):
        train("digits", out=tmp_path / "run", **taught)
    torch.manual_seed(99)
    again = train("digits", out=tmp_path / "run", resume=True, **taught)
    assert fingerprint(again) == fingerprint(taught_run)
    for one, other in zip(
        *(weights_of(load(run.path / "teacher")) for run in (again, taught_run)), strict=True
    ):
        assert torch.equal(one, other)


def weights_of(run):
    return [*run.encoder.state_dict().values(), *run.head.state_dict().values()]


def test_the_teacher_of_a_run_is_a_run_that_can_be_loaded(taught_run):
    teacher = load(taught_run.path / "teacher")
    assert teacher.recipe == taught_run.recipe
    assert not torch.equal(*(run.encoder.state_dict()["stem.0.weight"] for run in (teacher, taught_run)))
    assert teacher.record.runs[0].spectrum != taught_run.record.runs[0].spectrum


def test_the_teacher_moves_once_for_each_step_of_the_optimizer_and_not_for_a_skipped_one(
    taught, tmp_path, monkeypatch
):
    momenta = []
    follow = Teacher.follow
    monkeypatch.setattr(Teacher, "follow", lambda *args: momenta.append(args[2]) or follow(*args))
    settings = taught | {"epochs": 1}
    run = train("digits", out=tmp_path / "a", **settings)
    assert len(momenta) == run.record.runs[0].steps == 3  # of 5 batches
    spoilt, plain = iter([1.0, float("nan"), 1.0, 1.0, 1.0]), Distilled.forward

    def at_times_not_finite(self, z, **more):
        trial = z.shape[1] < 40  # before the training the loss is tried on a few rows
        return plain(self, z, **more) * (1.0 if trial else next(spoilt))

    monkeypatch.setattr(Distilled, "forward", at_times_not_finite)
    momenta.clear()
    train("digits", out=tmp_path / "b", skip_nonfinite=1, **settings | {"engine.accumulate": 1})
    assert len(momenta) == 4  # of 5 steps


def test_crops_that_are_too_large_and_nets_of_one_size_are_refused(quick, tmp_path):
    with refuses(UsageError, 9, 8):
        view_pipeline("multicrop,size=9", image_size=8)
    with refuses(UsageError, "global=1"):
        view_pipeline("multicrop,global=1", image_size=8)
    with refuses(UsageError, "multicrop", 8, 4):
        train(
            "digits",
            out=tmp_path / "run",
            **quick | {"views": VIEWS, "encoder": "tiny-vit"},
        )


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"views": "multicrop,size=0"}, [0, 1]),
        ({"views": "multicrop,split=1.5"}, ["split=1.5", "smallest=0.05"]),
        ({"views": "multicrop,split=0.1,smallest=0.2"}, ["split=0.1", "smallest=0.2"]),
        ({"views": "multicrop,smallest=0"}, ["smallest=0.0"]),
        ({"views": VIEWS, "encoder": "tiny-vit"}, ["8x8", "4x4", "any_size=true", "multicrop"]),
        (
            {"views": "multicrop,size=3,blur=0", "encoder": "tiny-vit,any_size=true"},
            ["3x3", "multiples of 2", "size="],
        ),
        ({"objective": "byol,hidden=4", "head": "matryoshka:2-4"}, ["BYOLLoss", "2-4"]),
        ({"objective": "dino,prototypes=4", "head": "matryoshka:2-4"}, ["DINOLoss", "2-4"]),
    ],
)
def test_views_encoders_and_heads_that_do_not_fit_are_refused_with_a_remedy(quick, tmp_path, settings, parts):
    with refuses(UsageError, *parts):
        train("digits", out=tmp_path / "run", **quick | settings)
    assert not (tmp_path / "run" / "record.json").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {
            "encoder": "tiny-vit,any_size=true,width=6",
            "head": "linear:8,conditioned=views",
            "objective": "infonce:0.2 + augself:1,hidden=8",
        },
        {"head": "linear:8", "objective": "byol,hidden=4", "encoder_passes": 2},
    ],
)
def test_parts_of_every_kind_train_with_local_crops(quick, tmp_path, settings):
    run = train("digits", out=tmp_path / "run", **quick | {"views": VIEWS} | settings)
    assert run.record.runs[0].loss is not None
