"""One fine-tuning step of ViT-S/16 at batch 32 on a CPU: MAE's official way and ours.

Then what low-rank updates and recomputing change.

A step is what comes between two batches: forward, loss with soft targets, backward, the gradient's norm, AdamW in
groups with layer decay. Images are made before. Memory is counted: what a forward keeps for backward, parameters apart,
and the optimizer's moments and gradients; and measured as the growth of a process of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fewvit.backbones import Architecture
from fewvit.finetune.adapters import prepare
from fewvit.finetune.modes import recipe_for
from fewvit.finetune.tuning import ClassificationHead, Tuning
from fewvit.methods._trunk import Trunk
from fewvit.models.backbone import randomise
from fewvit.models.readout import Readout
from fewvit.training.loop import Execution, Run
from fewvit.training.order import Order
from fewvit.training.signals import Stopping
from fewvit.views.mixing import soft_targets
from fewvit.views.view import View

from .measure import Claim, Outcome, cores, in_fresh_process, main, peak_growth, round_robin
from .official_training import blocks, parameters, patches

WHAT = "Fine-tuning step on a CPU, ViT-S/16 at 224 px, images per second"
OFFICIAL, FULL, BF16 = "official step fp32", "full", "full, bf16"
QKV, MLP = "LoRA qkv", "LoRA qkv and MLP"
# name -> mode, changes of the recipe, whether blocks are computed again
VARIANTS: dict[str, tuple[str, dict[str, Any], bool]] = {
    FULL: ("full", {}, False),
    BF16: ("full", {"precision": "bf16"}, False),
    "full, recomputed": ("full", {}, True),
    QKV: ("lora", {}, False),
    MLP: ("lora", {"targets": "qkv+fc1+fc2"}, False),
    "LoRA qkv, recomputed": ("lora", {}, True),
    "bias": ("bias", {}, False),
    "last-block on kept tokens": ("last-block", {}, False),
}
CLASSES = 1000
SMALL = Architecture(384, 12, 6, 16, positions="mae", final_norm="fc_norm")
TINY = Architecture(192, 3, 3, 16, grid=4, positions="mae", final_norm="fc_norm")


def task_of(variant: str, batch: int, quick: bool) -> Tuning:
    """The network of a variant; always the same weights."""
    mode, changes, recomputed = VARIANTS[variant]
    architecture = TINY if quick else SMALL
    size = architecture.patch * architecture.grid
    recipe, _ = recipe_for(mode, architecture, View(size, (1.0, 1.0)), "mae", 100_000, 1300)
    recipe = dataclasses.replace(
        recipe, batch_size=batch, drop_path=0.0, layer_decay=0.65, weight_decay=0.05, lr=1e-3, lr_batch=None, **changes
    )
    recipe = dataclasses.replace(recipe, epochs=4, warmup_epochs=0)  # the losses of both ways are to move
    trunk = Trunk(architecture)
    randomise(trunk, 0)
    prepare(trunk, recipe, True, torch.Generator().manual_seed(0))
    trunk.recompute = recomputed
    weight = torch.randn(CLASSES, architecture.width, generator=torch.Generator().manual_seed(1)) * 0.02
    return Tuning(
        recipe, trunk, Readout("mean"), ClassificationHead(weight, torch.zeros(CLASSES), "raw", with_bias=True)
    ).train()


def batch_of(task: Tuning, batch: int, number: int) -> list[Tensor]:
    """Random images, or for `last-block` the tokens that go into it, and soft targets."""
    stream = torch.Generator().manual_seed(number)
    size = task.recipe.views[0].size
    targets = soft_targets(torch.randint(CLASSES, (batch,), generator=stream), CLASSES, 0.1)
    if task.below:
        a = task.recipe.architecture
        return [torch.randn(batch, 1 + a.grid**2, a.width, generator=stream), targets]
    return [torch.randn(batch, 3, size, size, generator=stream), targets]


class OfficialStep:
    """One iteration of MAE's fine-tuning script in fp32, mixing apart.

    Eager blocks, groups with layer decay, the gradient's norm, AdamW.
    """

    def __init__(self, task: Tuning):
        self.task, self.heads = task, task.recipe.architecture.heads
        self.weights = {name.removeprefix("trunk."): value for name, value in parameters(task, "").items()}
        groups = task.groups()
        named = [
            {"params": [self.weights[n] for n in g["names"]], "weight_decay": 0.05 if g["decays"] else 0.0}
            for g in groups
        ]
        self.scales = [group["lr_scale"] for group in groups]
        self.optimizer = torch.optim.AdamW(named, lr=0.0, betas=(0.9, 0.999))

    def logits(self, images: Tensor) -> Tensor:
        w = self.weights
        x = patches(images, w)
        first = (w["cls_token"] + w["pos_embed"][:, :1]).expand(len(x), -1, -1)
        x = blocks(torch.cat([first, x], dim=1), w, "blocks.", self.heads)[:, 1:].mean(dim=1)
        x = F.layer_norm(x, x.shape[-1:], w["fc_norm.weight"], w["fc_norm.bias"], 1e-6)
        return F.linear(x, w["head.weight"], w["head.bias"])

    def __call__(self, inputs: Sequence[Tensor], knobs: Mapping[str, float]) -> float:
        images, targets = inputs
        for group, scale in zip(self.optimizer.param_groups, self.scales, strict=True):
            group["lr"] = knobs["lr"] * scale
        loss = torch.sum(-targets * F.log_softmax(self.logits(images), dim=-1), dim=-1).mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.norm(
            torch.stack([torch.norm(value.grad, 2) for value in self.weights.values() if value.grad is not None]), 2
        )
        self.optimizer.step()
        return loss.item()


def stepper(variant: str, batch: int, quick: bool) -> Callable[[int], float]:
    """A function that takes the step of a number and returns its loss."""
    task = task_of(FULL if variant == OFFICIAL else variant, batch, quick)
    order = Order(64 * batch, batch, task.recipe.epochs, seed=0)
    given = [batch_of(task, batch, number) for number in range(2)]  # made before
    if variant == OFFICIAL:
        peer = OfficialStep(task)
        return lambda i: peer(given[i % 2], task.schedule(order.step(i)))
    run, never = Run(task, order, Execution(recompute=VARIANTS[variant][2])), Stopping()
    return lambda i: float(run.step(order.step(i), order.step(i), given[i % 2], never).loss)


def trajectory(batch: int, steps: int, quick: bool) -> float:
    """The largest relative difference of the two ways' losses from the same start."""
    official, ours = stepper(OFFICIAL, batch, quick), stepper(FULL, batch, quick)
    pairs = np.array([(official(i), ours(i)) for i in range(steps)])
    return float(np.abs(pairs[:, 1] / pairs[:, 0] - 1).max())


