"""The table of the study: methods and pretext tasks as rows; pretext task, class at each layer as columns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Literal

from fullrank.errors import count_of
from fullrank.record import Record, TableEntry, TableRow
from fullrank.record.making import new_record
from fullrank.runs.baselines import baselines
from fullrank.runs.recipe import Recipe
from fullrank.studies.forward_forward.nets import PlannedNet, TrainedNet, check_settings, images_of
from fullrank.studies.forward_forward.settings import SOFTMAX, Settings
from fullrank.studies.table import Scale, StudyTable


@dataclass(frozen=True)
class _Column:
    """A column: its title, its number for a net and the softmax twin of that net, and its unit.

    `paper` is the position of the paper's number among those of a row, None where the paper has none.
    """

    title: str
    value: Callable[[TrainedNet, TrainedNet], float]
    unit: Literal["points", "number"] = "points"
    difference: bool = False
    paper: int | None = None


def columns_of(settings: Settings) -> list[_Column]:
    """The columns of the table: pretext task, class at each layer, and both against the softmax twin."""
    layers = [f"layer {number}" for number in range(1, settings.depth + 1)]
    joined = f"layers {settings.last}-{settings.depth}"
    columns = [
        _Column("pretext", lambda net, _: 100 * net.pretext_accuracy, paper=0),
        _Column(
            "pretext minus softmax",
            lambda net, twin: 100 * (net.pretext_accuracy - twin.pretext_accuracy),
            difference=True,
        ),
    ]
    columns += [_Column(f"class, {layer}", partial(_class_at, layer)) for layer in layers]
    return [
        *columns,
        _Column(f"class, {joined}", partial(_class_at, joined), paper=1),
        _Column(
            f"class, {joined}, minus softmax",
            lambda net, twin: _class_at(joined, net, twin) - _class_at(joined, twin, twin),
            difference=True,
        ),
        _Column(
            "best layer",
            partial(_best, layers),
            "number",
        ),
    ]


def _class_at(place: str, net: TrainedNet, _: TrainedNet) -> float:
    """The accuracy of the linear probe for the class at a place, in points."""
    return 100 * net.entry.probes[place].linear


def _best(layers: Sequence[str], net: TrainedNet, _: TrainedNet) -> float:
    """The number of the layer with the highest accuracy for the class, the first of equal ones."""
    values = [_class_at(layer, net, net) for layer in layers]
    return 1.0 + values.index(max(values))


@dataclass(frozen=True)
class StudyPlan:
    """The table of the study at a scale: its nets, in folders under `store`, and its record."""

    name: str
    table: StudyTable
    scale: Scale
    seeds: int
    store: Path

    @property
    def settings(self) -> Settings:
        """The settings at the scale."""
        return self.table.settings[self.scale]

    def nets(self) -> list[PlannedNet]:
        """The nets of all rows, one for each seed."""
        return [net for pretext, method in self._rows() for net in self._row_nets(pretext, method)]

    def check(self) -> None:
        """Raise UsageError, before any training, for settings that do not fit the images."""
        check_settings(self.settings, images_of(self.settings.recipe)[0])

    def tabulated(self, folder: Path) -> Record:
        """Write the record of the table and its finished nets into a folder, and return it."""
        settings, columns = self.settings, columns_of(self.settings)
        data = Recipe.resolve(settings.recipe).data
        layers = count_of(settings.depth, "layer")
        on_pixels = baselines(*images_of(settings.recipe), "label", None)[:1]
        entries = [net.result.entry.model_copy(update={"baselines": on_pixels}) for net in self.nets()]
        entry = TableEntry(
            name=self.name,
            scale=self.scale,
            here=f"{data}, {layers} of {settings.width} units, {count_of(settings.epochs, 'epoch')}",
            alike=False,
            columns=[column.title for column in columns],
            units=[column.unit for column in columns],
            differences=[number for number, column in enumerate(columns) if column.difference],
            rows=[self._row_entry(columns, *row) for row in self._rows()],
            spectrum=[],
            x=None,
            log_x=False,
            **self.table.model_dump(include={"title", "source", "question", "paper", "remarks"}),
        )
        kept = {"study": self.table.study, "data": data, **settings.model_dump(mode="json")}
        record = new_record("study", kept, entries, table=entry)
        folder.mkdir(parents=True, exist_ok=True)
        record.save(folder)
        return record

    def _rows(self) -> list[tuple[str, str]]:
        """Each pretext task with each method."""
        return list(product(self.settings.pretexts, self.settings.methods))

    def _row_nets(self, pretext: str, method: str) -> list[PlannedNet]:
        seeds = range(self.seeds)
        return [PlannedNet(self.settings, method, pretext, seed, self.store) for seed in seeds]

    def _row_entry(self, columns: Sequence[_Column], pretext: str, method: str) -> TableRow:
        nets = self._row_nets(pretext, method)
        pairs = [(net.result, replace(net, method=SOFTMAX).result) for net in nets]
        paper = self.table.paper_numbers.get(pretext, {}).get(method, (None, None))
        return TableRow(
            title=f"{pretext}: {method}",
            seeds=[net.seed for net in nets],
            runs=[net.folder.name for net in nets],
            paper=[None if column.paper is None else paper[column.paper] for column in columns],
            values=[[column.value(*pair) for pair in pairs] for column in columns],
        )
