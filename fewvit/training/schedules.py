"""Learning rates, weight decays, momenta and temperatures as pure functions of the step. Floats only, no torch.

`step` counts the optimizer steps taken before this one, `steps` those of the whole run; epochs are counted the same
way.
"""

from __future__ import annotations

import math

MSN_HORIZON = 1.25  # MSN's schedules are made for a run this much longer, and so never reach their nominal ends


def dino_cosine(
    step: int, steps: int, start: float, end: float, *, warmup_steps: int = 0, warmup_from: float = 0.0
) -> float:
    """The value at `step` of a half cosine from `start` to just above `end`, after a linear warm-up with both its ends.

    Source: DINO `utils.cosine_scheduler`; learning rate, weight decay and teacher momentum follow it.
    """
    if step < warmup_steps:
        return _linspace(step, warmup_steps, warmup_from, start)
    return _half_cosine((step - warmup_steps) / (steps - warmup_steps), start, end)


def dino_temperature(epoch: int, start: float, end: float, warmup_epochs: int) -> float:
    """The teacher's temperature in an epoch: linear from `start` to `end` in `warmup_epochs`, then constant.

    Source: DINO `DINOLoss.__init__`. With two or more warm-up epochs the first has `start`; with one, only that one
    has.
    """
    return _linspace(epoch, warmup_epochs, start, end) if epoch < warmup_epochs else end


def msn_lr(step: int, steps: int, warmup_steps: int, start: float, peak: float, end: float) -> float:
    """The learning rate after the scheduler's step number `step` + 1: it steps before the optimizer first uses it.

    Linear from `start`, which is never used, to `peak`, then a half cosine towards `end`. Source: Assran et al. 2022;
    measured.
    """
    now = step + 1
    if now < warmup_steps:
        return start + (peak - start) * now / warmup_steps
    return _half_cosine((now - warmup_steps) / max(1, int(MSN_HORIZON * steps) - warmup_steps), peak, end)


def msn_weight_decay(step: int, steps: int, start: float, end: float) -> float:
    """The weight decay, a half cosine from `start` towards `end`, one step ahead as the learning rate is."""
    return _half_cosine((step + 1) / int(MSN_HORIZON * steps), start, end)


def msn_linear(step: int, steps: int, start: float, end: float) -> float:
    """The target's momentum, or the sharpening temperature: linear from `start`, four fifths of the way to `end`."""
    return start + (end - start) * step / (MSN_HORIZON * steps)


def mae_lr(epoch: float, epochs: int, warmup_epochs: float, peak: float, end: float) -> float:
    """The learning rate at a fractional epoch: linear from 0 to `peak`, then a half cosine to `end`.

    Source: MAE `util/lr_sched.py`.
    """
    if epoch < warmup_epochs:
        return peak * epoch / warmup_epochs
    return _half_cosine((epoch - warmup_epochs) / (epochs - warmup_epochs), peak, end)


def _half_cosine(progress: float, start: float, end: float) -> float:
    """From `start` at progress 0 to `end` at 1; it stays at `end` beyond."""
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def _linspace(place: int, count: int, start: float, end: float) -> float:
    """Number `place` of `count` evenly spaced ones, both ends among them; a single one is `start`."""
    return start + (end - start) * place / max(1, count - 1)
