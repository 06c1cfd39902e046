"""The training loop: a step is a function of the state and its number, so a killed run goes on bit by bit.

It knows nothing of methods. What it trains answers the questions of `task.Task`, what it trains on those of
`batches.Batches`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..cpu import keep_freed_memory
from ..errors import NumericalError, is_out_of_memory
from ..models.products import settle_threads
from ..runs.folder import RunFolder
from ..runs.request import require_precision_on
from ..seeds import seed_of
from .batches import Batches, Fetched
from .clock import Clock
from .distributed import rank, world_size
from .log import Log
from .memory import BatchTooLarge
from .on_cpu import onednn_matmul, speed_up, write_out_attention
from .order import Order, share
from .recipe import Recipe, Step
from .signals import Stopping
from .state import Checkpoint, Checkpoints, flattened, restore_optimizer
from .task import Task

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Execution:
    """How a run is carried out; but for `accumulate`, nothing here changes what comes out."""

    device: str = "cpu"
    accumulate: int = 1  # parts that a batch is computed in, one after the other
    save_every: int = 500  # optimizer steps
    log_every: int = 10
    compile: bool = False  # torch.compile each block
    recompute: bool = False  # a block's inside again in backward, rather than keep it


@dataclass(frozen=True)
class Progress:
    """Where a run stands, for whoever follows it."""

    step: int
    total: int
    epoch: int
    epochs: int
    images_per_second: float
    facts: Mapping[str, float]


@dataclass
class Watch:
    """What is to be called while a run goes on."""

    progress: Callable[[Progress], None] = lambda progress: None
    each_epoch: Callable[[int], Mapping[str, float] | None] = lambda epochs_done: None  # facts for the log
    each_log: Callable[[int, Mapping[str, Any]], None] = lambda step, facts: None
    each_save: Callable[[int], None] = lambda step: None
    notify: Callable[[str], None] = lambda line: None
    enough: Callable[[int], bool] = lambda epochs_done: False  # whether to end here, by what `each_epoch` found so far
    # facts of what a run begins with, for the log; asked for again when it goes on, before its checkpoint is taken
    at_start: Callable[[], Mapping[str, float] | None] = lambda: None


@dataclass
class Trained:
    """How a run ended, and what it measured on the way; of a run that goes on, what it had measured before."""

    steps: int
    signal: int | None = None  # that ended it early
    images_per_second: float | None = None  # None: it had taken its last step already
    last: dict[str, float] = field(default_factory=dict)  # numbers of the step that was logged last
    of_epoch: dict[str, float] = field(default_factory=dict)  # what `each_epoch` found last

    @classmethod
    def until(cls, found: Checkpoint) -> Trained:
        """What a checkpoint knows: a run may be killed when its last one is written and its result is not."""
        return cls(found.step, last=dict(found.facts.get("last", {})), of_epoch=dict(found.facts.get("of_epoch", {})))

    def facts(self) -> dict[str, dict[str, float]]:
        """What of it a checkpoint keeps: JSON knows no NaN and no Inf, and no result has them."""
        known = {"last": self.last, "of_epoch": self.of_epoch}
        return {name: {k: v for k, v in numbers.items() if math.isfinite(v)} for name, numbers in known.items()}


def train(
    task: Task, batches: Batches[Fetched], order: Order, how: Execution, folder: RunFolder | None, watch: Watch
) -> Trained:
    """Train until the last step, or until a signal comes. Goes on from the newest whole checkpoint.

    `order` says which of the images make up which step. `folder` gets the log and the checkpoints; without one nothing
    is kept. Raises NumericalError before a step with a loss or a gradient that is not finite, ResourceError for memory
    or disk.
    """
    task.to(how.device)
    task.train()
    run = Run(task, order, how)
    checkpoints = Checkpoints(folder.checkpoints) if folder is not None else None
    found = checkpoints.newest(watch.notify) if checkpoints is not None else None
    at_start = watch.at_start()
    start = run.restore(found) if found else 0
    first = rank() == 0
    if first and checkpoints is not None:
        checkpoints.require_space(run.size())
    trained, clock = Trained.until(found) if found else Trained(0), Clock(order.batch_size)
    if first and found:
        watch.each_save(start)  # a kill may have come between the checkpoint and what is made of it
    if _is_over(start, order, watch, how.device):
        return trained
    opened = contextlib.closing(Log(folder.log, start)) if first and folder is not None else contextlib.nullcontext()
    with opened as log, Stopping() as stopping, ThreadPoolExecutor(1) as reader:
        if at_start and start == 0 and log is not None:
            log.write(0, epoch=-1, **at_start)
        ahead = reader.submit(batches.read, run.own(start))
        for index in range(start, order.total):
            own, fetched = run.own(index), ahead.result()
            if index + 1 < order.total:
                ahead = reader.submit(batches.read, run.own(index + 1))
            facts = run.step(order.step(index), own, batches.prepare(fetched, own), stopping)
            done = index + 1
            clock.tick()
            ended = done // order.steps_per_epoch if done % order.steps_per_epoch == 0 else None  # so many epochs
            of_epoch = watch.each_epoch(ended) if ended else None
            trained.of_epoch = dict(of_epoch) if of_epoch else trained.of_epoch
            over = _is_over(done, order, watch, how.device)
            if first and (done % how.log_every == 0 or over):
                trained.last = facts.numbers()
                if log is not None:
                    log.write(done, epoch=own.epoch, **trained.last, images_per_second=round(clock.speed, 2))
                watch.each_log(done, trained.last)
            if of_epoch and log is not None:
                log.write(done, epoch=own.epoch, **of_epoch)
            watch.progress(Progress(done, order.total, own.epoch, order.epochs, clock.speed, trained.last))
            if (stopping.signal or done % how.save_every == 0 or over) and checkpoints is not None and log is not None:
                log.commit()
                checkpoints.save(done, run.tensors(), {"epoch": own.epoch, **trained.facts()})
                watch.each_save(done)
            trained.steps = done
            if stopping.signal:
                trained.signal = stopping.signal
            if stopping.signal or over:
                break
    trained.images_per_second = round(clock.mean, 2)
    return trained


def _is_over(done: int, order: Order, watch: Watch, device: str) -> bool:
    """Whether no step is left, or the epochs that are done are enough; if one process finds so, it holds for all."""
    if done == order.total:
        return True
    if done == 0 or done % order.steps_per_epoch:
        return False
    enough = watch.enough(done // order.steps_per_epoch)
    if world_size() > 1:
        word = torch.tensor(int(enough), device=device)
        torch.distributed.all_reduce(word, torch.distributed.ReduceOp.MAX)
        enough = bool(word)
    return enough


class Run:
    """One task with its optimizer, and what a step does to both."""

    def __init__(self, task: Task, order: Order, how: Execution):
        self.task, self.order, self.how = task, order, how
        module, recipe = cast(nn.Module, task), cast(Recipe, task.recipe)
        if how.device == "cpu":
            keep_freed_memory()
            settle_threads()
            speed_up(module)
            views = getattr(recipe, "views", ())  # heads on features have none
            write_out_attention(
                module, max(((view.size // recipe.architecture.patch) ** 2 + 1 for view in views), default=0)
            )
        groups = task.groups()
        self.names = {id(p): name for group in groups for p, name in zip(group["params"], group["names"], strict=True)}
        plain = [{key: value for key, value in group.items() if key != "names"} for group in groups]
        own = getattr(task, "optimizer", None)
        self.optimizer = torch.optim.AdamW(plain, lr=0.0, betas=recipe.betas, fused=True) if own is None else own(plain)
        self.context = _precision(recipe.precision, how.device)
        self.matmul_kernels = onednn_matmul if how.device == "cpu" else contextlib.nullcontext
        self.scaler = torch.amp.GradScaler("cuda", enabled=recipe.precision == "fp16")
        for part in module.modules():
            if how.recompute and hasattr(part, "recompute"):
                part.recompute = True  # type: ignore[assignment]
            if how.compile and isinstance(part, nn.ModuleList):
                for block in part:
                    block.compile()
        self.model: Any = module  # or what brings its gradients together
        if world_size() > 1:
            self.model = nn.parallel.DistributedDataParallel(
                module, device_ids=[how.device] if how.device.startswith("cuda") else None, broadcast_buffers=False
            )

    def own(self, index: int) -> Step:
        """The step with this process's share of its rows."""
        return share(self.order.step(index), rank(), world_size())

    def step(self, step: Step, own: Step, inputs: Sequence[Tensor], stopping: Stopping) -> _Facts:
        """One optimizer step. Raises NumericalError, before anything has changed, when a number is not finite."""
        knobs = self.task.schedule(step)
        for group in self.optimizer.param_groups:
            group["lr"] = knobs["lr"] * group.get("lr_scale", 1.0)
            group["weight_decay"] = knobs["weight_decay"] if group["decays"] else 0.0
        seed = seed_of(step.seed, "step", step.index, rank())  # of drop path: a function of the step, not of history
        # torch's own function writes down where it was called from, for each kind of GPU that is not there: 0.3 ms
        (torch.default_generator.manual_seed if self.how.device == "cpu" else torch.manual_seed)(seed)
        with self.matmul_kernels():
            loss, facts = self._backward(own, inputs)
        self.scaler.unscale_(self.optimizer)
        norm = self.task.clip()
        # the scaler skips such steps and shrinks itself
        finite = torch.isfinite(loss) & (torch.isfinite(norm) | self.scaler.is_enabled())
        if not self._agreed(finite, stopping):
            self.optimizer.zero_grad(set_to_none=True)
            raise NumericalError(
                f"the loss is {float(loss):g} and the gradient's norm {float(norm):g} in step {step.index} "
                f"(epoch {step.epoch}); nothing was updated",
                fix="The last checkpoint is whole. Try a smaller --set lr=, gradient clipping (--set clip=3), "
                "or --precision fp32.",
            )
        self.task.before_update(step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.task.after_update(step)
        return _Facts(loss, norm, facts, knobs)

    def _backward(self, own: Step, inputs: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Gradients of the whole batch, in as many parts as asked for; the mean loss and facts of the parts."""
        parts = self.how.accumulate
        losses, of_parts = [], []
        try:
            for part in range(parts):
                last = part == parts - 1
                alone = contextlib.nullcontext() if last or self.model is self.task else self.model.no_sync()
                with alone:
                    with self.context():
                        loss, facts = self.model(_part(inputs, part, parts), share(own, part, parts))
                    self.scaler.scale(loss / parts).backward()
                losses.append(loss.detach())
                of_parts.append(facts)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise BatchTooLarge(self.order.batch_size, parts) from error
        for group in self.optimizer.param_groups if world_size() > 1 else ():
            for parameter in group["params"] if group.get("reduce") == "sum" else ():
                parameter.grad.mul_(world_size())  # DDP gave the mean
        return _mean(losses), {name: _mean([facts[name] for facts in of_parts]) for name in of_parts[0]}

    def _agreed(self, finite: Tensor, stopping: Stopping) -> bool:
        """Whether all processes may go on; a signal that one of them got holds for all."""
        if world_size() == 1:
            return bool(finite)
        word = torch.tensor([0 if finite else 1, stopping.signal or 0], device=self.how.device)
        torch.distributed.all_reduce(word, torch.distributed.ReduceOp.MAX)
        broken, number = word.tolist()
        stopping.signal = number or None
        return not broken

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the next step depends on."""
        scaler = {f"scaler.{name}": torch.tensor(value) for name, value in self.scaler.state_dict().items()}
        own = {f"task.{name}": tensor for name, tensor in self._state().items()}
        return {**own, **dict(flattened(self.optimizer, self.names)), **scaler}

    def _state(self) -> dict[str, Tensor]:
        frozen = getattr(self.task, "unchanging", ())
        return {name: tensor for name, tensor in self.task.state_dict().items() if name not in frozen}

    def size(self) -> int:
        """Bytes of a checkpoint: the state, and two moments of each trained parameter."""
        state = sum(t.numel() * t.element_size() for t in self._state().values())
        return state + 2 * sum(p.numel() * 4 for group in self.optimizer.param_groups for p in group["params"])

    def restore(self, checkpoint: Checkpoint) -> int:
        """Take the state of a checkpoint; how many steps are in it."""
        tensors = checkpoint.tensors()
        stored = {k.removeprefix("task."): v for k, v in tensors.items() if k.startswith("task.")}
        frozen = getattr(self.task, "unchanging", ())
        own = {name: tensor for name, tensor in self.task.state_dict().items() if name in frozen}
        self.task.load_state_dict({**stored, **own})
        restore_optimizer(self.optimizer, self.names, tensors)
        scaler = {k.removeprefix("scaler."): v.item() for k, v in tensors.items() if k.startswith("scaler.")}
        if scaler and self.scaler.is_enabled():
            self.scaler.load_state_dict(scaler)
        return checkpoint.step


@dataclass(frozen=True)
class _Facts:
    """What a step found, still on the device."""

    loss: Tensor
    norm: Tensor
    facts: Mapping[str, Tensor]
    knobs: Mapping[str, float]

    def numbers(self) -> dict[str, float]:
        found = {name: float(value) for name, value in self.facts.items()}
        return {"loss": float(self.loss), "gradient_norm": float(self.norm), **found, **self.knobs}


def _mean(of_parts: Sequence[Tensor]) -> Tensor:
    """The mean over a batch's parts, most often a single one."""
    numbers = [part.detach().float() for part in of_parts]
    return numbers[0].clone() if len(numbers) == 1 else torch.stack(numbers).mean()


def _precision(precision: str, device: str) -> Callable[[], contextlib.AbstractContextManager[object]]:
    """A context in which matrix products are of this precision."""
    if precision == "fp32":
        return contextlib.nullcontext
    require_precision_on(precision, device)
    return lambda: torch.autocast(device.split(":")[0], dtype=_DTYPES[precision])


def _part(inputs: Sequence[Tensor], part: int, parts: int) -> list[Tensor]:
    """One part of every view, split as `share` splits rows."""
    return [torch.tensor_split(view, parts)[part] for view in inputs]
