"""DINO (Caron et al. 2021).

A student learns to predict, from any crop of an image, what a slowly following teacher sees in another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..training.clipping import clip_each
from ..training.distributed import mean_over_processes, sum_over_processes, world_size
from ..training.groups import decay_groups
from ..training.on_cpu import linear
from ..training.recipe import Step
from ..training.schedules import dino_cosine, dino_temperature
from ..training.task import ParameterGroup
from ._batch_norm import BatchNorm
from ._trunk import Trunk, start_linears

if TYPE_CHECKING:
    from .dino import Dino

GLOBALS = 2  # crops that the teacher sees; they come first


class DinoTask(nn.Module):
    """Student and teacher of one architecture, the centre of the teacher's logits, and the loss between them."""

    def __init__(self, recipe: Dino):
        super().__init__()
        self.recipe = recipe
        self.student = _Network(recipe, recipe.drop_path)
        self.teacher = _Network(recipe, 0.0)
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        self.center: Tensor
        self.register_buffer("center", torch.zeros(1, recipe.outputs))  # c
        self.max_entropy = math.log(recipe.outputs)
        self._seen: Tensor | None = None  # sum (1, K) of the teacher's logits since the last update, and how many
        self._seen_rows = 0

    def start_from(self, tensors: Mapping[str, Tensor]) -> None:
        """Give student and teacher a released trunk; their heads stay new."""
        self.student.backbone.start_from(tensors)
        self.teacher.backbone.start_from(tensors)

    def groups(self) -> list[ParameterGroup]:
        """The student's parameters, under the official names."""
        return decay_groups(self.student.named_parameters())

    def schedule(self, step: Step) -> dict[str, float]:
        """Everything but the temperature, which follows epochs, follows single steps."""
        r, i, total = self.recipe, step.index, step.total
        last = r.weight_decay if r.final_weight_decay is None else r.final_weight_decay
        warmup = int(r.warmup_epochs * step.steps_per_epoch)
        return {
            "lr": dino_cosine(i, total, r.peak_lr, r.min_lr, warmup_steps=warmup),
            "weight_decay": dino_cosine(i, total, r.weight_decay, last),
            "momentum": dino_cosine(i, total, r.momentum_teacher, 1.0),
            "temperature": dino_temperature(
                step.epoch, r.warmup_teacher_temperature, r.teacher_temperature, r.warmup_teacher_temperature_epochs
            ),
        }

    def forward(self, views: Sequence[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch and its facts; `views` are crops (B, 3, S, S), the two global ones first."""
        with torch.no_grad():
            taught = self.teacher(views[:GLOBALS])
        scales = self.student.backbone.draw_scales(step, len(views), views[0].device)
        return self.loss(self.student(views, scales), taught, self.schedule(step)["temperature"])

    def loss(self, student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean cross-entropy H(teacher's global crop, student's other crop), and the targets' entropies in nats.

        `student` (V B, K) and `teacher` (2 B, K) are logits, crop by crop. The teacher's logits are remembered for the
        centre, which moves after the update: this batch still has the old one.
        """
        b = len(teacher) // GLOBALS
        with torch.no_grad():
            targets = F.softmax((teacher.float() - self.center) / temperature, dim=-1)
            self._remember(teacher.float())
            mean = mean_over_processes(targets.mean(dim=0))
            facts = {"target_entropy": _entropy(targets).mean(), "mean_target_entropy": _entropy(mean)}
        predicted = F.log_softmax(student.float() / self.recipe.student_temperature, dim=-1)
        return _mean_cross_entropy(predicted.view(-1, b, predicted.shape[-1]), targets.view(GLOBALS, b, -1)), facts

    def clip(self) -> Tensor:
        """Clip each parameter's gradient by itself; the largest norm before."""
        return clip_each(self.student.parameters(), self.recipe.clip).max()

    def before_update(self, step: Step) -> None:
        """Keep the last layer as it is in the first epochs; without a gradient it does not even decay."""
        if step.epoch < self.recipe.freeze_last_layer:
            for parameter in self.student.head.last_layer.parameters():
                parameter.grad = None

    @torch.no_grad()
    def after_update(self, step: Step) -> None:
        """Let the teacher's parameters follow the student's, and the centre the teacher's logits."""
        momentum = self.schedule(step)["momentum"]
        torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), 1 - momentum)
        if self._seen is not None:
            mean = sum_over_processes(self._seen) / (self._seen_rows * world_size())
            self.center.lerp_(mean, 1 - self.recipe.center_momentum)
        self._seen, self._seen_rows = None, 0

    def encoder(self) -> Trunk:
        """The teacher's trunk: it is better than the student at all times (Caron et al. 2021, figure 6)."""
        return self.teacher.backbone

    def official(self) -> dict[str, Any]:
        """What an official checkpoint holds besides the optimizer.

        Names are those that DDP gives, to the teacher only where it has BatchNorm.
        """
        wrapped = "module." if self.recipe.use_bn_in_head else ""
        return {
            "student": {f"module.{name}": tensor for name, tensor in self.student.state_dict().items()},
            "teacher": {f"{wrapped}{name}": tensor for name, tensor in self.teacher.state_dict().items()},
            "dino_loss": {"center": self.center},
        }

    def _remember(self, teacher: Tensor) -> None:
        total = teacher.sum(dim=0, keepdim=True)
        self._seen = total if self._seen is None else self._seen + total
        self._seen_rows += len(teacher)


