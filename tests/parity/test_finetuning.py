"""Fine-tuning against the official code of MAE.

Parameter groups with their layer decay, learning rates, the fine-tuned network's logits.
"""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from fewvit.backbones import Architecture
from fewvit.checkpoints.filling import fill
from fewvit.checkpoints.reading import read_checkpoint
from fewvit.digests import DigestMemory
from fewvit.finetune.adapters import prepare
from fewvit.finetune.modes import recipe_for
from fewvit.finetune.tuning import ClassificationHead, Tuning
from fewvit.methods._trunk import Trunk
from fewvit.models.readout import Readout
from fewvit.models.resolve import resolve
from fewvit.models.spec import Access
from fewvit.training.groups import layer_groups
from fewvit.training.recipe import Step
from fewvit.views.view import View

KEPT = ("cls_token", "pos_embed")


@pytest.fixture(scope="module")
def official(parity) -> dict:
    return json.loads((parity.folder / "param_groups.json").read_text())


def official_groups(official: dict) -> list[str]:
    return [name for name in official if name.startswith("mae/param_groups_lrd")]


def named_as(stored: dict) -> list[tuple[str, nn.Parameter]]:
    """Parameters of the official names, of one dimension where they do not decay by it."""
    one = {name for name, facts in stored["params"].items() if facts["weight_decay"] == 0 and name not in KEPT}
    return [(name, nn.Parameter(torch.zeros(2) if name in one else torch.zeros(2, 2))) for name in stored["params"]]


def test_there_are_two_official_sets_of_groups(official):
    assert len(official_groups(official)) == 2


@pytest.mark.parametrize("number", [0, 1])
def test_layer_decay_scales_and_weight_decays_are_maes(official, number):
    stored = official[official_groups(official)[number]]
    groups = layer_groups(named_as(stored), 12, stored["layer_decay"], keep=lambda name, _: name in KEPT)
    found = {
        name: (group["lr_scale"], stored["weight_decay"] * group["decays"])
        for group in groups
        for name in group["names"]
    }
    assert found.keys() == stored["params"].keys()
    for name, facts in stored["params"].items():
        assert found[name] == (pytest.approx(facts["lr_scale"], rel=1e-12), facts["weight_decay"]), name


@pytest.mark.parametrize("number", [0, 1])
def test_learning_rates_of_each_group_are_maes(official, number):
    """Epoch 2.5 of a warm-up of five to a peak of 0.002."""
    from fewvit.training.schedules import mae_lr

    stored = official[official_groups(official)[number]]
    groups = layer_groups(named_as(stored), 12, stored["layer_decay"], keep=lambda name, _: name in KEPT)
    scale = {name: group["lr_scale"] for group in groups for name in group["names"]}
    for name, lr in stored["group_lrs_at_epoch_2.5"].items():
        assert mae_lr(2.5, 100, 5, 0.002, 1e-6) * scale[name] == pytest.approx(lr, rel=1e-9), name


def test_the_groups_of_a_whole_network_cover_each_of_its_parameters_once():
    task = tuned(Architecture(12, 3, 2, 4, grid=3, positions="mae", final_norm="fc_norm"), "full", layer_decay=0.65)
    groups = task.groups()
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted([*(n for n, _ in task.trunk.named_parameters()), "head.weight", "head.bias"])
    scales = {
        name: round(group["lr_scale"] / 0.65 ** (4 - i), 12) for group in groups for i, name in layers(group["names"])
    }
    assert set(scales.values()) == {1.0}
    decaying = {name for group in groups if group["decays"] for name in group["names"]}
    assert decaying == {
        n
        for n, p in [*task.trunk.named_parameters(), ("head.weight", task.head.weight)]
        if p.ndim > 1 and n not in KEPT
    }


def layers(names: list[str]) -> list[tuple[int, str]]:
    return [
        (int(n.split(".")[1]) + 1 if n.startswith("blocks") else 4 if n.startswith(("fc_norm", "head")) else 0, n)
        for n in names
    ]


