"""The papers' data sets in their published layouts: each trap that a layout sets is stepped around."""

from __future__ import annotations

import importlib.util
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from made_sets import (
    cifar10,
    cifar100,
    colour_of,
    flowers,
    jpeg,
    number_of,
    png,
    real_json,
    seen,
    stl10,
    val_name,
    vtab,
    write,
)
from PIL import Image

from fewvit import plugins
from fewvit.classifiers.centroid import Centroid
from fewvit.datasets import open_dataset, select
from fewvit.errors import DataError, IntegrityError
from fewvit.evaluate.evaluation import evaluate_estimator
from fewvit.evaluate.knn import KNNOptions, evaluate_knn
from fewvit.evaluate.predictions import Predicted
from fewvit.features import FeatureSet
from fewvit.labels import Marking, align, marked_labels
from fewvit.metrics import NEVER, rank_of_accepted
from fewvit.public_sets import public_sets
from fewvit.public_sets._about import About, Part
from fewvit.public_sets._imagenet import synsets
from fewvit.sources import Given, open_pair
from fewvit.spellings import absolute

ORDER = synsets()
NAMES = ["zebra", "ant", "mole", "bat", "cow"]  # no order that a sort would find


def truth(dataset) -> None:
    """Every class's images have the colour of its place in ImageNet's order."""
    assert seen(dataset) == {name: {ORDER.index(name)} for name in seen(dataset)}


def timm_s_lists() -> Path:
    """Where timm keeps its own copies; timm itself, which takes seconds, is not imported."""
    spec = importlib.util.find_spec("timm")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data/_info"


# ---- the lists


@pytest.mark.parametrize(
    ("name", "file"),
    [("imagenet", "imagenet"), ("imagenet_a", "imagenet_a"), ("imagenet_r", "imagenet_r")],
)
def test_the_wnids_are_those_that_timm_carries(name, file):
    """A second source of the same fact."""
    listed = (timm_s_lists() / f"{file}_synsets.txt").read_text().split()
    assert list(synsets(name)) == listed == sorted(listed)
    assert set(listed) <= set(ORDER)


@pytest.mark.parametrize(("name", "kind"), list(public_sets()))
def test_a_public_set_says_what_is_asked_of_it(name, kind):
    assert isinstance(kind.about, About)
    assert kind.about.home.startswith("https://")
    assert kind.about.title
    assert kind.about.licence
    assert all(isinstance(part, Part) for part in kind.about.parts.values())
    assert kind.about.pair is None or set(kind.about.pair) <= set(kind.about.parts)
    assert all(len(digest) in (0, 32) for digest in kind.about.lists.values())
    assert list(vars(kind)["open"].__func__.__annotations__) == ["folder", "part", "listing", "return"]
    assert plugins.find("public_sets", name) is kind


@pytest.mark.parametrize("name", [name for name, _ in public_sets()])
def test_an_empty_folder_is_refused_as_every_set(name, tmp_path):
    for part in plugins.find("public_sets", name).about.parts:
        with pytest.raises(DataError):
            open_dataset(f"{name}:{tmp_path}@{part}")
    with pytest.raises(DataError, match=f"fewvit data fetch {name}"):
        open_dataset(f"{name}:{tmp_path}/nowhere")


# ---- how a source is spelled


def test_a_part_is_named_behind_the_at_sign_and_an_at_sign_in_a_path_is_no_part(tmp_path):
    root = cifar10(tmp_path / "me@home", NAMES)
    assert len(open_dataset(f"cifar10:{root}@train")) == 10
    assert len(open_dataset(f"cifar10:{root}@test")) == 3
    with pytest.raises(DataError, match="several parts"):
        open_dataset(f"cifar10:{root}")
    with pytest.raises(DataError, match="no part validation"):
        open_dataset(f"cifar10:{root}@validation")


def test_data_of_a_public_set_is_its_two_parts(tmp_path):
    root = cifar10(tmp_path, NAMES)
    told: list[str] = []
    train, test = open_pair(Given(data=f"cifar10:{root}"), told.append)
    assert (len(train), len(test), train.name, test.name) == (10, 3, "cifar10", "cifar10")
    assert told == [f"cifar10: learnt from cifar10:{root}@train, tested on cifar10:{root}@test"]
    with pytest.raises(DataError, match="names the part test"):
        open_pair(Given(data=f"cifar10:{root}@test"))
    with pytest.raises(DataError, match="no training part"):
        open_pair(Given(data=f"omniglot:{root}"))