class _Network(nn.Module):
    """A trunk and its head, under the official names."""

    def __init__(self, recipe: Dino, drop_path: float):
        super().__init__()
        self.backbone = Trunk(recipe.architecture, drop_path)
        start_linears(self.backbone)  # the patch convolution keeps torch's own start
        nn.init.trunc_normal_(self.backbone.cls_token, std=0.02)
        nn.init.trunc_normal_(self.backbone.pos_embed, std=0.02)
        self.head = _Head(recipe)

    def forward(self, crops: Sequence[Tensor], scales: Sequence[Tensor] | None = None) -> Tensor:
        """Logits (sum of all B, K), crop by crop."""
        tokens = self.backbone.crops(crops, scales)
        with torch.autocast(
            tokens.device.type, enabled=False
        ):  # cosines in bf16 would be off by 0.1 after division by the temperature
            return self.head(tokens.float())


class _Head(nn.Module):
    """Class tokens (B, D) -> logits (B, K): three layers, unit length, cosines with K directions times their gains.

    With BatchNorm the statistics are those of all crops that come together, in the teacher too: it stays in train mode.
    """

    def __init__(self, recipe: Dino):
        super().__init__()
        width, hidden, bottleneck = recipe.architecture.width, recipe.hidden, recipe.bottleneck
        norm = [BatchNorm(hidden) for _ in range(2)] if recipe.use_bn_in_head else []
        self.mlp = nn.Sequential(
            *(nn.Linear(width, hidden), *norm[:1], nn.GELU()),
            *(nn.Linear(hidden, hidden), *norm[1:], nn.GELU()),
            nn.Linear(hidden, bottleneck),
        )
        start_linears(self)
        self.last_layer = _Directions(bottleneck, recipe.outputs, gains=not recipe.norm_last_layer)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.last_layer(F.normalize(self.mlp(tokens), dim=-1))


class _Directions(nn.Module):
    """A linear layer without bias; its rows are `weight_v` brought to the lengths `weight_g`, weight_norm's names."""

    def __init__(self, inputs: int, outputs: int, gains: bool):
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(outputs, 1), requires_grad=gains)
        # as nn.Linear starts
        self.weight_v = nn.Parameter(torch.empty(outputs, inputs).uniform_(-(inputs**-0.5), inputs**-0.5))

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight_v * (self.weight_g / self.weight_v.norm(dim=1, keepdim=True)))


def _mean_cross_entropy(predicted: Tensor, targets: Tensor) -> Tensor:
    """The mean over the images, and over all pairs of a target crop g and another crop v != g, of -<t_g, log p_v>.

    `predicted` log p (V, B, K); `targets` t (G, B, K), which belong to the first G crops. The sum over pairs is the
    product of the two sums over crops less the G pairs with g = v: one pass instead of G (V - 1).
    """
    (v, b, _), g = predicted.shape, len(targets)
    agreement = (targets.sum(dim=0) * predicted.sum(dim=0)).sum() - (targets * predicted[:g]).sum()
    return -agreement / (g * (v - 1) * b)


def _entropy(share: Tensor) -> Tensor:
    """The entropies (...) in nats of distributions (..., K)."""
    return -torch.xlogy(share, share).sum(dim=-1)
