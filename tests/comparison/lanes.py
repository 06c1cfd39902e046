"""A folder in which one checkout runs commands, and what each of them did."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from comparison.commands import Command

SERVE = Path(__file__).with_name("serve.py")


@dataclass
class Outcome:
    """What one command did."""

    code: int
    stdout: str
    stderr: str
    seconds: float  # of CPU time
    files: list[str] = field(default_factory=list)  # written by it, relative to the lane's folder


def checkout(named: str, repository: Path, folder: Path) -> Path:
    """The folder of a checkout: itself, or a revision of the repository exported into `folder`."""
    if (Path(named) / "fewvit").is_dir():
        return Path(named).resolve()
    done = subprocess.run(["git", "-C", str(repository), "archive", "--format=tar", named], capture_output=True)
    if done.returncode:
        sys.exit(f"{named} is neither a folder with fewvit/ in it nor a git revision: {done.stderr.decode().strip()}")
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def source_digest(root: Path) -> str:
    """sha256 of the program's files."""
    digest = hashlib.sha256()
    for path in sorted(p for part in ("fewvit", "cli") for p in (root / part).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            content = hashlib.sha256(path.read_bytes()).digest()
            digest.update(str(path.relative_to(root)).encode() + b"\0" + content)
    return digest.hexdigest()


class Lane:
    """A folder in which one checkout runs commands, with cache/, out/ and a link in/ to the inputs.

    The folder is the current one and paths are relative, so that they are the same in every lane.
    """

    def __init__(self, name: str, work: Path, source: Path, cores: set[int]):
        self.name, self.folder, self.source, self.cores, self.work = name, work / name, source, cores, work
        self.outcomes: dict[str, Outcome] = {}

    def prepare(self, like: Lane | None = None) -> None:
        """Empty the folder, or fill it with what another lane left."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if like is not None:
            shutil.copytree(like.folder, self.folder, symlinks=True)
            return
        for name in ("cache", "out"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "in").symlink_to("../inputs")

    def run(self, commands: Sequence[Command]) -> None:
        """Run commands in order, noting what each wrote."""
        cores = ",".join(map(str, sorted(self.cores)))
        words = [sys.executable, "-P", str(SERVE), str(self.source), cores]
        before = self._state()
        with subprocess.Popen(
            words,
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as server:
            for command in commands:
                self.outcomes[command.name] = outcome = self._ask(server, command)
                after = self._state()
                outcome.files = [name for name in after if before.get(name) != after[name]]
                before = after
                print(f"  {self.name}  {outcome.seconds:6.1f} s  {command.name}", file=sys.stderr, flush=True)

    def _environment(self) -> dict[str, str]:
        link = self.work / "packages" / self.name / "fewvit_cli"  # the name under which cli/ is installed
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(self.source / "cli")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("FEWVIT_", "PYTHON"))}
        return {
            **inherited,
            "PYTHONPATH": f"{link.parent}:{self.source}",
            "PYTHONHASHSEED": "0",
            "PYTHONPYCACHEPREFIX": str(self.work / "pyc" / self.name),  # a checkout that is a folder stays clean
            "FEWVIT_CACHE_DIR": "cache",
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",  # a GPU's sums need not be the same twice
            "COLUMNS": "100",
            "MPLCONFIGDIR": str(self.work / "matplotlib"),
            "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait leave the core to the other lane
        }

    def _ask(self, server: subprocess.Popen[str], command: Command) -> Outcome:
        if server.stdin is None or server.stdout is None:
            raise TypeError("the server was started without pipes")
        server.stdin.write(json.dumps(command.words) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.source} cannot be run: see above")
        code, seconds = json.loads(answer)
        stdout, stderr = ((self.folder / name).read_text(errors="replace") for name in (".stdout", ".stderr"))
        return Outcome(code, stdout, stderr, seconds)

    def _state(self) -> dict[str, tuple[int, int, int]]:
        """Each file that commands wrote, and what changes when it is written anew."""
        found = {}
        for path in sorted(path for part in ("cache", "out") for path in (self.folder / part).rglob("*")):
            if path.is_file():
                status = path.stat()
                found[str(path.relative_to(self.folder))] = (status.st_ino, status.st_mtime_ns, status.st_size)
        return found


def cut_short(run: Path) -> None:
    """Leave of a finished run what a kill after its last checkpoint but one would have."""
    for path in [run / "result.json", *run.glob("*.safetensors"), *run.glob("*.bundle")]:
        path.unlink(missing_ok=True)
    steps = sorted((run / "checkpoints").glob("step-*.json"))
    if len(steps) > 1:
        steps[-1].unlink()
        steps[-1].with_suffix(".safetensors").unlink()
