"""MAE (He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners").

From a quarter of the patches, the pixels of the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoints.filling import fill
from ..errors import CheckpointError, UsageError
from ..models.vit import EPS
from ..preprocess import IMAGENET_MEAN, IMAGENET_STD
from ..training.clipping import clip_all
from ..training.groups import decay_groups
from ..training.recipe import Step
from ..training.schedules import mae_lr
from ..training.task import ParameterGroup
from ..views.draws import uniforms
from ._trunk import Trunk

if TYPE_CHECKING:
    from .mae import Mae


class MaeTask(nn.Module):
    """An encoder that sees few patches, and a small decoder that draws the others from what it says."""

    max_entropy: ClassVar[float | None] = None  # nothing can collapse into a constant target

    def __init__(self, recipe: Mae):
        super().__init__()
        _check(recipe)
        self.recipe = recipe
        a, width = recipe.architecture, recipe.decoder_width
        self.trunk = Trunk(a, recipe.drop_path)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_embed = nn.Linear(a.width, width)
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 1 + a.cells, width), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(_block(width, recipe.decoder_heads) for _ in range(recipe.decoder_depth))
        self.decoder_norm = nn.LayerNorm(width, eps=EPS)
        self.decoder_pred = nn.Linear(width, 3 * a.patch**2)
        self.trunk.pos_embed.requires_grad_(False)
        self._initialise()

    # what the loop asks

    def forward(self, views: list[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean squared error over masked patches of images (B, 3, H, W); it is all there is to log."""
        images = views[0]
        scales = self.trunk.draw_scales(step, 1, images.device)
        pixels, mask = self.predict(images, self.noise(step, images.device), None if scales is None else scales[0])
        return self.loss(images, pixels, mask), {}

    def groups(self) -> list[ParameterGroup]:
        """Parameters with and without weight decay.

        Class token and mask token decay, position tables are not trained.
        """
        return decay_groups(self._named())

    def schedule(self, step: Step) -> dict[str, float]:
        """Learning rate and weight decay at a step."""
        r = self.recipe
        lr = mae_lr(step.index / step.steps_per_epoch, step.epochs, r.warmup_epochs, r.peak_lr, r.min_lr)
        return {"lr": lr, "weight_decay": r.weight_decay}

    def clip(self) -> Tensor:
        """The norm of the gradient, which MAE's recipe does not clip."""
        return clip_all([parameter for _, parameter in self._named()], self.recipe.clip)

    def before_update(self, step: Step) -> None:
        """Nothing is held back."""

    def after_update(self, step: Step) -> None:
        """Nothing follows a step."""

    # what goes in and what comes out

    def encoder(self) -> Trunk:
        """The trunk; the decoder is left behind."""
        return self.trunk

    def start_from(self, tensors: Mapping[str, Tensor]) -> None:
        """Take a released trunk; the decoder starts fresh."""
        self.trunk.start_from(tensors)

    def start_from_official(self, tree: Mapping[str, Any]) -> None:
        """Take everything that a full MAE checkpoint holds, the decoder included.

        Raises CheckpointError for another layout or size.
        """
        tensors, file = tree.get("model"), "the MAE checkpoint"
        if not isinstance(tensors, Mapping) or "decoder_embed.weight" not in tensors:
            raise CheckpointError(
                "holds no decoder under `model`",
                file=file,
                fix="Take a `_full.pth` file, or start from the encoder alone.",
            )
        own = {official_name(name) for name, _ in self.trunk.named_parameters()}
        fill(self, {f"trunk.{name}" if name in own else name: tensor for name, tensor in tensors.items()}, file)

    def official(self) -> dict[str, Any]:
        """What MAE's own checkpoint holds, but for the optimizer and where the run stands."""
        return {"model": {official_name(name): tensor for name, tensor in self.state_dict().items()}}

    # parts of a step

    def noise(self, step: Step, device: torch.device | str = "cpu") -> Tensor:
        """A number in [0, 1) for each patch (B, N) of a step's images: functions of (seed, epoch, row)."""
        patches = self.recipe.architecture.cells
        return torch.from_numpy(uniforms(step.seed, step.epoch, step.rows, "mask", patches)).to(device)

    def predict(self, images: Tensor, noise: Tensor, scales: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Predicted patches (B, N, 3 P²) and the mask (B, N) of patches that were hidden.

        Hidden are those with the largest noise (B, N).
        """
        keep, restore, mask = random_masking(noise, self.recipe.mask_ratio)
        latent = self.trunk.norm(self.trunk.encode(images, keep, scales))
        return self.decode(latent, restore), mask

    def decode(self, latent: Tensor, restore: Tensor) -> Tensor:
        """Patches (B, N, 3 P²) from what the encoder says (B, 1+K, D) of K patches in the order of the noise."""
        seen = self.decoder_embed(latent)
        width, hidden = seen.shape[-1], restore.shape[1] + 1 - seen.shape[1]
        shuffled = torch.cat([seen[:, 1:], self.mask_token.to(seen.dtype).expand(len(seen), hidden, -1)], dim=1)
        patches = shuffled.gather(1, restore[:, :, None].expand(-1, -1, width))
        tokens = torch.cat([seen[:, :1], patches], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            tokens = block(tokens)
        return self.decoder_pred(self.decoder_norm(tokens))[:, 1:]

    def loss(self, images: Tensor, prediction: Tensor, mask: Tensor) -> Tensor:
        """The mean over hidden patches of the mean squared error ().

        Prediction (B, N, 3 P²), mask (B, N) 1 where hidden.
        """
        target = patchify(images, self.recipe.architecture.patch).float()
        if self.recipe.normalised_pixels:
            mean, deviation = _statistics(target)
            target = (target - mean) / deviation
        error = (prediction.float() - target).square().mean(dim=-1)  # (B, N)
        return (error * mask).sum() / mask.sum()

    def as_pixels(self, prediction: Tensor, patches: Tensor) -> Tensor:
        """A prediction (B, N, 3 P²) as pixels of the images' patches (B, N, 3 P²), both normalised as for training.

        One of normalised pixels gets back its patch's mean and deviation, which the model never saw.
        """
        if not self.recipe.normalised_pixels:
            return prediction.float()
        mean, deviation = _statistics(patches)
        return prediction.float() * deviation + mean

    def figures(self, images: Tensor, seed: int) -> dict[str, np.ndarray]:
        """`reconstructions` of normalised images (B, 3, H, W).

        Which patches are hidden is a function of the seed alone.
        """
        noise = uniforms(seed, 0, np.arange(len(images)), "shown", self.recipe.architecture.cells)
        return self.reconstructions(images, torch.from_numpy(noise).to(images.device))

    @torch.no_grad()
    def reconstructions(self, images: Tensor, noise: Tensor) -> dict[str, np.ndarray]:
        """`original`, `masked` (hidden patches grey), `reconstruction` (hidden patches as drawn), uint8 (B, H, W, 3).

        Images (B, 3, H, W) are normalised as for training, noise (B, N) says which patches are hidden.
        """
        patch = self.recipe.architecture.patch
        prediction, mask = self.predict(images, noise)
        patches, hidden = patchify(images, patch).float(), mask[:, :, None].bool()
        shown = {
            "original": patches,
            "masked": patches.masked_fill(hidden, 0.0),  # 0 is ImageNet's mean colour
            "reconstruction": torch.where(hidden, self.as_pixels(prediction, patches), patches),
        }
        return {name: _pixels(unpatchify(value, patch)) for name, value in shown.items()}

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((official_name(name), parameter) for name, parameter in self.named_parameters())

    @torch.no_grad()
    def _initialise(self) -> None:
        """Linears and the flattened patch convolution Xavier-uniform, zero biases; class and mask token normal.

        Fixed positions.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.trunk.patch_embed.proj.weight.view(self.recipe.architecture.width, -1))
        for token in (self.trunk.cls_token, self.mask_token):
            nn.init.normal_(token, std=0.02)
        for table in (self.trunk.pos_embed, self.decoder_pos_embed):
            table.copy_(torch.from_numpy(sincos_positions(table.shape[-1], self.recipe.architecture.side))[None])


