"""What an evaluation's explanation says, check by check, against values set by hand."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import SHARED

from fewvit.backbones import IMAGENET, Variant
from fewvit.backbones.dino import Dino
from fewvit.evaluate.explain.check import compared
from fewvit.evaluate.explain.data import class_order, data_checks, duplicates
from fewvit.evaluate.explain.explanation import explain_knn
from fewvit.evaluate.explain.method import knn_checks, lowshot_checks
from fewvit.evaluate.explain.numbers import distance, lowshot_numbers
from fewvit.evaluate.explain.reading import reading_checks
from fewvit.evaluate.explain.subject import as_published, reads_as_published, recognised, subject_of
from fewvit.evaluate.explain.text import lines
from fewvit.evaluate.explain.weights import weights_checks
from fewvit.evaluate.lowshot_options import LowShotOptions
from fewvit.evaluate.predictions import Predicted
from fewvit.extraction.pipeline import FeatureOptions, settle
from fewvit.extraction.work import Report
from fewvit.features import FeatureSet
from fewvit.models.spec import BackboneSpec

from made_images import TINY, tiny_weights

NAMES = ["n00000003", "n00000005", "n00000007"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """A small published backbone among DINO's."""
    published = {"knn": 74.5, "lowshot": {1: "38.9 ± 0.4", 5: "58.5 ± 0.1"}, "1%": 64.5}
    row = Variant(TINY, "https://nowhere/tiny.pth", sha256="3" * 64, published=published)
    monkeypatch.setattr(Dino, "variants", {**Dino.variants, "dino_tiny": row})
    return row


def spec_of(row=None, **other) -> BackboneSpec:
    row = row or Dino.variants["dino_tiny"]
    facts = {"weights_sha256": "3" * 64, "published": row.published, **other}
    return BackboneSpec("dino_tiny", "dino", row.architecture, "dino/1", **facts)


def features(n=7, classes=NAMES, seed=0, digests=None, labels=None, **facts) -> FeatureSet:
    rows = np.random.default_rng(seed).normal(size=(n, 5)).astype(np.float32)
    labels = np.arange(n) % len(classes) if labels is None else np.array(labels)
    return FeatureSet(
        rows, labels.astype(np.int64), [f"{seed}/{i}" for i in range(n)], classes, digests=digests, **facts
    )


def subject(rows=(), options=None, spec=None, train=None, test=None, predicted=(), skipped=(), task="", differing=0):
    spec = spec or spec_of()
    report = Report(images=9, differing=differing)
    train, test = train or features(), test or features(5, seed=1)
    sides = tuple(dataclasses.replace(side, report=report) for side in (train, test))
    inputs = SimpleNamespace(
        pipeline=settle(spec, options or FeatureOptions(), task), sides=sides, skipped=list(skipped), known_protocol=""
    )
    return subject_of(inputs, *sides, rows, predicted, task)


def differing(checks) -> set[str]:
    return {check.what for check in checks if check.verdict == "differs"}


def found(checks, what):
    return next(check for check in checks if check.what == what)


# ---- weights


def test_a_weights_file_is_compared_with_the_registrys_digest(tmp_path):
    assert [check.verdict for check in weights_checks(subject())] == ["ok"]
    other = next(weights_checks(subject(spec=spec_of(weights_sha256="4" * 64))))
    assert (other.verdict, other.here, other.published) == ("differs", f"sha256 {'4' * 16}", f"sha256 {'3' * 16}")
    untrained = next(weights_checks(subject(spec=spec_of(weights_sha256="random"))))
    assert (untrained.verdict, untrained.here) == ("differs", "untrained")


def test_a_weights_file_is_compared_with_the_start_of_its_md5_where_no_more_is_published(tmp_path, monkeypatch):
    file = tiny_weights(tmp_path / "tiny.pth")
    digests = {name: hashlib.new(name, file.read_bytes()).hexdigest() for name in ("md5", "sha256")}
    for prefix, verdict in ((digests["md5"][:6], "ok"), ("zzzzzz", "differs")):
        monkeypatch.setattr(Dino, "variants", {"dino_tiny": Variant(TINY, "https://nowhere/x", md5_prefix=prefix)})
        check = next(weights_checks(subject(spec=spec_of(weights_sha256=digests["sha256"], file=file))))
        assert (check.verdict, check.here) == (verdict, f"md5 {digests['md5'][:6]}")


