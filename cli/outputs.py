"""The files that commands write: what stands in each kind, and what none may replace, before any work is done."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fewvit.errors import UsageError, printable
from fewvit.files import between_commas
from fewvit.spellings import place_of, split_of

# parameters that name what a command reads, as the user knows them
_READ = {
    **{
        name: "--" + name.replace("_", "-")
        for name in (
            *("data", "against", "train", "test", "backbone", "weights", "init", "monitor", "head", "head_classes"),
            *("subset", "classes", "omniglot_runs", "config"),
        )
    },
    "toml": "CONFIG",
    "bundle": "BUNDLE",
    "onnx": "--onnx",
    "network": "BUNDLE|BACKBONE",
    "source": "SRC",
    "run": "RUN",
    "results": "DIR",
}
_IMAGES = ("data", "train", "test", "monitor", "source")  # sources of images
_ENDING = re.compile(r"[^.].*(\.\d*[a-zA-Z][a-zA-Z0-9]{0,7})", re.DOTALL)  # of a file's name; that of v1.0 is none
_HEAD = 4096  # bytes that tell what a text file is
_HEADER_MAX = 1 << 26  # bytes of a safetensors header; a bundle's is far smaller
_TAIL = 1 << 16  # bytes at the end of a Parquet file, where its columns are named


@dataclass(frozen=True)
class Kind:
    """What an output option writes, and how a file that is there is known as one."""

    name: str
    metavar: str
    help: str
    known: Callable[[Path], bool]  # whether a file holds what an earlier run of the command wrote
    folder: bool = False  # a folder is written, or may be
    endings: Sequence[str] = ()  # that a file's name has, where others are refused
    harmless: Sequence[str] = ()  # endings of files that may lie among images: sources have no use for them


def check_outputs(values: Mapping[str, object], out: Kind | None) -> None:
    """Raise UsageError for an output that is an input, that another output names too, or where something else stands.

    `values`: a command's parameters by their names, an output that may be given several times as a list; `out`: what
    its --out is.
    """
    kinds = {**({"out": out} if out is not None else {}), **SAVED}
    taken: dict[str, str] = {}
    for name, kind, path in _outputs(kinds, values):
        flag = "--out" if name in ("outs", "figures", "maps") else "--" + name.replace("_", "-")
        other = taken.get(os.path.realpath(path))
        if other is not None:
            which = f"{flag} and {other} name" if other != flag else f"{flag} twice names"
            raise UsageError(f"{which} one file", file=path, fix="Give each a name of its own.")
        taken[os.path.realpath(path)] = flag
        _check_inputs(flag, path, values)
        if kind.folder and path.suffix.lower() not in kind.harmless:
            _check_beside(flag, path, values)
        # --add reads it, and says itself what it is
        _check_there(flag, path, replace(kind, known=lambda _: True) if values.get("add") else kind)


def require_ending(text: str, kind: Kind) -> None:
    """Raise UsageError for the name of an output whose ending says something else than what can be written."""
    if not kind.endings:
        return
    path, slash = Path(text), text.endswith(("/", os.sep))
    found = _ENDING.fullmatch(path.name)
    ending = found[1].lower() if found else ""
    if (ending in kind.endings and not slash) or (kind.folder and (slash or not ending) and ending not in kind.endings):
        return
    folder = ", or for a folder a name without an ending, or with / behind it" if kind.folder else ""
    raise UsageError(
        f"--out {printable(text)}: nothing that can be written is called so",
        fix=f"Give a name that ends in {', '.join(kind.endings)}{folder}.",
    )


def _outputs(kinds: Mapping[str, Kind], values: Mapping[str, object]) -> Iterator[tuple[str, Kind, Path]]:
    """Every output that is given: its parameter, what it writes, and where."""
    for name, kind in kinds.items():
        value = values.get(name)
        for one in value if isinstance(value, list | tuple) else [value]:
            if one is not None:
                yield name, kind, Path(str(one))


def _check_inputs(flag: str, path: Path, values: Mapping[str, object]) -> None:
    """Raise UsageError if a file or folder that is there is also read."""
    if not path.exists():
        return
    for name, shown in _READ.items():
        for source in _paths(values.get(name)):
            if os.path.exists(source) and os.path.samefile(source, path):
                raise UsageError(
                    f"{flag} {printable(path)} would replace {shown} {printable(source)}",
                    fix=f"Give {flag} another name.",
                )


def _check_beside(flag: str, path: Path, values: Mapping[str, object]) -> None:
    """Raise UsageError if a folder would lie among the classes of a source, as one more class."""
    place = Path(os.path.realpath(path))
    for name in _IMAGES:
        for source in map(Path, _paths(values.get(name))):
            if not source.is_dir():
                continue
            parts = [part for part in source.iterdir() if split_of(part.name) and part.is_dir()] or [source]
            if any(Path(os.path.realpath(part)) in place.parents for part in parts):
                raise UsageError(
                    f"{flag} lies among the images of {_READ[name]} {printable(source)}, where it would be taken "
                    "for a class or a part of them",
                    file=path,
                    fix=f"Give {flag} a place outside.",
                )


def _paths(value: object) -> Iterator[str]:
    """What a parameter may name: itself, its parts between commas, or those of a list."""
    if isinstance(value, str | Path):
        yield place_of(str(value))
        yield from between_commas(str(value))
    elif isinstance(value, Sequence):
        for one in value:
            yield from _paths(one)


def _check_there(flag: str, path: Path, kind: Kind) -> None:
    """Raise UsageError if something stands at `path` that is not what would be written there."""
    if not path.exists() or (path.is_dir() and kind.folder):
        return
    if path.is_dir():
        raise UsageError(f"{flag} is a folder; give the name of a file in it", file=path)
    if not path.is_file():
        raise UsageError(
            f"{flag} is no regular file; it would be replaced by one", file=path, fix=f"Give {flag} the name of a file."
        )
    if _head(path).strip() and not kind.known(path):
        raise UsageError(
            f"{flag} would replace a file that is not {kind.name}",
            file=path,
            fix=f"Give {flag} another name, or remove the file.",
        )


def _head(path: Path) -> bytes:
    with open(path, "rb") as handle:
        return handle.read(_HEAD)


def _columns(path: Path) -> list[str]:
    """The header of a CSV."""
    return _head(path).decode("utf-8", "replace").partition("\n")[0].rstrip("\r").split(",")


def _is_result(path: Path) -> bool:
    """JSON with the result's schema, or CSV with columns that only results have."""
    if re.match(rb'\s*\{\s*"schema":\s*"fewvit\.result/', _head(path)):
        return True
    return any(
        columns <= set(_columns(path))
        for columns in (
            {"metric", "value"},
            {"kind", "check", "count", "share"},
            {"id", "label", "confidence", "best"},
            {"group", "id", "score", "kind"},
        )
    )