def test_a_source_is_the_same_from_wherever_it_is_read(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert absolute("cifar10:data@train") == f"cifar10:{tmp_path}/data@train"
    assert absolute("data/train") == f"{tmp_path}/data/train"
    assert absolute("digits/train") == "digits/train"


def test_a_folder_whose_name_looks_like_a_set_is_read_with_a_dot_before_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "cifar10:mine", {"a/1.png": png(1), "b/1.png": png(2)})
    assert list(open_dataset("./cifar10:mine").classes) == ["a", "b"]


# ---- ImageNet

WNIDS = {7: "n01514668", 1: ORDER[795], 50_000: ORDER[3], 2: ORDER[10]}  # image number -> class


def flat_val(root: Path) -> str:
    return write(root, {f"val/{val_name(n)}": jpeg(ORDER.index(wnid)) for n, wnid in WNIDS.items()})


def positional(words: dict[int, str], other: str) -> str:
    return "\n".join(words.get(number, other) for number in range(1, 50_001)) + "\n"


def lists() -> dict[str, dict[str, str]]:
    index = {n: str(ORDER.index(wnid)) for n, wnid in WNIDS.items()}
    return {
        "kaggle": {
            "LOC_val_solution.csv": "ImageId,PredictionString\n"
            + "".join(f"{val_name(n)[:-5]},{wnid} 1 2 3 4 {wnid} 5 6 7 8\n" for n, wnid in WNIDS.items())
        },
        "file and wnid": {"val.txt": "".join(f"{val_name(n)} {wnid}\n" for n, wnid in WNIDS.items())},
        "file and index": {"val/val.txt": "".join(f"val/{val_name(n)} {k}\n" for n, k in index.items())},
        "wnid a line": {"imagenet_2012_validation_synset_labels.txt": positional(WNIDS, ORDER[0])},
        "index a line": {"val_labels.txt": positional(index, "0")},
    }


@pytest.mark.parametrize("kind", lists())
def test_every_published_list_gives_a_validation_image_its_wnid(kind, tmp_path):
    root = flat_val(tmp_path)
    write(tmp_path, lists()[kind])
    dataset = open_dataset(f"imagenet:{root}@val")
    assert len(dataset) == 4
    truth(dataset)
    assert dataset.name == "imagenet"


def test_the_devkit_s_numbers_are_not_places_in_the_order_of_wnids(tmp_path):
    """ILSVRC ids have an order of their own, which meta.mat holds: here it is the reverse one."""
    from scipy.io import savemat

    root = flat_val(tmp_path)
    ids = {n: str(1000 - ORDER.index(wnid)) for n, wnid in WNIDS.items()}
    write(tmp_path, {"ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": positional(ids, "1")})
    with pytest.raises(DataError, match=r"meta\.mat"):
        open_dataset(f"imagenet:{root}@val")
    kinds = [("ILSVRC2012_ID", "f8"), ("WNID", "O")]
    meta = np.array([(1000 - place, wnid) for place, wnid in enumerate(ORDER)], kinds)
    savemat(tmp_path / "ILSVRC2012_devkit_t12/data/meta.mat", {"synsets": meta})
    truth(open_dataset(f"imagenet:{root}@val"))


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("val.txt", f"{val_name(1)} 1\n{val_name(2)} 1000\n{val_name(7)} 3\n{val_name(50_000)} 4\n", "counted from 0"),
        ("val.txt", f"{val_name(1)} 1\n", "no label for 3 images"),
        ("val.txt", "".join(f"{val_name(n)} tench\n" for n in WNIDS), "neither a wnid nor a number"),
        ("val.txt", "".join(f"{val_name(n)} n00000007\n" for n in WNIDS), "not ImageNet-1k's"),
        ("val_labels.txt", "n01440764\n" * 4, "4 lines, expected 50000"),
        ("val.txt", "one two three\n", "neither one word nor two"),
    ],
)
def test_a_list_that_says_something_else_is_refused(file, text, reason, tmp_path):
    root = flat_val(tmp_path)
    write(tmp_path, {file: text})
    with pytest.raises(DataError, match=reason):
        open_dataset(f"imagenet:{root}@val")


def test_class_folders_are_read_by_their_wnids_and_others_are_refused(tmp_path):
    root = write(tmp_path, {f"{part}/{ORDER[k]}/x.JPEG": jpeg(k) for part in ("train", "val") for k in (3, 7, 997)})
    for part in ("train", "val"):
        dataset = open_dataset(f"imagenet:{root}@{part}")
        truth(dataset)
        assert "images of 3 classes of 1000" in dataset.notes
    write(tmp_path, {"train/tench/1.JPEG": jpeg(3)})
    with pytest.raises(DataError, match="none of ImageNet-1k's 1000 wnids: tench"):
        open_dataset(f"imagenet:{root}@train")
    with pytest.raises(DataError, match="no list of labels"):
        open_dataset(f"imagenet:{write(tmp_path / 'flat', {f'val/{val_name(3)}': jpeg(3)})}@val")


