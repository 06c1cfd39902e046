"""Label-efficient few-shot learning on frozen self-supervised ViTs: DINO, MSN, MAE, DINOv2.

    import fewvit
    backbone = fewvit.load_backbone("dino_vitb16")
    train, test = (fewvit.extract_features(backbone, f"imagenet/{part}") for part in ("train", "val"))
    fewvit.KNNClassifier(k=20, temperature=0.07).fit(train.features, train.labels).score(test.features, test.labels)

Names are imported on first use, so that `import fewvit` never waits for torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Backbone": "models.vit",
    "BackboneSpec": "models.spec",
    "Bank": "neighbors",
    "Bundle": "bundles.bundle",
    "Centroid": "classifiers.centroid",
    "Dataset": "datasets",
    "FeatureSet": "features",
    "FewvitError": "errors",
    "KNNClassifier": "classifiers.knn",
    "LogisticRegression": "classifiers.logistic",
    "Neighbors": "neighbors",
    "Protocol": "backbones",
    "Result": "results",
    "Split": "splits",
    "extract_features": "extraction.calls",
    "load_backbone": "extraction.calls",
    "load_bundle": "bundles.file",
    "open_dataset": "datasets",
    "weighted_vote": "vote",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fewvit' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
