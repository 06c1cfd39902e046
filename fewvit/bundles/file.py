"""A bundle on disk: written whole, read without running any code; a damaged or other file is refused with a reason."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import (
    DataError,
    FewvitError,
    IntegrityError,
    MissingExtra,
    Unobtainable,
    UsageError,
    from_os_error,
    in_one_line,
    printable,
    refuse_out_of_memory,
)
from ..extraction.recipe import Recipe
from ..files import locked, replacing
from ..models.spec import BUNDLE_SCHEMA
from ..options import options_of
from ..plugins import find
from ..runs.folder import ANEW, run_of_classifier
from ..untrusted.texts import json_of
from .bundle import _APART, _SEEN, _STATE, _SUPPORT, FORMAT, Bundle
from .checks import require_facts, require_rows, require_usable
from .strangeness import strangeness_of


def replace_bundle(path: str | os.PathLike[str], bundle: Bundle) -> str:
    """Replace the file that the bundle was read from before it grew; the new sha256.

    Raises IntegrityError, and leaves the file alone, when it is another one by now: what a second process added would
    be lost.
    """
    with locked(path):
        try:
            now = _read_manifest(Path(path))["sha256"]
        except DataError:
            now = "gone"
        if now != bundle.sha256:
            raise IntegrityError(
                "another process changed or removed this bundle meanwhile; nothing was written",
                file=path,
                fix="Run the same command again: what was computed is kept.",
            )
        return save_bundle(path, bundle)


def save_bundle(path: str | os.PathLike[str], bundle: Bundle) -> str:
    """Replace `path` by the bundle; its sha256.

    Raises UsageError for a classifier with a fitted attribute that no file can hold.
    """
    import safetensors.numpy

    arrays: dict[str, np.ndarray] = {}
    options = bundle.estimator.get_params(deep=False)
    stored = {k: v for k, v in options.items() if k != "device"}  # where to compute is the business of whoever loads it
    if bundle.support is not None:
        arrays |= {f"{_SUPPORT}features": _plain(bundle.support[0]), f"{_SUPPORT}labels": _plain(bundle.support[1])}
        state = {}
    else:
        arrays |= {} if bundle.seen is None else {_SEEN: _plain(bundle.seen)}
        state = {k: v for k, v in vars(bundle.estimator).items() if k not in options}
    arrays |= bundle.strangeness.arrays if bundle.strangeness is not None else {}
    described = {f.name: getattr(bundle, f.name) for f in dataclasses.fields(bundle) if f.name not in _APART}
    manifest = {
        "schema": f"{BUNDLE_SCHEMA}/{FORMAT}",
        **described,
        "recipe": dataclasses.asdict(bundle.recipe) if bundle.recipe is not None else None,
        "strangeness": bundle.strangeness.facts if bundle.strangeness is not None else None,
        "options": {k: _packed(v, f"option.{k}", arrays, bundle.classifier) for k, v in stored.items()},
        "state": {k: _packed(v, _STATE + k, arrays, bundle.classifier) for k, v in state.items()},
    }
    manifest["sha256"] = _digest(manifest, arrays)
    content = safetensors.numpy.save(arrays, {BUNDLE_SCHEMA: json.dumps(manifest, sort_keys=True, allow_nan=False)})
    with replacing(path) as handle:
        handle.write(content)
    return str(manifest["sha256"])


def _packed(value: Any, name: str, arrays: dict[str, np.ndarray], classifier: str) -> dict[str, Any]:
    """A value as JSON; arrays and tensors go to `arrays` under `name`.

    Their order in memory is kept, since the last bit of a sum depends on it.
    """
    if isinstance(value, float) and not math.isfinite(value):
        value = np.float64(value)  # JSON has no such number
    if type(value).__module__.startswith("torch") and hasattr(value, "detach"):
        arrays[name] = _plain(value.detach().cpu().numpy())
        return {"array": name, "as": "tensor", "order": _order(value.detach().cpu().numpy())}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        arrays[name] = _plain(value)
        return {"array": name, "as": "scalar" if isinstance(value, np.generic) else "array", "order": _order(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    if isinstance(value, np.dtype):
        return {"dtype": value.str}
    if dataclasses.is_dataclass(value) and type(value).__module__.startswith("fewvit.classifiers."):
        fields = {
            f.name: _packed(getattr(value, f.name), f"{name}.{f.name}", arrays, classifier)
            for f in dataclasses.fields(value)
        }
        return {"record": f"{type(value).__module__.rpartition('.')[2]}.{type(value).__name__}", "fields": fields}
    raise UsageError(
        f"{classifier} holds a {type(value).__name__} ({name}), which no bundle can store",
        fix='A classifier of arrays, tensors and numbers can be stored; another declares `keeps = "support"` to be '
        "fitted again.",
    )


def _plain(value: ArrayLike) -> np.ndarray:
    return np.array(value, order="C")


def _order(value: np.ndarray | np.generic) -> str:
    return "F" if np.ndim(value) > 1 and value.flags.f_contiguous and not value.flags.c_contiguous else "C"


def _digest(manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 over the manifest without its own digest, and over name, type, shape and bytes of each array."""
    text = {name: value for name, value in manifest.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(text, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"\n{name} {arrays[name].dtype.str} {arrays[name].shape}\n".encode())
        digest.update(arrays[name].reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def load_bundle(path: str | os.PathLike[str], *, device: str = "auto") -> Bundle:
    """The bundle in a file; its classifier computes on `device`, if it has a choice.

    Raises DataError when there is none, IntegrityError for a damaged, foreign or newer one, MissingExtra or
    Unobtainable where the classifier needs a package or weights that are not here.
    """
    manifest, arrays = _read(Path(path))
    try:
        require_facts(manifest)
        kind = find("classifiers", manifest["classifier"])
        where = {"device": device} if "device" in options_of(kind) else {}
        estimator = kind(**{k: _unpacked(v, arrays) for k, v in manifest["options"].items()}, **where)
        support = (
            (arrays[f"{_SUPPORT}features"], arrays[f"{_SUPPORT}labels"]) if f"{_SUPPORT}features" in arrays else None
        )
        if support is not None:
            require_rows(*support, manifest["width"], len(manifest["classes"]))
            estimator.fit(*support)
        vars(estimator).update({k: _unpacked(v, arrays) for k, v in manifest["state"].items()})
        recipe = manifest["recipe"]
        if recipe is not None:
            recipe = _at_home(Recipe.of_json(recipe), Path(path))
        later = {"calibrated_on": None}  # what bundles of this format did not have from the start
        described = {f.name: {**later, **manifest}[f.name] for f in dataclasses.fields(Bundle) if f.name not in _APART}
        bundle = Bundle(
            estimator=estimator,
            support=support,
            seen=arrays.get(_SEEN),
            recipe=recipe,
            strangeness=strangeness_of(
                manifest.get("strangeness"), arrays, manifest["width"], len(manifest["classes"])
            ),
            sha256=manifest["sha256"],
            **described,
        )
        require_usable(bundle)
        return bundle
    except (MissingExtra, Unobtainable):  # of this machine, not of the bundle
        raise
    except Exception as error:  # a digest says who wrote it, not that it fits: a dozen types come out of classifiers
        refuse_out_of_memory(error, "reading the bundle", os.path.getsize(path))
        why = error.what if isinstance(error, FewvitError) else f"{type(error).__name__}: {error}"
        raise IntegrityError(
            f"this bundle cannot be used here: {in_one_line(why)[:300]}",
            file=path,
            fix="Update fewvit, or fit the bundle again.",
        ) from error


def _at_home(recipe: Recipe, path: Path) -> Recipe:
    """The recipe with the backbone of the run that the bundle lies in, if it is a run's own: both may have been moved
    or copied.
    """
    run = run_of_classifier(path)
    return recipe if run is None else dataclasses.replace(recipe, backbone=str(run.path))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The manifest and the arrays, whose digest is right."""
    with _opened(path) as file:
        manifest = _manifest(path, (file.metadata() or {}).get(BUNDLE_SCHEMA))
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    if manifest.get("sha256") != _digest(manifest, arrays):
        raise _damaged(path, "its sha256 is not the one it was written with")
    return manifest, arrays


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest alone, as it stands in the file."""
    with _opened(path) as file:
        return _manifest(path, (file.metadata() or {}).get(BUNDLE_SCHEMA))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The safetensors file. Raises DataError when there is none, IntegrityError for a damaged or foreign one."""
    import safetensors

    if not path.is_file():
        raise _no_file(path)
    _refuse_foreign(path)
    try:
        with safetensors.safe_open(path, "numpy") as file:
            yield file
    except safetensors.SafetensorError as error:
        refuse_out_of_memory(error, "reading the bundle", os.path.getsize(path))
        raise _damaged(path, str(error).splitlines()[0]) from error
    except OSError as error:
        raise from_os_error(error, "reading the bundle") from error


def _no_file(path: Path) -> DataError:
    """The error for a bundle that is not there, or is a folder; of a run's folder, what to use in its place."""
    run = run_of_classifier(path)
    if not path.exists() and run is not None:
        if run.result() is None:
            return DataError(
                "this run has not finished, so it has no classifier yet",
                file=run.path,
                fix="Go on with it: its own command does.",
            )
        return DataError("the classifier of this finished run is gone", file=path, fix=ANEW)
    if not path.exists():
        return DataError("no such bundle", file=path, fix="`fewvit fit` makes one.")
    if not (path / "manifest.json").is_file():
        return DataError("not a file, so not a bundle", file=path, fix="`fewvit fit` makes one.")
    own = next(iter(sorted(path.glob("*.bundle"))), None)
    fix = (
        f"Use its classifier, {printable(own)}."
        if own
        else f"`fewvit fit -m {printable(path)} --data SRC --out BUNDLE` makes one with it."
    )
    return DataError("a run folder, not a file, so not a bundle", file=path, fix=fix)


def _refuse_foreign(path: Path) -> None:
    """Raise IntegrityError for a file that is known to be something else: features, an image, a table, weights."""
    from ..checkpoints.kinds import foreign_kind

    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise from_os_error(error, "reading the bundle") from error
    kind = (
        ("a features file" if path.suffix == ".npz" else "a zip archive, such as weights are")
        if head.startswith(b"PK")
        else foreign_kind(head)
    )
    if kind is not None:
        raise IntegrityError(
            f"not a bundle but {kind}",
            file=path,
            fix="The bundle that `fewvit fit` wrote comes first, then the images.",
        )


def _manifest(path: Path, text: str | None) -> dict[str, Any]:
    if text is None:
        raise IntegrityError(
            "not a bundle: a safetensors file without a bundle's manifest", file=path, fix="`fewvit fit` makes bundles."
        )
    try:
        manifest = json_of(text)
        number = int(manifest["schema"].removeprefix(f"{BUNDLE_SCHEMA}/"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, "its manifest cannot be read") from error
    if number > FORMAT:
        raise IntegrityError(
            f"written by a newer fewvit (format {number}, this one reads {FORMAT})", file=path, fix="Update fewvit."
        )
    return dict(manifest)


def _damaged(path: Path, why: str) -> IntegrityError:
    fix = "Copy it again, or fit it again with `fewvit fit`." if run_of_classifier(path) is None else ANEW
    return IntegrityError(f"not a bundle, or a damaged one: {why}", file=path, fix=fix)


def _unpacked(packed: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    """The value behind what `_packed` gave."""
    if "value" in packed:
        return packed["value"]
    if "dtype" in packed:
        return np.dtype(packed["dtype"])
    if "record" in packed:
        module, _, name = packed["record"].rpartition(".")
        kind = getattr(importlib.import_module(f"fewvit.classifiers.{module}"), name)
        if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
            # nothing else is called by a name that a file gives
            raise TypeError(f"{packed['record']} is no record of values")
        return kind(**{k: _unpacked(v, arrays) for k, v in packed["fields"].items()})
    array = np.array(arrays[packed["array"]], order=packed["order"])
    if packed["as"] == "tensor":
        import torch

        return torch.from_numpy(array)
    return array[()] if packed["as"] == "scalar" else array
