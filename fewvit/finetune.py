"""Fine-tuning on a few labels: one run from its arguments to a backbone with a classifier, beside what the frozen backbone gives.

Nothing but the labelled images decides: learning rate and number of epochs are chosen on a part of them that is held out, and the test
images are looked at once, at the end.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .bundle import Bundle, save_bundle
from .cache import Cache
from .datasets import Dataset, Listing, open_pair, select, told
from .digests import DigestMemory
from .errors import DataError, NumericalError, UsageError, counted
from .evaluate.fit import recipe_of as bundle_recipe
from .evaluate.inputs import Backbones, labelled, require_classes
from .evaluate.judge import judge
from .evaluate.lowshot import LowShotOptions, evaluate_lowshot, factory
from .extract import Work, extract
from .features import FeatureSet, shared_rows
from .files import replacing, write_json
from .images import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from .pipeline import FeatureOptions, Pipeline, settle
from .results import Result, manifest
from .runs import RunFolder
from .seeds import seed_of
from .specs import Access, BackboneSpec, build, origin_of, resolve
from .splits import Split, n_per_class
from .training import request
from .training.choosing import Curve, Found, held_out, judged
from .training.modes import TuningRecipe, check_mode, recipe_for
from .training.recipe import View
from .training.request import NetworkChanges, changed, require_at_least, require_computable
from .training.request import NetworkEffort as Effort

FROZEN = ("knn", "centroid", "logistic")  # baselines
FILES = {"full": "model.safetensors"}  # what a mode writes; the others an adapter
ADAPTER, HEAD, BUNDLE = "adapter.safetensors", "head.safetensors", "classifier.bundle"


@dataclass(frozen=True)
class Source:
    """Which backbone, as it was asked for."""

    name: str
    weights: str | None = None
    checkpoint_key: str | None = None
    family: str | None = None
    seed: int = 0  # of random weights


@dataclass(frozen=True)
class Choice(NetworkChanges):
    """What is fine-tuned, and on what. Every field can change the outcome."""

    mode: str
    backbone: Source
    data: str | None = None
    train: str | None = None
    test: str | None = None
    shots: int = 5
    trial: int = 0
    img_size: str | None = None
    decode: str = "fast"
    allow_fewer: bool = False


@dataclass(frozen=True, kw_only=True)
class Audience(request.Audience):
    """Who is told what; features have a progress of their own."""

    extraction: Callable[[Any], None] | None = None


# ---- what is to be done


def recipe_of(choice: Choice, pipeline: Pipeline, labels: int, per_class: int) -> tuple[TuningRecipe, list[float]]:
    """The mode's recipe under the choices made, and the learning rates that the held-out images choose from. Raises UsageError."""
    spec, preprocess = pipeline.spec, pipeline.preprocess
    view = View(preprocess.crop[0], (1.0, 1.0), interpolation=preprocess.interpolation)
    recipe, grid = recipe_for(choice.mode, spec.architecture, view, spec.family, labels, per_class)
    options = set(typing.get_type_hints(TuningRecipe)) - {"architecture", "views", "mode", "betas"}
    changes = changed(choice, TuningRecipe, options, choice.mode, "mode", ("epochs", "batch_size", "precision"))
    epochs = changes.get("epochs", recipe.epochs)
    if epochs < recipe.epochs:  # a shorter run has a shorter warm-up
        changes.setdefault("warmup_epochs", round(recipe.warmup_epochs * epochs / recipe.epochs, 3))
    recipe = dataclasses.replace(recipe, **changes)
    if recipe.pool == "fc_norm" and spec.architecture.final_norm != "fc_norm":
        recipe = dataclasses.replace(recipe, architecture=dataclasses.replace(spec.architecture, final_norm="fc_norm"))
    recipe = dataclasses.replace(recipe, views=(dataclasses.replace(view, scale=(recipe.crop, 1.0), flip=recipe.flip),))
    _check(recipe, choice, preprocess)
    return recipe, [recipe.lr] if "lr" in changes else grid


