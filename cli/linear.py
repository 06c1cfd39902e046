"""fewvit linear"""

from __future__ import annotations

import dataclasses
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from fewvit.errors import UsageError

from .inputs import listing, reader
from .shared import Access, Features, Layout, Listed, Model, Output, Pair, Place, Work, command, numbers, single
from .show import Screen, TrainingLine

app = single()


@command(app)
def linear(
    pair: Pair,
    model: Model,
    layout: Layout,
    how: Access,
    place: Place,
    features: Features,
    listed: Listed,
    output: Output,
    augment: Annotated[
        bool,
        typer.Option(
            "--augment/--cached",
            help="Random crops through the backbone in every epoch, as the papers did; or features made once, in minutes.",
        ),
    ] = False,
    lr: Annotated[
        str | None, typer.Option("--lr", metavar="LR,…", help="Learning rates, a head for each, all in one pass. Default: the protocol's.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, metavar="N", help="Passes over the images. Default: the protocol's.")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", "-b", min=2, metavar="B", help="Images per step. Default: the protocol's, halved until it suits the data."
        ),
    ] = None,
    select_on: Annotated[
        str,
        typer.Option(
            "--select-on", metavar="train|test", help="Choose head and epoch on a tenth of train, held out; or on test, as the papers."
        ),
    ] = "train",
    set: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a number of the protocol, as momentum=0.95; repeatable.")
    ] = None,
    head: Annotated[
        Path | None,
        typer.Option("--head", metavar="FILE|RUN", help="Train nothing: evaluate this head, such as DINO's or DINOv2's official ones."),
    ] = None,
    head_classes: Annotated[
        Path | None, typer.Option("--head-classes", metavar="FILE", help="Names of the head's classes, one in each line, in its order.")
    ] = None,
    save_every: Annotated[int, typer.Option("--save-every", min=1, metavar="STEPS", help="Steps between two checkpoints.")] = 500,
    seed: Annotated[int, typer.Option("--seed", help="Seed of weights, order, views and held-out images.")] = 0,
    workers: Annotated[
        int | None, typer.Option("--workers", "-j", min=0, help="Decoding threads; default: one per core, at most 16.")
    ] = None,
    max_bad: Annotated[
        str | None, typer.Option("--max-bad", metavar="N|P%", help="How many undecodable images to leave out. Default: none.")
    ] = None,
    max_pixels: Annotated[int, typer.Option("--max-pixels", min=1, help="Refuse larger images by their header.")] = 64_000_000,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither read nor keep features.")] = False,
    rehash: Annotated[bool, typer.Option("--rehash", help="Read every file again, even if size and time stamps have not changed.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew where --out holds a run.")] = False,
) -> None:
    """Linear probe of frozen features: the grid of learning rates, layers and pooling in one pass.

    --out RUN keeps the run: the same command goes on after an interruption, and RUN holds the chosen head.
    """
    screen = Screen(dataclasses.replace(output, out=None))
    from fewvit.linear import Audience, Choice, Effort, run_head, run_linear
    from fewvit.options import parse_setting
    from fewvit.results import Result

    rates, settings = numbers(lr, "--lr", float), tuple(parse_setting(text) for text in set or ())
    work = Work(None, workers, max_bad, max_pixels, seed, no_cache, rehash)
    source = reader(model, layout, how, place, features, work, screen)
    from fewvit.evaluate.inputs import Sources

    sources = Sources(pair.data, pair.train, pair.test, listing(listed))
    audience = Audience(screen.say, TrainingLine(screen), screen.skipped)
    if head is not None:
        rows, facts = run_head(source, sources, head, head_classes, audience)
        Screen(output).result(Result("linear", rows, facts))
        return
    if head_classes is not None:
        raise UsageError("--head-classes goes with --head")
    choice = Choice(features.protocol, settings, rates, epochs, batch_size, augment, select_on, seed)
    if overwrite and output.out is not None:
        from fewvit.runs import RunFolder

        RunFolder(output.out).clear()
    result, stopped = run_linear(source, sources, choice, Effort(workers, save_every), output.out, audience)
    if stopped is None:
        screen.result(result)
        return
    if output.out is not None:
        screen.say(f"{signal.Signals(stopped).name}: saved. Go on with")
        screen.say("  fewvit " + shlex.join(word for word in sys.argv[1:] if word != "--overwrite"))
    else:
        screen.say(f"{signal.Signals(stopped).name}: features are kept, the heads were not; with --out RUN they would be")
    raise typer.Exit(128 + stopped)
