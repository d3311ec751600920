"""Our objectives against lightly's and stable-pretraining's: value and gradient at one setting, on one input.

    uv run --with lightly==1.6.0 --with stable-pretraining==0.1.8 python benchmarks/peers_objectives.py
    uv run --with lightly==1.6.0 python benchmarks/peers_objectives.py --peer lightly

Rows that are called equal must agree in value and gradient to 1e-5 (relative to the largest entry). Otherwise
the exit status is 1. A row that differs by definition says how, and its difference is only printed.

The second table gives each of two processes (gloo) half of a batch, and compares the value and gradient of
SIGReg with those of one process that has the whole batch. The gradient is that of a layer below, averaged
over processes as DistributedDataParallel does.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from fullrank import head, objective
from fullrank.objectives import auxiliary
from fullrank.objectives.contract import loss_of_views
from fullrank.step import Step

IMAGES, WIDTH, HIDDEN, PROTOTYPES, QUEUE, SLICES, SEED = 64, 16, 24, 40, 128, 64, 3
GLOBAL, FURTHEST = 2, 1e-5
Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Comparison:
    """One objective in two packages, each as a function of the views (V, N, K)."""

    spec: str
    peer: str
    ours: Loss
    theirs: Loss
    differs: str = ""  # why they are not equal, where that is by definition
    views: int = 2
    dtype: torch.dtype = torch.float64

    def value_and_gradient(self, loss: Loss) -> tuple[float, Tensor]:
        torch.manual_seed(SEED)  # what a peer draws; ours draws the same from a generator of its own
        z = embeddings(self.views, self.dtype).requires_grad_()
        value = loss(z)
        (gradient,) = torch.autograd.grad(value, z)
        return value.item(), gradient

    def measured(self) -> tuple[float, float, float, float]:
        """Our value, theirs, and how far value and gradient are apart, relative to ours."""
        ours, slope = self.value_and_gradient(self.ours)
        theirs, other = self.value_and_gradient(self.theirs)
        return (
            ours,
            theirs,
            abs(ours - theirs) / abs(ours),
            float((slope - other).abs().max() / slope.abs().max()),
        )


def embeddings(views: int, dtype: torch.dtype, seed: int = 0, width: int = WIDTH) -> Tensor:
    """Views (V, N, K) of the same images."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(IMAGES, width, generator=generator)
    return (shared + 0.7 * torch.randn(views, IMAGES, width, generator=generator) + 0.2).to(dtype)


