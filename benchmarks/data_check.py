"""`fewvit data check` beside what it cannot do without: reading and hashing every file, and making features.

Ten thousand small photographs, for which what is done per image weighs most; features of the packaged backbone, none of
them stored before. Without a backbone the check decodes every image, since that alone shows which are bad: beside
reading, hashing and decoding.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from fewvit.cpu import in_threads
from fewvit.curation.checking import Request, check_set
from fewvit.datasets import Dataset, Listing, open_dataset
from fewvit.digests import DigestMemory, content_digest
from fewvit.evaluate.inputs import Backbones, FeatureReader
from fewvit.extraction.cache import Cache
from fewvit.extraction.pipeline import FeatureOptions
from fewvit.extraction.work import Work
from fewvit.images import decode_whole
from fewvit.models.spec import Access

from .images import SHARED, synthetic_jpeg
from .measure import Claim, Outcome, main, round_robin

WHAT = "fewvit data check of 10,000 images, all cores, nothing stored before"
HASH, FEATURES, CHECK = "read and hash", "features", "data check -m fewvit_tiny"
DECODE, ALONE = "read, hash and decode", "data check"
_ARCHIVE = SHARED / "data" / "tinyimagenet-val.zip"


def images_in(folder: Path, count: int) -> Path:
    """`count` images in class folders: Tiny-ImageNet's validation images where they are, else synthetic ones."""
    if _ARCHIVE.exists():
        with zipfile.ZipFile(_ARCHIVE) as archive:
            names = sorted(name for name in archive.namelist() if name.lower().endswith((".jpg", ".jpeg")))
            files = [(Path(name).parent.name, archive.read(name)) for name in names[:count]]
    else:
        files = [(f"{row % 20}", synthetic_jpeg(row)) for row in range(count)]
    for row, (label, data) in enumerate(files):
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{row:05d}.jpg").write_bytes(data)
    return folder


def reader(cache: Path) -> FeatureReader:
    """What makes features, with a cache that is empty."""
    shutil.rmtree(cache, ignore_errors=True)
    return FeatureReader(
        Backbones(["fewvit_tiny"], Access(cache)),
        FeatureOptions(img_size="64"),
        Cache(cache),
        Work(max_bad=str(1 << 40)),
    )


def decode_all(images: Dataset) -> None:
    def one(row: int) -> None:
        data = images.read(row)
        hashlib.sha256(data).digest()
        decode_whole(data)

    for start in range(0, len(images), 256):
        in_threads(one, range(start, min(start + 256, len(images))))


def measure(quick: bool) -> Outcome:
    count, rounds = (500, 3) if quick else (10_000, 2)
    with tempfile.TemporaryDirectory() as place:
        folder, cache = images_in(Path(place) / "images", count), Path(place) / "cache"
        request = Request(0.999, "knn")

        def features(_: Any) -> None:
            made = reader(cache)
            made.inputs(made.one(str(folder), Listing()), next(made.pipelines()))

        def check(_: Any) -> None:
            check_set(str(folder), None, Listing(), reader(cache), request, lambda line: None)

        variants = {
            HASH: lambda _: content_digest(open_dataset(str(folder)), DigestMemory()),
            FEATURES: features,
            CHECK: check,
            DECODE: lambda _: decode_all(open_dataset(str(folder))),
            ALONE: lambda _: check_set(str(folder), None, Listing(), None, Request(0.999), lambda line: None),
        }
        timing = round_robin(variants, [None], rounds)
    seconds = {name: timing.median(name) for name in variants}
    what = f"{count} images checked"
    claims = [
        Claim(
            f"{what}, time with features",
            f"{HASH} + features",
            seconds[CHECK] / (seconds[HASH] + seconds[FEATURES]),
            "x",
            "<= 1.2",
        ),
        Claim(f"{what}, time without", DECODE, seconds[ALONE] / seconds[DECODE], "x", ""),
    ]
    table = [{"variant": name, "seconds": round(value, 3)} for name, value in seconds.items()]
    return Outcome(claims, table, {"images": count, "real": _ARCHIVE.exists()})


if __name__ == "__main__":
    main("data_check", WHAT, measure)
