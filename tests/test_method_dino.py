"""DINO as a method: what the official outputs do not show.

Brute force over pairs of crops, updates by hand, presets against the paper's table.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fewvit.backbones import Architecture
from fewvit.backbones.dino import Dino as Family
from fewvit.methods import _dino_task as dino
from fewvit.methods._dino_task import DinoTask
from fewvit.methods.dino import Dino
from fewvit.training.recipe import Step
from fewvit.views.view import View

TINY = Dino(
    architecture=Architecture(64, 2, 1, 8, grid=3),
    views=(View(24, (0.3, 1.0), count=2), View(16, (0.1, 0.3), count=3)),
    epochs=5,
    batch_size=4,
    drop_path=0.0,
    outputs=13,
    hidden=11,
    bottleneck=7,
    warmup_epochs=1,
    warmup_teacher_temperature_epochs=3,
)


def made(seed: int = 3, **changed) -> DinoTask:
    torch.manual_seed(seed)
    return DinoTask(replace(TINY, **changed)).train()


def at(index: int = 0, rows=range(4)) -> Step:
    return Step(index, steps_per_epoch=7, epochs=5, seed=5, rows=np.array(rows))


def views(n: int = 4, seed: int = 7) -> list[Tensor]:
    stream = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 3, size, size, generator=stream) for size in (24, 24, 16, 16, 16)]


def numbers(*shape: int, seed: int = 11, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- the loss


def probabilities(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp((x - max(row)) / temperature) for x in row]
    return [p / math.fsum(powers) for p in powers]


def entropy(shares) -> float:
    return -math.fsum(p * math.log(p) for p in shares if p)


def test_the_loss_is_the_mean_over_all_pairs_of_a_global_and_another_crop():
    method, n, crops, k = made(), 3, 5, 13
    method.center.copy_(numbers(1, k, seed=1))
    student, teacher = numbers(crops * n, k, seed=2), numbers(2 * n, k, seed=3)
    wanted = []
    for g, v in itertools.product(range(2), range(crops)):
        for i in range(n) if g != v else ():
            target = probabilities((teacher[g * n + i] - method.center[0]).tolist(), 0.05)
            share = probabilities(student[v * n + i].tolist(), 0.1)
            wanted.append(-math.fsum(t * math.log(p) for t, p in zip(target, share, strict=True)))
    loss, _ = method.loss(student, teacher, 0.05)
    assert len(wanted) == (2 * crops - 2) * n
    assert loss.item() == pytest.approx(math.fsum(wanted) / len(wanted), rel=1e-5)


def test_both_entropies_of_the_targets_are_in_nats():
    method, n, k = made(), 3, 13
    method.center.copy_(numbers(1, k, seed=1))
    teacher = numbers(2 * n, k, seed=3, scale=0.1)
    targets = [probabilities(row, 0.05) for row in (teacher - method.center).tolist()]
    _, facts = method.loss(numbers(5 * n, k), teacher, 0.05)
    assert float(facts["target_entropy"]) == pytest.approx(math.fsum(map(entropy, targets)) / len(targets), rel=1e-5)
    assert float(facts["mean_target_entropy"]) == pytest.approx(entropy(np.mean(targets, axis=0)), rel=1e-5)


@pytest.mark.parametrize(
    ("logits", "single", "mean"),
    [("one class", 0.0, 0.0), ("uniform", math.log(13), math.log(13)), ("spread", 0.0, math.log(3))],
)
def test_each_collapse_shows_in_the_entropies(logits, single, mean):
    method = made()
    teacher = {
        "one class": 9.0 * torch.eye(13)[[3] * 6],
        "uniform": torch.ones(6, 13),
        "spread": 9.0 * torch.eye(13)[[3, 7, 11] * 2],
    }[logits]
    _, facts = method.loss(numbers(15, 13), teacher, 0.04)
    assert float(facts["target_entropy"]) == pytest.approx(single, abs=1e-5)
    assert float(facts["mean_target_entropy"]) == pytest.approx(mean, abs=1e-5)
    assert method.max_entropy == pytest.approx(math.log(13))


def test_the_teacher_sees_the_global_crops_only_and_no_gradient_reaches_it():
    method, crops = made(), views()
    loss, facts = method(crops, at())
    other, same = method([*crops[:2], *views(seed=8)[2:]], at())
    assert loss.item() != other.item()
    assert all(torch.equal(facts[name], same[name]) for name in facts)
    loss.backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    trained = {id(p) for group in method.groups() for p in group["params"]}
    assert trained == {id(p) for p in method.student.parameters() if p.requires_grad}
    assert all(p.grad is not None for group in method.groups() for p in group["params"])


# ---- what an update does


def updated(method: DinoTask, batches: list[list[Tensor]], step: Step) -> None:
    for part in batches:
        method(part, step)
    method.after_update(step)


def test_the_centre_moves_towards_the_mean_logits_of_both_global_crops_of_each_batch():
    method = made()
    method.center.copy_(numbers(1, 13, seed=1))
    for seed in (7, 8):
        crops, before = views(seed=seed), method.center.clone()
        with torch.no_grad():
            logits = torch.cat([method.teacher([crops[0]]), method.teacher([crops[1]])])
        updated(method, [crops], at())
        torch.testing.assert_close(method.center, 0.9 * before + 0.1 * logits.mean(dim=0))


def test_a_batch_in_parts_moves_the_centre_once_and_as_the_whole_batch_does():
    whole, parts, crops = made(), made(), views()
    updated(whole, [crops], at())
    updated(parts, [[crop[:1] for crop in crops], [crop[1:] for crop in crops]], at())  # parts of unequal size
    torch.testing.assert_close(parts.center, whole.center)


def test_the_centre_moves_to_the_mean_logits_of_all_processes(monkeypatch):
    """Two processes, one after the other, with half a batch each: the second hears what the first one sent."""
    whole, crops, sent = made(), views(), []
    updated(whole, [crops], at())
    monkeypatch.setattr(dino, "world_size", lambda: 2)
    monkeypatch.setattr(dino, "sum_over_processes", lambda value: sent.append(value) or sum(sent))
    for half in (slice(0, 2), slice(2, 4)):
        method = made()
        updated(method, [[crop[half] for crop in crops]], at())
    assert whole.center.abs().min() > 1e-5
    torch.testing.assert_close(method.center, whole.center)


def test_the_teacher_follows_each_parameter_of_the_student_by_the_momentum_of_the_step():
    method, step = made(norm_last_layer=False), at(17)
    with torch.no_grad():
        for i, parameter in enumerate(method.student.parameters()):
            parameter.add_(numbers(*parameter.shape, seed=i))
    before = {name: p.clone() for name, p in method.teacher.named_parameters()}
    momentum = 1 - 0.004 * (1 + math.cos(math.pi * 17 / 35)) / 2
    method.after_update(step)
    for name, student in method.student.named_parameters():
        wanted = momentum * before[name] + (1 - momentum) * student
        torch.testing.assert_close(dict(method.teacher.named_parameters())[name], wanted.detach(), atol=1e-6, rtol=1e-5)
    assert "head.last_layer.weight_g" in before


@pytest.mark.parametrize(("index", "frozen"), [(0, True), (6, True), (7, False), (20, False)])
def test_the_last_layer_neither_learns_nor_decays_in_the_first_epoch(index, frozen):
    method, step = made(norm_last_layer=False), at(index)
    optimizer = torch.optim.AdamW([p for group in method.groups() for p in group["params"]], lr=0.1, weight_decay=0.5)
    before = {name: p.detach().clone() for name, p in method.student.named_parameters()}
    method(views(), step)[0].backward()
    method.before_update(step)
    optimizer.step()
    still = {name for name, p in method.student.named_parameters() if torch.equal(p, before[name])}
    assert still == ({"head.last_layer.weight_g", "head.last_layer.weight_v"} if frozen else set())


def test_the_norm_told_is_the_largest_of_a_single_parameter_and_no_gradient_stays_above_the_limit():
    method = made(clip=1.0)
    method(views(), at())[0].backward()
    norms = [float(p.grad.norm()) for p in method.student.parameters() if p.grad is not None]
    assert float(method.clip()) == pytest.approx(max(norms), rel=1e-5)
    clipped = [float(p.grad.norm()) for p in method.student.parameters() if p.grad is not None]
    assert max(norms) > 1.0 > min(norms)
    assert clipped == pytest.approx([min(norm, 1.0) for norm in norms], rel=1e-3)


def test_the_schedules_go_by_steps_but_the_temperature_by_epochs():
    method = made()
    told = [method.schedule(at(index)) for index in range(35)]
    assert {knob: [t[knob] for t in told[:2]] for knob in ("lr", "weight_decay", "momentum", "temperature")} == {
        "lr": pytest.approx([0.0, 5e-4 * 4 / 256 / 6]),  # seven warm-up steps, both ends included
        "weight_decay": pytest.approx([0.04, 0.4 - 0.36 * (1 + math.cos(math.pi / 35)) / 2]),
        "momentum": pytest.approx([0.996, 1 - 0.004 * (1 + math.cos(math.pi / 35)) / 2]),
        "temperature": [0.04, 0.04],
    }
    assert [told[i]["temperature"] for i in (6, 7, 13, 14, 34)] == pytest.approx([0.04, 0.055, 0.055, 0.07, 0.07])
    assert {t["weight_decay"] for t in (made(final_weight_decay=None).schedule(at(i)) for i in (0, 34))} == {0.04}


# ---- chance


def test_dropped_branches_belong_to_the_image_and_not_to_the_batch_or_to_what_was_drawn_before():
    method, crops = made(drop_path=0.5), views()
    whole, _ = method(crops, at(rows=[3, 7, 13, 19]))
    halves = [
        method([crop[part] for crop in crops], at(rows=rows))[0]
        for part, rows in ((slice(0, 2), [3, 7]), (slice(2, 4), [13, 19]))
    ]
    torch.testing.assert_close(torch.stack(halves).mean(), whole)
    other, _ = method(crops, at(rows=[3, 7, 13, 20]))
    assert abs((other - whole).item()) > 1e-4
    assert made(drop_path=0.5).teacher.backbone.draw_scales(at(), 2, torch.device("cpu")) is None


def test_bf16_is_for_the_blocks_alone():
    method, crops = made(), views()
    exact, _ = method(crops, at())
    seen = {}
    for name, module in method.student.named_modules():
        module.register_forward_hook(lambda module, inputs, output, name=name: seen.__setitem__(name, output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, facts = method(crops, at())
    assert seen["backbone.blocks.1.mlp.fc1"] == torch.bfloat16
    assert {seen["head.mlp.4"], seen["head.last_layer"], loss.dtype, facts["target_entropy"].dtype} == {torch.float32}
    assert loss.item() == pytest.approx(exact.item(), rel=0.01)


# ---- how it begins, and what comes out


def test_teacher_and_student_begin_alike_as_the_official_initialisation_draws_them():
    method = DinoTask(
        replace(TINY, architecture=Architecture(192, 2, 3, 8, grid=7), outputs=1009, hidden=256, bottleneck=64)
    )
    student, teacher = method.student.state_dict(), method.teacher.state_dict()
    assert all(torch.equal(student[name], teacher[name]) for name in student)
    for name, value in student.items():
        if name.endswith("weight_v"):
            assert value.abs().max() <= 1 / 8
            assert value.std().item() == pytest.approx(1 / 8 / 3**0.5, rel=0.02)
        elif name.endswith("weight_g") or (name.endswith(".weight") and "norm" in name):
            assert torch.equal(value, torch.ones_like(value))
        elif "patch_embed" in name:  # torch's own: uniform with bound 1 / sqrt(3 * 8 * 8)
            assert value.abs().max() <= 192**-0.5
            assert value.std().item() == pytest.approx((192 * 3) ** -0.5, rel=0.1)
        elif name.endswith(".bias"):
            assert not value.any()
        else:
            assert value.std().item() == pytest.approx(0.02, rel=0.15), name
            assert abs(value.mean().item()) < 0.004


@pytest.mark.parametrize("fixed", [True, False])
def test_gains_stay_one_exactly_where_the_last_layer_is_normed(fixed):
    gains = made(norm_last_layer=fixed).student.head.last_layer.weight_g
    assert gains.requires_grad is not fixed


def test_a_released_trunk_goes_into_student_and_teacher():
    method, released = (
        made(seed=3),
        {name: value.clone() for name, value in made(seed=4).encoder().state_dict().items()},
    )
    head = method.student.head.mlp[0].weight.clone()
    method.start_from(released)
    for network in (method.student, method.teacher):
        assert all(torch.equal(value, released[name]) for name, value in network.backbone.state_dict().items())
    assert torch.equal(method.student.head.mlp[0].weight, head)


def test_a_head_with_batch_norm_is_torchs_layers_in_the_official_order():
    head = made(use_bn_in_head=True).student.head
    plain = torch.nn.Sequential(
        *(torch.nn.Linear(64, 11), torch.nn.BatchNorm1d(11), torch.nn.GELU()),
        *(torch.nn.Linear(11, 11), torch.nn.BatchNorm1d(11), torch.nn.GELU()),
        torch.nn.Linear(11, 7),
    )
    plain.load_state_dict(head.mlp.state_dict())
    x = numbers(20, 64)
    unit = torch.nn.functional.normalize(plain(x), dim=-1)
    directions = torch.nn.functional.normalize(head.last_layer.weight_v, dim=1)
    torch.testing.assert_close(head(x), unit @ directions.T)
    assert torch.equal(head.mlp[1].running_mean, plain[1].running_mean)
    assert not any(isinstance(layer, torch.nn.BatchNorm1d) for layer in made().student.head.mlp)


def test_norms_of_the_head_follow_the_student_and_do_not_decay():
    method = made(use_bn_in_head=True)
    spared = {name for group in method.groups() if not group["decays"] for name in group["names"]}
    assert {"head.mlp.1.weight", "head.mlp.1.bias", "head.mlp.4.weight", "head.mlp.4.bias"} <= spared
    with torch.no_grad():
        method.student.head.mlp[1].weight.fill_(3.0)
    method.after_update(at())
    assert method.teacher.head.mlp[1].weight[0] == pytest.approx(1 + 2 * (1 - method.schedule(at())["momentum"]))


@pytest.mark.parametrize(("norm", "prefix"), [(False, ""), (True, "module.")])
def test_the_teachers_official_names_are_ddps_where_its_head_has_batch_norm(norm, prefix):
    names = made(use_bn_in_head=norm).official()["teacher"]
    assert all(name.startswith(f"{prefix}backbone.") or name.startswith(f"{prefix}head.") for name in names)


@pytest.mark.parametrize("norm", [False, True])
def test_the_official_checkpoint_is_read_back_as_dinos_with_the_teacher_first(norm):
    method = made(use_bn_in_head=norm)
    method.after_update(at())
    with torch.no_grad():
        method.student.backbone.norm.bias.add_(1.0)
    tree = method.official()
    assert Family.recognises(tree)
    for key, network in ((None, method.encoder()), ("student", method.student.backbone)):
        trunk = Family.trunk(tree, key).tensors
        assert trunk.keys() == network.state_dict().keys()
        assert all(torch.equal(trunk[name], value) for name, value in network.state_dict().items())
    assert set(tree["student"]) == {f"module.{name.removeprefix('module.')}" for name in tree["teacher"]}
    assert torch.equal(tree["dino_loss"]["center"], method.center)


def test_everything_that_the_next_step_depends_on_is_in_the_state():
    first, crops = made(drop_path=0.5), views()
    updated(first, [crops], at())
    second = made(seed=4, drop_path=0.5)
    second.load_state_dict(first.state_dict())
    for method in (first, second):
        method.student.zero_grad()
    losses = [method(views(seed=8), at(1))[0] for method in (first, second)]
    assert torch.equal(*losses)


# ---- presets

# epochs, batch, peak lr, final lr, first and last teacher temperature and warm-up epochs, clip, gains fixed, epochs
# frozen (fact sheet F1)
RELEASED = {
    "paper/vits16": (800, 1024, 2e-3, 1e-5, 0.04, 0.07, 30, 0.0, False, 1),
    "paper/vits8": (800, 1024, 2e-3, 1e-5, 0.04, 0.07, 30, 0.0, False, 1),
    "paper/vitb16": (400, 1024, 3e-3, 2e-6, 0.04, 0.07, 50, 0.3, True, 3),
    "paper/vitb8": (300, 1056, 5e-4 * 1056 / 256, 2e-6, 0.03, 0.07, 50, 3.0, True, 3),
}


@pytest.mark.parametrize("name", RELEASED)
def test_a_paper_preset_is_the_released_run(name):
    r = Dino.presets[name]
    temperatures = (r.warmup_teacher_temperature, r.teacher_temperature, r.warmup_teacher_temperature_epochs)
    told = (r.epochs, r.batch_size, r.peak_lr, r.min_lr, *temperatures, r.clip, r.norm_last_layer, r.freeze_last_layer)
    assert told == pytest.approx(RELEASED[name])
    assert (r.outputs, r.hidden, r.bottleneck) == (65536, 2048, 256)
    assert (r.warmup_epochs, r.weight_decay, r.final_weight_decay, r.drop_path) == (10, 0.04, 0.4, 0.1)
    assert (r.momentum_teacher, r.center_momentum, r.student_temperature) == (0.996, 0.9, 0.1)
    assert [(v.size, v.scale, v.count, v.blur, v.solarise, v.grey, v.flip) for v in r.views] == [
        (224, (0.25, 1.0), 1, 1.0, 0.0, 0.2, 0.5),
        (224, (0.25, 1.0), 1, 0.1, 0.2, 0.2, 0.5),
        (96, (0.05, 0.25), 10, 0.5, 0.0, 0.2, 0.5),
    ]
    assert {(v.jitter, v.jitter_probability, v.blur_radius, v.interpolation) for v in r.views} == {
        ((0.4, 0.4, 0.2, 0.1), 0.8, (0.1, 2.0), "bicubic")
    }
    assert r.architecture == Family.variants[f"dino_{name.removeprefix('paper/')}"].architecture


@pytest.mark.parametrize("name", Dino.presets)
def test_a_presets_first_crops_fill_the_position_table_and_all_are_whole_patches(name):
    r = Dino.presets[name]
    sizes = [v.size for v in r.views for _ in range(v.count)]
    assert sizes[0] == sizes[1] == r.architecture.patch * r.architecture.grid
    assert all(size % r.architecture.patch == 0 and size <= sizes[0] for size in sizes)
    assert r.architecture.width == 64 * r.architecture.heads


@pytest.mark.parametrize(
    ("name", "tokens", "millions"),
    [
        ("small/32", 64, 5.4),
        ("small/64", 64, 5.4),
        ("small/64-d6", 64, 2.7),
        ("small/64-s", 64, 21.4),
        ("small/64-p4", 256, 5.4),
    ],
)
def test_small_presets_are_small(name, tokens, millions):
    method = DinoTask(Dino.presets[name])
    assert method.recipe.architecture.grid**2 == tokens
    assert sum(p.numel() for p in method.encoder().parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
