"""fewvit lowshot"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from fewvit.errors import UsageError

from .classifiers import listed_classifiers, settings_with_last_block
from .inputs import listing, reader
from .outputs import RESULT
from .shared import (
    Access,
    Classifiers,
    Drawn,
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
def lowshot(
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
    classifiers: Classifiers,
    drawn: Drawn,
    reduced: Reduced,
    shots: Annotated[
        str | None, typer.Option("--shots", metavar="N,…", help="Images per class; default 1,2,5.")
    ] = None,
    percent: Annotated[
        str | None, typer.Option("--percent", metavar="P,…", help="Percent of each class, such as 1,10.")
    ] = None,
    subset: Annotated[
        list[str] | None,
        typer.Option("--subset", metavar="FILE", help="Published list, or what --save-split wrote; repeatable."),
    ] = None,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Draws of the labelled images.")] = 3,
    lambd: Annotated[
        float | None,
        typer.Option("--lambd", metavar="λ", help="Penalty of the logistic regression; default: the protocol's."),
    ] = None,
    allow_fewer: Annotated[
        bool, typer.Option("--allow-fewer", help="Keep classes and lists that have fewer images.")
    ] = False,
    no_calibration: Annotated[
        bool, typer.Option("--no-calibration", help="Leave probabilities as they are: no cross-validated temperature.")
    ] = False,
    save_split: Annotated[
        Path | None, typer.Option("--save-split", metavar="FILE.csv", help="Write which images were labelled.")
    ] = None,
    save_predictions: Annotated[
        Path | None,
        typer.Option(
            "--save-predictions",
            metavar="FILE.parquet|.csv",
            help="Write method, shots, trial, id, label, prediction, probability.",
        ),
    ] = None,
    save_per_class: Annotated[
        Path | None, typer.Option("--save-per-class", metavar="FILE.csv", help="Write each class's accuracy.")
    ] = None,
    save_confusion: Annotated[
        Path | None, typer.Option("--save-confusion", metavar="FILE.csv", help="Write the confusion matrices.")
    ] = None,
    explain: Explain = False,
) -> None:
    """Accuracy from one, two or five labelled images per class, over trials."""
    screen = Screen(output)
    if classifiers.classifier == "list":
        screen.rows("classifiers", listed_classifiers())
        return
    per_class, percents = numbers(shots, "--shots", int), numbers(percent, "--percent", float)
    if subset and (per_class or percents):
        raise UsageError("--subset FILE says itself which images are labelled", fix="Leave --shots and --percent away.")
    source = reader(model, layout, access, place, features, work, screen, reading=views.reading, shared=True)

    from fewvit.evaluate.lowshot import run_lowshot
    from fewvit.evaluate.lowshot_options import CLASSIFIERS, SHOTS, LowShotOptions
    from fewvit.evaluate.predictions import check_predictions_path
    from fewvit.results import Result
    from fewvit.sources import Given

    if save_predictions is not None:
        check_predictions_path(save_predictions)
    keep = drawn.plots().keep(screen.notify)
    settings, last_block = settings_with_last_block(classifiers, ",".join(CLASSIFIERS))
    options = LowShotOptions(
        shots=per_class or (() if percents or subset else SHOTS),
        percents=percents,
        trials=trials,
        subsets=subset or (),
        settings=settings,
        lambd=lambd,
        protocol=features.protocol or "",
        allow_fewer=allow_fewer,
        calibrate=not no_calibration,
        device=features.device,
        seed=work.seed,
        reduction=reduced.reduction,
        save_split=save_split,
        save_predictions=save_predictions,
        save_per_class=save_per_class,
        save_confusion=save_confusion,
    )
    tuner_of = None
    if last_block is not None:
        from fewvit.finetune.last_block import last_blocks

        tuner_of = functools.partial(last_blocks, settings=last_block, reader=source, seed=work.seed)
    sources = Given(pair.data, pair.train, pair.test, listing(listed))
    rows, facts = run_lowshot(source, sources, options, screen.notify, screen.skipped, tuner_of, keep, explain=explain)
    screen.result_of_trials(Result("lowshot", rows, facts))
    screen.explanation(facts)
