"""The frozen ViT: timm's blocks under each family's own token assembly, positions and norms; and what is read out of
it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones import Architecture
from ..errors import UsageError, refuse_out_of_memory
from .positions import resize_positions
from .timm_attention import attend_in, output_in, vit_blocks

if TYPE_CHECKING:
    from ..extraction.pipeline import Pipeline
    from .spec import BackboneSpec

Keep = Callable[[Tensor], Tensor]  # what is held of a block's attention (B, heads, Q, T)
GEM_POWER, GEM_FLOOR = 4, 1e-6  # of the generalised mean that DINO finds copies with
_TIMM_TOKENS = {"class": "cls_token", "distillation": "dist_token"}  # attributes of timm's models
EPS = 1e-6  # every LayerNorm of the official models; 1e-5 moves DINO's features by 4e-2


@dataclass(frozen=True)
class Readout:
    """Which tokens become the feature vector."""

    pool: str = "cls"  # cls, mean, cls+mean, cls+gem, cls+dist
    layers: int = 1  # class tokens (or patch means) of the last N blocks, oldest first
    # final norm over class tokens, or none (MSN), while patch means are taken after the final norm; or fresh: a patch
    # mean of the raw tokens under a norm that has learnt nothing (MAE's linear probe of patch means)
    norm: str = "final"

    def width(self, channels: int) -> int:
        """Length of the feature vector of a model `channels` wide."""
        extra = {"cls": 0, "mean": 0, "cls+mean": 1, "cls+gem": 1, "cls+dist": self.layers}[self.pool]
        return channels * (self.layers + extra)


class VisionTransformer(nn.Module):
    """A pre-norm ViT whose parameters have the names of DINO's files (and DINOv2's `register_tokens`, `ls1`, `ls2`)."""

    patch_embed: Any
    norm: Any  # or fc_norm, never both
    fc_norm: Any

    def __init__(self, architecture: Architecture):
        super().__init__()
        from timm.layers import Mlp, SwiGLUPacked
        from timm.models.vision_transformer import Block

        a = self.architecture = architecture
        hidden = a.hidden or 4 * a.width
        swiglu = a.feed_forward == "swiglu"
        self.cls_token = nn.Parameter(torch.zeros(1, 1, a.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + a.cells, a.width))
        if a.registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, a.registers, a.width))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, a.width, a.patch, a.patch)
        block: Any = partial(
            Block,
            a.width,
            a.heads,
            # SwiGLUPacked counts both halves; the small addend keeps int() from rounding 4096 down to 4095
            mlp_ratio=((2 * hidden if swiglu else hidden) + 1e-3) / a.width,
            qkv_bias=True,
            init_values=1.0 if a.layer_scale else None,
            norm_layer=cast(type[nn.Module], partial(nn.LayerNorm, eps=EPS)),  # timm calls what it is given
            mlp_layer=cast(type[nn.Module], SwiGLUPacked if swiglu else Mlp),
            act_layer=nn.SiLU if swiglu else nn.GELU,  # Block hands its own default, GELU, to SwiGLUPacked too
        )
        self.blocks = nn.ModuleList(block() for _ in range(a.depth))
        self.add_module(a.final_norm, nn.LayerNorm(a.width, eps=EPS))
        # whether sizes must be multiples of the patch; else what is over at the right and below is left out, as in DINO
        self.whole_patches = True
        self.settled_positions: Tensor | None = None  # taken as they are; for a compiler whose bicubic is not torch's

    @property
    def prefix(self) -> int:
        """How many tokens stand before the patches: the class token and the registers."""
        return 1 + self.architecture.registers

    @property
    def prefix_kinds(self) -> tuple[str, ...]:
        """What the tokens before the patches are, in their order."""
        return ("class", *("register",) * self.architecture.registers)

    def positions(self, height: int, width: int) -> Tensor:
        """The position table (1, 1+N, D) for images of this many pixels.

        As DINO asks whether the pixels are a square, not the patches, 230x224 pixels of 14x14 patches are resized to.
        """
        a = self.architecture
        own = a.table[0] * a.patch, a.table[1] * a.patch
        square = height == width if isinstance(a.grid, int) else (height, width) == own
        return resize_positions(self.pos_embed, a, height // a.patch, width // a.patch, square=square)

    def embed(self, images: Tensor) -> Tensor:
        """Input tokens (B, 1+R+N, D) of images (B, 3, H, W): class token, registers (without position), patches."""
        a = self.architecture
        height, width = images.shape[-2:]
        if self.whole_patches:
            a.check_size(height, width)
        patches = self.patch_embed.proj(images).flatten(2).transpose(1, 2)  # (B, N, D)
        table = self.positions(height, width) if self.settled_positions is None else self.settled_positions
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1) + table.to(patches.dtype)
        if not a.registers:
            return tokens
        registers = self.register_tokens.expand(len(images), -1, -1)
        return torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1)

    def last_blocks(self, images: Tensor, n: int = 1) -> list[Tensor]:
        """Outputs (B, T, D) of the last `n` blocks before any norm, oldest first."""
        tokens, kept = self.embed(images), []
        for i, block in enumerate(self.blocks):
            tokens = block(tokens)
            if i >= len(self.blocks) - n:
                kept.append(tokens)
        return kept

    def final_norm(self, tokens: Tensor) -> Tensor:
        """Tokens after the model's last norm; a fine-tuned MAE has none for tokens."""
        if self.architecture.final_norm == "fc_norm":
            return tokens
        return self.norm(tokens)

    def patch_mean(self, tokens: Tensor) -> Tensor:
        """Mean patch token (B, D): after the final norm, but before `fc_norm` (MAE fine-tuning averages first)."""
        if self.architecture.final_norm == "fc_norm":
            return self.fc_norm(tokens[:, self.prefix :].mean(dim=1))
        return self.norm(tokens[:, self.prefix :]).mean(dim=1)

    def read(self, images: Tensor, readout: Readout) -> Tensor:
        """Feature vectors (B, D') of images (B, 3, H, W)."""
        return self.gathered(self.last_blocks(images, readout.layers), readout)

    def gathered(self, kept: list[Tensor], readout: Readout) -> Tensor:
        """Feature vectors (B, D') of what `last_blocks` gave."""
        if readout.pool == "mean" and readout.norm == "fresh":
            means = [tokens[:, self.prefix :].mean(dim=1) for tokens in kept]
            return torch.cat([F.layer_norm(mean, mean.shape[-1:], eps=EPS) for mean in means], dim=-1)
        if readout.pool == "mean":
            return torch.cat([self.patch_mean(tokens) for tokens in kept], dim=-1)
        classes = [tokens[:, 0] if readout.norm == "none" else self.final_norm(tokens[:, :1])[:, 0] for tokens in kept]
        if readout.pool == "cls+mean":
            classes.append(self.patch_mean(kept[-1]))
        if readout.pool == "cls+gem":
            classes.append(generalised_mean(self.final_norm(kept[-1][:, self.prefix :])))
        return torch.cat(classes, dim=-1)

    def attend(
        self, images: Tensor, blocks: Sequence[int], keep: Keep = torch.clone, queries: slice = slice(None)
    ) -> list[Tensor]:
        """What `keep` makes of the softmax attention (B, heads, Q, T) of each of `blocks`, from 0 and ascending.

        One pass, which ends in the last of them and holds no more than one block's attention: that of the `queries`.
        """
        tokens, kept = self.embed(images), []
        for i, block in enumerate(self.blocks):
            if i in blocks:
                kept.append(keep(self._attention_of(block, tokens, queries)))
            if i == max(blocks):
                break
            tokens = block(tokens)
        return kept

    def _attention_of(self, block: Any, tokens: Tensor, queries: slice) -> Tensor:
        b, t, d = tokens.shape
        heads = self.architecture.heads
        q, k, _ = block.attn.qkv(block.norm1(tokens)).reshape(b, t, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        return ((q[:, :, queries] @ k.transpose(-2, -1)) * (d // heads) ** -0.5).softmax(dim=-1)


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
        """Feature vectors (B, D') under the model's own norm; `mean` is the pooling that its head was trained on."""
        if readout.layers > 1:
            return self._layers(images, readout)
        if readout.pool != "mean" and not self.prefix:
            raise UsageError(f"{self.architecture.timm} has no class token to read", fix="Use --pool mean.")
        tokens = self.trunk.forward_features(images)  # (B, T, D), or without prefix tokens (B, H, W, D), (B, D, H, W)
        if readout.pool == "mean":
            return self._mean(tokens)
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
        if not self.prefix or readout.pool not in ("cls", "mean"):
            raise UsageError(
                f"--layers {readout.layers} with --pool {readout.pool} is not defined for {self.architecture.timm}"
            )
        kept = self.trunk.forward_intermediates(
            images,
            indices=readout.layers,
            norm=True,
            output_fmt="NLC",
            return_prefix_tokens=True,
            intermediates_only=True,
        )
        return torch.cat(
            [prefix[:, 0] if readout.pool == "cls" else patches.mean(dim=1) for patches, prefix in kept], dim=-1
        )


def _native_size(name: str) -> tuple[int, int]:
    import timm

    config = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    return (config.input_size[1], config.input_size[2]) if config else (224, 224)


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
        return len(vit_blocks(model.trunk, model.architecture.timm) if isinstance(model, TimmModel) else model.blocks)


def generalised_mean(tokens: Tensor) -> Tensor:
    """(B, D): the fourth root of the mean fourth power of tokens (B, N, D), of which what is negative counts as 1e-6.

    Source: Radenovic et al. 2018; DINO's copy detection.
    """
    return tokens.clamp(min=GEM_FLOOR).pow(GEM_POWER).mean(dim=1).pow(1 / GEM_POWER)


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
