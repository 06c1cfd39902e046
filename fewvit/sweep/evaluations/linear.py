"""Linear probes on all of the training images, as `fewvit linear`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ...errors import UsageError
from ...evaluate.details import Details
from ...evaluate.inputs import FeatureReader
from ...linear import LinearProbeRequest, run_linear
from ...linear.request import check_request
from ...results import Result
from ...runs.request import Audience, Effort
from ..cells import Cell, Scope
from ..settings import BackboneSetting, DataSetting, MethodSetting, SweepConfig
from .collected import Collected
from .evaluation import Stopped, Surroundings, listed, numbers_of, require_whole, settings_given

_FLAGS = ("epochs", "batch_size", "lr", "augment", "select_on")


class LinearEvaluation:
    """One cell for each backbone and data set: the grid of heads is one training."""

    task = "linear"
    defaults = ("linear",)
    beside = ""

    @staticmethod
    def methods() -> Sequence[str]:
        """One."""
        return ("linear",)

    @staticmethod
    def check(method: MethodSetting) -> None:
        """The command's options, and those that its --set takes."""
        require_whole(method.options, ("epochs",))
        require_whole(method.options, ("batch_size",), 2)
        if not isinstance(method.options.get("augment", False), bool):
            raise UsageError(f"augment = {method.options['augment']!r} is neither true nor false")
        check_request(_request(method, None, 0))

    @staticmethod
    def scopes(config: SweepConfig) -> Iterator[Scope]:
        """All images."""
        yield Scope()

    @staticmethod
    def unsuited(method: MethodSetting, backbone: BackboneSetting | None, data: DataSetting) -> str:
        """Views are made of images."""
        augments = method.options.get("augment") and backbone is None
        return "augment needs images, and features were given" if augments else ""

    @staticmethod
    def command(cell: Cell) -> str:
        """fewvit linear --epochs …"""
        words: list[str] = []
        for name, value in cell.method.options.items():
            if name not in _FLAGS:
                words += ["--set", f"{name}={value}"]
            elif isinstance(value, bool):
                words += ["--" + name] * value
            else:
                text = listed(numbers_of(name, value)) if name == "lr" else str(value)
                words += ["--" + name.replace("_", "-"), text]
        return cell.spelled("linear", *words)

    @staticmethod
    def run(cell: Cell, reader: FeatureReader, around: Surroundings) -> tuple[Result, Details]:
        """As `fewvit linear`; the run goes on where it was stopped."""
        request = _request(cell.method, reader.options.protocol, cell.seed)
        kept, effort = Collected(), Effort(workers=around.workers)
        audience = Audience(notify=around.notify)
        result, stopped = run_linear(
            reader, around.given, request, effort, around.runs / "linear", audience, keep=kept.keep
        )
        if stopped is not None:
            raise Stopped(stopped)
        return result, kept.details


def _request(method: MethodSetting, protocol: str | None, seed: int) -> LinearProbeRequest:
    values: dict[str, Any] = {name: value for name, value in method.options.items() if name in _FLAGS}
    rates = numbers_of("lr", values.pop("lr")) if "lr" in values else ()
    settings = settings_given(method, _FLAGS)
    return LinearProbeRequest(protocol, rates, settings=settings, seed=seed, **values)
