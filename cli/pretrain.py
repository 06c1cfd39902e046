"""fewvit pretrain"""

from __future__ import annotations

from typing import Annotated

import typer

from fewvit.errors import UsageError
from fewvit.methods import summaries

from .inputs import access, listing
from .outputs import RUN
from .runs import Network, Run, changes, effort, run_folder, run_screen, show_run
from .shared import Access, Layout, Listed, Output, Place, command, single
from .show import Screen, TrainingLine

app = single()


def _methods() -> str:
    """Every method's name and its own first line."""
    return " ".join(f"{name}: {line}" for name, line in summaries().items())


@command(app, out=RUN)
def pretrain(
    layout: Layout,
    how: Access,
    place: Place,
    listed: Listed,
    output: Output,
    *,
    method: Annotated[str, typer.Argument(metavar="METHOD", help=_methods())],
    data: Annotated[str | None, typer.Option("--data", metavar="SRC", help="Images; labels are not looked at.")] = None,
    preset: Annotated[
        str,
        typer.Option(
            "--preset",
            metavar="NAME",
            help="Recipe: small/32, small/64, small/64-s, small/64-p4, paper/vits16, …; `list` shows all.",
        ),
    ] = "small/64",
    init: Annotated[
        str | None,
        typer.Option("--init", metavar="NAME|FILE|RUN", help="Go on from released weights, a file or another run."),
    ] = None,
    monitor: Annotated[
        str,
        typer.Option(
            "--monitor", metavar="SRC|off", help="Labelled images for a k-NN check after every epoch; never trained on."
        ),
    ] = "off",
    monitor_every: Annotated[
        int, typer.Option("--monitor-every", min=1, metavar="N", help="Epochs between two checks.")
    ] = 1,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes",
            metavar="M",
            help="Epochs that take so long here, in place of --epochs. Default: 10 with --init on few images.",
        ),
    ] = None,
    network: Network,
    run: Run,
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile the blocks; pays on GPUs.")] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write the log for TensorBoard, into RUN/tensorboard.")
    ] = False,
) -> None:
    """Train a DINO, MSN or MAE backbone on your own images.

    --out RUN gets the run: the same command goes on after an interruption, and RUN is a --backbone from then on.
    """
    screen = run_screen(output)
    from fewvit.pretrain.request import PretrainingEffort, PretrainingRequest, recipe_of
    from fewvit.pretrain.run import run_pretrain

    if preset == "list":
        _list(method, screen)
        return
    if data is None:
        raise UsageError("no images: give --data SRC")
    request = PretrainingRequest(
        method.replace("-", "_"),
        preset,
        data,
        init,
        None if monitor == "off" else monitor,
        monitor_every,
        layout.checkpoint_key,
        layout.family,
        layout.told,
        minutes=minutes,
        **changes(run, network),
    )
    recipe_of(request)  # a mistyped name is an error before anything is read
    folder = run_folder(output)
    from fewvit.extraction.cache import Cache, default_cache_dir
    from fewvit.runs.request import Audience

    how_trained = PretrainingEffort(compile=compile, tensorboard=tensorboard, **effort(run, network))
    memory = Cache(place.cache_dir or default_cache_dir()).digests()
    audience = Audience(notify=screen.notify, progress=TrainingLine(screen), skipped=screen.skipped)
    result, stopped = run_pretrain(
        request, how_trained, folder, access(how, place, screen), memory, listing(listed), audience
    )
    show_run(screen, result, stopped)


def _list(method: str, screen: Screen) -> None:
    """A method's presets, the numbers of each that tell them apart."""
    from fewvit.methods import find_method

    rows = []
    for name, recipe in find_method(method).presets.items():
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
