"""FAISS, imported here and nowhere else, and what the one that is installed can do."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from types import ModuleType

import numpy as np

from ..cpu import wide_openblas


def faiss_is_here() -> bool:
    """Whether FAISS is installed; does not import it."""
    return importlib.util.find_spec("faiss") is not None


def faiss_library() -> ModuleType:
    """FAISS, with the widest kernels of the CPU. Raises ImportError."""
    with wide_openblas():
        import faiss
    return faiss


@lru_cache(maxsize=1)
def faiss_gpu_works() -> bool:
    """Whether FAISS has kernels for the GPU here, by a search of 64 vectors: an unfit wheel installs without error."""
    faiss = faiss_library()
    if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0:
        return False
    rows = np.eye(64, dtype=np.float32)
    try:
        _, found = faiss.knn_gpu(faiss.StandardGpuResources(), rows, rows, 1, metric=faiss.METRIC_INNER_PRODUCT)
    except RuntimeError:
        return False
    return bool((found[:, 0] == np.arange(64)).all())


def faiss_facts() -> tuple[str, str, int]:
    """(version, compile options, number of GPUs) of the installed FAISS. Raises ImportError."""
    faiss = faiss_library()
    gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    return str(faiss.__version__), str(faiss.get_compile_options()).strip(), int(gpus)
