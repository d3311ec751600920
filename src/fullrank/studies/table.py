"""A table or figure as data: its rows are recipes at several scales, its columns are scores."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeAlias, cast, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fullrank.data import SOURCES
from fullrank.errors import UsageError, unknown_name
from fullrank.record import Predicts, Score
from fullrank.record.scores import ACCURACY, Probe, Statistic, statistic
from fullrank.runs.recipe import Recipe, parsed_parts
from fullrank.studies.forward_forward.settings import Settings

Scale = Literal["mini", "small", "cifar", "paper"]
SCALES: tuple[Scale, ...] = get_args(Scale)
Setting = str | int | float | bool | None
RankQuantity = Literal["effective rank", "dimensions"]
_TABLES = files(__package__).joinpath("tables")


class ScoreKey(NamedTuple):
    """A score that a study reads from a run's record, by the fields of `record.Score`."""

    place: str
    label: str
    split: str
    probe: str = "linear"
    statistic: str = ACCURACY
    subject: str = ""
    shots: int | None = None

    @classmethod
    def of(cls, score: Score) -> "ScoreKey":
        """That of a score in a record."""
        return cls(*(getattr(score, name) for name in cls._fields))

    def __str__(self) -> str:
        """The score in words; UsageError for a statistic that no probe measures."""
        measure = statistic(self.probe, self.statistic).title(self.subject, self.shots)
        return f"{measure!r} of {self.label!r} at {self.place} on {self.split}"


class RankKey(NamedTuple):
    """A number of the spectrum at a place, which a study reads from the record of a run."""

    place: str
    quantity: RankQuantity


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Column(_Part):
    """A number of each run: a score of its record or, with `spectrum`, a number of the spectrum at the place.

    With `minus`, the score at that place of the same run is subtracted; with `minus_probe`, that of that
    probe; with both, that of that probe at that place.
    """

    title: str
    place: str | dict[Scale, str] = "h"
    minus: str | None = None
    minus_probe: Probe | None = None
    label: str | dict[Scale, str] = "label"
    split: str | dict[Scale, str] = "test"
    probe: Probe | dict[Scale, Probe] = "linear"
    statistic: str | dict[Scale, str] = ACCURACY
    subject: Annotated[str, Field(coerce_numbers_to_str=True)] = ""
    shots: int | None = None
    spectrum: RankQuantity | None = None

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        of_score = self.model_fields_set - {"title", "place", "spectrum"}
        if self.spectrum is not None and of_score:
            raise ValueError(f"{self.title}: a number of the spectrum has no {', '.join(sorted(of_score))}")
        if not self.kinds:
            raise ValueError(f"{self.title}: probe and statistic have no scale in common")
        if self.minus_probe is not None:
            for kind in self.kinds:
                statistic(self.minus_probe, kind.name)
        for kind in self.kinds:
            if bool(self.subject) != bool(kind.subject):
                raise ValueError(f"{self.title}: {kind.name} has {kind.subject or 'nothing'} as its subject")
            if self.shots is not None and not kind.few_shot:
                raise ValueError(f"{self.title}: {kind.name} of the {kind.probe} probe has no shots")
        return self

    @property
    def kinds(self) -> list[Statistic]:
        """The statistic that it shows; one for each scale where probe or statistic is given by scale."""
        by_scale = [value for value in (self.probe, self.statistic) if isinstance(value, dict)]
        scales: list[Scale] = [scale for scale in SCALES if all(scale in value for value in by_scale)]
        return [statistic(at_scale(self.probe, scale), at_scale(self.statistic, scale)) for scale in scales]

    @property
    def is_difference(self) -> bool:
        """Whether a score is subtracted."""
        return self.minus is not None or self.minus_probe is not None

    @property
    def unit(self) -> Literal["points", "number"]:
        """The unit of its numbers: points, 0 to 100, or plain numbers."""
        return "number" if self.spectrum is not None else self.kinds[0].unit

    @property
    def is_accuracy(self) -> bool:
        """Whether its numbers are shares of all test images."""
        return self.spectrum is None and not self.is_difference and self.kinds[0].of_all_images


