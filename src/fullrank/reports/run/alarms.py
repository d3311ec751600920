"""The alarms that trainings raised: collapse, and jumps of the loss. Torch-free."""

from dataclasses import dataclass

from fullrank.record import Finding, Record, RunEntry
from fullrank.record.comparisons import grouped
from fullrank.reports.run.rows import row_names


@dataclass(frozen=True)
class Alarm:
    """A rule that fired in the training of a run, at one or more places."""

    run: str
    heading: str
    findings: list[Finding]

    @property
    def places(self) -> str:
        """The places, in their order."""
        return " and ".join(dict.fromkeys(finding.place for finding in self.findings))

    @property
    def remedy(self) -> str:
        """What to try; a rule has one remedy for all places."""
        return self.findings[0].remedy


def training_alarms(record: Record) -> list[Alarm]:
    """The alarms of all runs of a record, one for each run and rule."""
    several = len(record.runs) > 1
    return [
        Alarm(_name(record, run) if several else "", findings[0].title or rule, findings)
        for run in record.runs
        for rule, findings in grouped((finding.cause, finding) for finding in run.findings).items()
    ]


def alarm_sentences(record: Record) -> list[str]:
    """Each alarm in a few sentences: where it was raised, what was measured first, and what to try."""
    return [
        f"Alarm in training{f' ({alarm.run})' if alarm.run else ''}, {alarm.places}: {alarm.heading}. "
        f"{alarm.findings[0].evidence} {alarm.remedy}"
        for alarm in training_alarms(record)
    ]


def _name(record: Record, run: RunEntry) -> str:
    return f"{row_names(record.runs).short(run.row)}, seed {run.seed}"
