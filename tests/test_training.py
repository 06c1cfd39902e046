"""The training engine on a task small enough to compute by hand.

Order, checkpoints, log, and a run that is killed at any step.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fewvit.backbones import Architecture
from fewvit.errors import DataError, IntegrityError, NumericalError, ResourceError
from fewvit.runs.folder import RunFolder
from fewvit.training.clock import Clock
from fewvit.training.log import Log, read_log
from fewvit.training.loop import Execution, Run, Watch, _is_over, train
from fewvit.training.order import Order, share
from fewvit.training.recipe import Recipe
from fewvit.training.signals import Stopping
from fewvit.training.state import Checkpoints
from fewvit.views.view import View

IMAGES, BATCH, EPOCHS = 23, 5, 3
RECIPE = Recipe(
    architecture=Architecture(8, 1, 1, 2, grid=2),
    views=(View(4, (0.5, 1.0)),),
    epochs=EPOCHS,
    batch_size=BATCH,
    lr=0.01,
    lr_batch=None,
)


class Regression(nn.Module):
    """y = w x with dropout, momentum of its own, and everything a method has."""

    def __init__(self, recipe: Recipe = RECIPE, breaks_at: int | None = None):
        super().__init__()
        torch.manual_seed(7)
        self.recipe, self.breaks_at = recipe, breaks_at
        self.linear, self.frozen = nn.Linear(3, 2), nn.Linear(3, 2).requires_grad_(False)
        self.register_buffer("mean", torch.zeros(2))

    def groups(self):
        return [
            {"params": [self.linear.weight], "names": ["weight"], "decays": True},
            {"params": [self.linear.bias], "names": ["bias"], "decays": False, "lr_scale": 0.5},
        ]

    def schedule(self, step):
        return {"lr": self.recipe.lr * (1 - step.index / step.total), "weight_decay": 0.1}

    def forward(self, inputs, step):
        y = torch.nn.functional.dropout(self.linear(inputs[0]), 0.3)
        target = self.frozen(inputs[0]) + self.mean
        loss = (y - target).square().mean() * (math.nan if step.index == self.breaks_at else 1.0)
        return loss, {"size": torch.tensor(float(len(inputs[0])))}

    def clip(self):
        return torch.nn.utils.get_total_norm([p.grad for p in self.linear.parameters()])

    def before_update(self, step):
        pass

    @torch.no_grad()
    def after_update(self, step):
        self.mean.lerp_(self.linear.bias, 0.1)


EVERY_FOUR = Execution(save_every=4, log_every=1)
ROWS = np.random.default_rng(0).normal(size=(IMAGES, 3)).astype(np.float32)


class Rows:
    """Some numbers for each image, as batches."""

    def __len__(self):
        return IMAGES

    def read(self, step):
        return torch.from_numpy(ROWS[step.rows])

    def prepare(self, found, step):
        return [found]


def run(
    folder: Path, task: nn.Module | None = None, *, how: Execution = EVERY_FOUR, order: Order | None = None, **watch
):
    task = task or Regression()
    order = order or Order(IMAGES, BATCH, EPOCHS, seed=3)
    return task, train(task, Rows(), order, how, RunFolder(folder), Watch(**watch))


def log_of(folder: Path) -> list[dict]:
    return [{k: v for k, v in record.items() if k != "images_per_second"} for record in read_log(folder / "log.jsonl")]


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# ---- order


def test_every_epoch_takes_each_image_at_most_once_and_drops_only_the_last_incomplete_batch():
    order = Order(IMAGES, BATCH, EPOCHS, seed=3)
    assert (order.steps_per_epoch, order.total) == (4, 12)
    for epoch in range(EPOCHS):
        rows = np.concatenate([order.step(epoch * 4 + i).rows for i in range(4)])
        assert len(set(rows.tolist())) == 20
        assert set(rows.tolist()) <= set(range(IMAGES))
    assert order.step(0).rows.tolist() != order.step(4).rows.tolist()


def test_a_steps_rows_depend_on_its_number_and_the_seed_alone():
    forwards, backwards = Order(IMAGES, BATCH, EPOCHS, 3), Order(IMAGES, BATCH, EPOCHS, 3)
    last = [backwards.step(i).rows for i in reversed(range(12))][::-1]
    assert all(np.array_equal(forwards.step(i).rows, last[i]) for i in range(12))
    assert not np.array_equal(Order(IMAGES, BATCH, EPOCHS, 4).step(0).rows, last[0])


def test_the_shares_of_a_step_are_its_rows_in_order():
    step = Order(IMAGES, BATCH, EPOCHS, 3).step(5)
    assert np.array_equal(np.concatenate([share(step, part, 3).rows for part in range(3)]), step.rows)
    assert share(step, 1, 3).epoch == step.epoch == 1


def test_fewer_images_than_a_batch_are_refused_with_a_batch_size_that_fits():
    with pytest.raises(DataError, match="--batch-size 2"):
        Order(4, 5, 1, 0)


# ---- the loop against a plain one


def test_the_loop_takes_the_steps_of_a_loop_written_out(tmp_path):
    task, _ = run(tmp_path)
    plain, order = Regression(), Order(IMAGES, BATCH, EPOCHS, 3)
    plain.train()
    optimizer = torch.optim.AdamW([{"params": [plain.linear.weight]}, {"params": [plain.linear.bias]}], lr=0.0)
    from fewvit.seeds import seed_of

    for i in range(12):
        step = order.step(i)
        lr = 0.01 * (1 - i / 12)
        optimizer.param_groups[0].update(lr=lr, weight_decay=0.1)
        optimizer.param_groups[1].update(lr=lr * 0.5, weight_decay=0.0)
        torch.manual_seed(seed_of(3, "step", i, 0))
        loss, _ = plain([torch.from_numpy(ROWS[step.rows])], step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        plain.after_update(step)
    for a, b in zip(task.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_parts_of_a_batch_add_up_to_the_gradient_of_the_whole(tmp_path):
    recipe = RECIPE.__class__(**{**vars(RECIPE), "batch_size": 6})

    class Undropped(Regression):
        def forward(self, inputs, step):
            return (self.linear(inputs[0]) - self.frozen(inputs[0])).square().mean(), {}

    order = Order(IMAGES, 6, EPOCHS, 3)
    whole, _ = run(tmp_path / "whole", Undropped(recipe), order=order)
    parts, _ = run(tmp_path / "parts", Undropped(recipe), how=Execution(accumulate=3), order=order)
    assert not same(whole, Undropped(recipe))
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_the_gradient_of_a_batch_in_parts_is_the_mean_of_the_parts_and_not_their_sum(tmp_path):
    """Adam divides a gradient by its own size, so only a rule that does not tells the mean from the sum.

    Here plain descent, w -= lr g.
    """

    class Descent(Regression):
        def forward(self, inputs, step):
            return (self.linear(inputs[0]) - self.frozen(inputs[0])).square().mean(), {}

        def schedule(self, step):
            return {"lr": 0.01, "weight_decay": 0.0}

        def optimizer(self, groups):
            return torch.optim.SGD(groups)

    task, _ = run(tmp_path, Descent(), how=Execution(accumulate=2), order=Order(IMAGES, 6, 1, seed=3))
    first = Descent()
    w, b = (p.detach().double() for p in first.linear.parameters())
    target, bias = (p.detach().double() for p in first.frozen.parameters())
    order = Order(IMAGES, 6, 1, seed=3)
    for i in range(3):
        x = torch.from_numpy(ROWS[order.step(i).rows]).double()
        error = x @ (w - target).T + b - bias  # (6, 2)
        w, b = w - 0.01 * 2 / 12 * error.T @ x, b - 0.005 * 2 / 12 * error.sum(dim=0)  # of the mean of 12 squares
    torch.testing.assert_close(task.linear.weight.detach().double(), w, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(task.linear.bias.detach().double(), b, atol=1e-6, rtol=1e-5)


def test_only_the_last_part_of_a_batch_waits_for_the_other_processes():
    waited = []

    class Distributed:
        """Stands for DistributedDataParallel: outside `no_sync` a backward waits for the others."""

        def __init__(self, task):
            self.task, self.alone = task, False

        @contextlib.contextmanager
        def no_sync(self):
            self.alone = True
            yield
            self.alone = False

        def __call__(self, inputs, step):
            waited.append(not self.alone)
            return self.task(inputs, step)

    loop = Run(Regression(), Order(IMAGES, 6, 1, seed=3), Execution(accumulate=3))
    loop.model = Distributed(loop.task)
    step = loop.order.step(0)
    loop._backward(step, [torch.from_numpy(ROWS[step.rows])])
    assert waited == [False, False, True]


def test_a_group_that_is_to_be_summed_over_processes_gets_back_what_their_mean_took(monkeypatch):
    class Summing(Regression):
        def groups(self):
            weight, bias = super().groups()
            return [{**weight, "reduce": "sum"}, bias]

    loop = Run(Summing(), Order(IMAGES, BATCH, 1, seed=3), Execution())
    step = loop.order.step(0)
    found = {}
    for processes in (1, 2):
        monkeypatch.setattr("fewvit.training.loop.world_size", lambda n=processes: n)
        torch.manual_seed(0)
        loop._backward(step, [torch.from_numpy(ROWS[step.rows])])
        found[processes] = {name: p.grad.clone() for name, p in loop.task.linear.named_parameters()}
        loop.optimizer.zero_grad()
    torch.testing.assert_close(found[2]["weight"], 2 * found[1]["weight"])
    torch.testing.assert_close(found[2]["bias"], found[1]["bias"])


def test_several_processes_train_what_brings_their_gradients_together_and_keep_their_own_buffers(monkeypatch):
    made = []
    monkeypatch.setattr(
        nn.parallel, "DistributedDataParallel", lambda module, **how: made.append((module, how)) or module
    )
    for processes in (1, 2):
        monkeypatch.setattr("fewvit.training.loop.world_size", lambda n=processes: n)
        task = Regression()
        Run(task, Order(IMAGES, BATCH, 1, seed=3), Execution())
        assert len(made) == processes - 1
    assert made[0][0] is task
    assert made[0][1] == {"device_ids": None, "broadcast_buffers": False}


def beside_another_process(monkeypatch, *words: int) -> None:
    """From now on there is another process, which says these words; of both words the larger one is heard."""

    def all_reduce(word, operation):
        assert operation == torch.distributed.ReduceOp.MAX
        word.copy_(torch.maximum(word, torch.tensor(words).view(word.shape)))

    monkeypatch.setattr("fewvit.training.loop.world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)


@pytest.mark.parametrize(("own", "other", "over"), [(False, 0, False), (True, 0, True), (False, 1, True)])
def test_epochs_that_one_process_finds_enough_are_enough_for_all(own, other, over, monkeypatch):
    beside_another_process(monkeypatch, other)
    order, watch = Order(IMAGES, BATCH, 3, seed=3), Watch(enough=lambda epochs: own)
    assert [_is_over(done, order, watch, "cpu") for done in (0, 3, 4, 12)] == [False, False, over, True]


@pytest.mark.parametrize(
    ("finite", "received", "broken", "sent", "goes_on", "heard"),
    [
        (True, None, 0, 0, True, None),
        (False, None, 0, 0, False, None),
        (True, None, 1, 0, False, None),
        (True, signal.SIGINT, 0, 0, True, signal.SIGINT),
        (True, None, 0, signal.SIGTERM, True, signal.SIGTERM),
    ],
)
def test_a_number_that_is_not_finite_and_a_signal_hold_for_all_processes(
    finite, received, broken, sent, goes_on, heard, monkeypatch
):
    loop = Run(Regression(), Order(IMAGES, BATCH, 1, seed=3), Execution())
    beside_another_process(monkeypatch, broken, sent)
    stopping = types.SimpleNamespace(signal=received)
    assert loop._agreed(torch.tensor(finite), stopping) is goes_on
    assert stopping.signal == heard


def test_attention_is_written_out_for_the_patches_of_the_largest_view_and_the_class_token(monkeypatch):
    told = []
    monkeypatch.setattr("fewvit.training.loop.write_out_attention", lambda task, tokens: told.append(tokens))
    views = (View(10, (0.5, 1.0)), View(6, (0.5, 1.0)))  # 25 and 9 patches of 2 pixels
    Run(Regression(replace(RECIPE, views=views)), Order(IMAGES, BATCH, 1, seed=3), Execution())
    assert told == [26]


# ---- resume


class Killed(BaseException):
    """Stands for kill -9: nothing is done on the way out."""


@pytest.mark.parametrize("at", [1, 5, 8, 11])
def test_a_run_killed_at_any_step_ends_with_the_same_bits_and_the_same_log(tmp_path, at):
    whole, _ = run(tmp_path / "whole")

    def kill(progress):
        if progress.step == at:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "killed", progress=kill)
    resumed, trained = run(tmp_path / "killed")
    assert same(resumed, whole)
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")
    assert trained.steps == 12
    files = [sorted(p.name for p in (tmp_path / name / "checkpoints").iterdir()) for name in ("whole", "killed")]
    assert files[0] == files[1]
    for name in files[0]:
        assert (tmp_path / "whole/checkpoints" / name).read_bytes() == (
            tmp_path / "killed/checkpoints" / name
        ).read_bytes()


def test_two_checkpoints_stay_and_a_damaged_newest_one_costs_the_steps_since_the_one_before(tmp_path):
    whole, _ = run(tmp_path)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.steps() == [8, 12]
    file = tmp_path / "checkpoints/step-000000012.safetensors"
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    said = []
    assert checkpoints.newest(said.append).step == 8
    assert "step-000000012" in said[0]
    resumed, _ = run(tmp_path)
    assert same(resumed, whole)


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_anew_in_silence(tmp_path):
    run(tmp_path)
    for file in (tmp_path / "checkpoints").glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(IntegrityError, match="--overwrite"):
        run(tmp_path)


def test_a_signal_lets_the_step_finish_and_saves_it(tmp_path):
    whole, _ = run(tmp_path / "whole")

    def stop(progress):
        if progress.step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    _, trained = run(tmp_path / "stopped", progress=stop)
    assert (trained.signal, trained.steps) == (signal.SIGTERM, 6)
    assert Checkpoints(tmp_path / "stopped/checkpoints").newest().step == 6  # which no --save-every asked for
    assert signal.getsignal(signal.SIGTERM) is before
    resumed, _ = run(tmp_path / "stopped")
    assert same(resumed, whole)


def test_a_loss_that_is_not_finite_stops_the_run_before_anything_changes(tmp_path):
    broken = Regression(breaks_at=6)
    with pytest.raises(NumericalError, match="step 6"):
        run(tmp_path, broken)
    assert Checkpoints(tmp_path / "checkpoints").newest().step == 4
    assert all(bool(torch.isfinite(p).all()) for p in broken.parameters())
    resumed, _ = run(tmp_path)  # with the cause gone the run goes on from there
    whole, _ = run(tmp_path / "whole")
    assert same(resumed, whole)


def test_infinite_gradients_stop_the_run_though_the_loss_is_finite(tmp_path):
    class Steep(Regression):
        def clip(self):
            self.linear.weight.grad[0, 0] = math.inf if len(calls) == 3 else 1.0
            calls.append(1)
            return super().clip()

    calls: list[int] = []
    with pytest.raises(NumericalError, match="norm inf in step 3"):
        run(tmp_path, Steep())


def test_too_small_a_disk_is_told_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: types.SimpleNamespace(free=100))
    with pytest.raises(ResourceError, match="checkpoints"):
        run(tmp_path)
    assert not list((tmp_path / "checkpoints").glob("step-*"))


def test_the_room_that_a_checkpoint_needs_is_that_of_the_state_and_two_moments_of_what_is_trained(
    tmp_path, monkeypatch
):
    """Numbers of four bytes: 6 + 2 trained, 6 + 2 frozen, 2 in a buffer, and two moments of the 8 trained ones."""
    asked = []
    monkeypatch.setattr(Checkpoints, "require_space", lambda self, size: asked.append(size))
    run(tmp_path)
    assert asked == [4 * (8 + 8 + 2 + 2 * 8)]


def test_a_failed_save_leaves_the_older_checkpoint_whole(tmp_path, monkeypatch):
    import fewvit.training.state as state

    written = state.write_json

    def full(path, value, **how):
        if value["step"] == 8:
            raise ResourceError("disk full while writing", file=path)
        written(path, value, **how)

    monkeypatch.setattr(state, "write_json", full)
    with pytest.raises(ResourceError):
        run(tmp_path)
    monkeypatch.undo()
    assert Checkpoints(tmp_path / "checkpoints").newest().step == 4
    resumed, _ = run(tmp_path)
    assert same(resumed, run(tmp_path / "whole")[0])


def test_a_loss_scale_in_use_skips_gradients_that_are_not_finite_and_no_loss(tmp_path):
    """In fp16 the scaler leaves such a step out and scales less; the run does not stop."""
    loop = Run(Regression(breaks_at=1), Order(IMAGES, BATCH, 1, seed=3), Execution())

    def stepped(index, norm):
        loop.scaler.is_enabled = lambda: enabled
        loop.task.clip = lambda: torch.tensor(norm)
        step = loop.order.step(index)
        return loop.step(step, step, [torch.from_numpy(ROWS[step.rows])], Stopping())

    enabled = True
    assert stepped(0, math.inf).norm == math.inf
    stepped(0, 3.0)
    with pytest.raises(NumericalError):
        stepped(1, 3.0)  # its loss is NaN
    enabled = False
    with pytest.raises(NumericalError):
        stepped(0, math.inf)


@pytest.mark.parametrize(
    ("batch", "parts", "words"),
    [
        (
            7,
            1,
            "a batch of 7 in 1 part\n  Compute it in smaller parts with --accumulate 2: the batch stays what it "
            "is, or take --batch-size 3.",
        ),
        (
            7,
            3,
            "a batch of 7 in 3 parts\n  Compute it in smaller parts with --accumulate 6: the batch stays what it "
            "is, or take --batch-size 3.",
        ),
        (
            2,
            1,
            "a batch of 2 in 1 part\n  Compute it in smaller parts with --accumulate 2: the batch stays what it "
            "is, or take --batch-size 1.",
        ),
        (
            1,
            1,
            "a batch of 1 in 1 part\n  Compute it in smaller parts with --accumulate 2: the batch stays what it is.",
        ),
    ],
)
def test_a_batch_without_room_is_told_in_how_many_parts_or_how_small_it_may_fit(tmp_path, batch, parts, words):
    class Large(Regression):
        def forward(self, inputs, step):
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: you tried to "
                "allocate 9 bytes"
            )

    with pytest.raises(ResourceError) as error:
        run(tmp_path, Large(), how=Execution(accumulate=parts), order=Order(IMAGES, batch, 1, seed=3))
    assert str(error.value) == f"out of memory with {words}"


def test_each_batch_is_read_once_and_none_after_the_last(tmp_path):
    asked = []

    class Noting(Rows):
        def read(self, step):
            asked.append(step.index)
            return super().read(step)

    train(Regression(), Noting(), Order(IMAGES, BATCH, EPOCHS, seed=3), Execution(), None, Watch())
    assert asked == list(range(12))


def test_on_a_cpu_every_step_multiplies_by_onednn(monkeypatch):
    entered = []

    @contextlib.contextmanager
    def noting():
        entered.append(True)
        yield

    monkeypatch.setattr("fewvit.training.loop.onednn_matmul", noting)
    loop = Run(Regression(), Order(IMAGES, BATCH, 1, seed=3), Execution())
    for index in range(2):
        step = loop.order.step(index)
        loop.step(step, step, [torch.from_numpy(ROWS[step.rows])], Stopping())
        assert len(entered) == index + 1


# ---- how fast, and what is told


def test_speed_is_the_last_steps_with_a_tenth_of_the_newest_and_the_mean_that_of_all(monkeypatch):
    now = iter([100.0, 102.0, 103.0, 107.0, 107.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    clock = Clock(12)
    told = []
    for _ in range(3):
        clock.tick()
        told.append(clock.speed)
    assert told == pytest.approx([6, 12, 0.9 * 12 + 0.1 * 3])  # the first two steps are taken as they are
    assert clock.mean == pytest.approx(36 / 7)
    clock.tick()  # no time has passed
    assert clock.speed == pytest.approx(0.9 * told[2] + 0.1 * 12e9)


@pytest.mark.parametrize(("every", "steps"), [(1, list(range(1, 13))), (5, [5, 10, 12]), (4, [4, 8, 12])])
def test_numbers_are_logged_every_so_many_steps_and_at_the_end(tmp_path, every, steps):
    told = []
    run(tmp_path, how=Execution(log_every=every), each_log=lambda step, facts: told.append(step))
    assert [record["step"] for record in log_of(tmp_path)] == told == steps


@pytest.mark.parametrize(("every", "steps"), [(1, list(range(1, 13))), (5, [5, 10, 12]), (4, [4, 8, 12])])
def test_a_checkpoint_is_saved_every_so_many_steps_and_at_the_end(tmp_path, every, steps):
    told = []
    run(tmp_path, how=Execution(save_every=every), each_save=told.append)
    assert told == steps


def test_a_run_killed_between_its_last_checkpoint_and_what_is_made_of_it_knows_what_it_had_measured(tmp_path):
    def kill(step):
        if step == 12:
            raise Killed

    _, whole = run(tmp_path / "whole", each_epoch=lambda epochs: {"top1": 10.0 * epochs})
    with pytest.raises(Killed):
        run(tmp_path / "killed", each_epoch=lambda epochs: {"top1": 10.0 * epochs}, each_save=kill)
    saved, asked = [], []
    _, trained = run(tmp_path / "killed", each_epoch=asked.append, each_save=saved.append)
    assert (saved, asked) == ([12], [])  # what is made of it is made again, no epoch is
    assert (trained.steps, trained.last, trained.of_epoch) == (12, whole.last, {"top1": 30.0})
    assert trained.images_per_second is None


def test_a_checkpoint_without_what_was_measured_is_one_of_an_older_version_and_goes_on(tmp_path):
    run(tmp_path)
    file = tmp_path / "checkpoints/step-000000012.json"
    stored = json.loads(file.read_text())
    file.write_text(json.dumps(stored | {"facts": {"epoch": 2}}))
    _, trained = run(tmp_path)
    assert (trained.steps, trained.last, trained.of_epoch) == (12, {}, {})


def test_what_a_kill_leaves_of_a_save_is_removed_when_the_run_goes_on(tmp_path):
    run(tmp_path)
    folder = tmp_path / "checkpoints"
    files = sorted(path.name for path in folder.iterdir())
    for left in ("step-000000013.safetensors", ".step-000000013.safetensors.0f.tmp"):
        (folder / left).write_bytes(b"half")
    for ending in ("json", "safetensors"):  # killed before the oldest of three was removed
        (folder / f"step-000000004.{ending}").write_bytes((folder / f"step-000000008.{ending}").read_bytes())
    run(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == files


def test_the_log_has_images_per_second_with_two_digits_after_the_point(tmp_path, monkeypatch):
    monkeypatch.setattr(Clock, "tick", lambda self: setattr(self, "speed", 123.4567))
    run(tmp_path)
    assert {record["images_per_second"] for record in read_log(tmp_path / "log.jsonl")} == {123.46}


def test_no_gradient_is_left_after_a_step_whether_it_was_taken_or_not(tmp_path):
    task = Regression(breaks_at=2)
    loop = Run(task, Order(IMAGES, BATCH, 1, seed=3), Execution())
    for index in range(3):
        step = loop.order.step(index)
        with pytest.raises(NumericalError) if index == 2 else contextlib.nullcontext():
            loop.step(step, step, [torch.from_numpy(ROWS[step.rows])], Stopping())
        assert [p.grad for p in task.parameters()] == [None] * 4


def test_an_epoch_is_told_when_its_last_step_is_done_and_may_be_the_last_one(tmp_path):
    told, asked = [], []
    _, trained = run(
        tmp_path,
        how=Execution(log_every=100),
        each_epoch=lambda epochs: told.append(epochs) or {"top1": 10.0 * epochs},
        enough=lambda epochs: asked.append(epochs) or epochs == 2,
    )
    assert told == asked == [1, 2]  # of three
    assert trained.steps == 8
    assert [(record["step"], record.get("top1")) for record in log_of(tmp_path)] == [(4, 10.0), (8, None), (8, 20.0)]
    assert Checkpoints(tmp_path / "checkpoints").newest().step == 8


# ---- the log


def test_a_line_that_a_kill_cut_short_is_written_again(tmp_path):
    file = tmp_path / "log.jsonl"
    log = Log(file, 0)
    for step in (1, 2, 3):
        log.write(step, loss=step / 2)
    log.close()
    file.write_text(file.read_text()[:-5])
    log = Log(file, 2)
    log.write(3, loss=1.5)
    log.close()
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"step": s, "loss": s / 2} for s in (1, 2, 3)
    ]


def test_a_line_can_be_read_as_soon_as_it_is_written(tmp_path):
    log = Log(tmp_path / "log.jsonl", 0)
    log.write(1, loss=0.5)
    assert [record["loss"] for record in read_log(tmp_path / "log.jsonl")] == [0.5]
    log.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_told_by_the_line_that_does_not_fit(tmp_path):
    log = Log(tmp_path / "log.jsonl", 0)
    log._handle.close()
    log._handle = open("/dev/full", "a")  # noqa: SIM115
    for act in (lambda: log.write(1, loss=0.5), log.close):
        with pytest.raises(ResourceError, match=r"writing the log.*|log\.jsonl"):
            act()


# ---- linear layers


def test_fast_linear_layers_have_torchs_values_and_gradients():
    from fewvit.training.on_cpu import FastLinear, onednn_linear_works

    if not onednn_linear_works():
        pytest.skip("torch's private oneDNN operator is not here")
    torch.manual_seed(0)
    plain = nn.Linear(13, 7)
    fast = nn.Linear(13, 7)
    fast.load_state_dict(plain.state_dict())
    fast.__class__ = FastLinear
    x = torch.randn(5, 11, 13)
    found = []
    for layer in (plain, fast):
        own = x.clone().requires_grad_()
        layer(own).square().sum().backward()
        found.append((own.grad, layer.weight.grad, layer.bias.grad))
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-5)
    assert list(fast.state_dict()) == ["weight", "bias"]
