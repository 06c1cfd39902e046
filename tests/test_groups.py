"""Parameter groups and gradient clipping, against the official ones and by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from fewvit.training.clipping import clip_all, clip_each
from fewvit.training.groups import decay_groups

CLIPPED = ("0.weight", "0.bias", "1.weight", "1.bias")
LIMIT = 0.5


@pytest.fixture(scope="module")
def official(parity) -> dict:
    return json.loads((parity.folder / "param_groups.json").read_text())


def parameters(names: dict[str, int], frozen: tuple[str, ...] = ()) -> list[tuple[str, nn.Parameter]]:
    """Named parameters of so many dimensions each."""
    return [
        (name, nn.Parameter(torch.zeros((2,) * ndim), requires_grad=name not in frozen)) for name, ndim in names.items()
    ]


def named_groups(named) -> tuple[list[str], list[str]]:
    decaying, kept = decay_groups(named)
    assert decaying["decays"] is True
    assert kept["decays"] is False
    for group in (decaying, kept):
        given = dict(named)
        assert [id(p) for p in group["params"]] == [id(given[name]) for name in group["names"]]
    return decaying["names"], kept["names"]


def checkpoint(parity, file: str, key: str, prefix: str = "") -> list[tuple[str, nn.Parameter]]:
    """Parameters of a stored network, in its own order."""
    from fewvit.checkpoints.reading import read_checkpoint

    state = read_checkpoint(parity.folder / file)[key]
    return [
        (name.removeprefix(prefix), nn.Parameter(value)) for name, value in state.items() if value.is_floating_point()
    ]


def test_dinos_groups_are_the_official_ones_in_the_official_order(parity, official):
    named = checkpoint(parity, "dino_full.pth", "student", "module.")
    dict(named)["head.last_layer.weight_g"].requires_grad_(False)  # norm_last_layer
    wanted = official["dino/get_params_groups"]
    assert named_groups(named) == (wanted["decay"], wanted["no_decay"])


def test_trainable_gains_of_the_last_layer_decay_as_dinos_do(parity, official):
    named = [
        (name, p) for name, p in checkpoint(parity, "dino_full.pth", "student", "module.") if ".blocks.1." not in name
    ]
    wanted = official["dino/get_params_groups_trainable_gain"]
    assert named_groups(named) == (wanted["decay"], wanted["no_decay"])


def test_msns_encoder_groups_are_the_official_ones(parity, official):
    stored = checkpoint(parity, "msn.pth.tar", "encoder", "module.")
    named = [(name, p) for name, p in stored if "blocks.1." not in name and "running_" not in name]
    decaying, kept, prototypes = official["msn/init_opt"]["groups"]
    assert named_groups(named) == (decaying["names"], kept["names"])
    assert prototypes["wd_exclude"]  # a group of their own, which no rule about names gives


def test_maes_pretraining_groups_are_timms(parity, official):
    wanted = official["mae/pretrain_add_weight_decay"]
    named = checkpoint(parity, "mae_full.pth", "model")
    for name in wanted["frozen"]:
        dict(named)[name].requires_grad_(False)
    decaying, kept = named_groups(named)
    assert set(decaying) == set(wanted["decay"])
    assert set(kept) == set(wanted["no_decay"])


def test_what_is_kept_by_name_does_not_decay_and_what_is_frozen_is_in_no_group():
    named = parameters(
        {"pos_embed": 3, "cls_token": 3, "proj.weight": 2, "proj.bias": 1, "gain": 1, "odd.bias": 2},
        frozen=("cls_token",),
    )
    decaying, kept = decay_groups(named, keep=lambda name, _: name == "pos_embed")
    assert (decaying["names"], kept["names"]) == (["proj.weight"], ["pos_embed", "proj.bias", "gain", "odd.bias"])


def test_no_group_is_missing_where_nothing_falls_into_it():
    assert [group["names"] for group in decay_groups(parameters({"a.bias": 1}))] == [[], ["a.bias"]]


# ---- clipping


def with_gradients(parity) -> list[nn.Parameter]:
    found = []
    for name in CLIPPED:
        gradient = torch.from_numpy(parity.arrays("schedules.npz")[f"dino/clip_gradients/{name}/grad_before"]).clone()
        parameter = nn.Parameter(torch.zeros_like(gradient))
        parameter.grad = gradient
        found.append(parameter)
    return found


def test_each_gradient_is_clipped_as_dino_clips_it(parity):
    given = with_gradients(parity)
    norms = clip_each(given, LIMIT)
    parity.check("schedules.npz", "dino/clip_gradients/norms_returned", norms.numpy())
    for name, parameter in zip(CLIPPED, given, strict=True):
        parity.check("schedules.npz", f"dino/clip_gradients/{name}/grad_after", parameter.grad.numpy())


def small(*gradients: list[float] | None) -> list[nn.Parameter]:
    found = []
    for gradient in gradients:
        parameter = nn.Parameter(torch.zeros(len(gradient or [0.0])))
        parameter.grad = None if gradient is None else torch.tensor(gradient)
        found.append(parameter)
    return found


def gradients(given: list[nn.Parameter]) -> list[list[float]]:
    return [p.grad.tolist() for p in given if p.grad is not None]


def test_by_hand_one_long_gradient_is_shortened_and_the_short_one_keeps_every_bit():
    given = small([3.0, 4.0], None, [0.1, 0.7])
    assert clip_each(given, 1.0).tolist() == pytest.approx([5.0, 0.5**0.5])
    long, short = gradients(given)
    assert long == pytest.approx([0.6, 0.8], rel=1e-6)
    assert short == small([0.1, 0.7])[0].grad.tolist()


def test_all_together_both_are_shortened_by_one_factor():
    given = small([3.0, 4.0], None, [12.0])
    assert float(clip_all(given, 6.5)) == pytest.approx(13.0)
    for found, wanted in zip(gradients(given), ([1.5, 2.0], [6.0]), strict=True):
        assert found == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(("clip", "norm"), [(clip_each, [5.0, 12.0]), (clip_all, 13.0)])
def test_a_limit_of_zero_only_measures(clip, norm):
    given = small([3.0, 4.0], [12.0])
    np.testing.assert_allclose(clip(given, 0.0).numpy(), norm, rtol=1e-6)
    assert gradients(given) == [[3.0, 4.0], [12.0]]


@pytest.mark.parametrize("clip", [clip_each, clip_all])
@pytest.mark.parametrize("limit", [0.0, 1.0])
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_broken_gradient_shows_in_the_norm(clip, limit, broken):
    assert not torch.isfinite(clip(small([1.0], [broken, 2.0]), limit).max())


@pytest.mark.parametrize("clip", [clip_each, clip_all])
def test_without_gradients_nothing_is_long(clip):
    assert float(clip(small(None), 1.0).sum()) == 0.0
