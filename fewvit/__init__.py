"""Label-efficient few-shot learning on frozen self-supervised ViTs: DINO, MSN, MAE, DINOv2, DINOv3 and others.

    import fewvit
    backbone = fewvit.load_backbone("dino_vitb16")
    train, test = (fewvit.extract_features(backbone, f"imagenet/{part}") for part in ("train", "val"))
    fewvit.KNNClassifier(k=20, temperature=0.07).fit(train.features, train.labels).score(test.features, test.labels)

Names are imported on first use, so that `import fewvit` never waits for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and the reference of the documentation, which read and do not run
    from .backbones import Protocol as Protocol
    from .bundles.bundle import Bundle as Bundle
    from .bundles.file import load_bundle as load_bundle
    from .classifiers.centroid import Centroid as Centroid
    from .classifiers.knn import KNNClassifier as KNNClassifier
    from .classifiers.logistic import LogisticRegression as LogisticRegression
    from .datasets import Dataset as Dataset
    from .datasets import open_dataset as open_dataset
    from .deploy.predict import OnnxBundle as OnnxBundle
    from .deploy.predict import load_onnx as load_onnx
    from .errors import FewvitError as FewvitError
    from .extraction.calls import encode_images as encode_images
    from .extraction.calls import extract_features as extract_features
    from .extraction.calls import load_backbone as load_backbone
    from .features import FeatureSet as FeatureSet
    from .models.backbone import Backbone as Backbone
    from .models.spec import BackboneSpec as BackboneSpec
    from .neighbors import Bank as Bank
    from .neighbors import Neighbors as Neighbors
    from .results import Result as Result
    from .retrieval.index import ImageIndex as ImageIndex
    from .splits import Split as Split
    from .vote import weighted_vote as weighted_vote

__version__ = "0.1.0"

_HOMES = {
    "Backbone": "models.backbone",
    "BackboneSpec": "models.spec",
    "Bank": "neighbors",
    "Bundle": "bundles.bundle",
    "Centroid": "classifiers.centroid",
    "Dataset": "datasets",
    "FeatureSet": "features",
    "FewvitError": "errors",
    "ImageIndex": "retrieval.index",
    "KNNClassifier": "classifiers.knn",
    "LogisticRegression": "classifiers.logistic",
    "Neighbors": "neighbors",
    "OnnxBundle": "deploy.predict",
    "Protocol": "backbones",
    "Result": "results",
    "Split": "splits",
    "encode_images": "extraction.calls",
    "extract_features": "extraction.calls",
    "load_backbone": "extraction.calls",
    "load_bundle": "bundles.file",
    "load_onnx": "deploy.predict",
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
