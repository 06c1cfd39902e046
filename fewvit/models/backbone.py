"""A frozen model that knows what it is and what is read out of it; and how an untrained one starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from .readout import Readout
from .timm_attention import output_in, vit_blocks
from .timm_model import TimmModel
from .vit import Keep

if TYPE_CHECKING:
    from ..extraction.pipeline import Pipeline
    from .spec import BackboneSpec

_IN_STAGES = "Use a ViT; `fewvit inspect pca` and all that reads features work."


class Backbone(nn.Module):
    """A frozen model in eval mode that knows what it is (`spec`) and what it is asked for (`readout`)."""

    def __init__(self, model: nn.Module, spec: BackboneSpec, readout: Readout):
        super().__init__()
        self.model: Any = model
        self.spec, self.readout = spec, readout
        self.pipeline: Pipeline | None = (
            None  # how its features come about (transform, precision), as load_backbone settled it
        )
        self.eval()
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> Backbone:
        """Stays in eval mode: a frozen backbone has nothing to train."""
        return super().train(False)

    @torch.no_grad()  # not inference_mode: a head may be trained on these features
    def encode(self, images: Tensor) -> Tensor:
        """Features (B, D) float32 of images (B, 3, H, W) that were normalised by the protocol's preprocess."""
        return self.model.read(images, self.readout).float()

    forward = encode

    @torch.no_grad()
    def tokens(self, images: Tensor, layers: int = 1) -> list[Tensor]:
        """Tokens (B, T, D), after the final norm, of the last `layers` blocks, oldest first; (B, 3, H, W) images.

        A row is class token, registers, patches. Raises UsageError for several layers of a timm model.
        """
        if isinstance(self.model, TimmModel):
            if layers > 1:
                raise UsageError(f"tokens of several layers are not available for {self.model.architecture.timm}")
            return [self.model.trunk.forward_features(images)]
        return [self.model.final_norm(tokens) for tokens in self.model.last_blocks(images, layers)]

    @torch.no_grad()
    def attention(self, images: Tensor) -> Tensor:
        """Softmax attention (B, heads, T, T) of the last block."""
        return self.attend(images, [self.depth - 1])[0]

    @torch.no_grad()
    def attend(
        self, images: Tensor, blocks: Sequence[int], keep: Keep = torch.clone, queries: slice = slice(None)
    ) -> list[Tensor]:
        """What `keep` makes of the softmax attention (B, heads, Q, T) of each of `blocks`, from 0 and ascending.

        One pass over images (B, 3, H, W), which holds one block's attention of the `queries` at a time: what is not
        kept is gone. Raises UsageError for a model whose blocks are not those of a ViT.
        """
        return self.model.attend(images, blocks, keep, queries)

    @torch.no_grad()
    def block_output(self, images: Tensor, block: int) -> Tensor:
        """Tokens (B, T, D) that leave a block, from 0, before any final norm. Raises UsageError as `attend`."""
        if isinstance(self.model, TimmModel):
            return output_in(self.model.trunk, self.model.architecture.timm, images, block)
        return self.model.last_blocks(images, self.depth - block)[0]

    @property
    def depth(self) -> int:
        """How many blocks there are. Raises UsageError for a model whose blocks are not those of a ViT."""
        model = self.model
        if model.architecture.stages:
            raise UsageError(f"{self.spec.name} is a ConvNeXt: its convolutions do not attend", fix=_IN_STAGES)
        return len(vit_blocks(model.trunk, model.architecture.timm) if isinstance(model, TimmModel) else model.blocks)


def randomise(model: nn.Module, seed: int) -> None:
    """Fill every parameter as the official ViTs start: truncated normal, std 0.02; zero biases; norms at identity."""
    stream = torch.Generator().manual_seed(seed)
    norms = tuple(kind for kind in (nn.LayerNorm, nn.BatchNorm2d, nn.GroupNorm))
    skipped = {
        id(p) for module in model.modules() if isinstance(module, norms) for p in module.parameters(recurse=False)
    }
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if id(parameter) in skipped or name.endswith(".gamma"):
                continue
            if name.endswith(".bias"):
                parameter.zero_()
            else:
                nn.init.trunc_normal_(parameter, std=0.02, generator=stream)