class Row(_Part):
    """A setting: the keys of the recipe that it replaces, `set`, and the paper's number for each column.

    A value of `set` may be given by scale. A row without a value for a scale is left out at that scale.
    `place` replaces h, and `label` the label, in every column. `x` is the row's position on the axis of a
    figure. `expected` is the theory's prediction for the columns of differences, and `theory` its number.
    `grid` has further settings to tune.
    """

    title: str
    set: dict[str, Setting | dict[Scale, Setting]] = {}
    paper: list[float | None] = []
    place: str | dict[Scale, str] | None = None
    label: str | None = None
    x: float | None = None
    expected: Literal["pre", "post", "nothing"] | None = None
    theory: float | None = None
    grid: dict[str, list[Setting]] = {}


class Tuning(_Part):
    """How settings are chosen: one key after the other, by the first column on held-out training images."""

    grid: dict[str, list[Setting]]
    held_out: float = Field(0.2, gt=0, lt=1)
    seed: int = 1000


class Table(_Part):
    """A table of runs. `recipe`, `seeds` and `base` (keys for every row) may be given by scale.

    `paper` says what the paper's numbers were measured on; null means that there is no paper. `spectrum`
    names places whose spectra are drawn, and `x` the axis of a figure of all columns. `predicts` asks how
    well some columns, `by`, predict another, `target`, over all runs; columns are named by their titles.
    """

    title: str
    source: str = "your own table"
    question: str = ""
    paper: str | None = ""
    recipe: dict[Scale, str]
    seeds: dict[Scale, Annotated[int, Field(ge=1)]]
    base: dict[str, Setting | dict[Scale, Setting]] = {}
    columns: list[Column] = Field(min_length=1)
    rows: list[Row] = Field(min_length=1)
    tune: Tuning | None = None
    spectrum: list[str] = []
    x: str | None = None
    log_x: bool = False
    predicts: Predicts | None = None
    remarks: list[str] = []

    @model_validator(mode="before")
    @classmethod
    def _at_mini(cls, content: Any) -> Any:
        """A recipe without a scale is that of `mini`; a number of seeds without one holds for every scale."""
        recipe, seeds = content.get("recipe"), content.get("seeds")
        recipe = {"mini": recipe} if isinstance(recipe, str) else recipe
        if isinstance(seeds, int) and isinstance(recipe, dict):
            seeds = dict.fromkeys(recipe, seeds)
        return {**content, **{key: value for key, value in (("recipe", recipe), ("seeds", seeds)) if value}}

    @model_validator(mode="after")
    def _check_rows(self) -> Self:
        for row in self.rows:
            if len(row.paper) not in (0, len(self.columns)):
                counts = f"{len(row.paper)} paper numbers for {len(self.columns)} columns"
                raise ValueError(f"{row.title}: {counts}; give one for each, or null")
        titles = [column.title for column in self.columns]
        named = [] if self.predicts is None else [self.predicts.target, *self.predicts.by]
        if unknown := [title for title in named if titles.count(title) != 1]:
            raise ValueError(f"predicts: {unknown[0]!r} is not the title of one column; titles are {titles}")
        if self.tune is not None and self.columns[0].spectrum is not None:
            raise ValueError("settings are chosen by the first column, which must be a score")
        return self

    def settings(self, row: Row, scale: Scale) -> dict[str, Setting] | None:
        """The keys of the recipe that a row replaces at a scale; None where the row is left out."""
        settings = {**self.base, **row.set}
        if any(isinstance(value, dict) and scale not in value for value in settings.values()):
            return None
        return {key: at_scale(value, scale) for key, value in settings.items()}

    @property
    def scales(self) -> list[Scale]:
        """The scales at which it is described."""
        return list(self.recipe)

    def rows_at(self, scale: Scale) -> list[Row]:
        """The rows that the table has at the scale."""
        return [row for row in self.rows if self.settings(row, scale) is not None]

    def recipe_of(self, row: Row, scale: Scale, seed: int) -> Recipe:
        """The recipe of a row at a scale, for a seed."""
        settings = parsed_parts(self.settings(row, scale) or {})
        return Recipe.resolve(self.recipe[scale], {**settings, "seed": seed})

    def reads(self, row: Row, scale: Scale) -> list[tuple[ScoreKey | RankKey, ScoreKey | None]]:
        """What each column reads from the runs of a row, and the score that is subtracted, if any."""
        keys: list[tuple[ScoreKey | RankKey, ScoreKey | None]] = []
        for column in self.columns:
            place = at_scale(row.place if row.place and column.place == "h" else column.place, scale)
            if column.spectrum is not None:
                keys.append((RankKey(place, column.spectrum), None))
                continue
            split = at_scale(column.split, scale)
            score = ScoreKey(
                place=place,
                label=at_scale(row.label or column.label, scale),
                split=split if split == "test" else str(SOURCES.parse(split, from_file=True)),
                probe=at_scale(column.probe, scale),
                statistic=at_scale(column.statistic, scale),
                subject=column.subject,
                shots=column.shots,
            )
            less = score._replace(place=column.minus or place, probe=column.minus_probe or score.probe)
            keys.append((score, less if column.is_difference else None))
        return keys

    def judged_by(self, row: Row, scale: Scale) -> ScoreKey:
        """The score of the first column, by which settings are chosen."""
        return cast(ScoreKey, self.reads(row, scale)[0][0])


