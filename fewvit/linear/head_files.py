"""The file of a head, by itself or in the run that trained it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.opening import AGAIN
from ..errors import CheckpointError, DataError, FewvitError, UsageError, printable
from ..files import sha256_of
from ..results import Result
from ..runs.folder import ANEW, RunFolder
from .plan import HEAD

if TYPE_CHECKING:
    from .linear_head import LinearHead


def head_file(given: Path) -> Path:
    """The file of the head that --head names: itself, or the one of a run.

    Raises UsageError for a run of another command, DataError for what is not there, CheckpointError for a file that is
    not the one its run ended with.
    """
    file = given / HEAD if given.is_dir() else given
    run = _run_of(file)
    if run is not None:
        _require_probe(run, given)
        result = run.result()
        if result is not None:
            require_head(run, result)
        elif not file.exists():
            raise DataError(
                "this run has not finished, so it has no head yet",
                file=given,
                fix="Go on with it first: the same --out does.",
            )
    if not given.exists():
        raise DataError("no such file or folder", file=given, fix="Check the spelling of --head.")
    if not file.exists():
        fix = "Give a head's file, or the folder that `fewvit linear --out` filled."
        raise DataError(f"no run of `fewvit linear`: it holds no {HEAD}", file=given, fix=fix)
    return file


def require_head(run: RunFolder, result: Result) -> None:
    """Raise CheckpointError unless the head that a finished run ended with is there, as it was then."""
    file = run.path / HEAD
    if not file.exists():
        raise CheckpointError("the head of this finished run is gone", file=file, fix=_anew(file))
    wanted, found = result.run.get("head_sha256"), sha256_of(file)
    if wanted is None:  # of a run from before it was noted
        load_head(file)
    elif found != wanted:
        digests = f"its sha256 is {found[:12]}…, and was {wanted[:12]}… when the run ended"
        raise CheckpointError(f"the head is damaged or another one: {digests}", file=file, fix=_anew(file))


def load_head(file: Path) -> tuple[LinearHead, dict[str, Any]]:
    """The head in a file, and what the file says of it.

    Raises CheckpointError, saying how a damaged one is got again.
    """
    from .linear_head import read_linear_head

    try:
        return read_linear_head(file)
    except CheckpointError as error:
        if error.fix not in (AGAIN, ANEW):
            raise
        # no backbone's weights: `backbones fetch` has no heads
        raise CheckpointError(error.what, file=file, fix=_anew(file)) from error


def _anew(file: Path) -> str:
    """How a head is got again that is gone or damaged."""
    if _run_of(file) is not None:
        command = f"`fewvit linear … --out {printable(file.parent)} --overwrite`"
        return f"The run's own command trains it anew with --overwrite: {command}."
    return "Get it again where it came from; a head of `fewvit linear` is trained anew with --out RUN --overwrite."


def _run_of(file: Path) -> RunFolder | None:
    """The run whose head a file is or should be."""
    return RunFolder(file.parent) if file.name == HEAD and (file.parent / "manifest.json").exists() else None


def _require_probe(run: RunFolder, given: Path) -> None:
    """Raise UsageError for a run of another command: whose head reads other features, or that has none."""
    command = ((run.manifest() or {}).get("what") or {}).get("command")
    if command != "linear":
        raise _not_ours(command, run.path, given)


def _not_ours(command: str | None, run: Path, given: Path) -> FewvitError:
    """The error for a run of another command, and what can be done with it."""
    place = printable(run)
    if command == "finetune":
        what = "a run of `fewvit finetune`: its head reads a network that was tuned with it, and is no linear probe"
        return UsageError(
            what, file=given, fix=f"Label images with it: `fewvit predict {place}/classifier.bundle SRC`."
        )
    what = f"a run of `fewvit {command}`, which makes a backbone and no head" if command else "a run without a head"
    return UsageError(what, file=given, fix=f"Train one on its features: `fewvit linear --backbone {place} …`.")
