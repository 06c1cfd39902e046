"""Images to cached features on a CPU: the whole extraction beside its two stages alone, and its memory.

Both stages use all cores, so the least that the whole can take is their sum. Decoding alone reads and decodes with as
many threads as extraction does and throws the pixels away; the model alone takes decoded batches from memory. The whole
lists nothing (the data set is open) and builds nothing (the backbone is loaded), but reads, hashes, decodes,
normalises, runs the model, and commits shards to a fresh cache in every round.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import official
from .images import as_input, jpegs, numbered, synthetic_jpeg
from .measure import Claim, Outcome, cores, in_fresh_process, main, peak_growth, round_robin

WHAT = "images to cached features, ViT-S/16, all cores"
BATCH = 32
WHOLE, DECODING, MODEL, DINO = (
    "fewvit extract",
    "decoding alone",
    "the model alone",
    "DINO: DataLoader, PIL transform, plain forward",
)
_MIB = 2**20


class Files(torch.utils.data.Dataset):
    """Images through the official transform, for torch's DataLoader."""

    def __init__(self, paths: list[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        return official.pil_tensor(self.paths[i].read_bytes())


def official_extraction(paths: list[Path], backbone: Any, workers: int) -> torch.Tensor:
    """Features (N, D) the official way: worker processes with PIL, attention written out, fp32."""
    weights, heads = backbone.model.state_dict(), backbone.spec.architecture.heads
    loader = torch.utils.data.DataLoader(Files(paths), batch_size=BATCH, num_workers=workers, shuffle=False)
    with torch.no_grad():
        return torch.cat([official.vit_forward(weights, images, heads) for images in loader])


def time_stages(count: int, rounds: int) -> tuple[list[Claim], list[dict[str, Any]], dict[str, Any]]:
    """The whole and its stages, in turn, on `count` files."""
    from fewvit import load_backbone, open_dataset
    from fewvit.extraction.cache import Cache
    from fewvit.extraction.extract import extract
    from fewvit.extraction.pipeline import FeatureOptions, settle
    from fewvit.extraction.work import Work
    from fewvit.images import decode

    torch.set_num_threads(cores())
    files, said = jpegs(count)
    files = files[: len(files) // BATCH * BATCH]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _write(root / "images", files)
        dataset = open_dataset(str(root / "images"))
        backbone = load_backbone("dino_vits16", weights="random", device="cpu")
        eager = load_backbone("dino_vits16", weights="random", device="cpu", engine="eager")
        pipeline = settle(backbone.spec, FeatureOptions(device="cpu"))
        decoded = np.stack([decode(data, pipeline.preprocess)[0] for data in files])
        caches = iter(range(10**6))

        def whole(_: Any) -> None:
            cache = Cache(root / f"cache{next(caches)}")
            extract(pipeline, dataset, cache, Work(batch_size=BATCH), build=lambda: backbone)

        def decoding(_: Any) -> None:
            with ThreadPoolExecutor(min(16, cores()), initializer=torch.set_num_threads, initargs=(1,)) as pool:
                for _pixels in pool.map(
                    lambda i: decode(dataset.read(i), pipeline.preprocess)[0].shape, range(len(dataset))
                ):
                    pass

        def model(_: Any) -> None:
            for start in range(0, len(decoded), BATCH):
                backbone.encode(as_input(decoded[start : start + BATCH]))

        def dino(_: Any) -> None:
            official_extraction([root / "images" / name for name in dataset.ids], eager, cores())

        variants: dict[str, Callable[[Any], None]] = {DINO: dino, WHOLE: whole, DECODING: decoding, MODEL: model}
        timing = round_robin(variants, [None], rounds)
    shares = [
        w / (d + m)
        for w, d, m in zip(timing.seconds[WHOLE], timing.seconds[DECODING], timing.seconds[MODEL], strict=True)
    ]
    claims = [
        Claim(
            "Images to cached features, CPU, time of the whole",
            "its two stages measured alone, added",
            float(np.median(shares)),
            "x",
            "<= 1.1",
        ),
        Claim(
            "Images to features, CPU, speed",
            "DINO's way: DataLoader, PIL, plain forward",
            timing.ratio(WHOLE, DINO),
            "x",
        ),
    ]
    return (
        claims,
        timing.rows(DINO, len(files)),
        {"images": said, "measured_images": len(files), "rounds": rounds, "threads": cores()},
    )


def _write(folder: Path, files: list[bytes]) -> None:
    for i, data in enumerate(files):
        path = folder / f"class{i % 7}" / f"{i:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


# ---- memory --------------------------------------------------------------------------------------------------------


def extraction_memory(images: str, cache: str, warm_up: str) -> tuple[int, int]:
    """Bytes of peak growth while `images` is listed and extracted with a one-block ViT, and bytes of the features.

    The folder `warm_up` goes first, so that libraries and thread stacks are not counted.
    """
    from fewvit.backbones import Architecture
    from fewvit.datasets import open_dataset
    from fewvit.extraction.cache import Cache
    from fewvit.extraction.extract import extract
    from fewvit.extraction.pipeline import FeatureOptions, settle
    from fewvit.extraction.work import Work
    from fewvit.models.spec import BackboneSpec

    spec = BackboneSpec("one block", "dino", Architecture(64, 1, 1, 32, grid=7), "dino/1", "random")
    pipeline = settle(spec, FeatureOptions(device="cpu"))
    kept: list[Any] = []

    def work(folder: str) -> None:
        features = extract(pipeline, open_dataset(folder), Cache(Path(cache)), Work(batch_size=BATCH))
        kept.append(features.features)

    work(warm_up)
    return peak_growth(lambda: work(images)), kept[-1].nbytes


def measure_memory(count: int, repeats: int) -> tuple[list[Claim], dict[str, Any]]:
    """Peak memory for `count` and for four times as many images.

    Medians over processes, since the allocator's heaps differ from one to the next.
    """
    counts = (count, 4 * count)
    growth: dict[int, list[int]] = {n: [] for n in counts}
    features = {}
    images = [synthetic_jpeg(i, 64, 64) for i in range(64)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for n in (4 * BATCH, *counts):
            _write(folder / str(n), [numbered(images[i % 64], n * 100_000 + i) for i in range(n)])
        for repeat in range(repeats):
            for n in counts:
                arguments = (str(folder / str(n)), str(folder / f"cache{n}-{repeat}"), str(folder / str(4 * BATCH)))
                peak, features[n] = in_fresh_process(extraction_memory, *arguments)
                growth[n].append(peak)
    few, many = (statistics.median(growth[n]) for n in counts)
    extra = many - few - (features[4 * count] - features[count])
    claim = Claim(
        f"Memory for {4 * count} images beyond that for {count}, the feature array's growth taken off",
        "nothing",
        extra / _MIB,
        "MiB",
        "<= 16",
    )
    peaks = {str(n): [round(b / _MIB, 1) for b in growth[n]] for n in counts}
    return [claim], {"peak_mib": peaks, "features_mib": {str(n): round(b / _MIB, 1) for n, b in features.items()}}


def measure(quick: bool) -> Outcome:
    claims, rows, facts = time_stages(64 if quick else 192, rounds=2 if quick else 7)
    more, memory = measure_memory(250 if quick else 2000, repeats=1 if quick else 3)
    return Outcome([*claims, *more], rows, {**facts, **memory})


if __name__ == "__main__":
    main("pipeline", WHAT, measure)
