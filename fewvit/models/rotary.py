"""Rotary positions as DINOv3 has them: patches turn their queries and keys by where they stand, other tokens do not.

Source: facebookresearch/dinov3, with coordinates normalised separately for each side.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BASE = 100.0  # of the periods

Turn = tuple[Tensor, Tensor]  # cosines and sines (T, d) of all tokens, d the head's width; tokens before patches: 1, 0


class RotaryPositions(nn.Module):
    """The periods (d / 4,) of heads d wide, where a patch stands at -1 to 1 of rows and of columns.

    They are a file's own, as they are, or `computed` in float32, and then in no file.
    """

    periods: Tensor

    def __init__(self, head: int, *, computed: bool = False):
        super().__init__()
        periods = BASE ** (torch.arange(head // 4, dtype=torch.float32) / (head / 4))
        self.register_buffer("periods", periods, persistent=not computed)

    def angles(self, rows: int, columns: int) -> Tensor:
        """Angles (N, d) float32 of rows x columns patches by the centres of their cells; the row comes first."""
        y, x = ((torch.arange(n, device=self.periods.device).float() + 0.5) / n * 2 - 1 for n in (rows, columns))
        places = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).flatten(0, 1)  # (N, 2)
        return (2 * math.pi * places[:, :, None] / self.periods.float()).flatten(1).tile(2)

    def turn(self, rows: int, columns: int, prefix: int) -> Turn:
        """Cosines and sines (prefix + N, d) of rows x columns patches after `prefix` tokens that do not turn."""
        angles = F.pad(self.angles(rows, columns), (0, 0, prefix, 0))
        return angles.cos(), angles.sin()


def turned(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Queries or keys (B, heads, T, d), halves of each head turned against each other."""
    first, second = x.chunk(2, dim=-1)
    return (x * cosines + torch.cat([-second, first], dim=-1) * sines).to(x.dtype)  # in float32 also under autocast


class RotaryBlock(nn.Module):
    """The parts of one of timm's pre-norm blocks; it takes the cosines and sines of `RotaryPositions.turn` too."""

    norm1: Any
    attn: Any
    ls1: Any
    drop_path1: Any
    norm2: Any
    mlp: Any
    ls2: Any
    drop_path2: Any

    def __init__(self, block: nn.Module):
        super().__init__()
        for name, part in block.named_children():
            self.add_module(name, part)

    def queries_keys_values(self, x: Tensor, cosines: Tensor, sines: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each (B, heads, T, d) of normed tokens (B, T, D); queries and keys are turned."""
        b, t, d = x.shape
        attn = self.attn
        q, k, v = attn.qkv(x).reshape(b, t, 3, attn.num_heads, d // attn.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
        return turned(q, cosines, sines), turned(k, cosines, sines), v

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """The tokens (B, T, D) after the block."""
        q, k, v = self.queries_keys_values(self.norm1(x), cosines, sines)
        attended = self._attended(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.drop_path1(self.ls1(self.attn.proj(attended)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))

    def _attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, heads, T, d); in plain operations where `fused_attn` is off, as in timm's own blocks."""
        if self.attn.fused_attn:
            return F.scaled_dot_product_attention(q, k, v)
        return (q * self.attn.scale @ k.transpose(-2, -1)).softmax(dim=-1) @ v
