"""The forward pass of ViT-S/16 and B/16 on a CPU: official arithmetic, timm, OpenVINO, and ours in fp32 and bf16.

All variants hold the same random weights and see the same normalised images; features are normed class tokens. Errors
and cosines are against timm eager in fp32.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewvit.models.engines import choose_engine

from . import official
from .measure import Claim, Outcome, cores, main, round_robin, rounded

WHAT = "ViT forward pass on a CPU, images per second"
TIMM, DINO, TIMM_BF16 = "timm eager fp32", "DINO's plain attention fp32", "timm autocast bf16"
OV, OV_BF16 = "OpenVINO fp32", "OpenVINO bf16"
OURS, PACKED = "fewvit fp32", "fewvit fp32, packed layers"
OURS_BF16, PACKED_BF16 = "fewvit --precision bf16", "fewvit bf16, packed layers"
ROTARY, TABLE = "fewvit fp32, rotary positions", "the same trunk with a position table"
MODELS = {"dino_vits16": ("vit_small_patch16_224", 6), "dino_vitb16": ("vit_base_patch16_224", 12)}


def variants(name: str, batch: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Variant -> function from images (B, 3, 224, 224) to features (B, D), all with the weights of one random model."""
    import timm

    from fewvit import load_backbone

    timm_name, heads = MODELS[name]
    weights = load_backbone(name, weights="random", engine="eager", device="cpu").model.state_dict()
    model = timm.create_model(timm_name, num_classes=0).eval().requires_grad_(False)
    model.load_state_dict(weights)

    @torch.no_grad()
    def timm_bf16(images: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(images).float()

    def ours(**options: Any) -> Callable[[Tensor], Tensor]:
        return load_backbone(name, weights="random", device="cpu", **options).encode

    return {
        TIMM: torch.no_grad()(model),
        DINO: torch.no_grad()(lambda images: official.vit_forward(weights, images, heads)),
        OV: openvino_forward(model, batch, "f32"),
        OURS: ours(),
        PACKED: ours(engine="packed"),
        TIMM_BF16: timm_bf16,
        OV_BF16: openvino_forward(model, batch, "bf16"),
        PACKED_BF16: ours(precision="bf16", engine="packed"),
        OURS_BF16: ours(precision="bf16"),
    }


def openvino_forward(model: torch.nn.Module, batch: int, precision: str) -> Callable[[Tensor], Tensor]:
    """timm's model compiled by OpenVINO as its documentation shows, for one batch size and torch's threads."""
    import openvino

    shape = [batch, 3, 224, 224]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = openvino.convert_model(model, example_input=torch.zeros(shape), input=shape)
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = openvino.Core().compile_model(graph, "CPU", options)
    return lambda images: torch.from_numpy(compiled(images.numpy())[0])


def compare(name: str, batch: int, threads: int, rounds: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Rows of one setting, and the claims' numbers: ratios to timm eager, error and cosine of ours."""
    torch.set_num_threads(threads)
    forwards = variants(name, batch)
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(batch, 3, 224, 224)).astype(np.float32))
    features = {variant: forward(images).numpy().copy() for variant, forward in forwards.items()}
    timing = round_robin(forwards, [images], rounds)
    rows = []
    for row in timing.rows(TIMM, batch, model=name, batch=batch, threads=threads):
        found, truth = features[row["variant"]].astype(np.float64), features[TIMM].astype(np.float64)
        cosine = (found * truth).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(truth, axis=1)
        rows.append(
            {**row, "max_error": rounded(np.abs(found - truth).max()), "min_cosine": round(float(cosine.min()), 6)}
        )
    return rows, {OURS: timing.ratio(OURS, TIMM), OURS_BF16: timing.ratio(OURS_BF16, TIMM), OV: timing.ratio(OURS, OV)}


def rotary(size: int, batch: int, threads: int, rounds: int) -> tuple[list[dict[str, Any]], float]:
    """Rows of DINOv3's ViT-S/16 and of the same trunk with a position table, packed, and by how much the table wins."""
    from fewvit.backbones import find_variant
    from fewvit.models.backbone import Backbone, randomise
    from fewvit.models.engines import accelerate
    from fewvit.models.readout import Readout
    from fewvit.models.spec import BackboneSpec
    from fewvit.models.untrained import module_of

    torch.set_num_threads(threads)
    turning = find_variant("dinov3_vits16")[1].architecture
    standing = dataclasses.replace(turning, positions="dino", grid=size // turning.patch)
    forwards = {}
    for name, architecture in ((ROTARY, turning), (TABLE, standing)):
        model = module_of(architecture)
        randomise(model, 0)
        plain = Backbone(model, BackboneSpec(name, "dinov3", architecture, "dinov3/1", "random"), Readout())
        forwards[name] = accelerate(plain, (size, size), device="cpu", precision="fp32").encode
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(batch, 3, size, size)).astype(np.float32))
    timing = round_robin(forwards, [images], rounds)
    rows = timing.rows(TABLE, batch, model=f"dinov3_vits16 at {size} px", batch=batch, threads=threads)
    return list(rows), timing.ratio(TABLE, ROTARY)


def measure(quick: bool) -> Outcome:
    models = list(MODELS)[:1] if quick else list(MODELS)
    batches, threads = ((8,), (1,)) if quick else ((8, 32), (cores(),))
    rows, claims, worst = [], [], {}
    for name in models:
        ratios = []
        for batch in batches:
            for n in threads:
                found, ratio = compare(name, batch, n, rounds=3 if quick or batch > 8 else 5)
                rows += found
                ratios.append(ratio)
        size = "ViT-" + name.removeprefix("dino_vit").removesuffix("16").upper() + "/16"
        worst = {variant: min(ratio[variant] for ratio in ratios) for variant in ratios[0]}
        claims.append(
            Claim(
                f"{size} forward, fp32, the least of {len(ratios)} settings", "timm eager", worst[OURS], "x", ">= 2.0"
            )
        )
        claims.append(Claim(f"{size} forward, fp32, the least", "OpenVINO fp32", worst[OV], "x"))
        claims.append(Claim(f"{size} forward, bf16, the least", "timm eager fp32", worst[OURS_BF16], "x", ">= 4.0"))
    claims.append(
        Claim(
            "Largest difference of a feature, fp32",
            "timm eager",
            max(row["max_error"] for row in rows if row["variant"] == OURS),
            "",
            "<= 1e-5",
        )
    )
    claims.append(
        Claim(
            "Least cosine, bf16",
            "timm eager fp32",
            min(row["min_cosine"] for row in rows if row["variant"] == OURS_BF16),
            "",
            ">= 0.9999",
        )
    )
    for size in (224, 256):
        found, ratio = rotary(size, batches[0], threads[0], rounds=3 if quick else 7)
        rows += found
        claims.append(Claim(f"ViT-S/16 at {size} px, time with rotary positions", TABLE, ratio, "x", "<= 1.1"))
    chosen = {precision: choose_engine(precision, "cpu") for precision in ("fp32", "bf16")}
    return Outcome(
        claims,
        rows,
        {"weights": "random, normal with std 0.02", "batches": batches, "threads": threads, "engines_chosen": chosen},
    )


if __name__ == "__main__":
    main("forward", WHAT, measure)
