"""fewvit episodes"""

from __future__ import annotations

from typing import Annotated

import typer

from fewvit.errors import UsageError

from .classifiers import listed_classifiers, settings_of
from .inputs import listing, reader
from .outputs import RESULT
from .shared import (
    Access,
    Classifiers,
    Features,
    Layout,
    Listed,
    Model,
    Output,
    Place,
    Views,
    Work,
    command,
    numbers,
    single,
)
from .show import Screen

app = single()


@command(app, out=RESULT)
def episodes(
    model: Model,
    layout: Layout,
    access: Access,
    place: Place,
    features: Features,
    views: Views,
    listed: Listed,
    work: Work,
    output: Output,
    classifiers: Classifiers,
    data: Annotated[
        str | None, typer.Option("--data", metavar="SRC", help="Labelled images or features (.npz) to draw from.")
    ] = None,
    ways: Annotated[int | None, typer.Option("--ways", min=2, help="Classes of an episode; default 5.")] = None,
    shots: Annotated[
        str | None, typer.Option("--shots", metavar="N,…", help="Labelled images per class; default 1.")
    ] = None,
    queries: Annotated[
        int | None, typer.Option("--queries", min=1, help="Images per class to be classified; default 15.")
    ] = None,
    count: Annotated[int | None, typer.Option("--episodes", min=1, help="How many are drawn; default 600.")] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            metavar="FILE",
            help="Draw only from these classes: a name per line, words about it may follow.",
        ),
    ] = None,
    omniglot_runs: Annotated[
        str | None,
        typer.Option(
            "--omniglot-runs", metavar="DIR|ZIP", help="Omniglot's published one-shot runs, in place of draws."
        ),
    ] = None,
) -> None:
    """N-way K-shot accuracy over many episodes, with confidence intervals."""
    screen = Screen(output)
    if classifiers.classifier == "list":
        screen.rows("classifiers", listed_classifiers())
        return
    per_class = numbers(shots, "--shots", int)
    if omniglot_runs and any(given is not None for given in (ways, shots, queries, count, classes)):
        raise UsageError(
            "--omniglot-runs says itself what its episodes are",
            fix="Leave --ways, --shots, --queries and the like away.",
        )
    if omniglot_runs and data is not None and not data.endswith(".npz"):
        raise UsageError(
            f"--omniglot-runs {omniglot_runs} excludes --data {data}: the runs hold their images themselves",
            fix="Leave one away; beside the runs, --data may only be a features file of their images.",
        )
    source_reader = reader(model, layout, access, place, features, work, screen, reading=views.reading, shared=True)

    from fewvit.evaluate.episodes import EpisodeOptions, check_options, run_episodes
    from fewvit.results import Result
    from fewvit.sources import require_source

    settings = settings_of(classifiers, "centroid")
    options = EpisodeOptions(
        ways or 5, per_class or (1,), queries or 15, count or 600, settings, classes, omniglot_runs, work.seed
    )
    check_options(options)
    source = require_source(data or omniglot_runs)
    rows, facts = run_episodes(source_reader, source, listing(listed), options, screen.notify, screen.skipped)
    screen.result(Result("episodes", rows, facts))
