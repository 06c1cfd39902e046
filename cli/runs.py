"""Commands that train: the options that all of them take, spelled once, and how their runs begin and end."""

from __future__ import annotations

import dataclasses
import shlex
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewvit.errors import UsageError

from .shared import Output
from .show import Screen

if TYPE_CHECKING:
    from fewvit.options import Setting
    from fewvit.results import Result


@dataclass(frozen=True)
class Run:
    """What every run takes."""

    set: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Change one option of the recipe or protocol, as weight_decay=0.05; repeatable.",
        ),
    ] = None
    seed: Annotated[
        int, typer.Option("--seed", help="Seed of weights, order and views, and of which images are drawn or held out.")
    ] = 0
    save_every: Annotated[
        int, typer.Option("--save-every", min=1, metavar="STEPS", help="Steps between two checkpoints.")
    ] = 500
    workers: Annotated[
        int | None, typer.Option("--workers", "-j", min=0, help="Decoding threads. Default: one per core, at most 16.")
    ] = None
    max_pixels: Annotated[int, typer.Option("--max-pixels", min=1, help="Refuse larger images by their header.")] = (
        64_000_000
    )
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew where --out holds a run.")] = False

    def settings(self) -> tuple[Setting, ...]:
        """What --set says."""
        from fewvit.options import parse_setting

        return tuple(parse_setting(text) for text in self.set or ())


@dataclass(frozen=True)
class Network:
    """What a run takes besides that trains a network, not heads on frozen features alone."""

    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs", metavar="N", help="Passes over the images; fine-tuning may end before. Default: the recipe's."
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", "-b", metavar="B", help="Images per step, over all processes. Default: the recipe's."
        ),
    ] = None
    accumulate: Annotated[
        int, typer.Option("--accumulate", min=1, metavar="N", help="Compute a batch in N parts, to save memory.")
    ] = 1
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            metavar="fp32|bf16|fp16",
            help="Of matrix products while training, and then alone. Default: the recipe's.",
        ),
    ] = None
    checkpoint_activations: Annotated[
        bool,
        typer.Option(
            "--checkpoint-activations",
            help="Half the memory for a third more time: blocks are computed again in backward.",
        ),
    ] = False
    device: Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda|cuda:1", help="Where to compute.")] = "auto"
    max_bad: Annotated[
        str, typer.Option("--max-bad", metavar="N|P%", help="How many undecodable images of a source to leave out.")
    ] = "0"


def changes(run: Run, network: Network) -> dict[str, Any]:
    """What is to differ from the recipe where a network is trained: the fields of `request.NetworkChanges`."""
    return {
        "settings": run.settings(),
        "epochs": network.epochs,
        "batch_size": network.batch_size,
        "precision": network.precision,
        "accumulate": network.accumulate,
        "seed": run.seed,
        "max_bad": network.max_bad,
    }


def effort(run: Run, network: Network) -> dict[str, Any]:
    """How a network is trained: the fields of `request.NetworkEffort`."""
    return {
        "device": network.device,
        "workers": run.workers,
        "save_every": run.save_every,
        "overwrite": run.overwrite,
        "checkpoint_activations": network.checkpoint_activations,
        "max_pixels": run.max_pixels,
    }


def run_screen(output: Output) -> Screen:
    """Where a run's command talks to: --out is the run's folder, not a file for the result."""
    return Screen(dataclasses.replace(output, out=None))


def run_folder(output: Output) -> Path:
    """The folder of the run. Raises UsageError where none was given."""
    if output.out is None:
        raise UsageError("no folder for the run", fix="Give --out RUN, such as --out runs/birds.")
    return output.out


def show_run(screen: Screen, result: Result | None, stopped: int | None, *, kept: bool = True) -> None:
    """The result of a run, if this process has it.

    Or after a signal how the run goes on, and the exit code that says so.
    """
    if stopped is None:
        if result is not None:
            screen.result(result)
        return
    name = signal.Signals(stopped).name
    if kept:
        screen.notify(f"{name}: saved. Go on with")
        screen.to_copy(["fewvit", *(shlex.quote(word) for word in sys.argv[1:] if word != "--overwrite")])
    else:
        screen.notify(f"{name}: features are kept, the heads were not; with --out RUN they would be")
    raise typer.Exit(128 + stopped)
