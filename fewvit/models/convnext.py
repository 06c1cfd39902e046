"""DINOv3's ConvNeXt: four stages of depthwise convolutions, read as if its map were a ViT's patches.

Source: Liu et al. 2022; the class token and the norm are those of facebookresearch/dinov3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones import Architecture
from ..errors import UsageError
from .readout import Readout, generalised_mean
from .vit import EPS, Keep


class ConvNeXt(nn.Module):
    """A ConvNeXt whose parameters have the names of DINOv3's files.

    A token is a cell of a stage's map; before them stands the mean of the map, which the last norm makes the class
    token. Stages before the last have no norm, as in the official code.
    """

    prefix = 1  # tokens before those of the map
    prefix_kinds = ("class",)

    def __init__(self, architecture: Architecture):
        super().__init__()
        a = self.architecture = architecture
        widths = [channels for _, channels in a.stages]
        self.downsample_layers = nn.ModuleList(
            nn.Sequential(_MapNorm(before, eps=a.eps), nn.Conv2d(before, after, 2, 2))
            if before
            else nn.Sequential(nn.Conv2d(3, after, 4, 4), _MapNorm(after, eps=a.eps))
            for before, after in zip((0, *widths), widths, strict=False)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvNeXtBlock(channels, a.eps) for _ in range(blocks))) for blocks, channels in a.stages
        )
        self.norm = nn.LayerNorm(a.width, eps=a.eps)
        # whether sizes must be multiples of 32; else what is over at the right and below is left out
        self.whole_patches = True

    def last_blocks(self, images: Tensor, n: int = 1) -> list[Tensor]:
        """Outputs (B, 1+N, D) of the last `n` stages before any norm, oldest first; N and D are each stage's own.

        The mean of the map comes first. Images are (B, 3, H, W).
        """
        if self.whole_patches:
            self.architecture.check_size(*images.shape[-2:])
        x, kept = images, []
        for i, (downsample, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            x = stage(downsample(x))
            if i >= len(self.stages) - n:
                cells = x.flatten(2).transpose(1, 2)  # (B, N, D)
                kept.append(torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1))
        return kept

    def final_norm(self, tokens: Tensor) -> Tensor:
        """Tokens of the last stage after the norm; those of the others as they are."""
        return self.norm(tokens) if tokens.shape[-1] == self.architecture.width else tokens

    def read(self, images: Tensor, readout: Readout) -> Tensor:
        """Feature vectors (B, D') of images (B, 3, H, W)."""
        [raw] = self.last_blocks(images)
        tokens = self.final_norm(raw)
        first = (raw if readout.norm == "none" else tokens)[:, 0]
        match readout.pool:
            case "mean" if readout.norm == "fresh":
                return F.layer_norm(raw[:, 0], raw.shape[-1:], eps=EPS)
            case "mean":
                return tokens[:, 1:].mean(dim=1)
            case "cls+mean":
                return torch.cat([first, tokens[:, 1:].mean(dim=1)], dim=-1)
            case "gem":
                return generalised_mean(tokens[:, 1:])
            case "cls+gem":
                return torch.cat([first, generalised_mean(tokens[:, 1:])], dim=-1)
            case "cls":
                return first
        raise UsageError(
            f"--pool {readout.pool} is not defined for a ConvNeXt", fix="Use cls, mean, gem, cls+mean or cls+gem."
        )

    def attend(
        self, images: Tensor, blocks: Sequence[int], keep: Keep = torch.clone, queries: slice = slice(None)
    ) -> list[Tensor]:
        """Nothing: raises UsageError, since convolutions do not attend."""
        raise UsageError("a ConvNeXt has convolutions, which do not attend", fix="Use a ViT.")


class ConvNeXtBlock(nn.Module):
    """A depthwise 7x7 convolution, a norm and two layers over each cell's channels, beside a residual branch."""

    def __init__(self, channels: int, eps: float):
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=eps)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, D, H, W) after the block."""
        cells: Any = self.norm(self.dwconv(x).permute(0, 2, 3, 1))  # (B, H, W, D)
        return x + (self.gamma * self.pwconv2(F.gelu(self.pwconv1(cells)))).permute(0, 3, 1, 2)


class _MapNorm(nn.LayerNorm):
    """A norm over the channels of maps (B, D, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
