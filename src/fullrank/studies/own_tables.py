"""Tables of your own: YAML files in the format of the shipped tables, and what is wrong with one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from fullrank.errors import UsageError, unknown_name
from fullrank.files import is_file
from fullrank.runs.recipe import Recipe, parsed_parts, recipe_names, yaml_keys
from fullrank.studies.table import Column, Row, Scale, Table, Tuning, shipped_content

_PAGE = "docs/your-own-table.md explains each key"
_MODELS: dict[str, type[BaseModel]] = {"columns": Column, "rows": Row, "tune": Tuning}
Location = tuple[str | int, ...]


@dataclass(frozen=True)
class OwnTable:
    """A table of yours: its name, what it says, and by their names the files that make it again."""

    name: str
    table: Table
    files: Mapping[str, bytes]


def names_file(name: str | Path) -> bool:
    """Whether `reproduce` is given a file and not the name of a shipped table."""
    return isinstance(name, Path) or name.endswith((".yaml", ".yml"))


def own_table(path: str | Path) -> OwnTable:
    """Read a table from a YAML file; nothing is imported because the file asks for it.

    Args:
        path: The file. A recipe that it names is a shipped one or a file; a relative path starts from the
            folder of the table, or else from the current folder.

    Returns:
        The table, checked at each of its scales.

    Raises:
        UsageError: For a file that is missing or wrong, with the line and the key.
    """
    path = Path(path).expanduser()
    if not is_file(path):
        raise UsageError(f"There is no file {path}; `fullrank list tables` shows the tables by name.")
    content = yaml_keys(path.read_bytes(), f"The table {path}", "title: My table")
    file = _TableText(path, path.read_text("utf-8"))
    if isinstance(like := content.pop("like", None), str):
        content = shipped_content(like) | content
    if "theorem" in content:
        raise file.fault(("theorem",), "a table of yours has rows; run a theorem with `fullrank theory NAME`")
    if "study" in content:
        raise file.fault(("study",), "a table of yours has rows; run a study with `fullrank reproduce NAME`")
    content = {"paper": None, **content}
    recipes = _recipe_files(content, path.parent)
    try:
        table = Table.model_validate(content)
    except ValidationError as error:
        raise _first_fault(error, file, content) from None
    named = {scale: str(recipe) for scale, recipe in recipes.items()}
    table = table.model_copy(update={"recipe": table.recipe | named})
    _check_rows(table, file)
    return OwnTable(path.stem, table, _files(path.stem, content, table, recipes))


@dataclass(frozen=True)
class _TableText:
    """The text of a table, and the position of a key in it."""

    path: Path
    text: str

    def fault(self, location: Location, problem: str) -> UsageError:
        """An error with the line of a key, or of the last key on the way to it that there is."""
        known, line = self._line(location)
        key = f"{'.'.join(map(str, known))}: " if known else ""
        shown = self.text.splitlines()[line].strip()
        where = f", line {line + 1}, `{shown:.100}`" if known else ""
        return UsageError(f"{self.path}{where}: {key}{problem}.")

    def _line(self, location: Location) -> tuple[Location, int]:
        """As much of a location as the text has, and its line, counted from 0."""
        node: Any = yaml.compose(self.text, Loader=yaml.SafeLoader)
        known: Location = ()
        line = 0
        for part in location:
            if isinstance(node, yaml.MappingNode):
                pairs = [(key, value) for key, value in node.value if key.value == str(part)]
                if not pairs:
                    break
                line, node = pairs[0][0].start_mark.line, pairs[0][1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line
            else:
                break
            known = (*known, part)
        return known, line


def _first_fault(error: ValidationError, file: _TableText, content: Mapping[str, Any]) -> UsageError:
    """The error for the first thing that is wrong with the content of a table."""
    faults = error.errors()
    # A misspelt key is also missing; the spelling is what helps.
    fault = next((each for each in faults if each["type"] == "extra_forbidden"), faults[0])
    location: Location = fault["loc"]
    reason = fault.get("ctx", {}).get("error")
    if fault["type"] == "extra_forbidden":
        known = list(_MODELS.get(str(location[0]), Table).model_fields)
        problem = str(unknown_name("key", str(location[-1]), known, f"known keys are {', '.join(known)}"))
        return file.fault(location, problem.removesuffix("."))
    if fault["type"] == "missing":
        *parents, key = location
        return file.fault(tuple(parents), f"the key '{key}' is missing; add it as `{key}: ...` ({_PAGE})")
    if not location:  # a row that does not fit the columns: its title begins the message
        titles = [str(row.get("title")) for row in content["rows"]]
        row = next((i for i, title in enumerate(titles) if str(reason).startswith(title)), None)
        location = () if row is None else ("rows", row, "paper")
    problem = str(reason or f"{fault['input']!r:.60} is not allowed: {fault['msg']}")
    return file.fault(location, f"{problem.removesuffix('.')}; {_PAGE}")


def _check_rows(table: Table, file: _TableText) -> None:
    """Raise UsageError where a row has no valid recipe or reads something that does not exist."""
    for scale in table.scales:
        if scale not in table.seeds:
            raise file.fault(("seeds",), f"the scale {scale} has a recipe and no number of seeds; add it")
        for number, row in enumerate(table.rows):
            settings = table.settings(row, scale)
            if settings is None:
                continue
            try:
                table.recipe_of(row, scale, seed=0)
                table.reads(row, scale)
            except UsageError as error:
                faulty = [key for key in settings if not _resolves(table.recipe[scale], key, settings[key])]
                place: Location = ("rows", number)
                if not _resolves(table.recipe[scale], "seed", 0):
                    place = ("recipe", scale)
                elif faulty:
                    place = (*place, "set", faulty[0]) if faulty[0] in row.set else ("base", faulty[0])
                raise file.fault(place, str(error).removesuffix(".")) from None


def _resolves(recipe: str, key: str, value: Any) -> bool:
    """Whether one key of a recipe may have a value."""
    try:
        Recipe.resolve(recipe, parsed_parts({key: value}))
    except UsageError:
        return False
    return True


def _recipe_files(content: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """The recipes of a table, by scale, that are files."""
    recipe = content.get("recipe")
    by_scale = recipe if isinstance(recipe, dict) else {"mini": recipe}
    paths = {
        str(scale): [each for each in (folder / name, Path(name)) if is_file(each)]
        for scale, name in by_scale.items()
        if isinstance(name, str) and name not in recipe_names()
    }
    return {scale: found[0] for scale, found in paths.items() if found}


def _files(
    name: str, content: Mapping[str, Any], table: Table, recipes: Mapping[str, Path]
) -> dict[str, bytes]:
    """The table as one YAML file, with `like` written out, and its recipes beside it."""
    copies = {scale: f"{name}-{scale}-recipe.yaml" for scale in recipes}
    own = {**content, "recipe": {**table.recipe, **copies}}
    text = yaml.safe_dump(own, sort_keys=False, allow_unicode=True)
    return {f"{name}.yaml": text.encode()} | {
        copies[scale]: recipe.read_bytes() for scale, recipe in recipes.items()
    }


def chosen_own(names: Sequence[str | Path], scale: Scale) -> dict[str, OwnTable]:
    """The tables of some files, by name; UsageError for two of one name, or without the scale."""
    tables: dict[str, OwnTable] = {}
    for path in names:
        own = own_table(path)
        if own.name in tables:
            raise UsageError(f"Two tables are called {own.name}; give one of the files another name.")
        if scale not in own.table.scales:
            described = " or ".join(own.table.scales)
            raise UsageError(f"{path} has no recipe for the scale {scale}; give --scale {described}.")
        tables[own.name] = own
    return tables
