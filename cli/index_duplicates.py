"""fewvit index duplicates"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewvit.errors import UsageError, counted, printable

from .index_inputs import opened_index, reader_of
from .inputs import listing, reader
from .shared import Access, Features, Layout, Listed, Model, Output, Place, Work
from .show import Screen

if TYPE_CHECKING:
    from fewvit.evaluate.inputs import FeatureReader
    from fewvit.neighbors.pairs import Pairs
    from fewvit.retrieval.compared import Comparison
    from fewvit.retrieval.duplicates import Duplicates
    from fewvit.retrieval.opened import OpenIndex

CAREFUL = 0.999  # the threshold where none is given: rather a copy overlooked than two images taken for one
_COPIES, _PRECISION = 1000, 0.99  # what --calibrate makes and wants where nothing else is asked
_TELLING = 0.01  # share that is done before the time left can be guessed
_MANY = 0.1  # share of near copies among all images from which on a line says that this is not likely


def duplicates(
    model: Model,
    layout: Layout,
    access: Access,
    place: Place,
    features: Features,
    listed: Listed,
    work: Work,
    output: Output,
    index: Annotated[
        Path | None, typer.Option("--index", metavar="IDX", help="Look among the images of an index.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="SRC", help="Look among these images or features (.npz).")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="SRC", help="Find what these share with the others, and nothing else."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold", metavar="COSINE", help=f"Images at least so similar are copies. Default: {CAREFUL}."
        ),
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate", help="Find the threshold: make copies of a sample of the images, see what they score."
        ),
    ] = False,
    sample: Annotated[
        int | None,
        typer.Option(
            "--sample", metavar="N", help=f"Copies that --calibrate makes, of as many images. Default: {_COPIES}."
        ),
    ] = None,
    copy_precision: Annotated[
        float | None,
        typer.Option(
            "--copy-precision",
            metavar="SHARE",
            help=f"Of what --calibrate's threshold finds, the copies. Default: {_PRECISION}.",
        ),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare every pair, however many images there are.")] = False,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Print pairs as CSV while they are found, in place of the groups.")
    ] = False,
) -> None:
    """Groups of images that are copies of one another, in one set or across two. Nothing is deleted.

    Images of the same bytes are `exact`, those whose features are close `near`; the first id of a group is what the
    others are compared with, and would be the one to keep.
    """
    screen = Screen(output)
    if calibrate and threshold is not None:
        raise UsageError("--calibrate finds the threshold, and --threshold gives one: give one of them")
    for flag, given in (("--sample", sample), ("--copy-precision", copy_precision)):
        if given is not None and not calibrate:
            raise UsageError(f"{flag} {given} says how --calibrate works, and that was not asked for")
    if pairs and output.format == "json":
        raise UsageError("--pairs prints CSV, line by line, and --format asks for JSON", fix="Leave --format away.")

    from fewvit.neighbors.pairs import require_threshold
    from fewvit.results import Result, manifest
    from fewvit.retrieval.compared import compare
    from fewvit.retrieval.duplicates import find_duplicates, group_rows

    if threshold is not None:
        require_threshold(threshold)
    base = opened_index(index) if index is not None else None
    reads = _reader(base, model, layout, access, place, features, work, screen)
    comparison = compare(reads, listing(listed), index=base, data=data, against=against, images=calibrate)
    for one in comparison.sets:
        screen.skipped(list(one.skipped))
    if threshold is None:
        how = _COPIES if sample is None else sample, _PRECISION if copy_precision is None else copy_precision
        settled, facts = _settled(comparison, reads, calibrate, (*how, work.seed), screen)
    else:
        settled, facts = threshold, {"threshold_from": "--threshold"}
    started = time.perf_counter()
    found = find_duplicates(
        comparison,
        settled,
        exact=True if exact else None,
        take_pairs=_writer(comparison) if pairs else None,
        progress=_progress(screen),
    )
    seconds = round(time.perf_counter() - started, 3)
    _tell(screen, comparison, found)
    run = manifest(threshold=settled, **facts, **_facts(comparison, found), seconds={"search": seconds})
    result = Result("index", group_rows(comparison, found.groups), run)
    if pairs:
        screen.keep(result)
    else:
        screen.result(result)


def _reader(
    index: OpenIndex | None,
    model: Model,
    layout: Layout,
    access: Access,
    place: Place,
    features: Features,
    work: Work,
    screen: Screen,
) -> FeatureReader:
    if index is not None:
        return reader_of(index, model, features, access, place, work, screen, "1%", layout)
    return reader(model, layout, access, place, features, work, screen, max_bad="1%")


def _settled(
    comparison: Comparison, reads: FeatureReader, calibrate: bool, how: tuple[int, float, int], screen: Screen
) -> tuple[float, dict[str, object]]:
    """The threshold where none was given, and what the manifest says of it."""
    if not calibrate:
        screen.notify(
            f"threshold {CAREFUL}, a careful guess: --calibrate finds the one of these images, --threshold COSINE "
            "gives another"
        )
        return CAREFUL, {"threshold_from": "default"}

    from fewvit.retrieval.copy_threshold import Request, calibrated_threshold

    found = calibrated_threshold(comparison.sets[0], comparison.pipeline, reads.extractor, Request(*how))
    for line in found.lines():
        screen.notify(line)
    return found.threshold, {"threshold_from": "--calibrate", "calibration": found.facts()}


def _writer(comparison: Comparison) -> Callable[[Pairs], None]:
    """What writes pairs on stdout, the id first that is of `data`, or else comes first."""
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(["id_a", "id_b", "score"])
    across = comparison.split is not None

    def write(pairs: Pairs) -> None:
        for one, other, score in zip(
            comparison.names(pairs.first), comparison.names(pairs.second), pairs.scores.tolist(), strict=True
        ):
            if not across and other < one:
                one, other = other, one
            out.writerow([printable(one), printable(other), round(score, 7)])
        sys.stdout.flush()

    return write


def _progress(screen: Screen) -> Callable[[float], None]:
    started = time.perf_counter()

    def tell(share: float) -> None:
        elapsed = time.perf_counter() - started
        if share < _TELLING or (share >= 1 and elapsed < 1):
            return
        left = elapsed * (1 - share) / max(share, 1e-9)
        screen.line([f"{100 * share:.0f} % compared"], left, share, done=share >= 1)

    return tell


def _tell(screen: Screen, comparison: Comparison, found: Duplicates) -> None:
    images = sum(len(group.rows) for group in found.groups)
    where = " and ".join(f"{len(one)} of {one.place}" for one in comparison.sets)
    screen.notify(
        f"{counted(len(found.groups), 'group')} with {counted(images, 'image')}: {found.count('exact')} exact and "
        f"{found.count('near')} near copies of the first ones; among {where}"
    )
    if found.count("near") > _MANY * len(comparison):
        screen.notify(
            "so many near copies are hardly copies: this backbone sees these images as alike, --calibrate tells from "
            "which score on they are the same"
        )
    if found.missed.probes:
        screen.notify(
            f"images were compared within cells: of {found.missed.probes} probes as far away as the threshold allows "
            f"{found.missed.missed} were overlooked, so at most {100 * found.missed.at_most:.2g} % of the pairs are; "
            "--exact overlooks none"
        )


def _facts(comparison: Comparison, found: Duplicates) -> dict[str, object]:
    missed = found.missed
    return {
        "images": [len(one) for one in comparison.sets],
        "groups": len(found.groups),
        "exact": found.count("exact"),
        "near": found.count("near"),
        "missed": {
            "probes": missed.probes,
            "missed": missed.missed,
            "at_most": round(missed.at_most, 6),
            "cells_of_each": missed.visited,
        },
        "fingerprint": comparison.sets[0].fingerprint,
    }
