"""The weighted vote: by hand, against a loop over neighbours, and in what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fewvit.errors import UnlabelledNeighbor, UsageError
from fewvit.neighbors import Neighbors
from fewvit.vote import MIN_TEMPERATURE, check_temperature, votes_at, weighted_vote

from oracles import brute_votes


def near(rows, scores) -> Neighbors:
    return Neighbors(np.array(rows, np.int64), np.array(scores, np.float32))


def test_each_neighbour_votes_with_exp_of_its_similarity_over_the_temperature():
    # bank labels 7, 3, 7; query 0 sees rows 2, 1, 0 and query 1 sees row 1 three times over
    found = weighted_vote(near([[2, 1, 0], [1, 1, 1]], [[0.5, 0.25, -0.5], [1, 0.75, 0]]), np.array([7, 3, 7]), 11, 0.5)
    wanted = np.zeros((2, 11))
    wanted[0, 7], wanted[0, 3] = math.e + 1 / math.e, math.exp(0.5)
    wanted[1, 3] = math.exp(2) + math.exp(1.5) + 1
    np.testing.assert_allclose(found, wanted, rtol=1e-7)


@pytest.mark.parametrize("temperature", [0.07, 0.002, 1.0, 5.0])
def test_votes_of_every_k_are_those_of_a_loop_over_the_first_k_neighbours(temperature):
    stream = np.random.default_rng(3)
    labels = stream.choice([3, 7, 8], 31, p=[0.7, 0.2, 0.1])
    rows, scores = (
        stream.integers(0, 31, (13, 11)),
        -np.sort(-stream.uniform(-1, 1, (13, 11)).astype(np.float32), axis=1),
    )
    seen = []
    for k, votes in votes_at(near(rows, scores), labels, 11, temperature, [7, 1, 7, 11, 2]):
        seen.append(k)
        np.testing.assert_allclose(
            votes, brute_votes(rows[:, :k].tolist(), scores[:, :k], labels.tolist(), 11, temperature), rtol=1e-12
        )
    assert seen == [1, 2, 7, 11]


def test_one_k_alone_gives_what_it_gives_among_others():
    rows, scores, labels = [[0, 1, 2], [2, 0, 1]], [[0.9, 0.8, 0.1], [0.3, 0.2, 0.1]], np.array([3, 7, 3])
    [(k, alone)] = votes_at(near(rows, scores), labels, 8, 0.07, [2])
    assert k == 2
    among = {k: votes.copy() for k, votes in votes_at(near(rows, scores), labels, 8, 0.07, [1, 2, 3])}
    np.testing.assert_array_equal(alone, among[2])
    np.testing.assert_array_equal(among[3], weighted_vote(near(rows, scores), labels, 8, 0.07))


def test_the_whole_range_of_cosines_can_be_voted_with_at_the_smallest_temperature():
    votes = weighted_vote(near([[0, 1]], [[1, -1]]), np.array([3, 7]), 8, MIN_TEMPERATURE)
    assert np.isfinite(votes).all()
    assert votes[0, 7] > 0
    assert votes[0, 3] == pytest.approx(math.exp(500), rel=1e-9)


def test_an_unlabelled_neighbour_is_an_error_and_an_unlabelled_stranger_is_none():
    labels = np.array([3, -1, 7])
    with pytest.raises(UnlabelledNeighbor, match="label -1") as error:
        weighted_vote(near([[0, 2], [2, 1]], [[1, 1], [1, 1]]), labels, 8, 0.07)
    assert error.value.exit_code == 3
    assert weighted_vote(near([[0, 2]], [[0, 0]]), labels, 8, 0.07)[0, [3, 7]].tolist() == [1, 1]


def test_class_zero_and_the_last_class_may_win():
    votes = weighted_vote(near([[0, 1]], [[0, 0]]), np.array([0, 7]), 8, 0.07)
    assert votes.tolist() == [[1, 0, 0, 0, 0, 0, 0, 1]]


def test_a_label_beyond_the_classes_is_refused_and_never_spills_into_the_next_query():
    with pytest.raises(UsageError, match=r"label 7 .* 7 classes"):
        weighted_vote(near([[0, 1], [0, 0]], [[0, 0], [0, 0]]), np.array([3, 7]), 7, 0.07)


@pytest.mark.parametrize("ks", [[3], [0], [1, -1], [2, 5]])
def test_votes_of_more_neighbours_than_were_searched_are_refused(ks):
    with pytest.raises(UsageError, match="where 2 were searched"):
        next(votes_at(near([[0, 1]], [[0, 0]]), np.array([3, 7]), 8, 0.07, ks))


def test_no_queries_have_votes_of_no_rows():
    assert weighted_vote(near(np.zeros((0, 3)), np.zeros((0, 3))), np.array([3, 7]), 8, 0.07).shape == (0, 8)


@pytest.mark.parametrize("temperature", [0, -0.07, 0.0019, math.nan])
def test_a_temperature_that_cannot_be_voted_with_is_refused(temperature):
    for refuses in (
        lambda: check_temperature(temperature),
        lambda: weighted_vote(near([[0]], [[1]]), np.array([3]), 8, temperature),
    ):
        with pytest.raises(UsageError, match=r"at least 0\.002"):
            refuses()


def test_the_papers_temperature_and_the_smallest_are_accepted():
    check_temperature(0.07)
    check_temperature(0.002)
