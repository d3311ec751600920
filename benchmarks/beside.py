"""The verdict of two feature sets whose relation is known: changes that we make, trainings, and halves.

    uv run --group benchmark python benchmarks/real_cases.py REAL
    uv run --group benchmark python benchmarks/beside_cases.py PAIRS
    uv run --group benchmark python benchmarks/beside.py --real REAL --pairs PAIRS

Prints a line for each pair: the words that are right, the word that was said and what it rests on; then how
many words were right in each half. Thresholds were chosen on the half `fix`. `--quick` needs no folder.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits

from fullrank.diagnosis.beside.compare import compare_files
from fullrank.embeddings.files import EmbeddingFile
from fullrank.embeddings.matrices import ArrayMatrix
from fullrank.record import SideBySide

UNDECIDED = "not told apart"
SUPERVISED = ("better", "drifted", UNDECIDED)
Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True, eq=False)
class Pair:
    """Features before and now on the same rows, and the words that are right."""

    name: str
    half: str
    before: np.ndarray
    now: np.ndarray
    labels: np.ndarray | None
    expected: tuple[str, ...]


def judged(pair: Pair) -> SideBySide:
    """What the comparison says of a pair, with rows matched by id."""
    ids = np.arange(len(pair.now)).astype(str)
    return _compared(
        *(_file(x, pair.labels, ids, name) for x, name in ((pair.now, "now"), (pair.before, "before")))
    )


def judged_halves(x: np.ndarray, labels: np.ndarray | None, draw: int) -> SideBySide:
    """What the comparison says of two random halves of one set, without ids."""
    order = np.random.default_rng([draw]).permutation(len(x))
    count = len(x) // 2
    halves = order[:count], order[count : 2 * count]
    files = (
        _file(x[rows], None if labels is None else labels[rows], None, name)
        for rows, name in zip(halves, ("now", "before"), strict=True)
    )
    return _compared(*files)


def _compared(now: EmbeddingFile, before: EmbeddingFile) -> SideBySide:
    beside = compare_files(now, before).beside
    assert beside is not None
    return beside


def _file(x: np.ndarray, labels: np.ndarray | None, ids: np.ndarray | None, name: str) -> EmbeddingFile:
    matrix = ArrayMatrix(np.ascontiguousarray(x, np.float32), name)
    numbers = None if labels is None else labels.astype(np.int64)
    return EmbeddingFile(name, matrix, np.empty(0, np.int64), numbers, all_ids=ids)


def _noise(strength: float) -> Change:
    """Noise of so many times the mean spread of a channel."""

    def change(x: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        noisy: np.ndarray = x + strength * np.sqrt(x.var(0).mean()) * generator.normal(size=x.shape)
        return noisy

    return change


def _rounded(x: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    step = np.abs(x).max() / 127
    rounded: np.ndarray = np.round(x / step) * step
    return rounded


def _bfloat16(x: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x8000) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def _components(share: float) -> Change:
    """The leading principal components with this share of the variance."""

    def change(x: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        centred = x - x.mean(0)
        _, values, directions = np.linalg.svd(centred, full_matrices=False)
        held = (values**2).cumsum() / (values**2).sum()
        leading: np.ndarray = centred @ directions[: int((held < share).sum()) + 1].T
        return leading

    return change


CHANGES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "rotation": (lambda x, g: x @ np.linalg.qr(g.normal(size=(x.shape[1],) * 2))[0], ("rotated",)),
    "permutation": (lambda x, g: x[:, g.permutation(x.shape[1])], ("rotated",)),
    "signs": (lambda x, g: x * g.choice([-1, 1], x.shape[1]), ("rotated",)),
    "scale": (lambda x, g: 7.3 * x, ("rotated",)),
    "zeros": (lambda x, g: np.pad(x, ((0, 0), (0, 5))), ("rotated",)),
    "float16": (lambda x, g: x.astype(np.float16), ("same",)),
    "bfloat16": (_bfloat16, ("same",)),
    "int8": (_rounded, ("same",)),
    "components 0.99": (_components(0.99), (UNDECIDED, "better")),
    "components 0.5": (_components(0.5), ("worse", "drifted")),
    "noise 0.1": (_noise(0.1), (UNDECIDED,)),
    "noise 0.5": (_noise(0.5), ("worse", "drifted", UNDECIDED)),
    "noise 2": (_noise(2.0), ("worse", "drifted")),
    "one point": (lambda x, g: x.mean(0) + 1e-6 * g.normal(size=x.shape), ("collapsed",)),
}
QUICK = ("rotation", "int8", "noise 2", "one point")
BASES = {
    "fix": ("text-pixels", "align-infonce-mlp", "text-minilm-raw", "finetune-resnet10t-good"),
    "held": ("text-pca", "healthy-loss-infonce0.1", "text-minilm-raw", "finetune-convnext-good"),
}
HALVES = {
    "features of a supervised net": "classes-deep-supcon-test-held",
    "features of a contrastive net": "align-infonce-mlp-held",
    "MiniLM features of sentences": "text-minilm-raw-fix",
}


def changed(base: str, half: str, x: np.ndarray, labels: np.ndarray | None) -> Iterator[Pair]:
    """Every change of one set of real features."""
    for name, (change, expected) in CHANGES.items():
        generator = np.random.default_rng([0])
        yield Pair(f"{base} {name}", half, x, change(x, generator).astype(np.float32), labels, expected)


def trainings(half: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Names of real cases before and now, trained on the same images, with the words that are right."""
    for head in ("linear", "mlp"):
        for end in ("align", "weak"):
            yield f"align-infonce-{head}", f"align-{end}-{head}", ("collapsed",)
    for net in ("mobilenetv3", "resnet10t", "vit", *(("convnext",) if half == "held" else ())):
        yield f"finetune-{net}-good", f"finetune-{net}-high", ("collapsed",)
    for net in ("linear", "mlp" if half == "fix" else "deep"):
        for end in ("ce-early", "ce-test", "supcon-early", "supcon-test"):
            yield f"classes-{net}-infonce", f"classes-{net}-{end}", SUPERVISED
    rates = ("0.05", "0.15", "0.2", "0.15") if half == "fix" else ("0.03", "0.1", "0.25", "0.25")
    yield f"dead-mlp2-rate{rates[0]}", f"dead-mlp2-rate{rates[1]}", (*SUPERVISED, "worse")
    yield f"dead-mlp2-rate{rates[0]}", f"dead-mlp2-rate{rates[2]}", ("collapsed",)
    yield f"dead-mlp2-rate{rates[0]}", f"dead-mlp4-rate{rates[3]}", ("collapsed",)
    yield "norms-none", "norms-reset", ("collapsed", "worse")
    yield "norms-none", "norms-bytes", ("collapsed", "worse")
    yield "text-minilm-raw", "text-minilm-centred", ("rotated",)
    yield "text-minilm-raw", "text-tfidf-svd", ("drifted",)


