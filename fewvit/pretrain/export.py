"""A run's newest checkpoint in its family's official layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, printable
from ..files import replacing
from ..methods import Method, Pretraining, find_method
from ..runs.folder import RunFolder

if TYPE_CHECKING:
    from ..training.state import Checkpoint


def export_official(run: Path, file: Path) -> dict[str, Any]:
    """Replace `file` by the newest checkpoint of a run in its family's official layout; what it holds.

    Raises DataError for a folder without a checkpoint, IntegrityError for a damaged one.
    """
    import torch

    recipe = recipe_of(run)
    task, newest = newest_task(run, recipe)
    tree = {**task.official(), "epoch": newest.facts["epoch"] + 1}
    with replacing(file) as handle:
        torch.save(tree, handle)
    return {
        "backbone": run.name,
        "family": recipe.family,
        "file": str(file),
        "step": newest.step,
        "keys": ", ".join(tree),
    }


def recipe_of(run: Path) -> Method:
    """What a run of `fewvit pretrain` goes by. Raises DataError for a folder of anything else."""
    begun = RunFolder(run).manifest() if run.is_dir() else None
    if begun is None:
        raise _no_checkpoint(run)
    if begun["what"].get("command") != "pretrain":
        raise DataError(
            "no run of `fewvit pretrain`: only those have an official layout",
            file=run,
            fix="As it is, it goes with --backbone; "
            f"`fewvit backbones info {printable(run)}` names its file of weights, for Python.",
        )
    return _recipe_from(begun["what"])


def newest_task(run: Path, recipe: Method) -> tuple[Pretraining, Checkpoint]:
    """The whole network of a run as its newest checkpoint has it, and that checkpoint.

    `recipe` is the run's, or one that differs in nothing but what no tensor depends on. Raises DataError for a run
    without a checkpoint, IntegrityError for a damaged one.
    """
    from ..training.state import Checkpoints

    newest = Checkpoints(RunFolder(run).checkpoints).newest()
    if newest is None:
        raise _no_checkpoint(run)
    task: Any = recipe.task()
    task.load_state_dict(
        {name.removeprefix("task."): tensor for name, tensor in newest.tensors().items() if name.startswith("task.")}
    )
    return task, newest


def _no_checkpoint(run: Path) -> DataError:
    return DataError("no run with a checkpoint", file=run, fix="Give the folder that `fewvit pretrain --out` filled.")


def _recipe_from(what: Mapping[str, Any]) -> Method:
    """The recipe in what a run's manifest says of it."""
    from ..backbones import Architecture
    from ..views.view import View

    fields: dict[str, Any] = {name: _tupled(value) for name, value in what["recipe"].items()}
    views = tuple(View(**{name: _tupled(value) for name, value in view.items()}) for view in fields.pop("views"))
    architecture = Architecture(**fields.pop("architecture"))
    return find_method(what["method"])(**fields, architecture=architecture, views=views)


def _tupled(value: Any) -> Any:  # of every type that JSON has
    """The value, a list as a tuple: JSON knows none."""
    return tuple(value) if isinstance(value, list) else value
