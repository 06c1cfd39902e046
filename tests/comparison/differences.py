"""How two lanes differ: exit codes, stdout, stderr and files, byte by byte but for what VOLATILE and DERIVED name."""

from __future__ import annotations

import functools
import io
import itertools
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from comparison.commands import Command
from comparison.lanes import Lane, Outcome

# Keys of results, manifests and logs whose numbers no two runs share. They are compared as 0: that a key is there, and
# which parts `seconds` has, counts.
VOLATILE = (
    "seconds",  # by a clock, as all that follow
    "seconds_starting",
    "seconds_decoding",
    "seconds_model",
    "images_per_second",
    "images_per_second_training",
    "versions",  # fewvit's own may be another; the packages are the same, as one interpreter runs both checkouts
)
# Digests of what holds absolute paths or times, as bundles and results do, and so differ by the lane's folder or by the
# clock. What they are of is compared.
DERIVED = ("bundle_sha256", "classifier.bundle", "result_sha256")
_OWN_DIGEST = re.compile(r'"sha256": "[0-9a-f]{64}"')  # in a bundle's header: of the rest of it, so derived too
# What tells how much came from the cache is another where the cache is full.
FROM_CACHE = ("computed", "cached", *VOLATILE)
PROGRESS = re.compile(r"images/s|\d:\d\d left|none had to be computed")  # such lines come by the clock
_RECORD = np.dtype([("identity", "<i8", 5), ("digest", "V32")])  # of cache/digests: device, inode, size, mtime, ctime
_CTIME = 4
_WIDTH = 110  # characters of a line that is shown

Clean = Callable[[str], str]  # takes out of a text what may differ


def without_volatile(text: str) -> str:
    """Text with 0 for the numbers of VOLATILE keys, and `derived` for the values of DERIVED ones."""
    text = _pattern(VOLATILE).sub(lambda found: re.sub(r"\d[\d.e+-]*", "0", found[0]), text)
    return _pattern(DERIVED).sub(r'"\1": derived\3', text)


def without_counts(text: str) -> str:
    """Text without the keys of FROM_CACHE and DERIVED."""
    return re.sub(r",?\s*(?=[}\]])", "", _pattern((*FROM_CACHE, *DERIVED)).sub("", text))


@functools.cache
def _pattern(keys: tuple[str, ...]) -> re.Pattern[str]:
    """Finds JSON's `"key": value,`: a number, a text, or a flat list or object, also over several lines."""
    return re.compile(rf'"({"|".join(keys)})": (\{{[^{{}}]*\}}|\[[^\[\]]*\]|"[^"]*"|[^,\s}}\]]+)(,\s*)?')


def spoken(stderr: str) -> str:
    """What was said on stderr, without lines of progress: they come by the clock."""
    return "".join(line for line in stderr.splitlines(keepends=True) if not PROGRESS.search(line))


def options_in(help_text: str) -> str:
    """The options that a help text names, and its commands."""
    return "\n".join(sorted(set(re.findall(r"(?<!\S)--?[a-zA-Z][\w-]*|^  [a-z]+(?=  )", help_text, re.MULTILINE))))


def first_difference(old: str, new: str) -> str:
    """The first line in which two texts differ."""
    for number, (a, b) in enumerate(itertools.zip_longest(old.splitlines(), new.splitlines()), start=1):
        if a != b:
            return f"line {number}: {_shown(a)} -> {_shown(b)}"
    return "the ends of lines"


def _shown(line: str | None) -> str:
    return "nothing" if line is None else repr(line if len(line) <= _WIDTH else line[: _WIDTH - 3] + "...")


def file_difference(old: Path, new: Path, clean: Clean) -> str:
    """How two files differ, empty if they do not. `clean` takes out of JSON what may differ."""
    if not (old.exists() and new.exists()):
        there = [side for side, path in (("old", old), ("new", new)) if path.exists()]
        return f"only the {there[0]} one is there" if there else ""  # a later command removed both
    a, b = old.read_bytes(), new.read_bytes()
    if a == b:
        return ""
    kind = old.suffix
    if kind == ".npz":
        return _archive_difference(a, b)
    if kind == ".safetensors":
        return _tensor_difference(a, b, clean)
    if kind == ".bundle":
        return _tensor_difference(a, b, lambda header: _OWN_DIGEST.sub("", clean(header)))
    if kind in (".json", ".jsonl", ".csv"):
        texts = [clean(content.decode(errors="surrogateescape")) for content in (a, b)]
        return first_difference(*texts) if texts[0] != texts[1] else ""
    return f"{len(a)} and {len(b)} bytes, the first difference at byte {_first_byte(a, b)}"


def _first_byte(a: bytes, b: bytes) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _archive_difference(a: bytes, b: bytes) -> str:
    """Of two .npz: the first array that differs, or how the archives around equal arrays do."""
    with np.load(io.BytesIO(a)) as old, np.load(io.BytesIO(b)) as new:
        if old.files != new.files:
            return f"arrays {old.files} -> {new.files}"
        for name in old.files:
            if how := _array_difference(old[name], new[name]):
                return f"{name}: {how}"
    return f"equal arrays, but the archive differs at byte {_first_byte(a, b)}"


def _array_difference(old: np.ndarray, new: np.ndarray) -> str:
    if old.dtype != new.dtype or old.shape != new.shape:
        return f"{old.dtype}{list(old.shape)} -> {new.dtype}{list(new.shape)}"
    if old.tobytes() == new.tobytes():
        return ""
    differing = np.flatnonzero((old != new).ravel())
    if old.dtype.kind != "f" or not len(differing):
        return f"{len(differing)} of {old.size} values"
    most = np.nanmax(np.abs(old.astype(np.float64) - new.astype(np.float64)))
    return f"{len(differing)} of {old.size} values, by up to {most:.2g}"


