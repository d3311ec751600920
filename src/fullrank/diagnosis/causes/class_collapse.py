"""Class collapse: the rows of each class nearly coincide, so that nothing else can be read from them."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fullrank.diagnosis.causes.contract import Cause, Rule, Stage
from fullrank.diagnosis.dominant import along_first
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.diagnosis.shape import Cut
from fullrank.errors import DataError
from fullrank.record import Finding
from fullrank.spectrum.collapse import point_groups, within_class_share

_WITHIN, _GROUPED = "share of the variance within classes", "share of rows in groups that nearly coincide"
_EARLIER = (
    "Read an earlier place for transfer and for finer labels, because this is expected at the end of "
    "supervised training and harms both."
)
_SELF_SUPERVISED = (
    "Check that both views of a pair show one image and that no labels reach the loss, and keep an earlier "
    "checkpoint."
)
# Classes with fewer rows say little of themselves: two rows are often two pictures of one thing.
_ROWS_OF_A_CLASS = 5
# One direction with this share of the variance is left out: two groups along it need not be points.
_DOMINANT = 0.95
# Rows nearer than this share of the usual distance are joined, and where one direction dominates.
_NEAR, _NEAR_ALONG_ONE = 0.05, 0.01
# A group with more of the rows leaves nothing to compare it with: a few outliers make all others one point.
_ONE_GROUP = 0.9


@final
@dataclass(frozen=True)
class ClassCollapse(Cause):
    """The variance within classes is next to nothing, or most rows lie in groups that nearly coincide.

    With labels it measures `within_class_share`, without the direction that dominates, if there is one. Where
    the rank is that of the class means, one less than the classes, the `spanned` rule applies. If the loss is
    known to use labels, half of that rank is enough. Without labels, or if those do not fit, it measures the
    share of rows in `point_groups`. Both are in `fullrank.spectrum`. Training with labels ends like this, so
    it is a note. For a self-supervised loss it is an alarm. No further checks then run at that place.

    >>> x = torch.randn(4, 8).repeat(50, 1) + 1e-3 * torch.randn(200, 8)
    >>> z = PlaceEvidence("z", x)
    >>> [finding.value for finding in ClassCollapse().check(z, Evidence((z,)))]
    [1.0]
    """

    name = "class-collapse"
    stage = Stage.SHAPE
    final = True
    labelled: Rule = Rule("note", _WITHIN, "below", 0.1, _EARLIER)
    unlabelled: Rule = Rule("note", _GROUPED, "above", 0.5, _EARLIER)
    spanned: Rule = Rule("note", _WITHIN, "below", 0.5, _EARLIER)
    self_supervised: Rule = Rule("alarm", _WITHIN, "below", 0.01, _SELF_SUPERVISED)
    self_supervised_unlabelled: Rule = Rule("alarm", _GROUPED, "above", 0.5, _SELF_SUPERVISED)

    def check(self, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
        """One finding by the labels or else by the groups of rows, otherwise none."""
        labels = evidence.labels_at(place)
        return (labels is not None and self._by_labels(place, evidence, labels)) or self._by_groups(
            place, evidence
        )

    def _by_labels(self, place: PlaceEvidence, evidence: Evidence, labels: Tensor) -> list[Finding]:
        values, inverse, counts = labels.unique(return_inverse=True, return_counts=True)
        measured = torch.where(counts[inverse] >= _ROWS_OF_A_CLASS, labels, -1)
        classes = int(((values >= 0) & (counts >= _ROWS_OF_A_CLASS)).sum())
        try:
            share = within_class_share(_without_dominant_direction(place), measured)
        except DataError:  # fewer than two such classes, or no variance
            return []
        sentence = (
            f"The rows of each of {classes} classes nearly coincide at {place.place}: {100 * share:.2g} % of "
            f"their variance lies within classes, measured on {int((measured >= 0).sum())} rows."
        )
        if evidence.supervised is False:
            return self.judged(self.self_supervised, place, share, sentence)
        cut = evidence.cut(place)
        if self.labelled.fires(share) or cut is None or not _is_of_classes(cut, classes, evidence):
            return self.judged(self.labelled, place, share, sentence)
        sentence = (
            f"{cut.sentence(place.place)}. The labels have {classes} classes, whose means span at most "
            f"{classes - 1} directions, and {100 * share:.2g} % of the variance lies within classes, so the "
            "features hold these means and little else."
        )
        return self.judged(self.spanned, place, share, sentence)

    def _by_groups(self, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
        near = _NEAR if place.shape.first_share < _DOMINANT else _NEAR_ALONG_ONE
        groups = point_groups(place.features, near, seed=evidence.seed)
        sizes, rows = groups.sizes, len(groups.rows)
        if len(sizes) < 2 or max(sizes) > _ONE_GROUP * rows:
            return []
        sentence = (
            f"{sum(sizes)} of {rows} rows at {place.place} lie in {len(sizes)} groups whose rows nearly "
            f"coincide: they are within {100 * near:.0f} % of the usual distance of two rows."
        )
        rule = self.self_supervised_unlabelled if evidence.supervised is False else self.unlabelled
        return self.judged(rule, place, groups.share, sentence)


def _is_of_classes(cut: Cut, classes: int, evidence: Evidence) -> bool:
    """Whether a rank is that of class means: one less than the classes, or half of it."""
    most = classes - 1
    least = math.ceil(most / 2) if evidence.supervised else most
    return classes > 2 and least <= cut.rank <= most


def _without_dominant_direction(place: PlaceEvidence) -> Tensor:
    """The features without the direction that holds nearly all of their variance, if there is one."""
    if place.shape.first_share < _DOMINANT:
        return place.features
    rows = place.features.double()
    along = along_first(place.features, place.moments).double()
    along = ((along - along.mean()) / (along - along.mean()).norm()).to(rows.device)
    return rows - torch.outer(along, along @ rows)
