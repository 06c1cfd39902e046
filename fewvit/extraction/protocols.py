"""Every frozen preset by its name: those that the families bring, and those of pretraining methods that have no family
here. No torch.

A protocol never changes; a better one gets the next number. What one holds stands in its family's file,
`backbones/NAME.py`.
"""

from __future__ import annotations

from ..backbones import Architecture, Protocol, families, variants
from ..errors import UnknownName
from ..methods import methods

POOLS = ("cls", "mean", "cls+mean", "gem", "cls+gem", "cls+dist", "attn")


def protocols() -> dict[str, Protocol]:
    """Every preset by its name."""
    own = [protocol for family in families().values() for protocol in family.protocols]
    own += [method.protocol for method in methods().values() if method.protocol is not None]
    return {protocol.name: protocol for protocol in own}


def find_protocol(name: str) -> Protocol:
    """The preset of that name; raises UnknownName."""
    known = protocols()
    if name not in known:
        raise UnknownName("protocol", name, known)
    return known[name]


def protocol_of(backbone: str) -> str:
    """The preset of the family that has a variant of this name; empty where none has."""
    family = variants().get(backbone)
    return families()[family].protocol if family is not None else ""


def has_class_token(architecture: Architecture) -> bool:
    """Whether there is a class token to read, under a norm for it."""
    name = architecture.timm
    without = name.startswith(("swin", "convnext", "resnet", "vit_pe_core_gigantic"))
    return architecture.final_norm != "fc_norm" and not (without or "_gap_" in name or "_siglip_" in name)


def attention_pooled(timm_name: str) -> bool:
    """Whether a model of timm has an attention pool before its head: SigLIP's, PE-Core's, and ViTs called `map`."""
    pooled = "_siglip_" in timm_name or "_map_" in timm_name or timm_name.startswith("vit_pe_core_")
    return timm_name.startswith("vit_") and pooled and "_gap_" not in timm_name


def mean_by_default(timm_name: str) -> bool:
    """Whether the head of a model of timm was trained on the mean patch token, though it has a class token."""
    return timm_name.startswith("beit")  # its head was trained on the mean patch token
