"""The record of a run, study, diagnosis or theory run: one JSON file, with arrays beside it. Torch-free."""

import dataclasses
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from fullrank.errors import DataError
from fullrank.files import write_whole
from fullrank.record.beside import LEAST_CHANGE, MeasureChange, PairedScore, SideBySide, SimilarityMap
from fullrank.record.choice import ChoiceEntry
from fullrank.record.map import RowMap
from fullrank.record.old_scores import from_schema_1
from fullrank.record.probed import Baseline, ProbedImages
from fullrank.record.scores import Probe, Statistic, statistic
from fullrank.record.spectra import Spectrum

if TYPE_CHECKING:
    import pandas

SCHEMA = 2
RECORD_FILE = "record.json"


def _inside(folder: str) -> str:
    """The folder of a run as a record may name it: below the record's own, or below `../runs` beside it."""
    parts = PurePath(folder).parts
    below = parts[2:] if parts[:2] == ("..", "runs") and len(parts) > 2 else parts
    if PurePath(folder).is_absolute() or ".." in below or not folder.isprintable() or len(folder) > 250:
        raise ValueError("a run's folder must lie below the record's own or below ../runs, in 250 letters")
    return folder


def _known(schema: int) -> int:
    if schema != SCHEMA:
        raise ValueError(f"schema {schema} is unknown to this version of fullrank")
    return schema


RunFolder = Annotated[str, AfterValidator(_inside)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)


class ProbeScore(_Part):
    """Accuracy on the test split by the default protocol, 0 to 1: linear (raw features) and nearest."""

    linear: float
    nearest: float


class Score(_Part):
    """One measured number, in tidy form: what `probe` gives as `statistic`, both of `record.scores`.

    `subject` is what the statistic is about, "" where it needs nothing: a class, the cues of a gap, the spec
    of a shift. `split` is "test" or the spec of a shift, `shots` the number of training images a class, None
    where all of them were used. With shots, `value` is the mean over `episodes` draws of these images, and
    `low` and `high` bound its 95 % t interval over draws; they are None for a single draw. Accuracies of
    diffused redundancy have the same over draws of directions.

    >>> Score(
    ...     place="h", label="label", split="test", features="raw", shots=None,
    ...     probe="linear", statistic="class accuracy", subject="3", value=0.9,
    ... ).measure
    'linear, class 3'
    """

    place: str
    label: str
    split: str
    features: str
    shots: int | None
    probe: Probe
    statistic: str
    subject: str = ""
    value: float
    low: float | None = None
    high: float | None = None
    episodes: int | None = None

    @model_validator(mode="after")
    def _check_kind(self) -> "Score":
        kind = self.kind
        if self.subject and not kind.subject:
            raise ValueError(f"{self.statistic} of the {self.probe} probe has no subject")
        if self.shots is not None and not kind.few_shot:
            raise ValueError(f"{self.statistic} of the {self.probe} probe has no shots")
        return self

    @property
    def kind(self) -> Statistic:
        """What is known of every score of its probe and statistic."""
        return statistic(self.probe, self.statistic)

    @property
    def measure(self) -> str:
        """What pages and the terminal call it."""
        return self.kind.title(self.subject, self.shots)


def row_name(head: str, varied: Mapping[str, str]) -> str:
    """The name of a row of a study: its head, then each varied key with its value.

    >>> row_name("none", {"objective": "vicreg", "epochs": "10"})
    'none, objective=vicreg, epochs=10'
    """
    return ", ".join([head, *(f"{key}={value}" for key, value in varied.items())])


class CorrectionTable(_Part):
    """What a correction w adds to channels of h, by the value of a label.

    `method` names what computes w, such as `head`. `values` are the values of `label` that test images have,
    and `counts` the numbers of these images. `channels` are those whose mean correction differs most between
    values, the first most; `width` counts all channels. `mean` and `size` have a row for each value and a
    column for each of `channels`: the mean of w and of |w|. `share` is the mean |w| over all images and
    channels, divided by the mean standard deviation of a channel of h; None where h is constant. Of the mean
    of |w|^2, `common` is the part of the mean over all images, and `between` that of the means of the values,
    0 to 1; the rest varies within values.
    """

    method: str
    place: str = "h"
    label: str
    values: list[str]
    counts: list[int]
    channels: list[int]
    width: int
    mean: list[list[float]]
    size: list[list[float]]
    common: float
    between: float
    share: float | None = None


