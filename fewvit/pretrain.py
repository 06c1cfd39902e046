"""Self-supervised pretraining on a folder of images: one run from its arguments to an encoder that every command takes as `--backbone`."""

from __future__ import annotations

import dataclasses
import hashlib
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import images as pixels_of
from .datasets import Dataset, Listing, open_dataset, select, told
from .errors import BadImages, CheckpointError, DataError, MissingExtra, UnknownName, counted, printable
from .extract import allowed_bad
from .files import replacing, sha256_of
from .images import BadImage, Preprocess
from .plugins import find
from .protocols import find_protocol
from .recipes import find_recipe
from .results import Result, manifest
from .runs import ENCODER, RunFolder
from .seeds import generator, seed_of
from .specs import Access, BackboneSpec, build, resolve
from .training.request import (
    Audience,
    NetworkChanges,
    NetworkEffort,
    changed,
    require_at_least,
    require_computable,
    require_precision_on,
    require_sensible,
)

FEW = 100_000  # images; below, the published recipes from scratch give less than the small ones
_WATCHED = 5000  # pictures of a monitor; k-NN among more takes longer than it tells
_UNLABELLED = 512  # training pictures whose features' spread and rank are looked at where there is no monitor


@dataclass(frozen=True)
class Choice(NetworkChanges):
    """What is to be trained. Every field can change the outcome."""

    method: str
    preset: str
    data: str
    init: str | None = None  # a backbone to go on from
    monitor: str | None = None  # labelled images
    monitor_every: int = 1  # epochs


@dataclass(frozen=True, kw_only=True)
class Effort(NetworkEffort):
    """How it is carried out; nothing here changes the outcome."""

    compile: bool = False
    tensorboard: bool = False


def recipe_of(choice: Choice) -> Any:
    """The preset's recipe under the choices made. Raises UnknownName, UsageError."""
    presets = find_recipe(choice.method).presets
    if choice.preset not in presets:
        raise UnknownName("preset", choice.preset, presets)
    recipe = presets[choice.preset]
    kind = type(recipe)
    options = [name for name, hint in typing.get_type_hints(kind).items() if _is_plain(hint)]
    changes = changed(choice, kind, options, choice.method, "method", ("epochs", "batch_size", "precision"))
    recipe = dataclasses.replace(recipe, **{**_shorter_warmups(recipe, changes.get("epochs", recipe.epochs)), **changes})
    require_at_least(recipe, {"epochs": 1, "batch_size": 2})
    require_sensible(vars(recipe))
    require_computable(recipe, choice.accumulate)
    return recipe


def _shorter_warmups(recipe: Any, epochs: int) -> dict[str, Any]:
    """Warm-ups of a run that is shorter than its preset, in proportion: ten epochs of warm-up would be all of a ten-epoch run."""
    share = epochs / recipe.epochs
    warmups = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe) if "warmup" in f.name and f.name.endswith("_epochs")}
    return {name: type(value)(round(value * share, 3)) for name, value in warmups.items()} if share < 1 else {}


def _is_plain(kind: Any) -> bool:
    """Whether an option is a number, a word or a switch, perhaps none of them."""
    wanted = typing.get_args(kind) or (kind,)
    return all(one in (int, float, str, bool, type(None)) for one in wanted)


def run_pretrain(
    choice: Choice, effort: Effort, out: Path, access: Access, memory: Any, listing: Listing, audience: Audience
) -> tuple[Result, int | None]:
    """Train, or go on with, the run in `out`; its result, and the signal that ended it early, if one did.

    Raises UsageError when the run was begun with other arguments, DataError for what is missing or too little, NumericalError for
    a loss that is not finite, ResourceError for memory and disk.
    """
    from .engines import resolve_device
    from .training.distributed import rank, together, wait_for_all

    recipe = recipe_of(choice)
    allowed_bad(choice.max_bad, 1)
    folder = RunFolder(out)
    dataset = told(open_dataset(choice.data, listing), audience.say)
    watched = open_dataset(choice.monitor, listing) if choice.monitor else None
    spec = resolve(choice.init, access, memory) if choice.init else None
    if spec is not None:
        recipe = dataclasses.replace(recipe, architecture=_continued(spec, recipe.architecture))
    family = find("methods", choice.method).family
    preprocess = evaluation_transform(family, recipe)
    made = {"family": family, "architecture": dataclasses.asdict(recipe.architecture), "preprocess": preprocess.to_dict()}
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


def evaluation_transform(family: str, recipe: Any) -> Preprocess:
    """How pictures are shown to the encoder afterwards: the protocol's way at 224 pixels, whole pictures at the sizes of small recipes."""
    size = _largest_crop(recipe)
    protocol = find_protocol(f"{family}/1").preprocess
    return protocol if size >= 160 else dataclasses.replace(protocol, cover=(size, size), crop=(size, size))