def built(spec: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(SEED)
    return objective(spec, in_dim=WIDTH).to(dtype).train()


def ours(loss: nn.Module, **given: Any) -> Loss:
    """Our objective as a function of the views."""

    def value(z: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(SEED)
        return loss_of_views(loss, z, generator=generator, global_views=GLOBAL, **given)

    return value


def with_layers_of(loss: nn.Module, predictor: nn.Module) -> nn.Module:
    """A peer's predictor with the weights of ours, which has no bias before its batch norm."""
    own = [layer for layer in loss.modules() if isinstance(layer, nn.Linear | nn.BatchNorm1d)]
    other = [layer for layer in predictor.modules() if isinstance(layer, nn.Linear | nn.BatchNorm1d)]
    for source, target in zip(own, other, strict=True):
        target.load_state_dict(source.state_dict(), strict=False)
    return predictor.to(torch.float64).train()


def both_ways(predictor: nn.Module, distance: Callable[..., Tensor], z: Tensor, targets: Tensor) -> Tensor:
    """The mean over both directions of what a peer's distance makes of prediction and target."""
    first, second = predictor(z[0]), predictor(z[1])
    return (distance(first, targets[1]) + distance(second, targets[0])) / 2


def prototype_scores(loss: nn.Module) -> Callable[[Tensor], Tensor]:
    """Unit rows of z times our unit prototypes."""
    (weight,) = loss.parameters()
    return lambda z: F.normalize(z, dim=-1) @ F.normalize(weight.detach(), dim=-1).T


def koleo_of_views(z: Tensor) -> Tensor:
    """Our KoLeo on views, as the term sees them: one below the other."""
    term = auxiliary("koleo:1,place=h", in_dim=WIDTH, out_dim=WIDTH)
    rows = z.flatten(0, 1)
    return term(Step(rows, rows, view_count=len(z), global_count=len(z)))


def lightly_comparisons() -> Iterator[Comparison]:
    """What lightly has, called as its documentation does."""
    from lightly import loss as peer
    from lightly.loss import lejepa_loss, visreg_loss, wmse_loss
    from lightly.models.modules import heads

    teacher = embeddings(GLOBAL, torch.float64, seed=1)
    logits = embeddings(GLOBAL, torch.float64, seed=2, width=PROTOTYPES) / 5
    pairs = {
        "ntxent:0.5": peer.NTXentLoss(0.5),
        "vicreg": peer.VICRegLoss(),
        "barlow-twins": peer.BarlowTwinsLoss(),
        "align": wmse_loss.norm_mse_loss,
    }
    for spec, pair in pairs.items():
        yield Comparison(
            spec, f"lightly {_name(pair)}", ours(built(spec)), lambda z, pair=pair: pair(z[0], z[1])
        )

    lejepa = lejepa_loss.LeJEPALoss(0.05, sigreg_num_vectors=SLICES)
    visreg = visreg_loss.VISRegLoss(num_slices=SLICES)
    single = torch.float32
    for spec, multi in {"sigreg:0.05": lejepa, "visreg": visreg}.items():
        spec = f"{spec},slices={SLICES}"
        yield Comparison(
            spec,
            f"lightly {_name(multi)}",
            ours(built(spec, single)),
            lambda z, multi=multi: multi(global_proj=z[:GLOBAL], local_proj=z[GLOBAL:]),
            views=5,
            dtype=single,
        )

    distance = peer.NegativeCosineSimilarity()
    siamese = built(f"simsiam,hidden={HIDDEN}")
    predictor = with_layers_of(siamese, heads.SimSiamPredictionHead(WIDTH, HIDDEN, WIDTH))
    yield Comparison(
        f"simsiam,hidden={HIDDEN}",
        "lightly NegativeCosineSimilarity, SimSiamPredictionHead",
        ours(siamese),
        lambda z: both_ways(predictor, distance, z, z.detach()),
    )
    bootstrap = built(f"byol,hidden={HIDDEN}")
    online = with_layers_of(bootstrap, heads.BYOLPredictionHead(WIDTH, HIDDEN, WIDTH))
    yield Comparison(
        f"byol,hidden={HIDDEN}",
        "lightly 2 + 2 NegativeCosineSimilarity, BYOLPredictionHead",
        ours(bootstrap, teacher=teacher, progress=0.5),
        lambda z: 2 + 2 * both_ways(online, distance, z, teacher),
    )
    dino = built(f"dino,prototypes={PROTOTYPES}")
    scores, distilled = prototype_scores(dino), peer.DINOLoss(PROTOTYPES, teacher_temp=0.07).double()
    yield Comparison(
        f"dino,prototypes={PROTOTYPES}",
        "lightly DINOLoss",
        ours(dino, teacher=logits, progress=1.0),
        lambda z: distilled(list(logits), list(scores(z))),
        views=5,
    )
    yield Comparison(  # both have seen one step, so that their centres have moved
        f"dino,prototypes={PROTOTYPES}",
        "lightly DINOLoss, second step",
        ours(dino, teacher=logits.flip(1), progress=1.0),
        lambda z: distilled(list(logits.flip(1)), list(scores(z))),
        views=5,
    )
    queued = built(f"infonce:0.2,queue={QUEUE}")
    bank = _queue_of(queued).clone()
    yield Comparison(
        f"infonce:0.2,queue={QUEUE}",
        "lightly NTXentLoss(memory_bank_size)",
        ours(queued, teacher=teacher, progress=0.5),
        lambda z: _mean(_with_bank(peer, bank)(z[v], teacher[1 - v]) for v in (0, 1)),
    )
    for local in (0.0, 0.005):
        manifold = peer.MMCRLoss(lmda=local)
        yield Comparison(
            f"mmcr,local={local:g}",
            "lightly MMCRLoss, on unit rows",
            ours(built(f"mmcr,local={local:g}")),
            lambda z, manifold=manifold: manifold(*F.normalize(z, dim=-1).transpose(0, 1).split(2, dim=1)),
            views=4,
        )
    yield Comparison(
        "mmcr",
        "lightly MMCRLoss, on z as it is",
        ours(built("mmcr")),
        lambda z: peer.MMCRLoss(lmda=0.0)(*z.transpose(0, 1).split(2, dim=1)),
        "lightly leaves the normalisation of the rows, which the paper prescribes, to the caller",
        views=4,
    )
    yield Comparison(
        "koleo",
        "lightly KoLeoLoss, sum over both views",
        koleo_of_views,
        lambda z: peer.KoLeoLoss()(z[0]) + peer.KoLeoLoss()(z[1]),
    )
    whitening = wmse_loss.Whitening2d(WIDTH, eps=0.0).double()
    _no_running_statistics(whitening)
    yield Comparison(
        "align under norm=whiten",
        "lightly Whitening2d on both views, norm_mse_loss",
        whitened_alignment,
        lambda z: wmse_loss.norm_mse_loss(*whitening(z.flatten(0, 1)).chunk(2)),
        "ours shrinks the covariance by 1e-3, lightly not at all at its default; that its root is Cholesky's "
        "makes no difference to a cosine",
    )


def whitened_alignment(z: Tensor) -> Tensor:
    """The objective `align` after the whitening norm over both views."""
    torch.manual_seed(SEED)
    whiten = head("none,norm=whiten", in_dim=WIDTH).double().train()
    return loss_of_views(built("align"), whiten(z.flatten(0, 1)).view_as(z))


def stable_comparisons() -> Iterator[Comparison]:
    """What stable-pretraining has, called as its methods do."""
    from stable_pretraining import losses as peer
    from stable_pretraining.methods import lejepa, mocov2, wmse

    teacher = embeddings(GLOBAL, torch.float64, seed=1)
    logits = embeddings(GLOBAL, torch.float64, seed=2, width=PROTOTYPES) / 5
    pairs: dict[str, tuple[Any, str]] = {
        "ntxent:0.5": (peer.NTXEntLoss(0.5), ""),
        "infonce:0.1": (peer.CLIPLoss(0.1), ""),
        "vicreg": (peer.VICRegLoss(), ""),
        "barlow-twins": (
            peer.BarlowTwinsLoss(),
            "it divides by a deviation over N - 1, and the authors' code by one over N: its correlations are "
            "(N - 1) / N of ours",
        ),
    }
    for spec, (pair, why) in pairs.items():
        peer_name = f"stable-pretraining {_name(pair)}"
        yield Comparison(spec, peer_name, ours(built(spec)), lambda z, pair=pair: pair(*z), why)

    siamese = built(f"simsiam,hidden={HIDDEN}")
    predictor = with_layers_of(siamese, _mlp())
    yield Comparison(
        f"simsiam,hidden={HIDDEN}",
        "stable-pretraining NegativeCosineSimilarity",
        ours(siamese),
        lambda z: both_ways(predictor, peer.NegativeCosineSimilarity(), z, z.detach()),
    )
    bootstrap = built(f"byol,hidden={HIDDEN}")
    online = with_layers_of(bootstrap, _mlp())
    yield Comparison(
        f"byol,hidden={HIDDEN}",
        "stable-pretraining BYOLLoss",
        ours(bootstrap, teacher=teacher, progress=0.5),
        lambda z: both_ways(online, peer.BYOLLoss(), z, teacher),
    )
    single = torch.float32  # in which it computes DINO and SIGReg
    dino = built(f"dino,prototypes={PROTOTYPES}", single)
    scores, distilled, logits = prototype_scores(dino), peer.DINOv1Loss(), logits.to(single)
    yield Comparison(
        f"dino,prototypes={PROTOTYPES}",
        "stable-pretraining DINOv1Loss",
        ours(dino, teacher=logits, progress=1.0),
        lambda z: distilled(scores(z), distilled.softmax_center_teacher(logits, 0.07)),
        views=5,
        dtype=single,
    )
    for spec, flat in {"sigreg:1": False, "sigreg:0.5": True}.items():
        spec = f"{spec},slices={SLICES}"
        sliced = lejepa.SlicedEppsPulley(num_slices=SLICES)
        yield Comparison(
            spec,
            "stable-pretraining LeJEPA(lamb=1)"
            if flat
            else "stable-pretraining SlicedEppsPulley, mean over views",
            ours(built(spec, single)),
            lambda z, flat=flat, sliced=sliced: _stable_sigreg(lejepa, sliced, z, flat),
            "invariance + lambda * SIGReg instead of (1 - lambda) and lambda, and SIGReg of all views in one "
            "sample, which multiplies its factor N by V"
            if flat
            else "",
            views=5,
            dtype=single,
        )
    queued = built(f"infonce:0.2,queue={QUEUE}")
    bank = _queue_of(queued).clone()
    yield Comparison(
        f"infonce:0.2,queue={QUEUE}",
        "stable-pretraining MoCov2, its queue and logits",
        ours(queued, teacher=teacher, progress=0.5),
        lambda z: torch.stack(
            [_stable_moco(mocov2.UnsortedQueue, bank, z[v], teacher[1 - v]) for v in (0, 1)]
        ).mean(),
        "it appends the batch's keys before it uses the queue, so each positive is one of its own negatives",
    )
    yield Comparison(
        "align under norm=whiten",
        "stable-pretraining WMSE, its whitening and loss",
        whitened_alignment,
        lambda z: F.mse_loss(*F.normalize(wmse._eigen_whiten(z.flatten(0, 1)), dim=-1).chunk(2)),
        f"mean over channels: 1 / K (here 1/{WIDTH}) of the squared distance; no shrinkage",
    )


def _mean(losses: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(losses)).mean()


def _name(part: Any) -> str:
    return part.__name__ if hasattr(part, "__name__") else type(part).__name__


def _queue_of(loss: nn.Module) -> Tensor:
    (queue,) = [each for each in loss.buffers() if each.shape == (QUEUE, WIDTH)]
    return queue


def _with_bank(peer: Any, bank: Tensor) -> nn.Module:
    """lightly's loss with a memory bank that holds our queue."""
    loss = peer.NTXentLoss(0.2, memory_bank_size=(QUEUE, WIDTH)).double()
    loss.memory_bank.bank = bank.clone()
    return loss


def _no_running_statistics(whitening: nn.Module) -> None:
    # lightly writes running statistics with out=, in float32 only.
    whitening.track_running_stats = False


def _mlp() -> nn.Module:
    """The predictor of stable-pretraining's methods: a plain sequence of layers."""
    return nn.Sequential(
        nn.Linear(WIDTH, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH)
    )


def _stable_sigreg(lejepa: Any, sliced: nn.Module, z: Tensor, flat: bool) -> Tensor:
    if flat:
        sliced.global_step.fill_(SEED)
        loss: Tensor = lejepa.LeJEPA._compute_loss(z, GLOBAL, sliced, 1.0)[0]
        return loss
    statistics = []
    for view in z:
        sliced.global_step.fill_(SEED)  # the seed of its directions
        statistics.append(sliced(view))
    return _mean(statistics)


def _stable_moco(queue_class: Any, bank: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """The logits of its MoCov2, with its queue filled by ours."""
    queue = queue_class(QUEUE, WIDTH, torch.float64)
    queue.append(bank)
    query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
    negatives = queue.append(key)
    logits = torch.cat([(query * key).sum(-1, keepdim=True), query @ negatives.T], 1) / 0.2
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64))


# Two processes

SHARED = {
    "fullrank": "fullrank, sigreg:1",
    "lightly": "lightly, SIGReg(gather_distributed=True)",
    "stable-pretraining": "stable-pretraining, SlicedEppsPulley",
}


def _sigreg_of(peer: str) -> Loss:
    """SIGReg of views (V, N, K), the mean over views, over the rows of all processes."""
    if peer == "lightly":
        from lightly.loss.lejepa_loss import SIGReg

        return SIGReg(num_vectors=SLICES, gather_distributed=True)
    if peer == "stable-pretraining":
        from stable_pretraining.methods import lejepa

        sliced = lejepa.SlicedEppsPulley(num_slices=SLICES)
        return lambda z: _stable_sigreg(lejepa, sliced, z, flat=False)
    return ours(built(f"sigreg:1,slices={SLICES}", torch.float32))


def _share_of(peer: str, rank: int, count: int, store: str) -> tuple[float, Tensor]:
    """Value and gradient to a layer below, of this process's share of the batch."""
    torch.set_num_threads(1)
    if count > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
    own = torch.arange(IMAGES).chunk(count)[rank]
    weight = torch.eye(WIDTH, requires_grad=True)
    torch.manual_seed(SEED)
    value = _sigreg_of(peer)(embeddings(2, torch.float32)[:, own] @ weight)
    (gradient,) = torch.autograd.grad(value, weight)
    if count > 1:
        dist.all_reduce(gradient)
        dist.destroy_process_group()
    return value.item(), gradient / count


def over_processes(peer: str, count: int = 2) -> tuple[float, float, float, float]:
    """One process's value, that of several, their gradient's length over one process's, and how far apart."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        alone, slope = pool.submit(_share_of, peer, 0, 1, "").result()
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(count, get_context("spawn")) as pool,
    ):
        store = f"{folder}/store"
        shares = [pool.submit(_share_of, peer, rank, count, store) for rank in range(count)]
        values, slopes = zip(*(share.result() for share in shares), strict=True)
    apart = float((slopes[0] - slope).norm() / slope.norm())
    return alone, sum(values) / count, float(slopes[0].norm() / slope.norm()), apart


def print_comparisons(comparisons: Iterator[Comparison]) -> bool:
    """Print a row for each; return whether those that should be equal are."""
    agree = True
    for each in comparisons:
        own, other, value_apart, slope_apart = each.measured()
        equal = max(value_apart, slope_apart) <= FURTHEST
        agree = agree and (equal or bool(each.differs))
        verdict = each.differs or ("equal" if equal else "NOT EQUAL")
        print(
            f"| `{each.spec}` | {each.peer} | {own:.6g} | {other:.6g} "
            f"| {value_apart:.1e} | {slope_apart:.1e} | {verdict} |",
            flush=True,
        )
    return agree


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", choices=("lightly", "stable-pretraining"), help="only this one")
    chosen = parser.parse_args().peer
    peers = {"lightly": lightly_comparisons, "stable-pretraining": stable_comparisons}
    peers = {name: rows for name, rows in peers.items() if chosen in (None, name)}
    print(", ".join(f"{name} {version(name)}" for name in ("torch", *peers)))
    print("| objective | peer | ours | theirs | value apart | gradient apart | |")
    print("|---|---|---|---|---|---|---|")
    agree = True
    for rows in peers.values():
        agree = print_comparisons(rows()) and agree
    print("\n| SIGReg in two processes | value in one | in two | gradient, times that of one | apart |")
    print("|---|---|---|---|---|")
    for peer in ("fullrank", *peers):
        alone, several, ratio, apart = over_processes(peer)
        print(f"| {SHARED[peer]} | {alone:.6g} | {several:.6g} | {ratio:.4f} | {apart:.1e} |", flush=True)
        agree = agree and (peer != "fullrank" or apart <= FURTHEST)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
