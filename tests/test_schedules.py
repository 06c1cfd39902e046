"""Schedules, value by value, against the official curves of DINO, MSN and MAE, and their limit cases by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fewvit.training.schedules import dino_cosine, dino_temperature, mae_lr, msn_linear, msn_lr, msn_weight_decay

DINO = {
    "lr": lambda i: dino_cosine(i, 330, 0.002, 1e-6, warmup_steps=55),
    "wd": lambda i: dino_cosine(i, 330, 0.04, 0.4),
    "momentum": lambda i: dino_cosine(i, 330, 0.996, 1.0),
    "lr_startwarm": lambda i: dino_cosine(i, 84, 0.00075, 2e-6, warmup_steps=21, warmup_from=1e-5),
}
MSN = {
    "lr": lambda i, steps, warmup: msn_lr(i, steps, warmup, 2e-4, 1e-3, 1e-6),
    "wd": lambda i, steps, warmup: msn_weight_decay(i, steps, 0.04, 0.4),
    "momentum": lambda i, steps, warmup: msn_linear(i, steps, 0.996, 1.0),
    "sharpen_T": lambda i, steps, warmup: msn_linear(i, steps, 0.25, 0.2),
}
MAE = {
    "pretrain": lambda epoch: mae_lr(epoch, 400, 40, 0.0024, 0.0),
    "finetune": lambda epoch: mae_lr(epoch, 100, 5, 0.002, 1e-6),
    "probe": lambda epoch: mae_lr(epoch, 90, 10, 6.4, 0.0),
}
TEMPERATURES = [(0.04, 0.07, 30, 100), (0.04, 0.04, 0, 20), (0.03, 0.07, 5, 12)]


def curve(parity, name: str, value) -> np.ndarray:
    return np.array([value(i) for i in range(len(parity.arrays("schedules.npz")[name]))])


@pytest.mark.parametrize("what", DINO)
def test_dinos_cosines_are_the_official_ones(parity, what):
    parity.check("schedules.npz", f"dino/cosine/{what}", curve(parity, f"dino/cosine/{what}", DINO[what]))


@pytest.mark.parametrize(("start", "end", "warmup", "epochs"), TEMPERATURES)
def test_the_teachers_temperature_is_the_official_one_in_each_epoch(parity, start, end, warmup, epochs):
    name = f"dino/teacher_temp/{start}_{end}_{warmup}_{epochs}"
    parity.check("schedules.npz", name, curve(parity, name, lambda epoch: dino_temperature(epoch, start, end, warmup)))


@pytest.mark.parametrize(("run", "steps", "warmup"), [("ipe7_ep20_wu3", 140, 21), ("ipe5_ep12_wu0", 60, 0)])
@pytest.mark.parametrize("what", MSN)
def test_msns_schedules_are_the_official_ones_at_each_iteration(parity, what, run, steps, warmup):
    name = f"msn/{run}/{what}"
    parity.check("schedules.npz", name, curve(parity, name, lambda i: MSN[what](i, steps, warmup)))


@pytest.mark.parametrize("what", MAE)
def test_maes_learning_rates_are_the_official_ones_at_fractional_epochs(parity, what):
    parity.check("schedules.npz", f"mae/lr/{what}", curve(parity, f"mae/lr/{what}", lambda i: MAE[what](i / 4)))


def test_published_msn_runs_end_where_the_fact_sheet_says():
    steps = 800 * 1251
    assert msn_lr(steps - 1, steps, 15 * 1251, 2e-4, 1e-3, 1e-6) == pytest.approx(9.9e-5, rel=0.01)
    assert msn_weight_decay(steps - 1, steps, 0.04, 0.4) == pytest.approx(0.366, abs=5e-4)
    assert msn_linear(steps, steps, 0.996, 1.0) == pytest.approx(0.9992, abs=1e-9)


def test_a_warmup_reaches_its_peak_in_its_last_step_and_the_cosine_begins_there_again():
    found = [dino_cosine(i, 6, 6.0, 1.0, warmup_steps=4) for i in range(6)]
    assert found == pytest.approx(
        [0.0, 2.0, 4.0, 6.0, 6.0, 3.5]
    )  # half way down after one of two steps; 1 is never reached


@pytest.mark.parametrize(("warmup", "first"), [(1, 0.03), (2, 0.03), (0, 0.07)])
def test_one_warmup_epoch_has_the_first_temperature_and_no_warmup_has_the_last(warmup, first):
    assert dino_temperature(0, 0.03, 0.07, warmup) == first
    assert dino_temperature(warmup, 0.03, 0.07, warmup) == 0.07


def test_a_run_shorter_than_its_warmup_only_warms_up():
    assert [dino_cosine(i, 3, 10.0, 0.0, warmup_steps=11) for i in range(3)] == pytest.approx([0.0, 1.0, 2.0])
    assert [msn_lr(i, 3, 11, 0.0, 11.0, 0.0) for i in range(3)] == pytest.approx([1.0, 2.0, 3.0])
    assert [mae_lr(epoch, 2, 10, 10.0, 0.0) for epoch in (0, 0.5, 1.5)] == pytest.approx([0.0, 0.5, 1.5])
