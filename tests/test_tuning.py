"""A network while it is fine-tuned.

Its classifier, its loss, tokens that are computed once, and what the engine gives it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from fewvit.backbones import Architecture
from fewvit.classifiers.logistic import LogisticRegression
from fewvit.datasets import open_dataset
from fewvit.errors import DataError, ResourceError
from fewvit.finetune.adapters import prepare
from fewvit.finetune.batches import LabelledImages
from fewvit.finetune.modes import TuningRecipe, recipe_for
from fewvit.finetune.tuning import ClassificationHead, Tuning
from fewvit.images import MAX_PIXELS, decode
from fewvit.methods._trunk import Trunk
from fewvit.models.backbone import randomise
from fewvit.models.readout import Readout
from fewvit.preprocess import Preprocess
from fewvit.runs.folder import RunFolder
from fewvit.training.batches import Subset
from fewvit.training.log import read_log
from fewvit.training.loop import Execution, Run, Watch, train
from fewvit.training.order import Order
from fewvit.training.recipe import Step
from fewvit.training.signals import Stopping
from fewvit.training.state import Checkpoints
from fewvit.views.crops import make_views
from fewvit.views.evaluation_images import EvaluationImages, normalised
from fewvit.views.mixing import soft_targets
from fewvit.views.training_images import TrainingImages
from fewvit.views.view import View

from made_images import folder_of, jpeg

SMALL = Architecture(width=16, depth=3, heads=2, patch=8, grid=3)
PREPROCESS = Preprocess(cover=(28, 28), crop=(24, 24))
CLASSES, PER_CLASS = 3, (5, 4, 2)
LABELS = np.repeat(np.arange(CLASSES), PER_CLASS)


def recipe(mode: str, **changes) -> TuningRecipe:
    made, _ = recipe_for(mode, SMALL, View(24, (1.0, 1.0)), "dino", 11, 5)
    plain = dict.fromkeys(("flip", "randaugment", "erase", "mixup", "cutmix"), 0.0)
    changes = {**plain, "crop": 1.0, "epochs": 3, "batch_size": 4, "lr": 0.01, **changes}
    made = dataclasses.replace(made, **changes)
    return dataclasses.replace(made, views=(View(24, (made.crop, 1.0), flip=made.flip),))


def task(mode: str = "lora", seed: int = 3, readout: Readout = Readout(), **changes) -> Tuning:  # noqa: B008  frozen
    made = recipe(mode, **changes)
    trunk = Trunk(SMALL, made.drop_path)
    randomise(trunk, seed)
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=stream) * 0.1)
    prepare(trunk, made, readout.norm != "none", stream)
    return Tuning(
        made,
        trunk,
        readout,
        ClassificationHead(torch.randn(CLASSES, 16, generator=stream), torch.zeros(CLASSES), "unit", with_bias=False),
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = folder_of(tmp_path_factory.mktemp("images"), dict(zip("abc", PER_CLASS, strict=True)))
    return open_dataset(str(root))


def evaluation_of(dataset, **options) -> EvaluationImages:
    return EvaluationImages(dataset, PREPROCESS, "fast", max_pixels=MAX_PIXELS, **options)


def images_of(dataset, made: TuningRecipe, **options) -> LabelledImages:
    images = TrainingImages(dataset) if made.crop < 1 else None
    return LabelledImages(evaluation_of(dataset), images, LABELS, CLASSES, made, "cpu", **options)


def step(rows, index: int = 0, epochs: int = 3) -> Step:
    return Step(index, 2, epochs, 7, np.asarray(rows))


# ---- the classifier


@pytest.mark.parametrize("rows", ["centred", "unit", "raw"])
@pytest.mark.parametrize("intercept", [False, True])
def test_a_head_made_of_a_logistic_regression_gives_its_probabilities(rows, intercept):
    rng = np.random.default_rng(5)
    x, y = (rng.normal(size=(23, 7)) + 2).astype(np.float32), rng.integers(0, 3, 23)
    fitted = LogisticRegression(rows=rows, intercept=intercept, lambd=0.3).fit(x, y)
    head = ClassificationHead(
        torch.from_numpy(fitted.coef_),
        torch.from_numpy(np.asarray(fitted.intercept_, np.float32)),
        rows,
        with_bias=intercept,
    )
    with torch.no_grad():
        found = torch.softmax(head(torch.from_numpy(x)).double(), dim=1).numpy()
    np.testing.assert_allclose(found, fitted.predict_proba(x), atol=2e-6)
    assert head.bias.requires_grad is intercept


# ---- the loss


def test_the_loss_is_the_cross_entropy_with_soft_targets_by_hand():
    made = task("full", drop_path=0.0)
    images, labels = (
        torch.randn(5, 3, 24, 24, generator=torch.Generator().manual_seed(1)),
        torch.tensor([2, 0, 1, 1, 2]),
    )
    targets = soft_targets(labels, CLASSES, 0.1)
    loss, facts = made([images, targets], step([4, 1, 0, 2, 3]))
    tokens = made.trunk.norm(made.trunk.encode(images)[:, 0])
    logits = (tokens / tokens.norm(dim=1, keepdim=True)) @ made.head.weight.T
    expected = np.mean(
        [
            -sum(t * p for t, p in zip(row, logs, strict=True))
            for row, logs in zip(targets.tolist(), logits.log_softmax(1).tolist(), strict=True)
        ]
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert facts["train_top1"].item() == pytest.approx(100 * (logits.argmax(1) == labels).float().mean().item())


@pytest.mark.parametrize("readout", [Readout(), Readout("cls", 1, "none"), Readout("mean"), Readout("cls+mean")])
def test_the_feature_is_the_one_that_the_frozen_backbone_gives(readout):
    made = task("last-block", readout=readout).eval()
    images = torch.randn(3, 3, 24, 24)
    torch.testing.assert_close(made.features(images), made.trunk.read(images, readout), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        made.features(made.enter(images)), made.trunk.read(images, readout), atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("mode", "changes"), [("last-block", {}), ("lora", {}), ("lora", {"blocks": 2}), ("norm", {"drop_path": 0.5})]
)
def test_tokens_that_were_computed_once_give_the_loss_and_gradients_of_the_images(dataset, mode, changes):
    made, numbers = task(mode, **changes), np.array([3, 10, 0, 7])
    labelled = images_of(dataset, made.recipe)
    now = step(numbers, index=1)
    found = []
    for kept in (False, True):
        if kept:
            assert "run once" in labelled.keep_tokens(made)
        inputs = labelled.prepare(labelled.read(now), now)
        assert inputs[0].ndim == (3 if kept else 4)
        loss, _ = made(inputs, now)
        made.zero_grad()
        loss.backward()
        found.append([loss, *(p.grad for p in made.parameters() if p.requires_grad)])
    for plain, cached in zip(*found, strict=True):
        torch.testing.assert_close(plain, cached, atol=1e-6, rtol=1e-4)
    assert max(float(gradient.abs().max()) for gradient in found[0][1:]) > 1e-4


def test_without_gradient_below_the_first_change_nothing_is_kept_there():
    made = task("last-block")
    assert not made.enter(torch.randn(2, 3, 24, 24)).requires_grad
    made.features(torch.randn(2, 3, 24, 24)).sum().backward()
    assert all(
        p.grad is None for name, p in made.trunk.named_parameters() if not name.startswith(("blocks.2.", "norm."))
    )


def test_a_warm_up_shorter_than_two_steps_is_none_so_that_no_step_of_a_few_is_lost():
    made = task("lora", epochs=2, lr=0.01, warmup_epochs=1.0)
    rows = np.zeros(1, np.int64)
    assert made.schedule(Step(0, 1, 2, 0, rows))["lr"] == 0.01
    assert made.schedule(Step(0, 2, 2, 0, rows))["lr"] == 0.0
    assert made.schedule(Step(1, 2, 2, 0, rows))["lr"] == pytest.approx(0.005)


# ---- batches


def test_tokens_that_are_too_many_are_computed_in_every_step_and_it_is_said(dataset):
    made = task("last-block")
    size = len(dataset) * 10 * 16 * 4  # 9 patches and the class token, 16 wide, fp32
    labelled = images_of(dataset, made.recipe, token_bytes=size - 1)
    assert "run in every step" in labelled.keep_tokens(made)
    assert len(labelled.read(step([1]))) == 1
    labelled = images_of(dataset, made.recipe, token_bytes=size)
    assert "2 of 3 blocks" in labelled.keep_tokens(made)
    assert len(labelled.read(step([1]))) == 0
    assert labelled.keep_tokens(made) == ""


def test_where_images_change_or_the_embedding_does_no_tokens_are_kept(dataset):
    for made in (task("last-block", flip=0.5), task("full"), task("lora", mixup=0.8), task("lora", crop=0.5)):
        assert images_of(dataset, made.recipe).keep_tokens(made) == ""


def test_images_as_they_are_evaluated_come_from_the_protocols_transform(dataset):
    numbers = np.array([6, 2, 6])
    labelled = images_of(dataset, recipe("full"))
    inputs = labelled.prepare(labelled.read(step(numbers)), step(numbers))
    expected = np.stack([decode(dataset.read(i), PREPROCESS)[0] for i in numbers])
    assert torch.equal(inputs[0], normalised(expected, "cpu"))
    torch.testing.assert_close(inputs[1], soft_targets(torch.from_numpy(LABELS[numbers]), CLASSES, 0.1))


@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_images_that_do_not_fit_into_memory_are_decoded_again(dataset, memory, monkeypatch):
    seen, reads = evaluation_of(dataset, memory_bytes=memory), []
    monkeypatch.setattr(type(dataset), "read", lambda self, i: reads.append(i) or self.reader.read(i))
    first, again = seen.pixels(np.array([4, 1, 4])), seen.pixels(np.array([1, 4]))
    assert np.array_equal(first[[1, 0]], again)
    assert np.array_equal(first[0], decode(dataset.reader.read(4), PREPROCESS)[0])
    assert len(reads) == (5 if memory == 0 else 2)


def test_random_crops_are_the_views_of_their_numbers(dataset):
    made = recipe("full", crop=0.3, flip=0.5)
    numbers = np.array([9, 4, 0])
    labelled = images_of(dataset, made)
    now, alone = step(numbers, index=5), step(numbers[1:2], index=5)
    images = labelled.prepare(labelled.read(now), now)[0]
    expected = make_views(TrainingImages(dataset).read(numbers), made.views, seed=7, epoch=2, rows=numbers)[0]
    assert torch.equal(images, expected)
    assert torch.equal(labelled.prepare(labelled.read(alone), alone)[0][0], images[1])


def test_flips_without_crops_mirror_about_half_of_the_images_each_as_drawn_for_it(dataset):
    labelled = images_of(dataset, recipe("full", flip=0.5))
    numbers = np.arange(len(dataset))
    plain = normalised(evaluation_of(dataset).pixels(numbers), "cpu")
    mirrored = []
    for epoch in range(6):
        now = step(numbers, index=2 * epoch, epochs=6)
        images = labelled.prepare(labelled.read(now), now)[0]
        for image, before in zip(images, plain, strict=True):
            mirrored.append(not torch.equal(image, before))
            assert torch.equal(image, before.flip(2) if mirrored[-1] else before)
    assert 0.3 < np.mean(mirrored) < 0.7


def test_mixed_batches_have_mixed_targets(dataset):
    labelled = images_of(dataset, recipe("full", mixup=0.8, label_smoothing=0.0))
    numbers = np.array([0, 10])  # of the classes 0 and 2
    plain = normalised(evaluation_of(dataset).pixels(numbers), "cpu")
    images, targets = labelled.prepare(labelled.read(step(numbers)), step(numbers))
    share = float(targets[0, 0])
    torch.testing.assert_close(targets, torch.tensor([[share, 0, 1 - share], [1 - share, 0, share]]))
    torch.testing.assert_close(images[0], share * plain[0] + (1 - share) * plain[1], atol=1e-5, rtol=1e-5)
    assert 0 < share < 1


def test_logits_are_those_of_the_evaluations_images_whatever_training_does(dataset):
    made = task("lora", crop=0.3, flip=0.5, drop_path=0.9).train()
    numbers = np.array([8, 3, 3, 1])
    found = images_of(dataset, made.recipe).logits(made, numbers)
    with torch.no_grad():
        tokens = made.trunk.eval().read(normalised(evaluation_of(dataset).pixels(numbers), "cpu"), Readout())
        expected = torch.nn.functional.normalize(tokens, dim=1) @ made.head.weight.T
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    assert made.training


def test_a_labelled_image_that_cannot_be_decoded_is_named(tmp_path):
    root = folder_of(tmp_path, {"a": 2})
    (root / "a/000.jpg").write_bytes(jpeg(1)[:200])
    with pytest.raises(DataError, match=r"000\.jpg"):
        evaluation_of(open_dataset(str(root))).pixels(np.array([0]))


def test_batches_of_some_images_are_those_of_their_numbers_among_all(dataset):
    labelled, rows = images_of(dataset, recipe("full", crop=0.3, flip=0.5, mixup=0.8)), np.array([9, 2, 6, 4, 0])
    some, now, among_all = Subset(labelled, rows), step([3, 0, 4], index=2), step([4, 9, 0], index=2)
    assert len(some) == 5
    for found, expected in zip(
        some.prepare(some.read(now), now), labelled.prepare(labelled.read(among_all), among_all), strict=True
    ):
        assert torch.equal(found, expected)


# ---- on the engine


def run(folder: Path, made: Tuning, labelled: LabelledImages, **watch):
    order = Order(len(LABELS), 4, made.recipe.epochs, 7)
    return train(made, labelled, order, Execution(save_every=2, log_every=1), RunFolder(folder), Watch(**watch))


def test_training_makes_the_labelled_images_right(dataset, tmp_path):
    made = task("lora", epochs=40, lr=0.02, label_smoothing=0.0)
    labelled = images_of(dataset, made.recipe)
    before = (labelled.logits(made, np.arange(11)).argmax(axis=1) == LABELS).mean()
    run(tmp_path, made, labelled)
    assert (labelled.logits(made, np.arange(11)).argmax(axis=1) == LABELS).mean() == 1.0 > before


def test_checkpoints_hold_what_changes_and_a_run_goes_on_from_them(dataset, tmp_path):
    whole = task()
    labelled = images_of(dataset, whole.recipe)
    run(tmp_path / "whole", whole, labelled)
    stopped = run(tmp_path / "parts", task(), labelled, enough=lambda epochs: epochs == 2)
    assert stopped.steps == 4
    tensors = Checkpoints(tmp_path / "parts/checkpoints").newest().tensors()
    own = {name.removeprefix("task.") for name in tensors if name.startswith("task.")}
    assert own == {name for name, p in whole.named_parameters() if p.requires_grad}
    again = task()
    run(tmp_path / "parts", again, labelled)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), whole.state_dict().values(), strict=True))
    records = [{k: v for k, v in r.items() if k != "images_per_second"} for r in read_log(tmp_path / "parts/log.jsonl")]
    assert records == [
        {k: v for k, v in r.items() if k != "images_per_second"} for r in read_log(tmp_path / "whole/log.jsonl")
    ]


def test_a_training_that_was_enough_stays_so_when_it_is_called_again(dataset, tmp_path):
    made = task()
    labelled = images_of(dataset, made.recipe)
    for _ in range(2):
        made = task()
        trained = run(tmp_path, made, labelled, enough=lambda epochs: epochs >= 1)
        assert trained.steps == 2
    assert len(list(read_log(tmp_path / "log.jsonl"))) == 2
    assert Checkpoints(tmp_path / "checkpoints").steps() == [2]


@pytest.mark.parametrize(
    "words", ["DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes", "not enough memory"]
)
def test_out_of_memory_names_a_batch_size_to_try(dataset, words, monkeypatch):
    made = task()
    labelled, order = images_of(dataset, made.recipe), Order(len(LABELS), 4, 3, 7)
    engine, now = Run(made, order, Execution()), order.step(0)

    def without_room(*_, **__):
        raise RuntimeError(words)

    monkeypatch.setattr(made.trunk, "through", without_room)
    with pytest.raises(ResourceError, match="--batch-size 2"):
        engine.step(now, now, labelled.prepare(labelled.read(now), now), Stopping())
    assert ResourceError.exit_code == 6


def test_recomputed_blocks_give_the_same_gradients(dataset):
    found = []
    for recompute in (False, True):
        made = task("lora", drop_path=0.4)
        made.trunk.recompute = recompute
        labelled, numbers = images_of(dataset, made.recipe), np.array([5, 1, 9])
        loss, _ = made(labelled.prepare(labelled.read(step(numbers)), step(numbers)), step(numbers))
        loss.backward()
        found.append([p.grad for p in made.parameters() if p.requires_grad])
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again)