def counted(step: Callable[[int], float]) -> Callable[[Any], float]:
    """`step` called with 0, 1, 2, …"""
    numbers = iter(range(1 << 30))
    return lambda item: step(next(numbers))


# ---- memory


def counted_bytes(variant: str, batch: int, quick: bool) -> tuple[int, int]:
    """Bytes that a forward keeps for backward, parameters apart, each memory once; and of gradients and moments."""
    task = task_of(variant, batch, quick)
    run = Run(task, Order(64 * batch, batch, 4, seed=0), Execution(recompute=VARIANTS[variant][2]))
    own = {p.untyped_storage().data_ptr() for p in task.parameters()}
    kept: dict[int, tuple[int, Tensor]] = {}

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            kept[place] = (tensor.untyped_storage().nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), run.context():
        task(batch_of(task, batch, 0), run.order.step(0))
    trained = sum(p.numel() for p in task.parameters() if p.requires_grad)
    return sum(size for size, _ in kept.values()), 3 * 4 * trained


def resident_growth(variant: str, batch: int, quick: bool, threads: int) -> int:
    """Bytes by which a process of its own grows in two steps."""
    torch.set_num_threads(threads)
    step = stepper(variant, batch, quick)
    return peak_growth(lambda: [step(0), step(1)])


def measure(quick: bool) -> Outcome:
    threads = 1 if quick else cores()
    torch.set_num_threads(threads)
    batch = 4 if quick else 32
    names = [OFFICIAL, *VARIANTS]
    timing = round_robin({name: counted(stepper(name, batch, quick)) for name in names}, [None], 2 if quick else 7)
    memory = {name: counted_bytes(name, batch, quick) for name in VARIANTS}
    rows = timing.rows(OFFICIAL, batch, batch=batch)
    for row in rows:
        if row["variant"] in memory:
            activations, optimizer = memory[row["variant"]]
            grown = in_fresh_process(resident_growth, row["variant"], batch, quick, threads)
            row |= {
                "activations_mb": round(activations / 1e6),
                "optimizer_mb": round(optimizer / 1e6),
                "grown_mb": round(grown / 1e6),
            }
    total = {name: sum(parts) for name, parts in memory.items()}
    steps = 3 if quick else 10
    time_of = {name: 1 / timing.ratio(name, FULL) for name in (QKV, MLP)}
    claims = [
        Claim(
            "Fine-tuning step in full, ViT-S/16, batch 32, fp32",
            "MAE's official step",
            timing.ratio(FULL, OFFICIAL),
            "x",
            ">= 1.9",
        ),
        Claim("The same, bf16", "MAE's official step fp32", timing.ratio(BF16, OFFICIAL), "x"),
        Claim(
            f"Fine-tuning loss over {steps} steps, largest relative difference",
            "MAE's official step",
            trajectory(4, steps, quick),
            "",
            "<= 1e-3",
        ),
        Claim("LoRA on qkv, time of a step", "the full step", time_of[QKV], "x", "<= 0.75"),
        Claim("LoRA on qkv, activations and optimizer", "the full step", total[QKV] / total[FULL], "x", "<= 0.65"),
        Claim("LoRA on qkv and MLP, time of a step", "the full step", time_of[MLP], "x"),
        Claim("LoRA on qkv and MLP, activations and optimizer", "the full step", total[MLP] / total[FULL], "x"),
        Claim(
            "`--checkpoint-activations` in full, time of a step",
            "the full step",
            1 / timing.ratio("full, recomputed", FULL),
            "x",
        ),
        Claim(
            "`--checkpoint-activations` in full, activations and optimizer",
            "the full step",
            total["full, recomputed"] / total[FULL],
            "x",
        ),
        Claim(
            "Last block on kept tokens, time of a step",
            "the full step",
            1 / timing.ratio("last-block on kept tokens", FULL),
            "x",
        ),
    ]
    return Outcome(claims, rows, {"threads": threads, "classes": CLASSES})


if __name__ == "__main__":
    main("finetune", WHAT, measure)
