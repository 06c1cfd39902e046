"""TabPFN, a transformer that reads the labelled rows as its prompt, behind the extra `tabpfn`.

The package is Apache-2.0; its weights have licences of their own, as its documentation says: version 2's is Apache 2.0
with a demand for attribution, those of 2.5, 2.6, 3 and 3.5 are non-commercial and wait for an account. fewvit carries
none of them and downloads none: a file has to be there.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.utils.validation import check_is_fitted, validate_data

from ..errors import (
    CheckpointError,
    MissingExtra,
    Unobtainable,
    UsageError,
    counted,
    in_one_line,
    refuse_out_of_memory,
)
from ._episodic import require_at_least
from ._estimator import ProbabilisticClassifier
from ._labels import numbered

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_QUERIES = 1000  # rows of one forward pass: what the package's own advice is for large test sets
# no such sender is in the package since 9.2; older ones and what is built on them ask for this
_SILENT = {"TABPFN_DISABLE_TELEMETRY": "1", "TABPFN_NO_BROWSER": "1", "TABPFN_MODEL_CACHE_SIZE": "1"}


class TabPFN(ProbabilisticClassifier):
    """A pretrained transformer's class probabilities, from the principal components of the labelled rows.

    Source: Hollmann et al. 2025 (TabPFN v2). Rows of more than `pca` columns are projected on the principal axes of the
    labelled rows alone: fewer than 500 columns are what version 2 was made for, and with n labelled rows no more than
    n - 1 axes tell them apart. Rows are classified one by one, in passes of 1000. The weights file decides how many
    classes there may be (10 of version 2's) and how many rows; more of either are refused.
    """

    needs: ClassVar[str] = "features"
    keeps: ClassVar[str] = "support"  # the rows are what it learns from; the weights stay in their own file
    extra: ClassVar[str] = "tabpfn"
    facts: ClassVar[Mapping[str, str]] = {
        "weights": "weights_",
        "weights_sha256": "weights_sha256_",
        "components": "components_",
    }

    def __init__(
        self,
        weights: str | None = None,
        pca: int = 100,
        estimators: int | None = None,
        ignore_limits: bool = False,
        device: str = "auto",
        seed: int = 0,
    ):
        # file of weights (.ckpt, .safetensors); None: version 2's, where the package keeps its files
        self.weights = weights
        self.pca = pca  # the most columns that the model is given
        self.estimators = estimators  # passes over differently prepared rows that are averaged; None: the package's 8
        self.ignore_limits = ignore_limits  # more rows than the model was trained for, or than a CPU is meant for
        self.device = device
        self.seed = seed  # of the columns' and classes' order in each pass

    def fit(self, X: ArrayLike, y: ArrayLike) -> TabPFN:
        """Take rows (N, D) and their labels (N,) as the prompt; nothing is trained.

        Raises MissingExtra without the package, Unobtainable without a weights file, CheckpointError for a file that
        is none, UsageError for more classes or rows than its model takes.
        """
        rows, labels = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        require_at_least(1, pca=self.pca)
        if self.estimators is not None:
            require_at_least(1, estimators=self.estimators)
        self.classes_, numbers = numbered(labels)
        file = _weights_file(self.weights)
        model = self._loaded(file)
        self.weights_, self.weights_sha256_ = file.name, _digest(file, file.stat().st_mtime_ns)
        most = int(model.get_inference_config().MAX_NUMBER_OF_CLASSES)
        if len(self.classes_) > most:
            raise UsageError(
                f"tabpfn with {file.name} tells at most {counted(most, 'class', 'classes')} apart, and there are "
                f"{len(self.classes_)}",
                fix="Choose another classifier, such as logistic, or a weights file for more classes.",
            )
        self._centre, self._axes = _principal(rows, self.pca)
        prompt = self._projected(rows)
        self.components_ = prompt.shape[1]
        try:
            self._model = model.fit(prompt, numbers)
        except (ValueError, RuntimeError) as error:  # its refusals: too many rows for it or a CPU, constant columns
            refuse_out_of_memory(error, "fitting tabpfn", prompt.nbytes)
            raise UsageError(
                f"tabpfn refuses these {counted(len(rows), 'row')}: {in_one_line(str(error))[:200]}",
                fix="Choose another classifier, or --set tabpfn.ignore_limits=true where it is a limit.",
            ) from error
        return self

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Class probabilities (Q, C), in the order of `classes_`."""
        check_is_fitted(self)
        queries = self._projected(validate_data(self, X, reset=False, dtype=np.float64))
        blocks = [
            self._model.predict_proba(queries[start : start + _QUERIES]) for start in range(0, len(queries), _QUERIES)
        ]
        shares = np.concatenate(blocks).astype(np.float64)
        return shares / shares.sum(axis=1, keepdims=True)  # they were rounded to float32

    @staticmethod
    def summary(estimators: Sequence[TabPFN], shots: str) -> str:
        """The line on whose weights they are."""
        one = estimators[0]
        return (
            f"tabpfn, {shots}: {one.weights_} ({one.weights_sha256_[:12]}…), {counted(one.components_, 'component')}; "
            "the weights' licence is Prior Labs': attribution for v2, non-commercial for newer ones"
        )

    @staticmethod
    def ready(options: Mapping[str, Any]) -> None:
        """Raise MissingExtra without the package, Unobtainable without a weights file."""
        _weights_file(options.get("weights"))

    def _loaded(self, file: Path) -> Any:
        """The package's estimator with the weights of a file. Raises MissingExtra, CheckpointError."""
        options = {"n_estimators": self.estimators} if self.estimators is not None else {}
        made = _package().TabPFNClassifier(
            model_path=str(file),
            device=self.device,
            random_state=self.seed,
            ignore_pretraining_limits=self.ignore_limits,
            **options,
        )
        try:
            made.get_inference_config()
        except Exception as error:  # pickle's, safetensors', torch's and the package's own
            refuse_out_of_memory(error, "reading the weights of tabpfn", file.stat().st_size)
            raise CheckpointError(
                f"is no weights file that tabpfn reads ({in_one_line(f'{type(error).__name__}: {error}')[:160]})",
                file=file,
                fix="Give --set tabpfn.weights=FILE one of Prior Labs' classifiers.",
            ) from error
        return made

    def _projected(self, rows: np.ndarray) -> np.ndarray:
        """Rows (n, D) as the model gets them, (n, K)."""
        return rows if self._axes is None else (rows - self._centre) @ self._axes


def _package() -> Any:
    """The package `tabpfn`, told to send nothing and to open nothing. Raises MissingExtra."""
    for name, value in _SILENT.items():
        os.environ.setdefault(name, value)
    try:
        import tabpfn
    except ImportError as error:
        raise MissingExtra(
            "the classifier tabpfn needs the package of that name", fix="pip install 'fewvit[tabpfn]'."
        ) from error
    return tabpfn


def _weights_file(given: str | None) -> Path:
    """The weights file; where none is given, version 2's in the package's own folder. Raises Unobtainable."""
    _package()
    from tabpfn.model_loading import ModelSource, get_cache_dir

    source = ModelSource.get_classifier_v2()
    file = Path(given).expanduser() if given is not None else Path(get_cache_dir()) / source.default_filename
    if not file.is_file():
        raise Unobtainable(
            "no weights of TabPFN are here, and fewvit downloads none",
            file=file,
            fix=f"Accept their licence, fetch {source.default_filename} of huggingface.co/{source.repo_id}, "
            "and give it with --set tabpfn.weights=FILE.",
        )
    return file.absolute()


@functools.lru_cache(maxsize=4)
def _digest(file: Path, changed_ns: int) -> str:
    """The file's sha256, computed once for the file as it was last written."""
    from ..checkpoints.digests import verify_file

    return verify_file(file, None, pin=False)


def _principal(rows: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray | None]:
    """(mean (1, D), principal axes (D, K)) of rows (n, D), K being n - 1 or `most`; no axes where D is no more.

    Each axis points where its largest entry is positive, so that it does not depend on the solver.
    """
    mean = rows.mean(axis=0, keepdims=True)
    if rows.shape[1] <= most:
        return mean, None
    axes = np.linalg.svd(rows - mean, full_matrices=False)[2][: min(most, len(rows) - 1)].T
    largest = np.abs(axes).argmax(axis=0)
    return mean, axes * np.sign(axes[largest, np.arange(axes.shape[1])])
