"""Linear probes: the protocols' numbers, what heads read, and a grid of heads against each trained by itself."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fewvit.backbones import Architecture
from fewvit.errors import CheckpointError, NumericalError, UnknownName, UsageError
from fewvit.linear.batches import FeatureBatches
from fewvit.linear.head_grid import HeadGrid
from fewvit.linear.linear_head import LinearHead, read_linear_head
from fewvit.linear.optimizers import Lars, MsnSgd
from fewvit.linear.protocols import (
    DINOV2_LRS,
    PROBES,
    Input,
    Probe,
    find_probe,
    fitted,
    head_readings,
    held_out,
    settle_reading,
)
from fewvit.runs.folder import RunFolder
from fewvit.training.batches import Subset
from fewvit.training.loop import Execution, Watch, train
from fewvit.training.order import Order
from fewvit.training.recipe import Step
from fewvit.views.view import ClippedView, View

SMALL, BASE = Architecture(384, 12, 6, 16), Architecture(768, 12, 12, 16)
IMAGES, BATCH, EPOCHS, WIDTH, CLASSES = 61, 7, 3, 11, 5
RANDOM = np.random.default_rng(3)
LABELS = RANDOM.integers(0, CLASSES, IMAGES)
FEATURES = (RANDOM.normal(size=(CLASSES, 2 * WIDTH))[LABELS] + 4 * RANDOM.normal(size=(IMAGES, 2 * WIDTH))).astype(
    np.float32
)
INPUTS = (Input(1, "cls", WIDTH, 2 * WIDTH), Input(2, "cls", 0, 2 * WIDTH))


def probe(**changes) -> Probe:
    """A small grid; as it is, DINOv2's way."""
    base = Probe(
        blocks=(1, 2),
        pools=("cls",),
        lrs=(0.3, 0.02, 1.1),
        default_lr=0.3,
        epochs=EPOCHS,
        batch_size=BATCH,
        lr_batch=None,
    )
    return dataclasses.replace(base, **changes)


def run(heads: HeadGrid, folder=None, *, each_epoch=lambda epochs: None, save_every=4, seed=9):
    batches = FeatureBatches(FEATURES, LABELS, "cpu")
    how = Execution(save_every=save_every, log_every=1)
    order = Order(IMAGES, BATCH, heads.recipe.epochs, seed)
    return train(heads, batches, order, how, RunFolder(folder) if folder else None, Watch(each_epoch=each_epoch))


def steps(epochs: int = EPOCHS, seed: int = 9):
    order = Order(IMAGES, BATCH, epochs, seed)
    return [order.step(i) for i in range(order.total)]


# ---- the protocols


def test_the_presets_have_the_numbers_of_the_official_scripts():
    """Table D of the protocols: optimizer, learning rate for the official batch, schedule, head."""
    seen = {
        name: (
            p.optimizer,
            [p.scaled_lr(lr) for lr in (p.lrs[0], p.lrs[-1])],
            p.momentum,
            p.weight_decay,
            p.epochs,
            p.warmup_epochs,
            p.schedule,
        )
        for name, p in PROBES.items()
    }
    assert seen == {
        "dino/1": ("sgd", [0.004, 0.004], 0.9, 0.0, 100, 0.0, "epoch"),
        "dinov2/1": ("sgd", [pytest.approx(4e-5), 0.4], 0.9, 0.0, 10, 0.0, "step"),
        **dict.fromkeys(("mae/1", "mae/2"), ("lars", [6.4, 6.4], 0.9, 0.0, 90, 10, "step")),
        "msn/1": ("msn", [6.4, 6.4], 0.9, 0.0, 100, 0.0, "step"),
    }
    heads = {name: (p.norm, p.init_std, p.truncated, p.interpolation, p.clipped_boxes) for name, p in PROBES.items()}
    assert heads == {
        "dino/1": ("none", 0.01, False, "bilinear", False),
        "dinov2/1": ("none", 0.01, False, "bicubic", False),
        **dict.fromkeys(("mae/1", "mae/2"), ("batch", 0.01, True, "bicubic", True)),
        "msn/1": ("layer", 0.01, False, "bilinear", False),
    }
    assert PROBES["msn/1"].lr_batch is None
    assert DINOV2_LRS == (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)


