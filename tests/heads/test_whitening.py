"""Whitening of z: its value, its gradient at equal eigenvalues, several processes, and running values."""

import pytest
import torch
from gloo_group import in_processes
from refusals import refuses
from scipy.linalg import fractional_matrix_power
from torch import nn

from fullrank import dry_run, head
from fullrank.data import source
from fullrank.diagnosis.imposed import exact_rank, imposed_rank
from fullrank.errors import UsageError
from fullrank.evaluation.factors import depth_shares
from fullrank.heads.whitening import Whitening, inverse_root, whitened, whitening_of
from fullrank.processes import gather_rows
from fullrank.runs.build import check_plan
from fullrank.runs.recipe import Recipe


def rows(count: int, width: int, seed: int = 0) -> torch.Tensor:
    """Correlated rows with a mean, whose covariance has eigenvalues from about 0.02 to 20."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(count, width, generator=generator, dtype=torch.float64)
    mixing = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))[0]
    return z * torch.logspace(-0.7, 0.7, width, dtype=torch.float64) @ mixing + 3


def white(z: torch.Tensor, group: int = 128) -> torch.Tensor:
    return whitened(z, *whitening_of(z, group))


def by_hand(z: torch.Tensor) -> torch.Tensor:
    """One group by SciPy's matrix power: the covariance with a thousandth of its mean variance, and 1e-5."""
    covariance = torch.cov(z.T, correction=0).reshape(z.shape[1], -1)
    level = 1e-3 * covariance.trace() / len(covariance) + 1e-5
    shrunk = 0.999 * covariance + level * torch.eye(len(covariance), dtype=z.dtype)
    return (z - z.mean(0)) @ torch.from_numpy(fractional_matrix_power(shrunk.numpy(), -0.5))


def test_whitened_rows_are_those_of_a_matrix_power():
    z = rows(60, 7)
    torch.testing.assert_close(white(z), by_hand(z))
    torch.testing.assert_close(torch.cov(white(z).T, correction=0), torch.eye(7).double(), atol=0.1, rtol=0)


@pytest.mark.parametrize(("width", "group", "parts"), [(8, 4, [4, 4]), (11, 4, [4, 4, 3]), (7, 3, [3, 3, 1])])
def test_groups_are_whitened_apart(width, group, parts):
    z = rows(60, width)
    torch.testing.assert_close(white(z, group), torch.cat([by_hand(one) for one in z.split(parts, 1)], 1))


def test_a_group_of_one_channel_is_a_batch_norm_in_value_and_gradient():
    z, direction = rows(20, 3).requires_grad_(), rows(20, 3, seed=1)
    norm = nn.BatchNorm1d(3, affine=False).double()
    torch.testing.assert_close(white(z, 1), norm(z))
    ours, theirs = (
        torch.autograd.grad((f(z) * direction).sum(), z)[0] for f in (lambda z: white(z, 1), norm)
    )
    torch.testing.assert_close(ours, theirs)


def test_a_rotation_of_z_rotates_what_whitening_gives():
    z = rows(60, 5)
    rotation = torch.linalg.qr(rows(5, 5, seed=2))[0]
    torch.testing.assert_close(white(z @ rotation), white(z) @ rotation)


def symmetric() -> torch.Tensor:
    """Rows with a covariance of equal eigenvalues: the corners of an octahedron, twice."""
    corners = torch.eye(3, dtype=torch.float64)
    return torch.cat([corners, -corners]).repeat(2, 1)


@pytest.mark.parametrize(
    ("z", "group"),
    [(rows(12, 4), 4), (rows(12, 5), 2), (symmetric(), 3), (symmetric().repeat(1, 2)[:, :4], 4)],
    ids=["one group", "groups", "equal eigenvalues", "two equal channels"],
)
def test_the_gradient_is_that_of_finite_differences(z, group):
    assert torch.autograd.gradcheck(lambda z: white(z, group), z.clone().requires_grad_())


def test_the_root_of_nearly_equal_eigenvalues_has_a_finite_gradient_in_single_precision():
    matrices = torch.diag_embed(torch.tensor([[1.0, 1.0 + 1e-7, 1.0], [1e-5, 1e-5, 1e3]])).requires_grad_()
    (gradient,) = torch.autograd.grad(inverse_root(matrices).sum(), matrices)
    assert gradient.isfinite().all()
    torch.testing.assert_close(gradient[0], torch.full((3, 3), -0.5))


def test_collapsed_rows_stay_at_the_origin_and_are_not_scaled_up():
    z = (torch.full((40, 6), 2.0) + 1e-6 * torch.randn(40, 6)).requires_grad_()
    out = white(z)
    assert out.abs().max() < 1e-2
    out.square().sum().backward()
    assert z.grad.isfinite().all()


def test_rows_that_are_not_finite_give_nan_and_do_not_raise():
    z = rows(20, 3)
    z[4, 1] = torch.inf
    assert white(z.requires_grad_()).isnan().all()


