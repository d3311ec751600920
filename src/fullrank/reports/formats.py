"""Tables as Markdown, LaTeX, CSV, JSON and HTML. Torch-free."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from markupsafe import Markup, escape

from fullrank.record import Result
from fullrank.record.tidy import tidy_rows
from fullrank.reports.numbers import unique_slugs
from fullrank.reports.text_tables import TextTable, text_tables

# What LaTeX reads as a command, and signs that its fonts lack in text.
_LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "–": "--",
    "…": r"\ldots{}",
    "|": r"\textbar{}",
    '"': "''",
}


def markdown(tables: Sequence[TextTable]) -> str:
    """Pipe tables; each has its title in bold above it where there are several.

    >>> print(markdown([TextTable("", ("head", "linear"), (("a|b", "94.0"),), "")]), end="")
    | head | linear |
    |:---|---:|
    | a\\|b | 94.0 |
    """
    blocks = []
    for table in tables:
        lines = [f"**{table.title}**\n"] if len(tables) > 1 else []
        rule = [":---"] * table.texts + ["---:"] * (len(table.columns) - table.texts)
        lines += [_piped(table.columns), f"|{'|'.join(rule)}|", *map(_piped, table.rows)]
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def latex(tables: Sequence[TextTable]) -> str:
    r"""Floating tables with booktabs' rules, a caption and a label; needs \usepackage{booktabs}.

    >>> print(latex([TextTable("Results", ("head", "±"), (("linear:8,norm=batch_2", "−1"),), "95 % of 4.")]))
    % \usepackage{booktabs}
    \begin{table}
      \centering\small
      \caption{95 \% of 4.}
      \label{tab:results}
      \begin{tabular}{lr}
        \toprule
        head & $\pm$ \\
        \midrule
        linear:8,norm=batch\_2 & $-$1 \\
        \bottomrule
      \end{tabular}
    \end{table}
    <BLANKLINE>
    """
    blocks = ["% \\usepackage{booktabs}\n"]
    labels = unique_slugs([table.title for table in tables])
    for table, label in zip(tables, labels, strict=True):
        head = " & ".join(map(_latex_title, table.columns)) + r" \\"
        rows = [" & ".join(map(latex_text, row)) + r" \\" for row in table.rows]
        caption = latex_text(" ".join((table.caption, *table.notes)))
        columns = "l" * table.texts + "r" * (len(table.columns) - table.texts)
        body = [r"\toprule", head, r"\midrule", *rows, r"\bottomrule"]
        lines = [
            r"\begin{table}",
            r"  \centering\small",
            rf"  \caption{{{caption}}}",
            rf"  \label{{tab:{label}}}",
        ]
        lines += [rf"  \begin{{tabular}}{{{columns}}}", *(f"    {line}" for line in body), r"  \end{tabular}"]
        blocks.append("\n".join([*lines, r"\end{table}"]) + "\n")
    return "".join(blocks[:1]) + "\n".join(blocks[1:])


def latex_text(text: str) -> str:
    r"""Text that LaTeX prints unchanged; intervals stay on one line, and no bracket opens an option.

    >>> latex_text("50 % [−1, 2] of a_b")
    '50 \\% {[}$-$1, 2{]} of a\\_b'
    """
    escaped = "".join(_LATEX.get(sign, sign) for sign in text)
    # A cell that begins with a bracket would be the optional argument of the line break before it.
    return escaped.replace("[", "{[}").replace("]", "{]}")


def _latex_title(title: str) -> str:
    """The title of a column, on two lines where it is long, broken at the space nearest its middle."""
    spaces = [place for place, sign in enumerate(title) if sign == " "]
    if len(title) < 12 or not spaces:
        return latex_text(title)
    middle = min(spaces, key=lambda place: abs(2 * place - len(title)))
    return rf"\shortstack[r]{{{latex_text(title[:middle])} \\ {latex_text(title[middle + 1 :])}}}"


def html(table: TextTable) -> Markup:
    """The table as a small piece of HTML, everything escaped."""
    cells = [_html_row("th", table.columns, table.texts)]
    cells += [_html_row("td", row, table.texts) for row in table.rows]
    head, *body = cells
    return Markup("<table><thead>{}</thead><tbody>{}</tbody></table>").format(head, Markup("").join(body))


def csv_text(results: Sequence[Result]) -> str:
    """The tidy rows of the results as CSV: full precision, an empty cell for no number."""
    rows, text = tidy_rows(results), io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def json_text(results: Sequence[Result]) -> str:
    """The tidy rows of the results as a JSON list of objects, null for no number."""
    return json.dumps(tidy_rows(results), indent=1, ensure_ascii=False) + "\n"


def _as_text(write: Callable[[Sequence[TextTable]], str]) -> Callable[[Sequence[Result]], str]:
    return lambda results: write(text_tables(results))


# For each name of a format, what writes results in it.
FORMATS: Mapping[str, Callable[[Sequence[Result]], str]] = MappingProxyType(
    {"markdown": _as_text(markdown), "csv": csv_text, "latex": _as_text(latex), "json": json_text}
)


def _piped(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _html_row(tag: str, cells: Sequence[str], texts: int) -> Markup:
    sides = ["left"] * texts + ["right"] * (len(cells) - texts)
    made = (
        Markup('<{0} style="text-align: {1}">{2}</{0}>').format(Markup(tag), side, escape(cell))
        for side, cell in zip(sides, cells, strict=True)
    )
    return Markup("<tr>{}</tr>").format(Markup("").join(made))
