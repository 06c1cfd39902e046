"""fewvit doctor"""

from __future__ import annotations

import typer

from .shared import Output, Place, command, single
from .show import Screen

app = single()


@command(app)
def doctor(place: Place, output: Output) -> None:
    """Check this machine: torch, FAISS, GPU, threads, decoders.

    Exits 6 when something that is needed does not work.
    """
    from fewvit.evaluate.doctor import examine
    from fewvit.extraction.cache import default_cache_dir

    findings = list(examine(place.cache_dir or default_cache_dir()))
    Screen(output).rows("doctor", [{"what": f.what, "state": f.state, "detail": f.detail} for f in findings])
    if any(f.state == "FAIL" for f in findings):
        raise typer.Exit(6)
