"""The command line of a checkout that is not installed: `cli/` under the name that it is installed by."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_FOLDER = Path(__file__).resolve().parents[1] / "cli"


def ensure_command_line() -> None:
    """Make `fewvit_cli` importable where fewvit runs from its folder, by PYTHONPATH."""
    if "fewvit_cli" in sys.modules or importlib.util.find_spec("fewvit_cli") is not None:
        return
    spec = importlib.util.spec_from_file_location(
        "fewvit_cli", _FOLDER / "__init__.py", submodule_search_locations=[str(_FOLDER)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules["fewvit_cli"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["fewvit_cli"])
