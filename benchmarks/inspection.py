"""`fewvit.inspect` beside what a researcher runs otherwise: DINO's procedure for attention, scikit-learn's t-SNE.

Photographs at 480 pixels through a ViT-S/16 with random weights, and made-up features of 200 classes.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import fewvit
import fewvit.inspect
from fewvit.datasets import open_dataset
from fewvit.inspect.projection import project

from .images import as_input, jpegs
from .measure import Claim, Outcome, main, round_robin

WHAT = "fewvit inspect: figures of a ViT-S/16 and maps of features, all cores"
_SIDE, _PATCH, _HEADS = 480, 16, 6
OFFICIAL, OURS, WITH_PCA = "DINO's procedure, attention", "fewvit, attention", "fewvit, attention and PCA"
SKLEARN, MAP = "scikit-learn's TSNE as it comes", "fewvit, embed"


def official_attention(files: list[bytes], folder: Path) -> Any:
    """What DINO's script does, image by image: a 480 px square, six maps of the class token saved as PNG files."""
    import matplotlib.pyplot as plt
    import timm
    import torch
    from PIL import Image

    model = timm.create_model("vit_small_patch16_224", num_classes=0, img_size=_SIDE).eval()
    seen: list[torch.Tensor] = []
    last: Any = model.blocks[-1].attn
    last.fused_attn = False
    last.attn_drop.register_forward_hook(lambda module, given, found: seen.append(found))

    def draw(_: Any) -> None:
        for number, data in enumerate(files):
            image = Image.open(io.BytesIO(data)).convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
            with torch.inference_mode():
                seen.clear()
                model.forward_features(as_input(np.asarray(image)[None]))
            cells = _SIDE // _PATCH
            maps = seen[0][0, :, 0, 1:].reshape(1, _HEADS, cells, cells)
            large = torch.nn.functional.interpolate(maps, scale_factor=_PATCH, mode="nearest")[0].numpy()
            for head in range(_HEADS):
                plt.imsave(folder / f"{number}-{head}.png", large[head], format="png")

    return draw


def gaussian_classes(count: int, width: int = 384, classes: int = 200) -> np.ndarray:
    """Features (N, D) float32 of classes that overlap."""
    stream = np.random.default_rng(7)
    centres = stream.normal(size=(classes, width))
    return (centres[np.arange(count) % classes] + 1.5 * stream.normal(size=(count, width))).astype(np.float32)


def measure(quick: bool) -> Outcome:
    from sklearn.manifold import TSNE

    shown, far, points, rounds = (2, 8, 1_000, 1) if quick else (8, 128, 20_000, 2)
    files, kind = jpegs(far)
    backbone = fewvit.load_backbone("dino_vits16", weights="random", img_size=_SIDE)
    small = fewvit.load_backbone("dino_vits16", weights="random")
    features = gaussian_classes(points)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for number, data in enumerate(files):
            (folder / "images").mkdir(exist_ok=True)
            (folder / f"images/{number:03d}.jpg").write_bytes(data)
        images = open_dataset(str(folder / "images"))

        def attention(_: Any) -> None:
            fewvit.inspect.attention(backbone, images, sample=shown).save(folder / "heads.png")

        def both(_: Any) -> None:
            attention(None)
            fewvit.inspect.pca(backbone, images, sample=shown).save(folder / "pca.png")

        official = official_attention(files[:shown], folder)
        timing = round_robin({OFFICIAL: official, OURS: attention, WITH_PCA: both}, [None], rounds)
        far_of = {"distance": lambda _: fewvit.inspect.distance(small, images, sample=far)}
        distance = round_robin(far_of, [None], 1, warm_up=False)
    maps = {
        MAP: lambda _: project(features, "tsne"),
        SKLEARN: lambda _: TSNE(random_state=0, n_jobs=-1).fit_transform(features),
    }
    mapped = round_robin(maps, [None], 1, warm_up=False)
    claims = [
        Claim(f"attention of {shown} images at {_SIDE} px", OFFICIAL, timing.ratio(OURS, OFFICIAL), "x", ""),
        Claim(f"attention and PCA of {shown} images at {_SIDE} px", "", timing.median(WITH_PCA), "s", "<= 15"),
        Claim(f"attention distance over {far} images at 224 px", "", distance.median("distance"), "s", "<= 60"),
        Claim(f"map of {points:,} features by t-SNE", "", mapped.median(MAP), "s", "<= 60"),
        Claim(f"map of {points:,} features by t-SNE", SKLEARN, mapped.ratio(MAP, SKLEARN), "x", ""),
    ]
    return Outcome(claims, timing.rows(OFFICIAL) + mapped.rows(SKLEARN), {"images": kind})


if __name__ == "__main__":
    main("inspection", WHAT, measure)
