"""fewvit finetune"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from fewvit.errors import UsageError

from .inputs import access, listing, names_of
from .outputs import RUN
from .runs import Network, Run, changes, effort, run_folder, run_screen, show_run
from .shared import QUICK, Access, Drawn, Layout, Listed, Model, Output, Pair, Place, command, numbers, single
from .show import TrainingLine

app = single()


@dataclass(frozen=True)
class Images(Pair):
    """Two sets of images: features cannot be fine-tuned on."""

    train: Annotated[str | None, typer.Option("--train", metavar="SRC", help="Images to learn from.")] = None
    test: Annotated[str | None, typer.Option("--test", metavar="SRC", help="Images to judge by.")] = None


@dataclass(frozen=True)
class OneModel(Model):
    """Which backbone: one."""

    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            "-m",
            metavar="NAME|FILE|RUN",
            help=f"One variant, weights file, run folder or hf:ORG/NAME. Default: {QUICK}.",
        ),
    ] = None


@command(app, out=RUN)
def finetune(
    pair: Images,
    model: OneModel,
    layout: Layout,
    how: Access,
    place: Place,
    listed: Listed,
    output: Output,
    *,
    mode: Annotated[
        str, typer.Option("--mode", metavar="NAME", help="lora, last-block, full, bias or norm; `list` explains them.")
    ] = "lora",
    shots: Annotated[str, typer.Option("--shots", metavar="N", help="Labelled images per class; one number.")] = "5",
    trial: Annotated[
        int, typer.Option("--trial", metavar="T", help="Which draw of them, from 0, as `lowshot --trials` counts.")
    ] = 0,
    allow_fewer: Annotated[bool, typer.Option("--allow-fewer", help="Keep classes that have fewer images.")] = False,
    network: Network,
    run: Run,
    drawn: Drawn,
    img_size: Annotated[
        str | None, typer.Option("--img-size", metavar="N|HxW", help="Input pixels. Default: 224.")
    ] = None,
    decode: Annotated[
        str, typer.Option("--decode", metavar="fast|pil", help="How images are decoded, as for `lowshot`.")
    ] = "fast",
    save_predictions: Annotated[
        Path | None,
        typer.Option(
            "--save-predictions",
            metavar="FILE.parquet|.csv",
            help="Write method, shots, trial, id, label, prediction, probability.",
        ),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither read nor keep features.")] = False,
) -> None:
    """Fine-tune a backbone on a few labels, with the frozen baselines beside it.

    --out RUN gets the run: the same command goes on after an interruption, and RUN is a --backbone from then on.
    """
    screen = run_screen(output)
    from fewvit.finetune.modes import MODES, check_mode

    if mode == "list":
        screen.rows("modes", [{"mode": name, "trains": what} for name, what in MODES.items()])
        return
    names = names_of(model, screen)
    if len(names) > 1:
        raise UsageError("--backbone names several; a run fine-tunes one")
    mode = check_mode(mode)
    from fewvit.finetune import Audience, BackboneRequest, FineTuningRequest, NetworkEffort, check_request, run_finetune

    request = FineTuningRequest(
        mode,
        BackboneRequest(names[0], model.weights, layout.checkpoint_key, layout.family, run.seed, layout.told),
        pair.data,
        pair.train,
        pair.test,
        _one(shots),
        trial,
        img_size,
        decode,
        allow_fewer,
        **changes(run, network),
    )
    check_request(request)  # a mistyped option is an error before anything is read
    folder = run_folder(output)
    if save_predictions is not None:
        from fewvit.evaluate.predictions import check_predictions_path

        check_predictions_path(save_predictions)
    keep = drawn.plots().keep(screen.notify)
    from fewvit.extraction.cache import Cache, default_cache_dir

    cache = None if no_cache else Cache(place.cache_dir or default_cache_dir())
    audience = Audience(
        notify=screen.notify, progress=TrainingLine(screen), extraction=screen.progress, skipped=screen.skipped
    )
    result, stopped = run_finetune(
        request,
        NetworkEffort(**effort(run, network)),
        folder,
        access(how, place, screen),
        cache,
        listing(listed),
        audience,
        save_predictions,
        keep,
    )
    show_run(screen, result, stopped)


def _one(shots: str) -> int:
    """The number that --shots says. Raises UsageError for several."""
    found = numbers(shots, "--shots", int)
    if len(found) != 1:
        raise UsageError(
            f"--shots {shots!r}: a run fine-tunes on one number of labelled images per class",
            fix="Give each number a run.",
        )
    return int(found[0])
