"""What a model that timm builds has beside its patches, and how it makes one vector of them."""

from __future__ import annotations

from dataclasses import dataclass

HEADS = ("cls", "mean", "attn", "")  # by class token, by the mean patch token, by attention over all; empty: not known


@dataclass(frozen=True)
class Tokens:
    """Class tokens and registers, the pool of timm's own head, and the pool that the authors read it by.

    Source: the model as timm builds it; for `official` the authors' own evaluation.
    """

    classes: int = 1
    registers: int = 0
    head: str = "cls"  # one of HEADS
    official: str = ""  # where the authors read it otherwise than timm's head: cls or mean; empty: as timm's head does

    @property
    def pool(self) -> str:
        """What it is read by where nobody asks for anything else: `cls`, `mean` or `attn`."""
        return self.official or self.head or ("cls" if self.classes else "mean")


def by_name(model: str) -> Tokens:
    """What a model of timm is taken to have where only its name is known: that of a row without tokens."""
    if model.startswith(("swin", "convnext", "resnet")) or "_gap_" in model:
        return Tokens(0, 0, "mean")
    if model.startswith("vit_pe_core_"):
        return Tokens(0 if "_gigantic_" in model else 1, 0, "attn")
    if model.startswith("vit_") and ("_siglip_" in model or "_map_" in model):
        return Tokens(0, 0, "attn")
    return Tokens(1, 0, "mean" if model.startswith("beit") else "cls")
