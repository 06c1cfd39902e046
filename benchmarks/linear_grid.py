"""A grid of linear heads on cached features: DINOv2's way, a module for each head, and ours, a matrix for each input.

A step is what comes between two batches: scores, losses, gradients and the SGD step of every head. Ours is the whole
step of the training loop. Each way takes many steps before the next one's turn, as it does when it trains alone: their
weights together fit into no cache. Both ways take the same steps from the same weights too, and their losses are
compared.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fewvit.linear.head_grid import HeadGrid
from fewvit.linear.protocols import DINOV2_LRS, PROBES, Input
from fewvit.training.loop import Execution, Run
from fewvit.training.order import Order
from fewvit.training.signals import Stopping

from .measure import Claim, Outcome, cores, main, round_robin

WHAT = "A step of a grid of linear heads on cached features, 13 learning rates for each input, on a CPU"
PEER, OURS, OURS_BF16 = "DINOv2's loop over heads, fp32", "fewvit fp32", "fewvit --precision bf16"
STEPS = 8  # timed together, once or more: one alone is too short


def heads_of(widths: Sequence[int], classes: int, batch: int, precision: str = "fp32") -> HeadGrid:
    """The grid for inputs that are the first so many columns; always the same weights."""
    probe = dataclasses.replace(PROBES["dinov2/1"], batch_size=batch, epochs=1000, precision=precision)
    return HeadGrid(
        probe, [Input(i, "cls", 0, width) for i, width in enumerate(widths, start=1)], classes, seed=0
    ).train()


def batches(width: int, classes: int, batch: int) -> list[tuple[Tensor, Tensor]]:
    """A few random batches that fit into no cache together with the heads."""
    stream = torch.Generator().manual_seed(1)
    return [
        (torch.randn(batch, width, generator=stream), torch.randint(classes, (batch,), generator=stream))
        for _ in range(STEPS)
    ]


def ours(heads: HeadGrid, batch: int) -> Callable[[int, Tensor, Tensor], float]:
    """The loop's own step."""
    order = Order(8 * batch, batch, 1000, seed=0)
    run, never = Run(heads, order, Execution()), Stopping()
    return lambda i, x, y: float(run.step(order.step(i), order.step(i), [x, y], never).facts["loss"])


def dinov2(start: HeadGrid) -> Callable[[int, Tensor, Tensor], float]:
    """DINOv2's `eval/linear.py`.

    All heads in a ModuleDict, the losses summed, one SGD with a group for each head, a cosine schedule.
    """
    heads = nn.ModuleDict()
    for place, one in enumerate(start.inputs):
        for rate in range(len(DINOV2_LRS)):
            heads[f"{place}_{rate}"] = layer = nn.Linear(one.width, start.n_classes)
            with torch.no_grad():
                layer.weight.copy_(start.stacks[place].weight[rate])
                layer.bias.zero_()
    recipe = start.recipe
    groups = [
        {"params": layer.parameters(), "lr": recipe.scaled_lr(DINOV2_LRS[int(key.split("_")[1])])}
        for key, layer in heads.items()
    ]
    optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8 * 1000, eta_min=0)
    criterion = nn.CrossEntropyLoss()

    def step(i: int, x: Tensor, y: Tensor) -> float:
        inputs = [x[:, : one.width] for one in start.inputs]
        losses = {key: criterion(layer(inputs[int(key.split("_")[0])]), y) for key, layer in heads.items()}
        loss = sum(losses.values(), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        return float(loss.detach()) / len(heads)

    return step


def trajectory(widths: Sequence[int], classes: int, batch: int) -> float:
    """The largest relative difference of the mean losses over sixteen steps."""
    data = batches(max(widths), classes, batch)
    ways = (dinov2(heads_of(widths, classes, batch)), ours(heads_of(widths, classes, batch), batch))
    pairs = np.array([[way(i, *data[i % STEPS]) for way in ways] for i in range(2 * STEPS)])
    return float(np.abs(pairs[:, 1] / pairs[:, 0] - 1).max())


def counted(
    step: Callable[[int, Tensor, Tensor], float], times: int
) -> Callable[[Sequence[tuple[Tensor, Tensor]]], None]:
    """So many steps on each of the batches, numbered on from those before."""
    numbers = itertools.count()

    def run(parts: Sequence[tuple[Tensor, Tensor]]) -> None:
        for x, y in list(parts) * times:
            step(next(numbers), x, y)

    return run


def measure(quick: bool) -> Outcome:
    torch.set_num_threads(1 if quick else cores())
    # inputs, classes, batch, rounds, passes over the batches; the second is DINOv2's grid of a ViT-S on 200 classes
    settings = (
        [((64, 128), 10, 32, 2, 1)]
        if quick
        else [((384, 768), 100, 256, 15, 2), ((384, 768, 1536, 1920), 200, 1024, 7, 1)]
    )
    rows: list[dict[str, Any]] = []
    claims: list[Claim] = []
    for widths, classes, batch, rounds, times in settings:
        data = batches(max(widths), classes, batch)
        ways = {
            PEER: dinov2(heads_of(widths, classes, batch)),
            OURS: ours(heads_of(widths, classes, batch), batch),
            OURS_BF16: ours(heads_of(widths, classes, batch, "bf16"), batch),
        }
        variants = {name: counted(way, times) for name, way in ways.items()}
        timing = round_robin(variants, [data], rounds)
        heads = 13 * len(widths)
        rows += timing.rows(PEER, times * batch * len(data), heads=heads, classes=classes, batch=batch)
        what = f"Linear grid, {heads} heads, {classes} classes, batch {batch}"
        claims.append(Claim(f"{what}, fp32", PEER, timing.ratio(OURS, PEER), "x", ">= 1.9"))
        claims.append(Claim("The same, bf16", PEER, timing.ratio(OURS_BF16, PEER), "x", ">= 2.5"))
        claims.append(
            Claim(
                "The same, fp32, largest relative difference of the loss",
                PEER,
                trajectory(widths, classes, batch),
                "",
                "<= 1e-4",
            )
        )
    return Outcome(claims, rows, {"threads": 1 if quick else cores(), "learning_rates": len(DINOV2_LRS)})


if __name__ == "__main__":
    main("linear_grid", WHAT, measure)
