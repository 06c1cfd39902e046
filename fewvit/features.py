"""Feature vectors with labels and ids, in memory and as `.npz`. NumPy only."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import (
    DataError,
    FingerprintMismatch,
    NumericalError,
    are,
    counted,
    printable,
    refuse_out_of_memory,
)
from .files import replacing, require_file, unpacked_size
from .labels import Marking
from .untrusted.arrays import arrays_of
from .untrusted.texts import require_file_text

if TYPE_CHECKING:
    from .extraction.work import Report


@dataclass(frozen=True)
class FeatureSet:
    """Features as the backbone gave them; normalised at use, never at rest."""

    features: np.ndarray  # (N, D) float32
    labels: np.ndarray  # (N,) int64, -1 = unlabelled
    ids: Sequence[str]  # N
    classes: Sequence[str]
    fingerprint: str = ""  # of backbone, readout, transform and decoder; empty: unknown
    name: str = ""  # of the data set, for result rows
    backbone: str = ""  # what made the features; empty: unknown
    weights: str = ""  # sha256 of its weights, or `random`
    protocol: str = ""  # name of the preset that made them; empty: unknown
    marking: Marking | None = field(default=None, compare=False)  # of predictions, where labels do not say it all
    # of the extraction that gave them; None: they come from a file
    report: Report | None = field(default=None, compare=False)
    # N sha256 of the images' bytes, where they were extracted; not saved
    digests: Sequence[bytes] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        n = len(self.features)
        if self.features.ndim != 2 or np.shape(self.labels) != (n,) or len(self.ids) != n:
            raise DataError(
                f"features {self.features.shape}, labels {np.shape(self.labels)} and {counted(len(self.ids), 'id')} "
                "do not belong together"
            )
        if n and (self.labels.min() < -1 or self.labels.max() >= len(self.classes)):
            raise DataError(
                f"labels run from {self.labels.min()} to {self.labels.max()}, but there {are(len(self.classes))} "
                f"{counted(len(self.classes), 'class', 'classes')}"
            )

    def __len__(self) -> int:
        return len(self.features)

    def __repr__(self) -> str:
        said = [self.name, f"{' x '.join(map(str, self.features.shape))} {self.features.dtype}"]
        said += [counted(len(self.classes), "class", "classes"), self.backbone, self.protocol, self.fingerprint[:12]]
        return f"FeatureSet({', '.join(filter(None, said))})"

    def select(self, rows: np.ndarray) -> FeatureSet:
        """The set made of these rows, in their order; classes stay."""
        return replace(
            self,
            features=self.features[rows],
            labels=self.labels[rows],
            ids=[self.ids[i] for i in rows],
            digests=None if self.digests is None else [self.digests[i] for i in rows],
            marking=None if self.marking is None else self.marking.select(rows),
        )

    def require_finite(self, file: str | os.PathLike[str] | None = None) -> None:
        """Raise NumericalError naming the first image whose features, or the sum of their squares, are not finite."""
        for start in range(0, len(self), 65536):
            part = np.asarray(self.features[start : start + 65536], np.float32)
            bad = np.flatnonzero(~np.isfinite(np.einsum("nd,nd->n", part, part)))
            if len(bad):
                fix = "Extract them again; with --precision fp32 if they came from fp16."
                hold = "hold NaN or Inf"
                if np.isfinite(part[bad[0]]).all():
                    hold = f"reach {np.abs(part[bad[0]]).max():.3g}: float32 has no room for their squares"
                    fix = "Scale them all by one factor; or extract them again, from weights that are not damaged."
                raise NumericalError(f"the features of {self.ids[start + bad[0]]!r} {hold}", file=file, fix=fix)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Replace `path` by an uncompressed `.npz` with `features`, `labels`, `ids`, `classes`, and one text each:
        `fingerprint`, `name`, `backbone`, `weights`, `protocol`; what a marking has, as `accepted` and `answers`.
        """
        arrays: dict[str, Any] = {
            "features": np.asarray(self.features, dtype=np.float32),
            "labels": np.asarray(self.labels, dtype=np.int64),
            "ids": np.array(list(self.ids), dtype=str),
            "classes": np.array(list(self.classes), dtype=str),
            "fingerprint": np.array(self.fingerprint),
            **{key: np.array(getattr(self, key)) for key in ("name", "backbone", "weights", "protocol")},
            **(_arrays(self.marking) if self.marking is not None else {}),
        }
        with replacing(path) as handle:
            np.savez(handle, **arrays)

    @staticmethod
    def load(path: str | os.PathLike[str], *, unlabelled: bool = False) -> FeatureSet:
        """The set in an `.npz` written by `save` or with the same keys; `unlabelled`: it may lack labels.

        Raises DataError or NumericalError.
        """
        arrays = _read_arrays(Path(path))
        if unlabelled and "features" in arrays:
            arrays.setdefault("labels", np.full(len(np.atleast_1d(arrays["features"])), -1))
        missing = [key for key in ("features", "labels") if key not in arrays]
        if missing:
            raise DataError(
                f"holds no array {' and no '.join(missing)}; it has {', '.join(sorted(arrays)) or 'none'}",
                file=path,
                fix="A features file has `features` (N, D), `labels` (N,), `ids` and `classes`.",
            )
        features, labels = arrays["features"], np.asarray(arrays["labels"])
        if features.ndim != 2 or features.dtype.kind not in "fiu":
            raise DataError(
                f"`features` is {features.dtype} of shape {features.shape}, expected float32 (N, D)", file=path
            )
        if labels.dtype.kind not in "iu" or labels.ndim != 1:
            named = (
                "Give each image its class's place in an array `classes` (C,) of names."
                if labels.dtype.kind in "USO"
                else None
            )
            raise DataError(
                f"`labels` is {labels.dtype} of shape {labels.shape}, expected whole numbers (N,)", file=path, fix=named
            )
        ids = arrays.get("ids", np.array([str(i) for i in range(len(features))]))
        classes = arrays["classes"] if "classes" in arrays else _numbered_classes(labels, path)
        text = {
            key: str(arrays[key]) if key in arrays else ""
            for key in ("fingerprint", "name", "backbone", "weights", "protocol")
        }
        try:
            id_names, class_names = _names(ids), _names(classes)
            loaded = FeatureSet(
                _as_float32(features),
                labels.astype(np.int64, copy=False),
                id_names,
                class_names,
                text["fingerprint"],
                text["name"] or Path(path).stem,
                text["backbone"],
                text["weights"],
                text["protocol"],
                _marking(arrays, labels, id_names, len(class_names), path),
            )
        except (DataError, ValueError) as error:
            raise DataError(
                error.what if isinstance(error, DataError) else f"its names are not text ({error})", file=path
            ) from error
        loaded.require_finite(path)
        return loaded


