"""Measures of rankings beside arithmetic by hand, brute force and what must not change them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fewvit.errors import DataError
from fewvit.metrics import average_precision_at
from fewvit.retrieval.measures import average_precision, copies, labels, recognition, revisited, whitening

# ---- second opinions: loops over one ranking, no function of fewvit --------------------------------------------------


def area_under_curve(ranks, n_positives):
    """The area under the polyline of (recall, precision), each positive being a step with a point before and after."""
    area = 0.0
    for found, rank in enumerate(sorted(ranks)):
        before = found / rank if rank else 1.0
        after = (found + 1) / (rank + 1)
        area += (1 / n_positives) * (before + after) / 2
    return area


def precision_sum(hits, most):
    """Sum over the first `most` places with a hit of the share of hits so far."""
    return sum(sum(hits[: i + 1]) / (i + 1) for i in range(min(most, len(hits))) if hits[i])


def micro_ap(triples, n_positives):
    """Over (score, is correct), the wrong ones first among equals: what every threshold between would give."""
    ordered = sorted(triples, key=lambda one: (-one[0], one[1]))
    right, total = 0, 0.0
    for place, (_, correct) in enumerate(ordered, start=1):
        if correct:
            right += 1
            total += right / place
    return total / n_positives


# ---- average precision -----------------------------------------------------------------------------------------------


def test_the_trapezoid_of_three_positives_by_hand():
    """Ranks 0, 2, 5 of 4 positives: (1 + 1)/2, (1/2 + 2/3)/2, (2/5 + 3/6)/2, each times 1/4; the fourth has none."""
    wanted = (1 + (1 / 2 + 2 / 3) / 2 + (2 / 5 + 1 / 2) / 2) / 4
    assert average_precision.by_trapezoid(np.array([0, 2, 5]), 4) == pytest.approx(wanted, abs=1e-15)
    assert wanted == pytest.approx((1 + 7 / 12 + 9 / 20) / 4, abs=1e-15)


def test_the_trapezoid_without_a_positive_found_is_zero_and_with_all_in_front_is_one():
    assert average_precision.by_trapezoid(np.array([], int), 3) == 0
    assert average_precision.by_trapezoid(np.arange(7), 7) == 1


@pytest.mark.parametrize("seed", range(5))
def test_the_trapezoid_is_the_area_under_the_polyline(seed):
    random = np.random.default_rng(seed)
    ranks = np.sort(random.choice(97, size=11, replace=False))
    assert average_precision.by_trapezoid(ranks, 13) == pytest.approx(area_under_curve(ranks.tolist(), 13), abs=1e-14)


def test_the_three_definitions_differ_on_the_same_rankings():
    """Two queries with hits at places 2, 3 and 1, 4, of two positives each; all scores of the first are higher."""
    hits = np.array([[False, True, True, False], [True, False, False, True]])
    trapezoid = [average_precision.by_trapezoid(np.flatnonzero(row), 2) for row in hits]
    assert trapezoid == pytest.approx([((0 + 1 / 2) + (1 / 2 + 2 / 3)) / 4, (2 + (1 / 3 + 2 / 4)) / 4])
    np.testing.assert_allclose(average_precision_at(hits, np.array([2, 2])), [(1 / 2 + 2 / 3) / 2, (1 + 2 / 4) / 2])
    pooled = average_precision.pooled(np.arange(8.0)[::-1], hits.ravel(), 4)
    assert pooled.average_precision == pytest.approx((1 / 2 + 2 / 3 + 3 / 5 + 4 / 8) / 4)


def test_average_precision_at_k_divides_by_its_denominator_and_gives_zero_for_none():
    hits = np.array([[True, False, True], [False, False, False]])
    np.testing.assert_allclose(average_precision_at(hits, np.array([3, 0])), [(1 + 2 / 3) / 3, 0], atol=1e-15)


# ---- labels ----------------------------------------------------------------------------------------------------------


def test_label_measures_of_two_queries_by_hand():
    """Query 0 has R = 3 and hits at places 1, 3, 6; query 1 has R = 2 and its hits at places 4 and 5."""
    relevant = np.array([[1, 0, 1, 0, 0, 1, 0], [0, 0, 0, 1, 1, 0, 0]], bool)
    found = labels.label_measures(relevant, np.array([3, 2]), (1, 3, 5))
    wanted = {
        "recall@1": (1, 0),
        "recall@3": (1, 0),
        "recall@5": (1, 1),
        "precision@1": (1, 0),
        "precision@3": (2 / 3, 0),
        "precision@5": (2 / 5, 2 / 5),
        "map@r": ((1 / 1 + 2 / 3) / 3, 0),
        "r_precision": (2 / 3, 0),
        "mrr": (1, 1 / 4),
    }
    assert set(found) == set(wanted)
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], 100 * np.array(values), atol=1e-12, err_msg=name)


@pytest.mark.parametrize("seed", range(3))
def test_label_measures_are_those_of_loops_over_each_query(seed):
    random = np.random.default_rng(seed)
    relevant = random.random((19, 31)) < 0.3
    positives = relevant.sum(axis=1) + random.integers(1, 4, 19)
    found = labels.label_measures(relevant, positives, (1, 7))
    for q, (hits, r) in enumerate(zip(relevant.tolist(), positives.tolist(), strict=True)):
        assert found["recall@7"][q] == 100 * any(hits[:7])
        assert found["precision@7"][q] == pytest.approx(100 * sum(hits[:7]) / 7)
        assert found["map@r"][q] == pytest.approx(100 * precision_sum(hits, r) / r)
        assert found["r_precision"][q] == pytest.approx(100 * sum(hits[:r]) / r)
        assert found["mrr"][q] == pytest.approx(100 / (1 + hits.index(True)))


def test_a_ranking_to_the_largest_number_of_positives_says_as_much_as_a_whole_one():
    random = np.random.default_rng(3)
    relevant = random.random((23, 89)) < 0.2
    positives = relevant.sum(axis=1)
    whole, cut = (labels.label_measures(part, positives, (1, 5)) for part in (relevant, relevant[:, : positives.max()]))
    for name in whole:
        np.testing.assert_array_equal(whole[name], cut[name], err_msg=name)


def test_a_ranking_shorter_than_k_counts_what_is_missing_as_wrong():
    found = labels.label_measures(np.array([[True, True, False]]), np.array([2]), (7,))
    assert found["precision@7"][0] == pytest.approx(100 * 2 / 7)


# ---- revisited -------------------------------------------------------------------------------------------------------


def test_junk_is_taken_out_of_a_ranking_and_what_follows_moves_up():
    """Ranking j p n j p: without junk p n p, so the positives are at 0 and 2."""
    ranking = np.array([41, 7, 3, 43, 11])
    ranks = revisited.ranks_without_junk(ranking, np.array([7, 11, 13]), np.array([41, 43]))
    assert ranks.tolist() == [0, 2]


def test_the_precision_of_the_first_places_shrinks_its_divisor_to_the_last_positive():
    """Two positives, at ranks 0 and 2: the last is at place 3, so mP@5 and mP@10 are 2/3, and mP@1 is 1."""
    found = revisited.query_measures(np.array([0, 2]), 2)
    assert found["mp@1"] == 100
    assert found["mp@5"] == found["mp@10"] == pytest.approx(200 / 3)
    assert found["map"] == pytest.approx(100 * (1 + (1 / 2 + 2 / 3) / 2) / 2)


def test_a_positive_that_the_ranking_does_not_reach_keeps_the_divisor():
    found = revisited.query_measures(np.array([0, 2]), 3)
    assert found["mp@5"] == pytest.approx(100 * 2 / 5)
    assert revisited.query_measures(np.array([], int), 3) == {"map": 0, "mp@1": 0, "mp@5": 0, "mp@10": 0}


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_rows_in_the_index_does_not_matter(seed):
    """Distinct scores: renumbering the database and sorting again gives every measure again."""
    random = np.random.default_rng(seed)
    scores, positives, junk = random.permutation(53), np.arange(0, 11), np.arange(11, 18)
    place = random.permutation(53)  # old row -> new row
    renamed = np.empty(53, int)
    renamed[place] = scores
    first = revisited.query_measures(revisited.ranks_without_junk(np.argsort(-scores), positives, junk), 11)
    again = revisited.query_measures(
        revisited.ranks_without_junk(np.argsort(-renamed), place[positives], place[junk]), 11
    )
    assert first == again


# ---- copies ----------------------------------------------------------------------------------------------------------


def test_of_equal_scores_the_wrong_pairs_come_first():
    """Scores .9 (right), .7 (right, wrong), .5 (right), four copies in all.

    In the worst order: right, wrong, right, right. AP = (1/1 + 2/3 + 3/4) / 4. In the best it would be
    (1 + 1 + 3/4) / 4.
    """
    scores, right = np.array([0.9, 0.7, 0.7, 0.5]), np.array([True, True, False, True])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        found = copies.pair_measures(scores[order], right[order], 4)
        assert found["micro_ap"] == pytest.approx(100 * (1 + 2 / 3 + 3 / 4) / 4, abs=1e-12)


def test_recall_at_ninety_percent_precision_is_that_of_the_lowest_score_that_has_it():
    """Ten right ones, a wrong one, then right ones: precision is 10/11 = .909 after the wrong one, and again above.

    The last right one before a second and third wrong one is the 13th of 14: 13/14 = .93; then 13/15, 13/16, 14/17.
    """
    right = np.array([True] * 10 + [False] + [True] * 3 + [False, False, True])
    scores = np.linspace(1, 0.2, 17)
    found = copies.pair_measures(scores, right, 20)
    assert found["recall@p90"] == pytest.approx(100 * 13 / 20)
    assert found["threshold@p90"] == pytest.approx(scores[13])


def test_there_is_no_threshold_where_no_score_reaches_the_precision():
    found = copies.pair_measures(np.array([0.9, 0.5]), np.array([False, True]), 3)
    assert (found["recall@p90"], found["threshold@p90"]) == (0, None)


def test_a_threshold_never_lies_within_a_tie():
    """Nine right pairs and two wrong ones with one score: 9 of 11 is below .9, whichever are seen first."""
    found = copies.pair_measures(np.full(11, 0.5), np.array([True] * 9 + [False] * 2), 9)
    assert found["threshold@p90"] is None


@pytest.mark.parametrize("seed", range(3))
def test_micro_ap_is_that_of_a_loop_over_sorted_triples(seed):
    random = np.random.default_rng(seed)
    scores, right = random.integers(0, 29, 211) / 29, random.random(211) < 0.3
    wanted = micro_ap(list(zip(scores.tolist(), right.tolist(), strict=True)), 71)
    assert copies.pair_measures(scores, right, 71)["micro_ap"] == pytest.approx(100 * wanted, abs=1e-10)


def test_a_pair_that_is_predicted_twice_is_refused_and_named():
    pairs = np.array([[3, 7], [3, 11], [5, 7], [3, 11]])
    with pytest.raises(DataError, match="query 3 and reference 11 was predicted twice"):
        copies.true_pairs(pairs, np.array([[3, 7]]))
    assert copies.true_pairs(pairs[:3], np.array([[5, 7], [7, 5], [3, 13]])).tolist() == [False, False, True]


def test_the_rank_of_a_copy_counts_wrong_references_of_its_score_before_it():
    scores = np.array([[0.9, 0.9, 0.3], [0.8, 0.7, 0.7]])
    right = np.array([[True, False, False], [False, True, False]])
    ranks = copies.ranks_of_copies(scores, right)
    assert ranks.tolist() == [1, 2]
    assert copies.recall_at_ranks(ranks, 3, (1, 2, 3)) == pytest.approx(
        {"recall@rank1": 0, "recall@rank2": 100 / 3, "recall@rank3": 200 / 3}
    )


def test_normalised_scores_lose_the_mean_of_the_background():
    found = copies.normalised_scores(np.array([[0.9, 0.5], [0.9, 0.5]]), np.array([[0.1, 0.3], [0.7, 0.5]]), factor=2)
    np.testing.assert_allclose(found, [[0.5, 0.1], [-0.3, -0.7]], atol=1e-15)


# ---- recognition -----------------------------------------------------------------------------------------------------


def test_a_name_and_its_confidence_by_hand():
    """Neighbours of classes 7, 3, 7 with .8, .6, .4; five classes; T = 2.

    Class 7 has .8, class 3 has .6, the other three 0: e^1.6 / (e^1.6 + e^1.2 + 3).
    """
    named, confidence = recognition.name_by_neighbours(np.array([[7, 3, 7]]), np.array([[0.8, 0.6, 0.4]]), 5, 2.0)
    assert named.tolist() == [7]
    assert confidence[0] == pytest.approx(math.exp(1.6) / (math.exp(1.6) + math.exp(1.2) + 3), abs=1e-15)


def test_of_two_classes_that_are_equally_near_the_lower_label_is_named():
    named, _ = recognition.name_by_neighbours(np.array([[7, 3]]), np.array([[0.5, 0.5]]), 4, 1.0)
    assert named.tolist() == [3]


def test_a_class_that_points_away_counts_as_one_that_was_not_seen():
    seen = recognition.name_by_neighbours(np.array([[7, 3]]), np.array([[0.5, -0.9]]), 4, 3.0)[1]
    unseen = recognition.name_by_neighbours(np.array([[7, 7]]), np.array([[0.5, 0.1]]), 4, 3.0)[1]
    assert seen[0] == pytest.approx(unseen[0], abs=1e-15)


@pytest.mark.parametrize("temperature", [0.01, 15.0, 500.0])
def test_confidence_is_a_softmax_over_all_classes(temperature):
    random = np.random.default_rng(7)
    near, n_classes = random.integers(0, 11, (17, 13)), 23
    scores = -np.sort(-random.uniform(-1, 1, (17, 13)), axis=1)
    named, confidence = recognition.name_by_neighbours(near, scores, n_classes, temperature)
    for q in range(17):
        logits = [0.0] * n_classes
        for label, score in zip(near[q], scores[q], strict=True):
            logits[label] = max(logits[label], score)
        weights = [math.exp(temperature * (logit - max(logits))) for logit in logits]
        assert confidence[q] == pytest.approx(max(weights) / sum(weights), rel=1e-12)
        assert named[q] == logits.index(max(logits))


def test_gap_counts_distractors_and_gap_minus_does_not():
    """By confidence: a distractor, a right one, a wrong one, a right one; three are no distractors.

    GAP = (1/2 + 2/4) / 3, GAP- = (1/1 + 2/3) / 3, two of three are right.
    """
    targets = np.array([-1, 3, 7, 7])
    found = recognition.recognition_measures(np.array([3, 3, 3, 7]), np.array([0.9, 0.8, 0.7, 0.6]), targets)
    assert found["gap"] == pytest.approx(100 * (1 / 2 + 2 / 4) / 3)
    assert found["gap_minus"] == pytest.approx(100 * (1 + 2 / 3) / 3)
    assert found["accuracy"] == pytest.approx(200 / 3)


def test_tuning_takes_the_neighbours_and_temperature_of_the_highest_gap_the_first_among_equals():
    """With one neighbour the distractor is the surest; three show that it is near to two classes."""
    labels_, targets = np.array([[7, 3, 5], [3, 3, 3], [7, 7, 7]]), np.array([-1, 3, 7])
    scores = np.array([[0.9, 0.88, 0.87], [0.8, 0.1, 0.1], [0.7, 0.1, 0.1]])
    gap = {
        (k, t): recognition.recognition_measures(
            *recognition.name_by_neighbours(labels_[:, :k], scores[:, :k], 11, t), targets
        )["gap"]
        for k in (1, 3)
        for t in (5.0, 50.0)
    }
    assert gap[1, 5.0] < max(gap.values())
    best = recognition.tuned(labels_, scores, targets, 11, (1, 3), (5.0, 50.0))
    assert best == max(gap, key=gap.__getitem__) == (3, 5.0)


# ---- whitening -------------------------------------------------------------------------------------------------------


def test_whitening_takes_off_the_mean_but_learns_from_what_is_not_centred():
    random = np.random.default_rng(3)
    rows = random.normal(size=(211, 5)) @ random.normal(size=(5, 5)) + 7
    white = whitening.copydays_whitening(rows)
    np.testing.assert_allclose(white.mean, rows.mean(axis=0))
    uncentred = (rows @ white.projection.T).T @ (rows @ white.projection.T) / len(rows)
    np.testing.assert_allclose(uncentred, np.eye(5), atol=1e-9)  # the second moments become 1
    np.testing.assert_allclose(white(rows).mean(axis=0), np.zeros(5), atol=1e-9)


def test_directions_that_say_nothing_are_not_blown_up_without_end():
    """Second moments 4 and 0: the second counts as 4e-5."""
    projection = whitening.projection_of(np.diag([0.0, 4.0]))
    np.testing.assert_allclose(np.abs(projection), [[0, 1 / 2], [1 / math.sqrt(4e-5), 0]], rtol=1e-12)


def test_the_largest_directions_are_kept():
    projection = whitening.projection_of(np.diag([1.0, 9.0, 4.0]), dim=2)
    np.testing.assert_allclose(np.abs(projection), [[0, 1 / 3, 0], [0, 0, 1 / 2]], atol=1e-15)


def test_whitening_without_images_is_refused():
    with pytest.raises(DataError, match="no images to learn"):
        whitening.copydays_whitening(np.zeros((0, 3)))