class Finding(_Part):
    """A cause that was found at a place: what was measured, the threshold it passed, and what to try.

    `cause` is a name of `docs/causes.md`; an `alarm` means collapse, a `note` something to know. `evidence`
    and `remedy` are a sentence each. `title` is the cause in plain words, empty in older records. `rows` are
    the numbers of the rows or images that are at fault, from 0: the first 1,000 of `row_count`. `ids` are
    their ids, where the source has ids, and `same_as` the rows that they are equal to, where that is their
    fault; `same_as_ids` are the ids of those. `rows.csv` beside the record has all of them. The images of a
    model are numbered from the first training image to the last test image.
    """

    cause: str
    place: str
    level: Literal["alarm", "note"]
    measure: str
    value: float
    threshold: float
    evidence: str
    remedy: str
    title: str = ""
    rows: list[int] = []
    row_count: int = 0
    ids: list[str] = []
    same_as: list[int] = []
    same_as_ids: list[str] = []


class RunEntry(_Part):
    """One trained encoder: its settings, its training time, and the scores of its features at each place.

    `folder` is relative to the record's own folder, and below it or below `../runs`. `loss` is that of the
    last step that was monitored. `chance` is that of embeddings that do not depend on the image, None where
    the objective has no such level. `skipped_steps` were not finite. `scales_channels`: z is h with its
    channels scaled. `conditioned`: the head was given the parameters of the views in training, and z is
    measured with those of a view to which nothing was applied. `varied` has the value of each key of the
    recipe that its study varies, without the head. `images` and `baselines` belong to the default label;
    older records have neither. `other_images` belong to other labels and to shifts, where scores of these
    were added. `corrections` says what a head that corrects h does to each channel, for each cue.
    `findings` are the alarms that the training raised; older records have none. `levels` has values that a
    curve can be compared with, such as the lowest one of healthy features, by curve and name. `caution` says
    what the loss cannot see.
    """

    head: str
    seed: int
    folder: RunFolder
    epochs: int
    steps: int
    skipped_steps: int = 0
    loss: float
    chance: float | None
    seconds: float
    views_per_second: float
    parameters: dict[str, int]
    probes: dict[str, ProbeScore]
    scores: list[Score]
    spectrum: dict[str, Spectrum]
    scales_channels: bool = False
    conditioned: bool = False
    varied: dict[str, str] = {}
    images: ProbedImages | None = None
    other_images: list[ProbedImages] = []
    baselines: list[Baseline] = []
    corrections: list[CorrectionTable] = []
    findings: list[Finding] = []
    levels: dict[str, dict[str, float]] = {}
    caution: str = ""

    @property
    def row(self) -> str:
        """The row of a table that it belongs to: its head, and the values of the keys that were varied."""
        return row_name(self.head, self.varied)


class Measure(_Part):
    """One number of the spectrum or geometry at a place, by its paper's name; None if it is not defined.

    `how` says with which settings it was computed, where it has any, such as "n = 512, q = 2". `low` and
    `high` bound its 95 % interval over other samples of as many rows; None where it was not estimated.
    """

    place: str
    name: str
    value: float | None
    how: str = ""
    low: float | None = None
    high: float | None = None


class ProbedAgain(_Part):
    """A linear accuracy at a place after one change, 0 to 1, and that before it, on `tested` test rows.

    `change` says what differs, such as "standardised channels", "without leaked rows" or "without hue".
    `error` is the paired standard error of the difference, None where it was not measured.
    """

    place: str
    change: str
    linear: float
    before: float
    tested: int
    error: float | None = None


class Compared(_Part):
    """A number of a diagnosis beside that of an earlier one, its baseline, at the same place.

    `name` is "effective_rank", "linear", "nearest", or the cause of an alarm that the baseline does not have.
    `low` and `high` bound the 95 % interval of `before`, and `now_low` and `now_high` that of `now`. `worse`:
    the number is below the interval of the baseline, or the alarm is new. An alarm has only `now`, the value
    that was measured.
    """

    place: str
    name: str
    now: float
    now_low: float | None = None
    now_high: float | None = None
    before: float | None = None
    low: float | None = None
    high: float | None = None
    worse: bool


class BaselineComparison(_Part):
    """A diagnosis beside an earlier one. `record`, `target` and `created` are those of the earlier one.

    `not_compared` has a sentence for each number that only one of them has, or that means something else.
    """

    record: str
    target: str
    created: str
    numbers: list[Compared]
    not_compared: list[str] = []


class LayerRow(_Part):
    """A place as a candidate for the cut; accuracies are 0 to 1, None without labels.

    `gradient_rank` is the effective rank of the loss's gradient there, None where no loss is known.
    """

    place: str
    width: int
    effective_rank: float
    rankme: float
    linear: float | None
    nearest: float | None
    recall_at_1: float | None
    gradient_rank: float | None


