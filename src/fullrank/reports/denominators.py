"""What each accuracy is reported with: images and classes, chance, sampling error, baselines. Torch-free."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fullrank.record import Baseline, ProbedImages, RunEntry
from fullrank.record.comparisons import grouped, mean_of
from fullrank.reports.numbers import in_points
from fullrank.statistics import Estimate, binomial_error, detectable_difference

TITLES = {"pixels": "pixels", "untrained": "untrained encoder", "pretrained": "encoder before training"}


@dataclass(frozen=True)
class BaselineRow:
    """A baseline of a table: its title, its accuracies in points as means over seeds, and a note."""

    title: str
    linear: Estimate | None
    nearest: Estimate | None
    note: str


def images_of(runs: Iterable[RunEntry], label: str | None = "label") -> list[ProbedImages]:
    """The different sets of test images of runs for a label, or for every label, in the order of the runs."""
    known = (each for run in runs for each in ([run.images] if run.images else []) + run.other_images)
    own = (each for each in known if each.split == "test" and label in (None, each.label))
    return list(dict.fromkeys(own))


def images_sentence(images: ProbedImages) -> str:
    """How many images and classes there are, and what chance is; of a file, also what it holds in all.

    >>> images_sentence(ProbedImages(label="label", train=1297, test=500, classes=10, chance=0.102))
    'Test: 500 images, 10 classes, chance 10.2; probes learn from 1,297 images.'
    >>> counts = {"train": 2500, "test": 2500, "classes": 100, "all_rows": 50000, "all_classes": 1000}
    >>> images_sentence(ProbedImages(label="label", chance=0.01, **counts))
    'Test: 2,500 rows, 100 of 1,000 classes, chance 1.0; probes learn from 2,500 of 50,000 labelled rows.'
    """
    what = "Test" if images.split == "test" else f"Shift {images.split}"
    label = "" if images.label == "label" else f" of '{images.label}'"
    noun, learned, classes = "image", _count(images.train, "image"), _count(images.classes, "class")
    if images.all_rows:
        noun, learned = "row", f"{images.train:,} of {_count(images.all_rows, 'labelled row')}"
        if images.classes < images.all_classes:
            classes = f"{images.classes:,} of {_count(images.all_classes, 'class')}"
    sizes = f"{_count(images.test, noun)}, {classes}{label}"
    return f"{what}: {sizes}, chance {in_points(100 * images.chance)}; probes learn from {learned}."


def error_sentence(accuracies: Sequence[float], tested: int) -> str:
    """The standard errors of the lowest and the highest of some accuracies, which are in points.

    >>> error_sentence([95.0], 500)
    'Standard error of an accuracy: 1.0 points.'
    >>> error_sentence([95.0, 80.0, 90.0], 500)
    'Standard error: 1.8 points at an accuracy of 80.0, 1.0 at 95.0.'
    """
    ends = list(dict.fromkeys((min(accuracies), max(accuracies))))
    errors = [in_points(standard_error(each, tested)) for each in ends]
    written = [in_points(each) for each in ends]
    if len(set(errors)) == 1:
        return f"Standard error of an accuracy: {errors[0]} points."
    return f"Standard error: {errors[0]} points at an accuracy of {written[0]}, {errors[1]} at {written[1]}."


def standard_error(accuracy: float, tested: int) -> float:
    """The binomial standard error of an accuracy, both in points."""
    return 100 * binomial_error(accuracy / 100, tested)


def within_noise(first: float, second: float, tested: int) -> float:
    """The difference in points that the sampling of `tested` images explains, for accuracies in points."""
    return 100 * detectable_difference(first / 100, second / 100, tested)


def baseline_rows(runs: Sequence[RunEntry]) -> list[BaselineRow]:
    """The baselines of a table's runs, means over seeds; one row for each setting whose baselines differ."""
    settings = grouped(
        (", ".join(f"{key}={value}" for key, value in run.varied.items()), run) for run in runs
    )
    rows: dict[str, dict[str, BaselineRow]] = {}
    for setting, own in settings.items():
        kinds = grouped((each.features, (run.seed, each)) for run in own for each in run.baselines)
        for kind, pairs in kinds.items():
            by_seed = dict(pairs)  # the heads of a seed share the encoder that they start from
            rows.setdefault(TITLES[kind], {})[setting] = baseline_row(TITLES[kind], list(by_seed.values()))
    different = {title: list(dict.fromkeys(by_setting.values())) for title, by_setting in rows.items()}
    return [
        BaselineRow(
            f"{title}, {setting}" if len(different[title]) > 1 else title, row.linear, row.nearest, row.note
        )
        for title, by_setting in rows.items()
        for setting, row in by_setting.items()
        if len(different[title]) > 1 or setting == next(iter(by_setting))
    ]


def baseline_row(title: str, baselines: Sequence[Baseline]) -> BaselineRow:
    """The mean of one kind of baseline over seeds."""
    linear = [100 * each.linear for each in baselines if each.linear is not None]
    nearest = [100 * each.nearest for each in baselines if each.nearest is not None]
    same = len(set(linear)) == 1  # pixels are the same for every seed
    notes = "; ".join(dict.fromkeys(each.note for each in baselines if each.note))
    if same:
        return BaselineRow(title, Estimate(linear[0]), Estimate(nearest[0]), notes)
    return BaselineRow(title, mean_of(linear), mean_of(nearest), notes)


def baseline_sentences(rows: Sequence[BaselineRow]) -> list[str]:
    """The linear accuracies of baselines in a sentence, and why others were not measured, in one each."""
    shown = [f"{row.title} {in_points(row.linear.mean)}{_aside(row.note)}" for row in rows if row.linear]
    sentences = [f"Linear accuracy of baselines: {', '.join(shown)}."] if shown else []
    missing = grouped((row.note, row.title) for row in rows if row.linear is None)
    return sentences + [f"{_listed(titles)} {_were(titles)} {note}." for note, titles in missing.items()]


def under_table(runs: Sequence[RunEntry], accuracies: Sequence[float]) -> list[str]:
    """The sentences under a table: images, standard errors of `accuracies` (points), baselines."""
    sentences = sample_sentences(runs)
    if accuracies and len(tested := {each.test for each in images_of(runs)}) == 1:
        sentences.append(error_sentence(accuracies, tested.pop()))
    return sentences + baseline_sentences(baseline_rows(runs))


def sample_sentences(runs: Sequence[RunEntry], label: str | None = "label") -> list[str]:
    """The sentences on the test images of a table's runs, one for each different set of at most 3.

    With None as the label, those of every label that the records hold.
    """
    images = images_of(runs, label)
    if len(images) <= 3:
        return [images_sentence(each) for each in images]
    tested, chances = [each.test for each in images], [100 * each.chance for each in images]
    sizes = f"{min(tested):,}" if len(set(tested)) == 1 else f"{min(tested):,} to {max(tested):,}"
    chance = f"{in_points(min(chances))} to {in_points(max(chances))}"
    return [
        f"Test: {len(images)} sets or labels of {sizes} images, chance {chance}; each run's page has its own."
    ]


def _aside(note: str) -> str:
    return f" ({note})" if note else ""


def _listed(titles: Sequence[str]) -> str:
    text = " and ".join(titles)
    return text[:1].upper() + text[1:]


def _were(titles: Sequence[str]) -> str:
    return "were" if len(titles) > 1 or titles[0].startswith("pixels") else "was"


def _count(number: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
