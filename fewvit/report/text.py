"""A table as Markdown or as LaTeX, for a page or a paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import printable
from .paper import NONE, Cell, PaperTable

MARKDOWN, LATEX = "<!-- fewvit report -->", "% fewvit report"  # first lines, by which a file is known as one

_LONG = 50  # rows that a page has room for
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


# ---- for a paper


def paper_markdown(tables: Sequence[PaperTable]) -> str:
    """Tables of Markdown, each under its caption; the best of a column is bold."""
    parts = [MARKDOWN]
    for table in tables:
        head = [*table.labels, *table.columns]
        rule = ["---"] * len(table.labels) + ["---:"] * len(table.columns)
        lines = [[_in_markdown(cell) for cell in head], rule]
        for names, cells in table.rows:
            lines.append([_in_markdown(name) for name in names] + [_cell_in_markdown(cell) for cell in cells])
        parts.append(_in_markdown(table.caption) + "\n\n" + "\n".join("| " + " | ".join(one) + " |" for one in lines))
    return "\n\n".join(parts) + "\n"


def _cell_in_markdown(cell: Cell | None) -> str:
    text = NONE if cell is None else _in_markdown(str(cell))
    return f"**{text}**" if cell is not None and cell.is_best else text


def paper_latex(tables: Sequence[PaperTable]) -> str:
    """Tables of LaTeX with booktabs' rules and captions; one of many rows is a longtable, which pages can break."""
    needed = ["booktabs", *(["longtable"] if any(len(table.rows) > _LONG for table in tables) else [])]
    lines = [f"{LATEX}: needs \\usepackage{{{','.join(needed)}}}"]
    for number, table in enumerate(tables, 1):
        lines += ["", *_paper_table(table, f"\\caption{{{_in_latex(table.caption)}}}\\label{{tab:fewvit-{number}}}")]
    return "\n".join(lines) + "\n"


def _paper_table(table: PaperTable, caption: str) -> list[str]:
    spec = "l" * len(table.labels) + "r" * len(table.columns)
    head = " & ".join(_in_latex(name) for name in [*table.labels, *table.columns]) + " \\\\"
    body = [" & ".join([*map(_in_latex, names), *map(_cell_in_latex, cells)]) + " \\\\" for names, cells in table.rows]
    if len(table.rows) > _LONG:
        return [
            f"% {len(table.rows)} rows: a longtable, which stands in no table environment",
            f"\\begin{{longtable}}{{{spec}}}",
            f"{caption} \\\\",
            *("\\toprule", head, "\\midrule", "\\endfirsthead", "\\toprule", head, "\\midrule", "\\endhead"),
            *("\\bottomrule", "\\endfoot", *body, "\\end{longtable}"),
        ]
    return [
        *("\\begin{table}", "\\centering", caption, f"\\begin{{tabular}}{{{spec}}}", "\\toprule", head, "\\midrule"),
        *(*body, "\\bottomrule", "\\end{tabular}", "\\end{table}"),
    ]


def _cell_in_latex(cell: Cell | None) -> str:
    if cell is None:
        return "--"
    value = f"\\textbf{{{_in_latex(cell.value)}}}" if cell.is_best else _in_latex(cell.value)
    return f"{value} $\\pm$ {_in_latex(cell.std)}" if cell.std else value


# ---- signs


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
