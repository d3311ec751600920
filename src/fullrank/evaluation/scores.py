"""Every score of one place: two probes are fitted there, and read in all the ways that were asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fullrank import probes as measured
from fullrank.evaluation.groups import Grouping
from fullrank.evaluation.shifts import Shift
from fullrank.probes import LinearProbe, NearestProbe, among, balanced_probe
from fullrank.probes.linear import Treatment
from fullrank.probes.shots import SHOT_PENALTY
from fullrank.record import ProbeScore, Score
from fullrank.record.scores import ACCURACY, AMONG_CLASSES, RECALL_AT, Probe


@dataclass(frozen=True)
class LabelledFeatures:
    """Features (N, D) of some images at one place, and their labels (N,), -1 where unlabelled."""

    features: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Request:
    """What is to be measured at every place, beside the default protocol."""

    measures: Sequence[str]
    shots: Sequence[int]
    features: Treatment
    seed: int
    class_names: Sequence[str]
    groups: Grouping | None
    shifts: Mapping[str, Shift]


@dataclass(frozen=True)
class Scorer:
    """Makes tidy scores of one place and kind of label; `treatment` is what linear probes do to features."""

    place: str
    label: str
    treatment: Treatment = "raw"
    scores: list[Score] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(
        self,
        probe: Probe,
        statistic: str,
        value: float,
        *,
        subject: str = "",
        shots: int | None = None,
        split: str = "test",
    ) -> None:
        """Keep one number. Linear probes have what was done to their features, the others unit length."""
        score = Score(
            place=self.place,
            label=self.label,
            split=split,
            features="l2" if probe in ("nearest", "retrieval") else self.treatment,
            shots=shots,
            probe=probe,
            statistic=statistic,
            subject=subject,
            value=value,
        )
        self.scores.append(score)


@dataclass(frozen=True)
class Readers:
    """The two probes of one place, fitted on `known`, the training images."""

    known: LabelledFeatures
    linear: LinearProbe
    nearest: NearestProbe

    @classmethod
    def fitted(cls, known: LabelledFeatures, treatment: Treatment, seed: int) -> "Readers":
        """Both probes, by the default protocol but for what is done to the features."""
        linear = LinearProbe(features=treatment, seed=seed).fit(known.features, known.labels)
        return cls(known, linear, NearestProbe().fit(known.features, known.labels))

    def among(self, classes: frozenset[int]) -> "Readers":
        """Probes that choose among some classes alone: the linear weights stay, the neighbours are theirs."""
        rows = torch.isin(self.known.labels, torch.tensor(sorted(classes)))
        theirs = LabelledFeatures(self.known.features[rows], self.known.labels[rows])
        nearest = NearestProbe().fit(theirs.features, theirs.labels)
        return Readers(theirs, among(self.linear, classes), nearest)


def score_place(
    scorer: Scorer,
    request: Request,
    known: LabelledFeatures,
    asked: LabelledFeatures,
    shifted: Mapping[str, LabelledFeatures],
) -> ProbeScore:
    """Every score of one place that was asked for; those of the default protocol are returned too."""
    groups, measures = request.groups, request.measures
    readers = Readers.fitted(known, request.features, request.seed)
    result = _read(scorer, readers, asked)
    if "per-class" in measures:
        _by_class(scorer, readers.linear, asked, request.class_names)
    if "retrieval" in measures:
        _retrieve(scorer, asked)
    if groups is not None and "groups" in measures:
        _by_group(scorer, "linear", readers.linear, asked, groups)
        _by_cue(scorer, readers.linear, asked, groups)
    if groups is not None and "group-balanced" in measures:
        balanced = balanced_probe(
            known.features, known.labels, groups.train, treatment=request.features, seed=request.seed
        )
        _by_group(scorer, "group-balanced", balanced, asked, groups)
    for spec, shift in request.shifts.items():
        _under_shift(scorer, readers, asked, shifted[spec], spec, shift)
    _few(scorer, known, asked, request)
    return result


def _read(scorer: Scorer, readers: Readers, asked: LabelledFeatures) -> ProbeScore:
    """The default protocol at one place."""
    linear, nearest = (
        probe.score(asked.features, asked.labels) for probe in (readers.linear, readers.nearest)
    )
    scorer.add("linear", ACCURACY, linear)
    scorer.add("nearest", ACCURACY, nearest)
    return ProbeScore(linear=linear, nearest=nearest)


def _by_class(
    scorer: Scorer, probe: LinearProbe, asked: LabelledFeatures, class_names: Sequence[str]
) -> None:
    result = measured.per_class(probe.predict(asked.features), asked.labels)
    for number, share in result.accuracy.items():
        scorer.add("linear", "class accuracy", share, subject=class_names[number])
    for number, ratio in result.bias.items():
        scorer.add("linear", "prediction bias", ratio, subject=class_names[number])
    scorer.add("linear", "mean over classes", result.mean)
    scorer.add("linear", "worst class", result.worst)
    scorer.add("linear", "best class", result.best)
    scorer.add("linear", "standard deviation over classes", result.std)


def _retrieve(scorer: Scorer, asked: LabelledFeatures) -> None:
    found = measured.retrieval(asked.features, asked.labels, ks=RECALL_AT)
    for k, value in found.recall.items():
        scorer.add("retrieval", f"recall@{k}", value)
    scorer.add("retrieval", "mean average precision", found.mean_average_precision)


def _by_group(
    scorer: Scorer, name: Probe, probe: LinearProbe, asked: LabelledFeatures, groups: Grouping
) -> None:
    found = groups.accuracy(probe.predict(asked.features), asked.labels)
    scorer.add(name, "worst group", found.worst)
    scorer.add(name, "mean over groups", found.mean)
    scorer.add(name, "weighted by training groups", found.weighted(groups.train))
    count = found.counts[found.worst_group]
    scorer.notes.append(
        f"Worst group of the {name} probe at {scorer.place}: {groups.names[found.worst_group]}, "
        f"{count} test image{'s' if count > 1 else ''}."
    )


def _by_cue(scorer: Scorer, probe: LinearProbe, asked: LabelledFeatures, groups: Grouping) -> None:
    found = groups.gaps(probe.predict(asked.features), asked.labels)
    for name, gap in (found.gaps if found else {}).items():
        scorer.add("linear", "gap", gap, subject=name)


def _under_shift(
    scorer: Scorer,
    readers: Readers,
    asked: LabelledFeatures,
    there: LabelledFeatures,
    spec: str,
    shift: Shift,
) -> None:
    """Accuracy on a shift, and where it has fewer classes than training, on the test images of these."""
    chosen = readers.among(shift.classes) if shift.narrower else readers
    inside = torch.isin(asked.labels, torch.tensor(sorted(shift.classes)))
    readers_by_name: dict[Probe, LinearProbe | NearestProbe] = {
        "linear": chosen.linear,
        "nearest": chosen.nearest,
    }
    for name, probe in readers_by_name.items():
        scorer.add(name, ACCURACY, probe.score(there.features, there.labels), split=spec)
        if shift.narrower and inside.any():
            accuracy = probe.score(asked.features[inside], asked.labels[inside])
            scorer.add(name, AMONG_CLASSES, accuracy, subject=spec)


def _few(scorer: Scorer, known: LabelledFeatures, asked: LabelledFeatures, request: Request) -> None:
    if not request.shots:
        return
    for result in measured.few_shot(
        known.features,
        known.labels,
        asked.features,
        asked.labels,
        shots=request.shots,
        seed=request.seed,
        probe=lambda: LinearProbe([SHOT_PENALTY], features=request.features),
    ):
        scorer.add("linear", ACCURACY, result.mean, shots=result.shots)
