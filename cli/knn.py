"""fewvit knn"""

from __future__ import annotations

from typing import Annotated

import typer

from .inputs import listing, reader
from .outputs import RESULT
from .shared import (
    Access,
    Explain,
    Features,
    Layout,
    Listed,
    Model,
    Output,
    Pair,
    Place,
    Reduced,
    Views,
    Work,
    command,
    numbers,
    single,
)
from .show import Screen

app = single()


@command(app, out=RESULT)
def knn(
    pair: Pair,
    model: Model,
    layout: Layout,
    access: Access,
    place: Place,
    features: Features,
    views: Views,
    listed: Listed,
    work: Work,
    output: Output,
    reduced: Reduced,
    k: Annotated[
        str | None,
        typer.Option(
            "--k", metavar="K,…", help="Neighbours that vote; default 10,20,100,200 as far as the bank reaches."
        ),
    ] = None,
    temperature: Annotated[
        str, typer.Option("--temperature", metavar="T,…", help="Weights are exp(similarity / T).")
    ] = "0.07",
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="Judge each image of one set by all others.")
    ] = False,
    shots: Annotated[
        str | None, typer.Option("--shots", metavar="N,…", help="Images per class in the bank, drawn as DINOv2 does.")
    ] = None,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Draws of --shots.")] = 1,
    explain: Explain = False,
) -> None:
    """Weighted k-NN accuracy of frozen features, several k in one pass."""
    screen = Screen(output)
    ks, temperatures, per_class = (
        numbers(k, "--k", int),
        numbers(temperature, "--temperature", float),
        numbers(shots, "--shots", int),
    )
    source = reader(model, layout, access, place, features, work, screen, reading=views.reading, shared=True)

    from fewvit.evaluate.knn import KNNOptions, run_knn
    from fewvit.results import Result
    from fewvit.sources import Given

    options = KNNOptions(ks or None, temperatures, leave_one_out, per_class, trials, features.device, reduced.reduction)
    sources = Given(pair.data, pair.train, pair.test, listing(listed))
    rows, facts = run_knn(source, sources, options, screen.notify, screen.skipped, explain=explain)
    screen.result_of_trials(Result("knn", rows, facts))
    screen.explanation(facts)
