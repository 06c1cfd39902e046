"""A report: what was read, its table, and the files that it can become."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..errors import DataError, FewvitError, MissingExtra, UnknownName, UsageError, counted, in_one_line
from ..files import replacing
from ..paired import ALPHA, RESAMPLES
from ..results import Facts, Result, manifest
from .comparing import comparing, results_of
from .comparison import Comparison, compare
from .draws import keep_most_draws
from .looking import DetailsOf
from .paper import PaperTable, paper_tables
from .read import REPORT, Found, read
from .rows import Line, lines_of, means, told_apart
from .text import latex, markdown, paper_latex, paper_markdown

ENDINGS = (".html", ".csv", ".json", ".md", ".tex")
LAYOUTS = ("paper", "rows")
PAPER = LAYOUTS[0]
_NEEDED = ("matplotlib", "jinja2")  # by the page


@dataclass(frozen=True)
class Report:
    """Results of any command as one table and one page."""

    title: str
    found: Found
    names: Sequence[str] | None = None  # backbones or methods that are compared; None: nothing is
    layout: str = PAPER  # of Markdown and LaTeX
    metric: str | None = None  # that tables for a paper show; None: each method's main one

    @classmethod
    def of(
        cls,
        places: Sequence[Path],
        title: str | None = None,
        names: Sequence[str] | None = None,
        layout: str = PAPER,
        metric: str | None = None,
    ) -> Report:
        """The report of these folders and files. Raises DataError for one that is no result, or when none is whole."""
        if layout not in LAYOUTS:
            raise UnknownName("layout", layout, LAYOUTS)
        if metric is not None and (layout != PAPER or names is not None):
            other = "--layout rows shows" if names is None else "the tables of --compare have"
            raise UsageError(f"--metric is of the table for a paper, and {other} every metric", fix="Leave it away.")
        found = read(places)
        if not found.records:
            first = found.damaged[0] if found.damaged else None
            raise first or DataError("there is no finished result", file=places[0], fix="Run the sweep first.")
        keep_most_draws(found)
        name = places[0].absolute().name if len(places) == 1 else f"{counted(len(places), 'place')}"
        return cls(title or f"Results of {name}", found, names, layout, metric)

    @cached_property
    def lines(self) -> list[Line]:
        """Every row, named and in order."""
        return lines_of(self.found.records)

    @cached_property
    def details(self) -> DetailsOf:
        """What reads details, once each."""
        return DetailsOf(self.found)

    @cached_property
    def comparison(self) -> Comparison | None:
        """What is said of the names that are compared; None where there are none. Raises as `compare`."""
        return compare(self.lines, self.names, self.details) if self.names is not None else None

    @property
    def tables(self) -> list[tuple[str, Result]]:
        """What is shown, with titles: the summary, or in its place the tables of the comparison asked for."""
        return [("", self.summary)] if self.comparison is None else list(results_of(self.comparison))

    @property
    def result(self) -> Result:
        """All rows, or the comparison's where one is asked for, under the same columns, and a manifest."""
        rows = [line.row for line in self.lines] if self.comparison is None else self.comparison.rows()
        columns = dict.fromkeys(name for row in rows for name in row if name != "ci95")
        filled = [{**dict.fromkeys(columns), **row} for row in rows]
        facts: Facts = {
            "title": self.title,
            "results": [str(record.path) for record in self.found.records],
            "sweeps": [state.line for state in self.found.sweeps],
            "left_out": [in_one_line(error) for error in self.found.damaged],
        }
        if self.comparison is not None:
            compared = {"names": list(self.names or ()), "resamples": RESAMPLES, "alpha": ALPHA, "seed": 0}
            facts["compare"] = {**compared, "notes": self.comparison.notes}
        return Result(REPORT, filled, manifest(**facts))

    @property
    def summary(self) -> Result:
        """The rows without single draws, and without columns by which no two rows are told apart."""
        return Result(REPORT, told_apart([line.row for line in means(self.lines)]))

    @property
    def is_for_paper(self) -> bool:
        """Whether Markdown and LaTeX hold tables for a paper, not rows."""
        return self.layout == PAPER and self.names is None

    @property
    def for_paper(self) -> list[PaperTable]:
        """The means as tables for a paper. Raises as `paper_tables`."""
        return paper_tables(self.lines, self.metric)

    def require_apart(self, files: Sequence[Path]) -> None:
        """Raise UsageError where a file that is to be written is one that was read."""
        read_from = {os.path.realpath(record.path) for record in self.found.records}
        for path in files:
            if os.path.realpath(path) in read_from:
                raise UsageError("--out would replace a result that is read", file=path, fix="Give --out another name.")

    def write(self, path: Path) -> None:
        """Replace a file by what its ending asks for. Raises as `writer_of`."""
        text = writer_of(path)(self)
        with replacing(path, "w") as handle:
            handle.write(text)

    @property
    def incomplete(self) -> FewvitError | None:
        """The error that says what is left out, for when everything else is written; None: nothing is."""
        damaged = self.found.damaged
        if not damaged:
            return None
        first = in_one_line(damaged[0])
        more = f" And {len(damaged) - 1} more." if len(damaged) > 1 else ""
        return DataError(f"left out {counted(len(damaged), 'damaged result')}: {first}{more}")


def writer_of(path: Path) -> Callable[[Report], str]:
    """What writes files of an ending. Raises UsageError for one that none does, MissingExtra without what it needs."""
    ending = path.suffix.lower()
    if ending not in _WRITERS:
        raise UsageError(
            f"--out {path}: a report is written as {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}",
            fix="Let the name end in one of them.",
        )
    missing = [name for name in _NEEDED if ending == ".html" and importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"the page of a report needs {', '.join(missing)}", fix="Install it with `pip install 'fewvit[report]'`."
        )
    return _WRITERS[ending]


def _html(report: Report) -> str:
    from .page import page
    from .sections import sections_of

    sections = sections_of(report.lines, report.details)  # first: details that are damaged stand among what is left out
    if report.comparison is not None:
        sections.insert(0, comparing(report.comparison))
    return page(report.title, report.found, report.lines, sections)


def _markdown(report: Report) -> str:
    return paper_markdown(report.for_paper) if report.is_for_paper else "\n".join(_written(report, markdown))


def _latex(report: Report) -> str:
    return paper_latex(report.for_paper) if report.is_for_paper else "\n".join(_written(report, latex))


def _written(report: Report, write: Callable[[Sequence[Sequence[str]], Mapping[str, str]], str]) -> Iterator[str]:
    """Each table as text."""
    for _, result in report.tables:
        table = result.to_table()
        yield write(table, result.left_out(table))


_WRITERS: dict[str, Callable[[Report], str]] = {
    ".html": _html,
    ".csv": lambda report: report.result.to_csv(),
    ".json": lambda report: report.result.to_json() + "\n",
    ".md": _markdown,
    ".tex": _latex,
}
