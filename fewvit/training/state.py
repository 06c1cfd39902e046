"""Checkpoints of a run: numbered safetensors files that a kill, a full disk or a damaged byte cannot take with them.

A checkpoint is two files: the tensors, and a small JSON file with their sha256 that is written last; without it there
is no checkpoint. The newest whole one counts. Older ones are removed only when newer ones are there, and never the last
two.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import IntegrityError, ResourceError, refuse_out_of_memory
from ..files import replacing, sha256_of, sweep, write_json
from ..untrusted.texts import json_of

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

_FORMAT = 1
CHECKPOINTS_KEPT = 2  # a damaged newest one costs no more than the steps since the one before


@dataclass(frozen=True)
class Checkpoint:
    """One whole checkpoint on disk, its bytes compared with their digest."""

    step: int  # optimizer steps that are in it
    file: Path
    facts: Mapping[str, Any]

    def tensors(self) -> dict[str, Tensor]:
        """Everything that training goes on from, by name, on the CPU."""
        from safetensors.torch import load_file

        return load_file(self.file)


class Checkpoints:
    """The checkpoints in one folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def save(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Commit a checkpoint, then remove all but the newest. Raises ResourceError for a full disk."""
        from safetensors.torch import save

        self.folder.mkdir(parents=True, exist_ok=True)
        content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        with replacing(self._tensors(step)) as handle:
            handle.write(content)
        digest = hashlib.sha256(content).hexdigest()
        write_json(
            self._manifest(step),
            {"format": _FORMAT, "step": step, "sha256": digest, "bytes": len(content), "facts": dict(facts)},
            in_order=True,
        )
        self._forget_old()

    def newest(self, notify: Callable[[str], None] = lambda line: None) -> Checkpoint | None:
        """The newest checkpoint that is whole; a damaged one is passed over, with a note. None where there is none.

        Raises IntegrityError when there are checkpoints and every one is damaged: starting anew is for the user to
        decide.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self._opened(step)
            except IntegrityError as error:
                notify(f"{error.what}; going back to the checkpoint before it")
        if steps:
            raise IntegrityError(
                "every checkpoint in it is damaged", file=self.folder, fix="Start anew with --overwrite."
            )
        return None

    def steps(self) -> list[int]:
        """Numbers of the steps of which a checkpoint was committed, rising."""
        return sorted(int(path.stem.removeprefix("step-")) for path in self.folder.glob("step-*.json"))

    def require_space(self, size: int) -> None:
        """Raise ResourceError unless the disk has room for the checkpoints of `size` bytes that stand side by side."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # what a killed save left: this run is the only writer
        sweep(self.folder, 0.0, _LATER)
        self._forget_old()
        stored = sum(path.stat().st_size for path in self.folder.glob("step-*.safetensors"))
        needed = (CHECKPOINTS_KEPT + 1) * size - stored
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise ResourceError(
                f"{CHECKPOINTS_KEPT + 1} checkpoints of {size / 1e6:.0f} MB need {needed / 1e6:.0f} MB, "
                f"the disk has {free / 1e6:.0f} MB free",
                file=self.folder,
                fix="Free some space, or choose another folder with --out.",
            )

    def _opened(self, step: int) -> Checkpoint:
        file, manifest = self._tensors(step), self._manifest(step)
        try:
            facts = json_of(manifest.read_text())
            digest = facts["sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            refuse_out_of_memory(error, "reading a checkpoint")
            raise IntegrityError(f"{manifest.name} cannot be read") from error
        if not file.is_file() or sha256_of(file) != digest:
            raise IntegrityError(f"{file.name} is damaged: its sha256 is not the one it was written with")
        return Checkpoint(step, file, facts.get("facts", {}))

    def _forget_old(self) -> None:
        """Remove all checkpoints but the newest, and tensors that no manifest made one."""
        kept = self.steps()[-CHECKPOINTS_KEPT:]
        for ending in ("json", "safetensors"):  # the manifest first: no checkpoint without its tensors
            for path in self.folder.glob(f"step-*.{ending}"):
                if int(path.stem.removeprefix("step-")) not in kept:
                    with contextlib.suppress(OSError):
                        path.unlink()

    def _tensors(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.safetensors"

    def _manifest(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.json"


_LATER = float("inf")  # every temporary file is older


def flattened(optimizer: Optimizer, names: Mapping[int, str]) -> Iterator[tuple[str, Tensor]]:
    """An optimizer's moments under `optimizer.<parameter>.<moment>`; `names` gives each parameter's name by its id."""
    import torch

    for parameter, moments in optimizer.state.items():
        for moment, value in moments.items():
            yield f"optimizer.{names[id(parameter)]}.{moment}", torch.as_tensor(value)


def restore_optimizer(optimizer: Optimizer, names: Mapping[int, str], tensors: Mapping[str, Tensor]) -> None:
    """Give an optimizer the moments that `flattened` read; a parameter that never had a step has none."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            name, _, moment = key.removeprefix("optimizer.").rpartition(".")
            by_name.setdefault(name, {})[moment] = value
    ordered = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    plain = optimizer.state_dict()
    plain["state"] = {i: by_name[name] for i, name in enumerate(ordered) if name in by_name}
    optimizer.load_state_dict(plain)
