"""MAE's pretraining against what the official code gave.

Patches, masks, predictions, loss and gradients, positions, and a short run.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from fewvit.backbones import Architecture
from fewvit.checkpoints.reading import read_checkpoint
from fewvit.methods._mae_task import MaeTask, patchify, random_masking, sincos_positions
from fewvit.methods.mae import Mae
from fewvit.training.recipe import Step
from fewvit.views.view import View

RECIPE = Mae(  # of mae_full.pth and the run that goes on from it
    architecture=Architecture(64, 2, 1, 16, grid=4, positions="mae"),
    views=(View(64, (0.2, 1.0)),),
    epochs=4,
    batch_size=2,
    lr=1e-3,
    lr_batch=None,
    warmup_epochs=1,
    normalised_pixels=False,
    decoder_width=32,
    decoder_depth=2,
    decoder_heads=1,
)


@pytest.fixture(scope="module")
def stored(parity) -> Mapping[str, Any]:
    return read_checkpoint(parity.folder / "mae_full.pth")


def resumed(stored: Mapping[str, Any], **changes: Any) -> MaeTask:
    method = MaeTask(dataclasses.replace(RECIPE, **changes))
    method.start_from_official(stored)
    return method.train()


def given(parity, name: str) -> torch.Tensor:
    return torch.from_numpy(parity.arrays("losses.npz")[name])


def test_patches_are_the_official_ones(parity):
    parity.check("losses.npz", "mae/patchify", patchify(given(parity, "mae/imgs"), 16).numpy())


@pytest.mark.parametrize("ratio", [0.75, 0.5])
def test_encoding_masking_and_prediction_are_the_official_ones(parity, stored, ratio):
    method, images, noise = resumed(stored, mask_ratio=ratio), given(parity, "mae/imgs"), given(parity, "mae/noise")
    keep, restore, hidden = random_masking(noise, ratio)
    with torch.no_grad():
        latent = method.trunk.norm(method.trunk.encode(images, keep))
        prediction, mask = method.predict(images, noise)
    assert torch.equal(mask, hidden)
    found = {"latent": latent, "ids_restore": restore, "mask": mask, "pred": prediction}
    for what, tensor in found.items():
        parity.check("losses.npz", f"mae/normpix0_ratio{ratio}/{what}", tensor.numpy())


@pytest.mark.parametrize("ratio", [0.75, 0.5])
@pytest.mark.parametrize("normalised", [0, 1])
def test_loss_and_gradients_are_the_official_ones(parity, stored, normalised, ratio, monkeypatch):
    method = resumed(stored, mask_ratio=ratio, normalised_pixels=bool(normalised))
    monkeypatch.setattr(method, "noise", lambda step, device: given(parity, "mae/noise"))
    loss, _ = method([given(parity, "mae/imgs")], Step(0, 2, 4, 0, np.arange(2)))
    loss.backward()
    name = f"mae/normpix{normalised}_ratio{ratio}"
    parity.check("losses.npz", f"{name}/loss", loss.detach().numpy())
    gradients = {n: float(p.grad.double().norm()) for g in method.groups() for n, p in zip(g["names"], g["params"])}
    names = parity.arrays("losses.npz")["mae/grad_names"].tolist()
    assert sorted(names) == sorted(gradients)
    parity.check("losses.npz", f"{name}/grad_l2", np.array([gradients[n] for n in names]))


@pytest.mark.parametrize(("width", "grid", "class_token"), [(64, 4, 1), (32, 4, 1), (96, 7, 0), (128, 3, 1)])
def test_position_tables_are_the_official_ones(parity, width, grid, class_token):
    name = f"mae/sincos/D{width}_grid{grid}_cls{class_token}"
    parity.check("losses.npz", name, sincos_positions(width, grid, class_token=bool(class_token)))


def test_a_new_model_starts_with_the_official_tables_in_encoder_and_decoder(parity):
    method = MaeTask(RECIPE)
    for width, table in ((64, method.trunk.pos_embed), (32, method.decoder_pos_embed)):
        np.testing.assert_allclose(
            table[0].numpy(), parity.arrays("losses.npz")[f"mae/sincos/D{width}_grid4_cls1"], rtol=0, atol=1e-7
        )


def test_groups_hold_the_official_names(parity):
    official = json.loads((parity.folder / "param_groups.json").read_text())["mae/pretrain_add_weight_decay"]
    groups = {group["decays"]: sorted(group["names"]) for group in MaeTask(RECIPE).groups()}
    assert groups == {True: sorted(official["decay"]), False: sorted(official["no_decay"])}


def test_the_schedule_is_the_official_one_at_every_quarter_of_an_epoch(parity):
    method = MaeTask(dataclasses.replace(RECIPE, epochs=400, warmup_epochs=40, lr=2.4e-3))
    rates = [method.schedule(Step(i, 4, 400, 0, np.arange(2)))["lr"] for i in range(1600)]
    parity.check("schedules.npz", "mae/lr/pretrain", np.array(rates))


# --- the short run that goes on from the checkpoint


@pytest.fixture(scope="module")
def run(parity, stored) -> dict[str, Any]:
    """Two steps of the second epoch, from weights and optimizer of mae_full.pth."""
    method = resumed(stored)
    groups, order = (
        method.groups(),
        json.loads((parity.folder / "param_groups.json").read_text())["mae/pretrain_add_weight_decay"],
    )
    named = {name: p for group in groups for name, p in zip(group["names"], group["params"])}
    optimizer = torch.optim.AdamW([{"params": g["params"], "decays": g["decays"]} for g in groups], betas=RECIPE.betas)
    for number, name in enumerate(order["no_decay"] + order["decay"]):  # numbered group by group
        optimizer.state[named[name]] = {
            key: value.clone() for key, value in stored["optimizer"]["state"][number].items()
        }

    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = torch.from_numpy(parity.arrays("preprocess.npz")["dino"]).permute(0, 3, 1, 2)[:, :, 80:144, 80:144]
    images = (pixels.float() / 255 - mean) / std
    before, losses = {name: p.detach().clone() for name, p in named.items()}, []
    for i in range(2):
        step = Step(2 + i, steps_per_epoch=2, epochs=4, seed=0, rows=np.arange(2))
        method.noise = lambda step, device, i=i: given(parity, "mae/train/noise")[i]  # type: ignore[method-assign]
        knobs = method.schedule(step)
        for group in optimizer.param_groups:
            group["lr"], group["weight_decay"] = knobs["lr"], knobs["weight_decay"] * group["decays"]
        loss, _ = method([images[2 * i : 2 * i + 2]], step)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return {
        "loss_per_iter": np.array(losses),
        "param_l2_after": {name: float(p.detach().double().norm()) for name, p in named.items()},
        "param_change_l2": {name: float((p.detach() - before[name]).double().norm()) for name, p in named.items()},
    }


def test_the_run_that_goes_on_from_a_checkpoint_has_the_official_losses(parity, run):
    parity.check("losses.npz", "mae/train/loss_per_iter", run["loss_per_iter"])


@pytest.mark.parametrize("what", ["param_l2_after", "param_change_l2"])
def test_the_run_that_goes_on_from_a_checkpoint_ends_at_the_official_weights(parity, run, what):
    arrays, facts = parity.arrays("losses.npz"), parity.manifest["files"]["losses.npz"]["arrays"][f"mae/train/{what}"]
    names = arrays["mae/train/param_names"].tolist()
    assert sorted(names) == sorted(run[what])
    rows = [
        i
        for i, name in enumerate(names)
        if not any(fnmatch.fnmatchcase(name, skipped) for skipped in facts.get("skip", ()))
    ]
    assert len(rows) >= 56
    np.testing.assert_allclose(
        [run[what][names[i]] for i in rows], arrays[f"mae/train/{what}"][rows], rtol=facts["rtol"], atol=facts["atol"]
    )


def test_a_full_checkpoint_comes_out_as_it_went_in(stored):
    out = resumed(stored).official()["model"]
    assert out.keys() == stored["model"].keys()
    assert all(torch.equal(out[name], tensor) for name, tensor in stored["model"].items())
