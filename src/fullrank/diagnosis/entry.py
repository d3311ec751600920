"""The entry of a diagnosis in the record: spectra, measures, findings, and the verdict in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich.progress import Progress
from torch import Tensor

from fullrank.diagnosis.augmentation import ASSUMED_TEMPERATURE, operation_shares
from fullrank.diagnosis.causes import find_causes
from fullrank.diagnosis.dominant import largest_channels
from fullrank.diagnosis.evidence import Evidence
from fullrank.diagnosis.layers import Labels, best_cut, curves_of_rows, layer_rows, standardised_again
from fullrank.diagnosis.measures import measures_of
from fullrank.diagnosis.stacked import alignment_matrix
from fullrank.probes.directions import ProbedRows
from fullrank.progress import counted
from fullrank.record import (
    Baseline,
    DiagnosisEntry,
    DimensionCurve,
    Finding,
    LayerRow,
    ProbedAgain,
    ProbedImages,
    Spectrum,
)
from fullrank.record.comparisons import grouped
from fullrank.spectrum.functional import effective_rank_of, rankme_of


@dataclass(frozen=True)
class Probed:
    """Accuracies of places, and of dimensions at one place, with their images and baselines."""

    layers: list[LayerRow] = field(default_factory=list)
    dimensions: list[DimensionCurve] = field(default_factory=list)
    images: ProbedImages | None = None
    baselines: list[Baseline] = field(default_factory=list)
    again: list[ProbedAgain] = field(default_factory=list)


def entry_of(
    target: str,
    evidence: Evidence,
    probed: Probed,
    not_seen: list[str],
    duplicates: float | None = None,
) -> DiagnosisEntry:
    """The entry of the record. If the features are a sample, `duplicates` are those of all rows."""
    evidence = replace(evidence, probed_again=tuple(probed.again))
    first, last = evidence.places[0], evidence.places[-1]
    findings = find_causes(evidence)
    temperature = evidence.temperature or ASSUMED_TEMPERATURE
    spectrum, ranks, measures, shares = {}, {}, [], []
    for place in (each.without_zero_rows() for each in evidence.places):
        values = place.moments.singular_values()
        rank = effective_rank_of(values)
        spectrum[place.place] = Spectrum(singular_values=values.tolist(), effective_rank=rank)
        of_matrix = rankme_of(place.moments.matrix_singular_values())
        ranks[place.place] = {"effective_rank": rank, "rankme": of_matrix}
        measures.extend(measures_of(place, duplicates, evidence.seed))
        for norms in evidence.tokens:
            measures.extend(norms.measures() if norms.place == place.place else ())
        shares.extend(operation_shares(place, last.views, temperature))
    images = probed.images
    cut = best_cut(probed.layers, images.test) if len(probed.layers) > 1 and images else None
    return DiagnosisEntry(
        target=target,
        rows=first.sample_of or len(first.features),
        places=list(spectrum),
        verdict=verdict(findings, spectrum, cut),
        collapsed=any(finding.level == "alarm" for finding in findings),
        cut=cut,
        findings=findings,
        measures=measures,
        spectrum=spectrum,
        # Probes may have scored other rows: a place has one rank, that of all rows.
        layers=[row.model_copy(update=ranks.get(row.place, {})) for row in probed.layers],
        dimensions=probed.dimensions,
        augmentation=shares,
        alignment=alignment_matrix(*evidence.stacked[:2]).tolist() if evidence.stacked else [],
        not_seen=not_seen,
        images=images,
        baselines=probed.baselines,
        probed_again=probed.again,
    )


def verdict(findings: Sequence[Finding], spectrum: Mapping[str, Spectrum], cut: str | None) -> str:
    """Whether it collapsed, why, and where to cut, in plain words."""
    alarms = [finding for finding in findings if finding.level == "alarm"]
    places = grouped((finding.cause, finding.place) for finding in alarms or findings)
    named = "; ".join(f"{cause} at {_some(own)}" for cause, own in places.items())
    if alarms:
        text = f"Collapsed: {named}."
    else:
        noted = "a note" if len(places) == 1 else "notes"
        text = f"No collapse found, with {noted}: {named}." if named else "No collapse found."
    place = "h" if "h" in spectrum else next(iter(spectrum))
    width, rank = len(spectrum[place].singular_values), spectrum[place].effective_rank
    text += f" The effective rank of {place} is {rank:.1f} of {width}."
    return text if cut is None else f"{text} Place to keep: {cut}."


def _some(places: Sequence[str]) -> str:
    """Up to three places by name; of more, the first two and the number of the others."""
    if len(places) > 3:
        return f"{places[0]}, {places[1]} and {len(places) - 2} more places"
    return " and ".join([", ".join(places[:-1]), places[-1]] if len(places) > 1 else places)


def probe_places(
    train: Mapping[str, Tensor],
    test: Mapping[str, Tensor],
    labels: Labels,
    gradients: Mapping[str, float],
    seed: int,
    progress: Progress | None = None,
) -> Probed:
    """The accuracy at each place, and over dimensions at h, or else at the last place."""
    layers: list[LayerRow] = []
    main = "h" if "h" in test else list(test)[-1]
    rows = ProbedRows.of(train[main], labels[0], test[main], labels[1], seed=seed)
    how: dict[str, Any] = {"seed": seed, "gradient_ranks": gradients, "probed": {main: rows}}
    for place in counted(test, progress, "probes", len(test), lambda _: 1):
        layers += layer_rows(train, {place: test[place]}, labels, **how)
    curves = curves_of_rows(rows, main, seed, progress)
    again = []
    if largest_channels(train[main].double().var(0).cpu(), len(train[main]))[0]:
        again.append(standardised_again(train[main], test[main], labels, main, seed))
    return Probed(layers, curves, again=again)
