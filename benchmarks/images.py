"""JPEG files to measure on: real ImageNet files where they are, else synthetic ones of their size and weight."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from fewvit.preprocess import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from torch import Tensor

SHARED = Path(os.environ.get("FEWVIT_SHARED") or Path(__file__).parents[2] / "shared")
_ARCHIVE = SHARED / "data" / "imagenet18.zip"  # 242 full-size ImageNet files; not part of this repository
_TYPICAL = {(500, 375), (375, 500)}  # the commonest size in ImageNet, and close to its mean


def jpegs(count: int, *, typical: bool = False) -> tuple[list[bytes], str]:
    """At most `count` JPEG files as bytes and a phrase that says what they are.

    `typical`: only those of 500 x 375 pixels.
    """
    if _ARCHIVE.exists():
        files, kind = _real(count, typical), "ImageNet files"
    else:
        files, kind = [synthetic_jpeg(i) for i in range(count)], "synthetic JPEGs"
    size = " of 500 x 375 pixels" if typical or not _ARCHIVE.exists() else ""
    return files, f"{len(files)} {kind}{size}, {sum(map(len, files)) / len(files) / 1000:.0f} kB on average"


def as_input(pixels: np.ndarray, device: str = "cpu") -> Tensor:
    """The model's input (B, 3, H, W) float32 of uint8 pixels (B, H, W, 3), normalised on the device."""
    import torch

    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(std).contiguous()


def _real(count: int, typical: bool) -> list[bytes]:
    files = []
    with zipfile.ZipFile(_ARCHIVE) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".JPEG") and len(files) < count:
                data = archive.read(name)
                if not typical or Image.open(io.BytesIO(data)).size in _TYPICAL:
                    files.append(data)
    return files


def reencoded(data: bytes, quality: int) -> bytes:
    """The same image as a JPEG of another quality, 4:2:0."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(buffer, "JPEG", quality=quality, subsampling=2)
    return buffer.getvalue()


def numbered(data: bytes, number: int) -> bytes:
    """The same JPEG with a comment of its own: other bytes, other digest, equal pixels."""
    return data[:2] + b"\xff\xfe\x00\x0a" + number.to_bytes(8, "big") + data[2:]


def synthetic_jpeg(seed: int, width: int = 500, height: int = 375, grain: float = 9.0) -> bytes:
    """An image of noise at many scales, quality 90, 4:2:0; 500 x 375 pixels weigh about as much as in ImageNet."""
    random = np.random.default_rng(seed)
    image = np.full((height, width, 3), 128.0)
    for octave in range(2, 8):  # amplitude falls with frequency, as in photographs
        cells = random.normal(size=(2**octave, 2**octave, 3)) * 160 / 2**octave * 2
        smooth = [
            np.asarray(
                Image.fromarray(cells[:, :, c].astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
            )
            for c in range(3)
        ]
        image += np.stack(smooth, axis=2)
    image += random.normal(size=(height, width, 1)) * grain
    buffer = io.BytesIO()
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90, subsampling=2)
    return buffer.getvalue()