def _is_archive_with(path: Path, ending: str) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(ending) for name in archive.namelist())


def _is_features(path: Path) -> bool:
    return _is_archive_with(path, "features.npy")


def _is_torch(path: Path) -> bool:
    return _is_archive_with(path, "data.pkl")


def _is_bundle(path: Path) -> bool:
    """A safetensors file with a bundle's manifest in its header."""
    with open(path, "rb") as handle:
        size = int.from_bytes(handle.read(8), "little")
        return b'"fewvit.bundle"' in handle.read(min(size, _HEADER_MAX))


def _is_predictions(path: Path) -> bool:
    """CSV with our columns, or a Parquet file that names them where it lists its own."""
    if not _head(path).startswith(b"PAR1"):
        return _columns(path)[-4:] == ["id", "label", "prediction", "probability"]
    with open(path, "rb") as handle:
        handle.seek(max(0, path.stat().st_size - _TAIL))
        tail = handle.read()
    return b"prediction" in tail and b"probability" in tail


def _is_split(path: Path) -> bool:
    return _columns(path) == ["shots", "trial", "id", "label"]


def _is_per_class(path: Path) -> bool:
    return _columns(path)[-4:] == ["class", "n_test", "correct", "top1"]


def _is_confusion(path: Path) -> bool:
    return "true \\ predicted" in _columns(path)


def _is_drawn(path: Path) -> bool:
    """A PNG or an SVG that names us as what made it."""
    head = _head(path)
    return head.startswith((b"\x89PNG", b"<?xml")) and b"fewvit" in head


def _is_figure(path: Path) -> bool:
    return _is_drawn(path) or _is_archive_with(path, "figure.npy")


def _is_ground_truth(path: Path) -> bool:
    return re.match(rb'\s*\{\s*"schema":\s*"fewvit\.revisited/', _head(path)) is not None


def _is_mteb_model(path: Path) -> bool:
    return b"Written by `fewvit export mteb-model`" in _head(path)


def _is_page(path: Path) -> bool:
    return _head(path).startswith(b"<!doctype html")


def _is_checked(path: Path) -> bool:
    """A page, or a result."""
    return _is_page(path) or _is_result(path)


