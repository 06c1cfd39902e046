"""Models that timm builds, behind the calls of our own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..backbones import Architecture
from ..errors import UsageError, refuse_out_of_memory
from .readout import BOTH, Readout, generalised_mean
from .timm_attention import attend_in
from .vit import Keep

_TIMM_TOKENS = {"class": "cls_token", "distillation": "dist_token"}  # attributes of timm's models


class TimmModel(nn.Module):
    """A model of timm behind the same calls, for the baselines: also Swin and others without a class token."""

    trunk: Any

    def __init__(self, architecture: Architecture, size: tuple[int, int]):
        super().__init__()
        import timm

        self.architecture = architecture
        sized: dict[str, Any] = {"img_size": size} if size != _native_size(architecture.timm) else {}
        try:
            self.trunk = timm.create_model(architecture.timm, pretrained=False, num_classes=0, **sized)
        except (RuntimeError, TypeError, AssertionError) as error:
            refuse_out_of_memory(error, f"building {architecture.timm}")
            raise UsageError(
                f"timm cannot build {architecture.timm}: {error}",
                fix="See timm.list_models(); some models have one image size only.",
            ) from error
        self.prefix = int(getattr(self.trunk, "num_prefix_tokens", 0))
        self.maps_of_channels = getattr(self.trunk, "output_fmt", "NCHW") == "NCHW"  # (B, D, H, W), if it has maps

    @property
    def prefix_kinds(self) -> tuple[str, ...]:
        """What the tokens before the patches are, in their order."""
        named = [kind for kind, name in _TIMM_TOKENS.items() if getattr(self.trunk, name, None) is not None]
        return (*named, *("register",) * (self.prefix - len(named)))

    def attend(
        self, images: Tensor, blocks: Sequence[int], keep: Keep = torch.clone, queries: slice = slice(None)
    ) -> list[Tensor]:
        """As `VisionTransformer.attend`. Raises UsageError where the blocks are not those of a ViT."""
        return attend_in(self.trunk, self.architecture.timm, images, blocks, keep, queries)

    def read(self, images: Tensor, readout: Readout) -> Tensor:
        """Feature vectors (B, D') under the model's own norm.

        `mean` is the pooling that its head was trained on, where that is a mean; `attn` its own attention pool.
        """
        if readout.layers > 1 or readout.blocks or readout.pool == BOTH:
            return self._layers(images, readout)
        if readout.pool == "attn" and getattr(self.trunk, "attn_pool", None) is None:
            raise UsageError(f"{self.architecture.timm} has no attention pool to read", fix="Use --pool mean.")
        if readout.pool not in ("mean", "gem", "attn") and not self.prefix:
            raise UsageError(f"{self.architecture.timm} has no class token to read", fix="Use --pool mean.")
        tokens = self.trunk.forward_features(images)  # (B, T, D), or without prefix tokens (B, H, W, D), (B, D, H, W)
        if readout.pool == "mean":
            return self._mean(tokens)
        if readout.pool == "attn":
            return cast(Tensor, self.trunk.forward_head(tokens, pre_logits=True))
        if readout.pool == "gem":
            last = tokens.ndim == 4 and self.maps_of_channels
            tokens = tokens.flatten(2).transpose(1, 2) if last else tokens.flatten(1, -2)
            return generalised_mean(tokens[:, self.prefix :])
        if readout.pool == "cls+mean":
            return torch.cat([tokens[:, 0], self._mean(tokens)], dim=-1)
        if readout.pool == "cls+gem":
            return torch.cat([tokens[:, 0], generalised_mean(tokens[:, self.prefix :])], dim=-1)
        return tokens[:, :2].flatten(1) if readout.pool == "cls+dist" else tokens[:, 0]

    def _mean(self, tokens: Tensor) -> Tensor:
        if tokens.ndim == 4 and self.maps_of_channels:  # what a ResNet's or ConvNeXt's own head is given
            return cast(Tensor, self.trunk.forward_head(tokens, pre_logits=True))
        norm = getattr(self.trunk, "fc_norm", None) or nn.Identity()
        return cast(Tensor, norm(tokens.flatten(1, -2)[:, self.prefix :].mean(dim=1)))

    def _layers(self, images: Tensor, readout: Readout) -> Tensor:
        """Tokens of several blocks, or of one that is not the last, each under the final norm.

        A mean of the last N lacks the norm over means that BEiT has, as it always did, so that stored features hold.
        """
        has = ("mean", "gem", "cls", BOTH) if self.prefix else ("mean", "gem")
        if not hasattr(self.trunk, "blocks") or readout.pool not in has:
            asked = ",".join(f"block{block}" for block in readout.blocks) or readout.layers
            raise UsageError(f"--layers {asked} with --pool {readout.pool} is not defined for {self.architecture.timm}")
        try:
            found = self.trunk.forward_intermediates(
                images,
                indices=list(readout.places(len(self.trunk.blocks))),
                norm=True,
                output_fmt="NLC",
                return_prefix_tokens=self.prefix > 0,
                stop_early=True,
                intermediates_only=True,
            )
        except TypeError as error:  # of an XCiT, say, whose class token comes in after the other blocks
            raise UsageError(
                f"--layers {readout.layers}: {self.architecture.timm} has no class token in each block"
            ) from error
        patches = [one[0] for one in found] if self.prefix else found
        classes = [one[1][:, 0] for one in found] if self.prefix and readout.pool in ("cls", BOTH) else []
        if readout.pool == "gem":
            return torch.cat([generalised_mean(one) for one in patches], dim=-1)
        normed = readout.blocks or readout.pool == BOTH
        norm = getattr(self.trunk, "fc_norm", None) if normed else None
        means = [(norm or nn.Identity())(one.mean(dim=1)) for one in patches] if readout.pool != "cls" else []
        return torch.cat([*classes, *means], dim=-1)


def _native_size(name: str) -> tuple[int, int]:
    import timm

    config = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    return (config.input_size[1], config.input_size[2]) if config else (224, 224)
