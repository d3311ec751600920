"""A theorem at several values of one setting: its measures against that setting."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from rich.progress import Progress

from fullrank.errors import UsageError
from fullrank.theory import theorem_named
from fullrank.theory.common.flow import Array
from fullrank.theory.common.theorem import START_AND_END, Curve, Outcome, Panel, SteppedTheorem, Theorem

# From this ratio of the largest to the smallest value on, the axis of the setting is logarithmic.
_WIDE = 30
_MOST_VALUES, _MOST_LINES = 64, 12


def values_to_sweep(kind: type[Theorem], settings: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """The settings that take one number but were given several, as a sequence or with commas.

    >>> values_to_sweep(theorem_class("depth"), {"steps": "10,20", "noise": 0.1})
    {'steps': ('10', '20')}
    """
    several = {}
    for key, value in settings.items():
        if key not in kind.model_fields or kind.model_fields[key].annotation not in (int, float):
            continue
        values = value.split(",") if isinstance(value, str) else value
        if isinstance(values, list | tuple) and (len(values) > 1 or not isinstance(value, str)):
            several[key] = tuple(each.strip() if isinstance(each, str) else each for each in values)
    return several


def theorem_class(name: str) -> type[Theorem]:
    """The class of the theorem with that name; raises UsageError for an unknown one."""
    from fullrank.theory import THEOREMS

    kind: type[Theorem] = THEOREMS[name].load()
    return kind


def theorems_to_sweep(
    name: str, several: Mapping[str, tuple[Any, ...]], *, full: bool = False, **settings: Any
) -> list[Theorem]:
    """The theorem once for each value of the one setting in `several`.

    Raises UsageError for more than one such setting, for fewer than 2 or more than 64 values, for a value
    that is given twice, and as `theorem_named` does.
    """
    if len(several) > 1:
        raise UsageError(
            f"Only one setting may have several values, but {' and '.join(several)} do; give one value for "
            "all "
            "but one of them."
        )
    ((key, values),) = several.items()
    if not 2 <= len(values) <= _MOST_VALUES:
        raise UsageError(
            f"A sweep takes 2 to {_MOST_VALUES} values, but {key} has {len(values)}; give as many as that."
        )
    theorems = [theorem_named(name, full=full, **(settings | {key: value})) for value in values]
    numbers = [getattr(theorem, key) for theorem in theorems]
    if len(set(numbers)) < len(numbers):
        twice = next(number for number in numbers if numbers.count(number) > 1)
        raise UsageError(f"{key} has the value {twice:g} twice; give each value once.")
    return sorted(theorems, key=lambda theorem: float(getattr(theorem, key)))


def run_outcome(theorem: Theorem, progress: Progress | None = None) -> Outcome:
    """The outcome of a theorem, with a progress bar where it takes many steps."""
    if progress is None or not isinstance(theorem, SteppedTheorem):
        return theorem.outcome()
    task = progress.add_task("step", total=theorem.total_steps, status="")
    return theorem.outcome(lambda done: progress.update(task, completed=done))


def sweep(theorems: list[Theorem], key: str, run: Callable[[Theorem], Outcome] = run_outcome) -> Outcome:
    """The measures of each theorem against its setting `key`, as one outcome.

    Its rows are the measures that all theorems have, its columns the values of the setting.

    >>> theorems = theorems_to_sweep("weight-decay", {"decay": (0.01, 1)})
    >>> outcome = sweep(theorems, "decay")
    >>> outcome.columns, outcome.simulated[0].tolist()
    (('decay 0.01', 'decay 1'), [5.0, 1.0])
    """
    outcomes = [run(theorem) for theorem in theorems]
    values = np.array([getattr(theorem, key) for theorem in theorems], np.float64)
    columns = tuple(f"{key.replace('_', ' ')} {value:g}" for value in values)
    tables = [{measure.name: measure for measure in outcome.measures} for outcome in outcomes]
    names = [name for name in tables[0] if all(name in table for table in tables)]
    predicted, simulated = (
        np.array([[_number(getattr(table[name], side)) for table in tables] for name in names])
        for side in ("predicted", "simulated")
    )
    wide = bool(values[0] > 0 and values[-1] > _WIDE * values[0])
    panels = [_panel(name, key, wide) for name in names]
    curves = []
    for name, expected, found in zip(names, predicted, simulated, strict=True):
        curves += [Curve(name, name, values, expected, dashed=True), Curve(name, name, values, found)]
    ends = _ends(outcomes, columns)
    if ends:
        whole = next(panel for panel in outcomes[0].panels if panel.title == START_AND_END)
        panels.append(replace(whole, title="At the end, by value", note=""))
    return Outcome(
        quantity="result for each value",
        rows=tuple(names),
        columns=columns,
        predicted=predicted,
        simulated=simulated,
        verdict=_verdict(names, key, values, simulated),
        panels=tuple(panels),
        curves=(*curves, *ends),
        explanation=tuple(
            each.verdict if column in each.verdict else f"{column}: {each.verdict}"
            for column, each in zip(columns, outcomes, strict=True)
        ),
        remarks=outcomes[-1].remarks,
        sweep=key,
    )


def _panel(name: str, key: str, wide: bool) -> Panel:
    return Panel(name, key.replace("_", " "), name, log_x=wide, note="Dashed: predicted. Solid: simulated.")


def _ends(outcomes: list[Outcome], columns: tuple[str, ...]) -> list[Curve]:
    """The values at the end of training for each value, where an outcome has not more than two such lines."""
    lines = [
        (column, curve)
        for column, outcome in zip(columns, outcomes, strict=True)
        for curve in outcome.curves
        if curve.panel == START_AND_END and not curve.dashed and not curve.dotted
    ]
    if not lines or len(lines) > 2 * len(columns) or len(columns) > _MOST_LINES:
        return []
    return [Curve("At the end, by value", column, curve.x, curve.y) for column, curve in lines]


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _verdict(names: list[str], key: str, values: Array, simulated: Array) -> str:
    """The first measure that changes: its value at both ends, and where it changes first."""
    changing = np.flatnonzero((simulated != simulated[:, :1]).any(axis=1))
    row = int(changing[0]) if len(changing) else 0
    name, found, setting = names[row], simulated[row], key.replace("_", " ")
    ends = (
        f"{name[0].upper()}{name[1:]}: {found[0]:.4g} at {setting} {values[0]:g}, {found[-1]:.4g} at "
        f"{setting} {values[-1]:g}."
    )
    changed = np.flatnonzero(found != found[0])
    if not len(changed):
        return f"{ends} Nothing changes in between."
    first = changed[0]
    return f"{ends} The first change is between {setting} {values[first - 1]:g} and {values[first]:g}."
