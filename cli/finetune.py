"""fewvit finetune"""

from __future__ import annotations

import dataclasses
import shlex
import signal
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from fewvit.errors import UsageError

from .inputs import access, listing, names_of
from .shared import Access, Layout, Listed, Model, Output, Pair, Place, command, single
from .show import Screen

if TYPE_CHECKING:
    from fewvit.training.loop import Progress

app = single()


@command(app)
def finetune(
    pair: Pair,
    model: Model,
    layout: Layout,
    how: Access,
    place: Place,
    listed: Listed,
    output: Output,
    mode: Annotated[
        str, typer.Option("--mode", metavar="NAME", help="lora, last-block, full, bias or norm; `list` explains them.")
    ] = "lora",
    shots: Annotated[int, typer.Option("--shots", metavar="N", help="Labelled images per class.")] = 5,
    trial: Annotated[int, typer.Option("--trial", metavar="T", help="Which draw of them, from 0, as `lowshot --trials` counts.")] = 0,
    allow_fewer: Annotated[bool, typer.Option("--allow-fewer", help="Keep classes that have fewer images.")] = False,
    set: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change one option of the recipe, as lr=1e-3 or rank=4; repeatable."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", metavar="N", help="Passes over the labelled images, at most. Default: the mode's.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "-b", metavar="B", help="Images per step, over all processes. Default: the mode's.")
    ] = None,
    accumulate: Annotated[int, typer.Option("--accumulate", min=1, metavar="N", help="Compute a batch in N parts, to save memory.")] = 1,
    precision: Annotated[
        str | None, typer.Option("--precision", metavar="fp32|bf16|fp16", help="Of matrix products while training; judged in fp32.")
    ] = None,
    checkpoint_activations: Annotated[
        bool, typer.Option("--checkpoint-activations", help="Half the memory for a third more time: blocks are computed again in backward.")
    ] = False,
    img_size: Annotated[str | None, typer.Option("--img-size", metavar="N|HxW", help="Input pixels. Default: 224.")] = None,
    decode: Annotated[str, typer.Option("--decode", metavar="fast|pil", help="How pictures are decoded, as for `lowshot`.")] = "fast",
    save_every: Annotated[int, typer.Option("--save-every", min=1, metavar="STEPS", help="Steps between two checkpoints.")] = 500,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the labelled images, of adapters, order and augmentation.")] = 0,
    device: Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda|cuda:1", help="Where to compute.")] = "auto",
    workers: Annotated[
        int | None, typer.Option("--workers", "-j", min=0, help="Decoding threads. Default: one per core, at most 16.")
    ] = None,
    max_bad: Annotated[str, typer.Option("--max-bad", metavar="N|P%", help="How many undecodable images to leave out.")] = "0",
    max_pixels: Annotated[int, typer.Option("--max-pixels", min=1, help="Refuse larger images by their header.")] = 64_000_000,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither read nor keep features.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew where --out holds a run.")] = False,
) -> None:
    """Fine-tune a backbone on a few labels, with the frozen baselines beside it.

    --out RUN gets the run: the same command goes on after an interruption, and RUN is a --backbone for every other command.
    """
    screen = Screen(dataclasses.replace(output, out=None))
    if mode == "list":
        from fewvit.training.modes import MODES

        screen.rows("modes", [{"mode": name, "trains": what} for name, what in MODES.items()])
        return
    names = names_of(model)
    if len(names) > 1:
        raise UsageError("--backbone names several; a run fine-tunes one")
    from fewvit.finetune import Audience, Choice, Effort, Source, check_mode, run_finetune
    from fewvit.options import parse_setting

    choice = Choice(
        check_mode(mode),
        Source(names[0], model.weights, layout.checkpoint_key, layout.family, seed),
        pair.data,
        pair.train,
        pair.test,
        shots,
        trial,
        tuple(parse_setting(text) for text in set or ()),
        epochs,
        batch_size,
        precision,
        accumulate,
        seed,
        img_size,
        decode,
        allow_fewer,
        max_bad,
    )
    if output.out is None:
        raise UsageError("no folder for the run", fix="Give --out RUN, such as --out runs/birds.")
    from fewvit.cache import Cache, default_cache_dir
    from fewvit.runs import RunFolder

    if overwrite:
        RunFolder(output.out).clear()
    effort = Effort(device, workers, save_every, checkpoint_activations=checkpoint_activations, max_pixels=max_pixels)
    cache = None if no_cache else Cache(place.cache_dir or default_cache_dir())
    audience = Audience(screen.say, _Line(screen), screen.progress, screen.skipped)
    result, stopped = run_finetune(choice, effort, output.out, access(how, place, screen), cache, listing(listed), audience)
    if result is not None:
        screen.result(result)
    if stopped is not None:
        screen.say(f"{signal.Signals(stopped).name}: saved. Go on with")
        screen.say("  fewvit " + shlex.join(word for word in sys.argv[1:] if word != "--overwrite"))
        raise typer.Exit(128 + stopped)


class _Line:
    """The live line: which training, step, time left, loss."""

    def __init__(self, screen: Screen):
        self._screen, self._what, self._started, self._first = screen, "", 0.0, 0

    def __call__(self, what: str, p: Progress) -> None:
        if what != self._what:
            self._what, self._started, self._first = what, time.monotonic(), p.step - 1
        left = (time.monotonic() - self._started) / max(p.step - self._first, 1) * (p.total - p.step)
        loss = f"  loss {p.facts['loss']:.4f}" if "loss" in p.facts else ""
        self._screen.line(f"{what}  epoch {p.epoch + 1}/{p.epochs}  step {p.step}/{p.total}{loss}", left, done=p.step == p.total)
