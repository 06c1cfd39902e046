"""The kernel that resizes, beside torch: every byte."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewvit.images import resizing
from fewvit.images.resizing import resized
from fewvit.kernels import library


def of_torch(pixels: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    image = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    made = torch.nn.functional.interpolate(image, size, mode=interpolation, antialias=True)
    return made.permute(0, 2, 3, 1)[0].numpy()


@pytest.mark.skipif(library("resize") is None, reason="the kernels in C were not built here")
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("seed", range(12))
def test_the_kernel_gives_torchs_bytes_of_any_size_and_window(interpolation, seed):
    random = np.random.default_rng(seed)
    for _ in range(8):
        height, width = random.integers(1, 300, 2)
        size = tuple(int(n) for n in random.integers(1, 200, 2))
        size = (int(height), size[1]) if seed % 4 == 1 else (size[0], int(width)) if seed % 4 == 2 else size
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        if seed % 3 == 0:
            pixels = (pixels > 127).astype(np.uint8) * 255  # sums that overshoot at both ends
        h, w = (int(random.integers(1, n + 1)) for n in size)
        top, left = int(random.integers(0, size[0] - h + 1)), int(random.integers(0, size[1] - w + 1))
        whole = of_torch(pixels, size, interpolation)
        np.testing.assert_array_equal(resized(pixels, size, interpolation), whole)
        np.testing.assert_array_equal(
            resized(pixels, size, interpolation, (top, left, h, w)), whole[top : top + h, left : left + w]
        )


def test_without_the_kernel_the_same_window_is_torchs(monkeypatch):
    pixels = np.random.default_rng(3).integers(0, 256, (97, 131, 3), dtype=np.uint8)
    window = (5, 9, 30, 40)
    made = resized(pixels, (64, 80), "bicubic", window)
    monkeypatch.setattr(resizing, "library", lambda name: None)
    np.testing.assert_array_equal(resized(pixels, (64, 80), "bicubic", window), made)
    np.testing.assert_array_equal(made, of_torch(pixels, (64, 80), "bicubic")[5:35, 9:49])