def test_the_trunk_is_counted_and_the_network_named(tmp_path):
    import torch

    state = torch.load(tiny_weights(tmp_path / "tiny.pth"))["teacher"]
    whole = {
        "teacher": {**{f"backbone.{name}": value for name, value in state.items()}, "head.mlp.0.bias": torch.zeros(3)},
        "student": {f"module.backbone.{name}": value for name, value in state.items()},
    }
    file = tmp_path / "whole.pth"
    torch.save(whole, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    for key, network, verdict in ((None, "teacher", "ok"), ("student", "student", "differs")):
        checks = list(weights_checks(subject(spec=spec_of(weights_sha256=digest, file=file, checkpoint_key=key))))
        aside = ", 1 of the file left aside" if network == "teacher" else ""
        assert found(checks, "trunk").here == f"{len(state)} of {len(state)} tensors filled{aside}"
        check = found(checks, "network")
        assert (check.here, check.published, check.verdict) == (network, "teacher", verdict)


def test_a_bare_file_of_a_published_architecture_names_what_to_compare_it_with(tmp_path):
    file = tiny_weights(tmp_path / "tiny.pth")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    bare = dataclasses.replace(spec_of(weights_sha256=digest, file=file, published={}), name="tiny.pth")
    check = next(weights_checks(subject(spec=bare)))
    assert check.verdict == "unknown"
    assert "--backbone dino_tiny --weights FILE" in check.meaning


# ---- how features are read


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, set()),
        ({"decode": "pil"}, set()),
        ({"pool": "mean"}, {"pool"}),
        ({"layers": "2"}, {"layers"}),
        ({"layers": "each"}, {"layers"}),
        ({"img_size": "32"}, {"image size", "resize"}),
        ({"precision": "bf16"}, {"precision"}),
        ({"protocol": "msn/1"}, {"protocol", "norm", "interpolation"}),
        ({"protocol": "mae/1"}, {"protocol"}),
    ],
    ids=lambda value: ", ".join(sorted(value)) or "none",  # the same in every process
)
def test_an_option_that_changes_the_features_is_the_check_that_differs(options, wanted):
    checks = list(reading_checks(subject(options=FeatureOptions(**options))))
    assert differing(checks) == wanted
    assert {check.verdict for check in checks} <= {"ok", "differs"}


def test_mean_and_std_of_other_statistics_differ_from_the_registrys():
    spec = spec_of()
    other = subject(spec=dataclasses.replace(spec, preprocess={"mean": (0.5, 0.5, 0.5)}))
    other = dataclasses.replace(other, published=as_published(spec, ""))
    assert differing(reading_checks(other)) == {"mean"}
    assert found(reading_checks(other), "mean").here == "0.5 0.5 0.5"


def test_dinov2s_transform_is_that_of_the_task():
    spec = dataclasses.replace(spec_of(), protocol="dinov2/1")
    for task, cover in (("", "256x256"), ("lowshot", "224x224")):
        checks = list(reading_checks(subject(spec=spec, task=task)))
        assert (found(checks, "resize").here, found(checks, "resize").published) == (cover, cover)
        assert differing(checks) == {"precision"}  # its authors' is fp16


def test_the_fast_decoder_differs_from_the_official_one_in_the_images_that_it_shows_differently():
    for count, verdict in ((0, "ok"), (2, "differs")):
        check = found(reading_checks(subject(differing=count)), "decoder")
        assert (check.verdict, check.here) == (verdict, f"fast, {2 * count} of 18 images differ")
    assert found(reading_checks(subject(options=FeatureOptions(decode="pil"), differing=2)), "decoder").verdict == "ok"


@pytest.mark.parametrize("protocol", ["dino/1", "mae/1", "msn/1"])  # the first two read alike
@pytest.mark.parametrize("decode", ["fast", "pil"])
def test_a_features_file_is_recognised_by_its_fingerprint(protocol, decode):
    made = settle(spec_of(), FeatureOptions(protocol=protocol, decode=decode))
    given = features(backbone="dino_tiny", weights="3" * 64, protocol=protocol, fingerprint=made.fingerprint)
    again = recognised(given)
    assert (again.protocol.name, again.decode, again.norm) == (protocol, decode, made.norm)
    for other in ({"fingerprint": "7" * 64}, {"weights": "4" * 64}, {"weights": ""}, {"backbone": "someone's"}):
        assert recognised(dataclasses.replace(given, **other)) is None


# ---- data


@pytest.mark.parametrize(
    ("classes", "verdict", "here"),
    [
        (NAMES, "ok", "wnids, sorted"),
        (NAMES[::-1], "differs", "wnids, not sorted"),
        ([str(c) for c in range(10)], "unknown", "names, not wnids"),
        (sorted(str(c) for c in range(11)), "differs", "numbers, sorted as text: class 2 is '10'"),
        (sorted(f"{c:02d}" for c in range(11)), "unknown", "names, not wnids"),
        ([*NAMES, "owl"], "unknown", "names, not wnids"),
    ],
)
def test_the_order_of_classes_is_imagenets_where_they_are_sorted_wnids(classes, verdict, here):
    check = class_order(classes)
    assert (check.verdict, check.here) == (verdict, here)