def _tensor_difference(a: bytes, b: bytes, clean: Clean) -> str:
    """Of two safetensors files: their headers without what may differ in them, and the first tensor of other bytes."""
    headers, contents = [], []
    for content in (a, b):
        size = int.from_bytes(content[:8], "little")
        headers.append(content[8 : 8 + size].decode())
        contents.append(content[8 + size :])
    texts = [clean(header.replace('\\"', '"')).strip() for header in headers]  # a bundle's manifest is JSON in JSON
    if texts[0] != texts[1]:
        at = max(0, _first_byte(*(text.encode() for text in texts)) - 30)
        return f"header: {_shown(texts[0][at : at + 90])} -> {_shown(texts[1][at : at + 90])}"
    for name, facts in json.loads(headers[0]).items():
        first, last = facts.get("data_offsets", (0, 0))
        if contents[0][first:last] != contents[1][first:last]:
            kind = {"F32": "<f4", "F64": "<f8", "F16": "<f2"}.get(facts["dtype"], "u1")
            return f"{name}: {_array_difference(*(np.frombuffer(c[first:last], kind) for c in contents))}"
    return ""


def store_rows(folder: Path) -> dict[bytes, bytes]:
    """Digest of each image in a feature store -> its notes and feature, whatever the shards they stand in.

    A store commits at least every half a minute, so how rows are parted among shards hangs on the machine's speed.
    """
    rows: dict[bytes, bytes] = {}
    for file in sorted(folder.glob("*.rows")):
        _, _, records = file.read_bytes().partition(b"\n")
        for record, feature in zip(np.frombuffer(records, "V34"), np.load(file.with_suffix(".npy")), strict=True):
            rows[record.tobytes()[:32]] = record.tobytes()[32:] + feature.tobytes()
    return rows


def store_difference(old: Path, new: Path) -> str:
    """How two feature stores differ."""
    if sorted(p.name for p in old.iterdir()) == sorted(p.name for p in new.iterdir()):
        differing = [p.name for p in old.iterdir() if p.is_file() and p.read_bytes() != (new / p.name).read_bytes()]
        return f"{', '.join(differing)} of other bytes" if differing else ""
    a, b = store_rows(old), store_rows(new)
    if a.keys() != b.keys():
        return f"features of {len(a)} -> {len(b)} images, {len(a.keys() & b.keys())} of them the same"
    differing = [key.hex()[:12] for key in a if a[key] != b[key]]
    return f"features of {len(differing)} of {len(a)} images, first {differing[0]}" if differing else ""


def remembered(lane: Lane) -> set[bytes]:
    """Which input had which digest, by the cache. Files that each lane has for itself have inodes of their own."""
    folders = os.walk(lane.work / "inputs", followlinks=True)
    inputs = [os.stat(os.path.join(folder, name)).st_ctime_ns for folder, _, names in folders for name in names]
    found = set()
    for file in lane.folder.rglob("digests/*.bin"):
        records = np.frombuffer(file.read_bytes(), _RECORD)
        found |= {record.tobytes() for record in records[np.isin(records["identity"][:, _CTIME], inputs)]}
    return found


@dataclass
class Verdict:
    """What was found about one command: differences count, notes do not."""

    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def compare(command: Command, old: Lane, new: Lane, rule: Clean) -> Verdict:
    """One command in two lanes: exit code, stdout, what it said, and all files that either wrote."""
    a, b = old.outcomes[command.name], new.outcomes[command.name]
    places = re.compile("|".join(re.escape(str(lane.folder)) for lane in (old, new)))

    def clean(text: str) -> str:
        return rule(places.sub("LANE", text))

    found = Verdict()
    if a.code != b.code:
        last = (spoken(b.stderr).splitlines() or ["nothing was said"])[-1]
        found.differences.append(f"exit {a.code} -> {b.code}: {last}")
    printed = [clean(outcome.stdout) for outcome in (a, b)]
    if "--help" in command.words:
        if printed[0] != printed[1]:
            found.notes.append(f"help: {first_difference(*printed)}")
        printed = [options_in(text) for text in printed]
    if command.has_any_order:
        printed = ["\n".join(sorted(line.rstrip(",]}") for line in text.splitlines())) for text in printed]
    if printed[0] != printed[1]:
        found.differences.append(f"stdout: {first_difference(*printed)}")
    said = [clean(spoken(outcome.stderr)) for outcome in (a, b)]
    if said[0] != said[1]:
        (found.differences if command.fails else found.notes).append(f"stderr: {first_difference(*said)}")
    for name in sorted({_compared_as(path) for path in (*a.files, *b.files)} - {""}):
        pair = old.folder / name, new.folder / name
        how = store_difference(*pair) if all(p.is_dir() for p in pair) else file_difference(*pair, clean)
        if how:
            found.differences.append(f"{name}: {how}")
    return found


def _compared_as(path: str) -> str:
    """A file by itself, a shard as its store; what `remembered` looks at not at all."""
    parts = Path(path).parts
    if "digests" in parts:
        return ""
    return str(Path(path).parent) if parts[1] == "features" and path.endswith((".npy", ".rows")) else path


def computed_again(command: Command, outcome: Outcome, known: set[str]) -> list[str]:
    """What a command computed although the old checkout had. `known`: the files that that one wrote."""
    mine = [path for path in outcome.files if path.startswith("cache/") and "digests" not in Path(path).parts]
    found = [f"new in the cache: {path}" for path in mine if path not in known]
    count = sum(int(number) for number in re.findall(r'"computed": (\d+)', outcome.stdout))
    if count and "--no-cache" not in command.words:
        found.append(f"{count} features were computed again")
    return found