class DimensionCurve(_Part):
    """Linear accuracy at a place, 0 to 1, from some of its dimensions; the last point has all of them.

    Random channels and random directions have the mean over draws; `low` and `high` bound its 95 % t
    interval. `worst_class` is the accuracy of the worst class. `diffused` is the diffused redundancy
    DR(0.9): the share of dimensions that can be left out so that 90 % of the full accuracy remains. Older
    records have only the first two kinds, and none of these numbers.
    """

    place: str
    kind: Literal["random channels", "leading components", "least components", "random directions"]
    dimensions: list[int]
    accuracy: list[float]
    low: list[float] = []
    high: list[float] = []
    worst_class: list[float] = []
    diffused: float | None = None


class OperationShare(_Part):
    """The share of the views' covariance (Sigma_1) at a place that one operation alone makes, 0 to 1."""

    place: str
    operation: str
    share: float


class ViewReadout(_Part):
    """What features say about the views: the parameters of each operation, read out at each place.

    `views` is the spec of the views. `train` and `test` count the pairs of views that the regressions learn
    from and are scored on. `scores` have the probe `views`, and an operation as `subject`, or one of its
    numbers, such as `crop row`; the place `pixels` is the views themselves, averaged down to 8 x 8.
    `left_out` names the operations that never varied.
    """

    views: str
    train: int
    test: int
    scores: list[Score]
    left_out: list[str] = []

    @property
    def about(self) -> list[str]:
        """Which views were read, how many, and which operations have no score, in sentences."""
        pairs = f"{self.train:,} pairs to learn from and {self.test:,} to be scored on"
        sentences = [f"Views: {self.views}; {pairs}."]
        if self.left_out:
            sentences.append(f"No score, because these views never vary it: {', '.join(self.left_out)}.")
        return sentences


class DiagnosisEntry(_Part):
    """The diagnosis of one model or file of embeddings. Places go from the image to z.

    `verdict` is a sentence, `collapsed` whether any finding is an alarm, `cut` the place to keep where labels
    say so. `alignment` is |V2' U1| of two stacked linear maps. `not_seen` has a sentence for everything that
    could not be examined. `about` says in words which weights and which input a model has. `images` and
    `baselines` belong to the accuracies of `layers`; older records have neither. `probed_again` has
    accuracies beside them, each after one change. `compared` sets it beside an earlier diagnosis and `beside`
    beside another target on the same rows, where one was given. `untrained` sets the places of a trained
    model beside those of the same model before training, where that can be built. `map`
    says what the map of its rows shows.
    """

    target: str
    rows: int
    places: list[str]
    verdict: str
    collapsed: bool
    cut: str | None
    findings: list[Finding]
    measures: list[Measure]
    spectrum: dict[str, Spectrum]
    layers: list[LayerRow] = []
    dimensions: list[DimensionCurve] = []
    augmentation: list[OperationShare] = []
    alignment: list[list[float]] = []
    not_seen: list[str] = []
    images: ProbedImages | None = None
    baselines: list[Baseline] = []
    about: list[str] = []
    probed_again: list[ProbedAgain] = []
    compared: BaselineComparison | None = None
    beside: SideBySide | None = None
    untrained: SimilarityMap | None = None
    map: RowMap | None = None
    view_readout: ViewReadout | None = None

    @property
    def worse(self) -> list[Compared]:
        """What got worse than in the baseline, with both values and intervals; empty without a baseline."""
        return [] if self.compared is None else [each for each in self.compared.numbers if each.worse]

    @property
    def headline(self) -> str:
        """The verdict of the comparison with another target, if there is one, and that of the diagnosis."""
        return self.verdict if self.beside is None else f"{self.beside.sentence} {self.verdict}"

    @property
    def worse_beside(self) -> list[PairedScore | MeasureChange | Compared]:
        """What is worse than in the other target: scores, a collapsed rank, new alarms; empty without it."""
        if (beside := self.beside) is None or not beside.worse:
            return []
        scores = [each for each in beside.scores if each.apart and each.difference <= -LEAST_CHANGE]
        scores.sort(key=lambda each: (each.place, each.against) != beside.main_places)
        ranks = [each for each in beside.measures if each.name == "effective_rank"]
        ranks = [each for each in ranks if (each.place, each.against) == beside.main_places]
        fell = [each for each in ranks if each.apart and (each.now or 0) < (each.before or 0)]
        lost = fell if beside.verdict == "collapsed" else []
        alarms = [
            Compared(place=each.place, name=each.cause, now=each.value, worse=True)
            for each in self.findings
            if each.level == "alarm" and f"{each.cause} at {each.place}" in beside.new_alarms
        ]
        return [*scores, *lost, *alarms]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TheoryPanel:
    """A picture of a theory run: its title and what its axes count."""

    title: str
    x: str
    y: str
    log_x: bool = False
    log_y: bool = False
    note: str = ""


