"""What a run goes on from: released weights, a file, another run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..digests import DigestMemory
from ..errors import UsageError
from ..models.build import build
from ..models.resolve import resolve
from ..models.spec import Access, BackboneSpec
from ..models.told import NOTHING
from .request import PretrainingRequest

if TYPE_CHECKING:
    from torch import Tensor


def start_of(request: PretrainingRequest, access: Access, memory: DigestMemory) -> BackboneSpec | None:
    """What is gone on from; None: from scratch. Raises as `resolve`, and UsageError where nothing is to be told of."""
    if not request.init:
        if request.checkpoint_key or request.family or request.told != NOTHING:
            raise UsageError(
                "--checkpoint-key, --family, --heads, --grid, --mean and --std say what a weights file is, and here is "
                "none",
                fix="Give it with --init FILE.",
            )
        return None
    spec = resolve(
        request.init,
        access,
        memory,
        checkpoint_key=request.checkpoint_key,
        family=request.family,
        told=request.told,
    )
    spec.require_imagenet_statistics()
    return spec


def trunk_of(spec: BackboneSpec) -> dict[str, Tensor]:
    """The tensors of released weights, every one of them."""
    from ..models.readout import Readout

    height, width = (side * spec.architecture.patch for side in spec.architecture.table)
    return dict(build(spec, Readout(), (height, width), engine="eager").model.state_dict())