def _arrays(marking: Marking) -> dict[str, np.ndarray]:
    """What a marking has, as a file keeps it."""
    parts = {"accepted": marking.accepted, "answers": marking.answers}
    return {name: part for name, part in parts.items() if part is not None}


def _marking(
    arrays: Mapping[str, np.ndarray],
    labels: np.ndarray,
    ids: Sequence[str],
    classes: int,
    path: str | os.PathLike[str],
) -> Marking | None:
    """That of a file, if it has one.

    Raises DataError for arrays that mark no such images, and where a label is not among the accepted ones.
    """
    images = len(ids)
    accepted, answers = (arrays.get(name) for name in ("accepted", "answers"))
    for name, array, dimensions in (("accepted", accepted, 2), ("answers", answers, 1)):
        if array is None:
            continue
        whole = array.dtype.kind in "iu" and array.ndim == dimensions and (name == "answers" or len(array) == images)
        if not whole or (array.size and not -1 <= int(array.min()) <= int(array.max()) < classes):
            raise DataError(f"`{name}` is not of these {images} images and {classes} classes", file=path)
    if accepted is None and answers is None:
        return None
    if accepted is not None:
        odd = np.flatnonzero((labels >= 0) & ~(accepted == labels[:, None]).any(axis=1))
        if len(odd):
            raise DataError(
                f"the label of {counted(len(odd), 'image')} is not in its row of `accepted`: {ids[odd[0]]!r}", file=path
            )
    return Marking(*(None if part is None else part.astype(np.int64) for part in (accepted, answers)))


