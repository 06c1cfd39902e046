"""Small images and a small backbone file, made from seeds."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from fewvit.backbones import Architecture

TINY = Architecture(width=64, depth=2, heads=1, patch=16, grid=14)


def jpeg(seed: int, size: tuple[int, int] = (47, 61)) -> bytes:
    """A smooth colour image of (height, width) pixels that no other seed gives."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    file = io.BytesIO()
    small.resize((size[1], size[0]), Image.Resampling.BICUBIC).save(file, "JPEG", quality=93)
    return file.getvalue()


def folder_of(root: Path, counts: dict[str, int], first_seed: int = 0) -> Path:
    """Class folders with so many images each."""
    seed = first_seed
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (root / name / f"{i:03d}.jpg").write_bytes(jpeg(seed))
            seed += 1
    return root


def tiny_weights(path: Path, architecture: Architecture = TINY, seed: int = 5) -> Path:
    """The teacher of a DINO run with random weights, whose norms and positions are not trivial either."""
    import torch

    from fewvit.models.vit import VisionTransformer

    stream = torch.Generator().manual_seed(seed)
    state = {
        name: torch.randn(tensor.shape, generator=stream) * 0.1
        + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        for name, tensor in VisionTransformer(architecture).state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"teacher": state, "dino_loss": {}}, path)
    return path
