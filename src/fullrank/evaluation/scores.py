"""All scores of one place: two probes are fitted there and scored in all requested ways."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from fullrank import probes
from fullrank.data.image_set import UNLABELLED
from fullrank.errors import UsageError, unknown_name
from fullrank.evaluation.classes import absent_note, class_scores
from fullrank.evaluation.corrections import Corrected, corrections
from fullrank.evaluation.groups import Grouping
from fullrank.evaluation.shifts import Shift
from fullrank.probes import (
    ClassMeanProbe,
    LinearProbe,
    MultiLabel,
    NearestProbe,
    Probe as AnyProbe,
    among,
    balanced_probe,
    multi_label,
)
from fullrank.probes.diffused import DELTA
from fullrank.probes.few_shots import EPISODES, SHOT_PENALTY
from fullrank.probes.linear import Treatment
from fullrank.record import ProbeScore, Score
from fullrank.record.scores import (
    ACCURACY,
    ACCURACY_IN,
    AMONG_CLASSES,
    BY_CLASS,
    CORRECTIONS,
    CUE_READ,
    DIFFUSED,
    IN_DIRECTIONS,
    LABELS_SCORED,
    MEAN_AUROC,
    MEAN_PRECISION,
    MEASURES,
    RECALL_AT,
    REDUNDANCY,
    WORST_CLASS_IN,
    Probe,
)

_DEFAULT: tuple[Probe, Probe] = ("linear", "nearest")


@dataclass(frozen=True)
class Request:
    """What is measured at every place, and how (see `evaluate`).

    Args:
        label: The name of the labels.
        measures: Further measures.
        shots: Numbers of training images per class for few-shot accuracy.
        episodes: Number of random draws of these images.
        features: What is done to the features before linear probes.
        seed: Seed of the rows that linear probes hold out, and of the measure "views".
        views: The spec of the views for the measure "views".

    Raises:
        UsageError: If a measure or treatment is unknown, or a number of shots or episodes is below 1.
    """

    label: str = "label"
    measures: Sequence[str] = ()
    shots: Sequence[int] = ()
    features: Treatment = "raw"
    seed: int = 0
    episodes: int = EPISODES
    views: str | None = None

    def __post_init__(self) -> None:
        for measure in self.measures:
            if measure not in MEASURES:
                raise unknown_name("measure", measure, MEASURES, f"use {', '.join(MEASURES)}")
        if any(count < 1 for count in self.shots):
            raise UsageError(f"Shots per class must be 1 or more, but got {min(self.shots)}; raise it.")
        if self.episodes < 1:
            raise UsageError(
                f"episodes must be 1 or more, but got {self.episodes}; the default is {EPISODES}."
            )
        if self.features not in (treatments := get_args(Treatment)):
            remedy = f"use {', '.join(treatments)}"
            raise unknown_name("treatment of features", self.features, treatments, remedy)


class LabelledFeatures(NamedTuple):
    """Features (N, D) of some images at one place, and their labels (N,); -1 means no label."""

    features: Tensor
    labels: Tensor

    def of_classes(self, classes: frozenset[int]) -> "LabelledFeatures":
        """The features and labels of the images of some classes."""
        rows = torch.isin(self.labels, torch.tensor(sorted(classes)))
        return LabelledFeatures(self.features[rows], self.labels[rows])


@dataclass(frozen=True)
class PlaceScores:
    """The scores of one place, and notes on them."""

    place: str
    request: Request
    scores: list[Score] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def measure(
        self,
        train: LabelledFeatures,
        test: LabelledFeatures,
        class_names: Sequence[str],
        groups: Grouping | None,
        shifted: Mapping[str, tuple[Shift, LabelledFeatures]],
    ) -> ProbeScore:
        """Add all scores of the request, and return those of the default protocol."""
        treatment, seed, measures = self.request.features, self.request.seed, self.request.measures
        linear = LinearProbe(features=treatment, seed=seed).fit(*train)
        nearest = NearestProbe().fit(*train)
        result = ProbeScore(linear=linear.score(*test), nearest=nearest.score(*test))
        self._add("linear", ACCURACY, result.linear)
        self._add("nearest", ACCURACY, result.nearest)
        if "per-class" in measures:
            self._by_class({"linear": linear, "nearest": nearest}, train, test, class_names)
        if "reduced" in measures:
            self._in_directions(linear, train, test)
        if REDUNDANCY in measures:
            self._redundancy(linear, train, test)
        if "retrieval" in measures:
            retrieved = probes.retrieval(*test, ks=RECALL_AT)
            for k, value in retrieved.recall.items():
                self._add("retrieval", f"recall@{k}", value)
            self._add("retrieval", "mean average precision", retrieved.mean_average_precision)
        if groups is not None and {"groups", CORRECTIONS} & set(measures):
            self._by_group("linear", linear, test, groups)
        if groups is not None and "groups" in measures:
            by_cue = groups.gaps(linear.predict(test.features), test.labels)
            for cue, gap in (by_cue.gaps if by_cue else {}).items():
                self._add("linear", "gap", gap, subject=cue)
        if groups is not None and "group-balanced" in measures:
            balanced = balanced_probe(*train, groups.train, treatment=treatment, seed=seed)
            self._by_group("group-balanced", balanced, test, groups)
        for spec, (shift, features) in shifted.items():
            chosen, inside = (linear, nearest), None
            if shift.narrower:
                chosen = among(linear, shift.classes), NearestProbe().fit(*train.of_classes(shift.classes))
                inside = test.of_classes(shift.classes)
            fitted = dict(zip(_DEFAULT, chosen, strict=True))
            if "per-class" in measures:
                learned = train.of_classes(shift.classes) if shift.narrower else train
                self._by_class(fitted, learned, features, class_names, spec)
            for name, probe in fitted.items():
                self._add(name, ACCURACY, probe.score(*features), split=spec)
                if inside is not None and len(inside.labels):
                    self._add(name, AMONG_CLASSES, probe.score(*inside), subject=spec)
        if shots := self.request.shots:
            shot_probe = partial(LinearProbe, [SHOT_PENALTY], features=treatment)
            how: dict[str, Any] = {"episodes": self.request.episodes, "seed": seed, "probe": shot_probe}
            for few in probes.few_shot(*train, *test, shots=shots, **how):
                interval: dict[str, Any] = {"low": few.low, "high": few.high, "episodes": len(few.accuracies)}
                self._add("linear", ACCURACY, few.mean, shots=few.shots, **interval)
        return result

    def corrected(self, train: LabelledFeatures, test: LabelledFeatures, groups: Grouping) -> Tensor:
        """Add the scores by group under each correction, and of each cue; w of the test images (N, D)."""
        treatment, seed = self.request.features, self.request.seed
        self._by_cue("linear", Corrected(train.features, test.features), test, groups)
        by_probe = dict(corrections(train.features, test.features, groups, seed))
        # The mean difference cannot correct images without a known group, so no probe learns from them.
        labels = torch.where(torch.from_numpy(groups.train) == UNLABELLED, UNLABELLED, train.labels)
        for name, features in by_probe.items():
            probe = LinearProbe(features=treatment, seed=seed).fit(features.train, labels)
            self._by_group(name, probe, LabelledFeatures(features.test, test.labels), groups)
            self._by_cue(name, features, test, groups)
        return by_probe["correction"].test - test.features

    def several(
        self, train: tuple[Tensor, np.ndarray], test: tuple[Tensor, np.ndarray], names: Sequence[str]
    ) -> MultiLabel:
        """Add the means over several labels, and each label's own scores if "per-class" is requested.

        Args:
            train: Features (N, D) and labels (N, L).
            test: Features (M, D) and labels (M, L).
            names: The names of the L labels.
        """
        probe = partial(LinearProbe, features=self.request.features, seed=self.request.seed)
        result = multi_label(*train, *test, names=names, probe=probe)
        self._add("linear", MEAN_AUROC, result.mean_auroc)
        self._add("linear", MEAN_PRECISION, result.mean_average_precision)
        self._add("linear", LABELS_SCORED, len(result.auroc))
        if "per-class" in self.request.measures:
            for name in result.auroc:
                self._add("linear", "AUROC", result.auroc[name], subject=name)
                self._add("linear", "average precision", result.average_precision[name], subject=name)
        return result

    def _add(self, probe: Probe, statistic: str, value: float, *, split: str = "test", **more: Any) -> None:
        """Add one score, with what its probe does to features; that of linear ones is the request's."""
        fixed = {"nearest": "l2", "retrieval": "l2", "nearest-mean": "raw"}
        score = Score(
            place=self.place,
            label=self.request.label,
            split=split,
            features=fixed.get(probe, self.request.features),
            probe=probe,
            statistic=statistic,
            value=value,
            **{"shots": None, **more},
        )
        self.scores.append(score)

    def _in_directions(self, probe: LinearProbe, train: LabelledFeatures, test: LabelledFeatures) -> None:
        how: dict[str, Any] = {"probe": probe, "seed": self.request.seed}
        for kind, statistic in IN_DIRECTIONS.items():
            for each in probes.reduced_accuracy(*train, *test, directions=kind, **how):
                self._add("linear", statistic, each.mean, subject=str(each.dimensions))

    def _by_class(
        self,
        fitted: Mapping[Probe, AnyProbe],
        train: LabelledFeatures,
        test: LabelledFeatures,
        names: Sequence[str],
        split: str = "test",
    ) -> None:
        every: dict[Probe, AnyProbe] = {**fitted, "nearest-mean": ClassMeanProbe().fit(*train)}
        results = {
            probe: probes.per_class(every[probe].predict(test.features), test.labels, len(names))
            for probe in BY_CLASS
        }
        for probe, statistic, value, subject in class_scores(results, names):
            self._add(probe, statistic, value, subject=subject, split=split)
        if split == "test" and (note := absent_note(results["linear"], names)):
            self.notes.append(note)

    def _redundancy(self, probe: LinearProbe, train: LabelledFeatures, test: LabelledFeatures) -> None:
        result = probes.redundancy(*train, *test, probe=probe, seed=self.request.seed)
        for kind, curve in result.curves.items():
            subject = f"{kind}, {DELTA:g}"
            self._add("linear", DIFFUSED, result.diffused(DELTA, kind), subject=subject)
            for each in curve:
                k, draws = str(each.dimensions), each.interval
                interval: dict[str, Any] = {
                    "low": draws.low,
                    "high": draws.high,
                    "episodes": len(each.accuracies),
                }
                self._add("linear", ACCURACY_IN[kind], each.mean, subject=k, **interval)
                self._add("linear", WORST_CLASS_IN[kind], each.worst_class, subject=k)

    def _by_cue(self, name: Probe, features: Corrected, test: LabelledFeatures, groups: Grouping) -> None:
        for cue, (values, test_values) in groups.cues.items():
            learned = features.train, groups.train_labels, values
            tested = features.test, test.labels, test_values
            read = probes.cue_accuracy(*learned, *tested, seed=self.request.seed)
            self._add(name, CUE_READ, read, subject=cue)

    def _by_group(self, name: Probe, probe: LinearProbe, test: LabelledFeatures, groups: Grouping) -> None:
        predicted, count = probe.predict(test.features), len(groups.names)
        result = probes.group_accuracy(predicted, test.labels, groups.test, count)
        self._add(name, "worst group", result.worst)
        self._add(name, "mean over groups", result.mean)
        self._add(name, "weighted by training groups", result.weighted(groups.train))
        worst, rows = groups.names[result.worst_group], result.counts[result.worst_group]
        images = f"{rows} test image{'s' if rows > 1 else ''}"
        self.notes.append(f"Worst group of the {name} probe at {self.place}: {worst}, {images}.")
