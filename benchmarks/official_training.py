"""The official training steps of DINO, MAE and MSN, written from their description.

Eager blocks with plain attention, loops over crops and tensors.

Sources: the papers with their appendices and the training scripts of facebookresearch/dino, mae and msn as documented.
Networks are dictionaries of parameters under fewvit's names, so that both sides begin with the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .official import blocks

Weights = Mapping[str, Tensor]


def patches(images: Tensor, weights: Weights, prefix: str = "") -> Tensor:
    """Patch tokens (B, N, D) with their positions, resized by a factor as DINO does where the image is smaller."""
    kernel = weights[f"{prefix}patch_embed.proj.weight"]
    x = F.conv2d(images, kernel, weights[f"{prefix}patch_embed.proj.bias"], stride=kernel.shape[-1])
    rows, columns = x.shape[-2:]
    table = weights[f"{prefix}pos_embed"][:, 1:]
    grid = round(table.shape[1] ** 0.5)
    if (rows, columns) != (grid, grid):
        scale = ((rows + 0.1) / grid, (columns + 0.1) / grid)
        square = table.reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
        table = F.interpolate(square, scale_factor=scale, mode="bicubic").flatten(2).transpose(1, 2)
    return x.flatten(2).transpose(1, 2) + table


def class_tokens(images: Tensor, weights: Weights, prefix: str, heads: int, keep: Tensor | None = None) -> Tensor:
    """Normed class tokens (B, D); of the patches only those numbered `keep` (K,) go in."""
    x = patches(images, weights, prefix)
    x = x if keep is None else x[:, keep]
    first = weights[f"{prefix}cls_token"] + weights[f"{prefix}pos_embed"][:, :1]
    x = blocks(torch.cat([first.expand(len(x), -1, -1), x], dim=1), weights, f"{prefix}blocks.", heads)
    return F.layer_norm(x, x.shape[-1:], weights[f"{prefix}norm.weight"], weights[f"{prefix}norm.bias"], 1e-6)[:, 0]


def parameters(task: Any, part: str) -> dict[str, Tensor]:
    """Copies of one network's parameters."""
    prefix = f"{part}." if part else ""
    named = dict(task.named_parameters())
    return {
        name.removeprefix(prefix): value.detach().clone().requires_grad_(value.requires_grad)
        for name, value in named.items()
        if name.startswith(prefix)
    }


def adamw(weights: Weights, betas: tuple[float, float] = (0.9, 0.999)) -> torch.optim.AdamW:
    """AdamW as the scripts call it, with and without weight decay."""
    trained = {name: value for name, value in weights.items() if value.requires_grad}
    spared = [value for name, value in trained.items() if name.endswith(".bias") or value.ndim <= 1]
    decaying = [value for name, value in trained.items() if not (name.endswith(".bias") or value.ndim <= 1)]
    return torch.optim.AdamW([{"params": decaying}, {"params": spared, "weight_decay": 0.0}], lr=0.0, betas=betas)


def update(optimizer: torch.optim.AdamW, loss: Tensor, knobs: Mapping[str, float], clip: Callable[[], None]) -> float:
    """One optimizer step; the loss."""
    for i, group in enumerate(optimizer.param_groups):
        group["lr"] = knobs["lr"]
        if i == 0:
            group["weight_decay"] = knobs["weight_decay"]
    optimizer.zero_grad()
    loss.backward()
    clip()
    optimizer.step()
    return loss.item()


# ---- DINO


