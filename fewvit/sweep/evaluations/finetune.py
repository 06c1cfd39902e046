"""Fine-tuning on a few labelled images per class, as `fewvit finetune`: a run for each draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ...evaluate.details import Details
from ...evaluate.inputs import FeatureReader
from ...finetune import Audience, BackboneRequest, FineTuningRequest, NetworkEffort, check_request, run_finetune
from ...finetune.modes import MODES
from ...metrics import mean_and_interval
from ...results import Facts, Result, Row
from ..cells import Cell, Scope
from ..settings import BackboneSetting, DataSetting, MethodSetting, SweepConfig
from .collected import Collected
from .evaluation import Stopped, Surroundings, require_whole, settings_given

_FLAGS = ("epochs", "batch_size", "precision", "accumulate")


class FinetuneEvaluation:
    """A cell for each number of shots; its trials are runs, one after another."""

    task = "finetune"
    defaults = ("lora",)
    beside = ""

    @staticmethod
    def methods() -> Sequence[str]:
        """Every mode."""
        return [name.replace("-", "_") for name in MODES]

    @staticmethod
    def check(method: MethodSetting) -> None:
        """The command's options, and those that its --set takes."""
        require_whole(method.options, ("epochs", "batch_size", "accumulate"))
        check_request(_request(method, None, 1, 0, 0))

    @staticmethod
    def scopes(config: SweepConfig) -> Iterator[Scope]:
        """Shots."""
        for shots in config.shots:
            yield Scope(shots=shots, trials=config.trials)

    @staticmethod
    def unsuited(method: MethodSetting, backbone: BackboneSetting | None, data: DataSetting) -> str:
        """It trains on images, and reads a backbone in its own way."""
        if backbone is None:
            return "fine-tuning works on images, and features were given"
        asked = [name for name in ("protocol", "pool", "layers") if getattr(backbone, name) is not None]
        return f"fine-tuning reads a backbone in its own way, without {' and '.join(asked)}" if asked else ""

    @staticmethod
    def command(cell: Cell) -> str:
        """fewvit finetune --mode … --shots … of the first draw; --trial 1 is the second"""
        words: list[str] = []
        for name, value in cell.method.options.items():
            flag = name in _FLAGS
            words += ["--" + name.replace("_", "-"), str(value)] if flag else ["--set", f"{name}={value}"]
        mode = ("--mode", cell.method.name.replace("_", "-"))
        return cell.spelled("finetune", *mode, *words, "--shots", str(cell.scope.shots), "--trial", "0", "--out", "RUN")

    @staticmethod
    def run(cell: Cell, reader: FeatureReader, around: Surroundings) -> tuple[Result, Details]:
        """As `fewvit finetune` of each draw: its own rows without the frozen baselines, then their means."""
        shots, trials, kept = cell.scope.shots or 1, cell.scope.trials or 1, Collected()
        found: list[Row] = []
        runs: list[Facts] = []
        for trial in range(trials):
            request = _request(cell.method, cell, shots, trial, cell.seed, around)
            audience = Audience(notify=around.notify, extraction=reader.extractor.work.progress)
            effort = NetworkEffort(device=reader.options.device, workers=around.workers)
            result, stopped = run_finetune(
                request,
                effort,
                around.runs / f"trial-{trial}",
                reader.backbones.access,
                reader.extractor.cache,
                around.listing,
                audience,
                keep=kept.keep,
            )
            if stopped is not None or result is None:
                raise Stopped(stopped or 15)
            found += [{**row, "trial": trial} for row in result.rows if row["method"] == request.mode]
            runs.append(dict(result.run))
        first = runs[0]
        facts = {**first, "trials": runs} if trials > 1 else first
        return Result("finetune", [*found, *_means(found)], facts), kept.details


def _means(rows: Sequence[Row]) -> Iterator[Row]:
    """A mean over the draws for each metric, with its interval."""
    for metric in dict.fromkeys(row["metric"] for row in rows):
        alike = [row for row in rows if row["metric"] == metric]
        summary = mean_and_interval([row["value"] for row in alike])
        yield {**alike[0], "trial": "mean", "value": summary.pop("mean"), **summary}


def _request(
    method: MethodSetting, cell: Cell | None, shots: int, trial: int, seed: int, around: Surroundings | None = None
) -> FineTuningRequest:
    setting = cell.backbone if cell is not None else None
    given = around.given if around is not None else None
    values: dict[str, Any] = {name: value for name, value in method.options.items() if name in _FLAGS}
    settings = settings_given(method, _FLAGS)
    backbone = BackboneRequest("dino_vits16")
    if setting is not None:
        backbone = BackboneRequest(
            setting.name, setting.weights, setting.checkpoint_key, setting.family, seed, setting.told
        )
    return FineTuningRequest(
        method.name.replace("_", "-"),
        backbone,
        given.data if given is not None else None,
        given.train if given is not None else None,
        given.test if given is not None else None,
        shots,
        trial,
        setting.img_size if setting is not None else None,
        setting.decode if setting is not None else "fast",
        settings=settings,
        seed=seed,
        **values,
    )
