"""Several backbones in one evaluation: the test of each two, beside SciPy and statsmodels on the same predictions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from fewvit.evaluate.pairs import compared, lines
from fewvit.evaluate.predictions import Predicted

CLASSES = ["ant", "bee", "cat"]


def predicted(backbone: str, right: list[int], **which: object) -> Predicted:
    """One that says the true class where `right` is 1."""
    labels = np.arange(len(right)) % 3
    said = np.where(np.array(right, bool), labels, (labels + 1) % 3)
    columns = {"backbone": backbone, "method": "knn", **which}
    return Predicted(columns, [f"i{n}" for n in range(len(right))], labels, said, np.full(len(right), 0.5), CLASSES)


def test_one_draw_is_tested_by_mcnemar_on_the_images_that_one_alone_got_right():
    a, b = [1] * 9 + [0] * 2 + [1] * 6, [0] * 9 + [1] * 2 + [1] * 6  # 9 : 2
    [row] = compared([predicted("one", a, k=3), predicted("two", b, k=3)], [{"n_train": 30}])
    assert row["p_mcnemar"] == row["p_holm"] == pytest.approx(2 * (1 + 11 + 55) / 2**11)
    assert row["p_mcnemar"] == pytest.approx(binomtest(9, 11).pvalue)
    mcnemar = pytest.importorskip("statsmodels.stats.contingency_tables").mcnemar
    assert row["p_mcnemar"] == pytest.approx(mcnemar([[6, 9], [2, 0]], exact=True).pvalue)
    assert (row["a"], row["b"], row["k"], row["draws"], row["n_test"]) == ("one", "two", 3, 1, 17)
    assert row["difference"] == pytest.approx(100 * 7 / 17)
    # a paired normal interval of the mean of seventeen differences of +1, 0 and -1
    differences = np.array(a) - np.array(b)
    error = 100 * differences.std() / np.sqrt(17)
    assert row["ci95"] == pytest.approx([100 * 7 / 17 - 1.96 * error, 100 * 7 / 17 + 1.96 * error], abs=100 / 17)


def test_draws_are_paired_by_their_number_and_settings_are_kept_apart():
    of = {
        ("one", 0): [1, 1, 0, 1, 0],
        ("one", 1): [1, 0, 0, 1, 1],
        ("two", 0): [0, 1, 0, 1, 0],
        ("two", 1): [0, 0, 0, 1, 0],
    }
    found = [predicted(name, right, shots=2, trial=trial) for (name, trial), right in reversed(of.items())]
    alone = predicted("one", [1, 1, 1, 1, 1], shots=5, trial=0)
    [row] = compared([*found, alone], [{"shots": 2, "n_train": 6}, {"shots": 5, "n_train": 15}])
    assert (row["a"], row["b"], row["shots"], row["draws"]) == ("two", "one", 2, 2)
    assert row["difference"] == pytest.approx(100 * (0.4 + 0.2 - 0.6 - 0.6) / 2)
    # by hand: differences of the draws -20 and -40, mean -30, s² 200; (1/2 + 5/6) s² = 266.67, t = -1.837 with 1 degree
    assert row["p_corrected_t"] == pytest.approx(1 - 2 * np.arctan(30 / np.sqrt(800 / 3)) / np.pi)
    assert "paired bootstrap over draws and images" in next(lines([row]))


def test_three_backbones_make_three_pairs_and_their_p_are_adjusted_together():
    rights = {"one": [1] * 12, "two": [0] * 10 + [1] * 2, "three": [0] * 6 + [1] * 6}
    rows = compared([predicted(name, right) for name, right in rights.items()], [{"n_train": 3}])
    assert [(row["a"], row["b"]) for row in rows] == [("one", "two"), ("one", "three"), ("two", "three")]
    p = [2 / 2**10, 2 / 2**6, 2 / 2**4]
    assert [row["p_mcnemar"] for row in rows] == pytest.approx(p)
    assert [row["p_holm"] for row in rows] == pytest.approx([3 * p[0], 2 * p[1], p[2]])


def test_other_test_images_are_not_compared():
    one, two = predicted("one", [1, 0, 1]), predicted("two", [1, 0, 1])
    other = Predicted(two.which, ["i0", "i1", "x"], two.labels, two.predictions, two.probabilities, CLASSES)
    assert compared([one, other], [{"n_train": 3}]) == []
    assert len(compared([one, two], [{"n_train": 3}])) == 1


def test_a_draw_that_repeats_another_is_no_second_draw():
    rights = {"one": [1] * 9 + [0] * 2 + [1] * 6, "two": [0] * 9 + [1] * 2 + [1] * 6}
    thrice = [predicted(name, right, shots=5, trial=t) for name, right in rights.items() for t in range(3)]
    once = [predicted(name, right, shots=5, trial=0) for name, right in rights.items()]
    measured = [{"shots": 5, "n_train": 30}]
    assert compared(thrice, measured) == compared(once, measured)
    assert compared(thrice, measured)[0]["draws"] == 1