def _is_findings(path: Path) -> bool:
    return _columns(path) == ["check", "id", "other", "reason"]


def _is_parts(path: Path) -> bool:
    return [name.strip('"') for name in _columns(path)] == ["path", "label", "part", "shots"]


def _is_report(path: Path) -> bool:
    """A page, a table that begins as a report's does, or a result."""
    begins = _head(path).startswith((b"<!-- fewvit report", b"% fewvit report"))
    return begins or _is_page(path) or _is_result(path)


RESULT = Kind(
    "a result of fewvit", "FILE", "Also write the result here: CSV where the name ends in .csv, else JSON.", _is_result
)
ROWS = replace(RESULT, help="Also write the predictions here: CSV where the name ends in .csv, else JSON.")
FEATURES = Kind("features", "FILE.npz", "Write the features here, for other commands and programs.", _is_features)
BUNDLE = Kind("a bundle", "BUNDLE", "Write the bundle here; with --add it is the one that grows.", _is_bundle)
OFFICIAL = Kind("weights that torch wrote", "FILE.pth", "Write the networks here, in the official layout.", _is_torch)
GROUND_TRUTH = Kind("ground truth of fewvit", "FILE.json", "Write the ground truth here.", _is_ground_truth)
CHECK = Kind(
    "a check of fewvit",
    "FILE",
    "Also write it here, by its ending: .html, a page with pictures, .csv or .json.",
    _is_checked,
    endings=(".html", ".htm", ".csv", ".json"),
)
PARTS = Kind(
    "a table of parts",
    "FILE.csv|DIR",
    "Write the tables here: the whole one, and beside it one for each part.",
    _is_parts,
    folder=True,
    endings=(".csv",),
    harmless=(".csv",),
)
CONVERTED = replace(
    GROUND_TRUTH,
    metavar="FILE|DIR",
    help="Write it here: .csv, .tsv, .parquet, .zip, .tar, or a folder; .json of a .pkl.",
    known=lambda path: path.suffix.lower() != ".json" or _is_ground_truth(path),  # sets: told where they are written
    folder=True,
    endings=(".csv", ".tsv", ".parquet", ".zip", ".tar", ".json"),
)
MTEB_MODEL = Kind("a module of fewvit for mteb", "FILE.py", "Write the module here.", _is_mteb_model)
RUN = Kind(
    "a run",
    "RUN",
    "Folder of the run, always needed: where it is kept, goes on, and is found as a --backbone.",
    lambda _: False,
    folder=True,
)
PROBE = replace(
    RESULT,
    metavar="RUN",
    help="Folder that keeps the run, so that it can go on; with --head a file for the result.",
    folder=True,
)
SWEEP = Kind(
    "a sweep", "DIR", "Folder of the sweep, always needed: every cell is kept there.", lambda _: False, folder=True
)
REPORT = Kind(
    "a report",
    "FILE",
    "Write the report here, by its ending: .html, .md, .tex, .csv or .json; repeatable.",
    _is_report,
)
FIGURE = Kind(
    "a figure of fewvit",
    "FILE",
    "Write the figure here, by its ending: .png, .svg, or .npz for its arrays; repeatable.",
    _is_figure,
)
MAP = replace(
    FIGURE,
    help="Write the map here, by its ending: .png, .svg, .html for a page with pictures, or .npz; repeatable.",
    known=lambda path: _is_figure(path) or _is_page(path),
)
EXPORT = Kind("an export", "DIR", "Folder that is written.", lambda _: False, folder=True)
PICTURE = Kind("a picture that fewvit drew", "FILE.png|.svg", "", _is_drawn)
SAVED = {
    "outs": REPORT,  # an --out that may be given several times
    "figures": FIGURE,  # another one
    "maps": MAP,  # and one that may be a page
    "gallery": Kind("a page that --gallery wrote", "FILE.html", "", _is_page),
    "index": Kind("an index", "IDX", "", lambda _: False, folder=True),
    "save_split": Kind("a split that --save-split wrote", "FILE.csv", "", _is_split),
    "save_predictions": Kind("predictions that --save-predictions wrote", "FILE", "", _is_predictions),
    "save_per_class": Kind("a table that --save-per-class wrote", "FILE.csv", "", _is_per_class),
    **dict.fromkeys(("plot", "plot_reliability", "plot_confusion"), PICTURE),
    "save_list": Kind("a list of findings that --save-list wrote", "FILE.csv", "", _is_findings),
    "save_confusion": Kind("a table that --save-confusion wrote", "FILE.csv", "", _is_confusion),
}
