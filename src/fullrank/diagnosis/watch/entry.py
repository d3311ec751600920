"""The diagnosis that a watched training leaves: its last looks, its alerts, and what they cannot see."""

import math
from collections.abc import Mapping, Sequence

from fullrank.diagnosis.watch.alerts import Alert, finding_of
from fullrank.diagnosis.watch.history import History
from fullrank.diagnosis.watch.loss import LOSS, LOSS_MEASURES
from fullrank.diagnosis.watch.measurements import MEASURES, Look
from fullrank.record import DiagnosisEntry, Measure, Spectrum

# What no spectrum of a training can show, and what can.
NOT_SEEN = (
    "Why: the causes (the augmentation, stacked linear maps, dead channels) need the model, its images and "
    "its views; fullrank diagnose, given the model, names them.",
    "Where to cut: the accuracy at each place needs labelled images that were not trained on; fullrank "
    "diagnose, given the model, shows it.",
    "A rank that was low before the first look: the rules compare a module with itself earlier in the "
    "training; fullrank diagnose judges the model by itself.",
)
_MOST_NAMED = 3


def watched_diagnosis(
    target: str, looks: Mapping[str, Sequence[Look]], alerts: Sequence[Alert], loss: History | None = None
) -> DiagnosisEntry:
    """What the looks at one or more modules, their alerts and the loss say of the training of `target`."""
    not_seen = [
        f"{name}: fewer than 2 rows came from it; name a module that each training step calls."
        for name, of_module in looks.items()
        if not of_module
    ]
    last = {name: of_module[-1] for name, of_module in looks.items() if of_module}
    measures, spectrum = [], {}
    for name, look in last.items():
        for measure in MEASURES:
            value = float(getattr(look, measure))
            measures.append(Measure(place=name, name=measure, value=value if math.isfinite(value) else None))
        finite = next((each for each in reversed(looks[name]) if each.singular_values.isfinite().all()), None)
        if finite is not None:
            values = finite.singular_values.tolist()
            spectrum[name] = Spectrum(singular_values=values, effective_rank=finite.effective_rank)
        if finite is not look:
            instead = f"the spectrum is that of step {finite.step}" if finite else "there is no spectrum"
            not_seen.append(f"{name} at step {look.step}: not every number is finite; {instead}.")
    findings = []
    for alert in alerts:
        if alert.measure == LOSS and loss:
            findings.append(finding_of(alert, loss.last["step"], loss.last["value"]))
        elif alert.measure in LOSS_MEASURES:  # what it compared with has moved on since
            findings.append(finding_of(alert, alert.step, alert.value))
        else:
            newest = last[alert.module]
            findings.append(finding_of(alert, newest.step, getattr(newest, alert.measure)))
    count, step = max(map(len, looks.values())), max(look.step for look in last.values())
    return DiagnosisEntry(
        target=target,
        rows=max(look.rows for look in last.values()),
        places=list(last),
        verdict=_verdict(f"{count} look{'s' if count > 1 else ''} up to step {step}", alerts),
        collapsed=any(alert.measure not in LOSS_MEASURES for alert in alerts),
        cut=None,
        findings=findings,
        measures=measures,
        spectrum=spectrum,
        not_seen=[*not_seen, *NOT_SEEN],
    )


def _verdict(looks: str, alerts: Sequence[Alert]) -> str:
    if not alerts:
        return f"No rule fired in {looks}."
    named = [f"{alert.rule} at step {alert.step} in {alert.module}" for alert in alerts[:_MOST_NAMED]]
    if len(alerts) > _MOST_NAMED:
        named.append(f"{len(alerts) - _MOST_NAMED} more")
    listed = " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))
    return f"{len(alerts)} alert{'s' if len(alerts) > 1 else ''} in {looks}: {listed}."