def test_views_are_the_protocols_random_crops():
    assert PROBES["dino/1"].view(224) == View(224, (0.08, 1.0), interpolation="bilinear")
    assert PROBES["mae/1"].view(32) == ClippedView(32, (0.08, 1.0))


def test_an_unknown_protocol_is_told_with_the_known_ones():
    with pytest.raises(UnknownName, match="dinov2/1"):
        find_probe("dinov3/1")


@pytest.mark.parametrize("name", ["dino/1", "dinov2/1"])
def test_the_learning_rate_falls_as_torchs_cosine_does(name):
    """DINO's scheduler steps once per epoch, DINOv2's once per iteration."""
    recipe = dataclasses.replace(PROBES[name], epochs=7)
    per_epoch, optimizer = 5, torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    length = 7 if name == "dino/1" else 35
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, length, eta_min=0)
    for i in range(35):
        assert recipe.lr_factor(Step(i, per_epoch, 7, 0, np.empty(0))) == pytest.approx(
            optimizer.param_groups[0]["lr"], abs=1e-12
        )
        optimizer.step()
        if name == "dinov2/1" or i % per_epoch == 4:
            scheduler.step()


def test_maes_learning_rate_is_the_official_one_at_each_quarter_of_an_epoch(parity):
    recipe = PROBES["mae/1"]
    found = [6.4 * recipe.lr_factor(Step(i, 4, 90, 0, np.empty(0))) for i in range(360)]
    parity.check("schedules.npz", "mae/lr/probe", np.array(found))


@pytest.mark.parametrize(
    ("images", "given", "wanted"),
    [
        (1_281_167, {}, (1024, 10)),  # ImageNet: nothing changes
        (100_000, {}, (1024, 13)),  # 97 steps an epoch: 13 epochs are the first with 1250 steps
        (1000, {}, (64, 84)),  # halved until an epoch has eight steps: 15 of 64
        (100, {}, (16, 209)),  # no smaller than 16
        (5, {}, (4, 1250)),  # but never more than there is
        (1000, {"epochs": 3}, (64, 3)),
        (1000, {"batch_size": 900}, (900, 1250)),
    ],
)
def test_batch_and_epochs_are_fitted_to_the_number_of_images(images, given, wanted):
    found = fitted(PROBES["dinov2/1"], images, **given)
    assert (found.batch_size, found.epochs) == wanted


@pytest.mark.parametrize("name", ["dino/1", "mae/1", "dinov2/1"])
def test_few_images_get_larger_learning_rates_too_and_many_or_a_given_batch_the_official_ones(name):
    official, few = PROBES[name], fitted(PROBES[name], 1000)
    assert fitted(official, 1_281_167).lrs == fitted(official, 1000, batch_size=100).lrs == official.lrs
    assert set(official.lrs) < set(few.lrs) == set(official.small_lrs)
    assert few.scaled_lr(few.default_lr) == pytest.approx(official.scaled_lr(official.default_lr))
    assert fitted(dataclasses.replace(official, small_lrs=()), 1000).lrs == official.lrs


def test_a_shorter_run_warms_up_in_proportion():
    assert fitted(PROBES["mae/1"], 10**6, epochs=9).warmup_epochs == 1.0
    assert fitted(PROBES["mae/1"], 10**6).warmup_epochs == 10.0
    assert fitted(PROBES["mae/1"], 10**6, epochs=900).warmup_epochs == 10.0


# ---- what heads read


def test_dinov2s_four_inputs_are_parts_of_one_reading():
    reading = settle_reading(PROBES["dinov2/1"], SMALL, "final")
    assert (reading.pool, reading.layers) == ("cls+mean", 4)
    blocks, mean = [np.full(384, float(i)) for i in (9, 10, 11, 12)], np.full(384, -1.0)
    features = np.concatenate([*blocks, mean])[None]
    seen = {
        (one.layers, one.pool): features[0, one.start : one.stop].reshape(-1, 384)[:, 0].tolist()
        for one in reading.inputs
    }
    assert seen == {
        (1, "cls"): [12],
        (1, "cls+mean"): [12, -1],
        (4, "cls"): [9, 10, 11, 12],
        (4, "cls+mean"): [9, 10, 11, 12, -1],
    }
    assert len(reading.inputs) * len(DINOV2_LRS) == 52