def _check(recipe: TuningRecipe, choice: Choice, preprocess: Preprocess) -> None:
    require_at_least(recipe, {"epochs": 1, "batch_size": 1, "patience": 1})
    for name in ("flip", "erase", "label_smoothing", "drop_path"):
        if not 0 <= getattr(recipe, name) <= 1:
            raise UsageError(f"--set {name}={getattr(recipe, name)}: a number from 0 to 1")
    if not 0 < recipe.crop <= 1:
        raise UsageError(f"--set crop={recipe.crop}: a share of the picture above 0 and up to 1")
    require_computable(recipe, choice.accumulate)
    if recipe.pool == "fc_norm" and recipe.head == "probe":
        raise UsageError("--set pool=fc_norm goes with head=linear: the frozen backbone has no such feature to begin with")
    if recipe.pool == "fc_norm" and choice.mode != "full":
        raise UsageError("--set pool=fc_norm goes with --mode full: a new norm is no part of an adapter")
    if recipe.crop < 1 and preprocess.crop[0] != preprocess.crop[1]:
        raise UsageError(f"random crops are square, and --img-size {choice.img_size} is not", fix="Use --set crop=1, or a square size.")


def run_finetune(
    choice: Choice, effort: Effort, out: Path, access: Access, cache: Cache | None, listing: Listing, audience: Audience
) -> tuple[Result | None, int | None]:
    """Fine-tune, or go on with, the run in `out`: its result, and the signal that ended it early, if one did; no result but in the first process.

    Raises UsageError when the run was begun with other arguments or data, DataError for what is missing or too little, NumericalError
    when every learning rate diverges, ResourceError for memory and disk.
    """
    from .engines import resolve_device
    from .training.distributed import rank, together, wait_for_all

    choice = dataclasses.replace(choice, mode=check_mode(choice.mode))
    if choice.shots < 1 or choice.trial < 0:
        raise UsageError(f"--shots {choice.shots} --trial {choice.trial}: shots from 1, trials from 0")
    memory = cache.digests() if cache is not None else DigestMemory()
    train_set, test_set = (told(side, audience.say) for side in open_pair(choice.data, choice.train, choice.test, listing))
    split = n_per_class(train_set.labels, train_set.classes, [choice.shots], choice.trial + 1, choice.seed, allow_fewer=choice.allow_fewer)[
        choice.trial
    ]
    spec = _plain(resolve_source(choice.backbone, access, memory))
    options = FeatureOptions(img_size=choice.img_size, decode=choice.decode, device=effort.device)
    pipeline = settle(spec, options, "lowshot")
    chosen = select(train_set, split.train.tolist())
    recipe, grid = recipe_of(choice, pipeline, len(split.train), split.per_class(train_set.labels)[1])
    folder = RunFolder(out)
    what = _what(choice, recipe, grid, pipeline, {"train": train_set.digest, "test": test_set.digest, "labelled": _digest(chosen, memory)})
    with together(resolve_device(effort.device)) as device:
        if rank() == 0:
            folder.begin(what, _about(choice, recipe, pipeline, chosen))
        wait_for_all()
        stored = folder.result()
        if stored is not None:
            return stored if rank() == 0 else None, None
        effort = dataclasses.replace(effort, device=device)
        return _Finetuning(choice, recipe, grid, effort, folder, pipeline, chosen, test_set, access, cache, memory, audience).run()


def resolve_source(source: Source, access: Access, memory: DigestMemory) -> BackboneSpec:
    """The spec of the backbone as it was asked for."""
    return resolve(
        source.name,
        access,
        memory,
        weights=source.weights,
        checkpoint_key=source.checkpoint_key,
        family=source.family,
        seed=source.seed,
    )


def _plain(spec: BackboneSpec) -> BackboneSpec:
    if spec.architecture.timm:
        raise UsageError(
            f"{spec.name} is a model of timm's own, and only the plain ViTs of DINO, MSN, MAE and DINOv2 are fine-tuned",
            fix="See `fewvit backbones list`; a weights file or a run folder also do.",
        )
    mean, std = (tuple(spec.preprocess.get(name, usual)) for name, usual in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)))
    if (mean, std) != (IMAGENET_MEAN, IMAGENET_STD):
        raise UsageError(f"{spec.name} takes pixels of another mean and deviation than ImageNet's, which training has not")
    return spec


