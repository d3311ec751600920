"""The diagnosis of a run, a model or a file of embeddings: did it collapse, why, and where to cut."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from fullrank.diagnosis.against import compare_with, read_baseline
from fullrank.diagnosis.beside.compare import compare_files
from fullrank.diagnosis.beside.of_files import open_other
from fullrank.diagnosis.beside.of_models import compare_models, find_subjects
from fullrank.diagnosis.map import check_method, check_rows
from fullrank.diagnosis.map_rows import DrawnMap, draw_map, rows_of_file
from fullrank.diagnosis.of_file import SAMPLE, diagnose_file
from fullrank.diagnosis.of_model import diagnose_model
from fullrank.diagnosis.subject import Subject, find_subject
from fullrank.door import import_modules
from fullrank.embeddings.files import open_embeddings
from fullrank.embeddings.kinds import is_embeddings
from fullrank.errors import DataError, UsageError
from fullrank.files import result_folder, save_arrays
from fullrank.progress import progress_bar
from fullrank.record import (
    Compared,
    DiagnosisEntry,
    Finding,
    MapMethod,
    MeasureChange,
    PairedScore,
    Result,
    SideBySide,
)
from fullrank.record.making import new_record
from fullrank.record.offending import keep_rows
from fullrank.targets.opening import Target, other_target, target as open_target

if TYPE_CHECKING:
    from fullrank.runs.run import Run


class Diagnosis(Result):
    """A finished diagnosis: its folder and its record.

    Args:
        path: The folder.
        record: What was measured; `record.diagnosis` is the entry.
    """

    @property
    def entry(self) -> DiagnosisEntry:
        """Everything that was measured."""
        if self.record.diagnosis is None:
            raise DataError(f"{self.path} holds a {self.record.kind}, not a diagnosis; diagnose it again.")
        return self.record.diagnosis

    @property
    def verdict(self) -> str:
        """Whether it collapsed, and why, in one or two sentences."""
        return self.entry.verdict

    @property
    def causes(self) -> list[Finding]:
        """The findings, alarms and notes."""
        return self.entry.findings

    @property
    def beside(self) -> SideBySide | None:
        """The comparison with the other target; None without `against`."""
        return self.entry.beside

    @property
    def worse(self) -> list[Compared | PairedScore | MeasureChange]:
        """What got worse than in the baseline, then what is worse than in the other target."""
        return [*self.entry.worse, *self.entry.worse_beside]


def diagnose(
    target: "str | Path | nn.Module | type[nn.Module] | Run | Target",
    *,
    data: Any = None,
    views: str | None = None,
    labels: str | None = None,
    column: str | None = None,
    positives: str | Path | None = None,
    weights: str | Path | None = None,
    image_size: int | None = None,
    places: Sequence[str] | None = None,
    limit: int = SAMPLE,
    seed: int = 0,
    skip_bad: bool = False,
    baseline: str | Path | None = None,
    against: "str | Path | nn.Module | type[nn.Module] | Run | Target | None" = None,
    against_column: str | None = None,
    map: str = "pca",  # noqa: A002
    out: str | Path | None = None,
    imports: Sequence[str | Path | ModuleType] = (),
) -> Diagnosis:
    """Diagnose a model or a file of embeddings: spectra, collapse and its causes, and where to cut.

    Args:
        target: What `fullrank.target` takes, or what it returns: a run, anybody's model, an `nn.Module`, an
            exported program. Or a file of embeddings (.npy, .npz, .safetensors, .parquet), or a folder of
            such files.
        data: The images for a model: the spec of a source, a torch Dataset of (image, label) that is tested
            on, or a pair of Datasets, to train and to test. A run has its own.
        views: The spec of the views, to measure the effect of the augmentation. A run has its own.
        labels: Which labels of the images, if there are several kinds; for a file, where its labels are.
        column: For a file: the array or column of the features.
        positives: A second file, with another view of each row of a file of embeddings.
        weights: A file of weights for the spec of an encoder.
        image_size: The side to which the images are resized, for `against` too unless it is a run.
        places: Where features are read; None is every place from the first block to z.
        limit: At most this many test images are diagnosed, and as many training images fit the probes.
        seed: The seed of samples and views.
        skip_bad: Leave out rows of a file that are not finite.
        baseline: The `record.json` of an earlier diagnosis, or its folder, to compare with.
        against: Another target of the same kind, which is compared with this one row by row. Two models see
            the same images.
        against_column: For files: the array or column of the features in `against`, if it has another name.
        map: The map of the rows on the page: `pca`, `tsne`, `umap` (needs the extra `map`) or `none`.
        out: The folder for the results; None makes one under runs/.
        imports: Modules or files that register parts of yours, as `--import` does.

    Returns:
        The diagnosis; `record.json` is in its folder, with `arrays.npz` of the map, and with `rows.csv` if
        findings name rows.

    Raises:
        UsageError: The target is none of these, data are missing, or an option does not apply to the target.
            The baseline is not a diagnosis, or one of another kind. `against` is of another kind, or it
            cannot be told which rows belong together.
        DataError: A file or images cannot be read.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
    >>> np.save(folder + "/x.npy", x)
    >>> diagnose(folder + "/x.npy", out=folder + "/diagnosis").record.diagnosis.collapsed
    False
    """
    import_modules(imports)
    folder = result_folder(out, "diagnosis")
    method = check_method(map)
    earlier = None if baseline is None else read_baseline(baseline, of_file=is_embeddings(target))
    _check_kinds(target, against, against_column)
    if is_embeddings(target):
        for_models = {"data": data, "views": views, "weights": weights, "places": places}
        _refuse_given(**for_models, image_size=image_size)
        recipe: dict[str, Any] = {}
        entry, drawn = _of_files(
            cast(str | Path, target),
            cast(str | Path | None, against),
            positives,
            labels=labels,
            columns=(column, against_column),
            seed=seed,
            skip_bad=skip_bad,
            method=method,
        )
    else:
        if positives is not None:
            raise UsageError("positives are the second view of a file of embeddings; use views for a model.")
        opened = open_target(target, weights=weights, image_size=image_size)
        other = None if against is None else other_target(against, image_size=image_size)
        subjects: tuple[Subject, ...] = (
            (find_subject(opened, data, views),)
            if other is None
            else find_subjects(opened, other, data, views)
        )
        recipe = subjects[0].recipe
        entry, drawn = _of_models(
            *subjects, places=places, label=labels or "label", limit=limit, seed=seed, method=method
        )
    if earlier is not None:
        entry = entry.model_copy(update={"compared": compare_with(earlier, entry)})
    folder.mkdir(parents=True, exist_ok=True)
    if drawn is not None:
        entry = entry.model_copy(update={"map": drawn.entry})
        save_arrays(folder, drawn.arrays)
    entry = entry.model_copy(update={"findings": keep_rows(entry.findings, folder)})
    record = new_record("diagnosis", recipe, [], diagnosis=entry)
    record.save(folder)
    return Diagnosis(folder, record)


def _of_models(
    subject: Subject,
    other: Subject | None = None,
    *,
    places: Sequence[str] | None,
    label: str,
    limit: int,
    seed: int,
    method: MapMethod | None,
) -> tuple[DiagnosisEntry, DrawnMap | None]:
    """The diagnosis of a model, with the model `other` beside it, and the map of its images."""
    check_rows(method, min(limit, len(subject.all or subject.test)))
    settings: dict[str, Any] = {"label": label, "limit": limit, "seed": seed}
    with progress_bar() as progress:
        if other is None:
            found = diagnose_model(subject, places, **settings, progress=progress)
        else:
            found = compare_models(subject, other, places, **settings, progress=progress)
        if method is None:
            return found.entry, None
        return found.entry, draw_map(found.map_rows, found.entry.findings, method, seed, progress)


def _of_files(
    target: str | Path,
    against: str | Path | None,
    positives: str | Path | None,
    *,
    labels: str | None,
    columns: tuple[str | None, str | None],
    seed: int,
    skip_bad: bool,
    method: MapMethod | None,
) -> tuple[DiagnosisEntry, DrawnMap | None]:
    """The diagnosis of a file, with the file `against` beside it, and the map of its rows."""
    read = partial(open_embeddings, column=columns[0], skip_bad=skip_bad)
    file = read(target, labels=labels)
    pair = None if positives is None else read(positives)
    other = None if against is None else open_other(against, labels, columns=columns, skip_bad=skip_bad)
    if notes := [*file.notes, *(other.notes if other else ())]:
        print("\n".join(notes), file=sys.stderr)
    check_rows(method, file.rows)
    with progress_bar() as progress:
        if other is None:
            entry = diagnose_file(file, pair, seed=seed, progress=progress)
        else:
            entry = compare_files(file, other, pair, seed=seed, progress=progress)
        if method is None:
            return entry, None
        rows = rows_of_file(file, Path(target), entry.findings, method, seed)
        return entry, draw_map(rows, entry.findings, method, seed, progress)


def _check_kinds(target: object, against: object, against_column: str | None) -> None:
    """Raise UsageError for a file of embeddings beside a model, or for a column without two files."""
    kinds = [is_embeddings(each) for each in (target, against)]
    unreadable = kinds[0] and str(against).endswith((".pt", ".pth"))  # its reader says how to convert it
    if against is not None and kinds[0] != kinds[1] and not unreadable:
        file, model = (target, against) if kinds[0] else (against, target)
        if not isinstance(model, str | Path):
            model = getattr(model, "name", type(model).__name__)
        raise UsageError(
            f"{file} is a file of embeddings and {model} is a model, but only two of a kind can be compared; "
            "write the features of the model to a file with `fullrank embed`, and compare both files."
        )
    if against_column is not None and (against is None or not kinds[0]):
        raise UsageError(
            f"against_column={against_column} is of a second file of embeddings; name the file with against."
        )


def _refuse_given(**options: object) -> None:
    """Raise UsageError for the first option that is given although a file of embeddings cannot use it."""
    if name := next((name for name, value in options.items() if value is not None), None):
        raise UsageError(f"A file of embeddings takes no {name}; leave it out, or name a model by its spec.")
