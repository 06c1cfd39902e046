"""Linear classifiers that are trained together on frozen features, a grid of inputs and learning rates.

All heads that read the same input are one weight matrix, so that a grid of learning rates costs one product forward and
one backward for each input, whatever their number. The heads do not touch one another: their losses are summed, and one
that diverges is left out of the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import NumericalError
from ..training.distributed import mean_over_processes
from ..training.recipe import Step
from ..training.task import ParameterGroup
from .head_stack import HeadStack
from .linear_head import CHUNK_VALUES, LinearHead
from .optimizers import OPTIMIZERS
from .protocols import Input, Probe

_NEVER = -1  # the step in which a head diverged that did not


class HeadGrid(nn.Module):
    """A grid of heads, inputs x learning rates, as a task of the training loop."""

    diverged: Tensor
    best: Tensor
    best_values: Tensor

    def __init__(self, recipe: Probe, inputs: Sequence[Input], n_classes: int, seed: int):
        super().__init__()
        self.recipe, self.inputs, self.n_classes = recipe, tuple(inputs), n_classes
        self.each = nn.ModuleDict({one.name: HeadStack(recipe, one, n_classes, seed) for one in self.inputs})
        heads = len(self.inputs) * len(recipe.lrs)
        # (H,) the step in which a head's loss was no longer finite
        self.register_buffer("diverged", torch.full((heads,), _NEVER))
        # of the best head so far: its number, the epochs after which it was evaluated, top-1 in percent, mean loss;
        # then its tensors
        self.register_buffer("best", torch.tensor([-1.0, 0.0, -1.0, torch.inf], dtype=torch.float64))
        self.register_buffer("best_values", torch.zeros(max(one.values for one in self.stacks)))

    @property
    def stacks(self) -> list[HeadStack]:
        """The heads of each input, in the order of `inputs`."""
        return list(self.each.values())  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.diverged)

    def describe(self, number: int) -> dict[str, Any]:
        """`lr` of the grid, `layers` and `pool` of a head; the latter two only where the backbone was asked."""
        place, rate = divmod(number, len(self.recipe.lrs))
        one = self.inputs[place]
        return {
            "lr": self.recipe.lrs[rate],
            **({"layers": one.layers, "pool": one.pool} if one.pool is not None else {}),
        }

    # ---- what the loop asks

    def groups(self) -> list[ParameterGroup]:
        """Weights, which decay, and what has one dimension for each head; each head has its own learning rate."""
        rates = torch.tensor([self.recipe.scaled_lr(lr) for lr in self.recipe.lrs], dtype=torch.float64)
        groups: list[ParameterGroup] = []
        for decays in (True, False):
            named = [(name, parameter) for name, parameter in self.named_parameters() if (parameter.ndim > 2) == decays]
            groups.append(
                {
                    "params": [p for _, p in named],
                    "names": [name for name, _ in named],
                    "decays": decays,
                    "lr_scale": rates,
                }
            )
        return groups

    def optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The protocol's."""
        return OPTIMIZERS[self.recipe.optimizer](groups, momentum=self.recipe.momentum)

    def schedule(self, step: Step) -> dict[str, float]:
        """`lr`, here the share of its peak that every head's has; `weight_decay`, which is constant."""
        return {"lr": self.recipe.lr_factor(step), "weight_decay": self.recipe.weight_decay}

    def forward(self, inputs: Sequence[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the live heads' losses on features (B, D') and labels (B,).

        For the log their mean, the least of them, and how many heads are live. Raises NumericalError where none is.
        """
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
            raise NumericalError(
                f"every head diverged by step {step.index} (learning rates {rates})", fix="Give smaller ones with --lr."
            )
        return torch.stack(totals).sum(), {"loss": each.mean(), "best_loss": each.min(), "live_heads": well.sum()}

    def clip(self) -> Tensor:
        """Nothing is clipped: the norm of the biases' gradient, as a sign of life that costs nothing."""
        return torch.linalg.vector_norm(
            torch.cat([stack.bias.grad.flatten() for stack in self.stacks if stack.bias.grad is not None])
        )

    def before_update(self, step: Step) -> None:
        """Nothing is held back."""

    def after_update(self, step: Step) -> None:
        """Nothing follows a step."""

    # ---- selection

    @torch.no_grad()
    def evaluate(self, features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Top-1 in percent (H,) and mean loss (H,) of every head on features (n, D') and labels (n,).

        Those of a diverged head are -1 and inf.
        """
        training, device = self.training, self.diverged.device
        self.eval()
        right, loss = (torch.zeros(len(self), dtype=torch.float64, device=device) for _ in range(2))
        rows = max(1, CHUNK_VALUES // (len(self.recipe.lrs) * self.n_classes))
        for start in range(0, len(labels), rows):
            part, wanted = (
                torch.from_numpy(np.ascontiguousarray(a[start : start + rows])).to(device) for a in (features, labels)
            )
            scores = [
                stack.scores(part[:, one.start : one.stop]) for stack, one in zip(self.stacks, self.inputs, strict=True)
            ]
            both = [_hits_and_losses(of_input, wanted) for of_input in scores]
            right += torch.cat([hits for hits, _ in both])
            loss += torch.cat([losses for _, losses in both])
        self.train(training)
        gone = (self.diverged != _NEVER) | ~torch.isfinite(loss)
        top1 = (100.0 * right / len(labels)).masked_fill(gone, -1.0)
        return top1.cpu().numpy(), (loss / len(labels)).masked_fill(gone, torch.inf).cpu().numpy()

    @torch.no_grad()
    def keep_best(self, top1: np.ndarray, loss: np.ndarray, epochs: int) -> None:
        """Keep a copy of the best head of top-1 and loss (H,) if it is better than the one kept.

        By top-1, then by its loss; of equals the earlier one.
        """
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

    def kept_head(self) -> tuple[int, int, LinearHead]:
        """Number of the head that was kept, the epochs after which it was, and itself. On the CPU."""
        number, epochs = int(self.best[0]), int(self.best[1])
        stack, tensors, start = self.stacks[number // len(self.recipe.lrs)], {}, 0
        for name, like in stack.tensors(number % len(self.recipe.lrs)).items():
            tensors[name] = self.best_values[start : start + like.numel()].view_as(like).detach().cpu().clone()
            start += like.numel()
        return number, epochs, LinearHead(tensors.pop("weight"), tensors.pop("bias"), self.recipe.norm, tensors)


def _hits_and_losses(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """How often each of K heads is right, and the sum of its losses, as (K,) float64, from scores (n, K, C)."""
    scores = scores.float()
    hits = (scores.argmax(dim=2) == labels[:, None]).sum(dim=0, dtype=torch.float64)
    own = scores.gather(2, labels.view(-1, 1, 1).expand(-1, scores.shape[1], 1))[..., 0]
    return hits, (torch.logsumexp(scores, dim=2) - own).sum(dim=0, dtype=torch.float64)
