"""A table as Markdown or as LaTeX, for a page or a paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import printable

MARKDOWN, LATEX = "<!-- fewvit report -->", "% fewvit report"  # first lines, by which a file is known as one

_Table = Sequence[Sequence[str]]  # cells, the first line being the columns' names


def markdown(table: _Table, apart: Mapping[str, str]) -> str:
    """A Markdown table; what all rows share, column -> value, stands below it."""
    cells = [[_in_markdown(cell) for cell in line] for line in table]
    rule = ["---:" if numeric else "---" for numeric in _numeric(table)]
    lines = ["| " + " | ".join(line) + " |" for line in (cells[0], rule, *cells[1:])]
    shared = ", ".join(f"{_in_markdown(name)} {_in_markdown(value)}" for name, value in apart.items())
    return "\n".join([MARKDOWN, "", *lines, *(["", f"In all rows: {shared}."] if shared else [])]) + "\n"


def latex(table: _Table, apart: Mapping[str, str]) -> str:
    """A LaTeX tabular with booktabs' rules; what all rows share stands in a comment above it."""
    cells = [[_in_latex(cell) for cell in line] for line in table]
    shared = ", ".join(f"{name} {value}" for name, value in apart.items())
    lines = [
        f"{LATEX}: needs \\usepackage{{booktabs}}",
        *([f"% in all rows: {printable(shared)}"] if shared else []),
        f"\\begin{{tabular}}{{{''.join('r' if numeric else 'l' for numeric in _numeric(table))}}}",
        "\\toprule",
        " & ".join(cells[0]) + " \\\\",
        "\\midrule",
        *(" & ".join(line) + " \\\\" for line in cells[1:]),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _numeric(table: _Table) -> list[bool]:
    return [all(_is_number(line[at]) for line in table[1:]) for at in range(len(table[0]))]


def _is_number(text: str) -> bool:
    try:
        float(text or 0)
    except ValueError:
        return False
    return True


_MARKS = {**{sign: f"\\{sign}" for sign in "\\`*_[]|~$"}, "<": "&lt;", ">": "&gt;", "&": "&amp;"}
_COMMANDS = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"},
    **{"[": "{[}", "*": "{*}"},  # behind the end of a line LaTeX takes them for its arguments
    **{"<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}", "±": "$\\pm$", "·": "$\\cdot$"},
}


def _in_markdown(text: str) -> str:
    return "".join(_MARKS.get(sign, sign) for sign in printable(text))


def _in_latex(text: str) -> str:
    return "".join(_COMMANDS.get(sign, sign) for sign in printable(text))
