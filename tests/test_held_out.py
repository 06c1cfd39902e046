"""What held-out images decide, by hand; and the defaults of the modes that they decide among."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from fewvit.backbones import Architecture
from fewvit.errors import IntegrityError, NumericalError
from fewvit.finetune.held_out import Candidate, Curve, evaluate_logits, held_out_parts, held_out_rows
from fewvit.finetune.modes import MODES, recipe_for
from fewvit.views.view import View


@pytest.mark.parametrize(
    ("counts", "held"),
    [((5, 5, 5), (1, 1, 1)), ((2, 2), (1, 1)), ((3, 3, 3), (1, 1, 1)), ((10, 10), (2, 2)), ((5, 1), (1, 0))],
)
def test_a_fifth_is_held_out_or_one_of_each_class_that_has_several(counts, held):
    labels = np.repeat(np.arange(len(counts)) * 3 + 1, counts)  # class numbers need not follow one another
    found = held_out_rows(labels, seed=4)
    assert [int((labels[found] == c).sum()) for c in np.unique(labels)] == list(held)
    assert len(set(found.tolist())) == len(found)
    assert np.array_equal(found, held_out_rows(labels, seed=4))


def test_every_class_keeps_an_image_and_other_seeds_hold_out_others():
    labels = np.random.default_rng(3).permutation(np.repeat(np.arange(7), (2, 3, 4, 5, 6, 7, 1)))
    drawn = {tuple(held_out_rows(labels, seed)) for seed in range(20)}
    assert len(drawn) > 10
    assert all(set(labels) == set(np.delete(labels, rows)) for rows in drawn)


def test_of_one_image_per_class_none_is_held_out():
    assert len(held_out_rows(np.arange(5), 0)) == 0
    assert held_out_parts(np.arange(5), 0) == []


def test_every_image_of_a_class_with_several_is_held_out_once_and_the_first_part_chooses():
    labels = np.repeat([0, 1, 2], (2, 3, 1))
    parts = held_out_parts(labels, seed=4)
    assert len(parts) == 3  # as many as the largest class has images
    assert sorted(np.concatenate(parts).tolist()) == [0, 1, 2, 3, 4]  # the class of one image keeps it
    assert np.array_equal(parts[0], held_out_rows(labels, seed=4))
    assert len(held_out_parts(np.repeat([0, 1], 11), seed=4)) == 5


def test_accuracy_and_loss_by_hand():
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.25, 0.5, 0.25]])) + np.array(
        [[5.0], [-700.0], [900.0]]
    )
    labels = np.array([0, 1, 1])
    found = evaluate_logits(logits, labels)
    assert found["held_top1"] == pytest.approx(200 / 3)
    assert found["held_loss"] == pytest.approx(-(math.log(0.7) + math.log(0.1) + math.log(0.5)) / 3)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_a_divergence(broken):
    with pytest.raises(NumericalError, match="held-out"):
        evaluate_logits(np.array([[0.0, broken]]), np.array([0]))


def test_a_class_that_has_no_probability_costs_a_finite_loss():
    assert evaluate_logits(np.array([[0.0, -2000.0]]), np.array([1]))["held_loss"] == pytest.approx(30 * math.log(10))


def curve_of(tmp_path, *points: tuple[float, float]) -> Curve:
    records = [
        {"step": 2 * (i + 1), "epoch": i, "held_top1": t, "held_loss": loss} for i, (t, loss) in enumerate(points)
    ]
    (tmp_path / "log.jsonl").write_text(
        "".join(json.dumps(r) + "\n" + json.dumps({"step": 1, "epoch": 0, "loss": 3}) + "\n" for r in records)
    )
    return Curve(tmp_path / "log.jsonl")


def test_the_best_epoch_is_the_most_accurate_then_the_least_lossy_then_the_first(tmp_path):
    curve = curve_of(tmp_path, (40, 2.0), (60, 1.5), (60, 1.2), (60, 1.2), (50, 0.9))
    assert [curve.best(done) for done in (1, 2, 3, 4, 5)] == [1, 2, 3, 3, 3]
    assert [curve.stalled(done, 2) for done in (3, 4, 5)] == [False, False, True]
    assert [curve.stalled(done, 1) for done in (1, 2, 3, 4)] == [False, False, False, True]
    outcome = curve.outcome(0.1, 4)
    assert (outcome["lr"], outcome["epochs"], outcome["held_top1"], outcome["held_loss"]) == (0.1, 3, 60, 1.2)
    assert [point["epoch"] for point in outcome["curve"]] == [1, 2, 3, 4]  # what is beyond is not known yet
    curve.by_epoch = dict(reversed(curve.by_epoch.items()))  # the first by its number, in whatever order they come
    assert curve.outcome(0.1, 4) == outcome


def test_a_search_whose_log_is_gone_cannot_be_judged(tmp_path):
    with pytest.raises(IntegrityError, match="gone"):
        Curve(tmp_path / "none.jsonl").best(3)


def test_among_learning_rates_accuracy_decides_then_the_loss_then_the_smaller_one():
    found = [
        Candidate(0.1, 3, 50.0, 1.0),
        Candidate(0.3, 2, 60.0, 2.0),
        Candidate(0.2, 9, 60.0, 1.5),
        Candidate(0.05, 1, 60.0, 1.5),
    ]
    order = sorted(found, key=lambda one: one.merit, reverse=True)
    assert [one.lr for one in order] == [0.05, 0.2, 0.3, 0.1]


# ---- defaults


def defaults(mode: str, per_class: int, family: str = "dino", labels: int = 1000):
    return recipe_for(mode, Architecture(384, 12, 6, 16), View(224, (1.0, 1.0)), family, labels, per_class)


@pytest.mark.parametrize("mode", MODES)
def test_on_few_labels_the_classifier_begins_as_the_frozen_one(mode):
    assert defaults(mode, 5)[0].head == "probe"
    assert defaults(mode, 500)[0].head == "linear"


def test_only_a_mode_that_keeps_its_tokens_leaves_images_alone():
    assert {mode: defaults(mode, 5)[0].augmented for mode in MODES} == {mode: mode != "last-block" for mode in MODES}
    assert defaults("last-block", 5)[0].blocks == 1


@pytest.mark.parametrize("mode", MODES)
def test_the_fixed_learning_rate_is_the_middle_of_the_grid(mode):
    recipe, grid = defaults(mode, 5)
    assert len(grid) == 3
    assert recipe.lr == sorted(grid)[1]


@pytest.mark.parametrize(("labels", "batch"), [(1000, 32), (64, 32), (20, 10), (3, 1), (1, 1)])
def test_a_batch_is_never_more_than_half_of_the_labelled_images(labels, batch):
    assert defaults("lora", 5, labels=labels)[0].batch_size == batch


def test_full_fine_tuning_of_mae_reads_a_new_norm_and_of_others_their_own_feature():
    assert (defaults("full", 5, "mae")[0].pool, defaults("full", 5, "mae")[0].head) == ("fc_norm", "linear")
    assert (defaults("full", 5, "msn")[0].pool, defaults("full", 5, "msn")[0].head) == ("protocol", "probe")
