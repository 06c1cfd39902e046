"""fewvit report"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .outputs import REPORT
from .shared import Output, command, given, named, single
from .show import Screen

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
    title: Annotated[str | None, typer.Option("--title", metavar="TEXT", help="What the page is called.")] = None,
) -> None:
    """Results of sweeps, runs and commands as one table and one page.

    What --out writes goes by its ending: .html is a page that holds all it shows, .md and .tex are tables of the means,
    .csv and .json have every row.
    """
    screen = Screen(output)

    from fewvit.report.report import Report, writer_of

    files = list(outs or ())
    for path in files:
        writer_of(path)
    made = Report.of(results, title)
    made.require_apart(files)
    for line in [*(state.line for state in made.found.sweeps), *made.found.notes]:
        screen.notify(line)
    for path in files:
        made.write(path)
        screen.notify(f"wrote {path}")
    if not files or given(context, {"format"}):
        screen.result(made.result, shown=made.summary.rows)
    if made.incomplete is not None:
        for error in made.found.damaged[1:]:
            screen.notify(" ".join(str(error).split()))
        raise made.incomplete