def test_dino_reads_four_class_tokens_of_a_small_vit_and_interleaves_class_and_mean_of_a_base_one():
    small, base = (settle_reading(find_probe("dino/1", a.width), a, "final") for a in (SMALL, BASE))
    assert (small.pool, small.layers, small.interleaved, small.inputs[0].width) == ("cls", 4, False, 1536)
    assert (base.pool, base.layers, base.interleaved, base.inputs[0].width) == ("cls+mean", 1, True, 1536)
    given = np.concatenate([np.arange(768), 1000 + np.arange(768)])[None]
    assert base.arranged(given)[0, :6].tolist() == [0, 1000, 1, 1001, 2, 1002]
    assert torch.equal(base.arranged(torch.from_numpy(given)), torch.from_numpy(base.arranged(given)))
    assert settle_reading(find_probe("dino/1", 384), SMALL, "final", pool="cls+mean").interleaved


def test_msn_and_mae_read_one_class_token_under_their_own_norm():
    assert settle_reading(PROBES["msn/1"], SMALL, "none") == settle_reading(PROBES["mae/1"], SMALL, "none")
    reading = settle_reading(PROBES["msn/1"], SMALL, "none")
    assert (reading.pool, reading.layers, reading.norm, reading.inputs[0].width) == ("cls", 1, "none", 384)
    assert settle_reading(PROBES["mae/1"], BASE, "final", pool="mean").norm == "fresh"  # MAE's --global_pool


@pytest.mark.parametrize(
    ("name", "asked", "wanted"),
    [
        ("dinov2/1", {"pool": "cls"}, {(1, "cls"), (4, "cls")}),
        ("dinov2/1", {"layers": 2}, {(2, "cls"), (2, "cls+mean")}),
        ("dinov2/1", {"layers": 2, "pool": "cls+mean"}, {(2, "cls+mean")}),
        ("dinov2/1", {"mean_only": True}, {(1, "mean")}),
        ("dino/1", {"layers": 1}, {(1, "cls")}),
    ],
)
def test_pool_and_layers_leave_a_part_of_the_grid(name, asked, wanted):
    reading = settle_reading(PROBES[name], SMALL, "final", **asked)
    assert {(one.layers, one.pool) for one in reading.inputs} == wanted


def test_a_model_with_fewer_blocks_than_the_protocol_reads_gives_all_it_has():
    reading = settle_reading(PROBES["dinov2/1"], dataclasses.replace(SMALL, depth=3), "final")
    assert {one.layers for one in reading.inputs} == {1, 3}


@pytest.mark.parametrize(
    ("name", "width", "asked"),
    [
        ("dino/1", 768, {"layers": 4}),
        ("mae/1", 384, {"pool": "mean", "layers": 2}),
        ("dinov2/1", 384, {"pool": "cls+dist"}),
    ],
)
def test_what_a_protocol_does_not_define_is_refused(name, width, asked):
    with pytest.raises(UsageError):
        settle_reading(find_probe(name, width), BASE if width == 768 else SMALL, "final", **asked)


@pytest.mark.parametrize(
    ("name", "architecture", "width", "wanted"),
    [
        ("dino/1", SMALL, 1536, (4, "cls", False)),
        ("dino/1", BASE, 1536, (1, "cls+mean", True)),
        ("dinov2/1", SMALL, 768, (1, "cls+mean", False)),
        ("dinov2/1", SMALL, 1920, (4, "cls+mean", False)),
        ("dinov2/1", SMALL, 1536, (4, "cls", False)),
        ("msn/1", SMALL, 384, (1, "cls", False)),
    ],
)
def test_the_width_of_an_official_head_says_what_it_reads(name, architecture, width, wanted):
    reading = head_readings(name, architecture, "final", width)[0]
    assert (reading.inputs[0].layers, reading.inputs[0].pool, reading.interleaved) == wanted
    assert len(reading.inputs) == 1