def test_images_on_both_sides_are_found_by_their_bytes_or_else_by_equal_features():
    train, test = features(7, digests=list("abcdefg")), features(5, seed=1, digests=list("xbyza"))
    assert duplicates(train, test).here == "2 of 5, by bytes"
    rows = test.features.copy()
    rows[3] = train.features[6]
    same = dataclasses.replace(test, features=rows, digests=None)
    assert duplicates(train, same).here == "1 of 5, by equal features"
    assert duplicates(train, features(5, seed=1)).verdict == "ok"
    assert duplicates(features(7, digests=list("abcabca")), None).here == "4 of 7, by bytes"
    narrow = dataclasses.replace(train, features=train.features[:, :3])
    assert duplicates(narrow, dataclasses.replace(narrow, digests=None)).verdict == "unknown"


def test_images_classes_and_what_was_left_out_are_counted():
    train = features(7, labels=[0, 0, 2, 2, -1, -1, -1])
    checks = list(data_checks(subject(train=train, skipped=[{"id": "x", "reason": "y"}] * 2)))
    assert found(checks, "training images").here == 4
    assert (found(checks, "test images").here, found(checks, "test images").published) == (5, 50_000)
    assert found(checks, "classes").here == 2  # of three names
    assert found(checks, "left out").here == "2 skipped, 3 unlabelled"


# ---- method and number


def knn_rows(*values, temperature=0.07):
    return [{"metric": m, "k": k, "temperature": temperature, "value": v} for k, v in values for m in ("top1", "top5")]


def test_the_published_number_is_compared_at_its_k_or_else_at_the_best_of_its_authors():
    rows = knn_rows((10, 61.0), (20, 60.0), (200, 62.0))
    last = explain_knn(subject(rows))[-1]
    assert (last["here"], last["published"]) == ("60.00 at k = 20", "74.5")
    assert last["meaning"].startswith("14.50 below the published number, which was measured on other images.")
    assert "What differs: training images, test images, classes" in last["meaning"]
    dinov2 = dataclasses.replace(spec_of(), protocol="dinov2/1")
    assert explain_knn(subject(rows, spec=dinov2))[-1]["here"] == "62.00 at k = 200"
    assert differing(knn_checks(subject(knn_rows((7, 61.0), temperature=0.1)))) == {"k", "temperature"}


@pytest.mark.parametrize(
    ("value", "comparable", "verdict", "start"),
    [
        (47.1, True, "ok", "Equal to it"),
        (46.6, True, "ok", "0.50 below the published number."),
        (47.61, True, "differs", "0.51 above the published number. All that was checked agrees"),
        (46.59, True, "differs", "0.51 below"),
        (47.1, False, "unknown", "Equal to it, which was measured on other images"),
    ],
)
def test_a_number_within_half_a_point_of_the_published_one_agrees_with_it(value, comparable, verdict, start):
    check = distance("top-1", "x", value, "47.1 ± 0.1", [], comparable)
    assert check.verdict == verdict
    assert check.meaning.startswith(start)


def test_untrained_and_unpublished_backbones_say_why_there_is_no_number():
    rows = knn_rows((20, 60.0))
    for spec, why in (
        (spec_of(weights_sha256="random"), "Untrained weights"),
        (spec_of(published={}), "No number of dino_tiny is published"),
        (spec_of(published={"linear": 77.0}), "No number of dino_tiny by k-NN is published"),
    ):
        last = explain_knn(subject(rows, spec=spec))[-1]
        assert (last["published"], last["verdict"]) == (None, "unknown")
        assert last["meaning"].startswith(why)


def lowshot_rows(*cells):
    keys = ("method", "shots", "n_train", "value")
    return [{**dict(zip(keys, cell)), "metric": "top1", "trial": "mean"} for cell in cells]


@pytest.mark.skipif(not (SHARED / "data/imagenet_subsets1").is_dir(), reason="no published lists: set FEWVIT_SHARED")
def test_the_published_lists_are_known_whatever_their_files_are_called(tmp_path):
    files = []
    for number, name in ((1, "1imgs_class"), (3, "1imgs_class"), (3, "3imgs_class"), (1, "1percent")):
        files.append(tmp_path / f"{len(files)}.txt")
        shutil.copy(SHARED / f"data/imagenet_subsets{number}/{name}.txt", files[-1])
    rows = lowshot_rows(("logistic", 1, 1000, 38.0), ("logistic", 5, 5000, 58.0), ("logistic", "3", 12811, 64.0))
    checks = list(lowshot_checks(subject(rows), LowShotOptions(subsets=list(map(str, files))), {}))
    assert found(checks, "lists").here == "1 per class: sets 1, 3; 5 per class: set 3; 1%: set 1"
    assert found(checks, "lists").published == "1 per class: sets 1, 2, 3; 5 per class: sets 1, 2, 3"
    assert len(IMAGENET.lists) == 10


