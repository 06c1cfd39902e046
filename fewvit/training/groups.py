"""Groups of parameters that an optimizer treats alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor


def decay_groups(
    named_parameters: Iterable[tuple[str, Tensor]], *, keep: Callable[[str, Tensor], bool] | None = None
) -> list[dict[str, Any]]:
    """Two groups of the trainable parameters, in their order: those that weight decay `decays`, then those it does not.

    Biases and what has one dimension, as norms have, never decay; nor does what `keep(name, parameter)` keeps as it is. Each group
    has its `params`, their `names` and `decays`; a group may be empty. Source: DINO `utils.get_params_groups`, which MSN and MAE share:
    the class token and the position table decay.
    """
    decaying: dict[str, Any] = {"params": [], "names": [], "decays": True}
    kept: dict[str, Any] = {"params": [], "names": [], "decays": False}
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        spared = name.endswith(".bias") or parameter.ndim <= 1 or (keep is not None and keep(name, parameter))
        group = kept if spared else decaying
        group["params"].append(parameter)
        group["names"].append(name)
    return [decaying, kept]