def _what(choice: Choice, recipe: TuningRecipe, grid: Sequence[float], pipeline: Pipeline, data: Mapping[str, str]) -> dict[str, Any]:
    """Everything that decides the outcome, as JSON; what the manifest of a run is compared with."""
    return {
        "command": "finetune",
        "mode": choice.mode,
        "recipe": dataclasses.asdict(recipe),
        "learning_rates": list(grid),
        "accumulate": choice.accumulate,
        "shots": choice.shots,
        "trial": choice.trial,
        "seed": choice.seed,
        "init": pipeline.spec.fingerprint,
        "preprocess": pipeline.preprocess.to_dict(),
        "decode": choice.decode,
        "max_bad": choice.max_bad,
        "data": dict(data),  # listings of both sides, and the labelled images to their bytes
    }


def _digest(dataset: Dataset, memory: DigestMemory) -> str:
    """sha256 over ids, labels and bytes; files whose digest is remembered are not read again."""
    digest = hashlib.sha256(dataset.digest.encode())
    identities = [dataset.identity(row) for row in range(len(dataset))]
    for row, known in enumerate(memory.get_all(identities)):
        if known is None:
            try:
                known = hashlib.sha256(dataset.read(row)).digest()
            except OSError as error:
                known = str(error.errno).encode()  # it is told when features are made
            else:
                identity = identities[row]
                if identity is not None:
                    memory.put(identity, known)
        digest.update(known)
    memory.save()
    return digest.hexdigest()


def _about(choice: Choice, recipe: TuningRecipe, pipeline: Pipeline, chosen: Dataset) -> dict[str, Any]:
    """What the run's folder will be: a backbone, and a classifier on it."""
    spec = pipeline.spec
    made: dict[str, Any] = {
        "family": spec.family,
        "architecture": dataclasses.asdict(recipe.architecture),
        "preprocess": pipeline.preprocess.to_dict(),
        "file": FILES.get(choice.mode, ADAPTER),
        "license": spec.license,
    }
    if choice.mode not in FILES:
        made["base"] = origin_of(spec, **{**dataclasses.asdict(choice.backbone)})
    classes = [chosen.classes[c] for c in np.unique(chosen.labels)]
    return {"backbone": made, "head": {"file": HEAD, "classes": classes}}


# ---- the run