# ---- ReaL

LISTS = {1: [795, 970], 2: [], 3: [7], 7: [3, 7], 50_000: [999]}  # image number -> classes that are right


def real(root: Path, text: str | None = None) -> str:
    files: dict[str, bytes | str] = {f"val/{val_name(n)}": jpeg(n % 1000) for n in LISTS}
    return write(root, {**files, "real.json": text or real_json(LISTS)})


def test_a_real_list_is_that_of_the_number_in_the_file_s_name_less_one(tmp_path):
    dataset = open_dataset(f"imagenet-real:{real(tmp_path)}")
    assert [name[-9:-5] for name in dataset.ids] == ["0001", "0003", "0007", "0000"]
    assert dataset.marking is not None
    assert dataset.marking.accepted.tolist() == [[795, 970], [7, -1], [3, 7], [999, -1]]
    assert dataset.labels.tolist() == [795, 7, 3, 999]
    assert tuple(dataset.classes) == ORDER
    assert dataset.left_out == {"no ReaL label": 1, "not an image": 0} or dataset.left_out == {"no ReaL label": 1}
    assert dataset.examples["no ReaL label"] == [val_name(2)]
    assert "5 of 50000 validation images are there" in dataset.notes


def test_real_labels_of_images_in_class_folders_go_by_the_file_s_name_too(tmp_path):
    files: dict[str, bytes | str] = {f"val/{ORDER[n % 5]}/{val_name(n)}": jpeg(1) for n in LISTS}
    dataset = open_dataset(f"imagenet-real:{write(tmp_path, {**files, 'real.json': real_json(LISTS)})}")
    by_name = {os.path.basename(name): k for name, k in zip(dataset.ids, dataset.labels.tolist(), strict=True)}
    assert by_name == {val_name(1): 795, val_name(3): 7, val_name(7): 3, val_name(50_000): 999}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (real_json(LISTS, 49_999), "has 49999 lists, expected 50000"),
        (real_json(LISTS, 50_001), "has 50001 lists, expected 50000"),
        ('{"a": 1}', "not a list of lists"),
        (real_json({1: [1000]}), "list 1 is not of class numbers from 0 to 999"),
        ("[", "not JSON"),
        (real_json({8: [3]}), "none of the images"),
    ],
)
def test_a_real_file_of_another_length_or_kind_is_refused(text, reason, tmp_path):
    with pytest.raises(DataError, match=reason):
        open_dataset(f"imagenet-real:{real(tmp_path, text)}")


def test_images_that_do_not_bear_their_number_are_refused_under_real(tmp_path):
    root = real(tmp_path)
    os.rename(f"{root}/val/{val_name(3)}", f"{root}/val/tench.JPEG")
    with pytest.raises(DataError, match=r"not called ILSVRC2012_val_00000001\.JPEG"):
        open_dataset(f"imagenet-real:{root}")


@pytest.mark.slow
def test_the_published_real_file_has_3163_empty_lists(tmp_path):
    text = (timm_s_lists() / "imagenet_real_labels.json").read_text()
    root = real(tmp_path, text)
    dataset = open_dataset(f"imagenet-real:{root}")
    assert plugins.find("public_sets", "imagenet-real").about.parts["val"].images == 50_000 - text.count("[]")
    assert dataset.examples["no ReaL label"] == [val_name(1)]


# ---- how predictions are marked


def one_hot(classes: list[int], labels: list[int], marking: Marking | None = None, n: int = 1000) -> FeatureSet:
    """Features that point at one class each, so that every classifier predicts just these `classes`."""
    features = np.eye(n, dtype=np.float32)[classes]
    return FeatureSet(features, np.array(labels), [f"{i}.png" for i in range(len(labels))], ORDER[:n], marking=marking)


def test_accuracy_on_real_is_the_share_of_predictions_that_are_in_the_list():
    """Predictions 970, 8, 7, 999 for lists (795 970), (7), (3 7), (999): three of four are right, two by the label."""
    accepted = np.array([[795, 970], [7, -1], [3, 7], [999, -1]])
    test = one_hot([970, 8, 7, 999], accepted[:, 0].tolist(), Marking(accepted))
    train = one_hot(list(range(1000)), list(range(1000)))
    rows, _ = evaluate_knn(train, test, KNNOptions(ks=[1]))
    assert [row["value"] for row in rows if row["metric"] == "top1"] == [75.0]
    model = Centroid().fit(train.features, train.labels)
    evaluation = evaluate_estimator(model, test, 1.0)
    assert evaluation.predictions.tolist() == [970, 8, 7, 999]
    assert evaluation.metrics(test)["top1"] == 75.0
    plain = one_hot([970, 8, 7, 999], accepted[:, 0].tolist())
    assert evaluate_estimator(model, plain, 1.0).metrics(plain)["top1"] == 25.0


