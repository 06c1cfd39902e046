"""Episodes: what is drawn, what is measured, and Omniglot's runs."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from fewvit.classifiers.centroid import Centroid
from fewvit.errors import DataError, NumericalError, UsageError
from fewvit.evaluate import episodes as module
from fewvit.evaluate.episode_draws import Episodes, draw_episodes, read_classes, read_runs, require_runs
from fewvit.evaluate.episodes import EpisodeOptions, accuracies, evaluate_episodes
from fewvit.features import FeatureSet
from fewvit.metrics import mean_and_interval

COUNTS = {2: 11, 3: 29, 5: 13, 7: 17, 8: 11}  # label -> images; other labels have none


def clustered(seed: int = 0, noise: float = 1.3, width: int = 7, counts=COUNTS) -> FeatureSet:
    """Unbalanced classes in mixed order, some class numbers without an image."""
    stream = np.random.default_rng(seed)
    labels = stream.permutation(np.repeat(list(counts), list(counts.values())))
    rows = (stream.standard_normal((11, width))[labels] + noise * stream.standard_normal((len(labels), width))).astype(
        np.float32
    )
    return FeatureSet(
        rows, labels, [f"image {i}" for i in range(len(labels))], [f"class {c}" for c in range(11)], name="made"
    )


def members(features: FeatureSet) -> list[np.ndarray]:
    return [np.flatnonzero(features.labels == c) for c in np.unique(features.labels)]


# ---- drawing


def test_an_episode_has_its_classes_once_its_images_once_and_labels_that_fit():
    features = clustered()
    drawn = draw_episodes(members(features), 3, 2, 5, 31, seed=1)
    assert drawn.shape == {"ways": 3, "shots": 2, "queries": 5}
    for e in range(31):
        rows = np.concatenate([drawn.support[e], drawn.queries[e]])
        own = np.concatenate([drawn.support_labels[e], drawn.query_labels[e]])
        assert len(set(rows)) == len(rows)
        named = {(label, features.labels[row]) for row, label in zip(rows, own, strict=True)}
        assert len(named) == len({a for a, _ in named}) == len({b for _, b in named}) == 3
        assert np.bincount(drawn.support_labels[e]).tolist() == [2] * 3
        assert np.bincount(drawn.query_labels[e]).tolist() == [5] * 3


def test_an_episode_depends_on_its_number_and_the_seed_alone():
    own = members(clustered())
    few, many, other = (draw_episodes(own, 3, 2, 5, n, seed) for n, seed in ((3, 1), (31, 1), (31, 2)))
    np.testing.assert_array_equal(few.support, many.support[:3])
    np.testing.assert_array_equal(few.queries, many.queries[:3])
    assert len(np.unique(many.queries, axis=0)) == 31
    assert not (many.queries == other.queries).all(axis=1).any()


def test_more_shots_keep_the_queries_and_begin_with_the_fewer():
    own = members(clustered())
    one, five = (draw_episodes(own, 3, shots, 5, 13, seed=1) for shots in (1, 5))
    np.testing.assert_array_equal(one.queries, five.queries)
    np.testing.assert_array_equal(one.support, five.support[:, ::5])


def test_every_class_and_every_image_is_drawn_about_equally_often():
    features = clustered()
    drawn = draw_episodes(members(features), 3, 2, 5, 3001, seed=1)
    classes = np.bincount(features.labels[drawn.support[:, ::2]].ravel(), minlength=11)[list(COUNTS)]
    np.testing.assert_allclose(classes / 3001, 3 / 5, atol=0.04)
    images = np.bincount(np.concatenate([drawn.support, drawn.queries], axis=1).ravel(), minlength=len(features))
    expected = 3001 * 3 / 5 * 7 / np.array([COUNTS[c] for c in features.labels])
    np.testing.assert_allclose(images / expected, 1, atol=0.25)


# ---- measuring


def test_the_mean_is_that_of_a_plain_loop_over_episodes():
    features = clustered()
    options = EpisodeOptions(
        ways=3, shots=(2,), queries=5, episodes=67, settings={"centroid": {"temperature": 0.5}}, seed=3
    )
    [row] = evaluate_episodes(features, options)
    drawn = draw_episodes(members(features), 3, 2, 5, 67, 3)
    scores = []
    for e in range(67):
        unit = features.features / np.linalg.norm(features.features, axis=1, keepdims=True)
        means = [unit[drawn.support[e][drawn.support_labels[e] == c]].mean(axis=0) for c in range(3)]
        right = 0
        for query, label in zip(drawn.queries[e], drawn.query_labels[e], strict=True):
            right += label == np.argmax([unit[query] @ m / np.linalg.norm(m) for m in means])
        scores.append(100 * right / 15)
    expected = mean_and_interval(scores)
    assert 40 < expected["mean"] < 95
    assert row["value"] == pytest.approx(expected["mean"])
    assert row["std"] == pytest.approx(expected["std"])
    assert row["ci95"] == pytest.approx(expected["ci95"])
    assert {k: row[k] for k in ("method", "ways", "shots", "queries", "metric", "trial", "episodes")} == {
        "method": "centroid",
        "ways": 3,
        "shots": 2,
        "queries": 5,
        "metric": "accuracy",
        "trial": "mean",
        "episodes": 67,
    }
    assert "transductive" not in row


@pytest.mark.parametrize(
    ("block_bytes", "sizes"),
    [(1, [1] * 23), (5 * 588, [5, 5, 5, 5, 3]), (6 * 588 - 1, [5, 5, 5, 5, 3]), (1 << 30, [23])],
)
def test_blocks_hold_the_episodes_that_fit_into_their_bytes_and_change_no_prediction(block_bytes, sizes, monkeypatch):
    """21 rows of seven values of four bytes make 588 bytes an episode."""
    features = clustered()
    drawn = draw_episodes(members(features), 3, 2, 5, 23, 3)

    class OneByOne:
        """The same classifier without its batched core."""

        def fit(self, X, y):
            self.inner = Centroid().fit(X, y)
            return self

        def predict(self, X):
            return self.inner.predict(X)

    alone = accuracies(features.features, drawn, OneByOne(), "alone")
    monkeypatch.setattr(module, "_BLOCK_BYTES", block_bytes)
    blocks, real = [], module._part
    monkeypatch.setattr(module, "_part", lambda *which: blocks.append(real(*which)) or blocks[-1])
    np.testing.assert_array_equal(accuracies(features.features, drawn, Centroid(), "centroid"), alone)
    assert [len(block) for block in blocks] == sizes


def test_rows_come_by_shots_then_classifier_and_say_which_are_transductive():
    settings = {"pt_map": {"steps": 3}, "centroid": {}, "knn": {"k": 1, "device": "cpu"}}
    options = EpisodeOptions(ways=3, shots=(1, 5, 1), queries=5, episodes=7, settings=settings)
    rows = evaluate_episodes(clustered(noise=0.1), options)
    assert [(r["shots"], r["method"], r.get("transductive")) for r in rows] == [
        (shots, *which) for shots in (1, 5) for which in (("pt_map", True), ("centroid", None), ("knn", None))
    ]
    assert all(row["value"] == 100 for row in rows)


def test_a_transductive_classifier_far_below_the_class_means_is_told_with_both_figures():
    stream, y = np.random.default_rng(0), np.repeat(np.arange(5), 40)
    rows = 0.6 * stream.normal(size=(5, 32))[y] + 0.7 * stream.normal(size=(200, 32)) + 20  # cosines all but agree
    far = FeatureSet(rows.astype(np.float32), y, [str(i) for i in range(200)], list("abcde"))
    told: list[str] = []
    settings = {"label_propagation": {}, "bd_cspn": {}, "centroid": {}}
    values = {
        row["method"]: row["value"]
        for row in evaluate_episodes(far, EpisodeOptions(ways=5, episodes=60, settings=settings), told.append)
    }
    assert values["centroid"] - values["label_propagation"] > 5 > values["centroid"] - values["bd_cspn"]
    (line,) = told
    assert line.startswith(f"label_propagation, 5-way 1-shot: {values['label_propagation']:.1f} % is ")
    assert f"(centroid, {values['centroid']:.1f} %)" in line


def test_one_episode_has_no_interval():
    [row] = evaluate_episodes(clustered(), EpisodeOptions(ways=3, queries=5, episodes=1))
    assert not {"std", "ci95"} & set(row)


def test_torch_s_threads_are_as_many_afterwards():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        evaluate_episodes(clustered(), EpisodeOptions(ways=3, queries=5, episodes=3))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


# ---- bad input


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"ways": 7}, DataError, "5 classes cannot make episodes of 7"),
        ({"shots": (7,)}, DataError, "2 of 5 classes have fewer than 7 [+] 5 images; the smallest, class 2, has 11"),
        ({"ways": 1}, UsageError, "--ways 1"),
        ({"shots": (0,)}, UsageError, "--shots"),
        ({"shots": ()}, UsageError, "--shots"),
        ({"queries": 0}, UsageError, "--queries 0"),
        ({"episodes": 0}, UsageError, "--episodes 0"),
        ({"settings": {"knn": {"k": 20}}}, UsageError, "knn: k = 20 .* n_samples = 3"),
        ({"settings": {"pt_map": {"beta": -1.0}}}, UsageError, "beta"),
    ],
)
def test_what_makes_no_episode_is_refused_with_its_numbers(changes, error, told):
    options = EpisodeOptions(**{"ways": 3, "queries": 5, "episodes": 7, **changes})
    with pytest.raises(error, match=told):
        evaluate_episodes(clustered(), options)


@pytest.mark.parametrize(
    ("counts", "advice"), [({3: 29, 7: 17}, "Ask for --ways 2."), ({7: 17}, "Give images of two classes at least.")]
)
def test_too_few_classes_are_told_how_many_ways_they_make_and_a_single_one_that_it_makes_none(counts, advice):
    with pytest.raises(DataError) as error:
        evaluate_episodes(clustered(counts=counts), EpisodeOptions(ways=3, queries=5, episodes=7))
    assert error.value.fix == advice


def test_just_enough_images_are_enough():
    [row] = evaluate_episodes(clustered(), EpisodeOptions(ways=5, shots=(6,), queries=5, episodes=2))
    assert row["shots"] == 6


def test_unlabelled_images_are_left_out_with_a_note_and_cannot_be_all():
    features = clustered()
    more = FeatureSet(
        np.concatenate([features.features, 100 + features.features[:13]]),
        np.concatenate([features.labels, np.full(13, -1)]),
        [*features.ids, *(f"new {i}" for i in range(13))],
        features.classes,
    )
    notes: list[str] = []
    options = EpisodeOptions(ways=3, queries=5, episodes=7)
    assert evaluate_episodes(more, options, notes.append) == evaluate_episodes(features, options)
    assert notes == ["13 unlabelled images are left out"]
    with pytest.raises(DataError, match="no labels"):
        evaluate_episodes(FeatureSet(more.features, np.full(len(more), -1), more.ids, more.classes), options)


def test_features_that_are_not_finite_are_refused_by_name():
    features = clustered()
    features.features[17, 3] = np.nan
    with pytest.raises(NumericalError, match="image 17"):
        evaluate_episodes(features, EpisodeOptions(ways=3, queries=5, episodes=7))


def test_probabilities_that_are_not_finite_are_an_error():
    class Broken:
        batched = True

        def probabilities(self, support, labels, queries, n_classes):
            return queries.new_full((len(queries), queries.shape[1], n_classes), float("nan"))

    features = clustered()
    with pytest.raises(NumericalError, match="broken"):
        accuracies(features.features, draw_episodes(members(features), 3, 1, 5, 3, 0), Broken(), "broken")


# ---- a list of classes


def test_classes_restrict_the_draw_whatever_their_order(tmp_path):
    features = clustered()
    names = tmp_path / "novel.txt"
    names.write_text("class 8\n\n  class 3 \nclass 7\n")
    options = EpisodeOptions(ways=3, queries=5, episodes=7, classes=str(names))
    kept = features.select(np.flatnonzero(np.isin(features.labels, [3, 7, 8])))
    [restricted], [alone] = (
        evaluate_episodes(features, options),
        evaluate_episodes(kept, EpisodeOptions(ways=3, queries=5, episodes=7)),
    )
    assert restricted == alone
    with pytest.raises(DataError, match="3 classes cannot make episodes of 5"):
        evaluate_episodes(features, EpisodeOptions(ways=5, queries=5, episodes=7, classes=str(names)))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"class 3\nzebra\n", "1 of its 2 classes has no images here: zebra"),
        (
            b"class 4\nclass 3\nclass 9\n",
            "2 of its 3 classes have no images here: class 4, class 9",
        ),  # known by name alone
        (b"\n", "names no class"),
        (b"\xff\xfe", "not a text file"),
    ],
)
def test_a_list_of_unknown_classes_or_none_is_refused(tmp_path, content, told):
    file = tmp_path / "novel.txt"
    file.write_bytes(content)
    with pytest.raises(DataError, match=told):
        evaluate_episodes(clustered(), EpisodeOptions(ways=2, queries=5, classes=str(file)))
    with pytest.raises(DataError, match="missing"):
        read_classes(str(tmp_path / "missing.txt"), {})


def test_a_line_of_a_class_list_may_go_on_after_the_class_unless_the_whole_line_is_one(tmp_path):
    file = tmp_path / "novel.txt"
    file.write_text("n01443537 goldfish, Carassius auratus\nn02\n  white shark \nwhite\n")
    number = {"n01443537": 3, "n02": 7, "white shark": 11, "white": 13}
    assert read_classes(str(file), number) == [3, 7, 11, 13]
    file.write_text("n01443537 goldfish\nn09 zebra\n")
    with pytest.raises(DataError, match="1 of its 2 classes has no images here: n09 zebra"):
        read_classes(str(file), number)


@pytest.mark.parametrize(
    ("unknown", "told"),
    [
        ("abcde", "5 of its 6 classes have no images here: a, b, c, d, e"),
        ("abcdef", "6 of its 7 classes have no images here: a, b, c, d, e …"),
    ],
)
def test_the_first_five_unknown_classes_are_named_and_more_are_hinted_at(tmp_path, unknown, told):
    file = tmp_path / "novel.txt"
    file.write_text("\n".join([*unknown, "zebra"]))
    with pytest.raises(DataError) as error:
        read_classes(str(file), {"zebra": 3})
    assert error.value.what == told


# ---- Omniglot's runs

PAIRS = {"run01": [("item01", "class03"), ("item02", "class01"), ("item03", "class02")]}
PAIRS["run02"] = [("item01", "class02"), ("item02", "class03"), ("item03", "class01")]


def lists(pairs=PAIRS) -> dict[str, str]:
    lines = {run: [f"{run}/test/{q}.png {run}/training/{s}.png" for q, s in rows] for run, rows in pairs.items()}
    return {f"{run}/class_labels.txt": "\n".join(rows) + "\n" for run, rows in lines.items()}


def images(prefix: str = "") -> list[str]:
    names = [f"test/item0{i}" for i in (1, 2, 3)] + [f"training/class0{i}" for i in (1, 2, 3)]
    return [f"{prefix}{run}/{name}.png" for run in PAIRS for name in names]


def written(root, files: dict[str, str], how: str) -> str:
    """A folder or a zip of these files."""
    if how == "folder":
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        return str(root)
    with zipfile.ZipFile(root / "runs.zip", "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return str(root / "runs.zip")


@pytest.mark.parametrize("how", ["folder", "zip"])
@pytest.mark.parametrize(("above", "seen"), [("", ""), ("all/of/them/", "all/of/them/"), ("all/of/them/", "")])
def test_a_run_is_an_episode_whose_classes_are_its_training_images(tmp_path, how, above, seen):
    source = written(tmp_path, {above + name: text for name, text in lists().items()}, how)
    ids = images(seen)
    runs = read_runs(source, ids)
    assert runs.shape == {"ways": 3, "shots": 1, "queries": 1}
    for e, (run, pairs) in enumerate(PAIRS.items()):
        for (query, support), row, label in zip(pairs, runs.queries[e], runs.query_labels[e], strict=True):
            assert ids[row] == f"{seen}{run}/test/{query}.png"
            assert ids[runs.support[e][runs.support_labels[e] == label][0]] == f"{seen}{run}/training/{support}.png"


@pytest.mark.parametrize("how", ["folder", "zip"])
def test_what_is_there_must_hold_a_run_and_what_is_not_there_is_left_to_whoever_lists_it(tmp_path, how):
    for name in ("runs", "other"):
        (tmp_path / name).mkdir()
    assert require_runs(written(tmp_path / "runs", lists(), how)) is None
    with pytest.raises(DataError, match="holds no run of Omniglot's"):
        require_runs(written(tmp_path / "other", {"run01/other.txt": "x"}, how))
    assert require_runs(str(tmp_path / "nowhere")) is None


def test_runs_are_measured_as_they_stand(tmp_path):
    source = written(tmp_path, lists(), "folder")
    ids = images()
    rows = np.zeros((12, 3), np.float32)
    for run, start in (("run01", 0), ("run02", 6)):
        rows[start + 3 : start + 6] = np.eye(3)
        for i, (_, support) in enumerate(PAIRS[run]):
            rows[start + i] = np.eye(3)[int(support[-1]) - 1]
    rows[6] = rows[7]  # one of six queries goes wrong
    features = FeatureSet(rows, np.repeat([0, 1], 6), ids, ["run01", "run02"])
    [row] = evaluate_episodes(features, EpisodeOptions(runs=source))
    assert row["value"] == pytest.approx(100 * 5 / 6)
    assert (row["ways"], row["shots"], row["queries"], row["episodes"]) == (3, 1, 1, 2)


@pytest.mark.parametrize("how", ["folder", "zip"])
@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"run01/other.txt": "x"}, "no run"),
        ({"run01/class_labels.txt": "run01/test/item01.png\n"}, "is not a query and a training image"),
        ({"run01/class_labels.txt": "\n"}, "is not a query and a training image"),
        (
            {"run01/class_labels.txt": "run01/test/item09.png run01/training/class01.png"},
            "item09.png is not among the images",
        ),
        (lists({**PAIRS, "run02": PAIRS["run02"][:2]}), "not all of one shape"),
    ],
)
def test_runs_that_cannot_be_read_are_refused(tmp_path, how, files, told):
    with pytest.raises(DataError, match=told):
        read_runs(written(tmp_path, files, how), images())


def test_episodes_know_their_shape():
    one = np.zeros((3, 10), int)
    assert Episodes(one, one, np.zeros((3, 15), int), np.zeros((3, 15), int), 5).shape == {
        "ways": 5,
        "shots": 2,
        "queries": 3,
    }
