"""What needs a GPU: parity with the CPU, exact neighbours, the speed of extraction and of ImageNet's k-NN.

`python3 -m benchmarks.gpu_check [PART ...]`, from the root of the repository, installed or not (PYTHONPATH=.). Without
a GPU it says so and ends with 0. FAISS is used where it has kernels for the GPU; without it torch stands in, and the
results say which one it was. Results go to benchmarks/results/gpu/PART.json and into the folder $OUT if that is set.
`--rehearse` runs every part on the CPU in tiny sizes and writes nothing: a test of this script.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewvit.classifiers._softmax_batches import solve_together
from fewvit.classifiers._softmax_regression import Solution, solve
from fewvit.evaluate.knn import score_knn
from fewvit.features import FeatureSet
from fewvit.neighbors import Bank, normalise

from . import official
from .gpu_steps import pretraining
from .images import as_input, numbered, synthetic_jpeg
from .logistic import LAMBDA, support
from .measure import RESULTS, Claim, Outcome, cores, round_robin, rounded, show, write

_IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Sizes:
    """How much is done, and where."""

    device: str = "cuda"
    batch: int = 256
    models: tuple[str, ...] = ("dino_vits16", "dino_vitb16")
    images: int = 16_384
    different: int = 128  # how many of them differ
    small: tuple[int, int] = (20_000, 500)  # bank and queries that a CPU checks in float64
    many_k: int = 3000  # beyond the 2048 of FAISS on a GPU
    large: tuple[int, int, int] = (1_280_000, 50_000, 768)
    rounds: int = 5
    classes: int = 1000  # of the logistic regressions


REHEARSAL = Sizes("cpu", 4, ("dino_vitt16",), 48, 4, (3000, 20), 2500, (3000, 200, 32), 2, 10)


# ---- features ------------------------------------------------------------------------------------------------------


def features(sizes: Sizes) -> Outcome:
    """Features on the GPU beside the CPU's, and images per second of the forward pass alone."""
    claims, rows = [], []
    for name in sizes.models:
        images = as_input(_noise(sizes.batch, 0))
        few = images[: max(1, sizes.batch // 8)]
        truth = _backbone(name, "cpu", "fp32", engine="eager").encode(few).numpy().astype(np.float64)
        found = {}
        for precision in ("fp32", "bf16", "fp16"):
            if sizes.device == "cpu" and precision == "fp16":
                continue
            backbone = _backbone(name, sizes.device, precision)
            here = images.to(sizes.device)
            found[precision] = backbone.encode(few.to(sizes.device)).float().cpu().numpy().astype(np.float64)
            timing = round_robin({precision: lambda _, b=backbone, x=here: b.encode(x).cpu()}, [None], 4 * sizes.rounds)
            cosine = (
                (found[precision] * truth).sum(axis=1)
                / np.linalg.norm(found[precision], axis=1)
                / np.linalg.norm(truth, axis=1)
            )
            row = {
                "model": name,
                "batch": sizes.batch,
                "max_error": rounded(np.abs(found[precision] - truth).max()),
                "min_cosine": round(float(cosine.min()), 6),
            }
            rows += timing.rows(precision, sizes.batch, **row)
            if precision == "fp32":
                claims.append(
                    Claim(
                        f"{name}, fp32 with TF32 off, largest difference on the GPU",
                        "the CPU",
                        float(np.abs(found["fp32"] - truth).max()),
                        "",
                        "<= 1e-4",
                    )
                )
            else:
                claims.append(
                    Claim(f"{name}, {precision}, least cosine", "fp32 on the CPU", float(cosine.min()), "", ">= 0.999")
                )
    return Outcome(claims, rows, {"weights": "random, normal with std 0.02"})


def _backbone(name: str, device: str, precision: str, **options: Any) -> Any:
    from fewvit import load_backbone

    return load_backbone(name, weights="random", device=device, precision=precision, **options)


def _noise(count: int, seed: int) -> np.ndarray:
    """(count, 224, 224, 3) uint8"""
    return np.random.default_rng(seed).integers(0, 256, size=(count, 224, 224, 3), dtype=np.uint8)


# ---- neighbours ----------------------------------------------------------------------------------------------------


def neighbors(sizes: Sizes) -> Outcome:
    """Rows found on the GPU beside a float64 brute force on the CPU.

    With repeated rows, so that ties must be settled.
    """
    bank_size, query_count = sizes.small
    random = np.random.default_rng(0)
    bank = random.normal(size=(bank_size, 384)).astype(np.float32)
    bank[random.integers(0, bank_size, bank_size // 20)] = bank[random.integers(0, bank_size, bank_size // 20)]
    queries = np.concatenate(
        [bank[: query_count // 2], random.normal(size=(query_count - query_count // 2, 384)).astype(np.float32)]
    )
    exact = (normalise(queries).astype(np.float64) @ normalise(bank).astype(np.float64).T).astype(np.float32)
    order = np.lexsort((np.broadcast_to(np.arange(bank_size), exact.shape), -exact))  # best first, ties by row
    claims, rows = [], []
    for engine in ("auto", "torch"):
        index = Bank(bank, device=sizes.device, engine=engine)
        for k in (20, 200, sizes.many_k):
            started = time.perf_counter()
            found = index.search(queries, k)
            seconds = time.perf_counter() - started
            wrong = int((found.rows != order[:, :k]).any(axis=1).sum())
            rows.append(
                {
                    "engine": index.engine,
                    "k": k,
                    "bank": bank_size,
                    "queries": query_count,
                    "seconds": rounded(seconds),
                    "queries_that_differ": wrong,
                }
            )
            claims.append(
                Claim(
                    f"{index.engine}, k = {k}, {bank_size} x {query_count}: queries that differ",
                    "float64 brute force on the CPU",
                    wrong,
                    "",
                    "<= 0",
                )
            )
    return Outcome(claims, rows)


def imagenet_knn(sizes: Sizes) -> Outcome:
    """k = 10, 20, 100, 200 at ImageNet's size.

    DINO's classifier on the GPU in four passes, and ours from arrays in main memory.
    """
    bank, queries, width = sizes.large
    n_classes = min(_IMAGENET_CLASSES, bank // 20)
    train, test = (_clustered(n, width, seed, n_classes, sizes.device) for seed, n in ((1, bank), (2, queries)))
    there = [torch.nn.functional.normalize(torch.from_numpy(side.features).to(sizes.device)) for side in (train, test)]
    labels = [torch.from_numpy(side.labels).to(sizes.device) for side in (train, test)]
    answers: dict[str, Any] = {}
    steps: dict[str, float] = {}

    def dino(_: Any) -> None:
        answers["dino"] = official.knn_evaluation(there[0], labels[0], there[1], labels[1], n_classes)

    def ours(_: Any) -> None:
        scores = score_knn(train, test, official.KS, (official.TEMPERATURE,), device=sizes.device)
        answers["fewvit"] = {score.k: (score.top1, score.top5) for score in scores}

    timing = round_robin(
        {"DINO: four passes, features on the GPU": dino, "fewvit: one pass, from main memory": ours}, [None], 2
    )
    started = time.perf_counter()
    index = Bank(train.features, device=sizes.device)
    steps["bank: copy, normalise, upload"] = rounded(time.perf_counter() - started)
    started = time.perf_counter()
    for _part, _found in index.chunks(test.features, max(official.KS)):
        pass
    steps["search and settling"] = rounded(time.perf_counter() - started)
    names = list(timing.seconds)
    top1 = max(abs(answers["dino"][k][0] - answers["fewvit"][k][0]) for k in official.KS)
    claims = [
        Claim(
            f"k-NN, {bank} x {queries} x {width}, four k, from main memory", "the clock", timing.median(names[1]), "s"
        ),
        Claim("The same, speed", "DINO's classifier on the same GPU", timing.ratio(names[1], names[0]), "x"),
        Claim("The same, largest difference of top-1", "DINO's classifier", top1, "points", "<= 0.01"),
    ]
    facts = {
        "engine": index.engine,
        "top1_top5": {str(k): {side: answers[side][k] for side in answers} for k in official.KS},
        "seconds": steps,
        "seconds_by_tile": _tiles(*there),
    }
    return Outcome(claims, timing.rows(names[0], queries), facts)


def _clustered(rows: int, width: int, seed: int, n_classes: int, device: str) -> FeatureSet:
    """Noisy features around class centres, made on the device and handed over as the library takes them."""
    stream = torch.Generator(device).manual_seed(seed)
    centres = torch.randn(n_classes, width, generator=torch.Generator(device).manual_seed(0), device=device)
    labels = torch.randint(n_classes, (rows,), generator=stream, device=device)
    found = torch.randn(rows, width, generator=stream, device=device).mul_(4).add_(centres[labels])
    return FeatureSet(found.cpu().numpy(), labels.cpu().numpy(), range(rows), [str(c) for c in range(n_classes)])


def _tiles(bank: torch.Tensor, queries: torch.Tensor) -> dict[str, float]:
    """Seconds of product and top 208 in fp32 for all queries, by tile: what a search without FAISS can reach."""
    seconds = {}
    for rows, columns in ((512, 12_288), (2048, 65_536), (2048, 262_144)):
        some = queries[: 4 * rows]
        _search_by_tile(bank[: 2 * columns], some, rows, columns)
        _wait(bank)
        started = time.perf_counter()
        _search_by_tile(bank, some, rows, columns)
        _wait(bank)
        seconds[f"{rows} queries x {columns} rows"] = rounded(
            (time.perf_counter() - started) * len(queries) / len(some)
        )
    return seconds


def _search_by_tile(bank: torch.Tensor, queries: torch.Tensor, rows: int, columns: int) -> None:
    for part in queries.split(rows):
        tops = [(part @ block.T).topk(min(208, len(block))).values for block in bank.split(columns)]
        torch.cat(tops, dim=1).topk(min(208, len(bank)))


def _wait(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()


# ---- logistic regression -------------------------------------------------------------------------------------------


def logistic(sizes: Sizes) -> Outcome:
    """Nine low-shot trials (1, 2 and 5 shots, three of each) fitted one after the other and together.

    The optimum is that of a CPU.
    """
    trials = [support(sizes.classes, shots, 384, seed) for shots in (1, 2, 5) for seed in range(3)]

    def alone(_: Any) -> list[Solution]:
        return [solve(*one, sizes.classes, LAMBDA, device=sizes.device) for one in trials]

    def together(_: Any) -> list[Solution]:
        return solve_together(trials, sizes.classes, [LAMBDA] * len(trials), device=sizes.device)

    names = ("nine fits alone", "nine trials together")
    timing = round_robin({names[0]: alone, names[1]: together}, [None], sizes.rounds)
    on_cpu = [solve(*one, sizes.classes, LAMBDA).objective for one in trials]
    apart = max(abs(found.objective / wanted - 1) for found, wanted in zip(together(None), on_cpu, strict=True))
    claims = [
        Claim(
            "Nine trials fitted together, time", "nine fits alone", 1 / timing.ratio(names[1], names[0]), "x", "<= 0.6"
        ),
        Claim("Their objectives, largest relative difference", "the CPU's", apart, "", "<= 2e-6"),
    ]
    return Outcome(claims, timing.rows(names[0], len(trials)))


# ---- extraction ----------------------------------------------------------------------------------------------------


def extraction(sizes: Sizes) -> Outcome:
    """The whole extraction beside the slower of its two stages, for fp32 and bf16, and the official way."""
    from fewvit.datasets import open_dataset

    claims, rows = [], []
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        _write_images(images, sizes)
        dataset = open_dataset(str(images))
        for precision in ("fp32", "bf16"):
            timing, share = _stages(dataset, images, Path(folder), sizes, precision)
            rows += timing.rows("fewvit extract", sizes.images, precision=precision)
            claims.append(
                Claim(
                    f"{sizes.models[0]}, {precision}: images to cached features",
                    "its slower stage alone",
                    share,
                    "x",
                    ">= 0.9",
                )
            )
            claims.append(
                Claim(
                    f"{sizes.models[0]}, {precision}: images per second",
                    "the clock",
                    sizes.images / timing.median("fewvit extract"),
                    "images/s",
                )
            )
        speed = _official_speed(images, dataset, sizes)
    claims.append(
        Claim(
            f"{sizes.models[0]}: images per second the official way",
            "DataLoader, PIL, plain fp32 forward",
            speed,
            "images/s",
        )
    )
    return Outcome(
        claims,
        rows,
        {
            "images": f"{sizes.images} JPEGs of 500 x 375 pixels",
            "decoding_threads": min(16, cores()),
            "batch": sizes.batch,
        },
    )


def _write_images(folder: Path, sizes: Sizes) -> None:
    with ThreadPoolExecutor(cores()) as pool:
        images = list(pool.map(synthetic_jpeg, range(sizes.different)))
    for i in range(sizes.images):
        path = folder / f"class{i % 10}" / f"{i:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(numbered(images[i % len(images)], i))


def _stages(dataset: Any, images: Path, folder: Path, sizes: Sizes, precision: str) -> tuple[Any, float]:
    """Timing of the whole, of decoding and of the model alone, and the whole's share of the slower stage's speed."""
    from fewvit.extraction.cache import Cache
    from fewvit.extraction.extract import extract
    from fewvit.extraction.pipeline import FeatureOptions, settle
    from fewvit.extraction.work import Work
    from fewvit.images import decode
    from fewvit.preprocess import Preprocess

    backbone = _backbone(sizes.models[0], sizes.device, precision)
    pipeline = settle(backbone.spec, FeatureOptions(device=sizes.device, precision=precision))
    preprocess, caches = Preprocess(), iter(range(10**6))
    batch = torch.from_numpy(_noise(sizes.batch, 1))
    batch = batch.pin_memory() if sizes.device == "cuda" else batch

    def whole(_: Any) -> None:
        extract(
            pipeline,
            dataset,
            Cache(folder / f"{precision}{next(caches)}"),
            Work(batch_size=sizes.batch),
            build=lambda: backbone,
        )

    def decoding(_: Any) -> None:
        def some(start: int) -> None:
            for i in range(start, min(start + 8, len(dataset))):
                decode(dataset.read(i), preprocess)

        with ThreadPoolExecutor(min(16, cores()), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(some, range(0, len(dataset), 8)))

    def model(_: Any) -> None:
        kept = []
        mean, std = (
            torch.tensor(values, device=sizes.device).view(1, 3, 1, 1) for values in (official.MEAN, official.STD)
        )
        for _start in range(0, sizes.images, sizes.batch):
            here = batch.to(sizes.device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(std)
            kept.append(backbone.encode(here.contiguous()))
        torch.cat(kept).cpu()

    timing = round_robin(
        {"fewvit extract": whole, "decoding alone": decoding, "the model alone": model}, [None], sizes.rounds
    )
    slower = [
        max(d, m) for d, m in zip(timing.seconds["decoding alone"], timing.seconds["the model alone"], strict=True)
    ]
    return timing, float(np.median([s / w for s, w in zip(slower, timing.seconds["fewvit extract"], strict=True)]))


def _official_speed(images: Path, dataset: Any, sizes: Sizes) -> float:
    """Images per second of PIL in worker processes and a plain fp32 forward on the GPU, on a quarter of the images."""
    from .pipeline import Files

    weights = _backbone(sizes.models[0], sizes.device, "fp32", engine="eager")
    tensors, heads = weights.model.state_dict(), weights.spec.architecture.heads
    paths = [images / name for name in dataset.ids[: max(sizes.batch, sizes.images // 4)]]
    loader = torch.utils.data.DataLoader(
        Files(paths), batch_size=sizes.batch, num_workers=cores(), pin_memory=sizes.device == "cuda"
    )
    started = time.perf_counter()
    with torch.no_grad():
        kept = [official.vit_forward(tensors, batch.to(sizes.device, non_blocking=True), heads) for batch in loader]
    torch.cat(kept).cpu()
    return len(paths) / (time.perf_counter() - started)


# ---- the command ---------------------------------------------------------------------------------------------------

PARTS: dict[str, tuple[Callable[[Sizes], Outcome], str]] = {
    "features": (features, "features on a GPU beside the CPU's"),
    "neighbors": (neighbors, "neighbours on a GPU beside a float64 brute force"),
    "extraction": (extraction, "images to cached features on a GPU"),
    "logistic": (logistic, "nine logistic regressions of 1000 classes on a GPU"),
    "pretraining": (pretraining, "pretraining steps on a GPU"),
    "knn": (imagenet_knn, "k-NN at ImageNet's size on a GPU"),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"only these, of {', '.join(PARTS)}")
    parser.add_argument(
        "--rehearse", action="store_true", help="every part on the CPU in tiny sizes; nothing is written"
    )
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}")
    if not options.rehearse and not torch.cuda.is_available():
        print("gpu-check: torch sees no GPU here, so there is nothing to check.")
        return 0
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    sizes, missed, load = REHEARSAL if options.rehearse else Sizes(), [], os.getloadavg()[0]
    for part in options.parts or PARTS:
        run, what = PARTS[part]
        print(f"==== {part}", flush=True)
        outcome = run(sizes)
        show(outcome)
        missed += [claim.what for claim in outcome.claims if claim.met is False]
        folders = (
            [] if options.rehearse else [RESULTS / "gpu", *([Path(os.environ["OUT"])] if os.environ.get("OUT") else [])]
        )
        for folder in folders:
            write(folder / f"{part}.json", f"gpu_{part}", what, outcome, quick=False, load=load)
        print(flush=True)
    print("goals missed: " + ("; ".join(missed) or "none"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