def written(real: Path | None, pairs: Path | None) -> Iterator[Pair]:
    """All pairs of the folders that were given."""
    for half in ("fix", "held") if real else ():
        for base in BASES[half]:
            yield from changed(base, half, *_read(real, base, half))
        for before, now, expected in trainings(half):
            x, labels = _read(real, before, half)
            yield Pair(f"{before} > {now}", half, x, _read(real, now, half)[0], labels, expected)
    for path in sorted(pairs.glob("*.npz")) if pairs else ():
        with np.load(path) as case:
            expected = tuple(case["expected"].tolist())
            yield Pair(path.stem, str(case["half"]), case["a"], case["b"], case["labels"], expected)


def _read(folder: Path | None, name: str, half: str) -> tuple[np.ndarray, np.ndarray | None]:
    assert folder is not None
    with np.load(folder / f"{name}-{half}.npz") as case:
        return case["features"], case.get("labels")


def _standardised(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (x - x.mean(0)) / x.std(0), labels


def line(pair: Pair, said: SideBySide) -> str:
    """One pair as a line of the table."""
    mark = " " if said.verdict in pair.expected else "!"
    return f"{mark} {pair.half:4} {pair.name:45} {' or '.join(pair.expected)} | {said.sentence}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--real", type=Path, help="the folder of real_cases.py")
    parser.add_argument("--pairs", type=Path, help="the folder of beside_cases.py")
    parser.add_argument("--draws", type=int, default=20, help="draws of two halves of each set")
    parser.add_argument("--quick", action="store_true", help="a few changes of the digits, and 2 draws")
    settings = parser.parse_args()
    digits = load_digits()
    pairs = written(settings.real, settings.pairs)
    if settings.quick:
        few = slice(400)
        pairs = (
            pair
            for pair in changed("digits", "fix", digits.data[few], digits.target[few])
            if pair.name.removeprefix("digits ") in QUICK
        )
    right: Counter[tuple[str, bool]] = Counter()
    for pair in pairs:
        said = judged(pair)
        right[pair.half, said.verdict in pair.expected] += 1
        print(line(pair, said), flush=True)
    for half in sorted({half for half, _ in right}):
        print(f"{half}: {right[half, True]} of {right[half, True] + right[half, False]} words are right")
    sets = {
        "pixels of digits": (digits.data, digits.target),
        "measurements of tumours": _standardised(*load_breast_cancer(return_X_y=True)),
    }
    if settings.real:
        sets |= {name: _read(settings.real, *file.rsplit("-", 1)) for name, file in HALVES.items()}
    for name, (x, labels) in sets.items():
        draws = 2 if settings.quick else settings.draws
        words = Counter(judged_halves(x, labels, draw).verdict for draw in range(draws))
        print(f"two halves of the {name}: {words[UNDECIDED]} of {draws} {UNDECIDED}", flush=True)


if __name__ == "__main__":
    main()
