"""Three steps of MSN in float32, ours and the official script's, beside the same steps in float64.

Steps that follow one another drift from float64, with label smoothing 0.1 and entropy 0.3 by 4e-4 in the loss of the
second step and 2e-3 in that of the third. Neither side's loss is to blame: both are within 1e-6 of float64 at the same
weights, in every setting, and both drift alike. What float32 rounds is the gradient, by some 2e-5 of a tensor's root
mean square on either side. Where a weight's own gradient is below that, its sign is chance; and AdamW's first step is
the learning rate times the sign. One such weight of the patch convolution, 1.4e-7 in float64, -1.5e-7 in float32, made
the whole 4e-4. So each step is compared from the weights of float64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.official_training import MsnStep
from fewvit.backbones import Architecture
from fewvit.checkpoints.reading import read_checkpoint
from fewvit.methods._msn_task import MsnTask
from fewvit.methods.msn import Msn
from fewvit.training.loop import Execution, Run
from fewvit.training.order import Order
from fewvit.training.signals import Stopping
from fewvit.views.view import View

RECIPE = Msn(  # of views that need no other positions than the stored ones
    architecture=Architecture(64, 2, 1, 16, grid=14, positions="msn"),
    views=(View(224, (0.3, 1.0)), View(224, (0.3, 1.0)), View(224, (0.05, 0.3), count=2)),
    epochs=8,
    batch_size=4,
    warmup_epochs=1,
    start_lr=1e-3,
    patch_drop=0.0,
    prototypes=48,
    projector_width=128,
    out_width=32,
)
STEPS = 3
SETTINGS = [(0.0, 0.0), (0.1, 0.0), (0.0, 0.3), (0.1, 0.3)]  # label smoothing, weight of the anchors' entropy


@pytest.fixture(scope="module")
def stored(parity) -> Mapping[str, Any]:
    return read_checkpoint(parity.folder / "msn.pth.tar")


@pytest.fixture(scope="module")
def images(parity) -> Tensor:
    """Four images (4, 3, 224, 224) under MSN's transform."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = torch.from_numpy(parity.arrays("preprocess.npz")["msn"][:4])
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std


def views_of(images: Tensor, step: int) -> list[Tensor]:
    return [images, images.flip(3), images.roll(16 * step + 5, 3), images.flip(2).roll(8 * step + 3, 2)]


@dataclasses.dataclass(frozen=True)
class Found:
    """What one way makes of a step: the loss, and the gradients by their parameters' names."""

    loss: float
    gradients: dict[str, Tensor]


class Sides:
    """Our step and the official one in float32, each from the weights that the official one in float64 has got to."""

    def __init__(self, stored: Mapping[str, Any], smoothing: float, entropy: float):
        self.task = MsnTask(dataclasses.replace(RECIPE, label_smoothing=smoothing, entropy_weight=entropy))
        self.task.start_from_official(stored)
        self.task.train()
        self.exact = MsnStep(self.task.double())
        self.official = MsnStep(self.task.float())
        self.order = Order(64, 4, RECIPE.epochs, seed=0)
        self.run = Run(self.task, self.order, Execution())
        self._own: dict[str, Tensor] = {}  # the run drops gradients after its step
        for name, parameter in self.task.anchor.named_parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(
                    lambda p, name=name: self._own.__setitem__(name, p.grad.clone())
                )

    @torch.no_grad()
    def meet(self) -> None:
        """Give both ways in float32 the weights of the one in float64."""
        own = {"anchor": dict(self.task.anchor.named_parameters()), "target": dict(self.task.target.named_parameters())}
        for side in ("anchor", "target"):
            for name, weight in getattr(self.exact, side).items():
                own[side][name].copy_(weight)
                getattr(self.official, side)[name].copy_(weight)
        self.task.prototypes.copy_(self.exact.prototypes)
        self.official.prototypes.copy_(self.exact.prototypes)

    def step(self, images: Tensor, number: int) -> tuple[Found, Found, Found]:
        """What ours, the official one and the one in float64 make of a step; all three have taken it then."""
        at, views = self.order.step(number), views_of(images, number)
        knobs = self.task.schedule(at)
        ours = float(self.run.step(at, at, views, Stopping()).loss.detach())
        official = self.official(views, None, knobs)
        exact = self.exact([view.double() for view in views], None, knobs)
        return (
            Found(ours, dict(self._own)),
            Found(official, _gradients(self.official)),
            Found(exact, _gradients(self.exact)),
        )


def _gradients(side: MsnStep) -> dict[str, Tensor]:
    return {name: weight.grad for name, weight in side.anchor.items() if weight.grad is not None}


def clipped(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients () in float64, of which all together are no longer than the recipe allows."""
    norm = torch.stack([g.double().norm() for g in found.values()]).norm()
    return {name: g.double() * min(1.0, float(RECIPE.clip / norm)) for name, g in found.items()}


@pytest.mark.parametrize(("smoothing", "entropy"), SETTINGS)
def test_in_each_of_three_steps_loss_and_gradients_are_those_of_float64_but_for_their_rounding(
    stored, images, smoothing, entropy
):
    sides = Sides(stored, smoothing, entropy)
    losses = []
    for number in range(STEPS):
        sides.meet()
        ours, official, exact = sides.step(images, number)
        losses.append(exact.loss)
        assert ours.loss == pytest.approx(exact.loss, rel=1e-6)
        assert official.loss == pytest.approx(exact.loss, rel=1e-6)
        true = clipped(exact.gradients)
        assert len(true) == len(ours.gradients) == len(official.gradients)
        for name, gradient in true.items():
            size = gradient.norm() / gradient.numel() ** 0.5  # root of the mean square
            if size < 1e-12:  # BatchNorm takes away whatever this adds
                continue
            for found in (clipped(ours.gradients)[name], clipped(official.gradients)[name]):
                rounding = (found - gradient).norm() / gradient.numel() ** 0.5
                assert rounding < 2e-4 * size, name
                turned = found * gradient < 0
                assert not turned.any() or gradient[turned].abs().max() < 2e-3 * size, name
    assert np.ptp(losses) > 0.01  # it learns
