"""Self-supervised pretraining on a folder of images: one run, from its arguments to an encoder for `--backbone`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..datasets import Dataset, Listing, open_dataset, select
from ..digests import Contents, DigestMemory, contents_of
from ..errors import BadImages, MissingExtra
from ..extraction.work import allowed_bad
from ..files import replacing, sha256_of
from ..methods import Method
from ..models.resolve import run_backbone
from ..models.spec import Access, BackboneSpec
from ..preprocess import Preprocess
from ..results import Result, Row, manifest
from ..runs.folder import ENCODER, RunFolder
from ..runs.request import Audience, require_precision_on
from ..seeds import seed_of
from ..sources import announce
from .budget import require_one_length, within_budget
from .monitor_images import (
    labelled_monitor_images,
    require_different_images,
    unlabelled_monitor_images,
    without_monitor_images,
)
from .request import (
    PretrainingEffort,
    PretrainingRequest,
    continued_architecture,
    evaluation_transform,
    identity,
    protocol_for,
    recipe_of,
    tell_what_init_changed,
    warn_of_few_images,
    warn_of_small_images,
)
from .rows import rows_of
from .start import start_of, trunk_of

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from ..training.loop import Trained
    from .monitor import Judged

_SHOWN = 8  # of the monitor's images in a method's figures


def run_pretrain(
    request: PretrainingRequest,
    effort: PretrainingEffort,
    out: Path,
    access: Access,
    memory: DigestMemory,
    listing: Listing,
    audience: Audience,
) -> tuple[Result | None, int | None]:
    """Train, or go on with, the run in `out`; its result, and the signal that ended it early, if one did.

    Only the first process has a result. Raises UsageError when the run was begun with other arguments, DataError for
    what is missing or too little, NumericalError for a loss that is not finite, ResourceError for memory and disk.
    """
    from ..models.engines import resolve_device
    from ..training.distributed import rank, together, wait_for_all

    recipe = recipe_of(request)
    require_one_length(request)
    allowed_bad(request.max_bad, 1)
    folder = RunFolder(out)
    dataset = announce(open_dataset(request.data, listing), audience.notify)
    monitor = announce(open_dataset(request.monitor, listing), audience.notify) if request.monitor else None
    spec = start_of(request, access, memory)
    if spec is not None:
        wanted = recipe.architecture
        recipe = dataclasses.replace(recipe, architecture=continued_architecture(spec, wanted))
    preprocess = evaluation_transform(recipe)
    made = run_backbone(recipe.family, protocol_for(recipe).name, recipe.architecture, preprocess)
    with together(resolve_device(effort.device)) as device:
        require_precision_on(recipe.precision, device)
        effort = dataclasses.replace(effort, device=device)
        request = within_budget(request, dataset, recipe.architecture, effort, folder, audience.notify)
        recipe = dataclasses.replace(recipe_of(request), architecture=recipe.architecture)
        what = identity(request, recipe, dataset, monitor, spec)
        goes_on = folder.begin(what, {"backbone": made}, anew=effort.overwrite) if rank() == 0 else True
        wait_for_all()
        stored = folder.finished(audience.notify)
        if stored is not None:
            return stored if rank() == 0 else None, None
        if spec is None and not goes_on:
            warn_of_few_images(request, len(dataset), audience.notify)
        with folder.in_use(first=rank() == 0):
            sides = {"data": dataset} | ({"monitor": monitor} if monitor is not None else {})
            contents = _contents(sides, memory, audience.notify)
            if rank() == 0:
                folder.require_contents(contents)
            images = _Images(dataset, monitor, contents)
            run = _Pretraining(request, recipe, effort, folder, images, preprocess, spec, audience)
            if not goes_on:
                if spec is not None:
                    tell_what_init_changed(request, wanted, recipe.architecture, audience.notify)
                warn_of_small_images(request, recipe, run.images.sizes, audience.notify)
            return run.run()


def _contents(sides: Mapping[str, Dataset], memory: DigestMemory, notify: Callable[[str], None]) -> dict[str, Contents]:
    """What is in each set of images. Of several processes each reads its share, and takes the rest from the memory."""
    from ..training.distributed import rank, wait_for_all, world_size

    if world_size() > 1:
        for side in sides.values():
            contents_of(select(side, range(rank(), len(side), world_size())), memory)
        wait_for_all()
        memory.refresh()
    return {name: contents_of(side, memory, notify) for name, side in sides.items()}


@dataclass(frozen=True)
class _Images:
    """What a run trains on, and is monitored on."""

    dataset: Dataset
    monitor: Dataset | None
    contents: Mapping[str, Contents]  # of both, as `data` and `monitor`


class _Pretraining:
    """One run under way: what it trains, on what, and what it shows on the way."""

    def __init__(
        self,
        request: PretrainingRequest,
        recipe: Method,
        effort: PretrainingEffort,
        folder: RunFolder,
        given: _Images,
        preprocess: Preprocess,
        spec: BackboneSpec | None,
        audience: Audience,
    ):
        import torch

        from ..training.distributed import rank
        from ..training.order import Order
        from ..views.training_images import TrainingImages

        self.request, self.recipe, self.effort, self.folder = request, recipe, effort, folder
        self.audience, self.device = audience, effort.device
        contents, monitor = given.contents["data"], given.monitor
        rows = without_monitor_images(given.dataset, contents, given.contents.get("monitor"), audience.notify)
        whole = len(rows) == len(given.dataset)
        dataset = self.dataset = given.dataset if whole else select(given.dataset, rows.tolist())
        self.images = TrainingImages(dataset, workers=effort.workers, max_pixels=effort.max_pixels, folder=folder.path)
        self._refuse_bad()
        require_different_images(dataset, contents, rows[self.images.rows])
        self.order = Order(len(self.images), recipe.batch_size, recipe.epochs, request.seed)
        torch.manual_seed(seed_of(request.seed, "weights"))
        self.task = recipe.task()
        if spec is not None:
            self.task.start_from(trunk_of(spec))
        self.monitor_images = (
            labelled_monitor_images(monitor, preprocess, request, effort)
            if monitor is not None
            else unlabelled_monitor_images(dataset, self.images.rows, preprocess, request, effort)
        )
        self.start: Judged | None = None
        self.monitor_name = (monitor if monitor is not None else dataset).name
        self.collapsed = False
        self.board = _board(folder) if effort.tensorboard and rank() == 0 else None

    def run(self) -> tuple[Result | None, int | None]:
        """Train to the end or to a signal; what was measured, in the first process."""
        from ..training.distributed import rank
        from ..training.loop import Execution, Watch, train
        from .batches import ViewBatches

        effort, request = self.effort, self.request
        how = Execution(
            self.device,
            request.accumulate,
            effort.save_every,
            effort.log_every,
            effort.compile,
            effort.checkpoint_activations,
        )
        watch = Watch(
            lambda p: self.audience.progress("", p),
            self._monitor,
            self._logged,
            self._export,
            self.audience.notify,
            at_start=self._at_start,
        )
        batches = ViewBatches(self.images, self.recipe.views, self.device)
        trained = train(self.task, batches, self.order, how, self.folder, watch)
        if self.board is not None:
            self.board.close()
        if rank() != 0:
            return None, trained.signal
        if trained.signal is None:
            self._draw_curves()
        result = self._result(trained)
        if trained.signal is None:
            result = self.folder.finish(result, [ENCODER])
        return result, trained.signal

    def _refuse_bad(self) -> None:
        bad = self.images.skipped
        self.audience.skipped(bad)
        if len(bad) > allowed_bad(self.request.max_bad, len(self.dataset)):
            shown = ", ".join(record["id"] for record in bad[:5])
            raise BadImages(
                f"{len(bad)} of {len(self.dataset)} images cannot be decoded: {shown}",
                fix="Repair or remove them, or allow some with --max-bad N or --max-bad P%.",
            )

    def _judged(self) -> Judged:
        """What the encoder's features are worth now."""
        from ..models.readout import Readout
        from .monitor import features_of, judge

        protocol = protocol_for(self.recipe)
        readout = Readout(self.recipe.pool or protocol.pool, protocol.layers, protocol.norm)
        features = features_of(self.task.encoder(), self.monitor_images.pixels, readout, self.device)
        return judge(features, self.monitor_images)

    def _at_start(self) -> Mapping[str, float] | None:
        """What the encoder's features are worth before the first step: every epoch is compared with it."""
        from ..training.distributed import rank

        if rank() != 0:
            return None
        self.start = self._judged()
        return self.start.facts

    def _monitor(self, epochs: int) -> dict[str, float] | None:
        """What the encoder's features are worth after this many epochs."""
        from ..training.distributed import rank

        if rank() != 0 or (epochs % self.request.monitor_every and epochs != self.recipe.epochs):
            return None
        from .monitor import gain

        judged = self._judged()
        if self.recipe.figures:
            self._draw_figures(epochs)
        return {**judged.facts, **(gain(self.start, judged) if self.start is not None else {})}

    def _draw_figures(self, epochs: int) -> None:
        """What the method shows of eight of the monitor's images, a row below the other."""
        from PIL import Image

        from ..views.evaluation_images import normalised

        images = normalised(self.monitor_images.pixels[:_SHOWN], self.device)
        figures = self.task.figures(images, self.request.seed)  # type: ignore[attr-defined]
        rows = [np.concatenate(list(shown), axis=1) for shown in figures.values()]
        with replacing(self.folder.path / self.recipe.figures / f"epoch-{epochs:04d}.png") as handle:
            Image.fromarray(np.concatenate(rows)).save(handle, "PNG")

    def _logged(self, step: int, facts: Mapping[str, float]) -> None:
        """Say it when a collapse begins; TensorBoard gets everything."""
        if self.board is not None:
            for name, value in facts.items():
                self.board.add_scalar(name, value, step)
        from .monitor import collapse

        verdict = collapse(facts, self.task.max_entropy)
        if verdict and not self.collapsed:
            self.audience.notify(f"step {step}: {verdict}")
        self.collapsed = verdict is not None

    def _export(self, step: int) -> None:
        """The encoder as it is now, in a file that every command takes."""
        from safetensors.torch import save

        tensors = {
            name: tensor.detach().cpu().contiguous() for name, tensor in self.task.encoder().state_dict().items()
        }
        with replacing(self.folder.encoder) as handle:
            handle.write(save(tensors, {"format": "pt"}))  # one entry: safetensors writes several in random order

    def _result(self, trained: Trained) -> Result:
        from .monitor import verdict

        facts = {
            "preset": self.request.preset,
            "epochs": self.recipe.epochs,
            "steps": trained.steps,
            "seed": self.request.seed,
            "weights_sha256": sha256_of(self.folder.encoder) if self.folder.encoder.exists() else None,
            "images_per_second": trained.images_per_second,
            "skipped": len(self.images.skipped),
            "verdict": verdict(trained.of_epoch, trained.steps // self.order.steps_per_epoch),
        }
        if facts["verdict"] and trained.signal is None:
            self.audience.notify(str(facts["verdict"]))
        return Result("pretrain", self._rows(trained), manifest(**facts))

    def _rows(self, trained: Trained) -> list[Row]:
        name = {"dataset": self.dataset.name, "backbone": str(self.folder.path), "method": self.request.method}
        start = self.start.facts if self.start is not None else {}
        own = {**name, "n_train": len(self.images)}
        return list(rows_of(own, trained.last, trained.of_epoch, start, self.monitor_images, self.monitor_name))

    def _draw_curves(self) -> None:
        from .curves import draw

        draw(self.folder.path / "curves.png", self.folder.log, self.audience.notify)


def _board(folder: RunFolder) -> SummaryWriter:
    """A writer of TensorBoard's files. Raises MissingExtra."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtra(
            "TensorBoard is not installed", fix="pip install 'fewvit[tensorboard]', or leave --tensorboard out."
        ) from error
    return SummaryWriter(str(folder.path / "tensorboard"))