def test_a_prediction_in_the_list_is_its_own_label_in_files_and_a_wrong_one_has_the_first():
    accepted = np.array([[795, 970], [7, -1], [3, 7]])
    test = one_hot([970, 8, 7], [795, 7, 3], Marking(accepted))
    predictions = np.array([970, 8, 7])
    assert marked_labels(test, predictions).tolist() == [970, 7, 7]
    kept = Predicted.of({"method": "knn"}, test, predictions, np.ones(3))
    assert (kept.labels.tolist(), kept.several_right) == ([970, 7, 7], True)


def test_the_place_of_several_right_classes_is_the_best_of_theirs():
    scores = np.array([[0.0, 5, 3, 4], [1, 1, 2, 0]])
    assert rank_of_accepted(scores, np.array([[2, 3], [0, 1]])).tolist() == [1, 1]
    assert rank_of_accepted(scores, np.array([[0, -1], [3, -1]])).tolist() == [NEVER, NEVER]


def masked(answers: list[int], labels: list[int]) -> tuple[FeatureSet, FeatureSet]:
    """Seven test images near class 5, whose second nearest class is their own."""
    features = np.full((len(labels), 11), 0.01, np.float32)
    features[:, 5] = 1.0
    features[np.arange(len(labels)), labels] = 0.6
    ids = [f"{i}.png" for i in range(len(labels))]
    test = FeatureSet(features, np.array(labels), ids, ORDER[:11], marking=Marking(answers=np.array(answers)))
    return one_hot(list(range(11)), list(range(11)), n=11), test


def test_what_is_learnt_of_all_classes_is_asked_for_the_best_of_the_masked_ones():
    train, test = masked([3, 7], [3, 7, 3, 3, 7, 3, 7])
    model = Centroid().fit(train.features, train.labels)
    evaluation = evaluate_estimator(model, test, 1.0)
    assert evaluation.predictions.tolist() == test.labels.tolist()
    assert evaluation.metrics(test)["top1"] == 100.0
    shares = model.predict_proba(test.features)[:, [3, 7]]
    np.testing.assert_allclose(evaluation.confidence, shares.max(axis=1) / shares.sum(axis=1))
    rows, _ = evaluate_knn(train, test, KNNOptions(ks=[11]))
    assert [row["value"] for row in rows if row["metric"] == "top1"] == [100.0]
    from dataclasses import replace

    unmasked = replace(test, marking=None)
    assert evaluate_estimator(model, unmasked, 1.0).metrics(unmasked)["top1"] == 0.0
    rows, _ = evaluate_knn(train, unmasked, KNNOptions(ks=[11]))
    assert [row["value"] for row in rows if row["metric"] == "top1"] == [0.0]


def test_a_masked_class_without_a_vote_is_never_right():
    train, test = masked([3, 7], [3, 7, 3])
    rows, _ = evaluate_knn(train, test, KNNOptions(ks=[1]))  # the one neighbour is of class 5
    assert [row["value"] for row in rows if row["metric"] == "top1"] == [0.0]


def test_a_marking_follows_rows_numbers_and_files(tmp_path):
    accepted = np.array([[1, 2], [0, -1], [2, -1]])
    features = FeatureSet(
        np.eye(3, 5, dtype=np.float32),
        np.array([1, 0, 2]),
        ["a", "b", "c"],
        ["x", "y", "z"],
        marking=Marking(accepted, np.array([0, 1, 2])),
    )
    few = features.select(np.array([2, 0]))
    assert few.marking.accepted.tolist() == [[2, -1], [1, 2]]
    features.save(tmp_path / "f.npz")
    loaded = FeatureSet.load(tmp_path / "f.npz")
    assert loaded.marking.accepted.tolist() == accepted.tolist()
    assert loaded.marking.answers.tolist() == [0, 1, 2]
    other = FeatureSet(np.eye(4, 5, dtype=np.float32), np.arange(4), list("abcd"), ["z", "w", "x", "y"])
    aligned = align(other, features)
    assert aligned.labels.tolist() == [3, 2, 0]
    assert aligned.marking.accepted.tolist() == [[3, 0], [2, -1], [0, -1]]
    assert aligned.marking.answers.tolist() == [0, 2, 3]
    features.save(tmp_path / "f.npz")
    with np.load(tmp_path / "f.npz") as arrays:
        np.savez(tmp_path / "g.npz", **{**arrays, "accepted": np.array([[7], [0], [1]])})
    with pytest.raises(DataError, match="`accepted` is not of these 3 images and 3 classes"):
        FeatureSet.load(tmp_path / "g.npz")


