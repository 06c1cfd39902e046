"""One linear classifier of frozen features: as a file has it, and as it is evaluated."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoints.filling import require_finite
from ..checkpoints.reading import read_checkpoint
from ..errors import CheckpointError
from ..files import replacing
from ..models.products import of_rows
from ..untrusted.texts import json_of

BATCH_EPS, LAYER_EPS = 1e-6, 1e-5  # MAE's BatchNorm, MSN's LayerNorm
CHUNK_VALUES = 1 << 22  # class scores at once


@dataclass(frozen=True)
class LinearHead:
    """One linear classifier and what comes before it."""

    weight: Tensor  # (C, D)
    bias: Tensor  # (C,)
    norm: str = "none"  # none, batch, layer; as in `Probe`
    # (D,) of the norm: mean and variance, or gain and shift
    statistics: Mapping[str, Tensor] = field(default_factory=dict)

    def scores(self, x: Tensor) -> Tensor:
        """Class scores (n, C) of features (n, D), each row's its own matter: see `products.of_rows`."""
        s = self.statistics
        if self.norm == "batch":
            x = (x - s["mean"]) / torch.sqrt(s["variance"] + BATCH_EPS)
        elif self.norm == "layer":
            x = F.normalize(F.layer_norm(x, x.shape[-1:], s["gain"], s["shift"], LAYER_EPS), dim=-1)
        return of_rows(x, self.weight, self.bias)

    def chunked_scores(self, features: np.ndarray) -> np.ndarray:
        """Class scores (n, C) float32 of features (n, D), a chunk at a time."""
        rows = max(1, CHUNK_VALUES // len(self.weight))
        with torch.no_grad():
            return np.concatenate([self.scores(torch.from_numpy(part)).numpy() for part in _parts(features, rows)])

    def save(self, file: Path, about: Mapping[str, Any]) -> None:
        """Replace `file` by a safetensors file; `about` (classes, input, protocol) stands in its header."""
        from safetensors.torch import save

        tensors = {
            "weight": self.weight,
            "bias": self.bias,
            **{f"norm.{name}": value for name, value in self.statistics.items()},
        }
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with replacing(file) as handle:  # one entry in the header: safetensors writes several in random order
            handle.write(save(plain, {"fewvit": json.dumps({**about, "norm": self.norm}, sort_keys=True)}))


def read_linear_head(file: Path) -> tuple[LinearHead, dict[str, Any]]:
    """The linear head in a file, and what the file says of it: DINO's `state_dict`, DINOv2's two tensors, or our own.

    Raises DataError for a file that is not there, CheckpointError for what is no linear head or not finite.
    """
    tree = read_checkpoint(file)
    about = _header(file)
    flat = tree.get("state_dict", tree)
    named = {
        str(name).removeprefix("module.").removeprefix("linear."): value
        for name, value in flat.items()
        if isinstance(value, Tensor)
    }
    weight, bias = named.get("weight"), named.get("bias")
    if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
        expected = "a weight (classes, width) and a bias (classes,) are expected"
        raise CheckpointError(
            f"no linear head: {expected}, it holds {', '.join(list(map(str, flat))[:4])}",
            file=file,
            fix="Give a file such as dino_deitsmall16_linearweights.pth or dinov2_vits14_linear_head.pth, "
            "or RUN/head.safetensors.",
        )
    require_finite(named, file)
    statistics = {
        name.removeprefix("norm."): value.float() for name, value in named.items() if name.startswith("norm.")
    }
    norm = about.get("norm", "none")
    _require_norm(norm, statistics, weight.shape[1], file)
    return LinearHead(weight.float(), bias.float(), norm, statistics), about


_NORMS = {"none": (), "batch": ("mean", "variance"), "layer": ("gain", "shift")}  # and the statistics of each


def _require_norm(norm: object, statistics: Mapping[str, Tensor], width: int, file: Path) -> None:
    """Raise CheckpointError unless the norm is one that is known, with its statistics (width,)."""
    if not isinstance(norm, str) or norm not in _NORMS:
        raise CheckpointError(f"a head with the norm {str(norm)[:40]!r}; known are {', '.join(_NORMS)}", file=file)
    wrong = [name for name in _NORMS[norm] if name not in statistics or statistics[name].shape != (width,)]
    if wrong:
        raise CheckpointError(f"a head of width {width} whose norm lacks a {wrong[0]} as wide", file=file)


def _header(file: Path) -> dict[str, Any]:
    """What `LinearHead.save` wrote beside the tensors; nothing for other files."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            found = json_of((opened.metadata() or {}).get("fewvit", "{}"))
    except (SafetensorError, ValueError, OSError):  # another format, which read_checkpoint has looked at already
        return {}
    return found if isinstance(found, dict) else {}


def _parts(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, max(1, len(rows)), size):
        yield np.ascontiguousarray(rows[start : start + size])
