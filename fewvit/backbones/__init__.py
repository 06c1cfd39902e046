"""Backbone families: one file each, holding a table of variants and the layout of its weight files. No torch at import.

A family is what shares a file layout. Its class says how such a file is recognised, which tensors are the trunk and under
which names they go into `fewvit.models.vit.VisionTransformer` (DINO's names, which timm shares). Adding a family is adding a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from .. import plugins
from ..errors import UnknownName, UsageError

NON_COMMERCIAL = "CC-BY-NC-4.0"
BUNDLED = Path(__file__).parent.parent / "weights"  # files that come with the package
OFFLINE = "fewvit_tiny"  # the variant whose file is among them


@dataclass(frozen=True)
class Architecture:
    """Everything that decides which module is built."""

    width: int  # D, channels of a token
    depth: int  # L, transformer blocks
    heads: int
    patch: int  # P, pixels
    grid: int = 14  # patch tokens per side in the file's position table
    positions: str = "dino"  # how the table is resized: dino, msn, mae, antialias; or timm
    registers: int = 0
    feed_forward: str = "mlp"  # or swiglu
    hidden: int = 0  # channels inside the feed-forward layer; 0 means 4 D
    layer_scale: bool = False
    final_norm: str = "norm"  # or fc_norm: a norm over the mean patch token alone (MAE after fine-tuning)
    timm: str = ""  # build this model of timm instead

    def check_size(self, height: int, width: int) -> None:
        """Raise UsageError when an input of this many pixels does not fit the family's rule, naming the nearest sizes that do."""
        if self.timm:
            return
        for pixels in (height, width):
            if pixels % self.patch or pixels < self.patch:
                low = max(pixels // self.patch, 1) * self.patch
                raise UsageError(
                    f"an image size of {pixels} is not a multiple of the patch size {self.patch}; the nearest are {low} and {low + self.patch}"
                )
        rows, columns = height // self.patch, width // self.patch
        if self.positions == "mae" and rows != columns:
            raise UsageError(
                f"MAE's position rule covers square images only, not {height}x{width}", fix=f"Use --img-size {min(height, width)}."
            )
        if self.positions == "msn" and rows != columns and rows * columns != self.grid**2:
            raise UsageError(
                f"MSN's position rule resizes with one square factor and has none for {height}x{width}",
                fix=f"Use --img-size {min(height, width)}.",
            )


@dataclass(frozen=True)
class Variant:
    """One row of a family's table: a published checkpoint."""

    architecture: Architecture
    url: str = ""  # empty: the architecture has no published weights
    sha256: str = ""  # empty: unknown, the first download's digest is pinned
    md5_prefix: str = ""  # as published beside the file
    published: Mapping[str, Any] = field(default_factory=dict)  # the paper's or repository's numbers, percent
    note: str = ""
    preprocess: Mapping[str, Any] = field(default_factory=dict)  # where it differs from the protocol's
    license: str = ""  # empty: the family's
    bundled: str = ""  # name of its weights in the package's folder `weights`; empty: they come from `url`

    @property
    def file_name(self) -> str:
        return self.bundled or self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Trunk:
    """What a weights file gives: the trunk under the module's names, and what was left aside."""

    tensors: dict[str, Any]  # name in the module -> torch.Tensor
    mapping: dict[str, str]  # name in the module -> name in the file
    dropped: list[str]  # names in the file that are no part of the trunk (heads, decoder, optimizer)


class Family(Protocol):
    """What a file in this folder offers: one public class with these attributes and static methods."""

    license: ClassVar[str]
    source: ClassVar[str]  # the official repository
    protocol: ClassVar[str]  # preset that a bare file of this family takes
    variants: ClassVar[Mapping[str, Variant]]
    checkpoint_keys: ClassVar[tuple[str, ...]]  # networks a file may hold, the default first; empty: just one

    @staticmethod
    def recognises(tree: Mapping[str, Any]) -> bool:
        """Whether a file that was read to `tree` has this family's layout; at most one family says yes."""

    @staticmethod
    def trunk(tree: Mapping[str, Any], checkpoint_key: str | None) -> Trunk:
        """The trunk's tensors. Raises CheckpointError-worthy KeyError when the asked network is not there."""

    @staticmethod
    def infer(tensors: Mapping[str, Any]) -> Architecture:
        """The architecture that the trunk's shapes spell."""


def families() -> dict[str, Any]:
    """Every family's class by name, in the order of names."""
    return {name: plugins.find("backbones", name) for name in plugins.names("backbones")}


def variants() -> dict[str, str]:
    """Every named variant and the family it belongs to."""
    return {variant: name for name, family in families().items() for variant in family.variants}


def find_variant(name: str) -> tuple[str, Variant]:
    """(family name, variant) of a table row; raises UnknownName with the nearest names."""
    table = variants()
    if name not in table:
        raise UnknownName("backbone", name, table, fix="See `fewvit backbones list`; a file, `timm:NAME` and `hf:ORG/NAME` also do.")
    return table[name], families()[table[name]].variants[name]
