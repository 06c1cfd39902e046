"""fewvit layers"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .inputs import listing, reader
from .outputs import RESULT
from .shared import Access, Features, Layout, Listed, Model, Output, Pair, Place, Views, Work, command, single
from .show import Screen

app = single()


@command(app, out=RESULT)
def layers(
    pair: Pair,
    model: Model,
    layout: Layout,
    access: Access,
    place: Place,
    features: Features,
    views: Views,
    listed: Listed,
    work: Work,
    output: Output,
    k: Annotated[int, typer.Option("--k", min=1, help="Neighbours that vote.")] = 20,
    shots: Annotated[
        int, typer.Option("--shots", min=1, help="Labelled images per class of the logistic regression.")
    ] = 5,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Draws of the labelled images.")] = 5,
    choose_on: Annotated[
        str,
        typer.Option(
            "--choose-on",
            metavar="test|train",
            help="What the best block is chosen on: test shows what there is; train, which judges by train images "
            "that nothing was fitted on, is an honest choice.",
        ),
    ] = "test",
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.png|.svg", help="Draw accuracy over blocks (extra `plots`)."),
    ] = None,
) -> None:
    """Accuracy of each block's class token and patch mean, from one pass: which to read."""
    screen = Screen(output)

    from fewvit.evaluate.layers import LayerOptions, check_options, run_layers
    from fewvit.figures.picture import check_picture
    from fewvit.results import Result
    from fewvit.sources import Given

    options = LayerOptions(k, shots, trials, choose_on, features.device, work.seed)
    check_options(options)
    if plot is not None:
        check_picture(plot, "--plot")
    source = reader(model, layout, access, place, features, work, screen, reading=views.reading)
    sources = Given(pair.data, pair.train, pair.test, listing(listed))
    rows, facts = run_layers(source, sources, options, screen.notify, screen.skipped)
    if plot is not None:
        from fewvit.evaluate.layer_plot import save_layer_plot

        save_layer_plot(plot, rows)
        screen.notify(f"wrote {plot}")
    screen.result_of_trials(Result("layers", rows, facts))
