"""Records and arrays of realistic shapes, made up: a single run, a study of four heads, one of twelve."""

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from plotly.offline import get_plotlyjs

from fullrank.files import save_arrays
from fullrank.record import (
    Baseline,
    DiagnosisEntry,
    DimensionCurve,
    Finding,
    LayerRow,
    Machine,
    Measure,
    OperationShare,
    ProbedImages,
    ProbeScore,
    Published,
    Record,
    RunEntry,
    Score,
    Spectrum,
    TableEntry,
    TableRow,
)

FOUR = ["none", "linear:48", "subvector:24", "mlp:48"]
TWELVE = [
    *FOUR,
    "none,norm=batch",
    "subvector:24,norm=batch",
    "lowrank:24",
    "diagonal",
    "orthogonal",
    "reweight:1.05",
    "mlp:48,hidden=192,layers=3",
    "random-subvector:24",
]
WIDTH = 96
MADE = {
    "fullrank": "0.1.0",
    "created": "2026-03-01T12:30:00+00:00",
    "machine": Machine(processor="AMD EPYC 7B13", threads=2, device="cpu", python="3.12.3", torch="2.15.0"),
}
PUBLISHED = Published(
    caption="P1 Table 1, linear-probe top-1 on ImageNet (ResNet-50, 100 epochs): another data set and scale.",
    values={"none": 51.5, "linear:48": 61.1, "subvector:24": 62.7, "mlp:48": 66.5},
)


VOID = {"meta", "img", "br", "wbr", "line", "ellipse", "link", "input", "hr"}
# plotly's own code is 5 MB, holds no record, and would be parsed for every page.
LIBRARY = get_plotlyjs()