class DinoStep:
    """`step(views, knobs)` does what one iteration of the official script does."""

    def __init__(self, task: Any):
        self.recipe = task.recipe
        self.student, self.teacher = parameters(task, "student"), parameters(task, "teacher")
        self.optimizer, self.center = adamw(self.student), torch.zeros_like(task.center)

    def network(self, crops: Sequence[Tensor], weights: Weights) -> Tensor:
        sizes = [crop.shape[-1] for crop in crops]
        found = []
        for size in dict.fromkeys(sizes):
            same = torch.cat([crop for crop in crops if crop.shape[-1] == size])
            found.append(class_tokens(same, weights, "backbone.", self.recipe.architecture.heads))
        x = torch.cat(found)
        for i in (0, 2, 4):
            x = F.linear(x, weights[f"head.mlp.{i}.weight"], weights[f"head.mlp.{i}.bias"])
            x = F.gelu(x) if i < 4 else x
        return F.linear(
            F.normalize(x, dim=-1),
            torch._weight_norm(weights["head.last_layer.weight_v"], weights["head.last_layer.weight_g"]),
        )

    def loss(self, student: Tensor, teacher: Tensor, temperature: float, crops: int) -> Tensor:
        students = (student / self.recipe.student_temperature).chunk(crops)
        teachers = F.softmax((teacher - self.center) / temperature, dim=-1).detach().chunk(2)
        total, terms = torch.zeros(()), 0
        for i, taught in enumerate(teachers):
            for v, seen in enumerate(students):
                if v != i:
                    total = total + torch.sum(-taught * F.log_softmax(seen, dim=-1), dim=-1).mean()
                    terms += 1
        with torch.no_grad():
            mean = teacher.sum(dim=0, keepdim=True) / len(teacher)
            momentum = self.recipe.center_momentum
            self.center = self.center * momentum + mean * (1 - momentum)
        return total / terms

    def clip(self) -> None:
        for name, value in self.student.items():
            if value.grad is not None:
                if self.recipe.clip:
                    factor = self.recipe.clip / (value.grad.norm(2) + 1e-6)
                    if factor < 1:
                        value.grad.mul_(factor)
                if "last_layer" in name and self.frozen:
                    value.grad = None

    def __call__(self, views: Sequence[Tensor], step: Any, knobs: Mapping[str, float]) -> float:
        self.frozen = step.epoch < self.recipe.freeze_last_layer
        with torch.no_grad():
            taught = self.network(views[:2], self.teacher)
        loss = self.loss(self.network(views, self.student), taught, knobs["temperature"], len(views))
        found = update(self.optimizer, loss, knobs, self.clip)
        with torch.no_grad():
            for name, slow in self.teacher.items():
                slow.mul_(knobs["momentum"]).add_((1 - knobs["momentum"]) * self.student[name])
        return found


# ---- MAE


class MaeStep:
    """One iteration of the official script; `noise` (B, N) decides the mask."""

    def __init__(self, task: Any):
        self.recipe = task.recipe
        self.weights = {name.removeprefix("trunk."): value for name, value in parameters(task, "").items()}
        self.optimizer = adamw(self.weights, self.recipe.betas)

    def __call__(self, views: Sequence[Tensor], noise: Tensor, knobs: Mapping[str, float]) -> float:
        images, w, r = views[0], self.weights, self.recipe
        x = patches(images, w)
        n, d = x.shape[1:]
        kept = int(n * (1 - r.mask_ratio))
        shuffle = torch.argsort(noise, dim=1)
        restore = torch.argsort(shuffle, dim=1)
        x = torch.gather(x, 1, shuffle[:, :kept].unsqueeze(-1).repeat(1, 1, d))
        mask = torch.ones(len(x), n)
        mask[:, :kept] = 0
        mask = torch.gather(mask, 1, restore)
        first = w["cls_token"] + w["pos_embed"][:, :1]
        x = blocks(torch.cat([first.expand(len(x), -1, -1), x], dim=1), w, "blocks.", r.architecture.heads)
        x = F.layer_norm(x, (d,), w["norm.weight"], w["norm.bias"], 1e-6)
        x = F.linear(x, w["decoder_embed.weight"], w["decoder_embed.bias"])
        tokens = w["mask_token"].repeat(len(x), n + 1 - x.shape[1], 1)
        y = torch.cat([x[:, 1:], tokens], dim=1)
        y = torch.gather(y, 1, restore.unsqueeze(-1).repeat(1, 1, x.shape[2]))
        x = torch.cat([x[:, :1], y], dim=1) + w["decoder_pos_embed"]
        x = blocks(x, w, "decoder_blocks.", r.decoder_heads)
        x = F.layer_norm(x, x.shape[-1:], w["decoder_norm.weight"], w["decoder_norm.bias"], 1e-6)
        x = F.linear(x, w["decoder_pred.weight"], w["decoder_pred.bias"])[:, 1:]
        p = r.architecture.patch
        side = images.shape[-1] // p
        target = torch.einsum("nchpwq->nhwpqc", images.reshape(-1, 3, side, p, side, p)).reshape(
            len(images), side**2, -1
        )
        if r.normalised_pixels:
            target = (target - target.mean(dim=-1, keepdim=True)) / (target.var(dim=-1, keepdim=True) + 1e-6) ** 0.5
        loss = ((x - target) ** 2).mean(dim=-1)
        return update(self.optimizer, (loss * mask).sum() / mask.sum(), knobs, lambda: None)


