"""fewvit pretrain"""

from __future__ import annotations

import dataclasses
import shlex
import signal
import sys
from typing import Annotated

import typer

from fewvit.errors import UsageError

from .inputs import access, listing
from .shared import Access, Listed, Output, Place, command, single
from .show import Screen, TrainingLine

app = single()


@command(app)
def pretrain(
    how: Access,
    place: Place,
    listed: Listed,
    output: Output,
    method: Annotated[str, typer.Argument(metavar="METHOD", help="dino, msn or mae.")],
    data: Annotated[str | None, typer.Option("--data", metavar="SRC", help="Images; labels are not looked at.")] = None,
    preset: Annotated[
        str,
        typer.Option(
            "--preset", metavar="NAME", help="Recipe: small/32, small/64, small/64-s, small/64-p4, paper/vits16, …; `list` shows all."
        ),
    ] = "small/64",
    set: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change one option of the recipe, as lr=1e-3; repeatable.")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", metavar="N", help="Passes over the images. Default: the preset's.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "-b", metavar="B", help="Images per step, over all processes. Default: the preset's.")
    ] = None,
    accumulate: Annotated[int, typer.Option("--accumulate", min=1, metavar="N", help="Compute a batch in N parts, to save memory.")] = 1,
    precision: Annotated[
        str | None, typer.Option("--precision", metavar="fp32|bf16|fp16", help="Of matrix products. Default: the preset's.")
    ] = None,
    init: Annotated[
        str | None, typer.Option("--init", metavar="NAME|FILE|RUN", help="Go on from released weights, a file or another run.")
    ] = None,
    monitor: Annotated[
        str, typer.Option("--monitor", metavar="SRC|off", help="Labelled images for a k-NN check after every epoch; never trained on.")
    ] = "off",
    monitor_every: Annotated[int, typer.Option("--monitor-every", min=1, metavar="N", help="Epochs between two checks.")] = 1,
    save_every: Annotated[int, typer.Option("--save-every", min=1, metavar="STEPS", help="Steps between two checkpoints.")] = 500,
    seed: Annotated[int, typer.Option("--seed", help="Seed of weights, order and views.")] = 0,
    device: Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda|cuda:1", help="Where to compute.")] = "auto",
    workers: Annotated[
        int | None, typer.Option("--workers", "-j", min=0, help="Decoding threads. Default: one per core, at most 16.")
    ] = None,
    max_bad: Annotated[str, typer.Option("--max-bad", metavar="N|P%", help="How many undecodable images to leave out.")] = "0",
    max_pixels: Annotated[int, typer.Option("--max-pixels", min=1, help="Refuse larger images by their header.")] = 64_000_000,
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile the blocks; pays on GPUs.")] = False,
    checkpoint_activations: Annotated[
        bool, typer.Option("--checkpoint-activations", help="Half the memory for a third more time: blocks are computed again in backward.")
    ] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write the log for TensorBoard, into RUN/tensorboard.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew where --out holds a run.")] = False,
) -> None:
    """Train a DINO, MSN or MAE backbone on your own images.

    --out RUN gets the run: the same command goes on after an interruption, and RUN is a --backbone for every other command.
    """
    screen = Screen(dataclasses.replace(output, out=None))
    from fewvit.options import parse_setting
    from fewvit.pretrain import Audience, Choice, Effort, recipe_of, run_pretrain

    if preset == "list":
        _list(method, screen)
        return
    if data is None:
        raise UsageError("no images: give --data SRC")
    settings = tuple(parse_setting(text) for text in set or ())
    choice = Choice(
        method.replace("-", "_"),
        preset,
        data,
        settings,
        epochs,
        batch_size,
        precision,
        accumulate,
        init,
        seed,
        None if monitor == "off" else monitor,
        monitor_every,
        max_bad,
    )
    recipe_of(choice)  # a mistyped name is told before anything is read
    if output.out is None:
        raise UsageError("no folder for the run", fix="Give --out RUN, such as --out runs/birds.")
    from fewvit.cache import Cache, default_cache_dir
    from fewvit.runs import RunFolder

    if overwrite:
        RunFolder(output.out).clear()
    effort = Effort(
        device=device,
        workers=workers,
        save_every=save_every,
        compile=compile,
        checkpoint_activations=checkpoint_activations,
        tensorboard=tensorboard,
        max_pixels=max_pixels,
    )
    memory = Cache(place.cache_dir or default_cache_dir()).digests()
    audience = Audience(screen.say, TrainingLine(screen), screen.skipped)
    result, stopped = run_pretrain(choice, effort, output.out, access(how, place, screen), memory, listing(listed), audience)
    if stopped is None:
        screen.result(result)
        return
    screen.say(f"{signal.Signals(stopped).name}: saved. Go on with")
    screen.say("  fewvit " + shlex.join(word for word in sys.argv[1:] if word != "--overwrite"))
    raise typer.Exit(128 + stopped)


def _list(method: str, screen: Screen) -> None:
    """A method's presets, the numbers of each that tell them apart."""
    from fewvit.recipes import find_recipe

    rows = []
    for name, recipe in find_recipe(method).presets.items():
        a = recipe.architecture
        views = " + ".join(f"{view.count}x{view.size}" for view in recipe.views)
        rows.append(
            {
                "preset": name,
                "width": a.width,
                "depth": a.depth,
                "patch": a.patch,
                "views": views,
                "epochs": recipe.epochs,
                "batch": recipe.batch_size,
            }
        )
    screen.rows("presets", rows)
