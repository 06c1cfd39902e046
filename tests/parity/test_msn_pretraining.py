"""MSN's pretraining against what the official code gave.

Loss and gradients, Sinkhorn, patch dropping, schedules, groups, and one whole step.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from fewvit.backbones import Architecture
from fewvit.checkpoints.reading import read_checkpoint
from fewvit.methods._msn_task import MsnTask, balanced, log_assignments, loss_parts, sharpened
from fewvit.methods.msn import Msn
from fewvit.training.recipe import Step
from fewvit.views.view import View

ARCHITECTURE = Architecture(64, 2, 1, 16, grid=14, positions="msn")
RECIPE = Msn(  # that of the step in msn/step, and of the checkpoint that it starts from
    architecture=ARCHITECTURE,
    views=(View(224, (0.3, 1.0)), View(224, (0.3, 1.0)), View(96, (0.05, 0.3), count=2)),
    epochs=8,
    batch_size=4,
    warmup_epochs=1,
    patch_drop=0.0,
    prototypes=48,
    projector_width=128,
    out_width=32,
)
SECOND = Step(1, steps_per_epoch=2, epochs=8, seed=0, rows=np.arange(4))


@pytest.fixture(scope="module")
def stored(parity) -> Mapping[str, Any]:
    return read_checkpoint(parity.folder / "msn.pth.tar")


@pytest.fixture
def msn(stored) -> MsnTask:
    method = MsnTask(RECIPE)
    method.start_from_official(stored)
    return method.train()


@pytest.fixture(scope="module")
def images(parity) -> torch.Tensor:
    """The eight images (8, 3, 224, 224) under MSN's transform."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (torch.from_numpy(parity.arrays("preprocess.npz")["msn"]).permute(0, 3, 1, 2).float() / 255 - mean) / std


# --- the loss by itself

# name in losses.npz -> (T, Sinkhorn, weight of memax, label smoothing)
SETTINGS = {
    "plain": (0.25, False, 1, 0.0),
    "sinkhorn": (0.25, True, 1, 0.0),
    "sinkhorn_ls": (0.25, True, 1, 0.1),
    "nomemax_T.5": (0.5, False, 0, 0.0),
}


@functools.cache
def computed(parity, name: str) -> dict[str, np.ndarray]:
    """What our formulas give for one setting, under the names of losses.npz."""
    T, sinkhorn, memax, smoothing = SETTINGS[name]
    given = {
        what: torch.from_numpy(parity.arrays("losses.npz")[f"msn/loss/{what}"].copy())
        for what in ("anchors", "targets", "prototypes")
    }
    anchors, prototypes = given["anchors"].requires_grad_(), given["prototypes"].requires_grad_()
    log_p = log_assignments(anchors, prototypes, 0.1, smoothing)
    with torch.no_grad():
        targets = sharpened(log_assignments(given["targets"], prototypes, 0.1, smoothing), T)
        targets = balanced(targets) if sinkhorn else targets
    parts = loss_parts(log_p, targets)
    (parts["cross_entropy"] + memax * parts["memax"] + 0.1 * parts["anchor_entropy"]).backward()
    extremes = [
        len(set(targets.argmax(dim=1).tolist())),
        float(targets.max(dim=1).values.mean()),
        float(targets.min(dim=1).values.mean()),
    ]
    value = {name: float(part.detach()) for name, part in parts.items()}
    return {
        "loss_memax_ent": np.array([value["cross_entropy"], memax * value["memax"], value["anchor_entropy"]]),
        "targets": targets.float().numpy(),
        "np_maxt_mint": np.array(extremes),
        "grad_anchors": anchors.grad.numpy(),
        "grad_prototypes": prototypes.grad.numpy(),
    }


@pytest.mark.parametrize("what", ["loss_memax_ent", "targets", "np_maxt_mint", "grad_anchors", "grad_prototypes"])
@pytest.mark.parametrize("name", SETTINGS)
def test_the_loss_its_targets_and_its_gradients_are_the_official_ones(parity, name, what):
    parity.check("losses.npz", f"msn/loss/{name}/{what}", computed(parity, name)[what])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_smoothing_prototypes_is_multiplying_with_the_official_labels(parity, smoothing):
    labels = parity.arrays("losses.npz")[f"msn/loss/labels_ls{smoothing:g}"]
    anchors, prototypes = (
        torch.from_numpy(parity.arrays("losses.npz")[f"msn/loss/{what}"]) for what in ("anchors", "prototypes")
    )
    plain = log_assignments(anchors, prototypes, 0.1).exp().numpy()
    np.testing.assert_allclose(log_assignments(anchors, prototypes, 0.1, smoothing).exp(), plain @ labels, atol=1e-6)


def test_balancing_is_the_official_sinkhorn(parity):
    parity.check(
        "losses.npz",
        "msn/sinkhorn/out",
        balanced(torch.from_numpy(parity.arrays("losses.npz")["msn/sinkhorn/in"]), 3).numpy(),
    )


# --- networks


def test_the_trunk_sees_the_patches_that_it_is_given(parity, msn, images):
    # stored with the class token
    kept = torch.from_numpy(parity.arrays("features.npz")["msn.target_encoder/s224/masked_kept_tokens"]) - 1
    with torch.no_grad():
        found = msn.encoder().encode(images, kept)[:, 0].numpy()
    parity.check("features.npz", "msn.target_encoder/s224/masked_patch_drop_0.15", found)
    assert len(kept) == len(MsnTask(dataclasses.replace(RECIPE, patch_drop=0.15)).kept_patches(SECOND))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_projections_use_the_batchs_statistics_in_training_and_the_running_ones_after(parity, msn, images, mode):
    with torch.no_grad():
        found = msn.train(mode == "train").target(images).numpy()
    parity.check("features.npz", f"msn.target_encoder/s224/projection_{mode}", found)