# The record stores a theorem's line without its points.
@dataclass(frozen=True, config=ConfigDict(extra="forbid", revalidate_instances="always"))
class TheoryCurve:
    """A line of a panel; the i-th has its points in `curves/i/x` and `curves/i/y`.

    It is dashed if predicted, and dotted if it shows the start. Lines of one name share a colour.
    """

    panel: str
    name: str
    dashed: bool = dataclasses.field(default=False, kw_only=True)
    dotted: bool = dataclasses.field(default=False, kw_only=True)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TheoryStatement:
    """What a theorem says: a title, the theorem in words and as one equation, and its paper.

    The equation and the letters write `a_{i}` for a subscript and `a^{2}` for a superscript. `letters` pairs
    each letter with its meaning. `place` says where in the paper the statement is, or which claim of the
    paper it models. `example` has options that show the effect against a setting.
    """

    title: str
    words: str
    equation: str
    letters: tuple[tuple[str, str], ...]
    paper: str
    authors: str
    venue: str
    link: str
    place: str
    example: str = ""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TheoryMeasure:
    """One number that sums up a theory run, predicted and simulated; None where it is not finite."""

    name: str
    predicted: float | None
    simulated: float | None


class TheoryEntry(_Part):
    """A theorem with settings (the record's recipe), and what the record's two tables of numbers hold.

    `predicted` and `simulated` of the record have a list for each of `rows` with a number for each of
    `columns`; `quantity` says what the numbers are. `verdict` is the headline, `explanation` says what
    happened and why, and `remarks` are the limits. `explained` states the theorem. `measures` sum the run up
    in a few numbers. `sweep` names the setting that had several values; `columns` are then its values.
    `observed` is the word for `simulated` on the page, which a real run also fills.
    """

    theorem: str
    statement: str
    source: str
    quantity: str
    rows: list[str]
    columns: list[str]
    verdict: str
    remarks: list[str]
    panels: list[TheoryPanel] = []
    curves: list[TheoryCurve] = []
    explanation: list[str] = []
    explained: TheoryStatement | None = None
    measures: list[TheoryMeasure] = []
    sweep: str = ""
    observed: str = "simulated"


class TableRow(_Part):
    """A row of a reproduced table: what the paper found in each column, and what each seed gave here.

    `values` has a list a column with a number for each of `seeds`. `runs` are the folders of the seeds' runs.
    `expected` is where the theory predicts the better accuracy, before the head or after it, and `theory` is
    the number behind the prediction. `chosen` are the settings that tuning chose. `x` is the row's place on
    the axis of the figure.
    """

    title: str
    seeds: list[int]
    runs: list[RunFolder]
    paper: list[float | None]
    values: list[list[float]]
    x: float | None = None
    expected: Literal["pre", "post", "nothing"] | None = None
    theory: float | None = None
    chosen: str = ""


class Predicts(_Part):
    """A question to a table: how well do the columns `by` predict the column `target`, over all its runs?

    Columns are named by their titles.
    """

    target: str
    by: Annotated[list[str], Field(min_length=1)]


class TableEntry(_Part):
    """A table or figure of a paper, measured here.

    `paper` says what the paper's numbers were measured on; it is None without a paper. `columns` are titles,
    `units` "points" or "number"; `differences` are the columns that are a difference of two places of one
    run, and `accuracies` those that are a share of all test images (None in older records). `here` says what
    ours were measured on, `alike` whether all rows predict one label of the same images, so that they can be
    subtracted. `file` is beside the record and holds your own table. `spectrum` names places whose spectra
    belong to it, `x` the axis of its figure. `predicts` names a column to predict and
    its predictors.
    """

    name: str
    scale: str
    title: str
    source: str
    question: str
    paper: str | None
    here: str
    alike: bool
    columns: list[str]
    units: list[Literal["points", "number"]]
    differences: list[int]
    accuracies: list[int] | None = None
    rows: list[TableRow]
    spectrum: list[str]
    x: str | None
    log_x: bool
    remarks: list[str]
    file: str | None = None
    predicts: Predicts | None = None

    @model_validator(mode="after")
    def _check_shape(self) -> "TableEntry":
        wide = len(self.columns)
        whole = len(self.units) == wide and all(0 <= column < wide for column in self.differences)
        for row in self.rows:
            values = [len(row.seeds)] * wide
            whole &= len(row.paper) == wide and [len(value) for value in row.values] == values
        if not whole or not self.rows:
            raise ValueError("each row needs the paper's number and one for each seed in every column")
        if self.predicts is not None and not {self.predicts.target, *self.predicts.by} <= set(self.columns):
            raise ValueError("predicts names a title that no column has")
        return self