# --- patches, masks, positions --------------------------------------------------------------------------------------


def patchify(images: Tensor, patch: int) -> Tensor:
    """Patches (B, N, 3 P²) of images (B, 3, H, W), row by row.

    Inside a patch row, column, channel, the channel fastest.
    """
    b, c, height, width = images.shape
    cells = images.reshape(b, c, height // patch, patch, width // patch, patch)
    return cells.permute(0, 2, 4, 3, 5, 1).reshape(b, -1, patch * patch * c)


def unpatchify(patches: Tensor, patch: int) -> Tensor:
    """Square images (B, 3, H, H) of their patches (B, N, 3 P²)."""
    b, n, _ = patches.shape
    grid = round(n**0.5)
    return (
        patches.reshape(b, grid, grid, patch, patch, 3)
        .permute(0, 5, 1, 3, 2, 4)
        .reshape(b, 3, grid * patch, grid * patch)
    )


def random_masking(noise: Tensor, ratio: float) -> tuple[Tensor, Tensor, Tensor]:
    """The patches of least noise (B, K) in its order, each patch's place in it (B, N), 1.0 for the rest (B, N)."""
    order = noise.argsort(dim=1, stable=True)
    restore = order.argsort(dim=1)
    kept = int(noise.shape[1] * (1 - ratio))
    return order[:, :kept], restore, (restore >= kept).float()


def sincos_positions(width: int, grid: int, class_token: bool = True) -> np.ndarray:
    """The fixed position table float64 (1 + grid², width), the class token's row zero; without it (grid², width).

    The first half of the channels is the column's, the second the row's, though the official code's names say
    otherwise.
    """
    frequency = 10000.0 ** -(np.arange(width // 4) / (width / 4))  # omega_k
    angle = np.arange(grid)[:, None] * frequency  # (grid, D/4)
    wave = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)  # (grid, D/2)
    row, column = np.divmod(np.arange(grid * grid), grid)
    table = np.concatenate([wave[column], wave[row]], axis=1)
    return np.concatenate([np.zeros((1, width)), table]) if class_token else table


def official_name(name: str) -> str:
    """A parameter's name in MAE's files: the trunk's have no prefix there."""
    return name.removeprefix("trunk.")


def _statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation (B, N, 1) of each patch's 3 P² values; the variance is the unbiased one."""
    return patches.mean(dim=-1, keepdim=True), (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()


def _pixels(images: Tensor) -> np.ndarray:
    """uint8 (B, H, W, 3) of normalised images (B, 3, H, W)."""
    mean, std = (
        torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return ((images * std + mean) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


def _block(width: int, heads: int) -> nn.Module:
    from timm.models.vision_transformer import Block

    return Block(width, heads, qkv_bias=True, norm_layer=cast(type[nn.Module], partial(nn.LayerNorm, eps=EPS)))


def _check(recipe: Mae) -> None:
    """Raise UsageError for a recipe that cannot be trained."""
    a, size = recipe.architecture, recipe.views[0].size
    if len(recipe.views) != 1 or recipe.views[0].count != 1:
        raise UsageError("MAE trains on one view of each image")
    if size != a.side * a.patch:
        raise UsageError(
            f"a view of {size} pixels does not have the {a.side}x{a.side} patches of {a.patch} that the decoder's "
            "positions stand for"
        )
    if not 0 < recipe.mask_ratio < 1 or int(a.cells * (1 - recipe.mask_ratio)) < 1:
        raise UsageError(
            f"mask_ratio={recipe.mask_ratio:g} must hide some of the {a.cells} patches and leave at least one"
        )
    if recipe.decoder_width % recipe.decoder_heads or recipe.decoder_width % 4 or a.width % 4:
        raise UsageError(
            f"decoder_width={recipe.decoder_width} must be a multiple of 4 and of decoder_heads={recipe.decoder_heads}"
        )
