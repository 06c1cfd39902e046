"""MSN: what anchors see, how targets are made, what follows a step.

By hand, by brute force, in limit cases and over two processes.
"""

from __future__ import annotations

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from fewvit.backbones import Architecture
from fewvit.backbones.msn import Msn as MsnFiles
from fewvit.checkpoints.filling import fill
from fewvit.errors import CheckpointError, UsageError
from fewvit.methods import _msn_task
from fewvit.methods._msn_task import MsnTask, balanced, log_assignments, loss_parts, sharpened
from fewvit.methods.msn import Msn
from fewvit.models.vit import VisionTransformer
from fewvit.training.recipe import Step
from fewvit.views.view import View

RECIPE = Msn(
    architecture=Architecture(24, 2, 3, 4, grid=5, positions="msn"),
    views=(View(20, (0.3, 1.0)), View(20, (0.3, 1.0), count=2), View(12, (0.05, 0.3), count=3)),
    epochs=3,
    batch_size=7,
    warmup_epochs=1,
    patch_drop=0.3,
    prototypes=11,
    projector_width=17,
    out_width=13,
)


def step(index: int = 0, rows: tuple[int, ...] = (3, 7, 4, 11, 2, 5), seed: int = 0) -> Step:
    return Step(index, steps_per_epoch=5, epochs=3, seed=seed, rows=np.array(rows))


@pytest.fixture
def msn() -> MsnTask:
    torch.manual_seed(11)
    method = MsnTask(RECIPE).train()
    with torch.no_grad():
        for parameter in method.parameters():  # also those that start at 0 or 1, and the target away from the anchor
            parameter += 0.1 * torch.randn_like(parameter)
    return method


def views(n: int = 6) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(5)
    return [torch.randn(n, 3, size, size, generator=draw) for size in (20, 20, 20, 12, 12, 12)]


# --- targets and loss


def test_a_prediction_is_the_softmax_of_cosines():
    features, prototypes = np.array([[3.0, 4.0], [0.0, -2.0]]), np.array([[1.0, 0.0], [0.0, 5.0], [-1.0, 1.0]])
    cosines = np.array([[0.6, 0.8, 0.2 / math.sqrt(2)], [0.0, -1.0, -1 / math.sqrt(2)]])
    expected = np.exp(cosines / 0.5) / np.exp(cosines / 0.5).sum(axis=1, keepdims=True)
    found = log_assignments(torch.from_numpy(features), torch.from_numpy(prototypes), 0.5)
    np.testing.assert_allclose(found.exp(), expected, rtol=1e-5)
    np.testing.assert_allclose(
        log_assignments(torch.from_numpy(features), torch.from_numpy(prototypes), 0.5, 0.3).exp(),
        0.7 * expected + 0.1,
        rtol=1e-5,
    )


def test_sharpening_by_a_quarter_is_a_quarter_of_the_temperature():
    features, prototypes = torch.randn(5, 13), torch.randn(7, 13)
    sharp = sharpened(log_assignments(features, prototypes, 0.1), 0.25)
    torch.testing.assert_close(sharp.float(), log_assignments(features, prototypes, 0.025).exp(), rtol=1e-4, atol=1e-7)


