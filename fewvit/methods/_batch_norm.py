"""BatchNorm of projection heads, over all processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..training.distributed import mean_over_processes, world_size


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm whose statistics are those of all processes' batches, on every device.

    torch's own synchronised one needs a GPU.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Rows (B, D) normalised by the statistics of all processes' rows, or in evaluation by the running ones."""
        if world_size() == 1 or not self.training:
            return super().forward(x)
        values, n = x.float(), len(x) * world_size()
        mean = mean_over_processes(values.mean(dim=0))
        variance = mean_over_processes((values - mean).square().mean(dim=0))
        with torch.no_grad():
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
            self.running_mean.lerp_(mean, self.momentum or 0.0)  # type: ignore[union-attr]
            self.running_var.lerp_(variance * n / (n - 1), self.momentum or 0.0)  # type: ignore[union-attr]
        return ((values - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias).to(x.dtype)
