"""fewvit fit"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewvit.errors import UsageError

from .classifiers import settings_of
from .inputs import listing, reader
from .outputs import BUNDLE
from .predict import bundle_reader
from .shared import (
    Access,
    Classifiers,
    Drawn,
    Features,
    Layout,
    Listed,
    Model,
    Output,
    Place,
    Views,
    Work,
    command,
    single,
)
from .show import Screen

if TYPE_CHECKING:
    from fewvit.bundles.fit import FittingRequest

app = single()


@command(app, out=BUNDLE)
def fit(
    model: Model,
    layout: Layout,
    access: Access,
    place: Place,
    features: Features,
    views: Views,
    listed: Listed,
    work: Work,
    classifiers: Classifiers,
    drawn: Drawn,
    output: Output,
    data: Annotated[
        str | None, typer.Option("--data", metavar="SRC", help="Labelled images or features (.npz).")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold", metavar="P", help="Confidence below which predictions are `unknown`. Default: 0.5."
        ),
    ] = None,
    strangeness: Annotated[
        str | None,
        typer.Option(
            "--strangeness",
            metavar="NAME",
            help="Score of strangeness, such as blend, nearest or mahalanobis. Default: chosen by leaving classes out.",
        ),
    ] = None,
    known_share: Annotated[
        float | None,
        typer.Option(
            "--known-share",
            metavar="P",
            help="Share of known images that are not to be `unknown` for their strangeness. Default: 0.95.",
        ),
    ] = None,
    strangers: Annotated[
        str | None,
        typer.Option(
            "--strangers",
            metavar="SRC",
            help="Pictures of other classes: how well confidence and strangeness tell them apart (AUROC, FPR at 95 %).",
        ),
    ] = None,
    add: Annotated[
        bool,
        typer.Option(
            "--add",
            help="Put the images into the bundle in --out, as more of its classes or as new ones (centroid, knn).",
        ),
    ] = False,
) -> None:
    """Labelled images in, a classifier bundle out, for `predict`.

    --out BUNDLE gets one file with the fitted classifier (default: logistic), its calibration, and how its features are
    made.
    """
    screen = Screen(output)
    if output.out is None:
        raise UsageError("no bundle to write", fix="Give --out BUNDLE, such as --out birds.fewvit.")

    from fewvit.results import Result
    from fewvit.sources import require_source

    source = require_source(data)
    if add:
        from fewvit.bundles.file import load_bundle
        from fewvit.bundles.fit import run_add

        if classifiers.classifier is not None or classifiers.set or threshold is not None:
            raise UsageError(
                "--add keeps the bundle's classifier, options and threshold; leave --classifier, --set and "
                "--threshold out"
            )
        if any(option is not None for option in (strangeness, known_share, strangers)):
            raise UsageError(
                "--add keeps the bundle's score of strangeness and its threshold; leave --strangeness, --known-share "
                "and --strangers out"
            )
        if views != Views():
            raise UsageError("--add reads images as the bundle does; leave --scales and --flip out")
        if drawn != Drawn():
            raise UsageError(
                "--add judges nothing; leave --plot-reliability and --plot-confusion out",
                fix="`predict` on labelled images judges a bundle that has grown.",
            )
        own = _as_the_bundle(model, layout, features)
        bundle = load_bundle(output.out, device=features.device)
        reads = (
            bundle_reader(bundle, source, model.weights, features.device, access, place, work, screen)
            if own
            else reader(model, layout, access, place, features, work, screen)
        )
        rows, facts = run_add(reads, source, listing(listed), bundle, output.out, screen.notify, screen.skipped)
    else:
        from fewvit.bundles.fit import run_fit

        plots = drawn.plots()
        request = _request(classifiers, threshold, known_share, strangeness, work.seed, features.device)
        reads = reader(model, layout, access, place, features, work, screen, reading=views.reading)
        rows, facts = run_fit(
            reads, source, listing(listed), request, output.out, screen.notify, screen.skipped, strangers, plots
        )
    Screen(dataclasses.replace(output, out=None)).result(Result("fit", rows, facts))


def _request(
    classifiers: Classifiers,
    threshold: float | None,
    known_share: float | None,
    strangeness: str | None,
    seed: int,
    device: str,
) -> FittingRequest:
    """What is fitted; a misspelt classifier or option is an error before anything is read."""
    from fewvit.bundles.fit import FittingRequest, check_request

    settings = settings_of(classifiers, FittingRequest.classifier)
    if len(settings) != 1:
        raise UsageError(f"--classifier {classifiers.classifier}: a bundle holds one classifier")
    [(name, options)] = settings.items()
    given = {"threshold": threshold, "known_share": known_share, "strangeness": strangeness}
    asked: dict[str, Any] = {option: value for option, value in given.items() if value is not None}
    request = FittingRequest(name, options, **asked, seed=seed, device=device)
    check_request(request)
    return request


def _as_the_bundle(model: Model, layout: Layout, features: Features) -> bool:
    """Whether no option was given about backbone and readout, but for where weights lie and where to compute."""
    silent = dataclasses.replace(features, device=Features.device) == Features()
    return silent and layout == Layout() and model.backbone == Model.backbone