def tuned(architecture: Architecture, mode: str, head: ClassificationHead | None = None, **changes) -> Tuning:
    recipe, _ = recipe_for(mode, architecture, View(224, (1.0, 1.0)), "mae", 1000, 200)
    recipe = dataclasses.replace(recipe, architecture=architecture, **changes)
    trunk = Trunk(architecture)
    prepare(trunk, recipe, True, torch.Generator().manual_seed(0))
    pool = "mean" if architecture.final_norm == "fc_norm" else "cls"
    return Tuning(
        recipe,
        trunk,
        Readout(pool),
        head or ClassificationHead(torch.zeros(3, architecture.width), torch.zeros(3), "raw", with_bias=True),
    )


@pytest.mark.parametrize(("view", "part"), [("s224", slice(0, 224)), ("s96", slice(64, 160))])
def test_logits_of_maes_fine_tuned_checkpoint_are_the_official_ones(parity, tmp_path, view, part):
    file = parity.folder / "mae_finetuned.pth"
    spec = resolve(str(file), Access(tmp_path, offline=True), DigestMemory())
    stored = read_checkpoint(file)["model"]
    head = ClassificationHead(stored["head.weight"], stored["head.bias"], "raw", with_bias=True)
    task = tuned(spec.architecture, "full", head, drop_path=0.0).eval()
    fill(task.trunk, {name: t for name, t in stored.items() if not name.startswith("head.")}, file)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    images = (torch.from_numpy(parity.arrays("preprocess.npz")["dino"]).permute(0, 3, 1, 2).float() / 255 - mean) / std
    with torch.no_grad():
        features = task.features(images[:, :, part, part])
        parity.check("features.npz", f"mae_finetuned/{view}/feat", features.numpy())
        parity.check("features.npz", f"mae_finetuned/{view}/logits", task.head(features).numpy())


def test_the_schedule_of_a_task_is_maes(parity):
    """400 quarters of an epoch: warm-up, cosine, floor."""
    task = tuned(
        Architecture(12, 3, 2, 4, grid=3), "full", epochs=100, lr=0.002, lr_batch=None, warmup_epochs=5, min_lr=1e-6
    )
    rows = np.zeros(1, np.int64)
    found = [task.schedule(Step(i, 4, 100, 0, rows))["lr"] for i in range(400)]
    parity.check("schedules.npz", "mae/lr/finetune", np.array(found))


@pytest.mark.parametrize(
    ("width", "layer_decay", "drop_path", "epochs"),
    [(768, 0.65, 0.1, 100), (1024, 0.75, 0.2, 50), (1280, 0.75, 0.3, 50)],
)
def test_the_recipe_of_full_fine_tuning_is_maes_published_one(width, layer_decay, drop_path, epochs):
    architecture = Architecture(width, 12, 12, 16, positions="mae")
    recipe, rates = recipe_for("full", architecture, View(224, (1.0, 1.0)), "mae", 1_281_167, 1300)
    assert (recipe.layer_decay, recipe.drop_path, recipe.epochs) == (layer_decay, drop_path, epochs)
    assert (recipe.weight_decay, recipe.betas, recipe.warmup_epochs, recipe.min_lr, recipe.clip) == (
        0.05,
        (0.9, 0.999),
        5,
        1e-6,
        0,
    )
    assert (recipe.mixup, recipe.cutmix, recipe.label_smoothing, recipe.erase, recipe.randaugment) == (
        0.8,
        1.0,
        0.1,
        0.25,
        9,
    )
    assert (recipe.crop, recipe.flip, recipe.pool, recipe.head) == (0.08, 0.5, "fc_norm", "linear")
    blr = {768: 5e-4, 1024: 1e-3, 1280: 1e-3}[width]
    assert blr in rates
    assert dataclasses.replace(recipe, lr=blr, batch_size=1024).peak_lr == blr * 1024 / 256
