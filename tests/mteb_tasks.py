"""mteb's own tasks over data sets in memory, for what fewvit is compared with. Imports mteb, which is an extra."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from mteb.abstasks import AbsTaskClassification
from mteb.abstasks.clustering_legacy import AbsTaskClusteringLegacy
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta


def _metadata(name: str, kind: str, category: str, main_score: str) -> TaskMetadata:
    return TaskMetadata(
        name=name,
        description="made by a test",
        type=kind,  # type: ignore[arg-type]
        category=category,  # type: ignore[arg-type]
        dataset={"path": "none/none", "revision": "0"},
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=main_score,
        modalities=["image"],
    )


class Classification(AbsTaskClassification):
    """As 20 of MIEB's tasks of images with one label are configured."""

    input_column_name = "image"
    samples_per_label = 16
    n_experiments = 5
    metadata = _metadata("OwnClassification", "ImageClassification", "i2c", "accuracy")


class Clustering(AbsTaskClusteringLegacy):
    """As CIFAR10Clustering is configured."""

    input_column_name = "image"
    label_column_name = "label"
    metadata = _metadata("OwnClustering", "ImageClustering", "i2c", "nmi")


class Retrieval(AbsTaskRetrieval):
    """As CUB200I2IRetrieval is configured: the queries are in the corpus, and the first result is passed over."""

    skip_first_result = True
    metadata = _metadata("OwnRetrieval", "Any2AnyRetrieval", "i2i", "hit_rate_at_1")


def _dataset(images: Sequence[Any], labels: Sequence[int]) -> Dataset:
    return Dataset.from_dict({"image": list(images), "label": [int(label) for label in labels]})


def classification(
    train: Sequence[Any], train_labels: Sequence[int], test: Sequence[Any], test_labels: Sequence[int]
) -> Classification:
    task = Classification()
    task.dataset = DatasetDict(train=_dataset(train, train_labels), test=_dataset(test, test_labels))  # type: ignore[assignment]
    task.data_loaded = True
    return task


def clustering(images: Sequence[Any], labels: Sequence[int]) -> Clustering:
    task = Clustering()
    task.dataset = DatasetDict(test=_dataset(images, labels))  # type: ignore[assignment]
    task.data_loaded = True
    return task


def retrieval(images: Sequence[Any], labels: Sequence[int]) -> Retrieval:
    """Every image is query and document; relevant are the others of its class."""
    ids = [f"{i:05d}" for i in range(len(labels))]
    rows = Dataset.from_dict({"id": ids, "image": list(images)})
    relevant = {
        ids[q]: {ids[d]: 1 for d in range(len(ids)) if d != q and labels[d] == labels[q]} for q in range(len(ids))
    }
    task = Retrieval()
    split = {"corpus": rows, "queries": rows, "relevant_docs": relevant, "top_ranked": None}
    task.dataset = {"default": {"test": split}}  # type: ignore[dict-item]
    task.data_loaded = True
    return task


class Given(AbsEncoder):
    """A model whose images are row numbers of features that were made before."""

    mteb_model_meta = ModelMeta(
        loader=None,
        name="own/given",
        revision="0",
        release_date=None,
        languages=None,
        n_parameters=None,
        memory_usage_mb=None,
        max_tokens=None,
        embed_dim=None,
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=[],
        similarity_fn_name="cosine",  # type: ignore[arg-type]
        use_instructions=None,
        training_datasets=None,
        modalities=["image"],
    )

    def __init__(self, features: np.ndarray):
        self.features = features

    def encode(self, inputs: Any, **_: Any) -> np.ndarray:
        return np.concatenate([self.features[[int(row) for row in batch["image"]]] for batch in inputs])


def scores(task: Any, model: Any) -> dict[str, Any]:
    """What mteb reports of a task's test split."""
    found = task.evaluate(model, "test", encode_kwargs={"batch_size": 32, "show_progress_bar": False})
    return found["default"]
