"""VTAB-1k: what is chosen on 800/200, refitted on all and tested once, against scikit-learn and by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from made_sets import vtab

from fewvit.evaluate.vtab import PENALTIES, SETS, choose_and_test, means
from fewvit.features import FeatureSet
from fewvit.public_sets.vtab import GROUPS
from fewvit_cli import main as cli

from made_images import tiny_weights


def drawn(per_class: dict[int, int], seed: int, noise: float = 1.6) -> FeatureSet:
    """Features of classes 3, 5 and 7, each round a centre of its own."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(8, 13))
    labels = np.repeat(list(per_class), list(per_class.values()))
    rows = (centres[labels] + noise * random.normal(size=(len(labels), 13))).astype(np.float32)
    ids = [f"{seed}/{i}" for i in range(len(labels))]
    return FeatureSet(rows, labels, ids, [str(k) for k in range(8)])


def joined(*sets: FeatureSet) -> FeatureSet:
    return replace(
        sets[0],
        features=np.concatenate([one.features for one in sets]),
        labels=np.concatenate([one.labels for one in sets]),
        ids=[name for one in sets for name in one.ids],
    )


def by_scikit_learn(first: FeatureSet, second: FeatureSet, test: FeatureSet) -> tuple[float, float]:
    """The best lambda on the second part, the middle one on a tie, and the accuracy of the fit on both with it."""
    from sklearn.linear_model import LogisticRegression

    def rows(one):
        centred = one.features - one.features.mean(axis=1, keepdims=True)
        return centred / np.linalg.norm(centred, axis=1, keepdims=True)

    def fitted(lambd, one):
        return LogisticRegression(C=1 / lambd, fit_intercept=False, tol=1e-6, max_iter=999).fit(rows(one), one.labels)

    scores = {lambd: fitted(lambd, first).score(rows(second), second.labels) for lambd in PENALTIES["logistic"][1]}
    alike = [lambd for lambd in scores if scores[lambd] == max(scores.values())]
    best = alike[len(alike) // 2]
    return best, 100 * fitted(best, joined(first, second)).score(rows(test), test.labels)


@pytest.mark.parametrize("seed", [3, 7])
def test_the_penalty_is_the_best_of_the_200_and_the_fit_is_on_all_as_scikit_learn_has_it(seed):
    first, second = drawn({3: 29, 5: 13, 7: 7}, seed), drawn({3: 5, 5: 11, 7: 13}, seed + 100)
    test = drawn({3: 31, 5: 37, 7: 41}, seed + 200)
    found = choose_and_test("logistic", joined(second, first), test, frozenset(second.ids))
    penalty, top1 = by_scikit_learn(first, second, test)
    assert found.penalty == penalty
    assert found.top1 == pytest.approx(top1, abs=1e-9)


@pytest.mark.parametrize("classifier", PENALTIES)
def test_a_class_that_is_among_the_200_alone_is_learnt_for_the_test(classifier):
    first, second = drawn({3: 29, 5: 13}, 1, 0.1), drawn({3: 5, 5: 5, 7: 3}, 2, 0.1)
    test = drawn({3: 11, 5: 11, 7: 11}, 3, 0.1)
    found = choose_and_test(classifier, joined(first, second), test, frozenset(second.ids))
    assert found.held_out == pytest.approx(100 * 10 / 13)
    assert found.top1 == 100.0


@pytest.mark.parametrize("classifier", PENALTIES)
def test_no_choice_depends_on_the_test_images(classifier):
    first, second, test = drawn({3: 29, 7: 13}, 1), drawn({3: 5, 7: 5}, 2), drawn({3: 31, 7: 31}, 3)
    held = frozenset(second.ids)
    one = choose_and_test(classifier, joined(first, second), test, held)
    turned = choose_and_test(classifier, joined(first, second), replace(test, labels=10 - test.labels), held)
    assert (one.penalty, one.held_out) == (turned.penalty, turned.held_out)
    assert one.top1 == pytest.approx(100 - turned.top1)


def row(name: str, value: float) -> dict[str, object]:
    group = next(group for group, sets in GROUPS.items() if name in sets)
    return {"backbone": "b", "method": "ridge", "group": group, "dataset": f"vtab/{name}", "value": value}


def test_the_mean_over_sets_is_not_the_mean_of_groups():
    """Seven sets of 70, four of 40, eight of 10: (490 + 160 + 80) / 19, and (70 + 40 + 10) / 3."""
    values = {"natural": 70.0, "specialized": 40.0, "structured": 10.0}
    found = means([row(name, values[group]) for group, sets in GROUPS.items() for name in sets])
    assert {one["group"]: (one["value"], one["sets"]) for one in found} == {
        "mean of natural": (70.0, 7),
        "mean of specialized": (40.0, 4),
        "mean of structured": (10.0, 8),
        "mean of sets": (pytest.approx(730 / 19), 19),
        "mean of groups": (pytest.approx(40.0), 19),
    }


def test_a_mean_of_what_is_there_says_so():
    found = means([row("cifar", 30.0), row("dtd", 50.0), row("kitti", 70.0)])
    assert {one["group"]: one["value"] for one in found} == {
        "mean of natural, 2 of 7": 40.0,
        "mean of structured, 1 of 8": 70.0,
        "mean of sets, 3 of 19": 50.0,
    }


def test_there_are_nineteen_sets_in_groups_of_seven_four_and_eight():
    assert [len(sets) for sets in GROUPS.values()] == [7, 4, 8]
    assert len(set(SETS)) == 19


# ---- from outside


@pytest.fixture
def fewvit(capsys):
    def run(*words: object) -> tuple[int, str, str]:
        code = cli.run(["vtab", *map(str, words)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def two_sets(tmp_path):
    """Colours that a random network tells apart; class 11 is tested and never learnt."""
    vtab(tmp_path / "vtab", "cifar", {"train800": [3, 900, 3, 900, 3], "val200": [900, 3], "test": [3, 900, 3, 11]})
    vtab(tmp_path / "vtab", "kitti", {"train800": [3, 900, 900], "val200": [3], "test": [900, 3, 3]})
    return tmp_path / "vtab"


def test_sets_that_are_there_are_evaluated_and_the_missing_ones_are_named(fewvit, two_sets, tmp_path):
    words = ("-m", tiny_weights(tmp_path / "tiny.pth"), "--img-size", 32, "--data", two_sets)
    code, out, err = fewvit(*words, "--classifier", "ridge,logistic", "--format", "json")
    assert code == 0, err
    assert "17 of 19 sets are not there, and in no mean: caltech101, dtd" in err
    result = json.loads(out)
    assert result["task"] == "vtab"
    of_sets = [one for one in result["rows"] if one["dataset"] != "vtab"]
    assert {(one["dataset"], one["method"], one["n_train"], one["n_test"], one["group"]) for one in of_sets} == {
        ("vtab/cifar", "ridge", 7, 4, "natural"),
        ("vtab/cifar", "logistic", 7, 4, "natural"),
        ("vtab/kitti", "ridge", 4, 3, "structured"),
        ("vtab/kitti", "logistic", 4, 3, "structured"),
    }
    assert max(one["value"] for one in of_sets if one["dataset"] == "vtab/cifar") <= 75.0  # of class 11 none is right
    assert result["run"]["evaluation"] == "vtab/1"
    assert set(result["run"]["sets"]) == {"cifar", "kitti"}
    code, out, err = fewvit(*words, "--sets", "kitti", "--format", "csv")
    assert code == 0, err
    assert "not there" not in err
    assert "mean of sets, 1 of 19" in out


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--sets", "cifar,dtd"), 3, "dtd not there"),
        (("--sets", "cifra"), 2, "unknown set of VTAB 'cifra'. Did you mean cifar?"),
        (("--classifier", "knn"), 2, "unknown classifier of VTAB 'knn'"),
        (("--classifier", ","), 2, "no classifier"),
        (("--layers", "each"), 2, "--layers each"),
    ],
)
def test_what_cannot_be_evaluated_is_named(words, code, told, fewvit, two_sets, tmp_path):
    found, _, err = fewvit("-m", tiny_weights(tmp_path / "tiny.pth"), "--data", two_sets, *words)
    assert (found, told in err) == (code, True), err


def test_lists_that_do_not_belong_together_are_refused(fewvit, two_sets, tmp_path):
    words = ("-m", tiny_weights(tmp_path / "tiny.pth"), "--data", two_sets, "--sets", "cifar")
    both = two_sets / "cifar/train800val200.txt"
    text = both.read_text()
    both.write_text(text.replace(" 900", " 3", 1))
    assert fewvit(*words)[0] == 3
    assert "train800val200 is not train800 and val200 together" in fewvit(*words)[2]
    both.write_text(text)
    val = two_sets / "cifar/val200.txt"
    val.write_text(val.read_text() + (two_sets / "cifar/train800.txt").read_text().splitlines()[0] + "\n")
    assert "train800 and val200 share 1 image" in fewvit(*words)[2]
    assert fewvit("-m", tiny_weights(tmp_path / "tiny.pth"))[0] == 2
    code, _, err = fewvit("-m", tiny_weights(tmp_path / "tiny.pth"), "--data", tmp_path)
    assert (code, "none of VTAB's nineteen sets" in err) == (3, True)


def test_two_files_of_one_name_have_means_of_their_own():
    """A backbone is its name and its weights: two files that are both called w.pth are two."""
    of_one = {**row("cifar", 30.0), "weights_sha256": "a"}
    other = {**row("cifar", 70.0), "weights_sha256": "b"}
    found = {(one["weights_sha256"], one["group"]): (one["value"], one["sets"]) for one in means([of_one, other])}
    assert found == {
        ("a", "mean of natural, 1 of 7"): (30.0, 1),
        ("a", "mean of sets, 1 of 19"): (30.0, 1),
        ("b", "mean of natural, 1 of 7"): (70.0, 1),
        ("b", "mean of sets, 1 of 19"): (70.0, 1),
    }


def test_a_set_counts_once_in_a_mean():
    found = means([row("cifar", 30.0), row("cifar", 30.0), row("dtd", 60.0)])
    assert {one["group"]: (one["value"], one["sets"]) for one in found} == {
        "mean of natural, 2 of 7": (45.0, 2),
        "mean of sets, 2 of 19": (45.0, 2),
    }


def test_what_is_named_twice_is_evaluated_once_and_said(fewvit, two_sets, tmp_path):
    tiny = tiny_weights(tmp_path / "tiny.pth")
    words = ("--img-size", 32, "--data", two_sets, "--format", "json")
    code, out, err = fewvit("-m", f"{tiny},{tiny}", "--classifier", "ridge,ridge", "--sets", "kitti,kitti", *words)
    assert code == 0, err
    rows = json.loads(out)["rows"]
    assert [(one["dataset"], one.get("group")) for one in rows] == [
        ("vtab/kitti", "structured"),
        ("vtab", "mean of structured, 1 of 8"),
        ("vtab", "mean of sets, 1 of 19"),
    ]
    assert "named twice, and taken once" in err
    assert err.count("named twice") == 3


def test_test_images_that_are_learnt_from_are_refused_by_number_and_name(fewvit, two_sets, tmp_path):
    test = two_sets / "cifar/test.txt"
    learnt = (two_sets / "cifar/train800.txt").read_text().splitlines()[1]
    test.write_text(test.read_text() + f"./{learnt}\n")
    code, _, err = fewvit("-m", tiny_weights(tmp_path / "tiny.pth"), "--data", two_sets, "--sets", "cifar")
    assert code == 3
    assert f"test shares 1 image with train800val200: {learnt.split()[0]}" in err