def trained(z: torch.Tensor) -> dict[str, torch.Tensor]:
    """A loss of all rows, the gradient of own rows, and the running values, after one call."""
    own, norm = z.clone().requires_grad_(), Whitening(6, group=4).double()
    out = gather_rows(norm(own))
    out.pow(3).mul(torch.linspace(-1, 1, out.numel(), dtype=z.dtype).view_as(out)).sum().backward()
    return {"z": out.detach(), "gradient": own.grad, **dict(norm.named_buffers())}


@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_whiten_as_one(count, tmp_path):
    z = rows(16, 6)
    alone = trained(z)
    outcomes = in_processes(lambda rank: trained(z.chunk(count)[rank]), count, tmp_path)
    for each in outcomes:
        for name in ("z", "running_mean", "running_matrix"):
            torch.testing.assert_close(each[name], alone[name], rtol=1e-9, atol=1e-9)
    # DistributedDataParallel divides the sum over processes by their number.
    joined = torch.cat([each["gradient"] for each in outcomes]) / count
    torch.testing.assert_close(joined, alone["gradient"], rtol=1e-9, atol=1e-9)


def few_rows(rank: int) -> torch.Tensor:
    return white(rows(4, 4, seed=rank))


def test_the_rows_of_all_processes_count(tmp_path):
    with refuses(UsageError, 8, 4, "group"):
        few_rows(0)
    assert len(in_processes(few_rows, 2, tmp_path)) == 2


def test_running_values_come_to_those_of_equal_batches_and_are_used_in_eval_mode():
    z, norm = rows(60, 5).float(), Whitening(5, group=3)
    assert torch.equal(norm.eval()(z), z)
    for _ in range(200):
        batch = norm.train()(z)
    torch.testing.assert_close(norm.eval()(z), batch, rtol=1e-4, atol=1e-4)
    assert torch.equal(norm.running_matrix, norm.running_matrix.mT)
    twin = Whitening(5, group=3).eval()
    twin.load_state_dict(norm.state_dict())
    assert torch.equal(twin(z[:2]), norm(z[:2]))


@pytest.mark.parametrize("training", [True, False])
def test_mixed_precision_does_not_round_the_covariance(training):
    z, norm = rows(60, 5).float(), Whitening(5).train(training)
    plain = norm(z)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = Whitening(5).train(training)(z)
        assert norm(z.bfloat16()).dtype == torch.float32
    torch.testing.assert_close(mixed, plain)


def test_a_group_without_whitening_and_one_below_one_are_refused():
    with refuses(UsageError, "group=8", "norm=whiten"):
        head("linear:4,norm=batch,group=8", in_dim=8)
    with refuses(UsageError, "group", 0):
        head("linear:4,norm=whiten,group=0", in_dim=8)


def test_whitened_heads_say_of_themselves_what_is_so():
    for spec in ("none", "diagonal", "reweight:1.1"):
        part = head(f"{spec},norm=whiten", in_dim=8)
        assert not part.scales_channels and depth_shares(part) == {}
    assert head("none,norm=whiten,group=3", in_dim=8).least_rows == 6
    assert head("none", in_dim=8).least_rows == 1
    for spec, rank in (("lowrank:3", 3), ("linear:6", 4), ("none", None)):
        part = head(f"{spec},norm=whiten", in_dim=4)
        part(torch.randn(50, 4))
        assert imposed_rank(part) == rank
        assert rank is None or exact_rank(part) == min(rank, 4)


def test_whitening_undoes_a_reweighting_up_to_its_shrinkage():
    assert imposed_rank(head("reweight:1.2", in_dim=20)) == 6
    steep = head("reweight:1.5,norm=whiten", in_dim=20)
    rank = imposed_rank(steep)
    variances = steep(torch.randn(20_000, 20)).var(0)
    assert rank == int((variances > 0.5).sum()) and 6 < rank < 20
    assert imposed_rank(head("reweight:1.05,norm=whiten", in_dim=20)) is None


SMALL = {"encoder": "tiny-resnet,width=8", "batch_size": 20, "limit": 40, "objective": "vicreg"}


def test_a_batch_that_is_too_small_is_refused_before_training():
    train = source("digits").load("train").limited(40, seed=0)
    plan = Recipe.resolve("digits", SMALL | {"head": "linear:21,norm=whiten"})
    with refuses(UsageError, "linear:21,norm=whiten", 42, 40, 21, "group"):
        check_plan(plan, train)
    check_plan(Recipe.resolve(plan, {"head": "linear:20,norm=whiten"}), train)
    check_plan(Recipe.resolve(plan, {"head": "linear:21,norm=whiten,group=20"}), train)
    with refuses(UsageError, 40, 20):
        check_plan(Recipe.resolve(plan, {"head": "linear:20,norm=whiten", "encoder_passes": 2}), train)


def test_a_dry_run_whitens_smaller_groups_and_judges_the_batch_of_the_recipe():
    plan = Recipe.resolve("digits", SMALL | {"head": "linear:20,norm=whiten"})
    rehearsal = dry_run(plan)
    assert rehearsal.entry.steps == 2 and rehearsal.replaced["head"] == "linear:20,group=4,norm=whiten"
    with refuses(UsageError, 42, 40):
        dry_run(plan, head="linear:21,norm=whiten")
