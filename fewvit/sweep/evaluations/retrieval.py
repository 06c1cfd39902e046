"""How well the test images find training images of their class, as `fewvit index evaluate` by labels."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence

from ...errors import UnknownName, UsageError
from ...evaluate.details import Details
from ...evaluate.inputs import FeatureReader, Inputs, measured
from ...labels import labelled
from ...results import Facts, Result, Row
from ...retrieval.evaluating import DEFAULT
from ...retrieval.evaluation import evaluate_features
from ...retrieval.protocols import find_retrieval_protocol
from ..cells import Cell, Scope
from ..settings import BackboneSetting, DataSetting, MethodSetting, SweepConfig
from .collected import Collected
from .evaluation import Surroundings


class RetrievalEvaluation:
    """One cell for each backbone and data set: the training images are the index, the test images the queries."""

    task = ""
    defaults = ("retrieval",)
    beside = ""

    @staticmethod
    def methods() -> Sequence[str]:
        """One."""
        return ("retrieval",)

    @staticmethod
    def check(method: MethodSetting) -> None:
        """It has no options."""
        if method.options:
            raise UnknownName("option of retrieval", next(iter(method.options)), [], fix="It has none.")

    @staticmethod
    def scopes(config: SweepConfig) -> Iterator[Scope]:
        """All images."""
        yield Scope()

    @staticmethod
    def unsuited(method: MethodSetting, backbone: BackboneSetting | None, data: DataSetting) -> str:
        """Every backbone on any data."""
        return ""

    @staticmethod
    def command(cell: Cell) -> str:
        """An index of the training images, then its evaluation by the test images."""
        train, test = cell.data.sides
        build = cell.spelled("index build", "--index", "IDX", data=("--data", train))
        return f"{build} && fewvit index evaluate --index IDX {shlex.join(['--queries', test])}"

    @staticmethod
    def run(cell: Cell, reader: FeatureReader, around: Surroundings) -> tuple[Result, Details]:
        """As `fewvit index evaluate --queries TEST` of an index of the training images."""
        protocol = find_retrieval_protocol(DEFAULT)

        def measure(inputs: Inputs, name: str) -> tuple[list[Row], Facts]:
            if inputs.test is None:
                raise UsageError("retrieval is measured with training and test images")
            started = time.perf_counter()
            queries, index = (
                labelled(inputs.test, "test", around.notify),
                labelled(inputs.train, "train", around.notify),
            )
            rows = evaluate_features(protocol, queries, index, device=reader.options.device)
            took = round(time.perf_counter() - started, 3)
            return [{"method": protocol.name, **row, "n_index": len(index)} for row in rows], {
                "seconds": {"search": took}
            }

        rows, facts = measured(reader, reader.pair(around.given), measure, Collected().skipped, cell.seed)
        return Result("index", rows, facts), Details()
