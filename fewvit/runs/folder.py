"""Run folders: what training fills and resumes, and what is used as a backbone afterwards. No torch.

`manifest.json` says what the run is, `log.jsonl` how it went, `checkpoints/` where it goes on, `encoder.safetensors`
what came out (of fine-tuning: `adapter.safetensors` or `model.safetensors`), `result.json` that it is finished.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import (
    CheckpointError,
    DataError,
    IntegrityError,
    UsageError,
    printable,
    refuse_out_of_memory,
)
from ..files import claimed, sha256_of, sweep, write_json
from ..results import Result
from ..untrusted.texts import json_of
from .result_file import StoredResult, read_result, write_result

if TYPE_CHECKING:
    from ..digests import Contents

SCHEMA = "fewvit.run/1"
_RESULT = "result.json"
ENCODER = "encoder.safetensors"
CLASSIFIER = "classifier.bundle"  # of fine-tuning, on the backbone in its own folder
ANEW = "Put it back, or train anew with the run's own command and --overwrite."


@dataclass(frozen=True)
class RunFolder:
    """One run's folder, there or not yet."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def log(self) -> Path:
        """The file of the log."""
        return self.path / "log.jsonl"

    @property
    def encoder(self) -> Path:
        """The file of the pretrained encoder."""
        return self.path / ENCODER

    def manifest(self) -> dict[str, Any] | None:
        """What the run is; None for a folder that is not there or empty.

        Raises UsageError for a folder of other things, IntegrityError for a manifest that cannot be read.
        """
        if not self.path.exists():
            return None
        file = self.path / "manifest.json"
        if not self.path.is_dir():
            raise UsageError("--out is a file; give the name of a folder for the run", file=self.path)
        if not file.exists():
            if any(not path.name.startswith(".") for path in self.path.iterdir()):
                raise UsageError(
                    "this folder holds other things than a run", file=self.path, fix="Give --out another name."
                )
            return None
        try:
            manifest = json_of(file.read_text())
            known = manifest["schema"] == SCHEMA
            if known and not isinstance(manifest["what"], dict):
                raise ValueError("it does not say what the run is")
        except (OSError, ValueError, KeyError, TypeError) as error:
            refuse_out_of_memory(error, "reading the manifest of a run")
            raise IntegrityError(
                "the manifest of this run cannot be read", file=file, fix="Start anew with --overwrite."
            ) from error
        if not known:
            raise IntegrityError(
                f"a run of another version ({manifest['schema']})", file=file, fix="Update fewvit, or start anew."
            )
        return dict(manifest)

    def begin(
        self,
        what: Mapping[str, Any],
        about: Mapping[str, Any],
        contents: Mapping[str, Contents] | None = None,
        *,
        anew: bool = False,
    ) -> bool:
        """Make the folder and its manifest, or find that it is the same run's; whether it goes on.

        `what` decides the outcome and must agree with what was begun, if that came to anything: UsageError with the
        differences otherwise, as `require_contents` tells them where only digests of `contents` in its `data` differ.
        `anew`: what an earlier run of the command made is removed first.
        """
        plain = json.loads(json.dumps(what))
        if anew:
            self.clear(plain["command"])
        before = self.manifest()
        differing = list(differences(before["what"], plain)) if before is not None else []
        if before is not None and not differing:
            return True
        if contents and all(line.startswith(tuple(f"data.{name}: " for name in contents)) for line in differing):
            self.require_contents(contents)
        if differing and not self._came_to_nothing():
            raise UsageError(
                f"this run was begun with other arguments: {'; '.join(differing[:5])}",
                file=self.path,
                fix="Repeat its arguments to go on, give --out another name, or start anew with --overwrite.",
            )
        for log in self.path.rglob("log.jsonl"):  # of what came to nothing
            log.unlink()
        write_json(self.path / "manifest.json", {"schema": SCHEMA, "what": plain, **about})
        return False

    def _came_to_nothing(self) -> bool:
        """Whether a run that was begun left nothing that took time to make: no checkpoint, no weights, no result.

        And none is under way.
        """
        if self._made_something():
            return False
        with claimed(self.path / "manifest.json") as ours:
            return ours is True

    def _made_something(self) -> bool:
        made = (
            file for pattern in ("*.safetensors", "outcome.json", "result.json") for file in self.path.rglob(pattern)
        )
        return next(made, None) is not None

    def require_contents(self, sides: Mapping[str, Contents]) -> None:
        """Note what is in the images of the run, or compare it with what was noted when it was begun.

        Raises UsageError, which says how many and which, where images are others under the same names, and the run has
        come to something with the former ones.
        """
        from .contents import NotedContents  # NumPy, which no usage error waits for

        noted = NotedContents(self.path)
        if (differing := noted.differing(sides)) and self._made_something():
            raise UsageError(
                f"images of {' and '.join(differing)} are no longer what they were when this run was begun, "
                f"under the same names{noted.difference({name: sides[name] for name in differing})}",
                file=self.path,
                fix="Put the former ones back, give --out another name, or start anew with --overwrite.",
            )
        noted.note(sides)

    @contextlib.contextmanager
    def in_use(self, *, first: bool = True) -> Iterator[None]:
        """While the block runs, no other command trains this run, begins it with other arguments or removes it.

        `first`: whether this is the first, or only, of the run's own processes; it holds the run for all of them, and
        removes the temporary files that a kill has left in it.
        Raises UsageError where another command is at it already.
        """
        with claimed(self.path / "manifest.json") if first else contextlib.nullcontext() as ours:
            if ours is False:
                raise self._taken("cannot go on with it")
            if ours and first:
                for folder in {file.parent for file in self.path.rglob(".*.tmp")}:
                    sweep(folder, 0.0, math.inf)
            yield

    def _taken(self, what: str) -> UsageError:
        fix = "Wait until it ends, stop it (Ctrl-C; nothing is lost), or give --out another name."
        return UsageError(f"another command is training this run, so this one {what}", file=self.path, fix=fix)

    def clear(self, command: str) -> None:
        """Remove the run, if it is one of this command; nothing else is ever removed.

        Raises UsageError for a run of another command, or one that is being trained.
        """
        if not self.require_owner(command):
            return
        with claimed(self.path / "manifest.json") as ours:
            if ours is False:
                raise self._taken("does not remove it")
            shutil.rmtree(self.path)

    def require_owner(self, command: str) -> bool:
        """Whether there is a run. Raises UsageError for one of another command, which --overwrite does not remove."""
        try:
            manifest = self.manifest()
        except IntegrityError:
            manifest = {}  # of a run, as it has that name: what --overwrite is for
        if manifest is None:
            return False
        owner = manifest.get("what", {}).get("command", command)
        if owner != command:
            raise UsageError(
                f"this is a run of `fewvit {owner}`, which `fewvit {command} --overwrite` does not remove",
                file=self.path,
                fix="Choose another folder with --out, or delete it yourself.",
            )
        return True

    def finish(self, result: Result, files: Sequence[str] = ()) -> Result:
        """Store the result, which says that the run is finished, with the digests of files that `finished` compares.

        The result as it is told again.
        """
        made = {name: sha256_of(self.path / name) for name in files}
        return write_result(self.path / _RESULT, result, made)

    def result(self, notify: Callable[[str], None] = lambda line: None) -> Result | None:
        """The stored result of a finished run, else None; a note where it cannot be told whether it was changed.

        Raises IntegrityError where it was, or cannot be read.
        """
        stored = self._stored(notify)
        return stored.result if stored is not None else None

    def _stored(self, notify: Callable[[str], None]) -> StoredResult | None:
        stored = read_result(self.path / _RESULT)
        if stored is not None and stored.note:
            notify(f"{printable(self.path / _RESULT)}: {stored.note}")
        return stored

    def finished(self, notify: Callable[[str], None] = lambda line: None) -> Result | None:
        """As `result`.

        Raises CheckpointError where a file that the run had made is gone, or another one by now.
        """
        stored = self._stored(notify)
        if stored is None:
            return None
        for name, wanted in stored.files.items():
            file = self.path / name
            if not file.exists():
                raise _missing(file)
            if (found := sha256_of(file)) != wanted:
                what = f"damaged or another one: its sha256 is {found[:12]}…, and was {wanted[:12]}… when the run ended"
                raise CheckpointError(what, file=file, fix=ANEW)
        return stored.result

    def weights(self, made: Mapping[str, Any]) -> Path:
        """The file that the run made, of what `backbone` says."""
        return self.path / made.get("file", ENCODER)

    def _instead(self) -> str:
        """What to give as a backbone in place of this folder."""
        whole = next(
            (place for place in list(self.path.absolute().parents)[:2] if (place / "manifest.json").is_file()), None
        )
        if whole is not None:
            return f"It is a part of the run {printable(whole)}: give that one."
        return "A backbone is a name, a weights file, or a folder that `fewvit pretrain` or `fewvit finetune` made."

    def weights_sha256(self) -> str:
        """What a finished run's file of weights was when it ended; empty if that is unknown or it goes on."""
        stored = self.result()
        return str(stored.run.get("weights_sha256") or "") if stored is not None else ""

    def backbone(self) -> dict[str, Any]:
        """What came out: `family`, `architecture`, `preprocess`; of fine-tuning its `file`, of an adapter its `base`.

        Raises DataError for a folder that is no run or has made nothing yet, CheckpointError where what it had made is
        gone.
        """
        manifest = self.manifest() if (self.path / "manifest.json").exists() else None
        if manifest is None or "backbone" not in manifest:
            raise DataError(
                "no run that made a backbone",
                file=self.path,
                fix=self._instead(),
            )
        made = dict(manifest["backbone"])
        file = self.weights(made)
        if not file.exists():
            if self.result() is not None:
                raise _missing(file)
            until = (
                "come to its first checkpoint, so there is no encoder yet"
                if "file" not in made
                else "finished; go on with it first"
            )
            raise DataError(f"this run has not {until}", file=self.path)
        return made


def run_of_classifier(bundle: Path) -> RunFolder | None:
    """The run whose classifier a bundle is, or should be; None for one that stands by itself."""
    home = RunFolder(bundle.absolute().parent)
    return home if bundle.name == CLASSIFIER and (home.path / "manifest.json").is_file() else None


def _missing(file: Path) -> CheckpointError:
    return CheckpointError("this run is finished, but the file is not there any more", file=file, fix=ANEW)


def run_digest(what: Mapping[str, Any]) -> str:
    """A folder's name for a run that is found again by what decides it."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


def differences(before: object, now: object, name: str = "") -> Iterator[str]:
    """Where two JSON values differ, as `name: before -> now`."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        yield f"{name}: {_short(before)} -> {_short(now)}"


def _short(value: object) -> str:
    text = "none" if value is None else json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 40 else text[:37] + "..."