def test_balanced_targets_use_every_prototype_alike_and_stay_as_they_are_when_they_do():
    p = torch.rand(12, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 4
    p = p / p.sum(dim=1, keepdim=True)
    many = balanced(p, 500)
    torch.testing.assert_close(many.sum(dim=0), torch.full((5,), 12 / 5, dtype=torch.float64))
    torch.testing.assert_close(many.sum(dim=1), torch.ones(12, dtype=torch.float64))
    factors = (many / p).log()  # a row's plus a column's, if nothing but rows and columns was scaled
    torch.testing.assert_close(
        factors - factors[:1] - factors[:, :1] + factors[0, 0], torch.zeros_like(factors), atol=1e-9, rtol=0
    )
    torch.testing.assert_close(balanced(many), many)


def test_targets_are_balanced_in_three_rounds_of_columns_and_rows():
    p = np.random.default_rng(1).random((6, 5)) ** 4
    wanted = p
    for _ in range(3):
        wanted = wanted / wanted.sum(axis=0) / 5
        wanted = wanted / wanted.sum(axis=1, keepdims=True) / 6
    np.testing.assert_allclose(balanced(torch.from_numpy(p)), 6 * wanted)


def test_no_round_of_balancing_leaves_the_sharpened_softmax_as_it_is(msn):
    p = torch.rand(6, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    p = p / p.sum(dim=1, keepdim=True)
    assert torch.equal(balanced(p, 0), p)
    losses = {}
    for name, changed in {
        "none": {"sinkhorn_rounds": 0},
        "off": {"sinkhorn": False},
        "one": {"sinkhorn_rounds": 1},
    }.items():
        msn.recipe = dataclasses.replace(RECIPE, **changed)
        losses[name] = float(msn(views(), step())[0].detach())
    assert losses["none"] == losses["off"] != losses["one"]


@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
def test_targets_sum_to_one_whatever_the_rounds_as_in_swavs_order_of_operations(rounds):
    """SwAV's order: all shares sum to 1, then the rounds, then times the images."""
    p = torch.rand(7, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    p = p / p.sum(dim=1, keepdim=True)
    wanted = (p / p.sum()).numpy()
    for _ in range(rounds):
        wanted = wanted / wanted.sum(axis=0) / 5
        wanted = wanted / wanted.sum(axis=1, keepdims=True) / 7
    np.testing.assert_allclose(balanced(p, rounds).numpy(), 7 * wanted, rtol=1e-12)
    np.testing.assert_allclose(balanced(p, rounds).sum(dim=1).numpy(), 1.0, rtol=1e-12)


@pytest.mark.parametrize("size", [1, 7])
def test_targets_are_balanced_over_the_batches_of_all_processes(monkeypatch, size):
    """Two processes with the same batch: each gets what a single one gives the batch and its copy."""
    p = torch.rand(size, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole = balanced(torch.cat([p, p]))
    monkeypatch.setattr(_msn_task, "world_size", lambda: 2)
    monkeypatch.setattr(_msn_task, "sum_over_processes", lambda own: 2 * own)
    torch.testing.assert_close(balanced(p), whole[:size])


def test_a_prototype_that_no_target_is_near_is_balanced_without_a_division_by_zero():
    """All targets at one prototype.

    With T = 0.2 another one's share is e^-100, which float32 holds with a few bits and T = 0.1 not at all.
    """
    prototypes = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    log_p = log_assignments(torch.tensor([[1.0, 0.0]] * 4), prototypes, 0.1)
    for sharpening in (0.2, 0.1, 0.05):
        torch.testing.assert_close(balanced(sharpened(log_p, sharpening)), torch.full((4, 2), 0.5, dtype=torch.float64))


def test_memax_is_zero_for_equally_used_prototypes_and_log_k_for_a_single_one():
    sure = torch.full((8, 4), -60.0)
    sure[torch.arange(8), torch.arange(8) % 4] = 0.0
    same = torch.full((8, 4), -60.0)
    same[:, 3] = 0.0
    for log_p, memax in ((sure, 0.0), (same, math.log(4))):
        parts = loss_parts(log_p, log_p[:4].exp())
        assert float(parts["memax"]) == pytest.approx(memax, abs=1e-6)
        assert float(parts["cross_entropy"]) == pytest.approx(0, abs=1e-6)
        assert float(parts["anchor_entropy"]) == pytest.approx(0, abs=1e-6)


def test_every_view_of_an_image_is_compared_with_that_images_target():
    log_p, targets = torch.randn(6, 5).log_softmax(1), torch.rand(3, 5)
    by_hand = [
        -sum(float(targets[image, k]) * float(log_p[view * 3 + image, k]) for k in range(5))
        for view in range(2)
        for image in range(3)
    ]
    assert float(loss_parts(log_p, targets)["cross_entropy"]) == pytest.approx(np.mean(by_hand), rel=1e-5)


def test_the_loss_is_the_weighted_sum_of_its_parts_and_no_gradient_reaches_the_target(msn):
    msn.recipe = dataclasses.replace(RECIPE, memax_weight=3.0, entropy_weight=0.5)
    loss, facts = msn(views(), step())
    assert float(loss.detach()) == pytest.approx(
        float(facts["cross_entropy"] + 3 * facts["memax"] + 0.5 * facts["anchor_entropy"]), rel=1e-6
    )
    loss.backward()
    assert all(p.grad is None for p in msn.target.parameters())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in (*msn.anchor.parameters(), msn.prototypes))


def test_facts_tell_a_collapse_from_health(msn):
    assert msn.max_entropy == pytest.approx(math.log(11))
    msn.recipe = dataclasses.replace(RECIPE, sinkhorn=False)
    _, healthy = msn(views(), step())
    with torch.no_grad():
        msn.target.fc.fc3.weight.zero_()
        msn.target.fc.fc3.bias.copy_(msn.prototypes[3])
    _, one = msn(views(), step())
    assert int(one["prototypes_used"]) == 1 < int(healthy["prototypes_used"])
    assert float(one["mean_target_entropy"]) == pytest.approx(float(one["target_entropy"]), abs=1e-6)
    assert float(healthy["mean_target_entropy"]) > float(healthy["target_entropy"]) + 0.1
    with torch.no_grad():
        msn.target.fc.fc3.bias.zero_()
    _, none = msn(views(), step())
    assert float(none["target_entropy"]) == pytest.approx(math.log(11))


# --- what anchors see


@pytest.mark.parametrize(
    ("name", "kept"), {"paper/vits16": 166, "paper/vitb16": 137, "paper/vitb4": 940, "paper/vitl7": 307}.items()
)
def test_as_many_patches_are_kept_as_published(msn, name, kept):
    msn.recipe = Msn.presets[name]
    found = msn.kept_patches(step())
    patches = msn.recipe.architecture.grid**2
    assert len(found) == len(set(found.tolist())) == kept
    assert 0 <= int(found.min()) < int(found.max()) < patches


def test_kept_patches_are_another_choice_in_every_step_and_the_same_for_every_batch(msn):
    kept = [msn.kept_patches(s).tolist() for s in (step(), step(rows=(1, 2)), step(index=1), step(seed=1))]
    assert kept[0] == kept[1]
    assert len({tuple(sorted(k)) for k in kept}) == 3
    counts = np.bincount(np.concatenate([msn.kept_patches(step(i)).numpy() for i in range(400)]), minlength=25)
    assert counts.sum() == 400 * 17
    assert abs(counts - 272).max() < 5 * math.sqrt(400 * 0.68 * 0.32)  # each patch is kept as often as the others


def test_random_anchors_do_not_see_the_patches_left_out_and_focal_anchors_see_all(msn):
    given, kept = views(), msn.kept_patches(step())
    assert kept is not None
    hidden = torch.ones(25, dtype=torch.bool)
    hidden[kept] = False
    image = hidden.view(5, 5).repeat_interleave(4, 0).repeat_interleave(4, 1)
    with torch.no_grad():
        plain = msn.project(given[1:], kept)
        same = msn.project([torch.where(image, 100.0, v) if v.shape[-1] == 20 else v for v in given[1:]], kept)
        changed = msn.project([v + 1 if v.shape[-1] == 12 else v for v in given[1:]], kept)
    assert torch.equal(plain, same)
    assert torch.equal(plain[:12], changed[:12])  # and each kind of view has a BatchNorm batch of its own
    assert (plain[12:] - changed[12:]).abs().amax(dim=1).min() > 1e-4


def test_patches_of_seven_leave_the_last_five_of_96_pixels_unseen():
    method = MsnTask(
        dataclasses.replace(RECIPE, architecture=Architecture(24, 1, 3, 7, grid=32, positions="msn"))
    ).eval()
    image = torch.randn(2, 3, 96, 96)
    cut = image.clone()
    cut[:, :, 91:], cut[:, :, :, 91:] = 9.0, 9.0
    with torch.no_grad():
        assert torch.equal(method.anchor(image), method.anchor(cut))
        cut[:, :, 90] = 9.0
        assert not torch.equal(method.anchor(image), method.anchor(cut))


def test_drop_path_is_for_anchors_alone():
    torch.manual_seed(3)
    plain, dropping = MsnTask(RECIPE).train(), MsnTask(dataclasses.replace(RECIPE, drop_path=0.9)).train()
    dropping.load_state_dict(plain.state_dict())
    seen: list[list[torch.Tensor]] = [[], []]
    for method, into in zip((plain, dropping), seen):
        for network in (method.target, method.anchor):
            network.register_forward_hook(lambda module, args, out, into=into: into.append(out.detach()))
        method(views(), step())
    (target, *anchors), (same, *others) = seen
    assert torch.equal(target, same)
    assert not any(torch.isclose(a, b).all() for a, b in zip(anchors, others))


def test_every_view_has_its_own_draw_of_drop_path():
    msn, seen = MsnTask(dataclasses.replace(RECIPE, drop_path=0.5)).train(), []
    msn.anchor.register_forward_pre_hook(lambda module, args: seen.append(args[2]))
    msn(views(), step())
    drawn = msn.anchor.trunk.draw_scales(step(), 5, torch.device("cpu"))
    assert torch.equal(torch.cat(seen), torch.cat(drawn))
    assert not torch.equal(drawn[0], drawn[1])


def test_in_bf16_the_loss_and_its_targets_stay_float32(msn, monkeypatch):
    exact, facts = msn(views(), step())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, rounded = msn(views(), step())
    assert rough.dtype == torch.float32
    assert 0 < abs(float((rough - exact).detach())) < 0.05 * float(exact.detach())
    assert float(rounded["target_entropy"]) == pytest.approx(float(facts["target_entropy"]), abs=0.1)
    projections = msn.project(views()[1:], None).detach()
    monkeypatch.setattr(msn, "project", lambda *args: projections)
    monkeypatch.setattr(msn.target, "forward", lambda images: projections[:6])
    outside, _ = msn(views(), step())
    with torch.autocast("cpu", dtype=torch.bfloat16):  # the same projections, the same loss: nothing in it is rounded
        inside, _ = msn(views(), step())
    assert torch.equal(inside, outside)


# --- what follows a step


def test_the_learning_rate_warms_up_over_epochs_of_steps_and_both_its_ends_are_scaled_with_the_batch():
    """Peak 0.1 and start 0.02 for 14 images are halved for 7; 1.6 epochs of 5 steps are 8.

    Schedules go on to 1.25 times the 15 steps.
    """
    made = MsnTask(dataclasses.replace(RECIPE, lr=0.1, lr_batch=14, start_lr=0.02, warmup_epochs=1.6))
    told = [made.schedule(step(index)) for index in range(15)]
    assert [told[index]["lr"] for index in (0, 3, 6, 7)] == pytest.approx([0.015, 0.03, 0.045, 0.05])
    assert told[14]["lr"] == pytest.approx(1e-6 + (0.05 - 1e-6) * (1 + math.cos(math.pi * 7 / 10)) / 2)
    assert told[14]["weight_decay"] == pytest.approx(0.4 - 0.36 * (1 + math.cos(math.pi * 15 / 18)) / 2)
    constant = MsnTask(dataclasses.replace(RECIPE, final_weight_decay=None))
    assert {constant.schedule(step(index))["weight_decay"] for index in (0, 14)} == {0.04}


@pytest.mark.parametrize(("first", "last"), [(0.996, 1.0), (0.25, 0.5)])  # the published, and one below a half
def test_the_target_is_the_moving_average_of_parameters_and_not_of_buffers(msn, first, last):
    msn.recipe = dataclasses.replace(RECIPE, momentum=(first, last))
    msn(views(), step())
    at = step(index=6)
    slow, fast = (
        {n: t.detach().clone() for n, t in network.state_dict().items()} for network in (msn.target, msn.anchor)
    )
    msn.after_update(at)
    momentum = first + (last - first) * 6 / (1.25 * 15)
    parameters = {name for name, _ in msn.target.named_parameters()}
    for name, found in msn.target.state_dict().items():
        expected = momentum * slow[name] + (1 - momentum) * fast[name] if name in parameters else slow[name]
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    assert all(torch.equal(tensor, fast[name]) for name, tensor in msn.anchor.state_dict().items())
    assert not torch.equal(msn.target.fc.bn1.running_mean, msn.anchor.fc.bn1.running_mean)


def test_a_new_target_is_the_anchor_and_cannot_be_trained():
    msn = MsnTask(RECIPE)
    assert all(
        torch.equal(a, b)
        for a, b in zip(msn.anchor.state_dict().values(), msn.target.state_dict().values(), strict=True)
    )
    trained = {id(p) for group in msn.groups() for p in group["params"]}
    assert trained == {id(p) for p in (*msn.anchor.parameters(), msn.prototypes)}
    assert not any(p.requires_grad for p in msn.target.parameters())


def test_clipping_takes_the_anchor_as_one_vector_and_spares_the_prototypes(msn):
    msn(views(), step())[0].backward()
    before = {name: p.grad.clone() for name, p in msn.named_parameters() if p.grad is not None}
    norm = math.sqrt(sum(float(g.double().square().sum()) for n, g in before.items() if n != "prototypes"))
    msn.recipe = dataclasses.replace(RECIPE, clip=norm / 4)
    assert float(msn.clip()) == pytest.approx(norm, rel=1e-5)
    for name, p in msn.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(
                p.grad, before[name] if name == "prototypes" else before[name] / 4, rtol=1e-4, atol=1e-9
            )


# --- initialisation, files


def test_a_new_model_is_initialised_as_published():
    torch.manual_seed(0)
    msn = MsnTask(
        dataclasses.replace(
            RECIPE, architecture=Architecture(192, 2, 3, 4, grid=5, positions="msn"), projector_width=64
        )
    ).requires_grad_(False)
    for weight in (
        msn.anchor.trunk.blocks[1].mlp.fc1.weight,
        msn.anchor.fc.fc1.weight,
        msn.anchor.trunk.cls_token,
        msn.anchor.trunk.pos_embed,
    ):
        assert float(weight.std()) == pytest.approx(0.02, rel=0.15)
    assert float(msn.anchor.trunk.patch_embed.proj.weight.std()) == pytest.approx(math.sqrt(2 / 48), rel=0.05)
    assert all(
        not p.any() for name, p in msn.anchor.named_parameters() if name.endswith(".bias") and "patch_embed" not in name
    )
    assert {layer.eps for layer in msn.modules() if isinstance(layer, torch.nn.LayerNorm)} == {1e-6}
    assert 0.95 / math.sqrt(13) < float(msn.prototypes.abs().max()) <= 1 / math.sqrt(13)
    assert float(msn.prototypes.std()) == pytest.approx(1 / math.sqrt(13) / math.sqrt(3), rel=0.15)


def test_what_is_exported_is_an_msn_file_whose_trunk_loads_strictly(msn):
    tree = msn.official()
    assert MsnFiles.recognises(tree)
    trunk = MsnFiles.trunk(tree, None)
    backbone = VisionTransformer(RECIPE.architecture)
    fill(backbone, trunk.tensors, "exported")
    assert torch.equal(backbone.blocks[1].mlp.fc2.weight, msn.encoder().blocks[1].mlp.fc2.weight)
    assert not torch.equal(backbone.blocks[1].mlp.fc2.weight, msn.anchor.trunk.blocks[1].mlp.fc2.weight)
    other = MsnTask(RECIPE)
    other.start_from_official(tree)
    assert all(torch.equal(value, msn.state_dict()[name]) for name, value in other.state_dict().items())


def test_starting_from_a_trunk_fills_anchor_and_target_and_leaves_projectors_fresh(msn):
    other = MsnTask(RECIPE)
    fresh = {name: t.clone() for name, t in other.state_dict().items() if "trunk." not in name}
    other.start_from(msn.encoder().state_dict())
    for network in (other.anchor, other.target):
        assert all(torch.equal(t, msn.encoder().state_dict()[name]) for name, t in network.trunk.state_dict().items())
    assert all(torch.equal(other.state_dict()[name], t) for name, t in fresh.items())


def test_files_with_one_network_or_of_another_size_are_refused(msn):
    with pytest.raises(CheckpointError, match="no encoder, prototypes"):
        msn.start_from_official({"target_encoder": {}})
    with pytest.raises(CheckpointError, match="prototypes"):
        MsnTask(dataclasses.replace(RECIPE, prototypes=12)).start_from_official(msn.official())
    with pytest.raises(CheckpointError, match="fc1"):
        MsnTask(dataclasses.replace(RECIPE, projector_width=16)).start_from_official(msn.official())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"views": RECIPE.views[:1]}, "one target view"),
        ({"views": RECIPE.views[1:]}, "one target view"),
        ({"patch_drop": 1.0}, "patch_drop=1"),
        ({"label_smoothing": -0.1}, "label_smoothing=-0.1"),
        ({"sharpening": (0.25, 0.0)}, "above 0"),
    ],
)
def test_recipes_that_cannot_be_trained_are_refused(change, words):
    with pytest.raises(UsageError, match=words):
        MsnTask(dataclasses.replace(RECIPE, **change))


