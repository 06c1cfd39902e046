"""The ViT while it is trained.

Patches may be left out, crops of several sizes go through together, branches are dropped per image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..backbones import Architecture
from ..checkpoints.filling import fill
from ..models.vit import VisionTransformer
from ..training.recipe import Step
from ..views.draws import uniforms


class Trunk(VisionTransformer):
    """A ViT with the parameters and positions of `VisionTransformer`.

    A branch of the deepest block is dropped with probability `drop_path`.
    """

    def __init__(self, architecture: Architecture, drop_path: float = 0.0):
        super().__init__(architecture)
        self.drop_rates = np.linspace(0, drop_path, architecture.depth)  # by block, as DINO has them
        # whether backward computes each block again rather than keep its inside: half the memory, a third more time
        self.recompute = False
        if drop_path:
            for block in self.blocks:
                block.drop_path1, block.drop_path2 = _Branch(), _Branch()

    def encode(self, images: Tensor, keep: Tensor | None = None, scales: Tensor | None = None) -> Tensor:
        """Tokens (B, 1+R+K, D) of images (B, 3, H, W) after the last block, before the final norm.

        `keep` (K,) or (B, K) are the numbers of the patches that go in, for all images or for each; positions are added
        before, and class token and registers always stay; all patches of rotary positions do. `scales` (B, 2L) is from
        `draw_scales`.
        """
        tokens = self.embed(images)
        if keep is not None:
            tokens = torch.cat([tokens[:, : self.prefix], _chosen(tokens[:, self.prefix :], keep)], dim=1)
        return self.through(tokens, scales, turn=self.turn(*images.shape[-2:]))

    def through(
        self, tokens: Tensor, scales: Tensor | None = None, first: int = 0, *, turn: tuple[Tensor, ...] = ()
    ) -> Tensor:
        """Tokens (B, T, D) after the last block, of those that go into block number `first`.

        `turn` is `VisionTransformer.turn` of the images that they are of.
        """
        for i, block in enumerate(self.blocks[first:], first):
            own = None if scales is None else scales[:, 2 * i : 2 * i + 2]
            if self.recompute and torch.is_grad_enabled():
                tokens = checkpoint(_through, block, tokens, own, turn, use_reentrant=False)
            else:
                tokens = _through(block, tokens, own, turn)
        return tokens

    def class_token(self, images: Tensor, keep: Tensor | None = None, scales: Tensor | None = None) -> Tensor:
        """Class tokens (B, D) after the final norm."""
        return self.norm(self.encode(images, keep, scales)[:, 0])

    def crops(self, images: Sequence[Tensor], scales: Sequence[Tensor] | None = None) -> Tensor:
        """Class tokens (sum of all B, D) after the final norm, crop by crop as given.

        Neighbours of one size go through as one batch.
        """
        found, start = [], 0
        for _, same in groupby(images, key=lambda crop: crop.shape[-2:]):
            end = start + len(list(same))
            own = None if scales is None else torch.cat(list(scales[start:end]))
            found.append(self.class_token(torch.cat(list(images[start:end])), scales=own))
            start = end
        return torch.cat(found)

    def draw_scales(self, step: Step, crops: int, device: torch.device) -> list[Tensor] | None:
        """For each crop the factors (B, 2L) of the images' branches, 0 or 1 / (1 - rate).

        Functions of (seed, epoch, row, crop).
        """
        if not self.drop_rates.any():
            return None
        share = 1 - self.drop_rates.repeat(2)  # two branches per block
        found = []
        for crop in range(crops):
            kept = uniforms(step.seed, step.epoch, step.rows, f"drop path {crop}", len(share)) < share
            found.append(torch.from_numpy((kept / share).astype(np.float32)).to(device, non_blocking=True))
        return found

    def start_from(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a released trunk, every tensor of it. Raises CheckpointError when it is of another architecture."""
        fill(self, dict(tensors), "the weights to start from")


class _Branch(nn.Module):
    """A residual branch (B, T, D) times each image's own factor (B,), which is set before its block runs."""

    factor: Tensor | None = None

    def forward(self, branch: Tensor) -> Tensor:
        return branch if self.factor is None else branch * self.factor[:, None, None].to(branch.dtype)


def _through(block: Any, tokens: Tensor, scales: Tensor | None, turn: tuple[Tensor, ...]) -> Tensor:
    """Tokens after a block; when it is computed again for backward, its branches have the same scales (B, 2) again."""
    if scales is not None:
        block.drop_path1.factor, block.drop_path2.factor = scales[:, 0], scales[:, 1]
    tokens = block(tokens, *turn)
    if scales is not None:
        block.drop_path1.factor = block.drop_path2.factor = None
    return tokens


def _chosen(patches: Tensor, keep: Tensor) -> Tensor:
    """The patches (B, K, D) that `keep` (K,) or (B, K) names."""
    if keep.ndim == 1:
        return patches[:, keep]
    return patches.gather(1, keep[:, :, None].expand(-1, -1, patches.shape[-1]))


def start_linears(module: nn.Module, std: float = 0.02) -> None:
    """Every linear layer of `module` drawn from a normal with this deviation, its bias zero.

    From torch's own generator.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
