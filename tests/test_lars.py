"""Optimizers of the linear probes, against the official steps, torch's SGD, and rules checked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewvit.linear.optimizers import Lars, MsnSgd, Sgd

OFFICIAL = {
    "dino/lars": (Lars, (0.3, 0.3, 0.3), 0.01),
    "mae/lars": (Lars, (6.4, 6.4, 6.4), 0.02),
    "msn/sgd": (MsnSgd, (0.2, 0.1, 0.1), 0.01),
}


def stack(*members: np.ndarray) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.stack([torch.tensor(member) for member in members]))


@pytest.mark.parametrize(
    ("name", "which"), [(name, p) for name in OFFICIAL for p in ("p0", "p1", "p2") if (name, p) != ("msn/sgd", "p2")]
)
def test_each_step_of_one_member_is_the_official_one_whatever_stands_beside_it(name, which, parity):
    """The other member has another size, another gradient and another learning rate."""
    kind, rates, decay = OFFICIAL[name]
    arrays, key = parity.arrays("schedules.npz"), f"{name}/{which}"
    before, gradients = arrays[f"{key}/before"], arrays[f"{key}/grads"]
    both = stack(3 * before + 1, before)
    optimizer = kind([{"params": [both]}])
    after = []
    for rate, gradient in zip(rates, gradients, strict=True):
        optimizer.param_groups[0].update(lr=torch.tensor([7 * rate, rate]), weight_decay=decay)
        both.grad = torch.stack([torch.tensor(gradient) * -2, torch.tensor(gradient)])
        optimizer.step()
        after.append(both.detach()[1].numpy().copy())
    parity.check("schedules.npz", f"{key}/after_each_step", np.stack(after))


def test_sgd_takes_torchs_steps_with_a_learning_rate_of_its_own_for_each_member():
    torch.manual_seed(0)
    start, rates, factors = torch.randn(3, 5, 2), (0.3, 0.02, 1.1), (1.0, 0.5, 0.5, 0.1)
    gradients = torch.randn(4, 3, 5, 2)
    ours = torch.nn.Parameter(start.clone())
    optimizer = Sgd([{"params": [ours]}], momentum=0.7)
    alone = [torch.nn.Parameter(member.clone()) for member in start]
    torchs = torch.optim.SGD(
        [{"params": [p], "lr": lr} for p, lr in zip(alone, rates, strict=True)], momentum=0.7, weight_decay=0.05
    )
    for factor, gradient in zip(factors, gradients, strict=True):
        optimizer.param_groups[0].update(lr=factor * torch.tensor(rates, dtype=torch.float64), weight_decay=0.05)
        ours.grad = gradient.clone()
        optimizer.step()
        for group, lr, own in zip(torchs.param_groups, rates, gradient, strict=True):
            group["lr"] = factor * lr
            group["params"][0].grad = own.clone()
        torchs.step()
    torch.testing.assert_close(ours, torch.stack([p.detach() for p in alone]), check_dtype=False)


def test_larss_first_step_has_the_length_that_its_trust_and_the_weights_norm_say():
    weight, gradient = torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]]]), torch.tensor([[[0.0, 8.0]], [[0.0, 8.0]]])
    both = torch.nn.Parameter(weight.clone())
    optimizer = Lars([{"params": [both]}], trust=0.01)
    optimizer.param_groups[0]["lr"] = 2.0
    both.grad = gradient
    optimizer.step()
    # ratio 0.01 * 5 / 8 for the first; a weight of norm 0 takes the raw step
    torch.testing.assert_close(both.detach(), torch.tensor([[[3.0, 4.0 - 2 * 0.01 * 5]], [[0.0, -16.0]]]))


def test_a_bias_takes_the_raw_learning_rate_in_lars():
    bias = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
    optimizer = Lars([{"params": [bias]}])
    optimizer.param_groups[0].update(lr=0.5, weight_decay=9.0)
    bias.grad = torch.tensor([[1.0, -1.0]])
    optimizer.step()
    torch.testing.assert_close(bias.detach(), torch.tensor([[2.5, 4.5]]))


def test_msns_momentum_keeps_the_learning_rate_that_each_gradient_came_with():
    weight = torch.nn.Parameter(torch.zeros(1, 1))
    optimizer = MsnSgd([{"params": [weight]}], momentum=0.5)
    seen = []
    for lr, gradient in ((1.0, 1.0), (0.0, 100.0)):
        optimizer.param_groups[0]["lr"] = lr
        weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        seen.append(weight.item())
    # move 1, momentum 1: 1 + 0.5 * 1; then move 0, momentum 0.5: 0 + 0.5 * 0.5
    assert seen == [-1.5, -1.75]


def test_what_has_no_gradient_stays_and_gets_no_momentum():
    one, other = torch.nn.Parameter(torch.ones(1, 2)), torch.nn.Parameter(torch.ones(1, 2))
    optimizer = Sgd([{"params": [one, other]}])
    optimizer.param_groups[0]["lr"] = 1.0
    one.grad = torch.ones(1, 2)
    optimizer.step()
    assert other.tolist() == [[1.0, 1.0]]
    assert list(optimizer.state) == [one]