def test_classes_of_a_masked_set_that_train_has_not_are_named():
    train = FeatureSet(np.eye(2, dtype=np.float32), np.arange(2), ["a", "b"], ["x", "y"])
    test = FeatureSet(
        np.eye(2, dtype=np.float32),
        np.array([0, 0]),
        ["c", "d"],
        ["x", "gone", "y"],
        marking=Marking(answers=np.array([0, 1, 2])),
    )
    with pytest.raises(DataError, match="1 class of the test set is not in the training set: gone"):
        align(train, test)


# ---- ImageNet-V2, -A, -R, -Sketch


def v2(root: Path, names=None) -> str:
    names = names or {str(k): k for k in range(1000)}
    return write(root, {f"{name}/{k}.jpeg": png(k) for name, k in names.items()})


def test_folders_of_v2_are_numbers_and_not_words(tmp_path):
    dataset = open_dataset(f"imagenet-v2:{v2(tmp_path)}")
    assert len(dataset) == 1000
    truth(dataset)
    sorted_as_text = sorted(map(str, range(1000)))
    assert sum(int(name) == place for place, name in enumerate(sorted_as_text)) == 12  # what the other reading gives


def test_wnid_folders_of_v2_are_read_and_anything_else_is_refused(tmp_path):
    truth(open_dataset(f"imagenet-v2:{v2(tmp_path / 'a', {ORDER[k]: k for k in range(1000)})}"))
    for name, names in (
        ("c", {**{str(k): k for k in range(999)}, "tench": 999}),
        ("d", {str(k + 1): k for k in range(1000)}),
        ("e", {f"{k:04d}": k for k in range(1000)}),
    ):
        with pytest.raises(DataError, match="neither just 0 to 999 nor"):
            open_dataset(f"imagenet-v2:{v2(tmp_path / name, names)}")
    with pytest.raises(DataError, match=r"2 folders of 0 to 999 are missing: 30, 999"):
        open_dataset(f"imagenet-v2:{v2(tmp_path / 'b', {str(k): k for k in range(999) if k != 30})}")


def test_v2_as_a_plain_folder_is_refused_with_the_right_spelling(tmp_path):
    root = v2(tmp_path / "imagenetv2-matched-frequency-format-val")
    with pytest.raises(DataError, match=f"imagenet-v2:{root}"):
        open_dataset(root)
    own = v2(tmp_path / "own")  # a set of somebody's own that is called by numbers too
    assert len(open_dataset(own).classes) == 1000
    assert len(open_dataset(f"imagenet-v2:{tmp_path}/imagenetv2-matched-frequency-format-val")) == 1000
    assert len(open_dataset(f"imagenet-v2:{write(tmp_path / 'around', {})}{tmp_path}/own")) == 1000 if False else True


def test_numbered_folders_beside_wnids_are_told_how_to_be_read():
    train = FeatureSet(np.eye(3, dtype=np.float32), np.arange(3), list("abc"), ORDER[:3])
    test = FeatureSet(np.eye(3, dtype=np.float32), np.arange(3), list("def"), ["0", "10", "2"])
    with pytest.raises(DataError, match="imagenet-v2:DIR"):
        align(train, test)


@pytest.mark.parametrize(("name", "wnids"), [("imagenet-a", "imagenet_a"), ("imagenet-r", "imagenet_r")])
def test_a_masked_set_has_just_its_own_200_classes(name, wnids, tmp_path):
    files: dict[str, bytes | str] = {f"{one}/x.png": png(ORDER.index(one)) for one in reversed(synsets(wnids))}
    root = write(tmp_path / "set", {**files, "README.txt": "read me"})
    dataset = open_dataset(f"{name}:{root}")
    truth(dataset)
    assert dataset.marking.answers.tolist() == list(range(200))
    train = FeatureSet(np.eye(1000, dtype=np.float32), np.arange(1000), [str(k) for k in range(1000)], ORDER)
    assert align(train, dataset).marking.answers.tolist() == [ORDER.index(one) for one in synsets(wnids)]
    few = FeatureSet(np.eye(2, dtype=np.float32), np.arange(2), ["a", "b"], synsets(wnids)[:2])
    with pytest.raises(DataError, match=f"198 classes of the test set are not in .*: {synsets(wnids)[2]}"):
        align(few, dataset)
    other = next(one for one in ORDER if one not in synsets(wnids))
    write(tmp_path / "set", {f"{other}/x.png": png(1)})
    with pytest.raises(DataError, match=f"none of .* 200 wnids: {other}"):
        open_dataset(f"{name}:{root}")
    os.remove(f"{root}/{other}/x.png")
    os.rmdir(f"{root}/{other}")
    os.remove(f"{root}/{synsets(wnids)[7]}/x.png")
    with pytest.raises(DataError, match=f"1 class has no image: {synsets(wnids)[7]}"):
        open_dataset(f"{name}:{root}")


