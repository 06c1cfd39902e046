"""What each pretraining method is told, and its presets: one file per method, beside the method's own in `methods/`. No torch.

Apart from the methods, so that a misspelt preset is told, and `--preset list` answered, before torch is imported.
"""

from __future__ import annotations

from typing import Any

from ..errors import UnknownName
from ..plugins import find, names


def find_recipe(method: str) -> Any:
    """A method's kind of recipe, with its `presets` by name. Raises UnknownName."""
    if method.replace("-", "_") not in names("methods"):
        raise UnknownName("method", method, names("methods"))
    return find("recipes", method)