def _continued(spec: BackboneSpec, wanted: Any) -> Any:
    """The architecture of released weights, which replaces the preset's; positions follow the method's rule."""
    own = spec.architecture
    if own.timm or own.final_norm != "norm":
        raise CheckpointError(f"{spec.name} is no plain ViT with a final norm, so no method here can go on from it")
    return dataclasses.replace(own, positions=wanted.positions)


def _what(choice: Choice, recipe: Any, dataset: Dataset, watched: Dataset | None, spec: BackboneSpec | None) -> dict[str, Any]:
    """Everything that decides the outcome, as JSON; what the manifest of a run is compared with."""
    return {
        "command": "pretrain",
        "method": choice.method,
        "preset": choice.preset,
        "recipe": dataclasses.asdict(recipe),
        "accumulate": choice.accumulate,
        "seed": choice.seed,
        "init": spec.fingerprint if spec is not None else None,
        "max_bad": choice.max_bad,
        "data": {"name": dataset.name, "images": len(dataset), "listing": dataset.digest},
        "monitor": {"images": len(watched), "listing": watched.digest} if watched is not None else None,
        "monitor_every": choice.monitor_every,
    }


def _warn_of_few(choice: Choice, images: int, say: Callable[[str], None]) -> None:
    if choice.preset.startswith("paper/") and images < FEW:
        say(
            f"{choice.preset} from scratch on {images} images: expect less than released weights give; "
            "go on from them with --init, or use a recipe for few images (--preset small/64)"
        )


def _warn_of_small_pictures(choice: Choice, recipe: Any, sizes: np.ndarray, say: Callable[[str], None]) -> None:
    """Say how many of the pictures of `sizes` (n, 2) the largest crop enlarges, and which preset fits better where it enlarges most."""
    crop, sides = _largest_crop(recipe), sizes.min(axis=1)
    small = int(np.count_nonzero(sides < crop))
    if small:
        among = f"of the {len(sizes)} images looked at"
        better = _fitting_preset(choice, crop, int(np.median(sides))) if choice.init is None else None
        say(
            f"{counted(small, f'{among} is', f'{among} are')} smaller than the {crop} pixels of the largest crop, which enlarges them"
            + (f"; --preset {better} fits them better" if better else "")
        )


def _fitting_preset(choice: Choice, crop: int, side: int) -> str | None:
    """The first preset whose crops pictures of `side` pixels fill, with the largest such crop; the smallest where they fill none.

    None where they fill `crop`, the crop there is, or no preset has a smaller one.
    """
    crops = {name: _largest_crop(recipe) for name, recipe in find_recipe(choice.method).presets.items()}
    smaller = [one for one in crops.values() if one < crop]
    if side >= crop or not smaller:
        return None
    best = max((one for one in smaller if one <= side), default=min(smaller))
    return next(name for name, one in crops.items() if one == best)


def _largest_crop(recipe: Any) -> int:
    """Pixels of its side."""
    return max(view.size for view in recipe.views)


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

        from .training.order import Order
        from .training.pictures import Pictures

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
        self.task = find("methods", choice.method)(recipe)
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
        from .training.distributed import rank
        from .training.journal import Journal
        from .training.loop import How, Watch, train
        from .training.state import Checkpoints

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
        from .training.views import make_views

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
        from .training.monitor import Watched

        rows = generator(self.choice.seed, "watched").permutation(self.pictures.rows)[:_UNLABELLED]
        return Watched(_decoded(self.dataset, np.sort(rows), preprocess, self.effort))

    def _look(self, epochs: int) -> dict[str, float] | None:
        """What the encoder's features are worth after this many epochs."""
        from .training.distributed import rank

        if rank() != 0 or (epochs % self.choice.monitor_every and epochs != self.recipe.epochs):
            return None
        from .training.monitor import features_of, judge
        from .vit import Readout

        protocol = find_protocol(f"{self.task.family}/1")
        readout = Readout("mean" if self.task.family == "mae" else protocol.pool, protocol.layers, protocol.norm)
        self.seen = judge(features_of(self.task.encoder(), self.watched.pixels, readout, self.device), self.watched)
        self._picture(epochs)
        return self.seen

    def _picture(self, epochs: int) -> None:
        """What MAE makes of eight of the watched pictures: as they are, what it sees, what it draws."""
        if not hasattr(self.task, "pictures"):
            return
        import torch
        from PIL import Image

        from .training.draws import uniforms
        from .training.monitor import normalised

        images = normalised(self.watched.pixels[:8], self.device)
        cells = self.recipe.architecture.grid**2
        noise = torch.from_numpy(uniforms(self.choice.seed, 0, np.arange(len(images)), "shown", cells)).to(self.device)
        rows = [np.concatenate(list(pictures), axis=1) for pictures in self.task.pictures(images, noise).values()]
        with replacing(self.folder.path / "reconstructions" / f"epoch-{epochs:04d}.png") as handle:
            Image.fromarray(np.concatenate(rows)).save(handle, "PNG")

    def _logged(self, step: int, facts: Mapping[str, float]) -> None:
        """Tell a collapse when it begins, and TensorBoard everything."""
        for name, value in facts.items() if self.board is not None else ():
            self.board.add_scalar(name, value, step)
        from .training.monitor import collapse

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
        from .training.curves import draw

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
    from .vit import Readout

    crop = spec.architecture.patch * spec.architecture.grid
    return dict(build(spec, Readout(), (crop, crop), engine="eager").model.state_dict())