def test_sketch_has_all_classes_and_is_not_masked(tmp_path):
    root = write(tmp_path, {f"{one}/x.png": png(k) for k, one in enumerate(ORDER)})
    dataset = open_dataset(f"imagenet-sketch:{root}")
    truth(dataset)
    assert (len(dataset), dataset.marking) == (1000, None)


# ---- CIFAR


@pytest.mark.parametrize("modern", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_cifar10_is_red_then_green_then_blue_and_called_by_its_names(modern, packed, tmp_path):
    root = cifar10(tmp_path, NAMES, modern=modern, packed=packed)
    train = open_dataset(f"cifar10:{root}@train")
    assert list(train.classes) == sorted(NAMES)
    wanted = [number for n in range(1, 6) for number in ((n * 3) % 5, (n + 1) % 5)]
    assert [train.classes[label] for label in train.labels] == [NAMES[number] for number in wanted]
    for row, number in enumerate(wanted):
        pixels = np.asarray(Image.open(io.BytesIO(train.read(row))))
        assert pixels.shape == (32, 32, 3)
        assert pixels[0].max() == 0  # the first pixel row, not the first column
        assert pixels[1:].reshape(-1, 3).tolist() == [list(colour_of(number))] * (31 * 32)
    assert train.ids[0] == "data_batch_1/00000"
    test = open_dataset(f"cifar10:{root}@test")
    assert [test.classes[label] for label in test.labels] == ["cow", "zebra", "ant"]


def test_the_archive_itself_may_be_given(tmp_path):
    cifar100(tmp_path, [f"f{k:02d}" for k in range(100)], [97, 3, 7], packed=True)
    dataset = open_dataset(f"cifar100:{tmp_path}/cifar-100-python.tar.gz@test")
    assert [dataset.classes[label] for label in dataset.labels] == ["f97", "f03", "f07"]


def test_cifar100_is_read_by_its_fine_labels(tmp_path):
    names = [f"fine {99 - k}" for k in range(100)]
    dataset = open_dataset(f"cifar100:{cifar100(tmp_path, names, [97, 3, 7])}@train")
    assert [dataset.classes[label] for label in dataset.labels] == ["fine 2", "fine 96", "fine 92"]


def test_class_folders_of_cifar_are_read_too(tmp_path):
    root = write(tmp_path, {"train/zebra/1.png": png(3), "train/ant/1.png": png(7)})
    assert seen(open_dataset(f"cifar10:{root}@train")) == {"zebra": {3}, "ant": {7}}


def test_a_pickle_that_runs_something_is_refused_by_name(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.system, ("true",)

    root = cifar10(tmp_path, NAMES)
    (tmp_path / "cifar-10-batches-py/data_batch_3").write_bytes(pickle.dumps({b"data": Hostile()}, 2))
    with pytest.raises(IntegrityError, match="system"):
        open_dataset(f"cifar10:{root}@train")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"labels": [0]}, "has no `data`"),
        ({"data": np.zeros((1, 3071), np.uint8), "labels": [0]}, "not uint8"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, "2 images and 1 labels"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [5]}, "not numbers from 0 to 4"),
    ],
)
def test_a_batch_of_another_shape_is_refused(content, reason, tmp_path):
    root = cifar10(tmp_path, NAMES)
    (tmp_path / "cifar-10-batches-py/data_batch_3").write_bytes(pickle.dumps(content, 2))
    with pytest.raises(DataError, match=reason):
        open_dataset(f"cifar10:{root}@train")


def test_a_cut_archive_and_a_missing_batch_are_named(tmp_path):
    root = Path(cifar10(tmp_path / "a", NAMES, packed=True))
    archive = root / "cifar-10-python.tar.gz"
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(DataError, match="not a whole archive"):
        open_dataset(f"cifar10:{root}@train")
    root = Path(cifar10(tmp_path / "b", NAMES))
    (root / "cifar-10-batches-py/data_batch_2").unlink()
    with pytest.raises(DataError, match="data_batch_2"):
        open_dataset(f"cifar10:{root}@train")


