"""One training step of DINO, MAE and MSN on a CPU: the official way, lightly's and ours, on the same views.

The official way and ours start from the same weights.

A step is what comes between two batches: both networks forward, backward, clipping, AdamW, moving average, centre.
Views are made before. The trajectories are compared too: losses of the official way and of ours in fp32, step by step
from the same start.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewvit.backbones import Architecture
from fewvit.plugins import find
from fewvit.training.loop import Execution, Run
from fewvit.training.order import Order
from fewvit.training.signals import Stopping

from . import lightly_steps, official_training
from .measure import Claim, Outcome, cores, main, round_robin

WHAT = "Pretraining step on a CPU, ViT-Ti/4 at 32 px, images per second"
OFFICIAL, LIGHTLY, OURS, OURS_BF16 = (
    "official step fp32",
    "lightly's parts fp32",
    "fewvit fp32",
    "fewvit --precision bf16",
)
PEERS = {OFFICIAL: official_training, LIGHTLY: lightly_steps}
STEPS = {"dino": "DinoStep", "mae": "MaeStep", "msn": "MsnStep"}
GOALS = {"dino": (">= 1.8", ">= 2.1"), "mae": (">= 1.25", ">= 1.4"), "msn": ("", "")}
IMAGES = 4096  # of a pretended data set, which decides the length of schedules only


def task_of(method: str, batch: int, precision: str = "fp32") -> Any:
    """A method on ViT-Ti/4 at 32 pixels, with 2 global and 6 local crops where it has crops.

    Always the same weights.
    """
    kind = find("methods", method)
    recipe = dataclasses.replace(
        kind.presets["small/32"], batch_size=batch, precision=precision, epochs=4, warmup_epochs=1
    )
    architecture = Architecture(192, 12, 3, 4, grid=8, positions=recipe.architecture.positions)
    views = recipe.views if method != "dino" else (*recipe.views[:2], dataclasses.replace(recipe.views[2], count=6))
    recipe = dataclasses.replace(recipe, architecture=architecture, views=views)
    if method == "dino":
        recipe = dataclasses.replace(recipe, outputs=8192, freeze_last_layer=0, use_bn_in_head=False)
    torch.manual_seed(0)
    return recipe.task().train()


def views_of(task: Any, batch: int, number: int) -> list[Tensor]:
    """Random images in the shapes of the recipe's views."""
    stream = torch.Generator().manual_seed(number)
    return [
        torch.randn(batch, 3, view.size, view.size, generator=stream)
        for view in task.recipe.views
        for _ in range(view.count)
    ]


def stepper(method: str, batch: int, way: str) -> Callable[[int], float]:
    """A function that takes the step of a number and returns its loss."""
    task = task_of(method, batch, "bf16" if way == OURS_BF16 else "fp32")
    order = Order(IMAGES, batch, task.recipe.epochs, seed=0)
    if way not in PEERS:
        run, never = Run(task, order, Execution()), Stopping()
        return lambda i: float(run.step(order.step(i), order.step(i), views_of(task, batch, i), never).loss)
    peer = getattr(PEERS[way], STEPS[method])(task)

    def step(i: int) -> float:
        now = order.step(i)
        views, knobs = views_of(task, batch, i), task.schedule(now)
        given = {"dino": lambda: now, "mae": lambda: task.noise(now), "msn": lambda: task.kept_patches(now)}[method]()
        return peer(views, given, knobs)

    return step


def trajectory(method: str, batch: int, steps: int) -> float:
    """The largest relative difference of the two ways' losses."""
    official, ours = stepper(method, batch, OFFICIAL), stepper(method, batch, OURS)
    pairs = np.array([(official(i), ours(i)) for i in range(steps)])
    return float(np.abs(pairs[:, 1] / pairs[:, 0] - 1).max())


def with_lightly() -> list[str]:
    """Its name where it is installed."""
    return [LIGHTLY] if importlib.util.find_spec("lightly") else []


def counted(step: Callable[[int], float]) -> Callable[[Any], float]:
    """`step` called with 0, 1, 2, …"""
    numbers = iter(range(1 << 30))
    return lambda item: step(next(numbers))


def measure(quick: bool) -> Outcome:
    torch.set_num_threads(1 if quick else cores())
    claims, rows = [], []
    batches = {"dino": 8, "mae": 16, "msn": 8} if quick else {"dino": 32, "mae": 64, "msn": 32}
    for method, batch in batches.items():
        variants = {way: counted(stepper(method, batch, way)) for way in (OFFICIAL, *with_lightly(), OURS, OURS_BF16)}
        timing = round_robin(variants, [None], 2 if quick else 9)
        rows += timing.rows(OFFICIAL, batch, method=method, batch=batch)
        name = method.upper()
        for ours, goal in zip((OURS, OURS_BF16), GOALS[method], strict=True):
            what = f"{name} step, {ours.removeprefix('fewvit ')}"
            claims.append(Claim(what, OFFICIAL, timing.ratio(ours, OFFICIAL), "x", goal))
            claims += [Claim(what, peer, timing.ratio(ours, peer), "x") for peer in with_lightly()]
        steps = 3 if quick else 20
        apart = trajectory(method, 8, steps)
        claims.append(
            Claim(f"{name} loss over {steps} steps, largest relative difference", "official step", apart, "", "<= 1e-3")
        )
    return Outcome(claims, rows, {"threads": 1 if quick else cores(), "dino_outputs": 8192})


if __name__ == "__main__":
    main("pretrain", WHAT, measure)