# --- one whole step from the checkpoint


@pytest.fixture(scope="module")
def step(parity, stored, images) -> dict[str, Any]:
    """What the second optimizer step of the stored run gives, under the names of losses.npz."""
    method = MsnTask(RECIPE)
    method.start_from_official(stored)
    method.train()
    views = [images[:4], images[:4].flip(3), images[:4, :, :96, :96], images[:4, :, 64:160, 64:160]]
    with torch.no_grad():
        unchanged = {name: buffer.clone() for name, buffer in method.named_buffers()}
        found: dict[str, Any] = {
            "anchor_projections": method.project(views[1:], None).numpy(),
            "target_projections": method.target(views[0]).numpy(),
        }
        for name, buffer in method.named_buffers():
            buffer.copy_(unchanged[name])
    loss, facts = method(views, SECOND)
    found["loss_ploss_memax_ent"] = np.array(
        [float(v.detach()) for v in (loss, *(facts[n] for n in ("cross_entropy", "memax", "anchor_entropy")))]
    )
    loss.backward()
    found["grad_norm_before_clip"] = np.array(float(method.clip()))
    knobs, groups = method.schedule(SECOND), method.groups()
    found["lr_wd"] = np.array([knobs["lr"], knobs["weight_decay"]])
    named = {name: p for group in groups for name, p in zip(group["names"], group["params"])}
    names = [name for name in named if name != "prototypes"]
    found["prototypes_grad"] = method.prototypes.grad.numpy().copy()
    found["grad_l2_after_clip"] = {name: float(named[name].grad.double().norm()) for name in names}

    optimizer = torch.optim.AdamW(
        [{"params": g["params"], "weight_decay": knobs["weight_decay"] * g["decays"]} for g in groups], lr=knobs["lr"]
    )
    state = stored["opt"]["state"]  # numbered group by group
    for number, parameter in enumerate(p for group in groups for p in group["params"]):
        optimizer.state[parameter] = {key: value.clone() for key, value in state[number].items()}
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    optimizer.step()
    found["param_l2_after"] = {name: float(named[name].detach().double().norm()) for name in names}
    found["param_change_l2"] = {name: float((named[name].detach() - before[name]).double().norm()) for name in names}
    return found


@pytest.mark.parametrize(
    "what",
    [
        "anchor_projections",
        "target_projections",
        "loss_ploss_memax_ent",
        "lr_wd",
        "grad_norm_before_clip",
        "prototypes_grad",
    ],
)
def test_a_whole_step_has_the_official_loss_and_gradients(parity, step, what):
    parity.check("losses.npz", f"msn/step/{what}", step[what])


@pytest.mark.parametrize("what", ["grad_l2_after_clip", "param_l2_after", "param_change_l2"])
def test_a_whole_step_changes_every_parameter_as_the_official_one_does(parity, step, what):
    arrays, facts = parity.arrays("losses.npz"), parity.manifest["files"]["losses.npz"]["arrays"][f"msn/step/{what}"]
    names = arrays["msn/step/param_names"].tolist()
    assert sorted(names) == sorted(step[what])
    rows = [
        i
        for i, name in enumerate(names)
        if not any(fnmatch.fnmatchcase(name, skipped) for skipped in facts.get("skip", ()))
    ]
    assert len(rows) > 30
    expected, found = arrays[f"msn/step/{what}"][rows], [step[what][names[i]] for i in rows]
    np.testing.assert_allclose(found, expected, rtol=facts["rtol"], atol=facts["atol"])


# --- what surrounds a step


def test_groups_hold_the_official_names_and_prototypes_come_last(parity):
    official = json.loads((parity.folder / "param_groups.json").read_text())["msn/init_opt"]["groups"]
    groups = MsnTask(dataclasses.replace(RECIPE, architecture=dataclasses.replace(ARCHITECTURE, depth=1))).groups()
    assert [g["names"] for g in groups[:2]] == [g["names"] for g in official[:2]]
    assert groups[2]["names"] == ["prototypes"]
    assert official[2]["names"] == ["<prototypes>"]
    assert [not g["decays"] for g in groups] == [g["wd_exclude"] for g in official]


@pytest.mark.parametrize(("steps", "epochs", "warmup"), [(7, 20, 3), (5, 12, 0)])
def test_the_schedule_is_the_official_one_at_every_step(parity, steps, epochs, warmup):
    method = MsnTask(dataclasses.replace(RECIPE, epochs=epochs, warmup_epochs=warmup, sharpening=(0.25, 0.2)))
    knobs = [method.schedule(Step(i, steps, epochs, 0, np.arange(4))) for i in range(steps * epochs)]
    for ours, theirs in {"lr": "lr", "weight_decay": "wd", "momentum": "momentum", "sharpening": "sharpen_T"}.items():
        parity.check(
            "schedules.npz", f"msn/ipe{steps}_ep{epochs}_wu{warmup}/{theirs}", np.array([k[ours] for k in knobs])
        )


def test_a_full_checkpoint_comes_out_as_it_went_in(stored, msn):
    out = msn.official()
    assert torch.equal(out["prototypes"], stored["prototypes"])
    for key in ("encoder", "target_encoder"):
        assert list(out[key]) == list(stored[key])
        assert all(torch.equal(out[key][name], tensor) for name, tensor in stored[key].items())
    assert (out["lr"], out["temperature"], out["batch_size"]) == (
        stored["lr"],
        stored["temperature"],
        stored["batch_size"],
    )
