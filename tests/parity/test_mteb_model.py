"""A module of `fewvit export mteb-model`, run by the installed mteb package on local images."""

from __future__ import annotations

import importlib.util
import warnings
from importlib.util import find_spec

import numpy as np
import pytest

import fewvit
from fewvit.evaluate.mieb import evaluate_mieb
from fewvit.export.mteb_model import LICENSES, SEEN

pytestmark = [
    pytest.mark.mteb,
    pytest.mark.skipif(find_spec("mteb") is None, reason="mteb is not installed; `make test-mteb` installs it"),
    pytest.mark.filterwarnings("ignore"),  # of mteb and what it imports
]


@pytest.fixture(scope="module")
def mteb():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mteb
    return mteb


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Train and test folders of PNG images; the noise of a class is around a colour of its own."""
    from PIL import Image

    root = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(7)
    for part, counts in (("train", (23, 11, 19)), ("test", (7, 5, 9))):
        for place, (name, count) in enumerate(zip(("ant", "bee", "cat"), counts, strict=True)):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 120, (41, 53, 3)) + 6 * np.eye(3)[place]
                Image.fromarray(pixels.astype(np.uint8)).save(root / part / name / f"{i:03d}.png")
    return root


@pytest.fixture(scope="module")
def module(mteb, tmp_path_factory):
    """The module of fewvit_tiny, imported as a user imports it."""
    from fewvit_cli import main as cli

    file = tmp_path_factory.mktemp("module") / "tiny_for_mteb.py"
    assert cli.run(["export", "mteb-model", "fewvit_tiny", "--out", str(file), "--quiet"]) == 0
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    found = importlib.util.module_from_spec(spec)
    assert spec.loader is not None
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def sets(pictures):
    backbone = fewvit.load_backbone("fewvit_tiny", device="cpu")
    return [fewvit.extract_features(backbone, pictures / part) for part in ("train", "test")]


def in_memory(pictures, part, features):
    """The images of a part as a data set of mteb holds them, and their labels."""
    from datasets import Dataset, Features
    from datasets import Image as ImageFeature

    files = [str(pictures / part / name) for name in features.ids]
    return Dataset.from_dict({"image": files}, features=Features({"image": ImageFeature()}))["image"], features.labels


@pytest.fixture(scope="module")
def tasks(mteb, pictures, sets):
    import mteb_tasks

    (train, of_train), (test, of_test) = (
        in_memory(pictures, part, features) for part, features in zip(("train", "test"), sets, strict=True)
    )
    return [
        mteb_tasks.classification(train, of_train, test, of_test),
        mteb_tasks.clustering(test, of_test),
        mteb_tasks.retrieval(test, of_test.tolist()),
    ]


def test_the_features_in_mteb_are_fewvits_bit_for_bit(module, tasks, sets):
    from mteb._create_dataloaders import create_dataloader

    model = module.META.load_model(device="cpu")
    task = tasks[0]
    for part, features in zip(("train", "test"), sets, strict=True):
        loader = create_dataloader(task.dataset[part], task_metadata=task.metadata, input_column="image", batch_size=13)
        found = model.encode(loader, task_metadata=task.metadata, hf_split=part, hf_subset="default")
        np.testing.assert_array_equal(found, features.features)
    assert model.mteb_model_meta.name == "fewvit/fewvit_tiny"


def test_mteb_evaluates_it_and_finds_what_fewvit_mieb_finds(mteb, module, tasks, sets):
    done = mteb.evaluate(module.META, tasks, cache=None, co2_tracker=False, show_progress_bar=False)
    found = {result.task_name: result.scores["test"][0] for result in done.task_results}
    rows, _ = evaluate_mieb(*sets)
    own = {row["metric"]: row["value"] for row in rows if row.get("trial", "mean") == "mean"}
    assert 40 < own["accuracy"] < 100  # neither chance nor a matter of course
    assert 100 * found["OwnClassification"]["accuracy"] == pytest.approx(own["accuracy"], abs=1e-9)
    assert 100 * found["OwnClustering"]["main_score"] == pytest.approx(own["nmi"], abs=1e-9)
    assert 100 * found["OwnRetrieval"]["main_score"] == pytest.approx(own["hit_rate_at_1"], abs=6e-4)
    assert 100 * found["OwnRetrieval"]["map_at_5"] == pytest.approx(own["map_at_5"], abs=6e-4)
    assert done.model_revision == module.WEIGHTS


def test_other_weights_under_its_name_and_a_task_with_text_are_refused(module, tasks):
    with pytest.raises(ValueError, match=r"the weights have sha256 92976b45.* not 0000"):
        module.META.model_copy(update={"revision": "0" * 64}).load_model(device="cpu")
    model = module.META.load_model(device="cpu")

    class Loader:
        class dataset:  # noqa: N801
            features = ("image", "text")

    with pytest.raises(ValueError, match="OwnClassification: this model reads images alone"):
        model.encode(Loader(), task_metadata=tasks[0].metadata, hf_split="test", hf_subset="default")


def test_licences_and_tasks_are_called_as_mteb_calls_them(mteb):
    import typing

    from mteb.types import Licenses

    assert set(LICENSES) <= set(typing.get_args(Licenses))
    named = {task for names in SEEN.values() for task in names}
    assert named <= {task.metadata.name for task in mteb.get_benchmark("MIEB(Img)").tasks}
