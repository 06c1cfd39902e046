"""Every frozen preset by its name: those that the families bring, and those of pretraining methods that have no family
here. No torch.

A protocol never changes; a better one gets the next number. What one holds stands in its family's file,
`backbones/NAME.py`.
"""

from __future__ import annotations

from ..backbones import Protocol, families, variants
from ..errors import UnknownName
from ..methods import methods

POOLS = ("cls", "cls2", "mean", "cls+mean", "gem", "cls+gem", "cls+dist", "attn")


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
