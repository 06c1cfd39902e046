"""Decode, resize, crop on one core: DINO's PIL transform, torchvision v2, simplejpeg with torch, and ours.

`pixels`: from the bytes of a file to uint8 pixels (224, 224, 3), on every side; the files as they are, and written
again at quality 90, because the gain depends on their weight: Huffman decoding takes the same time on every side.
`batch`: on to the model's input, 32 images normalised in float32, where ours leaves the normalisation to the whole
batch as fewvit.extraction.extract does.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from fewvit.images import decode
from fewvit.preprocess import Preprocess

from . import official
from .images import as_input, jpegs, reencoded
from .measure import Claim, Outcome, main, round_robin

WHAT = "JPEG bytes to 224 x 224 pixels on one core: decode, resize 256 bicubic, centre crop"
DINO = "DINO: PIL + torchvision transforms"
V2 = "torchvision: decode_jpeg + v2"
SIMPLE = "simplejpeg + torch resize"
FAST, EXACT = "fewvit --decode fast", "fewvit --decode pil"

_resize = v2.Compose([v2.Resize(256, v2.InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(224)])
_to_input = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(official.MEAN, official.STD)])
_preprocess = Preprocess()


def dino(data: bytes) -> np.ndarray:
    return np.asarray(official.pil_pixels(data))


def torchvision_v2(data: bytes) -> Tensor:
    """(3, 224, 224) uint8"""
    buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return _resize(
        torch.ops.image.decode_jpeg(buffer, 3, False)
    )  # what torchvision.io.decode_jpeg calls; that one warns of its end


def simplejpeg_torch(data: bytes) -> Tensor:
    """(3, 224, 224) uint8"""
    pixels = simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False)
    height, width = pixels.shape[:2]
    size = (256, 256 * width // height) if height <= width else (256 * height // width, 256)
    image = F.interpolate(torch.from_numpy(pixels)[None].permute(0, 3, 1, 2), size, mode="bicubic", antialias=True)[0]
    top, left = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    return image[:, top : top + 224, left : left + 224].contiguous()


def fast(data: bytes) -> np.ndarray:
    return decode(data, _preprocess)[0]


def exact(data: bytes) -> np.ndarray:
    return decode(data, _preprocess, "pil")[0]


def _as_array(pixels: np.ndarray | Tensor) -> np.ndarray:
    return pixels.permute(1, 2, 0).numpy() if isinstance(pixels, Tensor) else pixels


def measure(quick: bool) -> Outcome:
    torch.set_num_threads(1)
    rounds = 3 if quick else 15
    files, said = jpegs(8 if quick else 64, typical=True)
    light = [reencoded(data, quality=90) for data in files]
    decoders: dict[str, Callable] = {DINO: dino, V2: torchvision_v2, SIMPLE: simplejpeg_torch, FAST: fast, EXACT: exact}
    batchers: dict[str, Callable] = {
        DINO: lambda part: torch.stack([official.pil_tensor(data) for data in part]),
        V2: lambda part: torch.stack([_to_input(torchvision_v2(data)) for data in part]),
        SIMPLE: lambda part: torch.stack([_to_input(simplejpeg_torch(data)) for data in part]),
        FAST: lambda part: as_input(np.stack([fast(data) for data in part])),
        EXACT: lambda part: as_input(np.stack([exact(data) for data in part])),
    }
    as_they_are, smaller = round_robin(decoders, files, rounds), round_robin(decoders, light, rounds)
    batches = round_robin(batchers, [files[i : i + 32] for i in range(0, len(files), 32)], rounds)
    truth = [dino(data).astype(int) for data in files]
    errors = {
        name: np.array([np.abs(_as_array(f(data)) - pixels) for data, pixels in zip(files, truth, strict=True)])
        for name, f in decoders.items()
    }
    rows = []
    for scope, timing in (("pixels", as_they_are), ("pixels, quality 90", smaller), ("batch", batches)):
        for row in timing.rows(DINO, len(files), scope=scope):
            rows.append(
                {
                    **row,
                    "mean_error": round(float(errors[row["variant"]].mean()), 5),
                    "max_error": int(errors[row["variant"]].max()),
                }
            )
    weight = {"as they are": _kilobytes(files), "quality 90": _kilobytes(light)}
    claims = [
        Claim(
            f"Decode, resize, crop, one core, files of {weight['as they are']} kB",
            "DINO's PIL transform",
            as_they_are.ratio(FAST, DINO),
            "x",
            ">= 2.4",
        ),
        Claim(
            f"The same files at quality 90, {weight['quality 90']} kB",
            "DINO's PIL transform",
            smaller.ratio(FAST, DINO),
            "x",
            ">= 2.4",
        ),
        Claim("The files as they are", "torchvision v2", as_they_are.ratio(FAST, V2), "x", ">= 1"),
        Claim("The files as they are", "simplejpeg with torch's resize", as_they_are.ratio(FAST, SIMPLE), "x", ">= 1"),
        Claim("The files at quality 90", "simplejpeg with torch's resize", smaller.ratio(FAST, SIMPLE), "x", ">= 1"),
        Claim(
            "The files as they are, up to a normalised float32 batch",
            "DINO's PIL transform",
            batches.ratio(FAST, DINO),
            "x",
        ),
        Claim(
            "Mean difference from the official pixels", "grey levels of 255", float(errors[FAST].mean()), "", "<= 0.01"
        ),
        Claim("Largest difference of `--decode pil`", "the official pixels", float(errors[EXACT].max()), "", "<= 0"),
    ]
    facts = {
        "images": said,
        "kilobytes": weight,
        "threads": 1,
        "rounds": rounds,
        "errors": "absolute differences from DINO's pixels, grey levels of 255, files as they are",
    }
    return Outcome(claims, rows, facts)


def _kilobytes(files: list[bytes]) -> int:
    return round(sum(map(len, files)) / len(files) / 1000)


if __name__ == "__main__":
    main("decode", WHAT, measure)
