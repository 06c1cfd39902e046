"""A program that torch exported (.pt2), with the contract as an extra file in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from .contract import NAME, Contract

if TYPE_CHECKING:
    from torch.export import ExportedProgram

CONTRACT = f"{NAME}.json"  # among the extra files


class TorchFormat:
    """What `torch.export.load` reads."""

    def require(self, n_bytes: int) -> None:
        """Nothing: torch is here, and its files have no limit."""

    def write(self, handle: IO[bytes], program: ExportedProgram, contract: Contract) -> Mapping[str, Any]:
        """Write the program; torch's version, for no other need read it."""
        import torch

        _save(handle, program, "")
        return {"torch": str(torch.__version__)}

    def load(self, path: Path, contract: Contract) -> Any:
        """What runs it."""
        import torch

        with path.open("rb") as handle:
            module = torch.export.load(handle).module()

        def run(pixels: np.ndarray) -> dict[str, np.ndarray]:
            with torch.no_grad():
                found = module(torch.from_numpy(pixels))
            return dict(zip(contract.outputs, (one.numpy() for one in found), strict=True))

        return run

    def seal(self, handle: IO[bytes], program: ExportedProgram, contract: str) -> None:
        """Write it again, with the contract."""
        handle.seek(0)
        handle.truncate()
        _save(handle, program, contract)


def _save(handle: IO[bytes], program: ExportedProgram, contract: str) -> None:
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the format may change: the file says which torch wrote it
        torch.export.save(program, handle, extra_files={CONTRACT: contract})
