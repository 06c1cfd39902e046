"""Galleries of neighbours, label-free measures of a folder, and how results show themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import fewvit
from fewvit.datasets import open_dataset
from fewvit.errors import DataError, UsageError
from fewvit.features import FeatureSet
from fewvit.inspect.changes import Changed, changed_features
from fewvit.inspect.galleries import RIGHT, WRONG, nearest_of, neighbors
from fewvit.inspect.measures import alignment, lidar, neighbor_overlap, rank_me
from fewvit.inspect.qualities import NOTES, Asked, quality, quality_rows
from fewvit.labels import Marking
from fewvit.results import Result

from made_features import made
from made_images import folder_of


@pytest.fixture(scope="module")
def pair() -> tuple[FeatureSet, FeatureSet]:
    return made(7, 1.6, {3: (41, 13), 7: (29, 18)})


# ---- neighbours


def brute(train: FeatureSet, query: np.ndarray, k: int, own: int | None) -> list[int]:
    unit = train.features / np.linalg.norm(train.features, axis=1, keepdims=True)
    scores = unit.astype(np.float64) @ (query / np.linalg.norm(query))
    return sorted((row for row in range(len(unit)) if row != own), key=lambda row: (-scores[row], row))[:k]


@pytest.mark.parametrize("alone", [False, True])
def test_neighbours_and_which_are_right_are_those_of_brute_force(pair, alone):
    train, test = pair
    queries = train if alone else test
    found = nearest_of(train, None if alone else test, k=5, sample=11, seed=2, wrong_only=False)
    assert len(found.queries) == 11
    for at, query in enumerate(found.queries.tolist()):
        wanted = brute(train, queries.features[query], 5, query if alone else None)
        assert found.rows[at].tolist() == wanted
        assert found.right[at].tolist() == [train.labels[row] == queries.labels[query] for row in wanted]
        votes = {3: 0.0, 7: 0.0}
        for score, row in zip(found.scores[at], wanted, strict=True):
            votes[int(train.labels[row])] += np.exp(score / 0.07)
        assert found.voted[at] == max(votes, key=lambda c: votes[c])


def test_wrong_only_picks_among_those_that_the_vote_gets_wrong(pair):
    train, test = pair
    every = nearest_of(train, test, k=5, sample=31, seed=0, wrong_only=False)
    wrong = set(every.queries[every.voted != test.labels[every.queries]].tolist())
    assert 2 < len(wrong) < 31
    found = nearest_of(train, test, k=5, sample=31, seed=0, wrong_only=True)
    assert set(found.queries.tolist()) == wrong
    assert found.candidates == len(wrong)
    some = nearest_of(train, test, k=5, sample=2, seed=0, wrong_only=True)
    assert set(some.queries.tolist()) < wrong
    np.testing.assert_array_equal(found.rows[np.isin(found.queries, some.queries)], some.rows)


def test_every_accepted_class_is_right_and_only_answers_are_voted(pair):
    train, test = pair
    accepted = np.stack([test.labels, np.where(np.arange(len(test)) % 3 == 0, 10 - test.labels, -1)], axis=1)
    both = replace(test, marking=Marking(accepted=accepted))
    found = nearest_of(train, both, k=5, sample=31, seed=0, wrong_only=False)
    for at, query in enumerate(found.queries.tolist()):
        assert found.right[at].tolist() == [train.labels[row] in accepted[query] for row in found.rows[at].tolist()]
    wrong = [
        q for q, voted in zip(found.queries.tolist(), found.voted.tolist(), strict=True) if voted not in accepted[q]
    ]
    assert 0 < len(wrong) < np.count_nonzero(found.voted != test.labels[found.queries])
    only = nearest_of(train, both, k=5, sample=31, seed=0, wrong_only=True)
    assert only.queries.tolist() == wrong
    masked = replace(test, marking=Marking(answers=np.array([7])))
    assert set(nearest_of(train, masked, k=5, sample=31, seed=0, wrong_only=False).voted.tolist()) == {7}


def test_the_seed_picks_the_queries_and_unlabelled_ones_are_not_picked(pair):
    train, test = pair
    labels = test.labels.copy()
    labels[::2] = -1
    part = replace(test, labels=labels)
    picks = [nearest_of(train, part, k=3, sample=7, seed=seed, wrong_only=False).queries.tolist() for seed in (1, 1, 2)]
    assert picks[0] == picks[1] != picks[2]
    assert all(row % 2 == 1 for pick in picks for row in pick)


def test_what_has_no_right_or_wrong_is_refused(pair):
    train, test = pair
    with pytest.raises(UsageError, match="70 images"):
        nearest_of(train, test, k=71, sample=3, seed=0, wrong_only=False)
    with pytest.raises(DataError, match="no query has a label"):
        nearest_of(train, replace(test, labels=np.full(31, -1)), k=3, sample=3, seed=0, wrong_only=False)
    with pytest.raises(DataError, match="is right for all"):
        nearest_of(train, train, k=1, sample=3, seed=0, wrong_only=True)


def test_a_gallery_frames_right_neighbours_green_and_wrong_ones_red(tmp_path):
    images = open_dataset(str(folder_of(tmp_path / "images", {"three": 4, "seven": 5})))
    features = FeatureSet(
        np.random.default_rng(3).normal(size=(9, 5)).astype(np.float32), images.labels, images.ids, images.classes
    )
    figure = neighbors(features, images=[images], k=3, sample=2, seed=1)
    assert len(figure.panels) == 2
    assert [row["right"] for row in figure.rows] == figure.arrays["right"].ravel().tolist()
    assert {True, False} == set(figure.arrays["right"].ravel().tolist())
    figure.save(tmp_path / "gallery.png")
    pixels = np.asarray(Image.open(tmp_path / "gallery.png").convert("RGB")).reshape(-1, 3)
    for colour in (RIGHT, WRONG):
        rgb = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
        assert (pixels == rgb).all(axis=1).sum() > 300
    first = (tmp_path / "gallery.png").read_bytes()
    figure.save(tmp_path / "gallery.png")
    assert (tmp_path / "gallery.png").read_bytes() == first


# ---- quality


@pytest.fixture(scope="module")
def tiny():
    return fewvit.load_backbone("fewvit_tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return open_dataset(str(folder_of(tmp_path_factory.mktemp("images"), {"three": 7, "seven": 12})))


def changed(tiny, folder, numbers, count=3, seed=5, batch=4) -> Changed:
    rows = np.array(numbers)
    return changed_features(tiny, tiny.pipeline, folder, rows, numbers, count=count, seed=seed, batch=batch)


def test_views_are_functions_of_seed_and_image_alone(tiny, folder):
    together, apart = changed(tiny, folder, [3, 17, 11]), changed(tiny, folder, [11], batch=2)
    for one, other in (
        (together.views[2], apart.views[0]),
        (together.flipped[2], apart.flipped[0]),
        (together.cropped[2], apart.cropped[0]),
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert np.abs(changed(tiny, folder, [11], seed=6).views - apart.views).max() > 0.01
    assert np.abs(apart.views[0, 0] - apart.views[0, 1]).max() > 0.01
    np.testing.assert_allclose(changed(tiny, folder, [11], count=2).views[0], apart.views[0, :2], atol=1e-5)


def test_a_flipped_image_has_the_features_of_its_mirror(tiny, tmp_path):
    random = np.random.default_rng(0)
    pixels = np.asarray(
        Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((96, 96), Image.Resampling.BICUBIC)
    )
    for name, one in (("a", pixels), ("b", pixels[:, ::-1])):
        Image.fromarray(one).save(tmp_path / f"{name}.png")
    images = open_dataset(str(tmp_path))
    whole = fewvit.extract_features(tiny, images).features
    np.testing.assert_allclose(changed(tiny, images, [0]).flipped[0], whole[1], atol=2e-3)
    assert np.abs(whole[0] - whole[1]).max() > 0.01


def test_each_row_is_its_measure_of_the_features_that_it_is_of(pair):
    train, _ = pair
    random = np.random.default_rng(4)
    rows = np.array([3, 7, 11, 40])
    noise = [train.features[rows] + 0.3 * random.normal(size=(4, 7)) for _ in range(5)]
    seen = Changed(rows, noise[0], noise[1], np.stack(noise[2:], axis=1))
    found = {row["metric"]: row for row in quality_rows(train, seen, Asked(k=6))}
    assert found["rankme"]["value"] == rank_me(train.features)
    assert found["lidar"]["value"] == lidar(seen.views)
    assert found["alignment"]["value"] == alignment(seen.views[:, 0], seen.views[:, 1])
    assert found["overlap_flip"]["value"] == neighbor_overlap(train.features, rows, noise[0], 6)
    assert found["overlap_crop"]["value"] == neighbor_overlap(train.features, rows, noise[1], 6)
    votes = []
    for row in range(70):  # leave-one-out, by the definition of the vote
        near = brute(train, train.features[row], 20, row)
        unit = train.features / np.linalg.norm(train.features, axis=1, keepdims=True)
        weight = np.exp(unit[near] @ unit[row] / 0.07)
        sums = {c: weight[train.labels[near] == c].sum() for c in (3, 7)}
        votes.append(max(sums, key=lambda c: sums[c]) == train.labels[row])
    assert found["top1"]["value"] == pytest.approx(100 * np.mean(votes))
    assert {metric: row["note"] for metric, row in found.items()} == NOTES


def test_of_too_few_images_for_a_power_law_everything_else_is_measured(pair):
    few = pair[0].select([0, 1, 41])
    rows = {row["metric"]: row for row in quality_rows(few, None, Asked(k=1))}
    assert rows["alpha_req"]["value"] is None
    assert rows["alpha_req"]["note"].startswith("not measured: 2 eigenvalues")
    assert rows["rankme"]["value"] == pytest.approx(rank_me(few.features))
    assert {"uniformity", "top1"} <= set(rows)


def test_without_labels_there_is_no_accuracy_and_without_images_there_are_no_views(pair):
    train, _ = pair
    blank = replace(train, labels=np.full(70, -1))
    assert [row["metric"] for row in quality_rows(blank, None, Asked())] == ["rankme", "alpha_req", "uniformity"]


def test_quality_of_a_backbone_is_a_result_that_comes_out_again(tiny, folder):
    one, again = (quality(tiny, folder, sample=5, views=2, k=3) for _ in range(2))
    assert [row["value"] for row in one.rows] == [row["value"] for row in again.rows]
    assert [row["metric"] for row in one.rows] == list(NOTES)
    with pytest.raises(UsageError, match="load_backbone"):
        quality("fewvit_tiny", folder)


# ---- notebooks


def test_a_result_shows_itself_as_a_small_table_in_which_names_are_text():
    rows = [{"backbone": "<b>x</b>", "metric": "top1", "k": k, "value": 50 + k / 3} for k in range(1, 60)]
    html = Result("knn", rows)._repr_html_()
    assert "<b>x</b>" not in html
    assert "&lt;b&gt;x&lt;/b&gt;" in html
    assert "<th>value</th>" in html
    assert "50.33</td>" in html
    assert html.count("<tr") == 1 + 30 + 1  # the names, the first rows, and how many more there are
    assert "29 more rows" in html
    assert "more rows" not in Result("knn", rows[:3])._repr_html_()
    assert Result("knn", [])._repr_html_() == "<p>no rows</p>"
