"""Which of a backbone's tokens become its feature vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

GEM_POWER, GEM_FLOOR = 4, 1e-6  # of the generalised mean that DINO finds copies with


@dataclass(frozen=True)
class Readout:
    """Which tokens become the feature vector."""

    pool: str = "cls"  # cls, cls2 (the second class token), mean, cls+mean, cls+gem, cls+dist
    layers: int = 1  # class tokens (or patch means) of the last N blocks, oldest first
    # final norm over class tokens, or none (MSN), while patch means are taken after the final norm; or fresh: a patch
    # mean of the raw tokens under a norm that has learnt nothing (MAE's linear probe of patch means); or raw: class
    # tokens and patch means of the tokens as the blocks give them (iBOT's `--avgpool_patchtokens 1`)
    norm: str = "final"

    @property
    def uses_norm(self) -> bool:
        """Whether anything is read after the model's final norm."""
        return self.norm != "raw" and (self.pool not in ("cls", "cls2") or self.norm != "none")

    def width(self, channels: int) -> int:
        """Length of the feature vector of a model `channels` wide."""
        extra = {"cls": 0, "cls2": 0, "mean": 0, "cls+mean": 1, "cls+gem": 1, "cls+dist": self.layers}[self.pool]
        return channels * (self.layers + extra)


def generalised_mean(tokens: Tensor) -> Tensor:
    """(B, D): the fourth root of the mean fourth power of tokens (B, N, D), of which what is negative counts as 1e-6.

    Source: Radenovic et al. 2018; DINO's copy detection.
    """
    return tokens.clamp(min=GEM_FLOOR).pow(GEM_POWER).mean(dim=1).pow(1 / GEM_POWER)
