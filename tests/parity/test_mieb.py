"""MIEB's scores beside those of the installed mteb package, on the same features: draw by draw, number by number."""

from __future__ import annotations

import warnings
from importlib.util import find_spec

import numpy as np
import pytest

from fewvit.evaluate.mieb import evaluate_mieb
from fewvit.features import FeatureSet
from fewvit.splits import mieb_draws

from made_features import made

pytestmark = [
    pytest.mark.mteb,
    pytest.mark.skipif(find_spec("mteb") is None, reason="mteb is not installed; `make test-mteb` installs it"),
    pytest.mark.filterwarnings("ignore"),  # of mteb and what it imports
]

SETS = {
    "five classes, one of which is short": (29, 1.3, {0: (41, 31), 1: (23, 13), 2: (19, 17), 3: (11, 7), 4: (37, 29)}),
    "two classes": (13, 2.0, {0: (29, 37), 1: (43, 19)}),
    "more columns than images": (307, 7.0, {1: (17, 11), 3: (23, 13), 7: (29, 19)}),
    "far from convergence": (37, 3.0, {3: (19, 31), 5: (29, 13), 7: (23, 17)}),
}


@pytest.fixture(scope="module")
def mteb_tasks():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mteb_tasks
    return mteb_tasks


@pytest.fixture(scope="module", params=SETS)
def sets(request):
    train, test = made(*SETS[request.param])
    if request.param != "far from convergence":
        return train, test
    scale = np.geomspace(0.05, 20, 37, dtype=np.float32)
    return tuple(FeatureSet(one.features * scale, one.labels, one.ids, one.classes) for one in (train, test))


def test_draws_are_mtebs_row_by_row(sets, mteb_tasks):
    train, test = sets
    task = mteb_tasks.classification(range(len(train)), train.labels, range(len(test)), test.labels)
    left = None
    for split in mieb_draws(train.labels):
        _, left, drawn = task._undersample_data(task.dataset["train"], split.trial, left)
        assert split.train.tolist() == drawn


def test_every_number_is_mtebs(sets, mteb_tasks):
    train, test = sets
    of_train, of_test = range(len(train)), range(len(train), len(train) + len(test))
    model = mteb_tasks.Given(np.concatenate([train.features, test.features]))
    probe = mteb_tasks.scores(mteb_tasks.classification(of_train, train.labels, of_test, test.labels), model)
    clusters = mteb_tasks.scores(mteb_tasks.clustering(of_test, test.labels), model)
    ranking = mteb_tasks.scores(mteb_tasks.retrieval(of_test, test.labels.tolist()), model)
    rows, _ = evaluate_mieb(train, test)
    found = {(row["metric"], row.get("trial")): row["value"] for row in rows}
    for metric in ("accuracy", "f1", "f1_weighted"):
        for draw, scores in enumerate(probe["scores_per_experiment"]):
            assert found[metric, draw] == 100 * scores[metric]
        assert found[metric, "mean"] == pytest.approx(100 * probe[metric], abs=1e-10)  # a mean of percents
    for metric in ("v_measure", "nmi", "ari", "cluster_accuracy"):
        assert found[metric, None] == 100 * clusters[metric]
    for metric in ("hit_rate_at_1", "map_at_5"):  # of which mteb keeps five places
        assert round(found[metric, None] / 100, 5) == ranking[metric]
    assert (probe["main_score"], clusters["main_score"], ranking["main_score"]) == (
        probe["accuracy"],
        clusters["nmi"],
        ranking["hit_rate_at_1"],
    )


def test_the_settings_are_those_of_the_image_tasks_of_the_benchmark(mteb_tasks):
    """16 images, five draws, seed 42, 100 iterations, and the main score of each kind of task; two tasks differ."""
    import mteb

    tasks = mteb.get_benchmark("MIEB(Img)").tasks
    probes = {task.metadata.name: task for task in tasks if task.metadata.type == "ImageClassification"}
    assert len(probes) == 22
    assert type(probes.pop("VOC2007").evaluator_model).__name__ == "KNeighborsClassifier"  # several labels an image
    stl10 = probes.pop("STL10")
    assert (stl10.samples_per_label, stl10.n_experiments) == (8, 10)
    for name, task in probes.items():
        settings = task.evaluator_model.get_params()
        assert (task.samples_per_label, task.n_experiments, task.seed) == (16, 5, 42), name
        assert (type(task.evaluator_model).__name__, settings["max_iter"], settings["C"]) == (
            "LogisticRegression",
            100,
            1,
        ), name
        assert task.metadata.main_score == "accuracy", name
    assert {task.metadata.main_score for task in tasks if task.metadata.type == "ImageClustering"} == {"nmi"}
    ranked = {task.metadata.name: task for task in tasks if task.metadata.type == "Any2AnyRetrieval"}
    skipping = {name for name, task in ranked.items() if task.skip_first_result}
    assert {ranked[name].metadata.main_score for name in skipping} == {"hit_rate_at_1"}
    assert skipping == {f"{name}I2IRetrieval" for name in ("CUB200", "MET", "RP2k", "SOP", "StanfordCars")}
