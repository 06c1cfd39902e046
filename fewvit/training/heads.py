"""Linear classifiers that train side by side on frozen features, and a single one of them, as it is kept and evaluated.

All heads that read the same input are one weight matrix, so that a grid of learning rates costs one product forward and one backward for
each input, whatever their number. The heads do not touch one another: their losses are summed, and one that diverges is left out of the sum.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints import read_checkpoint, require_finite
from ..errors import CheckpointError, NumericalError
from ..files import replacing
from ..seeds import seed_of
from .distributed import mean_over_processes
from .lars import OPTIMIZERS
from .on_cpu import linear
from .probes import Input, Probe
from .recipe import Step

_BATCH_EPS, _LAYER_EPS = 1e-6, 1e-5  # MAE's BatchNorm, MSN's LayerNorm
_CHUNK_VALUES = 1 << 22  # class scores at once
_CACHED_VALUES = 1 << 20  # class scores whose gradient is made at once: 4 MB stay in a CPU's cache
_NEVER = -1  # the step in which a head diverged that did not


@dataclass(frozen=True)
class Head:
    """One linear classifier and what comes before it."""

    weight: Tensor  # (C, D)
    bias: Tensor  # (C,)
    norm: str = "none"  # none, batch, layer; as in `Probe`
    statistics: Mapping[str, Tensor] = field(default_factory=dict)  # of the norm: mean and variance, or gain and shift; (D,)

    def scores(self, x: Tensor) -> Tensor:
        """Class scores (n, C) of features (n, D)."""
        s = self.statistics
        if self.norm == "batch":
            x = (x - s["mean"]) / torch.sqrt(s["variance"] + _BATCH_EPS)
        elif self.norm == "layer":
            x = F.normalize(F.layer_norm(x, x.shape[-1:], s["gain"], s["shift"], _LAYER_EPS), dim=-1)
        return F.linear(x, self.weight, self.bias)

    def chunked_scores(self, features: np.ndarray) -> np.ndarray:
        """Class scores (n, C) float32 of features (n, D), a chunk at a time."""
        rows = max(1, _CHUNK_VALUES // len(self.weight))
        with torch.no_grad():
            return np.concatenate([self.scores(torch.from_numpy(part)).numpy() for part in _parts(features, rows)])

    def save(self, file: Path, about: Mapping[str, Any]) -> None:
        """Replace `file` by a safetensors file; `about` (classes, input, protocol) stands in its header."""
        from safetensors.torch import save

        tensors = {"weight": self.weight, "bias": self.bias, **{f"norm.{name}": value for name, value in self.statistics.items()}}
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with replacing(file) as handle:  # one entry in the header: safetensors writes several in random order
            handle.write(save(plain, {"fewvit": json.dumps({**about, "norm": self.norm}, sort_keys=True)}))


def load_head(file: Path) -> tuple[Head, dict[str, Any]]:
    """The linear head in a file, and what it tells about itself: DINO's `state_dict`, DINOv2's two tensors, or one of our own.

    Raises DataError for a file that is not there, CheckpointError for what is no linear head or not finite.
    """
    tree = read_checkpoint(file)
    about = _header(file)
    flat = tree.get("state_dict", tree)
    named = {str(name).removeprefix("module.").removeprefix("linear."): value for name, value in flat.items() if isinstance(value, Tensor)}
    weight, bias = named.get("weight"), named.get("bias")
    if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise CheckpointError(
            f"no linear head: a weight (classes, width) and a bias (classes,) are expected, it holds {', '.join(list(map(str, flat))[:4])}",
            file=file,
            fix="Give a file such as dino_deitsmall16_linearweights.pth or dinov2_vits14_linear_head.pth, or RUN/head.safetensors.",
        )
    require_finite(named, file)
    statistics = {name.removeprefix("norm."): value.float() for name, value in named.items() if name.startswith("norm.")}
    return Head(weight.float(), bias.float(), about.get("norm", "none"), statistics), about


def _header(file: Path) -> dict[str, Any]:
    """What `Head.save` wrote beside the tensors; nothing for other files."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            found = json.loads((opened.metadata() or {}).get("fewvit", "{}"))
    except (SafetensorError, ValueError, OSError):  # another format, which read_checkpoint has judged already
        return {}
    return found if isinstance(found, dict) else {}