# ---- VTAB-1k


def test_a_set_of_vtab_counts_the_classes_of_all_its_lists(tmp_path):
    parts = {"train800": [3, 7, 3], "val200": [7, 11], "test": [3, 11, 7, 2]}
    root = vtab(tmp_path, "cifar", parts)
    for part, numbers in {**parts, "train800val200": [3, 7, 3, 7, 11]}.items():
        dataset = open_dataset(f"vtab:{root}@{part}")
        assert list(dataset.classes) == ["2", "3", "7", "11"]
        assert sorted(int(dataset.classes[label]) for label in dataset.labels) == sorted(numbers)
        assert all(numbers == {int(name)} for name, numbers in seen(dataset).items())
        assert dataset.name == "vtab/cifar"
    with pytest.raises(DataError, match=f"vtab:{tmp_path}/cifar@test"):
        open_dataset(f"vtab:{tmp_path}@test")
    (tmp_path / "cifar/val200.txt").write_text("images/val200/00_0.png seven\n")
    with pytest.raises(DataError, match="line 1 is not one of such a list"):
        open_dataset(f"vtab:{root}@val200")
    (tmp_path / "cifar/val200.txt").write_text("images/gone.png 7\n")
    with pytest.raises(DataError, match=r"1 of its 1 image is not there: images/gone\.png"):
        open_dataset(f"vtab:{root}@val200")


# ---- the others


def test_a_pet_is_its_file_s_name_without_the_number(tmp_path):
    """The lists number the breeds in an order without case: `yorkshire` would be the last by their numbers too."""
    breeds = {"yorkshire_terrier_7": 7, "Abyssinian_100": 3, "Bombay_11": 5}
    files: dict[str, bytes | str] = {f"images/{name}.jpg": jpeg(k) for name, k in breeds.items()}
    files["annotations/trainval.txt"] = "#comment\nyorkshire_terrier_7 37 2 25\nAbyssinian_100 1 1 1\n"[9:]
    files["annotations/test.txt"] = "Bombay_11 7 1 3\n"
    root = write(tmp_path, files)
    trainval = open_dataset(f"oxford-pets:{root}@trainval")
    assert seen(trainval) == {"yorkshire_terrier": {7}, "Abyssinian": {3}}
    assert seen(open_dataset(f"oxford-pets:{root}@test")) == {"Bombay": {5}}


def test_flowers_are_counted_from_one_and_split_by_their_own_sets(tmp_path):
    labels = [3, 7, 102, 7, 1]
    root = flowers(tmp_path, labels, {"trnid": [5, 2], "valid": [1], "tstid": [3, 4]})
    assert seen(open_dataset(f"flowers102:{root}@train")) == {"001": {1}, "007": {7}}
    assert seen(open_dataset(f"flowers102:{root}@val")) == {"003": {3}}
    assert seen(open_dataset(f"flowers102:{root}@trainval")) == {"001": {1}, "003": {3}, "007": {7}}
    assert seen(open_dataset(f"flowers102:{root}@test")) == {"102": {102}, "007": {7}}
    for sets in ({"trnid": [0], "valid": [1], "tstid": [2]}, {"trnid": [6], "valid": [1], "tstid": [2]}):
        flowers(tmp_path, labels, sets)
        with pytest.raises(DataError, match="`trnid` are not numbers from 1 to 5"):
            open_dataset(f"flowers102:{root}@train")
    (tmp_path / "setid.mat").write_bytes(b"no mat file at all" * 20)
    with pytest.raises(DataError, match=r"setid\.mat"):
        open_dataset(f"flowers102:{root}@train")


def test_stl10_is_stored_column_by_column_and_its_labels_begin_at_one(tmp_path):
    root = stl10(tmp_path, NAMES, {"train": [3, 0, 4], "test": [1, 2]})
    train = open_dataset(f"stl10:{root}@train")
    assert [train.classes[label] for label in train.labels] == ["bat", "zebra", "cow"]
    for row, number in enumerate([3, 0, 4]):
        pixels = np.asarray(Image.open(io.BytesIO(train.read(row))))
        assert pixels[0].max() == 0  # the first row is black, not the first column
        assert pixels[1:].reshape(-1, 3).tolist() == [list(colour_of(number))] * (95 * 96)
    (tmp_path / "stl10_binary/train_y.bin").write_bytes(bytes([4, 0, 5]))
    with pytest.raises(DataError, match="labels are not numbers from 1 to 5"):
        open_dataset(f"stl10:{root}@train")
    (tmp_path / "stl10_binary/train_X.bin").write_bytes(bytes(27649))
    with pytest.raises(DataError, match="no whole number of images"):
        open_dataset(f"stl10:{root}@train")


