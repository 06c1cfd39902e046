"""fewvit sweep"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewvit.errors import UsageError
from fewvit.files import between_commas

from .inputs import access, listing
from .outputs import SWEEP
from .shared import Access, Features, Layout, Listed, Model, Output, Pair, Place, Work, command, given, numbers, single
from .show import Screen

if TYPE_CHECKING:
    from fewvit.sweep.workshop import How

app = single()


@command(app, out=SWEEP)
def sweep(
    context: typer.Context,
    toml: Annotated[Path | None, typer.Argument(metavar="[CONFIG.toml]", help="What to go over.")] = None,
    *,
    pair: Pair,
    model: Model,
    layout: Layout,
    how: Access,
    place: Place,
    features: Features,
    listed: Listed,
    work: Work,
    output: Output,
    methods: Annotated[
        str | None,
        typer.Option("--methods", metavar="NAME,…", help="knn, linear, classifiers, episodes.NAME, finetune.MODE, …"),
    ] = None,
    shots: Annotated[str | None, typer.Option("--shots", metavar="N,…", help="Labelled images per class.")] = None,
    percent: Annotated[str | None, typer.Option("--percent", metavar="P,…", help="Percent of each class.")] = None,
    subset: Annotated[
        list[str] | None,
        typer.Option("--subset", metavar="FILE", help="Published list, or what --save-split wrote; repeatable."),
    ] = None,
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="Draws of them; default 3.")] = None,
    episodes: Annotated[int | None, typer.Option("--episodes", min=1, help="How many; default 600.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=1, metavar="N", help="Cells that run at a time.")] = 1,
    only: Annotated[
        str | None, typer.Option("--only", metavar="failed|missing", help="Run these of the cells alone.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="I/N", help="Run part I of N, as each task of an array does.")
    ] = None,
    launcher: Annotated[
        str, typer.Option("--launcher", metavar="local|ray", help="Where cells run: here, or on a Ray cluster.")
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address", metavar="HOST:PORT", help="The Ray cluster; default: $RAY_ADDRESS, or this machine's."
        ),
    ] = None,
) -> None:
    """Evaluate many backbones on many data sets by many methods, resumable.

    --out DIR keeps each cell when it is measured: the same command goes on from there.
    """
    import dataclasses

    screen = Screen(dataclasses.replace(output, out=None))
    if output.out is None:
        raise UsageError("no folder for the sweep", fix="Give --out DIR, such as --out sweeps/birds.")
    from fewvit.extraction.shards import part_named
    from fewvit.sweep import Request, carry_out
    from fewvit.sweep.config import read_config, settled

    flags: dict[str, Any] = {
        "backbones": _words(model.backbone),
        "data": _data(pair),
        "methods": _words(methods),
        "shots": numbers(shots, "--shots", int) or None,
        "percent": numbers(percent, "--percent", float) or None,
        "subsets": subset or None,
        "trials": trials,
        "episodes": episodes,
        "protocol": _words(features.protocol),
        "weights": model.weights,
        "checkpoint_key": layout.checkpoint_key,
        **{name: getattr(layout, name) for name in ("family", "heads", "grid", "mean", "std")},
        **{name: getattr(features, name) for name in ("pool", "layers", "img_size")},
        **{name: getattr(features, name) for name in ("precision", "decode") if given(context, [name])},
        **({"seed": work.seed} if given(context, ["seed"]) else {}),
    }
    asked = settled(
        read_config(toml) if toml is not None else {},
        {key: value for key, value in flags.items() if value is not None},
    )
    part = part_named(shard) if shard is not None else None
    request = Request(asked, output.out, dry_run, jobs, _only(only), part, launcher, ray_address)
    surroundings = _how(how, place, features, listed, work)
    ended = carry_out(request, surroundings, access(how, place, screen), screen.notify, screen.progress)
    from fewvit.results import Result

    if ended.rows or output.format != "table":
        screen.result_of_trials(Result("sweep", ended.rows, ended.run))
    for line in ended.summary if not dry_run else ():
        screen.notify(line)
    if ended.stopped is not None:
        raise typer.Exit(128 + ended.stopped)
    if ended.exit_code:
        raise typer.Exit(ended.exit_code)


def _words(text: str | None) -> list[str] | None:
    return None if text is None else between_commas(text)


def _data(pair: Pair) -> list[Any] | None:
    if pair.train is not None or pair.test is not None:
        if pair.data is not None:
            raise UsageError("--data excludes --train and --test, and both ways were given")
        return [{name: value for name, value in (("train", pair.train), ("test", pair.test)) if value is not None}]
    return _words(pair.data)


def _only(text: str | None) -> str | None:
    from fewvit.sweep.running import ONLY

    if text is not None and text not in ONLY:
        raise UsageError(f"--only {text!r} is not one of {', '.join(ONLY)}")
    return text


def _how(how: Access, place: Place, features: Features, listed: Listed, work: Work) -> How:
    from fewvit.extraction.cache import default_cache_dir
    from fewvit.extraction.work import allowed_bad
    from fewvit.sweep.workshop import How

    allowed_bad(work.max_bad or "0", 1)  # a mistyped share is an error before the work begins
    return How(
        place.cache_dir or default_cache_dir(),
        work.no_cache,
        how.offline,
        tuple(how.accept_license or ()),
        work.batch_size,
        work.workers,
        work.max_bad or "0",
        work.max_pixels,
        features.device,
        work.rehash,
        listing(listed),
    )