class Heads(nn.Module):
    """A grid of heads, inputs x learning rates, as a task of the training loop."""

    diverged: Tensor
    best: Tensor
    best_values: Tensor

    def __init__(self, recipe: Probe, inputs: Sequence[Input], n_classes: int, seed: int):
        super().__init__()
        self.recipe, self.inputs, self.n_classes = recipe, tuple(inputs), n_classes
        self.each = nn.ModuleDict({one.name: _SideBySide(recipe, one, n_classes, seed) for one in self.inputs})
        heads = len(self.inputs) * len(recipe.lrs)
        self.register_buffer("diverged", torch.full((heads,), _NEVER))  # the step in which a head's loss was no longer finite
        # of the best head so far: its number, the epochs after which it was judged, top-1 in percent, mean loss; then its tensors
        self.register_buffer("best", torch.tensor([-1.0, 0.0, -1.0, torch.inf], dtype=torch.float64))
        self.register_buffer("best_values", torch.zeros(max(one.values for one in self.stacks)))

    @property
    def stacks(self) -> list[_SideBySide]:
        """The heads of each input, in the order of `inputs`."""
        return list(self.each.values())  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.diverged)

    def describe(self, number: int) -> dict[str, Any]:
        """`lr` of the grid, `layers` and `pool` of a head; the latter two only where the backbone was asked."""
        place, rate = divmod(number, len(self.recipe.lrs))
        one = self.inputs[place]
        return {"lr": self.recipe.lrs[rate], **({"layers": one.layers, "pool": one.pool} if one.pool is not None else {})}

    # ---- what the loop asks

    def groups(self) -> list[dict[str, Any]]:
        rates = torch.tensor([self.recipe.scaled_lr(lr) for lr in self.recipe.lrs], dtype=torch.float64)
        named = list(self.named_parameters())
        return [
            {"params": [p for n, p in named if wide(p)], "names": [n for n, p in named if wide(p)], "decays": decays, "lr_scale": rates}
            for decays, wide in ((True, lambda p: p.ndim > 2), (False, lambda p: p.ndim <= 2))
        ]

    def optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The protocol's."""
        return OPTIMIZERS[self.recipe.optimizer](groups, momentum=self.recipe.momentum)

    def schedule(self, step: Step) -> dict[str, float]:
        return {"lr": self.recipe.lr_factor(step), "weight_decay": self.recipe.weight_decay}

    def forward(self, inputs: Sequence[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the live heads' losses on features (B, D') and labels (B,); their mean and the least of them for the log."""
        x, labels = inputs
        live = self.diverged == _NEVER  # (H,)
        totals, losses = zip(
            *(
                stack(x[:, one.start : one.stop], labels, part)
                for stack, one, part in zip(self.stacks, self.inputs, live.split(len(self.recipe.lrs)), strict=True)
            ),
            strict=True,
        )
        each = mean_over_processes(torch.cat(losses).detach())  # (H,)
        well = live & torch.isfinite(each)
        if not bool(well.all()):
            self.diverged.masked_fill_(live & ~well, step.index)
            each = each[well]
        if len(each) == 0:
            rates = ", ".join(f"{lr:g}" for lr in self.recipe.lrs)
            raise NumericalError(f"every head diverged by step {step.index} (learning rates {rates})", fix="Give smaller ones with --lr.")
        return torch.stack(totals).sum(), {"loss": each.mean(), "best_loss": each.min(), "live_heads": well.sum()}

    def clip(self) -> Tensor:
        """Nothing is clipped: the norm of the biases' gradient, as a sign of life that costs nothing."""
        return torch.linalg.vector_norm(torch.cat([stack.bias.grad.flatten() for stack in self.stacks if stack.bias.grad is not None]))

    def before_update(self, step: Step) -> None:
        pass

    def after_update(self, step: Step) -> None:
        pass

    # ---- judging

    @torch.no_grad()
    def judge(self, features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Top-1 in percent (H,) and mean loss (H,) of every head on features (n, D') and labels (n,); -1 and inf for a diverged one."""
        training, device = self.training, self.diverged.device
        self.eval()
        right, loss = (torch.zeros(len(self), dtype=torch.float64, device=device) for _ in range(2))
        rows = max(1, _CHUNK_VALUES // (len(self.recipe.lrs) * self.n_classes))
        for start in range(0, len(labels), rows):
            part, wanted = (torch.from_numpy(np.ascontiguousarray(a[start : start + rows])).to(device) for a in (features, labels))
            scores = [stack.scores(part[:, one.start : one.stop]) for stack, one in zip(self.stacks, self.inputs, strict=True)]
            both = [_hits_and_losses(of_input, wanted) for of_input in scores]
            right += torch.cat([hits for hits, _ in both])
            loss += torch.cat([losses for _, losses in both])
        self.train(training)
        gone = (self.diverged != _NEVER) | ~torch.isfinite(loss)
        top1 = (100.0 * right / len(labels)).masked_fill(gone, -1.0)
        return top1.cpu().numpy(), (loss / len(labels)).masked_fill(gone, torch.inf).cpu().numpy()

    @torch.no_grad()
    def keep_best(self, top1: np.ndarray, loss: np.ndarray, epochs: int) -> None:
        """Keep a copy of the best head if it is better than the one kept: by top-1, then by its loss, then the earlier."""
        number = int(np.lexsort((np.arange(len(top1)), loss, -top1))[0])
        _, _, before, before_loss = self.best.tolist()
        if top1[number] < 0 or (-top1[number], loss[number]) >= (-before, before_loss):
            return
        self.keep(number, epochs, float(top1[number]), float(loss[number]))

    @torch.no_grad()
    def keep(self, number: int, epochs: int, top1: float = -1.0, loss: float = torch.inf) -> None:
        """Keep a copy of one head as it is now."""
        place, rate = divmod(number, len(self.recipe.lrs))
        values = torch.cat([tensor.flatten() for tensor in self.stacks[place].tensors(rate).values()])
        self.best_values[: len(values)] = values
        self.best.copy_(torch.tensor([number, epochs, top1, loss], dtype=torch.float64))

    def kept(self) -> tuple[int, int, Head]:
        """Number of the head that was kept, the epochs after which it was, and itself. On the CPU."""
        number, epochs = int(self.best[0]), int(self.best[1])
        stack, tensors, start = self.stacks[number // len(self.recipe.lrs)], {}, 0
        for name, like in stack.tensors(number % len(self.recipe.lrs)).items():
            tensors[name] = self.best_values[start : start + like.numel()].view_as(like).detach().cpu().clone()
            start += like.numel()
        return number, epochs, Head(tensors.pop("weight"), tensors.pop("bias"), self.recipe.norm, tensors)


class _SideBySide(nn.Module):
    """The K heads of one input, one for each learning rate."""

    def __init__(self, recipe: Probe, one: Input, n_classes: int, seed: int):
        super().__init__()
        k, width = len(recipe.lrs), one.width
        weight = torch.empty(k, n_classes, width)
        for member, lr in zip(weight, recipe.lrs, strict=True):  # a head's first weights do not depend on who trains beside it
            stream = torch.Generator().manual_seed(seed_of(seed, "head", one.name, lr))
            if recipe.truncated:
                nn.init.trunc_normal_(member, std=recipe.init_std, a=-2.0, b=2.0, generator=stream)
            else:
                nn.init.normal_(member, std=recipe.init_std, generator=stream)
        self.weight = nn.Parameter(weight)  # (K, C, D)
        self.bias = nn.Parameter(torch.zeros(k, n_classes))
        self.norm = recipe.norm
        if recipe.norm == "batch":
            self.batch_norm = nn.BatchNorm1d(width, eps=_BATCH_EPS, affine=False)
        if recipe.norm == "layer":
            self.gain, self.shift = nn.Parameter(torch.ones(k, width)), nn.Parameter(torch.zeros(k, width))
        self._room: Tensor | None = None  # where the weights' gradient is made in every step: fresh memory costs a tenth of it
        self._lent: weakref.ref[Tensor] | None = None  # alive until backward

    def forward(self, x: Tensor, labels: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of the live heads' losses, and all losses (K,), of features (B, D) and labels (B,)."""
        if self.norm != "layer":
            return _CrossEntropies.apply(self._normed(x), self.weight, self.bias, labels, live, self._gradient())
        scores = self.scores(x)  # (B, K, C)
        losses = F.cross_entropy(scores.transpose(1, 2).float(), labels[:, None].expand(-1, scores.shape[1]), reduction="none").mean(dim=0)
        return losses[live & torch.isfinite(losses)].sum(), losses.detach()

    def scores(self, x: Tensor) -> Tensor:
        """Class scores (n, K, C)."""
        k, c, width = self.weight.shape
        if self.norm == "layer":
            plain = F.layer_norm(x, (width,), eps=_LAYER_EPS)
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
            found |= {"mean": self.batch_norm.running_mean, "variance": self.batch_norm.running_var}  # type: ignore[dict-item]
        if self.norm == "layer":
            found |= {"gain": self.gain[member], "shift": self.shift[member]}
        return found

    @property
    def values(self) -> int:
        """How many numbers one head is."""
        return sum(tensor.numel() for tensor in self.tensors(0).values())


class _CrossEntropies(torch.autograd.Function):
    """Mean cross-entropies of K linear classifiers on one input, and all of their gradients.

    The gradients are made on the way, a few heads at a time, while their scores lie in the CPU's cache. A sample's loss is told up to 87,
    where its probability is the smallest float32; its gradient is exact.
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
        (to_weight, to_bias), ctx.gradients = ctx.gradients, None  # nobody else holds them: they become the parameters' own
        if gradient.device.type != "cpu" or gradient != 1:
            to_weight, to_bias = to_weight * gradient, to_bias * gradient
        return None, to_weight, to_bias, None, None, None


def _changes(scores: Tensor, labels: Tensor, live: Tensor) -> tuple[Tensor, Tensor, bool]:
    """The gradient (B, K, C) of the sum of cross-entropies over the batch by the scores (B, K, C), and their mean (K,).

    Heads that are not `live` (K,), or whose loss is not finite, have no gradient at all; last, whether there are none such.
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


def _hits_and_losses(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """How often each of K heads is right, and the sum of its losses, as (K,) float64, from scores (n, K, C)."""
    scores = scores.float()
    hits = (scores.argmax(dim=2) == labels[:, None]).sum(dim=0, dtype=torch.float64)
    own = scores.gather(2, labels.view(-1, 1, 1).expand(-1, scores.shape[1], 1))[..., 0]
    return hits, (torch.logsumexp(scores, dim=2) - own).sum(dim=0, dtype=torch.float64)


def _parts(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, max(1, len(rows)), size):
        yield np.ascontiguousarray(rows[start : start + size])
