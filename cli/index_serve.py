"""fewvit index serve"""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from fewvit.errors import MissingExtra

from .inputs import access as library_access
from .shared import Access, Index, Output, Place
from .show import Screen

_NEEDED = ("starlette", "uvicorn", "jinja2", "python_multipart")


def serve(
    access: Access,
    place: Place,
    output: Output,
    index: Index,
    host: Annotated[
        str,
        typer.Option("--host", metavar="ADDRESS", help="Where to listen; any but this machine's own needs --token."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            "--token", metavar="TEXT|auto", envvar="FEWVIT_TOKEN", help="Answer only who has this; auto makes one."
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="A further name that browsers call it by; repeatable."),
    ] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Searches at once; 16 more wait.")] = 2,
    max_upload: Annotated[
        float, typer.Option("--max-upload", metavar="MB", min=0.001, help="The most that one request may send.")
    ] = 10.0,
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", min=1, help="Refuse larger images by their header.")
    ] = 50_000_000,
    weights: Annotated[
        str | None,
        typer.Option("--weights", metavar="FILE", help="Where the weights are, if no longer where they were."),
    ] = None,
    device: Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda|cuda:1", help="Where to compute.")] = "auto",
) -> None:
    """A page to search the index with a browser: drop, paste or choose an image, or go on from any result.

    It is served to this machine alone, loads nothing from elsewhere, and takes a new version of the index when there is
    one. Ctrl-C ends it.
    """
    screen = Screen(output)
    _require_extra()

    import secrets

    from fewvit.retrieval.web.guard import Doors
    from fewvit.retrieval.web.limits import Limits
    from fewvit.retrieval.web.loaded import Serving
    from fewvit.retrieval.web.server import Place as Where
    from fewvit.retrieval.web.server import encoder_of, require_safe
    from fewvit.retrieval.web.server import serve as run

    doors = Doors(host, tuple(allow_host or ()), secrets.token_urlsafe(24) if token == "auto" else token)
    require_safe(doors)
    limits = Limits(body=int(max_upload * 1e6), concurrency=concurrency, max_pixels=max_pixels)
    how = library_access(access, place, screen)

    def ready(address: str, serving: Serving) -> None:
        facts = {"address": address, "images": len(serving.now.index), "version": serving.now.version}
        screen.facts("index", facts)
        typer.get_text_stream("stdout").flush()

    # the event loop turns Ctrl-C into a cancelled task, which may have ended by then: it returns, and nothing is raised
    with contextlib.suppress(KeyboardInterrupt):
        run(index, Where(doors, port), limits, encoder_of(how, weights, device, screen.notify), screen.notify, ready)
    screen.notify("stopped")


def _require_extra() -> None:
    """Raise MissingExtra unless what serves is installed."""
    from importlib.util import find_spec

    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"`fewvit index serve` needs {', '.join(missing)}", fix="Install it with `pip install 'fewvit[serve]'`."
        )