def _names(array: np.ndarray) -> list[str]:
    """The names in an array (n,); numbers are names, too. Raises ValueError for what is no list of names."""
    texts = np.atleast_1d(array).astype(str)
    if texts.ndim != 1:
        raise ValueError(f"an array of them has the shape {texts.shape}")
    names: list[str] = texts.tolist()
    require_file_text(*names)
    return names


_MOST_CLASSES = 1 << 20  # that go by their numbers


def _numbered_classes(labels: np.ndarray, path: str | os.PathLike[str]) -> np.ndarray:
    """The numbers up to the largest label as names, where a file names none. Raises DataError for a label too large."""
    count = int(labels.max()) + 1 if len(labels) else 0
    if count > _MOST_CLASSES:
        raise DataError(
            f"a label is {count - 1}, and no array `classes` names so many classes",
            file=path,
            fix="Number the classes 0, 1, 2 …, or name them in an array `classes` (C,).",
        )
    return np.array([str(c) for c in range(count)])


def _as_float32(features: np.ndarray) -> np.ndarray:
    """The features in float32; numbers beyond its range become Inf, which is refused where features must be finite."""
    with np.errstate(over="ignore"):
        return features.astype(np.float32, copy=False)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    require_file(path)
    try:
        return arrays_of(path)
    except FileNotFoundError as error:
        raise DataError("no such file", file=path) from error
    except (OSError, ValueError) as error:
        refuse_out_of_memory(error, "reading features", unpacked_size(path))
        raise DataError(
            f"not a readable features file ({_reason(error)})",
            file=path,
            fix="Write it again with `fewvit extract --out FILE.npz`.",
        ) from error


def _reason(error: BaseException) -> str:
    """The first line of an error, but no advice to unpickle what is not trusted."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return "it is no zip of arrays" if "pickle" in text else printable(text)


def shared_rows(train: FeatureSet, test: FeatureSet) -> int:
    """The number of test rows that equal a train row, as the features of one image do.

    Constant rows are not counted; 0 for less than four columns.
    """
    if min(train.features.shape[1], test.features.shape[1]) < 4:
        return 0
    keys = [_key(side.features) for side in (train, test)]
    # by their first columns; few are left to compare whole
    known, asked = (np.isin(keys[0], keys[1]), np.isin(keys[1], keys[0]))
    rows = {row.tobytes() for row in train.features[known] if row.min() < row.max()}
    return sum(row.tobytes() in rows for row in test.features[asked])


def warn_of_shared_rows(
    train: FeatureSet, test: FeatureSet, notify: Callable[[str], None], kind: str = "train image"
) -> None:
    """Say how many test rows equal the row of an image of this kind, if any does: it is probably the same image."""
    if shared := shared_rows(train, test):
        notify(
            f"{shared} of the {len(test)} test images have exactly the features of a {kind}: are they the same images?"
        )


def _key(features: np.ndarray) -> np.ndarray:
    """A number (N,) of the first four columns."""
    words = np.ascontiguousarray(features[:, :4], dtype=np.float32).view(np.uint64)  # (N, 2)
    return words[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ words[:, 1]


def require_one_fingerprint(train: str, test: str) -> None:
    """Raise FingerprintMismatch where both sides have a fingerprint and the two differ."""
    if train and test and train != test:
        raise FingerprintMismatch(
            f"train features are of {train[:12]}, test features of {test[:12]}: another backbone, transform or "
            "precision",
            fix="Extract both sides with the same options.",
        )


def require_one_backbone(train: FeatureSet, test: FeatureSet) -> None:
    """Raise FingerprintMismatch for widths that differ, and as `require_one_fingerprint`."""
    if train.features.shape[1] != test.features.shape[1]:
        raise FingerprintMismatch(
            f"train features have {counted(train.features.shape[1], 'column')}, test features "
            f"{test.features.shape[1]}: they are not of one backbone"
        )
    require_one_fingerprint(train.fingerprint, test.fingerprint)