class _Finetuning:
    """One run under way."""

    def __init__(
        self,
        choice: Choice,
        recipe: TuningRecipe,
        grid: Sequence[float],
        effort: Effort,
        folder: RunFolder,
        pipeline: Pipeline,
        chosen: Dataset,
        test_set: Dataset,
        access: Access,
        cache: Cache | None,
        memory: DigestMemory,
        audience: Audience,
    ):
        from .training.distributed import rank

        self.choice, self.recipe, self.grid, self.effort, self.folder = choice, recipe, grid, effort, folder
        self.pipeline = dataclasses.replace(pipeline, device=effort.device)
        self.chosen, self.test_set, self.access, self.cache, self.memory, self.audience = chosen, test_set, access, cache, memory, audience
        self.seconds: dict[str, float] = {}
        if rank() != 0:
            self.audience = Audience()  # the first process speaks for all
        self.say = self.audience.say

    def run(self) -> tuple[Result | None, int | None]:
        """Baselines, search, training, judgement."""
        from .training.distributed import rank, wait_for_all

        frozen = self._timed("frozen", self._frozen) if rank() == 0 else []
        wait_for_all()
        if rank() != 0:
            self.support = self._features(self.pipeline, self.chosen)  # the first process has cached them
        self._prepare()
        found, signal = self._timed("search", self._search)
        if signal is None:
            signal = self._timed("train", lambda: self._final(found))
        if signal is not None or rank() != 0:
            return None, signal
        rows, facts = self._timed("judge", lambda: self._judge(found))
        return self._result(frozen, rows, facts), None

    def _timed(self, what: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        done = work()
        self.seconds[what] = round(time.perf_counter() - started, 3)
        return done

    # ---- the frozen backbone

    def _features(self, pipeline: Pipeline, dataset: Dataset) -> FeatureSet:
        work = Work(
            workers=self.effort.workers, max_bad=self.choice.max_bad, max_pixels=self.effort.max_pixels, progress=self.audience.extraction
        )
        features, report = extract(pipeline, dataset, self.cache, work, memory=self.memory)
        self.audience.skipped(report.skipped)
        return features

    def _frozen(self) -> list[dict[str, Any]]:
        """Rows of the baselines on the same labelled images."""
        self.support = support = self._features(self.pipeline, self.chosen)
        require_classes(support)
        test = self._features(self.pipeline, self.test_set)
        options = LowShotOptions(
            shots=(self.choice.shots,),
            trials=1,
            settings={name: {} for name in FROZEN},
            allow_fewer=True,  # it was settled when they were drawn
            device=self.effort.device,
            seed=self.choice.seed,
        )
        if shared := shared_rows(support, test):
            self.say(f"{shared} of the {len(test)} test images have exactly the features of a labelled image: are they the same pictures?")
        rows, _ = evaluate_lowshot(support, test, options, self.pipeline.protocol.name)
        rows = [{**row, "trial": self.choice.trial} for row in rows if row["trial"] != "mean"]
        shown = ", ".join(f"{row['method']} {row['value']:.2f}" for row in rows if row["metric"] == "top1")
        self.say(f"frozen, top-1 in percent: {shown}")
        return rows

    def _prepare(self) -> None:
        """What every training of this run begins with: labelled images that can be decoded, their features, the trunk's tensors."""
        from .training.pictures import Pictures
        from .training.seen import Seen
        from .training.supply import Supply
        from .vit import Readout

        row_of = {name: row for row, name in enumerate(self.chosen.ids)}
        dataset = select(self.chosen, [row_of[name] for name in self.support.ids])
        self.present, self.labels = np.unique(self.support.labels, return_inverse=True)
        effort, recipe, crop = self.effort, self.recipe, self.pipeline.preprocess.crop
        seen = Seen(dataset, self.pipeline.preprocess, self.choice.decode, workers=effort.workers, max_pixels=effort.max_pixels)
        pictures = None
        if recipe.crop < 1:
            pictures = Pictures(dataset, workers=effort.workers, max_pixels=effort.max_pixels, folder=self.folder.path)
            if pictures.skipped:
                raise DataError(f"cannot be decoded: {pictures.skipped[0]['reason']}", file=pictures.skipped[0]["id"])
        self.supply = Supply(seen, pictures, self.labels, len(self.present), recipe, effort.device)
        self.trunk = dict(build(self.pipeline.spec, Readout(), crop, engine="eager").model.state_dict())
        pool = "mean" if recipe.architecture.final_norm == "fc_norm" else self.pipeline.pool
        self.readout = Readout(pool, 1, self.pipeline.norm)

    # ---- choosing on held-out images

    def _search(self) -> tuple[Found, int | None]:
        """The learning rate and number of epochs that classify held-out images best; the recipe's own where none can be held out."""
        recipe = self.recipe
        held = held_out(self.labels, self.choice.seed)
        unknown = Found(recipe.lr, recipe.epochs)
        if not recipe.select or not len(held):
            if recipe.select:
                self.say(
                    "one labelled image per class: nothing can be held out to choose by, so it is "
                    f"the mode's own learning rate {unknown.lr:g} for {counted(unknown.epochs, 'epoch')}, and confidences are not calibrated"
                )
            return unknown, None
        fit = np.setdiff1d(np.arange(len(self.labels)), held)
        found = []
        for number, lr in enumerate(self.grid):
            one, signal = self._candidate(number, lr, fit, held)
            if signal is not None:
                return unknown, signal
            found += [one] if one is not None else []
        if not found:
            raise NumericalError(
                f"training diverges at every learning rate of {', '.join(f'{lr:g}' for lr in self.grid)}",
                fix="Try a smaller one with --set lr=.",
            )
        best = max(found, key=lambda one: one.merit)
        self.say(
            f"chosen on {counted(len(held), 'held-out image')}: learning rate {best.lr:g}, {counted(best.epochs, 'epoch')} "
            f"({best.top1:.2f} % of them right)"
        )
        return best, None

    def _candidate(self, number: int, lr: float, fit: np.ndarray, held: np.ndarray) -> tuple[Found | None, int | None]:
        """What one learning rate came to, from its file if it was tried before; None where it diverges."""
        from .training.distributed import rank, wait_for_all

        place = self.folder.path / "search" / str(number)
        outcome = place / "outcome.json"
        if not outcome.exists():
            self.say(f"learning rate {lr:g}: {counted(len(fit), 'image')} to learn from, {counted(len(held), 'image')} held out")
            try:
                curve, trained = self._train(place, lr, fit, held, None)
            except NumericalError as error:
                self.say(f"learning rate {lr:g} diverges: {error.what}")
                facts: dict[str, Any] = {"lr": lr, "diverged": True}
            else:
                if trained.signal is not None:
                    return None, trained.signal
                facts = curve.outcome(lr, trained.steps // (len(fit) // self._batch(fit)))
            wait_for_all()
            if rank() == 0:
                write_json(outcome, facts)
                shutil.rmtree(place / "checkpoints", ignore_errors=True)
            wait_for_all()
        facts = json.loads(outcome.read_text())
        if facts.get("diverged"):
            return None, None
        return Found(facts["lr"], facts["epochs"], facts["held_top1"], facts["held_loss"], facts["held_temperature"]), None

    # ---- training

    def _batch(self, fit: np.ndarray) -> int:
        return min(self.recipe.batch_size, len(fit))

    def _train(self, place: Path, lr: float, fit: np.ndarray, held: np.ndarray, stop_after: int | None) -> tuple[Curve, Any]:
        """One training of its own, in a folder of its own; `held` images are judged after every epoch."""
        from .training.journal import Journal
        from .training.loop import How, Watch, train
        from .training.order import Order
        from .training.state import Checkpoints

        task = self.task(lr, fit)
        note = self.supply.keep_tokens(task)
        if note:
            self.say(note)
        curve, recipe, effort = Curve(place / "log.jsonl"), self.recipe, self.effort
        order = Order(len(fit), self._batch(fit), recipe.epochs, self.choice.seed)
        log_every = min(effort.log_every, order.steps_per_epoch)

        def each_epoch(done: int) -> dict[str, float] | None:
            if not len(held):
                return None
            curve.seen[done] = judged(self.supply.logits(task, held), self.labels[held])
            if not recipe.refit and curve.best(done) == done:
                self._keep(task, place / "best.safetensors")
            return curve.seen[done]

        def enough(done: int) -> bool:
            return curve.stalled(done, recipe.patience) if stop_after is None else done >= stop_after

        what = f"learning rate {lr:g}" if len(held) else "final"
        watch = Watch(progress=lambda p: self.audience.progress(what, p), each_epoch=each_epoch, enough=enough, say=self.say)
        trained = train(
            task,
            order,
            lambda step: self.supply.read(fit[step.rows]),
            lambda found, step: self.supply.prepare(found, fit[step.rows], step),
            How(effort.device, self.choice.accumulate, effort.save_every, log_every, recompute=effort.checkpoint_activations),
            Checkpoints(place / "checkpoints"),
            lambda step: Journal(place / "log.jsonl", step),
            watch,
        )
        self.tuned = task
        return curve, trained

    def task(self, lr: float, fit: np.ndarray) -> Any:
        """The network as every training begins with it: released weights, new adapters, a classifier made from the images `fit`."""
        import torch

        from .checkpoints import fill
        from .methods._trunk import Trunk
        from .training.adapters import prepare
        from .training.on_cpu import speed_up
        from .training.tuning import Tuning

        recipe = dataclasses.replace(self.recipe, lr=lr)
        trunk = Trunk(recipe.architecture, recipe.drop_path)
        tensors = dict(self.trunk)
        if "fc_norm.weight" in trunk.state_dict() and "fc_norm.weight" not in tensors:
            tensors |= {
                "fc_norm.weight": torch.ones_like(tensors.pop("norm.weight")),
                "fc_norm.bias": torch.zeros_like(tensors.pop("norm.bias")),
            }
        fill(trunk, tensors, self.pipeline.spec.file or self.pipeline.spec.name)
        stream = torch.Generator().manual_seed(seed_of(self.choice.seed, "adapter"))
        prepare(trunk, recipe, self.readout.pool != "cls" or self.readout.norm != "none", stream)
        task = Tuning(recipe, trunk, self.readout, self._head(fit))
        if self.effort.device == "cpu":
            speed_up(task)
        return task.to(self.effort.device)

    def _head(self, fit: np.ndarray) -> Any:
        """The classifier at the start: the frozen logistic regression of the images `fit`, or nearly zero."""
        import torch

        from .training.tuning import Head

        width = self.recipe.architecture.width
        if self.recipe.head == "linear":
            stream = torch.Generator().manual_seed(seed_of(self.choice.seed, "head"))
            weight = torch.nn.init.trunc_normal_(torch.empty(len(self.present), width), std=2e-5, generator=stream)
            return Head(weight, torch.zeros(len(self.present)), "raw", with_bias=True)
        estimator = self._logistic(len(fit)).fit(self.support.features[fit], self.labels[fit])
        weight, bias = (torch.from_numpy(np.asarray(array, np.float32)) for array in (estimator.coef_, estimator.intercept_))
        return Head(weight, bias, estimator.rows, with_bias=estimator.intercept)

    def _logistic(self, rows: int) -> Any:
        options = LowShotOptions(device=self.effort.device, seed=self.choice.seed)
        return factory("logistic", {}, rows, Split(np.zeros(0, np.int64), self.choice.shots), options, self.pipeline.protocol.name)()

    def _keep(self, task: Any, file: Path) -> None:
        """Replace `file` by what training changes of the task."""
        from safetensors.torch import save

        from .training.distributed import rank

        if rank() == 0:
            frozen = task.unchanging
            changed = {name: t.detach().cpu().contiguous() for name, t in task.state_dict().items() if name not in frozen}
            with replacing(file) as handle:
                handle.write(save(changed))

    def _final(self, found: Found) -> int | None:
        """Train on all labelled images as long as was chosen, or take the best weights of the search; write what came out."""
        from .training.distributed import rank

        everything = np.arange(len(self.labels))
        if self.recipe.refit or found.top1 is None:
            _, trained = self._train(self.folder.path, found.lr, everything, np.zeros(0, np.int64), found.epochs)
            if trained.signal is not None:
                return int(trained.signal)
        else:
            self._take_best(found)
        if rank() == 0:
            self._write()
        return None

    def _take_best(self, found: Found) -> None:
        """The network as it was after the search's best epoch; that training's log becomes the run's."""
        from safetensors.torch import load_file

        from .training.distributed import rank

        place = self.folder.path / "search" / str(list(self.grid).index(found.lr))
        self.tuned = self.task(found.lr, np.setdiff1d(np.arange(len(self.labels)), held_out(self.labels, self.choice.seed)))
        own = {name: t for name, t in self.tuned.state_dict().items() if name in self.tuned.unchanging}
        self.tuned.load_state_dict({**own, **load_file(place / "best.safetensors")})
        if rank() == 0:
            with replacing(self.folder.log) as handle:
                handle.write((place / "log.jsonl").read_bytes())

    def _write(self) -> None:
        """The adapter or the whole trunk, and the classifier."""
        from safetensors.torch import save

        from .training.adapters import changed

        if not all(bool(parameter.isfinite().all()) for parameter in self.tuned.parameters()):
            raise NumericalError("the last step of training left weights that are NaN or Inf", fix="Try a smaller one with --set lr=.")
        trunk, head = self.tuned.trunk, self.tuned.head
        tensors = trunk.state_dict() if self.choice.mode in FILES else changed(trunk)
        files = {FILES.get(self.choice.mode, ADAPTER): tensors, HEAD: dict(head.state_dict())}
        for name, content in files.items():
            with replacing(self.folder.path / name) as handle:
                handle.write(save({key: tensor.detach().cpu().contiguous() for key, tensor in content.items()}))

    # ---- what it is worth

    def _judge(self, found: Found) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Rows of the fine-tuned model, read back from its folder as everyone else will, and what the manifest should tell."""
        spec = resolve(str(self.folder.path), self.access, self.memory)
        pipeline = settle(spec, FeatureOptions(decode=self.choice.decode, device=self.effort.device))
        test = labelled(self._features(pipeline, self.test_set), "test", lambda line: None)
        test.require_finite()
        verdict = judge(self._classifier(self.present), test, found.temperature)
        self._bundle(pipeline, found)
        columns = {"method": self.choice.mode, "shots": self.choice.shots, "n_train": len(self.labels), "n_test": len(test)}
        rows = [{**columns, "trial": self.choice.trial, "metric": m, "value": v} for m, v in verdict.metrics(test.labels).items()]
        chosen = {"lr": found.lr, "epochs": found.epochs, "held_out_top1": found.top1, "temperature": round(found.temperature, 4)}
        facts = {"chosen": chosen, "trained_parameters": sum(p.numel() for p in self.tuned.parameters() if p.requires_grad)}
        return rows, {**facts, "fingerprint": pipeline.fingerprint, "weights_sha256": spec.weights_sha256}

    def _bundle(self, pipeline: Pipeline, found: Found) -> None:
        """The classifier with all that `fewvit predict` needs, in a file of its own."""
        bundle = Bundle(
            "logistic",
            self._classifier(np.arange(len(self.present))),
            [self.chosen.classes[c] for c in self.present],
            np.bincount(self.labels).tolist(),
            self.tuned.head.weight.shape[1],
            pipeline.fingerprint,
            bundle_recipe(Backbones([str(self.folder.path.resolve())], self.access), pipeline),
            found.temperature,
        )
        save_bundle(self.folder.path / BUNDLE, bundle)

    def _classifier(self, classes: np.ndarray) -> Any:
        """The head as the estimator of the same formula, with these numbers (C,) for its classes."""
        head = self.tuned.head
        estimator = self._logistic(len(self.labels))
        estimator.set_params(rows=head.rows, intercept=bool(head.bias.requires_grad), dtype="float32")
        estimator.coef_, estimator.intercept_ = (t.detach().cpu().numpy() for t in (head.weight, head.bias))
        estimator.classes_, estimator.n_features_in_ = classes, head.weight.shape[1]
        return estimator

    def _result(self, frozen: list[dict[str, Any]], rows: list[dict[str, Any]], facts: dict[str, Any]) -> Result:
        spec = self.pipeline.spec
        columns: dict[str, Any] = {
            "dataset": self.test_set.name,
            "backbone": spec.name,
            **({"weights": "random"} if spec.is_random else {}),
        }
        verdict = _verdict(frozen, rows)
        self.say(verdict["verdict"])
        run = manifest(
            **{**self.pipeline.facts, **facts},
            base_weights_sha256=spec.weights_sha256,
            mode=self.choice.mode,
            seed=self.choice.seed,
            **verdict,
            seconds=self.seconds,
        )
        result = Result("finetune", [{**columns, **row} for row in [*frozen, *rows]], run)
        self.folder.finish(result)
        return result


def _verdict(frozen: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Whether fine-tuning was worth it, in a sentence and as facts."""
    top1 = {row["method"]: float(row["value"]) for row in [*frozen, *rows] if row["metric"] == "top1"}
    mode = rows[0]["method"]
    best = max((name for name in top1 if name != mode), key=lambda name: top1[name])
    gain = top1[mode] - top1[best]
    how = "won" if gain > 0 else "lost" if gain < 0 else "made no difference"
    text = f"fine-tuning {how}: {mode} {top1[mode]:.2f} %, frozen {best} {top1[best]:.2f} % top-1"
    return {"verdict": text, "best_frozen": best, "gain": round(gain, 4)}
