"""fewvit data check SRC"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewvit.errors import UsageError, counted, printable

from .data_sets import check_set_in
from .index_duplicates import CAREFUL
from .inputs import listing, reader
from .shared import Access, Features, Layout, Listed, MaybeModel, Model, Output, Place, Work
from .show import Screen

if TYPE_CHECKING:
    from fewvit.curation.checking import Checked
    from fewvit.evaluate.inputs import FeatureReader

_NONE = "none"  # as --backbone and --label-errors
_STRICT_CODE = 3
_FEWEST = 5  # images of a class
_ANY = str(1 << 40)  # pictures that may be undecodable: they are findings


def check_source(
    model: MaybeModel,
    layout: Layout,
    access: Access,
    place: Place,
    features: Features,
    listed: Listed,
    work: Work,
    output: Output,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="Images: a folder, table, shards, zip archive; features (.npz); or, with DIR, a name of `data list`.",
        ),
    ],
    folder: Annotated[
        str | None,
        typer.Argument(metavar="DIR", help="With the name of a public set before it: is that here as published?"),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="SRC", help="The other set, as test images: what do the two share?"),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold", metavar="COSINE", help=f"Images at least so similar are copies. Default: {CAREFUL}."
        ),
    ] = None,
    label_errors: Annotated[
        str,
        typer.Option(
            "--label-errors",
            metavar="auto|cleanlab|knn|none",
            help="How wrong labels are found; auto: cleanlab where it is installed (extra `labels`), else knn.",
        ),
    ] = "auto",
    fewest: Annotated[
        int, typer.Option("--min-images", metavar="N", min=1, help="Images that a class should have.")
    ] = _FEWEST,
    save_list: Annotated[
        Path | None,
        typer.Option("--save-list", metavar="FILE.csv", help="Write every finding here: check, id, other, reason."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="End with 3 where files are bad, or the two sets share pictures.")
    ] = False,
) -> int:
    """What is wrong with a set of images: bad files, copies, leaks into another set, labels, sizes, modes.

    Nothing is changed or removed. Copies that are only nearly the same, and wrong labels, are found by features: give
    a --backbone; without one they are not looked for.
    """
    if folder is not None:
        _refuse_beside_a_name(
            {
                "--against": against,
                "--threshold": threshold,
                "--label-errors": label_errors if label_errors != "auto" else None,
                "--min-images": fewest if fewest != _FEWEST else None,
                "--save-list": save_list,
                "--backbone": model.backbone,
                "--weights": model.weights,
            },
            output,
        )
        return check_set_in(output, listed, source, folder)
    screen = Screen(output)
    from fewvit.curation.checking import Request, check_set, list_of
    from fewvit.neighbors.pairs import require_threshold

    if threshold is not None:
        require_threshold(threshold)
    reads = _reader(model, layout, access, place, features, work, screen)
    by_features = reads is not None or source.endswith(".npz")
    request = Request(
        CAREFUL if threshold is None else threshold,
        _way(label_errors, by_features, screen),
        fewest,
        work.max_pixels,
        work.seed,
    )
    if by_features and threshold is None:
        screen.notify(
            f"copies: threshold {CAREFUL}, a careful guess: `fewvit index duplicates --calibrate` finds the one of "
            "these images, --threshold COSINE gives another"
        )
    checked = check_set(source, against, listing(listed), reads, request, screen.notify, _progress(screen))
    if save_list is not None:
        _save_list(save_list, list_of(checked), screen)
    _show(checked, request.label_errors, output, screen)
    from fewvit.curation.findings import STRICT

    wrong = sum(len(checked.of(check)) for check in STRICT)
    if strict and wrong:
        screen.notify(f"--strict: {counted(wrong, 'bad file or leak', 'bad files or leaks')}")
        return _STRICT_CODE
    return 0


def _refuse_beside_a_name(given: Mapping[str, object], output: Output) -> None:
    """Raise UsageError for options of a check of images, which that of a published layout opens none of."""
    asked = [name for name, value in given.items() if value is not None]
    if output.out is not None and output.out.suffix.lower() in (".html", ".htm"):
        asked.append("--out as a page")
    if asked:
        raise UsageError(
            f"{' and '.join(asked)} {'goes' if len(asked) == 1 else 'go'} with images: SRC without DIR",
            fix="fewvit data check NAME DIR counts what is there; give NAME:DIR@PART for the images of a set.",
        )


def _reader(
    model: Model, layout: Layout, access: Access, place: Place, features: Features, work: Work, screen: Screen
) -> FeatureReader | None:
    """What makes features; None where no backbone is asked for."""
    if model.backbone is None:
        screen.notify(
            "no --backbone, so no features: near copies and label errors are not looked for; --backbone NAME finds them"
        )
    if model.backbone in (None, _NONE):
        return None
    return reader(model, layout, access, place, features, work, screen, max_bad=_ANY)


def _way(asked: str, by_features: bool, screen: Screen) -> str | None:
    """How label errors are found, or None; what was chosen for the user is told."""
    if asked == _NONE:
        return None
    from fewvit.curation.label_errors import has_cleanlab, require_way

    if asked != "auto":
        require_way(asked)
        if not by_features:
            raise UsageError(
                f"--label-errors {asked} goes by features, and there are none", fix="Give --backbone NAME."
            )
        return asked
    if not by_features:
        return None
    if has_cleanlab():
        return "cleanlab"
    screen.notify(
        "label errors by a vote of the nearest images, as cleanlab is not installed: it finds the plainest alone; "
        "pip install 'fewvit[labels]' finds more"
    )
    return "knn"


def _show(checked: Checked, way: str | None, output: Output, screen: Screen) -> None:
    """The rows on stdout, what to do about each finding on stderr, and the page where one is asked for."""
    from fewvit.curation.checking import rows_of
    from fewvit.curation.page import save_page
    from fewvit.results import Result, manifest

    rows = rows_of(checked)
    names = [one.place for one in (checked.data, checked.against) if one is not None]
    result = Result("data", rows, manifest(**checked.facts, sources=names, label_errors=way))
    page = output.out is not None and output.out.suffix.lower() in (".html", ".htm")
    if page:
        screen.show(result, shown=_shown(rows))
    else:
        screen.result(result, shown=_shown(rows))
    for row in rows:
        if row["kind"] == "finding" and row["count"]:
            screen.notify(f"{row['check']} ({row['count']}): {row['advice']}")
    clean = [row["check"] for row in rows if row["kind"] == "finding" and not row["count"]]
    if clean:
        screen.notify(f"nothing found: {'; '.join(clean)}")
    if page and output.out is not None:
        save_page(output.out, checked)
        screen.notify(f"wrote {printable(output.out)}")


def _shown(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """The rows of the table: what there is, and what was found."""
    there = [row for row in rows if row["kind"] == "fact" or row["count"]]
    return [{name: value for name, value in row.items() if name not in ("advice", "kind")} for row in there]


def _save_list(path: Path, lines: Sequence[Sequence[str]], screen: Screen) -> None:
    from fewvit.files import replacing

    with replacing(path, "w") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerows([printable(cell) for cell in line] for line in lines)
    screen.notify(f"wrote {printable(path)}")


def _progress(screen: Screen) -> Callable[[int, int], None]:
    import time

    started = time.perf_counter()

    def tell(done: int, of: int) -> None:
        elapsed = time.perf_counter() - started
        if done < of or elapsed >= 1:
            screen.line([f"{done}/{of} images read"], elapsed * (of - done) / max(done, 1), done / of, done=done == of)

    return tell