class Comparison(_Part):
    """A head against the first head, paired over seeds; points of linear accuracy at `place`, 0 to 100.

    `low` and `high` bound the 95 % t interval; they are None for a single seed.
    """

    head: str
    against: str
    place: str
    difference: float
    low: float | None
    high: float | None


class Published(_Part):
    """Published numbers for comparison: head spec -> value, and what and where they were measured."""

    caption: str
    values: dict[str, float]


class Machine(_Part):
    """Where the numbers were made. This affects only times and the last bits of results."""

    processor: str
    threads: int
    device: str
    python: str
    torch: str


class Record(_Part):
    """The record of one command. `recipe` is resolved; that of a study has its first head and seed.

    `predicted` and `simulated` belong to `theory`, which says what they are; None is "no number".
    """

    kind: Literal["run", "study", "diagnosis", "theory", "choice"]
    schema_version: Annotated[int, AfterValidator(_known)] = Field(default=SCHEMA, alias="schema")
    fullrank: str
    created: str
    machine: Machine
    recipe: dict[str, Any]
    runs: list[RunEntry]
    comparisons: list[Comparison] = []
    published: Published | None = None
    diagnosis: DiagnosisEntry | None = None
    choice: ChoiceEntry | None = None
    theory: TheoryEntry | None = None
    table: TableEntry | None = None
    predicted: list[list[float | None]] | None = None
    simulated: list[list[float | None]] | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_older(cls, content: Any) -> Any:
        """A record of an older schema as this one has it."""
        older = isinstance(content, dict) and content.get("schema") == 1
        return {**from_schema_1(content), "schema": SCHEMA} if older else content

    @model_validator(mode="after")
    def _check_numbers(self) -> "Record":
        if self.theory is not None:
            shape = [len(self.theory.columns)] * len(self.theory.rows)
            for numbers in (self.predicted, self.simulated):
                if [len(row) for row in numbers or ()] != shape:
                    raise ValueError("predicted and simulated need a number for each row and column")
        return self

    def save(self, folder: Path) -> None:
        """Write `record.json` into `folder`, whole or not at all."""
        write_whole(folder / RECORD_FILE, self.model_dump_json(by_alias=True, indent=1).encode())

    @classmethod
    def load(cls, folder: Path) -> "Record":
        """Read `folder`/record.json; DataError for one that is missing, damaged or of a newer schema."""
        path = Path(folder) / RECORD_FILE
        if not path.is_file():
            raise DataError(f"{folder} holds no {RECORD_FILE}; name the folder of a finished run or study.")
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise DataError(
                f"{path} is not a valid record of schema {SCHEMA} or older: {where}: {first['msg']}; "
                "remove it and run its command again, with --resume where it has that, to write a new one."
            ) from None


@dataclasses.dataclass(frozen=True, repr=False)
class Result:
    """The result of a command: its folder and its record.

    A notebook shows its headline and a small table.
    """

    path: Path
    record: Record

    def to_frame(self) -> "pandas.DataFrame":
        """The results as a tidy pandas DataFrame; `fullrank.record.tidy` says what its columns hold.

        A run or study has a row for each row of its results table and each place, means over seeds with
        intervals in points, 0 to 100. Raises UsageError without pandas (the extra `pandas`).
        """
        from fullrank.record.frames import frame
        from fullrank.record.tidy import tidy_rows

        return frame(tidy_rows([self]))

    def scores_frame(self) -> "pandas.DataFrame":
        """Every score of every run as a tidy DataFrame: one row a score, with head, seed, place and unit.

        Empty for a result without runs. Raises UsageError without pandas (the extra `pandas`).
        """
        from fullrank.record.frames import frame
        from fullrank.record.tidy import score_rows

        return frame(score_rows([self]))

    def __repr__(self) -> str:
        from fullrank.record.summary import summary

        return summary(self)

    def _repr_html_(self) -> str:
        # Records may not import reports, so their function is found by name when a notebook shows a result.
        html: str = import_module("fullrank.reports.notebook").summary_html(self)
        return html