class Page(HTMLParser):
    """Text, attributes and scripts of a page; raises where tags do not nest."""

    def __init__(self, path: Path):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.scripts = "", list[str]()
        content = path.read_text(encoding="utf-8")
        assert content.count(LIBRARY) == 1
        self.feed(content.replace(LIBRARY, "plotly"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts[-1] += data
        elif self.open[-1:] != ["style"]:
            self.text += data

    @property
    def figures(self) -> list[dict]:
        kinds = [attributes.get("type") for attributes in self.all("script")]
        texts = zip(kinds, self.scripts, strict=True)
        return [json.loads(text) for kind, text in texts if kind == "application/json"]

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def ids(self) -> set[str | None]:
        """The sections of the page."""
        return {attributes.get("id") for attributes in self.all("h2")}

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


@pytest.fixture
def read_page() -> Callable[[Path], Page]:
    return Page


def spectrum(generator: np.random.Generator, width: int, decay: float, dead: int = 0) -> Spectrum:
    values = np.exp(-1.5 - decay * np.arange(width) - 2 * (np.arange(width) / width) ** 6)
    values = np.sort(values * np.exp(generator.normal(0, 0.08, width)))[::-1].copy()
    if dead:
        values[-dead:] = 0
    share = np.sqrt(values) / np.sqrt(values).sum()
    share = share[share > 0]
    return Spectrum(
        singular_values=values.tolist(), effective_rank=float(np.exp(-(share * np.log(share)).sum()))
    )


def run_entry(head: str, seed: int, folder: str = ".", position: int = 0) -> RunEntry:
    generator = np.random.default_rng([seed, position])
    level = [0.948, 0.976, 0.981, 0.974, 0.965, 0.983, 0.976, 0.972, 0.95, 0.966, 0.973, 0.96][position % 12]
    level += 0.006 * generator.standard_normal() + 0.003 * np.sin(seed)
    places = {"h": level, "z": level - 0.02 - 0.01 * (position % 3)}
    if head.startswith(("linear", "mlp")):
        layers = 1 if head.startswith("linear") else 3 if "layers=3" in head else 2
        places |= {f"head.{i}": level - 0.01 * i for i in range(1, layers + 1)}
    if head.startswith("subvector"):
        places["h[:24]"] = places["z"]
    probes = {
        place: ProbeScore(linear=float(value), nearest=float(value - 0.013))
        for place, value in places.items()
    }
    scores = [
        Score(
            place=place,
            label="label",
            split="test",
            features=features,
            shots=shots,
            probe="linear",
            statistic="accuracy",
            value=float(value - 0.002 * len(features)),
        )
        for place, value in places.items()
        for features, shots in (("raw", None), ("standardised", None), ("raw", 10))
    ]
    z_width = 24 if "24" in head else 48 if "48" in head else WIDTH
    return RunEntry(
        head=head,
        seed=seed,
        folder=folder,
        epochs=40,
        steps=200,
        loss=0.62 + 0.1 * position,
        chance=float(np.log(256)),
        seconds=34.6 + seed,
        views_per_second=2998.4,
        parameters={"encoder": 175_536, "head": 4608 * (position % 2)},
        probes=probes,
        scores=scores,
        spectrum={
            "h": spectrum(generator, WIDTH, 0.05 + 0.006 * position, dead=8 if head == "none" else 0),
            "z": spectrum(generator, z_width, 0.04 + 0.01 * position),
        },
        scales_channels=head.startswith(("diagonal", "reweight", "none,norm")),
        images=ProbedImages(label="label", train=1297, test=500, classes=10, chance=0.102),
        baselines=[
            Baseline(features="pixels", linear=0.972, nearest=0.966),
            Baseline(features="untrained", linear=0.868 + 0.01 * seed, nearest=0.8),
        ],
    )


def arrays(seed: int, position: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng([seed, position, 1])
    step = np.arange(0, 200, 2)
    epoch = step / 5
    rise = 1 - np.exp(-epoch / (6 + position))
    grid = np.linspace(-1, 1, 8)
    ring = np.exp(-((np.hypot(grid[:, None], grid[None]) - 0.6) ** 2) * 12)
    views = np.stack([np.stack([ring, np.roll(ring, k, 0), 0.6 * ring.T + 0.2]) for k in range(1, 7)])
    values = np.exp(-1 - (0.02 + 0.05 * rise[::10, None]) * np.arange(WIDTH))
    return {
        "step": step,
        "epoch": epoch,
        "loss": np.log(256) - (4.6 - 0.1 * position) * rise + generator.normal(0, 0.06, step.size),
        "positive_similarity": 0.4 + 0.5 * rise + generator.normal(0, 0.01, step.size),
        "negative_similarity": 0.3 - 0.28 * rise + generator.normal(0, 0.005, step.size),
        "effective_rank": 20 + (25 - position) * rise + generator.normal(0, 0.6, step.size),
        "learning_rate": 3e-3 * (1 - epoch / 40),
        "spectrum_step": step[::10],
        "spectrum_h": values,
        "examples": (255 * np.clip(views, 0, 1)).astype(np.uint8)[..., None],
    }


def make_record(kind: str, heads: list[str], seeds: int, published: Published | None = None) -> Record:
    runs = [
        run_entry(
            head, seed, "." if kind == "run" else f"{position:02d}-{head.partition(':')[0]}-s{seed}", position
        )
        for position, head in enumerate(heads)
        for seed in range(seeds)
    ]
    recipe = {
        "data": "digits",
        "encoder": "tiny-resnet",
        "head": heads[0],
        "objective": "infonce:0.2",
        "views": {"name": "simclr", "scale": [0.4, 1.0], "flip": True},
        "image_size": 8,
        "epochs": 40,
        "batch_size": 256,
        "optimizer": {"name": "adamw", "lr": 0.003},
        "seed": 0,
    }
    return Record.model_validate(
        {
            "kind": kind,
            **MADE,
            "recipe": recipe,
            "runs": runs,
            "published": published,
        }
    )


def write_run_folders(record: Record, folder: Path) -> Path:
    """Write the record and the arrays of its runs, as a finished command leaves them."""
    heads = list(dict.fromkeys(run.head for run in record.runs))
    folder.mkdir(parents=True, exist_ok=True)
    record.save(folder)
    for run in record.runs:
        (folder / run.folder).mkdir(parents=True, exist_ok=True)
        save_arrays(folder / run.folder, arrays(run.seed, heads.index(run.head)))
    if "monitor" in record.recipe:
        save_arrays(folder, looks_over_time(record.diagnosis.places))
    return folder


@pytest.fixture
def store() -> Callable[[Record, Path], Path]:
    return write_run_folders


@pytest.fixture
def make_arrays() -> Callable[[Record], dict[str, dict[str, np.ndarray]]]:
    def make(record: Record) -> dict[str, dict[str, np.ndarray]]:
        heads = list(dict.fromkeys(run.head for run in record.runs))
        return {run.folder: arrays(run.seed, heads.index(run.head)) for run in record.runs}

    return make


@pytest.fixture(scope="session")
def run_record() -> Record:
    return make_record("run", ["linear:48"], 1)


@pytest.fixture(scope="session")
def study_record() -> Record:
    return make_record("study", FOUR, 1, PUBLISHED)


@pytest.fixture(scope="session")
def large_record() -> Record:
    return make_record("study", TWELVE, 5)


DEEP = ["stem", *(f"encoder.stages.{i}.blocks.{j}" for i in range(4) for j in (0, 2, 5)), "h", "z"]
OPERATIONS = ["crop", "flip", "brightness", "contrast", "saturation", "hue", "grey", "blur", "solarise"]


def make_diagnosis(
    places: list[str],
    *,
    target: str = "runs/digits",
    labels: bool = True,
    views: bool = True,
    findings: list[Finding] | None = None,
    collapsed: bool = False,
) -> Record:
    """The record of a diagnosis at `places`; where it collapsed, half the dimensions of the last are zero."""
    generator = np.random.default_rng(len(places))
    last = len(places) - 1
    widths = [64 * 2 ** (4 * i // max(len(places), 4)) for i in range(len(places))]
    spectra = {
        place: spectrum(generator, width, 4 / width, dead=width // 2 if collapsed and i >= last - 1 else 0)
        for i, (place, width) in enumerate(zip(places, widths, strict=True))
    }
    names = ["effective_rank", "rankme", "participation_ratio", "stable_rank", "mean_cosine", "alpha_req"]
    level = [0.55 + 0.4 * np.sin(2.2 * (i + 1) / (last + 1)) for i in range(len(places))]
    aligned = np.abs(np.linalg.qr(np.eye(32) + 0.15 * generator.normal(size=(32, 32)))[0])
    alpha = np.linspace(6, 0.4, 9)
    some = [place for place in places if place in ("h", "z")] or places[-1:]
    return Record.model_validate(
        {
            "kind": "diagnosis",
            **MADE,
            "recipe": {},
            "runs": [],
            "diagnosis": DiagnosisEntry(
                target=target,
                rows=1297,
                places=places,
                verdict=(
                    f"Half of the dimensions of {places[-1]} are lost."
                    if collapsed
                    else "The features use the dimensions that they have."
                ),
                collapsed=collapsed,
                cut=places[int(np.argmax(level))] if labels else None,
                findings=findings or [],
                measures=[
                    Measure(
                        place=place,
                        name=name,
                        value=None if name == "alpha_req" and i == 0 else 1.37 * (i + 1) + 10 * j,
                    )
                    for i, place in enumerate(places)
                    for j, name in enumerate(names)
                ],
                spectrum=spectra,
                layers=[
                    LayerRow(
                        place=place,
                        width=width,
                        effective_rank=spectra[place].effective_rank,
                        rankme=0.9 * spectra[place].effective_rank,
                        linear=level[i] if labels else None,
                        nearest=level[i] - 0.031 if labels else None,
                        recall_at_1=level[i] - 0.052 if labels else None,
                        gradient_rank=3.3 + 2 * i if views else None,
                    )
                    for i, (place, width) in enumerate(zip(places, widths, strict=True))
                ],
                dimensions=[
                    DimensionCurve(
                        place=place,
                        kind=kind,
                        dimensions=[2**k for k in range(10)],
                        accuracy=[1 - (0.7 + 0.1 * (place == "z")) * 2 ** (-power * k) for k in range(10)],
                    )
                    for place in some
                    for kind, power in (("random channels", 0.3), ("leading components", 0.6))
                ]
                if labels
                else [],
                augmentation=[
                    OperationShare(place=place, operation=operation, share=float(share))
                    for place in places
                    for operation, share in zip(OPERATIONS, generator.dirichlet(alpha), strict=True)
                ]
                if views
                else [],
                alignment=aligned.tolist() if collapsed else [],
                not_seen=[] if views else ["The augmentation: the file has no positives to compare."],
            ),
        }
    )


def looks_over_time(names: list[str]) -> dict[str, np.ndarray]:
    """Series as SpectrumMonitor leaves them: directions are lost on the way, and one look is not finite."""
    step, found = np.array([3, *range(50, 1050, 50)]), {}
    for position, name in enumerate(names):
        width = 32 * 2**position
        values = np.exp(-0.002 * step[:, None] * np.arange(width) / 8).astype(np.float32)
        values[15:, width // 2 :] = 0
        p = np.sqrt(values) / np.sqrt(values).sum(1, keepdims=True)
        ranks = np.exp(-np.sum(p * np.log(np.where(p > 0, p, 1)), axis=1))
        live = (values > 1e-6).sum(1).astype(float)
        for series in (values, ranks, live):
            series[7] = np.nan
        found |= {
            f"spectrum/{name}/{series}": each
            for series, each in (
                ("step", step),
                ("singular_values", values),
                ("effective_rank", ranks),
                ("live_dimensions", live),
            )
        }
    return found


def three_findings(place: str) -> list[Finding]:
    """Three causes, one of them at two places and one without a title."""
    outweigh = (
        "augmentation",
        "The views outweigh the data",
        "alarm",
        "negative_share",
        0.1,
        "Weaken the crop.",
    )
    return [
        finding("mean-dominance", "", "note", "mean_cosine", 0.95, "Standardise.", place="h", value=0.957),
        finding(*outweigh, place=place, value=0.48, evidence="In 31 of 64 directions two views differ more."),
        finding(*outweigh, place="z", value=0.52, evidence="In 33 of 64 directions two views differ more."),
        finding(
            *("dead-channels", "Some channels never change", "alarm", "constant share", 0.05),
            "Lower the learning rate.",
            place="h",
            value=0.5,
            evidence="48 of 96 channels are constant over all rows.",
        ),
    ]


def finding(cause, title, level, measure, threshold, remedy, **more) -> Finding:
    kind = {"cause": cause, "title": title, "level": level, "measure": measure, "remedy": remedy}
    return Finding(**kind, threshold=threshold, **({"evidence": "The mean is most of it."} | more))


@pytest.fixture(scope="session")
def healthy_diagnosis() -> Record:
    return make_diagnosis(["stem", "layer1.0", "layer2.0", "layer3.0", "h", "head.1", "z"])


@pytest.fixture(scope="session")
def collapsed_diagnosis() -> Record:
    places = ["stem", "layer1.0", "layer2.0", "layer3.0", "h", "z"]
    return make_diagnosis(places, findings=three_findings("layer3.0"), collapsed=True)


@pytest.fixture(scope="session")
def file_diagnosis() -> Record:
    return make_diagnosis(["features"], target="embeddings.npy", labels=False, views=False)


@pytest.fixture
def watched_record() -> Record:
    record = make_diagnosis(["encoder", "head.0"], target="Foreign", labels=False, views=False)
    fell = ("rank-fell", "The variance has moved", "alarm", "effective_rank", 10.0, "Try weaker views.")
    findings = [finding(*fell, place="head.0", value=9.5, evidence="Step 35: it has moved.")]
    watched = record.diagnosis.model_copy(update={"layers": [], "findings": findings, "collapsed": True})
    recipe = {"monitor": {"modules": {"encoder": "net", "head.0": "net.1"}, "samples": 4096}}
    return record.model_copy(update={"diagnosis": watched, "recipe": recipe})


@pytest.fixture
def watched_arrays(watched_record: Record) -> dict[str, np.ndarray]:
    return looks_over_time(watched_record.diagnosis.places)


@pytest.fixture(scope="session")
def deep_diagnosis() -> Record:
    return make_diagnosis(DEEP, target="timm/" + "vit_small_patch16_reg4_dinov2_and_a_long_name" * 3)


@pytest.fixture
def table_record() -> Record:
    """A sweep of three heads with a flat row below it, two seeds, a paper's numbers and predictions."""
    heads = ["none", "subvector:8", "subvector:24", "subvector:48"]
    study = make_record("study", heads, 2)
    runs = [run.model_copy(update={"folder": f"../runs/{run.head}-{run.seed}"}) for run in study.runs]
    rows = [
        TableRow(
            title=f"{head}, a setting whose name is long",
            seeds=[0, 1],
            runs=[f"{head}-{seed}" for seed in (0, 1)],
            paper=[paper, None, None],
            values=[[90.0 + i, 91.0 + i], [2.0 - i, 2.1 - i], [40.0 + i, 41.0 + i]],
            x=x,
            expected=expected,
            theory=theory,
        )
        for i, (head, paper, x, expected, theory) in enumerate(
            [
                ("none", 51.5, None, "pre", 0.5),
                ("subvector:8", None, 8.0, "post", -0.5),
                ("subvector:24", 62.7, 24.0, "post", -0.1),
                ("subvector:48", None, 48.0, "nothing", None),
            ]
        )
    ]
    table = TableEntry(
        name="directclr/figure12",
        scale="mini",
        title="Figure 12: how many channels",
        source="P1, Figure 12",
        question="Is there a best d0?",
        paper="ImageNet",
        here="digits, tiny-resnet, 40 epochs",
        alike=True,
        columns=["linear on h", "h less z", "effective rank"],
        units=["points", "points", "number"],
        differences=[1],
        rows=rows,
        spectrum=["h"],
        x="d0",
        log_x=True,
        remarks=["Small."],
    )
    return study.model_copy(update={"runs": runs, "table": table})
