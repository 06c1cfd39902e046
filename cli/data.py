"""fewvit data check / split / convert / list / fetch"""

from __future__ import annotations

from .data_check import check_source
from .data_convert import convert_source
from .data_sets import fetch_set, list_sets
from .data_split import split_source
from .outputs import CHECK, CONVERTED, PARTS
from .shared import command, single

app = single()


@app.callback()
def data() -> None:
    """Check a set of images, part it, write it in another form; list the sets of the papers."""


command(app, "check", out=CHECK)(check_source)
command(app, "split", out=PARTS)(split_source)
command(app, "list")(list_sets)
command(app, "fetch")(fetch_set)
command(app, "convert", out=CONVERTED)(convert_source)
