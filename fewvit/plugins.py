"""A plug-in is a file: `fewvit/<kind>/<name>.py` with exactly one public class.

Nothing is registered: the folder is the list. There are six kinds; what each one's class has to say stands in its
package.

`backbones`     families: what shares a file layout, with its protocol and its advice; inherits from `backbones.Family`
`classifiers`   scikit-learn style estimators; what they declare besides is `classifiers.Traits`
`datasets`      formats of sources of images; answers `datasets.Format`
`methods`       pretraining: the class is the recipe, its `task` what is trained; inherits from `methods.Method`
`public_sets`   the data sets of the papers in their published layouts; answers `public_sets.PublicSet`
`strangeness`   scores of how strange a picture is to labelled ones; answers `strangeness.Score`
"""

from __future__ import annotations

import functools
import importlib
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import UnknownName

_ONE_OF = {
    "backbones": "family",
    "strangeness": "strangeness score",
    "public_sets": "public data set",
}  # what one plug-in is called, where it is not the kind less its s

_HYPHENED = ("public_sets",)  # kinds whose names users spell with hyphens


def names(kind: str) -> list[str]:
    """The plug-ins of a kind, sorted; a file whose name starts with an underscore is none."""
    return list(_names(kind))


@functools.cache
def _names(kind: str) -> tuple[str, ...]:
    files = (Path(__file__).parent / kind).glob("*.py")
    return tuple(sorted(path.stem for path in files if not path.stem.startswith("_")))


def spelled(kind: str, name: str) -> str:
    """A plug-in's name as users read it: public data sets have hyphens, as in their titles, the others underscores."""
    return name.replace("_", "-") if kind in _HYPHENED else name


def find(kind: str, name: str) -> type[Any]:
    """The one public class of `fewvit/<kind>/<name>.py`; hyphens are accepted. Raises UnknownName."""
    stem = name.replace("-", "_")
    if stem not in names(kind):
        known = [spelled(kind, one) for one in names(kind)]
        raise UnknownName(_ONE_OF.get(kind, kind.removesuffix("s")), name, known)
    return _public_class(importlib.import_module(f"fewvit.{kind}.{stem}"))


@functools.cache  # per module: whoever lists a table asks thousands of times
def _public_class(module: ModuleType) -> type[Any]:
    public = [
        value
        for key, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and not key.startswith("_")
    ]
    if len(public) != 1:
        raise TypeError(
            f"{module.__name__} must hold exactly one public class, it holds {[c.__name__ for c in public]}"
        )
    return public[0]
