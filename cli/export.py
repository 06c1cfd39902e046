"""fewvit export mteb-model"""

from __future__ import annotations

from typing import Annotated

import typer

from fewvit.errors import UsageError, printable

from .inputs import reader
from .outputs import MTEB_MODEL
from .shared import Access, Features, Layout, Model, Output, Place, Work, command, single
from .show import Screen

app = single()


@app.callback()
def export() -> None:
    """Write what other programs load: a backbone as a model of mteb."""


@command(app, "mteb-model", out=MTEB_MODEL)
def mteb_model(
    layout: Layout,
    access: Access,
    place: Place,
    features: Features,
    output: Output,
    backbone: Annotated[str, typer.Argument(metavar="NAME", help="Variant, timm:NAME, hf:ORG/NAME, file or run.")],
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="FILE", help="Weights of a named variant.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="ORG/NAME", help="What mteb calls it; default: by where its weights come from."),
    ] = None,
) -> None:
    """A Python module with which mteb evaluates a backbone: fewvit's features and honest metadata; --out gets it."""
    screen = Screen(output)
    if output.out is None:
        raise UsageError("no file to write", fix="Give --out FILE.py.")
    if "," in backbone:
        raise UsageError(f"one module is of one backbone, and {printable(backbone)} names several")
    source = reader(Model(backbone, weights), layout, access, place, features, Work(), screen)
    from fewvit.export.mteb_model import write_mteb_model

    [pipeline] = source.pipelines()
    recipe = source.backbones.recipe(pipeline)
    model = write_mteb_model(output.out, recipe, pipeline, name)
    row = {
        "name": model.name,
        "n_parameters": model.n_parameters,
        "embed_dim": model.embed_dim,
        "license": model.license,
        "trained_on": model.trained_on,
    }
    screen.rows("export", [row])
    for line in model.notes:
        screen.notify(line)
    screen.notify(f"wrote {printable(output.out)}")