def test_a_width_that_several_readings_have_gives_all_of_them_and_one_that_none_has_gives_none():
    readings = head_readings("dinov2/1", SMALL, "final", 768)
    assert [(one.inputs[0].layers, one.inputs[0].pool) for one in readings] == [(1, "cls+mean"), (2, "cls")]
    assert (
        len(head_readings("dino/1", SMALL, "final", 1536)) == 1
    )  # DINO pairs the mean patch token with one class token alone
    assert head_readings("dinov2/1", SMALL, "final", 1000) == []
    assert head_readings("dinov2/1", SMALL, "final", 384 * 40) == []


# ---- what is held out


def test_a_tenth_of_each_class_is_held_out_but_never_all_of_it():
    labels = np.array([3] * 40 + [7] * 4 + [1] + [0] * 2 + [-1] * 5)
    names = [f"c{i}" for i in range(8)]
    rows = held_out(labels, 0, names)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert np.unique(labels[rows], return_counts=True)[0].tolist() == [0, 3, 7]
    assert np.unique(labels[rows], return_counts=True)[1].tolist() == [1, 4, 1]
    assert rows.tolist() != held_out(labels, 1, names).tolist()


def test_what_is_held_out_of_a_class_does_not_hang_on_the_others():
    labels = np.array([0] * 30 + [1] * 30)
    alone = held_out(np.array([0] * 30), 5, ["b"])
    both = held_out(labels, 5, ["a", "b"])
    assert (both[both >= 30] - 30).tolist() == alone.tolist()


def test_nothing_is_held_out_where_every_class_has_one_image():
    assert held_out(np.arange(6), 0, list("abcdef")).size == 0


# ---- a grid against each head alone, trained the plain way


class Plain(nn.Module):
    """One head of modules, as the official scripts build them."""

    def __init__(self, head: HeadGrid, number: int, norm: str):
        super().__init__()
        place, rate = divmod(number, len(head.recipe.lrs))
        stack, one = head.stacks[place], head.inputs[place]
        self.columns = slice(one.start, one.stop)
        self.linear = nn.Linear(one.width, head.n_classes)
        self.linear.weight.data.copy_(stack.weight[rate])
        self.linear.bias.data.copy_(stack.bias[rate])
        self.norm = {
            "none": nn.Identity,
            "batch": lambda: nn.BatchNorm1d(one.width, eps=1e-6, affine=False),
            "layer": lambda: nn.LayerNorm(one.width, eps=1e-5),
        }[norm]()
        self.unit = norm == "layer"

    def forward(self, x):
        x = self.norm(x[:, self.columns])
        return self.linear(F.normalize(x, dim=-1) if self.unit else x)


def optimizer_of(kind: str, module: nn.Module):
    """torch's SGD; the other two, tested against the official steps, on stacks of one."""
    if kind == "sgd":
        return torch.optim.SGD(module.parameters(), lr=0.0, momentum=0.9), list(module.parameters())
    stacks = [nn.Parameter(p.detach()[None].clone()) for p in module.parameters()]
    return {"lars": Lars, "msn": MsnSgd}[kind]([{"params": stacks}]), stacks