def _labelled_to_watch(dataset: Dataset, preprocess: Preprocess, choice: Choice, effort: Effort) -> Any:
    """The monitor's labelled pictures, decoded once; a seeded sample of a large set. Raises DataError for fewer than two classes."""
    from .training.monitor import Watched

    rows = np.flatnonzero(dataset.labels >= 0)
    if len(np.unique(dataset.labels[rows])) < 2:
        raise DataError(
            "a monitor needs labelled images of at least two classes", file=choice.monitor, fix="Give --monitor another SRC, or off."
        )
    rows = np.sort(generator(choice.seed, "watched").permutation(rows)[:_WATCHED])
    return Watched(_decoded(dataset, rows, preprocess, effort), dataset.labels[rows], len(dataset.classes))


def _decoded(dataset: Dataset, rows: np.ndarray, preprocess: Preprocess, effort: Effort) -> np.ndarray:
    """Pixels (N, H, W, 3) of some images as an evaluation sees them. Raises BadImages for the first that cannot be decoded."""
    pixels = []
    for row in rows.tolist():
        try:
            pixels.append(pixels_of.decode(dataset.read(row), preprocess, "fast", effort.max_pixels)[0])
        except BadImage as error:
            raise BadImages(f"{dataset.ids[row]} cannot be decoded: {error.reason}", fix="Repair or remove it.") from error
    return np.stack(pixels)


def _without_watched(dataset: Dataset, watched: Dataset, say: Callable[[str], None]) -> Dataset:
    """The training images that are not among the monitor's: what is judged by is never trained on."""
    held_out = {_digest(watched, row) for row in range(len(watched))}
    kept = [row for row in range(len(dataset)) if _digest(dataset, row) not in held_out]
    if len(kept) == len(dataset):
        return dataset
    say(f"{len(dataset) - len(kept)} of {len(dataset)} images are the monitor's too and are not trained on")
    return select(dataset, kept)


def _refuse_one_picture(dataset: Dataset, rows: np.ndarray) -> None:
    """Raise DataError when a sample of the images is one picture again and again: nothing can be learnt from it."""
    sample = rows[np.unique(np.linspace(0, len(rows) - 1, _UNLABELLED).astype(np.int64))] if len(rows) else rows
    if len(sample) > 1 and len({_digest(dataset, row) for row in sample.tolist()}) == 1:
        raise DataError(f"all images of {dataset.name} are the same picture", fix="Look at what --data names.")


def _digest(dataset: Dataset, row: int) -> bytes:
    return hashlib.sha256(dataset.read(row)).digest()


# ---- afterwards


def export_official(run: Path, file: Path) -> dict[str, Any]:
    """Replace `file` by the newest checkpoint of a run in its family's official layout; what it holds.

    Raises DataError for a folder without a checkpoint, IntegrityError for a damaged one.
    """
    import torch

    from .training.state import Checkpoints

    folder = RunFolder(run)
    begun = folder.manifest() if run.is_dir() else None
    if begun is not None and begun["what"].get("command") != "pretrain":
        raise DataError(
            "no run of `fewvit pretrain`: only those have an official layout",
            file=run,
            fix=f"As it is, it goes with --backbone; `fewvit backbones info {printable(run)}` names its file of weights, for Python.",
        )
    newest = Checkpoints(folder.checkpoints).newest() if begun is not None else None
    if begun is None or newest is None:
        raise DataError("no run with a checkpoint", file=run, fix="Give the folder that `fewvit pretrain --out` filled.")
    task = find("methods", begun["what"]["method"])(_recipe_from(begun["what"]))
    task.load_state_dict({name.removeprefix("task."): tensor for name, tensor in newest.tensors().items() if name.startswith("task.")})
    tree = {**task.official(), "epoch": newest.facts["epoch"] + 1}
    with replacing(file) as handle:
        torch.save(tree, handle)
    return {"backbone": run.name, "family": task.family, "file": str(file), "step": newest.step, "keys": ", ".join(tree)}


def _recipe_from(what: Mapping[str, Any]) -> Any:
    """The recipe that a run's manifest tells."""
    from .backbones import Architecture
    from .training.recipe import View

    fields: dict[str, Any] = {name: _tupled(value) for name, value in what["recipe"].items()}
    views = tuple(View(**{name: _tupled(value) for name, value in view.items()}) for view in fields.pop("views"))
    architecture = Architecture(**fields.pop("architecture"))
    return find_recipe(what["method"])(**fields, architecture=architecture, views=views)


def _tupled(value: Any) -> Any:
    """JSON knows no tuples."""
    return tuple(value) if isinstance(value, list) else value
