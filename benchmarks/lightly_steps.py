"""Training steps of DINO, MAE and MSN built from lightly's parts (extra `bench`), on timm's ViT, as it documents.

The shapes are those of our task. Weights start as lightly starts them: what is compared is the time of a step, not its
loss.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = 3


def vit(recipe: Any) -> nn.Module:
    """timm's ViT of the recipe's architecture, for crops of any size."""
    from timm.models.vision_transformer import VisionTransformer

    a = recipe.architecture
    return VisionTransformer(
        img_size=a.grid * a.patch,
        patch_size=a.patch,
        embed_dim=a.width,
        depth=a.depth,
        num_heads=a.heads,
        num_classes=0,
        dynamic_img_size=True,
    )


def masked(recipe: Any) -> nn.Module:
    """The same in lightly's wrapper, which can leave tokens out."""
    from lightly.models.modules import MaskedVisionTransformerTIMM

    return MaskedVisionTransformerTIMM(vit=vit(recipe))


class _Step:
    """An AdamW and what comes around a loss."""

    def __init__(self, trained: Sequence[nn.Module], recipe: Any, more: Sequence[Tensor] = ()):
        from lightly.models.utils import get_weight_decay_parameters

        self.recipe = recipe
        decaying, spared = get_weight_decay_parameters(list(trained))
        groups = [{"params": decaying}, {"params": [*spared, *more], "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, betas=recipe.betas)

    def update(self, loss: Tensor, knobs: Mapping[str, float], clip: Callable[[], Any] = lambda: None) -> float:
        for i, group in enumerate(self.optimizer.param_groups):
            group["lr"] = knobs["lr"]
            group["weight_decay"] = knobs["weight_decay"] if i == 0 else 0.0
        self.optimizer.zero_grad()
        loss.backward()
        clip()
        self.optimizer.step()
        return float(loss.detach())


class DinoStep(_Step):
    """lightly's head, loss and moving average; its loop over views."""

    def __init__(self, task: Any):
        from lightly.loss import DINOLoss
        from lightly.models.modules import DINOProjectionHead

        r = task.recipe
        widths = r.architecture.width, r.hidden, r.bottleneck, r.outputs
        self.student, self.teacher = (
            nn.Sequential(vit(r), DINOProjectionHead(*widths, freeze_last_layer=r.freeze_last_layer)) for _ in range(2)
        )
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        self.criterion = DINOLoss(
            output_dim=r.outputs,
            warmup_teacher_temp=r.warmup_teacher_temperature,
            teacher_temp=r.teacher_temperature,
            student_temp=r.student_temperature,
        )
        super().__init__([self.student], r)

    def __call__(self, views: Sequence[Tensor], step: Any, knobs: Mapping[str, float]) -> float:
        from lightly.models.utils import update_momentum

        update_momentum(self.student, self.teacher, knobs["momentum"])
        with torch.no_grad():
            taught = [self.teacher(view) for view in views[:2]]
        loss = self.criterion(taught, [self.student(view) for view in views], epoch=step.epoch)
        return self.update(loss, knobs, lambda: self._clip(step.epoch))

    def _clip(self, epoch: int) -> None:
        nn.utils.clip_grad_norm_(self.student.parameters(), self.recipe.clip)
        self.student[1].cancel_last_layer_gradients(epoch)  # type: ignore[operator]


class MaeStep(_Step):
    """lightly's masked ViT, decoder and patch functions."""

    def __init__(self, task: Any):
        from lightly.models.modules import MaskedVisionTransformerDecoderTIMM

        r = task.recipe
        a = r.architecture
        self.backbone = masked(r)
        self.embed = nn.Linear(a.width, r.decoder_width)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            num_patches=a.grid**2, embed_dim=r.decoder_width, depth=r.decoder_depth, num_heads=r.decoder_heads
        )
        self.predict = nn.Linear(r.decoder_width, CHANNELS * a.patch**2)
        super().__init__([self.backbone, self.embed, self.decoder, self.predict], r)

    def __call__(self, views: Sequence[Tensor], noise: Tensor, knobs: Mapping[str, float]) -> float:
        from lightly.models import utils

        (images,) = views
        length = self.backbone.sequence_length
        kept, hidden = utils.random_token_mask(size=(len(images), length), mask_ratio=self.recipe.mask_ratio)
        x = self.embed(self.backbone.encode(images, idx_keep=kept))  # type: ignore[operator]
        tokens = utils.repeat_token(self.decoder.mask_token, (len(images), length))
        x = self.decoder(utils.set_at_index(tokens, kept, x.type_as(tokens)))
        found = self.predict(utils.get_at_index(x, hidden))
        wanted = utils.get_at_index(utils.patchify(images, self.recipe.architecture.patch), hidden - 1)
        return self.update(F.mse_loss(found, utils.normalize_mean_var(wanted)), knobs)


class MsnStep(_Step):
    """lightly's masked ViT, head, loss and moving averages."""

    def __init__(self, task: Any):
        from lightly.loss import MSNLoss
        from lightly.models.modules.heads import MSNProjectionHead

        r = task.recipe
        self.anchor, self.anchor_head = (
            masked(r),
            MSNProjectionHead(r.architecture.width, r.projector_width, r.out_width),
        )
        self.target, self.target_head = (
            copy.deepcopy(part).requires_grad_(False) for part in (self.anchor, self.anchor_head)
        )
        self.prototypes = nn.Linear(r.out_width, r.prototypes, bias=False).weight
        self.criterion = MSNLoss(r.temperature, r.sinkhorn_rounds if r.sinkhorn else 0, r.memax_weight)
        super().__init__([self.anchor, self.anchor_head], r, [self.prototypes])

    def __call__(self, views: Sequence[Tensor], keep: Tensor | None, knobs: Mapping[str, float]) -> float:
        from lightly.models import utils

        utils.update_momentum(self.anchor, self.target, knobs["momentum"])
        utils.update_momentum(self.anchor_head, self.target_head, knobs["momentum"])
        whole, part, focal = views[0], views[1], torch.cat(list(views[2:]))
        with torch.no_grad():
            targets = self.target_head(self.target(whole))
        kept, _ = utils.random_token_mask(
            size=(len(part), self.anchor.sequence_length), mask_ratio=self.recipe.patch_drop
        )
        seen = [self.anchor_head(self.anchor(part, idx_keep=kept)), self.anchor_head(self.anchor(focal))]
        loss = self.criterion(torch.cat(seen), targets, self.prototypes.data, knobs["sharpening"])
        return self.update(loss, knobs, lambda: nn.utils.clip_grad_norm_(self.anchor.parameters(), self.recipe.clip))