# ---- MSN


class MsnStep:
    """One iteration of the official script; the random anchor sees the patches numbered `keep` (K,)."""

    def __init__(self, task: Any):
        self.recipe = task.recipe
        self.anchor, self.target = parameters(task, "anchor"), parameters(task, "target")
        self.prototypes = task.prototypes.detach().clone().requires_grad_()
        self.optimizer = adamw(self.anchor)
        self.optimizer.add_param_group({"params": [self.prototypes], "weight_decay": 0.0})

    def project(self, images: Tensor, weights: Weights, keep: Tensor | None = None) -> Tensor:
        x = class_tokens(images, weights, "trunk.", self.recipe.architecture.heads, keep)
        for i in (1, 2):
            x = F.linear(x, weights[f"fc.fc{i}.weight"], weights[f"fc.fc{i}.bias"])
            x = F.batch_norm(x, None, None, weights[f"fc.bn{i}.weight"], weights[f"fc.bn{i}.bias"], training=True)
            x = F.gelu(x)
        return F.linear(x, weights["fc.fc3.weight"], weights["fc.fc3.bias"])

    def assigned(self, features: Tensor) -> Tensor:
        r, number = self.recipe, len(self.prototypes)
        p = F.softmax(F.normalize(features) @ F.normalize(self.prototypes).T / r.temperature, dim=1)
        # each prototype has a label, smoothed as labels are
        labels = (1 - r.label_smoothing) * torch.eye(number, dtype=p.dtype) + r.label_smoothing / number
        return p @ labels

    def __call__(self, views: Sequence[Tensor], keep: Tensor | None, knobs: Mapping[str, float]) -> float:
        r = self.recipe
        with torch.no_grad():
            whole = self.project(views[0], self.target)
            targets = self.assigned(whole) ** (1 / knobs["sharpening"])
            targets = targets / targets.sum(dim=1, keepdim=True)
            if r.sinkhorn:
                q = (targets / targets.sum()).T
                for _ in range(r.sinkhorn_rounds):
                    q = q / q.sum(dim=1, keepdim=True) / q.shape[0]
                    q = q / q.sum(dim=0, keepdim=True) / q.shape[1]
                targets = (q * q.shape[1]).T
        seen = [self.project(views[1], self.anchor, keep), self.project(torch.cat(list(views[2:])), self.anchor)]
        p = self.assigned(torch.cat(seen))
        targets = targets.repeat(len(views) - 1, 1)
        mean = p.mean(dim=0)
        loss = torch.mean(torch.sum(torch.log(p ** (-targets)), dim=1)) + r.memax_weight * (
            math.log(len(mean)) + torch.sum(torch.log(mean**mean))
        )
        if r.entropy_weight:
            loss = loss + r.entropy_weight * torch.mean(torch.sum(torch.log(p ** (-p)), dim=1))
        found = update(
            self.optimizer,
            loss,
            knobs,
            lambda: torch.nn.utils.clip_grad_norm_(list(self.anchor.values()), r.clip) and None,
        )
        with torch.no_grad():
            for name, slow in self.target.items():
                slow.mul_(knobs["momentum"]).add_((1 - knobs["momentum"]) * self.anchor[name])
        return found
