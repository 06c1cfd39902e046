"""The linear heads that read one input, trained as a single weight matrix: scores, losses, and all gradients."""

from __future__ import annotations

import weakref
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..seeds import seed_of
from ..training.on_cpu import linear
from .linear_head import BATCH_EPS, LAYER_EPS
from .protocols import Input, Probe

_CACHED_VALUES = 1 << 20  # class scores whose gradient is made at once: 4 MB stay in a CPU's cache


class HeadStack(nn.Module):
    """The K heads of one input, one for each learning rate."""

    def __init__(self, recipe: Probe, one: Input, n_classes: int, seed: int):
        super().__init__()
        k, width = len(recipe.lrs), one.width
        weight = torch.empty(k, n_classes, width)
        # a head's first weights do not depend on who trains beside it
        for member, lr in zip(weight, recipe.lrs, strict=True):
            stream = torch.Generator().manual_seed(seed_of(seed, "head", width, lr))
            if recipe.truncated:
                nn.init.trunc_normal_(member, std=recipe.init_std, a=-2.0, b=2.0, generator=stream)
            else:
                nn.init.normal_(member, std=recipe.init_std, generator=stream)
        self.weight = nn.Parameter(weight)  # (K, C, D)
        self.bias = nn.Parameter(torch.zeros(k, n_classes))
        self.norm = recipe.norm
        if recipe.norm == "batch":
            self.batch_norm = nn.BatchNorm1d(width, eps=BATCH_EPS, affine=False)
        if recipe.norm == "layer":
            self.gain, self.shift = nn.Parameter(torch.ones(k, width)), nn.Parameter(torch.zeros(k, width))
        # where the weights' gradient is made in every step: fresh memory costs a tenth of it
        self._room: Tensor | None = None
        self._lent: weakref.ref[Tensor] | None = None  # alive until backward

    def forward(self, x: Tensor, labels: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of the live heads' losses, and all losses (K,), of features (B, D) and labels (B,)."""
        if self.norm != "layer":
            return _CrossEntropies.apply(self._normed(x), self.weight, self.bias, labels, live, self._gradient())
        scores = self.scores(x)  # (B, K, C)
        losses = F.cross_entropy(
            scores.transpose(1, 2).float(), labels[:, None].expand(-1, scores.shape[1]), reduction="none"
        ).mean(dim=0)
        return losses[live & torch.isfinite(losses)].sum(), losses.detach()

    def scores(self, x: Tensor) -> Tensor:
        """Class scores (n, K, C)."""
        k, c, width = self.weight.shape
        if self.norm == "layer":
            plain = F.layer_norm(x, (width,), eps=LAYER_EPS)
            unit = F.normalize(plain[:, None] * self.gain + self.shift, dim=-1)  # (n, K, D)
            return torch.einsum("nkd,kcd->nkc", unit, self.weight) + self.bias
        return linear(self._normed(x), self.weight.view(k * c, width), self.bias.view(-1)).view(-1, k, c)

    def _gradient(self) -> Tensor:
        """Memory for the gradient of the weights: always the same, unless one lies there still."""
        waits = self._lent is not None and self._lent() is not None  # for its backward
        if waits or self.weight.grad is not None:
            return torch.empty_like(self.weight)
        if self._room is None or self._room.device != self.weight.device:
            self._room = torch.empty_like(self.weight)
        room = self._room.detach()
        self._lent = weakref.ref(room)
        return room

    def _normed(self, x: Tensor) -> Tensor:
        return self.batch_norm(x) if self.norm == "batch" else x

    def tensors(self, member: int) -> dict[str, Tensor]:
        """Everything that one head is."""
        found = {"weight": self.weight[member], "bias": self.bias[member]}
        if self.norm == "batch":
            mean, variance = self.batch_norm.running_mean, self.batch_norm.running_var
            found |= {"mean": mean, "variance": variance}  # type: ignore[dict-item]
        if self.norm == "layer":
            found |= {"gain": self.gain[member], "shift": self.shift[member]}
        return found

    @property
    def values(self) -> int:
        """How many numbers one head is."""
        return sum(tensor.numel() for tensor in self.tensors(0).values())


class _CrossEntropies(torch.autograd.Function):
    """Mean cross-entropies of K linear classifiers on one input, and all of their gradients.

    The gradients are made on the way, a few heads at a time, while their scores lie in the CPU's cache. A sample's loss
    is known up to 87, where its probability is the smallest float32; its gradient is exact.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, live: Tensor, to_weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        b, (k, c, width) = len(x), weight.shape
        half = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        x, share = x.to(half).contiguous(), (x / b).to(half)  # (B, D)
        to_bias, losses = torch.empty_like(bias), torch.empty_like(bias[:, 0])
        together, all_well = max(1, _CACHED_VALUES // (b * c)), True
        for first in range(0, k, together):
            part = slice(first, min(first + together, k))
            matrix = weight[part].view(-1, width).to(half)  # (k'C, D)
            scores = torch.mm(x, matrix.t()).float().add_(bias[part].view(-1))
            change, losses[part], well = _changes(scores.view(b, -1, c), labels, live[part])
            all_well = all_well and well
            flat = change.view(b, -1)  # (B, k'C)
            torch.sum(flat, 0, out=to_bias[part].view(-1))
            if half == to_weight.dtype:
                torch.mm(flat.t(), share, out=to_weight[part].view(-1, width))
            else:
                to_weight[part] = torch.mm(flat.t().to(half), share).view(-1, c, width)
        ctx.gradients = to_weight, to_bias.div_(b)
        ctx.mark_non_differentiable(losses)
        ctx.set_materialize_grads(False)
        return (losses if all_well else losses.where(live & torch.isfinite(losses), 0.0)).sum(), losses

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        # nobody else holds them: they become the parameters' own
        (to_weight, to_bias), ctx.gradients = ctx.gradients, None
        if gradient.device.type != "cpu" or gradient != 1:
            to_weight, to_bias = to_weight * gradient, to_bias * gradient
        return None, to_weight, to_bias, None, None, None


def _changes(scores: Tensor, labels: Tensor, live: Tensor) -> tuple[Tensor, Tensor, bool]:
    """The gradient (B, K, C) of the sum of cross-entropies over the batch by the scores (B, K, C), and their mean (K,).

    Heads that are not `live` (K,), or whose loss is not finite, have no gradient at all; last, whether there are
    none such.
    """
    shares = torch.softmax(scores, dim=2)
    place = labels.view(-1, 1, 1).expand(-1, scores.shape[1], 1)
    own = shares.gather(2, place)  # (B, K, 1)
    losses = own.clamp_min(torch.finfo(torch.float32).tiny).log_().mean(dim=(0, 2)).neg_()  # NaN stays NaN
    shares.scatter_(2, place, own.sub_(1.0))
    well = live & torch.isfinite(losses)
    if not (all_well := bool(well.all())):
        shares[:, ~well] = 0.0
    return shares, losses, all_well
