"""The search page: a request with an uploaded image beside the model's own forward pass, the start page, long answers.

`fewvit index serve` runs as a process of its own, as a user starts it; requests come from here over one connection, one
after another, and take turns with the forward pass of one image by the same backbone in this process. Every upload is
a file that the server has not seen. The index holds as many images as there are files of one pixel, with random
features stored under their digests; its answers are looked at on disk like any others, and none of them is decoded.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from .images import jpegs, numbered, synthetic_jpeg
from .measure import Claim, Outcome, cores, main, round_robin

WHAT = "the search page at one client, ViT-S/16 on the CPU"
BACKBONE, _WIDTH, _CLASSES, _RESULTS = "dino_vits16", 384, 100, 2000
UPLOAD, FORWARD, START, LIST, PAGE = (
    "POST /api/search, a JPEG of 100 kB",
    "the model's forward of one image",
    "GET /",
    f"GET /api/search, {_RESULTS} results",
    f"GET /, {_RESULTS} results on the page",
)


def built(folder: Path, count: int) -> Path:
    """An index of `count` files whose features are random, as if the backbone had made them."""
    from fewvit.datasets import Listing, open_dataset
    from fewvit.evaluate.inputs import Backbones, FeatureReader
    from fewvit.extraction.cache import Cache, default_cache_dir
    from fewvit.extraction.pipeline import FeatureOptions
    from fewvit.extraction.work import Work
    from fewvit.models.spec import Access
    from fewvit.retrieval.growth import Wish
    from fewvit.retrieval.index import build_index

    for i in range(count):
        path = folder / "images" / f"class{i % _CLASSES:03d}" / f"{i:06d}.ppm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"P6 1 1 255\n" + i.to_bytes(3, "big"))
    cache = Cache(default_cache_dir())
    backbones = Backbones([BACKBONE], Access(cache.folder, offline=True), "random")
    reader = FeatureReader(backbones, FeatureOptions(device="cpu"), cache, Work())
    [pipeline] = reader.pipelines()
    dataset = open_dataset(str(folder / "images"))
    digests = [hashlib.sha256(dataset.read(row)).digest() for row in range(count)]
    features = np.random.default_rng(0).normal(size=(count, _WIDTH)).astype(np.float32)
    cache.store(pipeline.key).put(digests, [0] * count, features)
    build_index(folder / "idx", str(folder / "images"), reader, Wish("flat"), Listing())
    return folder / "idx"


@contextlib.contextmanager
def served(index: Path) -> Iterator[http.client.HTTPConnection]:
    """A connection to `fewvit index serve`."""
    program = str(Path(sys.executable).with_name("fewvit"))
    words = [program, "index", "serve", "--index", str(index), "--port", "0", "--device", "cpu", "--offline", "-q"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            address = urlsplit(line.split()[-1] if line.split() else "")
            if not address.port:
                raise SystemExit("fewvit index serve did not start")
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", address.port, timeout=60)) as connection:
                yield connection
        finally:
            process.send_signal(signal.SIGINT)


def uploads(count: int) -> list[bytes]:
    """Different files of about 100 kB."""
    found = [data for data in jpegs(400, typical=True)[0] if 85_000 <= len(data) <= 115_000]
    some = found or [synthetic_jpeg(seed) for seed in range(7)]
    return [numbered(some[i % len(some)], i) for i in range(count)]


def ask(connection: http.client.HTTPConnection, path: str, body: bytes | None = None) -> bytes:
    """The body of an answer; it must be one."""
    headers = {"Content-Type": "multipart/form-data; boundary=LINE"} if body is not None else {}
    connection.request("GET" if body is None else "POST", path, body, headers)
    answer = connection.getresponse()
    data = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{path} was answered with {answer.status}: {data[:200]!r}")
    return data


def form(data: bytes) -> bytes:
    """The form that a browser sends with one file."""
    head = b'--LINE\r\nContent-Disposition: form-data; name="image"; filename="x.jpg"\r\n\r\n'
    return head + data + b"\r\n--LINE--\r\n"


def forward() -> Callable[[], Any]:
    """One image through the backbone, as the server computes it: in a thread that is not the main one.

    There OpenMP counts more threads than cores and does not spin, which matters on a busy machine.
    """
    import torch

    from fewvit.extraction.calls import load_backbone
    from fewvit.extraction.encoding import start_encoding

    torch.set_num_threads(cores())
    backbone = load_backbone(BACKBONE, weights="random", device="cpu", offline=True)
    pipeline = backbone.pipeline
    if pipeline is None:
        raise SystemExit("the backbone has no pipeline")
    pixels = np.random.default_rng(1).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    pool = ThreadPoolExecutor(1)
    return lambda: pool.submit(lambda: start_encoding(backbone, pixels, 1, pipeline).numpy()).result()


def measure(quick: bool) -> Outcome:
    count, rounds = (2100, 20) if quick else (20_000, 200)
    before = os.environ.get("FEWVIT_CACHE_DIR")
    with tempfile.TemporaryDirectory() as name:
        os.environ["FEWVIT_CACHE_DIR"] = f"{name}/cache"
        try:
            index = built(Path(name), count)
            time.sleep(0.2)
            with served(index) as connection:
                images, run = iter(uploads(rounds + 1)), forward()
                like = "class001/000001.ppm"
                runs: dict[str, Any] = {
                    UPLOAD: lambda _: ask(connection, "/api/search", form(next(images))),
                    FORWARD: lambda _: run(),
                    START: lambda _: ask(connection, "/"),
                    LIST: lambda _: ask(connection, f"/api/search?like={like}&k={_RESULTS}"),
                    PAGE: lambda _: ask(connection, f"/?like={like}&k={_RESULTS}"),
                }
                timing = round_robin(runs, [None], rounds)
        finally:
            if before is None:
                del os.environ["FEWVIT_CACHE_DIR"]
            else:
                os.environ["FEWVIT_CACHE_DIR"] = before
    p95 = {name: float(np.percentile(seconds, 95)) for name, seconds in timing.seconds.items()}
    model = timing.median(FORWARD)
    clock = "the clock"
    claims = [
        Claim(
            "Search by a JPEG of 100 kB, 95th percentile", "the model's own forward", p95[UPLOAD] / model, "x", "<= 1.3"
        ),
        Claim("The same, median", "the model's own forward", timing.median(UPLOAD) / model, "x"),
        Claim("The same, both at their 95th percentile", "the model's own forward", p95[UPLOAD] / p95[FORWARD], "x"),
        Claim("The start page, 95th percentile", clock, p95[START], "s", "<= 0.02"),
        Claim(f"{_RESULTS} results of one query, 95th percentile", clock, p95[LIST], "s", "<= 0.3"),
        Claim(f"{_RESULTS} results on one page, 95th percentile", clock, p95[PAGE], "s", "<= 0.3"),
    ]
    rows = [{**row, "p95_s": round(p95[row["variant"]], 5)} for row in timing.rows(FORWARD)]
    return Outcome(claims, rows, {"images": count, "requests": rounds, "threads": cores()})


if __name__ == "__main__":
    main("page", WHAT, measure)
