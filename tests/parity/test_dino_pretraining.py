"""DINO's pretraining against the official code.

Networks on several crops, the loss and its centre, and two training steps from its checkpoint.
"""

from __future__ import annotations

import copy
import fnmatch
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fewvit.backbones import Architecture
from fewvit.checkpoints.reading import read_checkpoint
from fewvit.methods._dino_task import DinoTask
from fewvit.methods.dino import Dino
from fewvit.training.recipe import Step
from fewvit.views.view import View

TOY = Dino(
    architecture=Architecture(64, 2, 1, 16),
    views=(View(224, (0.25, 1.0), count=2), View(96, (0.05, 0.25), count=4)),
    epochs=6,
    batch_size=2,
    lr=5e-4,
    lr_batch=None,
    min_lr=1e-6,
    warmup_epochs=2,
    weight_decay=0.04,
    final_weight_decay=0.4,
    clip=3.0,
    drop_path=0.0,
    outputs=256,
    hidden=128,
    bottleneck=32,
    norm_last_layer=True,
    freeze_last_layer=1,
    warmup_teacher_temperature=0.04,
    teacher_temperature=0.07,
    warmup_teacher_temperature_epochs=4,
    momentum_teacher=0.9,
)
STEPS_PER_EPOCH = 2


def at(index: int, steps_per_epoch: int = STEPS_PER_EPOCH, epochs: int = 6) -> Step:
    return Step(index, steps_per_epoch, epochs, seed=0, rows=np.arange(2))


@pytest.fixture(scope="module")
def crops(parity) -> list[Tensor]:
    """Two global crops of two images, then four local ones."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = (torch.from_numpy(parity.arrays("preprocess.npz")["dino"]).permute(0, 3, 1, 2).float() / 255 - mean) / std
    local = [
        x[rows, :, corner, corner] for rows in (slice(0, 2), slice(2, 4)) for corner in (slice(0, 96), slice(64, 160))
    ]
    return [x[0:2], x[2:4], *local]


@pytest.fixture(scope="module")
def stored(parity) -> dict:
    return read_checkpoint(parity.folder / "dino_full.pth")


@pytest.fixture
def method(stored) -> DinoTask:
    """The method as the official checkpoint left it."""
    found = DinoTask(TOY)
    found.student.load_state_dict({name.removeprefix("module."): value for name, value in stored["student"].items()})
    found.teacher.load_state_dict(stored["teacher"])
    found.center.copy_(stored["dino_loss"]["center"])
    return found.train()


def test_student_and_teacher_give_the_official_logits_for_crops_of_two_sizes(parity, method, crops):
    with torch.no_grad():
        parity.check("losses.npz", "dino/multicrop/student_out", method.student(crops).numpy())
        parity.check("losses.npz", "dino/multicrop/teacher_out", method.teacher(crops[:2]).numpy())


# ---- the loss over three calls


def losing(outputs: int) -> DinoTask:
    """A method whose networks are not used, with the temperatures of the stored calls."""
    small = replace(TOY, architecture=Architecture(64, 1, 1, 16), outputs=outputs, hidden=8, bottleneck=4)
    return DinoTask(replace(small, epochs=10, warmup_teacher_temperature_epochs=3))


def test_three_calls_give_the_official_losses_gradients_temperatures_and_centres(parity):
    arrays = parity.arrays("losses.npz")
    method = losing(64)
    method.center.copy_(torch.from_numpy(arrays["dino/loss/center_before"]))
    temperatures, losses, centres, gradients = [], [], [], []
    for call, epoch in enumerate(arrays["dino/loss/epochs"]):
        step = at(int(epoch), steps_per_epoch=1, epochs=10)
        temperatures.append(method.schedule(step)["temperature"])
        student = torch.from_numpy(arrays["dino/loss/student_logits"][call]).requires_grad_()
        loss, _ = method.loss(student, torch.from_numpy(arrays["dino/loss/teacher_logits"][call]), temperatures[-1])
        loss.backward()
        method.after_update(step)
        losses.append(loss.item())
        centres.append(method.center[0].clone())
        gradients.append(student.grad)
    parity.check("losses.npz", "dino/loss/temps", np.array(temperatures))
    parity.check("losses.npz", "dino/loss/loss", np.array(losses))
    parity.check("losses.npz", "dino/loss/center_after_each", torch.stack(centres).numpy())
    parity.check("losses.npz", "dino/loss/grad_student_logits", torch.stack(gradients).numpy())


# ---- two steps of training


def resumed(method: DinoTask, stored: dict, fused: bool) -> torch.optim.AdamW:
    """The checkpoint's optimizer; the order of parameters is its only key to them."""
    groups = [{key: value for key, value in group.items() if key != "names"} for group in method.groups()]
    optimizer = torch.optim.AdamW(groups, lr=0.0, fused=fused)
    assert [g["params"] for g in optimizer.state_dict()["param_groups"]] == [
        g["params"] for g in stored["optimizer"]["param_groups"]
    ]
    state = copy.deepcopy(stored["optimizer"]["state"])  # two optimizers are filled from it
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return optimizer