def test_a_list_of_ones_own_is_called_by_its_file(tmp_path):
    (tmp_path / "mine.txt").write_text("a\nb\n")
    rows = lowshot_rows(("logistic", 1, 1000, 38.0))
    checks = list(lowshot_checks(subject(rows), LowShotOptions(subsets=[str(tmp_path / "mine.txt")]), {}))
    assert (found(checks, "lists").here, found(checks, "lists").verdict) == ("mine.txt", "differs")
    assert found(checks, "labelled images").verdict == "ok"


def test_the_penalty_is_compared_with_the_protocols():
    rows = lowshot_rows(("logistic", 1, 3, 38.0))
    for lambd, verdict in ((0.1, "ok"), (0.0025, "differs")):
        chosen = {"logistic, 1 shot, trial 0": {"lambd": lambd}, "ridge, 1 shot, trial 0": {"lambd": 7.0}}
        check = found(lowshot_checks(subject(rows), LowShotOptions(), chosen), "λ")
        assert (check.here, check.published, check.verdict) == (f"{lambd:g}", "0.1", verdict)
    dinov2 = dataclasses.replace(spec_of(), protocol="dinov2/1")
    for given, verdict in ((None, "ok"), (0.5, "differs")):
        options = LowShotOptions(lambd=given)
        check = found(lowshot_checks(subject(rows, spec=dinov2), options, {"logistic,": {"lambd": 0.5}}), "λ")
        assert (check.published, check.verdict) == ("chosen", verdict)
    mae = dataclasses.replace(spec_of(), protocol="mae/1")
    assert found(lowshot_checks(subject(rows, spec=mae), LowShotOptions(), chosen), "λ").verdict == "unknown"


def test_every_number_of_shots_has_its_published_number():
    rows = lowshot_rows(
        ("logistic", 1, 3, 38.0), ("logistic", 2, 6, 40.0), ("ridge", 5, 15, 50.0), ("logistic", "1percent", 7, 60.0)
    )
    checks = list(lowshot_numbers(subject(rows), []))
    assert [(check.what, check.here, check.published) for check in checks] == [
        ("top-1, 1-shot", "38.00 by logistic", "38.9 ± 0.4"),
        ("top-1, 2-shot", "40.00 by logistic", None),
        ("top-1, 5-shot", None, "58.5 ± 0.1"),
        ("top-1, 1%", "60.00 by logistic", "64.5"),
    ]
    assert "by 2 images per class" in checks[1].meaning
    assert "--classifier logistic" in checks[2].meaning


# ---- collapse


def test_features_that_point_one_way_and_predictions_of_one_class_are_told():
    flat = features(11)
    flat = dataclasses.replace(flat, features=(1 + 1e-3 * flat.features).astype(np.float32))
    truth = np.array([0, 1, 2, 0, 1])
    for train, guess, wanted in (
        (features(11), truth, set()),
        (flat, truth * 0, {"effective rank", "mean cosine", "predicted classes"}),
    ):
        predicted = [Predicted({}, [""] * 5, truth, guess, np.ones(5), NAMES)]
        rows = explain_knn(subject(knn_rows((20, 60.0)), train=train, predicted=predicted))
        told = {row["check"] for row in rows if row["verdict"] == "differs"}
        assert told & {"effective rank", "mean cosine", "predicted classes"} == wanted


# ---- text


def test_lines_fit_the_page_and_hold_every_word_of_a_long_value():
    long = "; ".join(f"value{i}" for i in range(40))
    rows = [
        compared("alike", 1000000, 1000000, "not told").row,
        compared("long", long, "short", "told " * 60).row,
        compared("open", None, long, "why").row,
    ]
    text = lines(rows, "tiny")
    assert max(map(len, text)) <= 100
    assert text[2].split() == ["ok", "alike", "1,000,000", "1,000,000"]
    words = " ".join(text).split()
    assert sum(word.startswith("value") for word in words) == 80
    assert "not told" not in " ".join(text)
    assert "not told" in " ".join(lines(rows, whole=True))
    assert text[-1].startswith("3 checks: 1 ok, 1 differ, 1 unknown")


def test_a_published_number_is_of_its_own_weights_readout_norm_and_transform():
    """Beside the mean of the patches, or at another size, no paper's number stands."""

    def reads(spec=None, task="", **options):
        return reads_as_published(settle(spec or spec_of(), FeatureOptions(**options), task), task)

    assert reads()
    assert reads(decode="pil")
    assert reads(protocol="dino/1", precision="bf16")
    for other in ({"pool": "mean"}, {"layers": "2"}, {"layers": "each"}, {"protocol": "msn/1"}, {"img_size": "32"}):
        assert not reads(**other), other
    assert not reads(spec_of(weights_sha256="7" * 64))
    assert reads(task="lowshot")
