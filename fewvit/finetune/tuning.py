"""A trunk and a classifier on top of it while both are fine-tuned on labels: what `training.loop` trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.products import in_blocks, of_rows
from ..models.readout import Readout
from ..training.clipping import clip_all
from ..training.groups import layer_groups
from ..training.recipe import Step
from ..training.schedules import mae_lr
from ..training.task import ParameterGroup
from .adapters import blocks_below
from .modes import TuningRecipe

if TYPE_CHECKING:
    from ..methods._trunk import Trunk

_TOGETHER_ON_CPU, _TOGETHER_ON_GPU = 8, 32  # images that go through the network together where it does not learn


class ClassificationHead(nn.Module):
    """A linear layer on rows that are taken `raw`, of unit length (`unit`), or centred before that (`centred`)."""

    def __init__(self, weight: Tensor, bias: Tensor, rows: str, *, with_bias: bool):
        super().__init__()
        self.rows = rows
        self.weight, self.bias = (
            nn.Parameter(weight.float().clone()),
            nn.Parameter(bias.float().clone(), requires_grad=with_bias),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C) of features (B, D)."""
        features = features.float()
        if self.rows == "centred":
            features = features - features.mean(dim=1, keepdim=True)
        if self.rows != "raw":
            features = F.normalize(features, dim=1)
        return (F.linear if torch.is_grad_enabled() else of_rows)(features, self.weight, self.bias)


class Tuning(nn.Module):
    """A network under a `TuningRecipe`; which parameters of `trunk` change, `adapters.prepare` decides.

    Its inputs are images (B, 3, H, W), or where the embedding does not change the tokens (B, T, D) that `enter` gives;
    and soft targets (B, C). `size` (height, width) is that of the images whose tokens come in; without it that of the
    recipe's view.
    """

    def __init__(
        self,
        recipe: TuningRecipe,
        trunk: Trunk,
        readout: Readout,
        head: ClassificationHead,
        size: tuple[int, int] | None = None,
    ):
        super().__init__()
        self.recipe, self.trunk, self.readout, self.head = recipe, trunk, readout, head
        self.size = size or (recipe.views[0].size, recipe.views[0].size)
        self.below = blocks_below(trunk)

    @property
    def unchanging(self) -> set[str]:
        """Names in `state_dict` of what never changes, and so need not be in checkpoints."""
        return {name for name, parameter in self.named_parameters() if not parameter.requires_grad}

    def enter(self, images: Tensor) -> Tensor:
        """Tokens (B, T, D) that go into the first block that changes, of images (B, 3, H, W)."""
        tokens, turn = self.trunk.embed(images), self.trunk.turn(*images.shape[-2:])
        for block in self.trunk.blocks[: self.below or 0]:
            tokens = block(tokens, *turn)
        return tokens

    def evaluated(self, step: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """What `step`, such as `enter` or `features`, makes of images or tokens, a few at a time and always as many.

        So the output for an image depends neither on its place nor on the images beside it; on a CPU, in float32. The
        task is in eval mode.
        """
        with torch.no_grad():
            return in_blocks(step, inputs, _TOGETHER_ON_CPU if inputs.device.type == "cpu" else _TOGETHER_ON_GPU)

    def features(self, inputs: Tensor, scales: Tensor | None = None) -> Tensor:
        """What the head reads (B, D) of the inputs; `scales` (B, 2L) are from `Trunk.draw_scales`."""
        size = self.size if inputs.ndim == 3 else inputs.shape[-2:]
        if inputs.ndim == 3:
            tokens = inputs
        elif self.below is None:
            tokens = self.enter(inputs)
        else:
            with torch.no_grad():
                tokens = self.enter(inputs)
        last = self.trunk.through(tokens, scales, self.below or 0, turn=self.trunk.turn(*size))
        return self.trunk.gathered([last], self.readout)

    def forward(self, inputs: Sequence[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy with the soft targets; `train_top1`, in percent: of images whose largest target comes first."""
        x, targets = inputs
        scales = self.trunk.draw_scales(step, 1, x.device)
        logits = self.head(self.features(x, None if scales is None else scales[0])).float()
        loss = -(targets * F.log_softmax(logits, dim=1)).sum(dim=1).mean()
        right = (logits.detach().argmax(dim=1) == targets.argmax(dim=1)).float().mean()
        return loss, {"train_top1": 100 * right}

    def groups(self) -> list[ParameterGroup]:
        """A group for each layer; the deeper it lies, the smaller its learning rate.

        Class token and positions do not decay.
        """

        def spared(name: str, _: Tensor) -> bool:
            return name in ("cls_token", "pos_embed", "register_tokens")

        return layer_groups(self._named(), len(self.trunk.blocks), self.recipe.layer_decay, keep=spared)

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.trunk.named_parameters()
        yield from ((f"head.{name}", parameter) for name, parameter in self.head.named_parameters())

    def schedule(self, step: Step) -> dict[str, float]:
        """MAE's learning rate, a warm-up and a half cosine, and a constant weight decay."""
        recipe = self.recipe
        epoch = step.index / step.steps_per_epoch
        # MAE's warm-up begins at 0: one that is shorter than two steps would only throw a step of a few away
        warmup = recipe.warmup_epochs if recipe.warmup_epochs * step.steps_per_epoch >= 2 else 0.0
        lr = mae_lr(epoch, step.epochs, warmup, recipe.peak_lr, min(recipe.min_lr, recipe.peak_lr))
        return {"lr": lr, "weight_decay": recipe.weight_decay}

    def clip(self) -> Tensor:
        """Clip all gradients together as the recipe says; their norm () before."""
        return clip_all((p for p in self.parameters() if p.requires_grad), self.recipe.clip)

    def before_update(self, step: Step) -> None:
        """Nothing is held back."""

    def after_update(self, step: Step) -> None:
        """Nothing follows a step."""
