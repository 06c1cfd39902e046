"""BatchNorm over several processes beside torch's own over the whole batch."""

from __future__ import annotations

import pytest
import torch

from fewvit.methods import _batch_norm
from fewvit.methods._batch_norm import BatchNorm


@pytest.mark.parametrize("half", [slice(0, 7), slice(7, 14)])
def test_half_a_batch_is_normed_by_the_statistics_of_the_whole(half, monkeypatch):
    """The process asks for two means over all processes.

    Of its rows, then of their squared distance from the first answer.
    """
    stream = torch.Generator().manual_seed(3)
    whole = 3 * torch.randn(14, 5, generator=stream) + 2
    plain, own = torch.nn.BatchNorm1d(5), BatchNorm(5)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(torch.randn(5, generator=stream))
        plain.eps = own.eps = 0.1
    own.load_state_dict(plain.state_dict())
    mean, variance = whole.mean(dim=0), whole.var(dim=0, unbiased=False)
    asked, answers = [], iter((mean, variance))
    monkeypatch.setattr(_batch_norm, "world_size", lambda: 2)
    monkeypatch.setattr(_batch_norm, "mean_over_processes", lambda value: asked.append(value) or next(answers))
    torch.testing.assert_close(own(whole[half]), plain(whole)[half])
    for wanted, value in zip((whole[half].mean(dim=0), (whole[half] - mean).square().mean(dim=0)), asked, strict=True):
        torch.testing.assert_close(value, wanted)
    for wanted, value in zip(plain.buffers(), own.buffers(), strict=True):
        torch.testing.assert_close(value, wanted)  # running mean and variance, and one batch counted


def test_frozen_or_alone_it_is_torchs(monkeypatch):
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(3))
    plain, own = torch.nn.BatchNorm1d(5), BatchNorm(5)
    assert torch.equal(own(x), plain(x))
    monkeypatch.setattr(_batch_norm, "world_size", lambda: 2)
    assert torch.equal(own.eval()(x), plain.eval()(x))
    monkeypatch.setattr(_batch_norm, "mean_over_processes", lambda value: value)
    assert own.train()(x.bfloat16()).dtype == torch.bfloat16
