"""fewvit linear"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewvit.errors import UsageError
from fewvit.runs.processes import LeftToTheFirst, process_number

from .inputs import listing, reader
from .outputs import PROBE
from .runs import Run, run_screen, show_run
from .shared import (
    Access,
    Drawn,
    Features,
    Layout,
    Listed,
    Model,
    Output,
    Pair,
    Place,
    Work,
    command,
    given,
    numbers,
    single,
)
from .show import Screen, TrainingLine

app = single()
_TRAINING = (
    "lr",
    "epochs",
    "batch_size",
    "augment",
    "select_on",
    "set",
    "save_every",
    "overwrite",
)  # nothing to a head that is there


@command(app, out=PROBE)
def linear(
    pair: Pair,
    model: Model,
    layout: Layout,
    how: Access,
    place: Place,
    features: Features,
    listed: Listed,
    output: Output,
    context: typer.Context,
    *,
    augment: Annotated[
        bool,
        typer.Option(
            "--augment/--cached",
            help="Random crops through the backbone in every epoch, as the papers did; or features made once, in "
            "minutes.",
        ),
    ] = False,
    lr: Annotated[
        str | None,
        typer.Option(
            "--lr", metavar="LR,…", help="Learning rates, a head for each, all in one pass. Default: the protocol's."
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", min=1, metavar="N", help="Passes over the images. Default: the protocol's."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            "-b",
            min=2,
            metavar="B",
            help="Images per step. Default: the protocol's, halved until it suits the data.",
        ),
    ] = None,
    select_on: Annotated[
        str,
        typer.Option(
            "--select-on",
            metavar="train|test",
            help="Choose head and epoch on a tenth of train, held out; or on test, as the papers.",
        ),
    ] = "train",
    run: Run,
    drawn: Drawn,
    head: Annotated[
        Path | None,
        typer.Option(
            "--head",
            metavar="FILE|RUN",
            help="Train nothing: evaluate this head, such as DINO's or DINOv2's official ones.",
        ),
    ] = None,
    head_classes: Annotated[
        Path | None,
        typer.Option(
            "--head-classes", metavar="FILE", help="Names of the head's classes, one in each line, in its order."
        ),
    ] = None,
    save_predictions: Annotated[
        Path | None,
        typer.Option(
            "--save-predictions", metavar="FILE.parquet|.csv", help="Write method, id, label, prediction, probability."
        ),
    ] = None,
    max_bad: Annotated[
        str | None,
        typer.Option(
            "--max-bad", metavar="N|P%", help="How many undecodable images of a source to leave out. Default: none."
        ),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither read nor keep features.")] = False,
    rehash: Annotated[
        bool, typer.Option("--rehash", help="Read every file again, even if size and time stamps have not changed.")
    ] = False,
) -> None:
    """Linear probe of frozen features: the grid of learning rates, layers and pooling in one pass.

    --out RUN keeps the run: the same command goes on after an interruption, and RUN holds the chosen head.
    """
    screen = run_screen(output)
    if head is not None:
        of_no_use = given(context, _TRAINING if model.weights == "random" else (*_TRAINING, "seed"))
        if of_no_use:
            raise UsageError(
                f"--head trains nothing, so {', '.join(of_no_use)} can change nothing",
                fix="Leave away what is for training.",
            )
    elif head_classes is not None:
        raise UsageError("--head-classes goes with --head")
    from fewvit.evaluate.predictions import check_predictions_path
    from fewvit.linear import LinearProbeRequest, evaluate_head, run_linear
    from fewvit.results import Result
    from fewvit.runs.request import Audience, Effort

    if save_predictions is not None:
        check_predictions_path(save_predictions)
    keep = drawn.plots().keep(screen.notify)
    rates, settings = numbers(lr, "--lr", float), run.settings()
    work = Work(None, run.workers, max_bad, run.max_pixels, run.seed, no_cache, rehash)
    source = reader(model, layout, how, place, features, work, screen)
    from fewvit.sources import Given

    sources = Given(pair.data, pair.train, pair.test, listing(listed))
    audience = Audience(notify=screen.notify, progress=TrainingLine(screen), skipped=screen.skipped)
    if head is not None:
        if process_number() > 0:
            raise LeftToTheFirst
        if output.out is not None and output.out.is_dir():
            raise UsageError("--out is a folder; with --head give the name of a file for the result", file=output.out)
        rows, facts = evaluate_head(source, sources, head, head_classes, audience, save_predictions, keep)
        Screen(output).result(Result("linear", rows, facts))
        return
    request = LinearProbeRequest(
        features.protocol,
        rates,
        augment,
        select_on,
        settings=settings,
        epochs=epochs,
        batch_size=batch_size,
        seed=run.seed,
    )
    effort = Effort(workers=run.workers, save_every=run.save_every, overwrite=run.overwrite)
    result, stopped = run_linear(source, sources, request, effort, output.out, audience, save_predictions, keep)
    show_run(screen, result, stopped, kept=output.out is not None)
