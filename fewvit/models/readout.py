"""Which of a backbone's blocks and tokens become its feature vector. No torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UsageError, counted

if TYPE_CHECKING:
    from torch import Tensor

GEM_POWER, GEM_FLOOR = 4, 1e-6  # of the generalised mean that DINO finds copies with
BOTH = "cls,mean"  # the class token of each block, then the mean patch token of each: for rows of their own
_PARTS = {"cls+mean": 1, "cls+gem": 1}  # pools that have a vector more than blocks


@dataclass(frozen=True)
class Readout:
    """Which tokens become the feature vector."""

    pool: str = "cls"  # cls, cls2 (the second class token), mean, gem, cls+mean, cls+gem, cls+dist, attn; or `BOTH`
    layers: int = 1  # class tokens (or patch means) of the last N blocks, oldest first
    # final norm over class tokens, or none (MSN), while patch means are taken after the final norm; or fresh: a patch
    # mean of the raw tokens under a norm that has learnt nothing (MAE's linear probe of patch means); or raw: class
    # tokens and patch means of the tokens as the blocks give them (iBOT's `--avgpool_patchtokens 1`)
    norm: str = "final"
    blocks: tuple[int, ...] = ()  # these alone, from 1 and ascending, in place of the last N; `layers` counts them

    @property
    def uses_norm(self) -> bool:
        """Whether anything is read after the model's final norm."""
        return self.norm != "raw" and (self.pool not in ("cls", "cls2") or self.norm != "none")

    def width(self, channels: int) -> int:
        """Length of the feature vector of a model `channels` wide."""
        if self.pool in ("cls+dist", BOTH):
            return 2 * channels * self.layers
        return channels * (self.layers + _PARTS.get(self.pool, 0))

    def places(self, depth: int) -> tuple[int, ...]:
        """The blocks that are read, from 0, oldest first, of a model that has `depth`."""
        return tuple(block - 1 for block in self.blocks) or tuple(range(depth - self.layers, depth))


@dataclass(frozen=True)
class Layers:
    """What `--layers` asks for."""

    count: int
    each: bool = False  # each a row of its own
    blocks: tuple[int, ...] = ()  # as in `Readout`; empty: the last `count`

    @property
    def text(self) -> str:
        """The request that gives it again, but for `each`."""
        return ",".join(f"block{block}" for block in self.blocks) or str(self.count)

    @staticmethod
    def of(asked: str, depth: int, name: str) -> Layers:
        """Of `N`, `lastN`, `block6` or `block6,block12`, or `each`; blocks that are the last N are the last N.

        Raises UsageError, naming the depth of the backbone called `name`.
        """
        if asked == "each":
            return Layers(depth, each=True)
        words = asked.split(",")
        numbered = [re.fullmatch(r"block(\d+)", word.strip(), re.ASCII) for word in words]
        last = re.fullmatch(r"(?:last)?(\d+)", asked, re.ASCII)
        found = [int(one[1]) for one in numbered if one is not None]
        wrong = len(found) < len(words) and last is None
        if wrong or not all(1 <= number <= depth for number in ([int(last[1])] if last else found)):
            raise UsageError(
                f"--layers {asked!r}: {name} has {counted(depth, 'block')}, so give 1 to {depth} for the last ones, "
                f"`block1` to `block{depth}` for one alone (several with commas), or `each`"
            )
        if last is not None:
            return Layers(int(last[1]))
        if len(set(found)) < len(found):
            raise UsageError(f"--layers {asked!r} names a block twice", fix="Name each block once.")
        blocks = tuple(sorted(found))
        of_the_last = blocks == tuple(range(depth - len(blocks) + 1, depth + 1))
        return Layers(len(blocks), blocks=() if of_the_last else blocks)


def number_of_layers(asked: str | None, who: str = "a head") -> int | None:
    """How many of the last blocks are asked for; None where nothing is.

    Raises UsageError for `each` and for blocks by their numbers, which `who` does not read.
    """
    if asked is None:
        return None
    number = asked.removeprefix("last")
    if not (number.isascii() and number.isdecimal()):
        raise UsageError(
            f"--layers {asked} goes with knn and lowshot; {who} reads a number of blocks",
            fix="Give a number: the last N blocks are read.",
        )
    return int(number)


def generalised_mean(tokens: Tensor) -> Tensor:
    """(B, D): the fourth root of the mean fourth power of tokens (B, N, D), of which what is negative counts as 1e-6.

    Source: Radenovic et al. 2018; DINO's copy detection.
    """
    return tokens.clamp(min=GEM_FLOOR).pow(GEM_POWER).mean(dim=1).pow(1 / GEM_POWER)
