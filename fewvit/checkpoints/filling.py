"""Filling a module from a file's tensors: every tensor finds its place, or nothing is taken."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import CheckpointError, counted, printable, some
from .opening import _again, _is_plain

if TYPE_CHECKING:
    from torch import Tensor, nn

_NUMBER = re.compile(r"\.\d+\.")


def require_finite(tensors: dict[str, Tensor], file: str | os.PathLike[str]) -> None:
    """Raise CheckpointError naming the first tensors that hold NaN or Inf, or no plain numbers at all; one pass."""
    import torch

    unfit = [name for name, tensor in tensors.items() if not _is_plain(tensor)]
    if unfit:
        raise CheckpointError(
            f"{some(unfit, 3)}: not a dense tensor with values (quantized, sparse or without data)", file=file
        )
    bad = [name for name, tensor in tensors.items() if not _is_finite(tensor)]
    if bad:
        what = "NaN" if bool(torch.isnan(_summable(tensors[bad[0]])).any()) else "Inf"
        raise CheckpointError(
            f"{what} in {some(bad, 3)} of {counted(len(tensors), 'tensor')}: damaged, or saved by a run that had "
            "diverged",
            file=file,
            fix=_again(file),
        )


def fill(
    module: nn.Module, tensors: dict[str, Tensor], file: str | os.PathLike[str], ignorable: Sequence[str] = ()
) -> None:
    """Copy into every parameter and persistent buffer of `module` the tensor of its name, in the module's dtype.

    `ignorable` are patterns (`head.*`) of names that may be left over. Raises CheckpointError with the first five
    mismatches and their counts, before anything is copied.
    """
    import torch

    wanted = _tensors_of(module)
    if any(value.is_meta for value in wanted.values()):
        raise ValueError(
            f"{type(module).__name__} has tensors on the meta device: build it on a real one before it is filled"
        )
    check_fit(module, tensors, file, ignorable)
    with torch.no_grad():
        for name, value in wanted.items():
            value.copy_(tensors[name])


def check_fit(
    module: nn.Module, tensors: dict[str, Tensor], file: str | os.PathLike[str], ignorable: Sequence[str] = ()
) -> None:
    """Raise CheckpointError, as `fill` does, unless every tensor finds its place; the module may be on `meta`."""
    wanted = _tensors_of(module)
    mismatches = _mismatches(wanted, tensors, ignorable)
    missing = [name for name in wanted if name not in tensors]
    if missing and _is_incomplete(missing, tensors, mismatches):
        raise CheckpointError(
            f"is incomplete: {_listed({'missing': mismatches['missing']})}",
            file=file,
            fix="Save it anew with all tensors of the trunk, or fetch it again from where it came.",
        )
    if any(mismatches.values()):
        raise CheckpointError(
            f"does not fit {type(module).__name__}: {_listed(mismatches)}",
            file=file,
            fix="It seems to belong to another architecture than the one it was taken for.",
        )


def _tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name."""
    import torch

    return {name: value for name, value in module.state_dict(keep_vars=True).items() if isinstance(value, torch.Tensor)}


def _is_incomplete(missing: list[str], tensors: dict[str, Tensor], mismatches: dict[str, list[str]]) -> bool:
    """Whether all that is wrong is that tensors are missing, whose kind is there in other blocks or beside them."""
    if any(found for kind, found in mismatches.items() if kind != "missing"):
        return False
    kinds = {_NUMBER.sub(".#.", name) for name in tensors}
    neighbours = {name.rpartition(".")[0] for name in tensors}
    return all(
        (_NUMBER.sub(".#.", name) in kinds) if _NUMBER.search(name) else (name.rpartition(".")[0] in neighbours)
        for name in missing
    )


def _mismatches(wanted: dict[str, Tensor], given: dict[str, Tensor], ignorable: Sequence[str]) -> dict[str, list[str]]:
    """For each kind of mismatch its sentences, in the module's order and then the file's."""
    import torch

    both = [(name, given[name], want) for name, want in wanted.items() if name in given]
    unfit = [
        f"{name} is no dense tensor"
        for name, have, _ in both
        if not isinstance(have, torch.Tensor) or not _is_plain(have)
    ]
    dense = [(name, have, want) for name, have, want in both if isinstance(have, torch.Tensor) and _is_plain(have)]
    left_over = [
        name
        for name in given
        if name not in wanted and not any(fnmatch.fnmatchcase(name, pattern) for pattern in ignorable)
    ]
    return {
        "of another shape": [
            f"{name} has {tuple(have.shape)}, want {tuple(want.shape)}"
            for name, have, want in dense
            if have.shape != want.shape
        ],
        "missing": [f"missing {name}" for name in wanted if name not in given],
        "unexpected": [f"unexpected {printable(name)}" for name in left_over],
        "of another kind of number": [
            f"{name} has {have.dtype}, want {want.dtype}"
            for name, have, want in dense
            if not torch.can_cast(have.dtype, want.dtype)
        ],
        "without values": unfit,
    }


def _listed(mismatches: dict[str, list[str]]) -> str:
    """`3 missing, 1 unexpected: missing a, missing b, …`: the counts and the first five, each kind having its turn."""
    counts = ", ".join(f"{len(found)} {kind}" for kind, found in mismatches.items() if found)
    longest = max(len(found) for found in mismatches.values())
    turns = [found[turn] for turn in range(longest) for found in mismatches.values() if turn < len(found)]
    return f"{counts}: {'; '.join(turns[:5])}{'; …' if len(turns) > 5 else ''}"


def _is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or Inf.

    The sum says yes for nearly every tensor, at twice the speed; it may itself overflow.
    """
    import torch

    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    values = _summable(tensor)
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


def _summable(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.element_size() < 2 else tensor  # float8 has no sum
