"""Write docs/recipe.md from the list of a recipe's keys: `python -m fullrank.runs.recipe_page`."""

import inspect
import re
from collections import defaultdict

from fullrank.runs.recipe import RECIPE_KEYS, Recipe
from fullrank.runs.settings import Setting, kind_of

COMMAND = "uv run python -m fullrank.runs.recipe_page > docs/recipe.md"


def recipe_page() -> str:
    """The page: a section for the recipe and for each of its parts, with a table of its keys."""
    sections: dict[str, list[Setting]] = defaultdict(list)
    for key, setting in RECIPE_KEYS.items():
        sections[key.rpartition(".")[0]].append(setting)
    lines = [
        f"# The keys of a recipe\n\nThis page is written by `{COMMAND}`.\n",
        "A key without a dot is also an option of `train` and `compare`: `batch_size` is `--batch-size` "
        "(`compare` takes its heads from `--heads`). `--set KEY=VALUE` sets any key, and so do keywords of "
        "`fullrank.train` and `fullrank.compare`. In a YAML file, write a key with a dot under its part. "
        "`null` empties a key. A key that neither you nor the recipe sets has the default below.",
    ]
    for name, settings in sections.items():
        part = kind_of(Recipe.model_fields[name]) if name else Recipe
        paragraphs = (inspect.getdoc(part) or "").split("\n\n")
        prose = [f"\n{paragraph}" for paragraph in paragraphs if not paragraph.startswith(">>>")]
        lines += [f"\n## {name or 'recipe'}", *prose]
        lines += ["\n| key | meaning | default | a value is |", "|---|---|---|---|"]
        lines += [f"| `{s.key}` | {s.meaning} | `{s.default}` | {escaped(s.limits)} |" for s in settings]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    r"""Escape text for a cell of a table, so that brackets make no link and a bar does not end the cell.

    >>> print(escaped("[a-z][0-9]"))
    \[a-z]\[0-9]
    """
    return re.sub(r"([\[|])", r"\\\1", text)


if __name__ == "__main__":
    print(recipe_page(), end="")