@pytest.mark.parametrize(("norm", "kind"), [("none", "sgd"), ("batch", "lars"), ("layer", "msn")])
@pytest.mark.parametrize("number", [1, 5])
def test_a_head_in_the_grid_becomes_what_it_becomes_alone(norm, kind, number):
    grid = HeadGrid(probe(norm=norm, optimizer=kind, warmup_epochs=1.0), INPUTS, CLASSES, seed=4)
    alone = Plain(grid, number, norm).train()
    optimizer, stacks = optimizer_of(kind, alone)
    assert run(grid).steps == len(steps()) == 24
    for step in steps():
        x, y = torch.from_numpy(FEATURES[step.rows]), torch.from_numpy(LABELS[step.rows])
        optimizer.param_groups[0]["lr"] = grid.recipe.lrs[number % 3] * grid.recipe.lr_factor(step)
        alone.zero_grad()
        F.cross_entropy(alone(x), y).backward()
        for p, stack in zip(alone.parameters(), stacks, strict=True):
            stack.grad = p.grad if stack is p else p.grad[None]
        optimizer.step()
        for p, stack in zip(alone.parameters(), stacks, strict=True):
            p.data.copy_(stack.detach().view_as(p))
    grid.keep(number, EPOCHS)
    found, epochs, head = grid.kept_head()
    assert (found, epochs) == (number, EPOCHS)
    torch.testing.assert_close(head.weight, alone.linear.weight.detach(), atol=2e-5, rtol=2e-4)
    torch.testing.assert_close(head.bias, alone.linear.bias.detach(), atol=2e-5, rtol=2e-4)
    x = torch.from_numpy(FEATURES)
    columns = alone.columns
    with torch.no_grad():
        torch.testing.assert_close(head.scores(x[:, columns]), alone.eval()(x), atol=1e-3, rtol=1e-3)
    top1, loss = grid.evaluate(FEATURES, LABELS)
    with torch.no_grad():
        assert top1[number] == pytest.approx(100 * float((alone(x).argmax(1).numpy() == LABELS).mean()))
        assert loss[number] == pytest.approx(float(F.cross_entropy(alone(x), torch.from_numpy(LABELS))), rel=1e-4)


def test_a_heads_first_weights_hang_on_itself_alone():
    whole, part = HeadGrid(probe(), INPUTS, CLASSES, 4), HeadGrid(probe(lrs=(0.02,)), INPUTS[1:], CLASSES, 4)
    assert torch.equal(whole.stacks[1].weight[1], part.stacks[0].weight[0])
    assert not torch.equal(whole.stacks[1].weight[1], whole.stacks[1].weight[0])
    plain, cut = (
        HeadGrid(probe(truncated=cut), (Input(1, "cls", 0, 999),), 50, 4).stacks[0].weight.detach()
        for cut in (False, True)
    )
    assert abs(float(plain.std()) - 0.01) < 1e-4
    assert abs(float(cut.std()) - 0.01) < 1e-4
    assert (
        float(plain.abs().max()) < 0.06
    )  # 150,000 normal numbers reach 4.5 standard deviations; a truncated one at 2 is an absolute 2


def test_the_loss_is_the_mean_of_the_heads_and_its_gradient_that_of_their_sum():
    heads = HeadGrid(probe(), INPUTS, CLASSES, 4)
    step = steps()[0]
    x, y = torch.from_numpy(FEATURES[step.rows]), torch.from_numpy(LABELS[step.rows])
    total, facts = heads([x, y], step)
    plain = [
        F.cross_entropy(F.linear(x[:, one.start : one.stop], stack.weight[k], stack.bias[k]), y)
        for stack, one in zip(heads.stacks, INPUTS, strict=True)
        for k in range(3)
    ]
    assert total.item() == pytest.approx(sum(plain).item(), rel=1e-5)
    assert float(facts["loss"]) == pytest.approx(sum(plain).item() / 6, rel=1e-5)
    assert float(facts["best_loss"]) == pytest.approx(min(plain).item(), rel=1e-5)
    (3 * total).backward()
    found = [stack.weight.grad.clone() for stack in heads.stacks] + [stack.bias.grad.clone() for stack in heads.stacks]
    heads.zero_grad()
    (3 * sum(plain)).backward()
    wanted = [stack.weight.grad for stack in heads.stacks] + [stack.bias.grad for stack in heads.stacks]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("at_once", [1, 2, 3])
