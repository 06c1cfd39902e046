"""A part of `benchmarks.gpu_check`.

Whole pretraining steps on a GPU, views made there, beside the time that their products alone would take.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import torch

from fewvit.plugins import find
from fewvit.training.loop import Execution, Run
from fewvit.training.order import Order
from fewvit.training.signals import Stopping
from fewvit.views.crops import make_views

from .measure import Claim, Outcome, rounded

PRESETS = {"dino": "paper/vits16", "msn": "paper/vits16", "mae": "paper/vitb16"}
_EDGE = 256  # pixels of the images that views are cut from


def pretraining(sizes: Any) -> Outcome:
    """Images per second of each method in bf16, and the share of the GPU's own speed in large bf16 products."""
    rehearsed = sizes.device == "cpu"
    peak = _product_speed(sizes.device, 512 if rehearsed else 8192)
    claims, rows = [], []
    for method, published in PRESETS.items():
        preset = "small/32" if rehearsed else published
        batch = 4 if rehearsed else {"dino": 128, "msn": 128, "mae": 512}[method]
        for compiled in (False,) if rehearsed else (False, True):
            speed, flops = _speed(method, preset, batch, sizes, compiled)
            share = speed * flops / peak
            rows.append(
                {
                    "method": method,
                    "preset": preset,
                    "batch": batch,
                    "compiled": compiled,
                    "images_per_second": rounded(speed),
                    "flop_share": rounded(share),
                }
            )
        best = max(row["images_per_second"] for row in rows if row["method"] == method)
        claims.append(Claim(f"{method.upper()} {preset}, bf16, views on the device", "the clock", best, "images/s"))
        if method == "dino":
            claims.append(
                Claim(
                    "DINO ViT-S/16, share of the FLOP bound",
                    "large bf16 products",
                    max(r["flop_share"] for r in rows),
                    "x",
                    ">= 0.6",
                )
            )
    return Outcome(claims, rows, {"large_product_tflops": rounded(peak / 1e12)})


def _speed(method: str, preset: str, batch: int, sizes: Any, compiled: bool) -> tuple[float, float]:
    """Images per second of whole steps, and the floating-point operations that an image needs."""
    kind = find("methods", method)
    recipe = dataclasses.replace(kind.presets[preset], batch_size=batch, precision="bf16", epochs=2)
    torch.manual_seed(0)
    task = recipe.task().to(sizes.device).train()
    order = Order(64 * batch, batch, recipe.epochs, seed=0)
    run, never = Run(task, order, Execution(sizes.device, compile=compiled)), Stopping()
    images = torch.randint(
        0, 256, (batch, 3, _EDGE, _EDGE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    warm_up, measured = (1, 2) if sizes.device == "cpu" else (8, 30)
    for i in range(warm_up + measured):
        if i == warm_up:
            _wait(sizes.device)
            started = time.perf_counter()
        step = order.step(i)
        views = make_views(images, recipe.views, seed=0, epoch=0, rows=step.rows, device=sizes.device)
        run.step(step, step, views, never)
    _wait(sizes.device)
    return measured * batch / (time.perf_counter() - started), _flops(method, task)


def _flops(method: str, task: Any) -> float:
    """Operations of the trunks' products for one image.

    Forward once where nothing is learnt, three times (with backward) where it is.
    """
    recipe, a = task.recipe, task.recipe.architecture
    cells = [(view.size // a.patch) ** 2 for view in recipe.views for _ in range(view.count)]
    if method == "dino":
        return 3 * sum(_forward(a.width, a.depth, n + 1) for n in cells) + sum(
            _forward(a.width, a.depth, n + 1) for n in cells[:2]
        )
    if method == "msn":
        seen = [int(n * (1 - recipe.patch_drop)) if i < recipe.views[1].count else n for i, n in enumerate(cells[1:])]
        return 3 * sum(_forward(a.width, a.depth, n + 1) for n in seen) + _forward(a.width, a.depth, cells[0] + 1)
    kept = int(cells[0] * (1 - recipe.mask_ratio))
    return 3 * (
        _forward(a.width, a.depth, kept + 1) + _forward(recipe.decoder_width, recipe.decoder_depth, cells[0] + 1)
    )


def _forward(width: int, depth: int, tokens: int) -> float:
    return 2.0 * depth * tokens * (12 * width**2 + 2 * tokens * width)


def _product_speed(device: str, edge: int) -> float:
    """Operations per second of a large square bf16 product."""
    a, b = (torch.randn(edge, edge, device=device, dtype=torch.bfloat16) for _ in range(2))
    a @ b
    _wait(device)
    started = time.perf_counter()
    for _ in range(20):
        a @ b
    _wait(device)
    return 20 * 2.0 * edge**3 / (time.perf_counter() - started)


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