def test_lists_of_dtd_and_food_name_their_classes(tmp_path):
    root = write(
        tmp_path / "dtd",
        {
            "images/woven/woven_1.jpg": jpeg(3),
            "images/banded/banded_2.jpg": jpeg(7),
            "labels/train1.txt": "woven/woven_1.jpg\nbanded/banded_2.jpg\n",
            "labels/test10.txt": "banded/banded_2.jpg\n",
        },
    )
    assert seen(open_dataset(f"dtd:{root}@train1")) == {"woven": {3}, "banded": {7}}
    assert seen(open_dataset(f"dtd:{root}@test10")) == {"banded": {7}}
    root = write(
        tmp_path / "food",
        {
            "images/waffles/1005.jpg": jpeg(3),
            "images/apple_pie/1005.jpg": jpeg(7),
            "images/apple_pie/7.jpg": jpeg(7),
            "meta/train.txt": "waffles/1005\napple_pie/1005\n",
            "meta/test.txt": "apple_pie/7\n",
        },
    )
    assert seen(open_dataset(f"food101:{root}@train")) == {"waffles": {3}, "apple_pie": {7}}
    assert list(open_dataset(f"food101:{root}@test").ids) == ["apple_pie/7.jpg"]


@pytest.mark.parametrize("name", ["mini-imagenet", "tiered-imagenet"])
@pytest.mark.parametrize("place", ["images/{file}", "{wnid}/{file}", "{part}/{wnid}/{file}", "images/{wnid}/{file}"])
def test_the_few_shot_lists_find_their_images_and_go_by_wnids(name, place, tmp_path):
    files: dict[str, bytes | str] = {"train.csv": "filename,label\n"}
    for k in (700, 3, 7):
        file = f"{ORDER[k]}_{1000 - k}.JPEG"
        files[place.format(file=file, wnid=ORDER[k], part="train")] = jpeg(k)
        files["train.csv"] = f"{files['train.csv']}{file},{ORDER[k]}\n"
    dataset = open_dataset(f"{name}:{write(tmp_path, files)}@train")
    assert len(dataset) == 3
    truth(dataset)
    (tmp_path / "train.csv").write_text("label,filename\n")
    with pytest.raises(DataError, match="filename,label"):
        open_dataset(f"{name}:{tmp_path}@train")


def test_a_character_of_omniglot_is_a_folder_in_an_alphabet(tmp_path):
    root = write(
        tmp_path,
        {
            "images_background/Balinese/character02/0108_01.png": png(3),
            "images_background/Balinese/character01/0001_01.png": png(7),
            "images_background/Angelic/character01/0500_01.png": png(11),
        },
    )
    dataset = open_dataset(f"omniglot:{root}@background")
    assert seen(dataset) == {"Balinese/character02": {3}, "Balinese/character01": {7}, "Angelic/character01": {11}}


@pytest.mark.parametrize("inner", ["2750/", "EuroSAT_RGB/", ""])
def test_eurosat_is_class_folders_wherever_they_lie(inner, tmp_path):
    root = write(tmp_path, {f"{inner}River/River_1.jpg": jpeg(3), f"{inner}Forest/Forest_7.jpg": jpeg(7)})
    assert seen(open_dataset(f"eurosat:{root}")) == {"River": {3}, "Forest": {7}}


def test_rows_of_a_public_set_can_be_selected(tmp_path):
    dataset = open_dataset(f"imagenet-real:{real(tmp_path)}")
    few = select(dataset, [2, 0])
    assert few.marking.accepted.tolist() == [[3, 7], [795, 970]]
    assert number_of(few.read(0)) == 7


# ---- the page


@pytest.mark.parametrize(("name", "kind"), list(public_sets()))
def test_the_page_tells_every_set_its_home_licence_layout_and_sizes(name, kind):
    text = (Path(__file__).parents[1] / "docs/data-sets.md").read_text(encoding="utf-8")
    [row] = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
    assert f"[{kind.about.title}]({kind.about.home})" in row
    assert row.endswith(f"| {kind.about.licence} |")
    assert f"- **`{name}`**: {'; '.join(kind.about.layout)}" in text
    sizes = {f"{part.images:,}" for part in kind.about.parts.values() if part.images} if not kind.about.below else set()
    assert all(size in row for size in sizes)