@pytest.mark.parametrize("half", [False, True])
def test_how_many_heads_are_worked_on_at_a_time_changes_nothing(monkeypatch, at_once, half):
    heads, step = HeadGrid(probe(), INPUTS, CLASSES, 4), steps()[0]
    batch = [torch.from_numpy(FEATURES[step.rows]), torch.from_numpy(LABELS[step.rows])]

    def taught():
        heads.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            total, facts = heads(batch, step)
        total.backward()
        return [total, facts["best_loss"], *(p.grad.clone() for p in heads.parameters())]

    whole = taught()
    monkeypatch.setattr("fewvit.linear.head_stack._CACHED_VALUES", at_once * len(step.rows) * CLASSES + 1)
    for a, b in zip(taught(), whole, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_half_precision_changes_the_products_alone():
    heads = HeadGrid(probe(), INPUTS, CLASSES, 4)
    step = steps()[0]
    batch = [torch.from_numpy(FEATURES[step.rows]), torch.from_numpy(LABELS[step.rows])]
    found = []
    for enabled in (False, True):
        heads.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            total, _ = heads(batch, step)
        total.backward()
        assert total.dtype == heads.stacks[0].weight.grad.dtype == torch.float32
        found.append((total.item(), heads.stacks[1].weight.grad.clone()))
    assert found[1][0] == pytest.approx(found[0][0], rel=0.02)
    assert found[1][0] != found[0][0]
    torch.testing.assert_close(found[1][1], found[0][1], atol=0.03, rtol=0.1)


def test_gradients_are_made_in_the_same_memory_but_never_over_one_another():
    heads = HeadGrid(probe(), INPUTS, CLASSES, 4)
    pairs = [
        (torch.from_numpy(FEATURES[part]), torch.from_numpy(LABELS[part])) for part in (slice(0, 20), slice(20, 50))
    ]

    def gradient():
        return heads.stacks[1].weight.grad

    alone, places = [], set()
    for pair in (*pairs, *pairs):
        heads(pair, steps()[0])[0].backward()
        places.add(gradient().data_ptr())
        alone.append(gradient().clone())
        heads.zero_grad(set_to_none=True)
    assert len(places) == 1
    assert torch.equal(alone[0], alone[2])
    for pair in pairs:
        heads(pair, steps()[0])[0].backward()  # one after the other, as a batch in parts
    torch.testing.assert_close(gradient(), alone[0] + alone[1])
    heads.zero_grad(set_to_none=True)
    sum(heads(pair, steps()[0])[0] for pair in pairs).backward()  # both wait at once
    torch.testing.assert_close(gradient(), alone[0] + alone[1])


# ---- heads that diverge


def test_a_head_that_diverges_is_left_out_and_the_others_do_not_notice(tmp_path):
    sane = probe(lrs=(0.3, 0.02))
    wild = probe(lrs=(0.3, 1e39, 0.02))
    calm, mixed = HeadGrid(sane, INPUTS, CLASSES, 4), HeadGrid(wild, INPUTS, CLASSES, 4)
    run(calm)
    trained = run(mixed, tmp_path)
    assert trained.steps == 24
    assert mixed.diverged.tolist() == [-1, 1, -1, -1, 1, -1]  # after the first update
    for a, b in zip(calm.stacks, mixed.stacks, strict=True):
        torch.testing.assert_close(
            a.weight, b.weight[[0, 2]], atol=2e-5, rtol=1e-5
        )  # of up to 6.4, after 24 steps of fp32
    top1, loss = mixed.evaluate(FEATURES, LABELS)
    assert (top1[[1, 4]].tolist(), loss[[1, 4]].tolist()) == ([-1.0, -1.0], [math.inf, math.inf])
    mixed.keep_best(top1, loss, 3)
    assert mixed.kept_head()[0] not in (1, 4)
    assert trained.last["live_heads"] == 4


def test_a_grid_of_which_nothing_is_left_stops_with_its_learning_rates():
    with pytest.raises(NumericalError, match=r"every head diverged by step 1 \(learning rates 1e\+39\)"):
        run(HeadGrid(probe(lrs=(1e39,)), INPUTS, CLASSES, 4))


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_one_nan_in_a_heads_weights_gives_no_other_head_a_nan(norm):
    heads = HeadGrid(probe(norm=norm, optimizer="msn" if norm == "layer" else "sgd"), INPUTS, CLASSES, 4)
    with torch.no_grad():
        heads.stacks[0].weight[2, 1, 3] = math.nan
    step = steps()[0]
    total, facts = heads([torch.from_numpy(FEATURES[step.rows]), torch.from_numpy(LABELS[step.rows])], step)
    total.backward()
    assert math.isfinite(total.item())
    assert heads.diverged.tolist() == [-1, -1, 0, -1, -1, -1]
    assert torch.isfinite(heads.stacks[0].weight.grad[:2]).all()
    assert torch.isfinite(heads.stacks[1].weight.grad).all()
    assert float(facts["live_heads"]) == 5


# ---- the best head


def test_the_best_head_is_kept_with_the_weights_of_its_epoch():
    heads = HeadGrid(probe(), INPUTS, CLASSES, 4)
    scores = [
        ([30, 50, 40, 50, 20, 10], [1, 3, 1, 2, 1, 1]),
        ([50, 10, 10, 10, 10, 10], [9, 1, 1, 1, 1, 1]),
        ([50, 50, 0, 0, 0, 0], [1, 1.5, 1, 1, 1, 1]),
    ]
    weights = []
    for epoch, (top1, loss) in enumerate(scores, start=1):
        with torch.no_grad():
            heads.stacks[0].weight.fill_(epoch)
            heads.stacks[1].weight.fill_(-epoch)
        heads.keep_best(np.array(top1, float), np.array(loss, float), epoch)
        weights.append((heads.kept_head()[0], heads.kept_head()[1], float(heads.kept_head()[2].weight[0, 0])))
    # equal top-1: the lower loss; a later epoch must be better
    assert weights == [(3, 1, -1.0), (3, 1, -1.0), (0, 3, 3.0)]


def test_the_kept_head_and_the_whole_run_survive_a_kill(tmp_path):
    """Stopped after each of some steps and gone on with: the same bits as without."""

    class Killed(Exception):
        pass

    def whole(folder, die_at=None):
        heads = HeadGrid(probe(norm="batch", optimizer="lars", lrs=(3.0, 8.0)), INPUTS, CLASSES, 4)
        judged = lambda epochs: heads.keep_best(*heads.evaluate(FEATURES, LABELS), epochs)  # noqa: E731

        class Deadly(FeatureBatches):
            def prepare(self, found, step):
                if step.index == die_at:
                    raise Killed
                return super().prepare(found, step)

        batches, order = Deadly(FEATURES, LABELS, "cpu"), Order(IMAGES, BATCH, EPOCHS, 9)
        train(heads, batches, order, Execution(save_every=3, log_every=1), RunFolder(folder), Watch(each_epoch=judged))
        return heads

    unbroken = whole(tmp_path / "unbroken").state_dict()
    for die_at in (2, 10, 20):
        folder = tmp_path / str(die_at)
        with pytest.raises(Killed):
            whole(folder, die_at)
        resumed = whole(folder).state_dict()
        assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken), die_at