def train(method: DinoTask, optimizer: torch.optim.Optimizer, batches: list[list[Tensor]], first: int) -> list[float]:
    """The losses of one step per batch, in the order of the official loop."""
    losses = []
    for index, views in enumerate(batches, start=first):
        step = at(index)
        knobs = method.schedule(step)
        for group in optimizer.param_groups:
            group["lr"], group["weight_decay"] = knobs["lr"], knobs["weight_decay"] if group["decays"] else 0.0
        loss, _ = method(views, step)
        optimizer.zero_grad()
        loss.backward()
        method.clip()
        method.before_update(step)
        optimizer.step()
        method.after_update(step)
        losses.append(loss.item())
    return losses


def compared(parity, name: str, names: list[str]) -> np.ndarray:
    """Which parameters the manifest does not say to skip."""
    patterns = parity.manifest["files"]["losses.npz"]["arrays"][name].get("skip", [])
    return np.array([not any(fnmatch.fnmatchcase(n, pattern) for pattern in patterns) for n in names])


@pytest.mark.parametrize("fused", [False, True], ids=["plain AdamW", "fused AdamW"])
def test_two_steps_from_the_official_checkpoint_are_the_official_steps(parity, method, stored, crops, fused):
    before = copy.deepcopy(method)
    swapped = [crops[1], crops[0], *crops[2:]]
    losses = train(method, resumed(method, stored, fused), [crops, swapped], first=stored["epoch"] * STEPS_PER_EPOCH)
    parity.check("losses.npz", "dino/train/loss_per_iter", np.array(losses))
    parity.check("losses.npz", "dino/train/center_after", method.center.numpy())
    arrays = parity.arrays("losses.npz")
    for network in ("student", "teacher"):
        after, then = (dict(getattr(which, network).named_parameters()) for which in (method, before))
        names = list(after)
        parity.check("losses.npz", f"dino/train/{network}_param_names", np.array(names))
        norms = np.array([after[n].detach().double().norm().item() for n in names])
        parity.check("losses.npz", f"dino/train/{network}_param_l2_after", norms)
        qkv = after["backbone.blocks.0.attn.qkv.weight"].detach().numpy()[:4, :8]
        parity.check("losses.npz", f"dino/train/{network}_qkv0_weight_after_[:4,:8]", qkv)
        key = f"dino/train/{network}_param_change_l2"
        changes = np.array([(after[n].detach().double() - then[n].detach().double()).norm().item() for n in names])
        rows = compared(parity, key, names)
        facts = parity.manifest["files"]["losses.npz"]["arrays"][key]
        np.testing.assert_allclose(changes[rows], arrays[key][rows], atol=facts["atol"], rtol=facts["rtol"])


def test_no_stored_array_of_dinos_training_is_forgotten(parity):
    train = {
        f"dino/train/{n}_{w}"
        for n in ("student", "teacher")
        for w in ("param_names", "param_l2_after", "param_change_l2")
    }
    train |= {f"dino/train/{n}_qkv0_weight_after_[:4,:8]" for n in ("student", "teacher")} | {
        "dino/train/loss_per_iter",
        "dino/train/center_after",
    }
    inputs = {f"dino/loss/{name}" for name in ("student_logits", "teacher_logits", "center_before", "epochs")}
    loss = {f"dino/loss/{name}" for name in ("temps", "loss", "center_after_each", "grad_student_logits")}
    outputs = {f"dino/multicrop/{who}_out" for who in ("student", "teacher")}
    assert train | inputs | loss | outputs == {name for name in parity.arrays("losses.npz") if name.startswith("dino/")}