@pytest.mark.parametrize("name", Msn.presets)
def test_every_preset_has_the_recipe_it_is_named_after(name):
    r = Msn.presets[name]
    target, anchor, focal = r.views
    assert (target, target.count) == (anchor, 1)
    assert (target.scale, focal.scale) == ((0.3, 1.0), (0.05, 0.3))
    for view in r.views:
        colours = (
            view.interpolation,
            view.flip,
            view.jitter,
            view.jitter_probability,
            view.grey,
            view.blur,
            view.solarise,
        )
        assert colours == ("bilinear", 0.5, (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.5, 0)
        assert view.blur_radius == pytest.approx((0.1 * target.size / 224, 2 * target.size / 224))
    assert (r.clip, r.drop_path, r.weight_decay, r.final_weight_decay, r.momentum) == (3.0, 0, 0.04, 0.4, (0.996, 1.0))
    assert (r.temperature, r.sharpening, r.sinkhorn, r.memax_weight, r.entropy_weight) == (
        0.1,
        (0.25, 0.25),
        True,
        1.0,
        0.0,
    )
    if name.startswith("paper/"):
        assert (r.peak_lr, r.start_lr, r.min_lr, r.warmup_epochs, r.batch_size) == (1e-3, 2e-4, 1e-6, 15, 1024)
        assert (r.prototypes, r.projector_width, r.out_width) == (1024, 2048, 256)
        assert (target.size, focal.size, focal.count) == (224, 96, 10)
    else:
        assert (r.prototypes, r.projector_width, r.out_width) == (256, 512, 128)
        assert (target.size, focal.size, focal.count) == (int(name[6:8]), int(name[6:8]) // 2, 4)
    assert r.architecture.grid == target.size // r.architecture.patch


# --- two processes are one

HALF = """
import sys, numpy as np, torch
from torch import distributed
from fewvit.backbones import Architecture
from fewvit.methods._msn_task import MsnTask
from fewvit.methods.msn import Msn
from fewvit.training.recipe import Step, View

def gradients(rank, world):
    views = (View(20, (0.3, 1.0)), View(20, (0.3, 1.0)), View(12, (0.05, 0.3), count=2))
    recipe = Msn(architecture=Architecture(24, 2, 3, 4, grid=5, positions="msn"), views=views, epochs=3, batch_size=8,
                        warmup_epochs=1, prototypes=11, projector_width=17, out_width=13, entropy_weight=0.3,
                        patch_drop=0.3)
    torch.manual_seed(7)
    method = MsnTask(recipe).train()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    draw, part = torch.Generator().manual_seed(5), slice(rank * 8 // world, (rank + 1) * 8 // world)
    images = [torch.randn(8, 3, size, size, generator=draw)[part] for size in (20, 20, 12, 12)]
    loss, facts = method(images, Step(2, 5, 3, 0, np.arange(8)[part]))
    loss.backward()
    found = {"loss": loss.detach(), **{name: p.grad for name, p in method.named_parameters() if p.grad is not None}}
    for tensor in found.values() if world > 1 else ():
        distributed.all_reduce(tensor)
        tensor /= world
    return found | {name: facts[name] for name in ("memax", "mean_target_entropy")} | dict(method.named_buffers())

def save(path, found):
    np.savez(path, **{name: value.numpy() for name, value in found.items()})

torch.set_num_threads(1)
rank, folder = int(sys.argv[1]), sys.argv[2]
if rank == 0:
    save(f"{folder}/one.npz", gradients(0, 1))
distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
save(f"{folder}/two{rank}.npz", gradients(rank, 2))
"""


def test_two_processes_with_half_a_batch_each_are_one_with_the_whole(tmp_path, python):
    with ThreadPoolExecutor(2) as pool:
        for run in [pool.submit(python, HALF, rank, tmp_path) for rank in (0, 1)]:
            run.result()
    with np.load(tmp_path / "one.npz") as one:
        assert {"prototypes", "anchor.fc.bn2.running_var", "target.fc.bn1.running_mean", "memax"} <= set(one.files)
        for rank in (0, 1):
            with np.load(tmp_path / f"two{rank}.npz") as two:
                assert set(one.files) == set(two.files)
                for name in one.files:
                    np.testing.assert_allclose(two[name], one[name], rtol=1e-3, atol=1e-6, err_msg=name)