# ---- files of heads


def head_of(norm: str = "none") -> LinearHead:
    torch.manual_seed(1)
    statistics = {
        "batch": {"mean": torch.randn(7), "variance": torch.rand(7)},
        "layer": {"gain": torch.randn(7), "shift": torch.randn(7)},
    }
    return LinearHead(torch.randn(3, 7), torch.randn(3), norm, statistics.get(norm, {}))


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_a_saved_head_comes_back_with_what_it_tells(norm, tmp_path):
    head, x = head_of(norm), torch.randn(5, 7)
    head.save(tmp_path / "head.safetensors", {"classes": ["ä", "b", "c"], "layers": 4})
    back, about = read_linear_head(tmp_path / "head.safetensors")
    assert torch.equal(head.scores(x), back.scores(x))
    assert (about["classes"], about["layers"]) == (["ä", "b", "c"], 4)
    np.testing.assert_allclose(back.chunked_scores(x.numpy()), head.scores(x).numpy(), atol=1e-6)


@pytest.mark.parametrize("layout", ["dino", "dinov2"])
def test_the_official_layouts_are_linear_heads(layout, tmp_path):
    head = head_of()
    plain = {"weight": head.weight, "bias": head.bias}
    tree = {
        "epoch": 100,
        "state_dict": {f"module.linear.{name}": value for name, value in plain.items()},
        "best_acc": 77.0,
    }
    torch.save(tree if layout == "dino" else plain, tmp_path / "head.pth")
    found, about = read_linear_head(tmp_path / "head.pth")
    assert torch.equal(found.weight, head.weight)
    assert torch.equal(found.bias, head.bias)
    assert about == {}


