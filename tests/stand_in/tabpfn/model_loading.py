"""Where the package keeps its weights, and what they are called."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace


class ModelSource:
    @staticmethod
    def get_classifier_v2() -> SimpleNamespace:
        return SimpleNamespace(
            repo_id="Prior-Labs/TabPFN-v2-clf", default_filename="tabpfn-v2-classifier-finetuned-zk73skhh.ckpt"
        )


def get_cache_dir() -> Path:
    return Path(os.environ["TABPFN_MODEL_CACHE_DIR"])