class TheoremFigure(_Part):
    """A figure of a paper that a theorem draws: the theorem and its settings at each scale."""

    title: str
    source: str
    question: str
    theorem: str
    settings: dict[Scale, dict[str, Setting]]
    full: list[Scale] = []
    remarks: list[str] = []

    @property
    def scales(self) -> list[Scale]:
        """The scales at which it is described."""
        return list(self.settings)


class StudyTable(_Part):
    """A table that a study of its own fills: its settings at each scale, and the paper's numbers.

    `paper_numbers` has for each pretext task and method the paper's accuracies at the pretext task and at the
    class.
    """

    title: str
    source: str
    question: str
    paper: str
    study: Literal["forward-forward"]
    settings: dict[Scale, Settings]
    seeds: dict[Scale, Annotated[int, Field(ge=1)]]
    paper_numbers: dict[str, dict[str, tuple[float | None, float | None]]] = {}
    remarks: list[str] = []

    @property
    def scales(self) -> list[Scale]:
        """The scales at which it is described."""
        return list(self.settings)


AnyTable: TypeAlias = Table | TheoremFigure | StudyTable


def at_scale(value: Any, scale: Scale) -> Any:
    """The value; where it is given by scale, that of the scale."""
    return value[scale] if isinstance(value, dict) else value


def known_scale(name: str) -> Scale:
    """A scale by its name; UsageError for an unknown name."""
    if name not in SCALES:
        raise unknown_name("scale", name, SCALES, f"there are {', '.join(SCALES)}")
    return SCALES[SCALES.index(name)]


def table_names() -> list[str]:
    """The tables and figures that the package ships: `directclr/table1` and so on."""
    return sorted(
        f"{paper.name}/{file.name.removesuffix('.yaml')}"
        for paper in _TABLES.iterdir()
        if paper.is_dir()
        for file in paper.iterdir()
        if file.name.endswith(".yaml")
    )


def chosen_tables(names: str | Sequence[str], scale: Scale) -> dict[str, AnyTable]:
    """The shipped tables at a scale: one by its name, all of a paper by the paper's name, or `all`.

    Under the name of a paper, and under `all`, tables without that scale are left out. Raises UsageError for
    an unknown name, and for a single table without that scale.

    >>> list(chosen_tables("directclr/table1", "mini"))
    ['directclr/table1']
    """
    papers = {name: name.split("/")[0] for name in table_names()}
    chosen: dict[str, AnyTable] = {}
    for name in [names] if isinstance(names, str) else names:
        tables = {each: table_named(each) for each in papers if name in (each, papers[each], "all")}
        if not tables:
            shipped = [*papers, *sorted(set(papers.values()))]
            raise unknown_name("table", name, shipped, "`fullrank list tables` shows all; all is every one")
        described = {each: table for each, table in tables.items() if scale in table.scales}
        if not described:
            scales = [each for each in SCALES if any(each in table.scales for table in tables.values())]
            what = f"{name} is not" if name in papers else f"No table of {name} is"
            raise UsageError(f"{what} described at the scale {scale}; give --scale {' or '.join(scales)}.")
        chosen |= described
    return chosen


def table_named(name: str) -> AnyTable:
    """A shipped table or figure by its name, one of `table_names`.

    A file with `like: NAME` inherits the keys of that table that it does not set itself.
    """
    content = shipped_content(name)
    kind = TheoremFigure if "theorem" in content else StudyTable if "study" in content else Table
    return kind(**content)


def shipped_content(name: str) -> dict[str, Any]:
    """The keys of a shipped table, with those of the table that it is `like`; UsageError for a wrong name."""
    if name not in table_names():
        raise unknown_name("table", name, table_names(), "`fullrank list tables` shows all")
    content: dict[str, Any] = yaml.safe_load(_TABLES.joinpath(f"{name}.yaml").read_text())
    return shipped_content(content.pop("like")) | content if "like" in content else content
