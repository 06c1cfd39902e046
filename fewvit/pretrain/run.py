"""Self-supervised pretraining on a folder of images: one run from its arguments to an encoder that every command takes as `--backbone`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets import Dataset, Listing, open_dataset
from ..errors import BadImages, MissingExtra
from ..extraction.work import allowed_bad
from ..files import replacing, sha256_of
from ..models.build import build
from ..models.resolve import resolve, run_backbone
from ..models.spec import Access, BackboneSpec
from ..preprocess import Preprocess
from ..results import Result, manifest
from ..runs import ENCODER, RunFolder
from ..seeds import generator, seed_of
from ..sources import announce
from ..training.request import Audience, require_precision_on
from .recipe import Choice, Effort, _continued, _warn_of_few, _warn_of_small_pictures, _what, evaluation_transform, protocol_for, recipe_of
from .watching import _UNLABELLED, _decoded, _labelled_to_watch, _refuse_one_picture, _without_watched

_SHOWN = 8  # watched images in a method's figures


def run_pretrain(
    choice: Choice, effort: Effort, out: Path, access: Access, memory: Any, listing: Listing, audience: Audience
) -> tuple[Result, int | None]:
    """Train, or go on with, the run in `out`; its result, and the signal that ended it early, if one did.

    Raises UsageError when the run was begun with other arguments, DataError for what is missing or too little, NumericalError for
    a loss that is not finite, ResourceError for memory and disk.
    """
    from ..models.engines import resolve_device
    from ..training.distributed import rank, together, wait_for_all

    recipe = recipe_of(choice)
    allowed_bad(choice.max_bad, 1)
    folder = RunFolder(out)
    dataset = announce(open_dataset(choice.data, listing), audience.say)
    watched = open_dataset(choice.monitor, listing) if choice.monitor else None
    spec = resolve(choice.init, access, memory) if choice.init else None
    if spec is not None:
        recipe = dataclasses.replace(recipe, architecture=_continued(spec, recipe.architecture))
    preprocess = evaluation_transform(recipe)
    made = run_backbone(recipe.family, protocol_for(recipe).name, recipe.architecture, preprocess)
    with together(resolve_device(effort.device)) as device:
        require_precision_on(recipe.precision, device)
        what = _what(choice, recipe, dataset, watched, spec)
        goes_on = folder.begin(what, {"backbone": made}, anew=effort.overwrite) if rank() == 0 else True
        wait_for_all()
        stored = folder.finished()
        if stored is not None:
            return stored, None
        if spec is None and not goes_on:
            _warn_of_few(choice, len(dataset), audience.say)
        effort = dataclasses.replace(effort, device=device)
        with folder.in_use(first=rank() == 0):
            run = _Pretraining(choice, recipe, effort, folder, dataset, watched, preprocess, spec, audience)
            if not goes_on:
                _warn_of_small_pictures(choice, recipe, run.pictures.sizes, audience.say)
            return run.run()


class _Pretraining:
    """One run under way: what it trains, on what, and what it shows on the way."""

    def __init__(
        self,
        choice: Choice,
        recipe: Any,
        effort: Effort,
        folder: RunFolder,
        dataset: Dataset,
        watched: Dataset | None,
        preprocess: Preprocess,
        spec: BackboneSpec | None,
        audience: Audience,
    ):
        import torch

        from ..training.order import Order
        from ..views.pictures import Pictures

        self.choice, self.recipe, self.effort, self.folder = choice, recipe, effort, folder
        self.dataset, self.audience = dataset, audience
        self.device = effort.device
        if watched is not None:
            dataset = self.dataset = _without_watched(dataset, watched, audience.say)
        self.pictures = Pictures(dataset, workers=effort.workers, max_pixels=effort.max_pixels, folder=folder.path)
        self._refuse_bad()
        _refuse_one_picture(dataset, self.pictures.rows)
        self.order = Order(len(self.pictures), recipe.batch_size, recipe.epochs, choice.seed)
        torch.manual_seed(seed_of(choice.seed, "weights"))
        self.task: Any = recipe.task()
        if spec is not None:
            self.task.start_from(_trunk_of(spec))
        self.watched = (
            _labelled_to_watch(watched, preprocess, choice, effort) if watched is not None else self._unlabelled_to_watch(preprocess)
        )
        self.seen: dict[str, float] = {}
        self.collapsed = False
        self.board: Any = _board(folder) if effort.tensorboard else None

    def run(self) -> tuple[Result, int | None]:
        """Train to the end or to a signal; what was measured."""
        from ..training.distributed import rank
        from ..training.journal import Journal
        from ..training.loop import How, Watch, train
        from ..training.state import Checkpoints

        effort = self.effort
        how = How(self.device, self.choice.accumulate, effort.save_every, effort.log_every, effort.compile, effort.checkpoint_activations)
        watch = Watch(lambda p: self.audience.progress("", p), self._look, self._logged, self._export, self.audience.say)
        trained = train(
            self.task,
            self.order,
            lambda step: self.pictures.read(step.rows),
            self._views,
            how,
            Checkpoints(self.folder.checkpoints),
            lambda step: Journal(self.folder.log, step),
            watch,
        )
        if self.board is not None:
            self.board.close()
        if rank() == 0 and trained.signal is None:
            self._draw()
        result = self._result(trained)
        if trained.signal is None and rank() == 0:
            self.folder.finish(result, [ENCODER])
        return result, trained.signal

    def _views(self, pictures: Any, step: Any) -> Any:
        from ..views.crops import make_views

        return make_views(pictures, self.recipe.views, seed=step.seed, epoch=step.epoch, rows=step.rows, device=self.device)

    def _refuse_bad(self) -> None:
        bad = self.pictures.skipped
        self.audience.skipped(bad)
        if len(bad) > allowed_bad(self.choice.max_bad, len(self.dataset)):
            raise BadImages(
                f"{len(bad)} of {len(self.dataset)} images cannot be decoded: {', '.join(record['id'] for record in bad[:5])}",
                fix="Repair or remove them, or allow some with --max-bad N or --max-bad P%.",
            )

    def _unlabelled_to_watch(self, preprocess: Preprocess) -> Any:
        from .monitor import Watched

        rows = generator(self.choice.seed, "watched").permutation(self.pictures.rows)[:_UNLABELLED]
        return Watched(_decoded(self.dataset, np.sort(rows), preprocess, self.effort))

    def _look(self, epochs: int) -> dict[str, float] | None:
        """What the encoder's features are worth after this many epochs."""
        from ..training.distributed import rank

        if rank() != 0 or (epochs % self.choice.monitor_every and epochs != self.recipe.epochs):
            return None
        from ..models.vit import Readout
        from .monitor import features_of, judge

        protocol = protocol_for(self.recipe)
        readout = Readout(self.recipe.pool or protocol.pool, protocol.layers, protocol.norm)
        self.seen = judge(features_of(self.task.encoder(), self.watched.pixels, readout, self.device), self.watched)
        if self.recipe.figures:
            self._draw_figures(epochs)
        return self.seen

    def _draw_figures(self, epochs: int) -> None:
        """What the method shows of eight of the watched images, a row below the other."""
        from PIL import Image

        from ..views.pixels import normalised

        shown = self.task.figures(normalised(self.watched.pixels[:_SHOWN], self.device), self.choice.seed)
        rows = [np.concatenate(list(images), axis=1) for images in shown.values()]
        with replacing(self.folder.path / self.recipe.figures / f"epoch-{epochs:04d}.png") as handle:
            Image.fromarray(np.concatenate(rows)).save(handle, "PNG")

    def _logged(self, step: int, facts: Mapping[str, float]) -> None:
        """Tell a collapse when it begins, and TensorBoard everything."""
        for name, value in facts.items() if self.board is not None else ():
            self.board.add_scalar(name, value, step)
        from .monitor import collapse

        verdict = collapse(facts, self.task.max_entropy)
        if verdict and not self.collapsed:
            self.audience.say(f"step {step}: {verdict}")
        self.collapsed = verdict is not None

    def _export(self, step: int) -> None:
        """The encoder as it is now, in a file that every command takes."""
        from safetensors.torch import save

        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.task.encoder().state_dict().items()}
        with replacing(self.folder.encoder) as handle:
            handle.write(save(tensors, {"format": "pt"}))  # one entry: safetensors writes several in random order

    def _result(self, trained: Any) -> Result:
        name = {"dataset": self.dataset.name, "backbone": str(self.folder.path), "method": self.choice.method}
        measured = {"loss": trained.last.get("loss"), **{_METRICS.get(key, key): value for key, value in self.seen.items()}}
        rows = [
            {**name, "metric": key, "value": value, "n_train": len(self.pictures)} for key, value in measured.items() if value is not None
        ]
        facts = {
            "preset": self.choice.preset,
            "epochs": self.recipe.epochs,
            "steps": trained.steps,
            "seed": self.choice.seed,
            "weights_sha256": sha256_of(self.folder.encoder) if self.folder.encoder.exists() else None,
            "images_per_second": round(trained.images_per_second, 2),
            "skipped": len(self.pictures.skipped),
        }
        return Result("pretrain", rows, manifest(**facts))

    def _draw(self) -> None:
        from ..training.curves import draw

        draw(self.folder.path / "curves.png", self.folder.log, self.audience.say)


_METRICS = {"knn_top1": "top1"}  # names in the log -> names in result rows


def _board(folder: RunFolder) -> Any:
    """A writer of TensorBoard's files. Raises MissingExtra."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtra("TensorBoard is not installed", fix="pip install 'fewvit[tensorboard]', or leave --tensorboard out.") from error
    return SummaryWriter(str(folder.path / "tensorboard"))


def _trunk_of(spec: BackboneSpec) -> dict[str, Any]:
    """The tensors of released weights, every one of them."""
    from ..models.vit import Readout

    crop = spec.architecture.patch * spec.architecture.grid
    return dict(build(spec, Readout(), (crop, crop), engine="eager").model.state_dict())
