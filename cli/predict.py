"""fewvit predict"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewvit.errors import UsageError

from .inputs import listing, reader, recipe_reader
from .outputs import ROWS
from .shared import Access, Features, Layout, Listed, Model, Output, Place, Work, command, single
from .show import Screen

if TYPE_CHECKING:
    from fewvit.bundles.bundle import Bundle
    from fewvit.evaluate.inputs import FeatureReader

app = single()


@command(app, out=ROWS)
def predict(
    access: Access,
    place: Place,
    listed: Listed,
    work: Work,
    output: Output,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="What `fewvit fit` wrote; not with --onnx.")],
    source: Annotated[
        str | None,
        typer.Argument(metavar="SRC", help="Images, labelled or not, or features (.npz).", show_default=False),
    ] = None,
    onnx: Annotated[
        Path | None,
        typer.Option(
            "--onnx", metavar="FILE.onnx", help="Compute with what `fewvit export onnx` wrote, in place of BUNDLE."
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            metavar="P",
            help="Confidence below which the label is `unknown`. Default: the bundle's, which `fit` sets to 0.5.",
        ),
    ] = None,
    max_strangeness: Annotated[
        float | None,
        typer.Option(
            "--max-strangeness",
            metavar="S",
            help="Strangeness above which the label is `unknown`; inf: never. Default: the bundle's.",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights", metavar="FILE", help="Where the backbone's weights are, if no longer where `fit` found them."
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda|cuda:1", help="Where to compute.")] = "auto",
) -> None:
    """Label new images with a bundle: class or `unknown`, calibrated confidence, and strangeness.

    Images whose labels are classes of the bundle have them beside the prediction, as `target`, and their accuracy is
    reported.
    """
    screen = Screen(output)

    from fewvit.bundles.fit import check_threshold
    from fewvit.bundles.predict import check_max_strangeness
    from fewvit.sources import require_source

    if threshold is not None:
        check_threshold(threshold)
    if max_strangeness is not None:
        check_max_strangeness(max_strangeness)
    if onnx is not None:
        if source is not None:
            raise UsageError(
                "--onnx FILE takes the place of BUNDLE", fix="Give the images alone: predict --onnx FILE SRC."
            )
        if weights is not None or device not in ("auto", "cpu"):
            raise UsageError(
                "an ONNX file has its weights in it and is computed on the CPU: leave --weights, --device away"
            )
        _by_onnx(onnx, str(bundle), listed, work, threshold, max_strangeness, output, screen)
        return
    source = require_source(source, "BUNDLE")
    from fewvit.bundles.file import load_bundle
    from fewvit.bundles.predict import run_predict

    fitted = load_bundle(bundle, device=device)
    reads = bundle_reader(fitted, source, weights, device, access, place, work, screen)
    report_skipped = lambda skipped: screen.skipped(skipped, output.out)  # noqa: E731
    screen.result(
        run_predict(reads, fitted, source, listing(listed), threshold, max_strangeness, screen.notify, report_skipped)
    )


def _by_onnx(
    file: Path,
    source: str,
    listed: Listed,
    work: Work,
    threshold: float | None,
    max_strangeness: float | None,
    output: Output,
    screen: Screen,
) -> None:
    from fewvit.deploy.predict import run_predict_onnx
    from fewvit.extraction.work import Work as LibraryWork

    effort = LibraryWork(work.batch_size, work.workers, work.max_bad or "0", work.max_pixels, screen.progress)
    skipped = lambda found: screen.skipped(found, output.out)  # noqa: E731
    screen.result(
        run_predict_onnx(file, source, listing(listed), effort, threshold, max_strangeness, screen.notify, skipped)
    )


def bundle_reader(
    bundle: Bundle,
    source: str,
    weights: str | None,
    device: str,
    access: Access,
    place: Place,
    work: Work,
    screen: Screen,
) -> FeatureReader:
    """What makes features as the bundle's were made.

    Of a features file, or for a bundle of one, there is nothing to make.
    """
    from fewvit.sources import is_features

    if bundle.recipe is None or is_features(source):
        return reader(Model(), Layout(), access, place, Features(device=device), work, screen)
    return recipe_reader(bundle.recipe, weights, Features(device=device), access, place, work, screen)
