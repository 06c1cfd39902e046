"""fewvit report"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewvit.errors import in_one_line

from .outputs import REPORT
from .shared import Output, command, given, named, single
from .show import Screen

if TYPE_CHECKING:
    from fewvit.report.report import Report

app = single()


@command(app)
def report(
    context: typer.Context,
    output: Output,
    results: Annotated[
        list[Path], typer.Argument(metavar="DIR…", help="Folders of sweeps or runs, folders of results, or their JSON.")
    ],
    outs: Annotated[
        list[Path] | None,
        typer.Option("--out", "-o", metavar=REPORT.metavar, help=REPORT.help, parser=named),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare", metavar="A,B", help="Backbones or methods, with commas between: which can be told apart."
        ),
    ] = None,
    layout: Annotated[
        str,
        typer.Option(
            "--layout", metavar="paper|rows", help="Of .md and .tex: methods by shots or k, or a row for each mean."
        ),
    ] = "paper",
    metric: Annotated[
        str | None,
        typer.Option("--metric", metavar="NAME", help="What tables for a paper show; default: each method's main one."),
    ] = None,
    title: Annotated[str | None, typer.Option("--title", metavar="TEXT", help="What the page is called.")] = None,
) -> None:
    """Results of sweeps, runs and commands as one table and one page.

    What --out writes goes by its ending: .html is a page that holds all it shows, .md and .tex are tables for a paper,
    .csv and .json have every row. With --compare the tables are those of the comparison, and the page has it too.
    """
    screen = Screen(output)

    from fewvit.report.comparing import names_in
    from fewvit.report.report import Report, writer_of

    files = list(outs or ())
    for path in files:
        writer_of(path)
    made = Report.of(results, title, None if compare is None else names_in(compare), layout, metric)
    if metric is not None:
        _ = made.for_paper  # a name that is none is an error before anything is written
    made.require_apart(files)
    compared = made.comparison.notes if made.comparison is not None else []
    for line in [*(state.line for state in made.found.sweeps), *made.found.notes, *compared]:
        screen.notify(line)
    for path in files:
        made.write(path)
        screen.notify(f"wrote {path}")
    if not files or given(context, {"format"}):
        _show(screen, made)
    if made.incomplete is not None:
        for error in made.found.damaged[1:]:
            screen.notify(in_one_line(error))
        raise made.incomplete


def _show(screen: Screen, made: Report) -> None:
    """The result on stdout; as a table, one after another where there are several."""
    if screen.output.format != "table":
        screen.result(made.result)
        return
    for title, result in made.tables:
        if title:
            screen.notify(title)
        screen.result(result)
