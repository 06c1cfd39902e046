"""The ViT under each family's own token assembly, positions and norms; and what is read out of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones import COMPUTED, Architecture
from .positions import resize_positions
from .readout import BOTH, Readout, generalised_mean
from .rotary import RotaryBlock, RotaryPositions

Keep = Callable[[Tensor], Tensor]  # what is held of a block's attention (B, heads, Q, T)
EPS = 1e-6  # of the norms of most official models; 1e-5 moves DINO's features by 4e-2


class VisionTransformer(nn.Module):
    """A pre-norm ViT whose parameters have the names of DINO's files (and DINOv2's `register_tokens`, `ls1`, `ls2`)."""

    patch_embed: Any
    norm: Any  # or fc_norm, never both
    fc_norm: Any

    def __init__(self, architecture: Architecture):
        super().__init__()
        from timm.layers import Mlp, SwiGLUPacked
        from timm.models.vision_transformer import Block

        a = self.architecture = architecture
        hidden = a.hidden or 4 * a.width
        swiglu = a.feed_forward == "swiglu"
        self.cls_token = nn.Parameter(torch.zeros(1, 1, a.width))
        if a.is_rotary:
            self.rope_embed = RotaryPositions(a.width // a.heads, computed=a.positions == COMPUTED)
        else:
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + a.cells, a.width))
        if a.registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, a.registers, a.width))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, a.width, a.patch, a.patch)
        block: Any = partial(
            Block,
            a.width,
            a.heads,
            # SwiGLUPacked counts both halves; the small addend keeps int() from rounding 4096 down to 4095
            mlp_ratio=((2 * hidden if swiglu else hidden) + 1e-3) / a.width,
            qkv_bias=a.qkv_bias,
            init_values=1.0 if a.layer_scale else None,
            norm_layer=cast(type[nn.Module], partial(nn.LayerNorm, eps=a.eps)),  # timm calls what it is given
            mlp_layer=cast(type[nn.Module], SwiGLUPacked if swiglu else Mlp),
            act_layer=nn.SiLU if swiglu else nn.GELU,  # Block hands its own default, GELU, to SwiGLUPacked too
        )
        self.blocks = nn.ModuleList(RotaryBlock(block()) if a.is_rotary else block() for _ in range(a.depth))
        self.add_module(a.final_norm, nn.LayerNorm(a.width, eps=a.eps))
        # whether sizes must be multiples of the patch; else what is over at the right and below is left out, as in DINO
        self.whole_patches = True
        self.settled_positions: Tensor | None = None  # taken as they are; for a compiler whose bicubic is not torch's

    @property
    def prefix(self) -> int:
        """How many tokens stand before the patches: the class token and the registers."""
        return 1 + self.architecture.registers

    @property
    def prefix_kinds(self) -> tuple[str, ...]:
        """What the tokens before the patches are, in their order."""
        return ("class", *("register",) * self.architecture.registers)

    def positions(self, height: int, width: int) -> Tensor:
        """The position table (1, 1+N, D) for images of this many pixels; not of a model that has rotary positions.

        As DINO asks whether the pixels are a square, not the patches, 230x224 pixels of 14x14 patches are resized to.
        """
        a = self.architecture
        own = a.table[0] * a.patch, a.table[1] * a.patch
        square = height == width if isinstance(a.grid, int) else (height, width) == own
        return resize_positions(self.pos_embed, a, height // a.patch, width // a.patch, square=square)

    def embed(self, images: Tensor) -> Tensor:
        """Input tokens (B, 1+R+N, D) of images (B, 3, H, W): class token, registers (without position), patches."""
        a = self.architecture
        height, width = images.shape[-2:]
        if self.whole_patches:
            a.check_size(height, width)
        patches = self.patch_embed.proj(images).flatten(2).transpose(1, 2)  # (B, N, D)
        tokens = torch.cat([self.cls_token.expand(images.shape[0], -1, -1), patches], dim=1)
        if not a.is_rotary:
            table = self.positions(height, width) if self.settled_positions is None else self.settled_positions
            tokens = tokens + table.to(patches.dtype)
        if not a.registers:
            return tokens
        registers = self.register_tokens.expand(images.shape[0], -1, -1)
        return torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1)

    def turn(self, height: int, width: int) -> tuple[Tensor, ...]:
        """What each block takes beside the tokens of images of this many pixels.

        The cosines and sines (T, d) of rotary positions, or nothing.
        """
        a = self.architecture
        return self.rope_embed.turn(height // a.patch, width // a.patch, self.prefix) if a.is_rotary else ()

    def last_blocks(self, images: Tensor, n: int = 1) -> list[Tensor]:
        """Outputs (B, T, D) of the last `n` blocks before any norm, oldest first."""
        return self.outputs(images, range(len(self.blocks) - n, len(self.blocks)))

    def outputs(self, images: Tensor, places: Sequence[int]) -> list[Tensor]:
        """Outputs (B, T, D) of the blocks at `places`, from 0 and ascending, before any norm; none after them runs."""
        tokens, turn, kept = self.embed(images), self.turn(*images.shape[-2:]), []
        for i, block in enumerate(self.blocks[: max(places) + 1]):
            tokens = block(tokens, *turn)
            if i in places:
                kept.append(tokens)
        return kept

    def final_norm(self, tokens: Tensor) -> Tensor:
        """Tokens after the model's last norm; a fine-tuned MAE has none for tokens."""
        if self.architecture.final_norm == "fc_norm":
            return tokens
        return self.norm(tokens)

    def patch_mean(self, tokens: Tensor) -> Tensor:
        """Mean patch token (B, D): after the final norm, but before `fc_norm` (MAE fine-tuning averages first)."""
        if self.architecture.final_norm == "fc_norm":
            return self.fc_norm(tokens[:, self.prefix :].mean(dim=1))
        return self.norm(tokens[:, self.prefix :]).mean(dim=1)

    def read(self, images: Tensor, readout: Readout) -> Tensor:
        """Feature vectors (B, D') of images (B, 3, H, W)."""
        return self.gathered(self.outputs(images, readout.places(len(self.blocks))), readout)

    def gathered(self, kept: list[Tensor], readout: Readout) -> Tensor:
        """Feature vectors (B, D') of what `outputs` gave."""
        if readout.pool == "mean" and readout.norm in ("fresh", "raw"):
            means = [tokens[:, self.prefix :].mean(dim=1) for tokens in kept]
            if readout.norm == "fresh":
                means = [F.layer_norm(mean, mean.shape[-1:], eps=EPS) for mean in means]
            return torch.cat(means, dim=-1)
        if readout.pool == "mean":
            return torch.cat([self.patch_mean(tokens) for tokens in kept], dim=-1)
        if readout.pool == "gem":
            return torch.cat([generalised_mean(self.final_norm(tokens[:, self.prefix :])) for tokens in kept], dim=-1)
        at = slice(1, 2) if readout.pool == "cls2" else slice(0, 1)
        classes = [tokens[:, at] for tokens in kept]
        if readout.norm not in ("none", "raw"):
            classes = [self.final_norm(tokens) for tokens in classes]
        classes = [tokens[:, 0] for tokens in classes]
        if readout.pool == BOTH:
            classes += [self.patch_mean(tokens) for tokens in kept]
        if readout.pool == "cls+mean":
            classes.append(self.patch_mean(kept[-1]))
        if readout.pool == "cls+gem":
            classes.append(generalised_mean(self.final_norm(kept[-1][:, self.prefix :])))
        return torch.cat(classes, dim=-1)

    def attend(
        self, images: Tensor, blocks: Sequence[int], keep: Keep = torch.clone, queries: slice = slice(None)
    ) -> list[Tensor]:
        """What `keep` makes of the softmax attention (B, heads, Q, T) of each of `blocks`, from 0 and ascending.

        One pass, which ends in the last of them and holds no more than one block's attention: that of the `queries`.
        """
        tokens, turn, kept = self.embed(images), self.turn(*images.shape[-2:]), []
        for i, block in enumerate(self.blocks):
            if i in blocks:
                kept.append(keep(self._attention_of(block, tokens, queries, turn)))
            if i == max(blocks):
                break
            tokens = block(tokens, *turn)
        return kept

    def _attention_of(self, block: Any, tokens: Tensor, queries: slice, turn: Sequence[Tensor]) -> Tensor:
        b, t, d = tokens.shape
        heads = self.architecture.heads
        if turn:
            q, k, _ = block.queries_keys_values(block.norm1(tokens), *turn)
        else:
            q, k, _ = block.attn.qkv(block.norm1(tokens)).reshape(b, t, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        return ((q[:, :, queries] @ k.transpose(-2, -1)) * (d // heads) ** -0.5).softmax(dim=-1)