@pytest.mark.parametrize(
    "content",
    [
        {"weight": torch.zeros(3, 7)},
        {"weight": torch.zeros(3, 7), "bias": torch.zeros(4)},
        {"weight": torch.zeros(3), "bias": torch.zeros(3)},
    ],
)
def test_what_is_no_linear_head_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "head.pth")
    with pytest.raises(CheckpointError, match="no linear head"):
        read_linear_head(tmp_path / "head.pth")


def test_a_head_with_nan_is_refused(tmp_path):
    torch.save({"weight": torch.full((3, 7), math.nan), "bias": torch.zeros(3)}, tmp_path / "head.pth")
    with pytest.raises(CheckpointError, match="NaN"):
        read_linear_head(tmp_path / "head.pth")


# ---- views through a frozen backbone


class Averaging(nn.Module):
    """A backbone whose feature is the mean of each colour."""

    def encode(self, images):
        return images.mean(dim=(2, 3))


def test_augmented_features_are_those_of_the_views_whatever_is_decoded_together(monkeypatch, tmp_path):
    from fewvit.datasets import open_dataset
    from fewvit.images import decode_whole
    from fewvit.linear import batches as module
    from fewvit.preprocess import Preprocess
    from fewvit.views.crops import make_views

    from made_images import folder_of

    data = open_dataset(str(folder_of(tmp_path, {"a": 5, "b": 4})))
    view, step = PROBES["mae/1"].view(16), Step(3, 2, 5, 8, np.array([7, 2, 0, 8, 5]))
    mean, std = np.array([0.5, 0.25, 0.125]), np.array([0.5, 0.5, 0.25])
    doubled = lambda x: torch.cat([x, x], dim=1)  # noqa: E731
    found = []
    for at_once in (2, 256):
        monkeypatch.setattr(module, "_AT_ONCE", at_once)
        preprocess = Preprocess(mean=tuple(mean), std=tuple(std))
        feed = module.ViewFeatureBatches(
            data, view, Averaging(), preprocess, doubled, device="cpu", workers=1, max_pixels=10**6, folder=None
        )
        assert len(feed) == 9
        found.append(feed.prepare(feed.read(step), step))
    pixels = [torch.from_numpy(decode_whole(data.read(row))).permute(2, 0, 1) for row in step.rows.tolist()]
    [views] = make_views(pixels, [view], seed=8, epoch=1, rows=step.rows)
    imagenet = [torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    own = [torch.tensor(v, dtype=torch.float32).view(3, 1, 1) for v in (mean, std)]
    wanted = ((views * imagenet[1] + imagenet[0] - own[0]) / own[1]).mean(dim=(2, 3))
    for x, labels in found:
        torch.testing.assert_close(x, doubled(wanted), atol=1e-5, rtol=1e-5)
        assert labels.tolist() == [1, 0, 0, 1, 1]
    assert torch.equal(found[0][0], found[1][0])


def test_cached_features_are_the_chosen_rows():
    rows = np.array([40, 3, 17, 60])
    batches, step = Subset(FeatureBatches(FEATURES, LABELS, "cpu"), rows), Step(0, 1, 1, 0, np.array([3, 1]))
    x, labels = batches.prepare(batches.read(step), step)
    assert len(batches) == 4
    assert np.array_equal(x.numpy(), FEATURES[[60, 3]])
    assert np.array_equal(labels.numpy(), LABELS[[60, 3]])


def test_patch_means_under_a_fresh_norm_are_those_of_the_raw_tokens():
    from fewvit.models.backbone import randomise
    from fewvit.models.readout import Readout
    from fewvit.models.vit import VisionTransformer

    model = VisionTransformer(Architecture(64, 2, 1, 8, grid=4, registers=3))
    randomise(model, 1)
    with torch.no_grad():
        model.norm.weight.mul_(3.0)
        images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        raw = model.last_blocks(images)[0][:, 4:].mean(dim=1).double()  # behind the class token and three registers
        wanted = (raw - raw.mean(1, keepdim=True)) / torch.sqrt(raw.var(1, unbiased=False, keepdim=True) + 1e-6)
        torch.testing.assert_close(
            model.read(images, Readout("mean", 1, "fresh")).double(), wanted, atol=1e-5, rtol=1e-4
        )
