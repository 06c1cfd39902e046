"""The next bundled backbone, trained on one GPU in less than ten minutes, and whether it is better than today's.

    make gpu-pretrain                       or: PYTHONPATH=. python3 -m benchmarks.gpu_pretrain
    make gpu-pretrain ARGS=--rehearse       the same on the CPU with few images and steps; it is killed once on the way

Images come from runs/carried.tar.xz, which `python -m benchmarks.carried` packs. The training is recipes/
fewvit_tiny_gpu.toml in runs/gpu_pretrain/run: the same command after a kill goes on from its newest checkpoint. Then
`benchmarks.learned` judges today's backbone and the new one on the same images. The verdict is to bundle the new one
only if it is better in every row. What is to be kept goes into the folder $OUT, too, if that is set.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .carried import ARCHIVES, Few, pack, shared_archives, unpack
from .uninstalled import ensure_command_line

TODAY = "fewvit_tiny"
RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "fewvit_tiny_gpu.toml"
_MINUTES = 6  # of training; unpacking and judging the two take about two more
_KEPT = ("encoder.safetensors", "manifest.json", "result.json", "log.jsonl")  # what recipes/bundle.py and readers want
_FEW = dict(zip(ARCHIVES, (Few(4, 6), Few(4, 5), Few(20, 6)), strict=True))  # images of a rehearsal


@dataclass(frozen=True)
class Verdict:
    """Rows in which the new backbone is above today's, and those in which it is not."""

    better: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def bundle(self) -> bool:
        """Whether the new one should take today's place."""
        return bool(self.better) and not self.others

    def __str__(self) -> str:
        if self.bundle:
            return f"better in all {len(self.better)} rows: bundle it"
        rows = len(self.better) + len(self.others)
        return f"better in {len(self.better)} of {rows} rows: leave {TODAY} as it is. Not in {', '.join(self.others)}"


def verdict(today: Mapping[str, float], new: Mapping[str, float]) -> Verdict:
    """What two columns of the table say; equal is not better, NaN neither. Raises ValueError for other rows."""
    if set(today) != set(new):
        raise ValueError(f"only one of the two has {', '.join(sorted(set(today) ^ set(new)))}")
    better = tuple(row for row in today if new[row] > today[row])
    return Verdict(better, tuple(row for row in today if row not in better))


def train(work: Path, rehearsed: bool) -> None:
    """Train, or go on, in work/run. Raises SystemExit with the command's code unless it is finished."""
    from fewvit_cli.main import run as fewvit

    data = work / "shared" / "data"
    words = ["pretrain", "mae", "--config", str(RECIPE), "--out", str(work / "run")]
    words += ["--data", str(data / "tinyimagenet-train.zip"), "--monitor", str(data / "tinyimagenet-val.zip")]
    if rehearsed:
        words += ["--device", "cpu", "--epochs", "2", "--batch-size", "8", "--save-every", "2"]
    else:
        words += ["--device", "cuda", "--minutes", str(_MINUTES), "--monitor-every", "10", "--save-every", "200"]
    sys.argv = ["fewvit", *words]  # what the run's result says it was made by
    if code := fewvit(words):
        print("The same command of gpu_pretrain goes on from the newest checkpoint.", file=sys.stderr)
        sys.exit(code)


def column(kind: str, file: Path, sets: Mapping[str, tuple[str, str]] | None = None) -> dict[str, float]:
    """The rows of a backbone, from `file` where they were computed before."""
    from fewvit.files import write_json

    from .learned import judged

    if not file.is_file():
        with tempfile.TemporaryDirectory() as folder:
            write_json(file, judged(kind, Path(folder), sets))
    found: dict[str, float] = json.loads(file.read_text())
    return found


def judge(work: Path, rehearsed: bool) -> Verdict:
    """Print both columns and the verdict, and keep them in work/verdict.json; a rehearsal leaves the digits out."""
    from fewvit.files import write_json

    from .learned import show, sources

    os.environ["FEWVIT_SHARED"] = str(work / "shared")
    sets = {name: where for name, where in sources().items() if not (rehearsed and name == "digits")}
    today, new = column(TODAY, work / "today.json", sets), column(str(work / "run"), work / "new.json", sets)
    show({TODAY: today, str(work / "run"): new})
    found = verdict(today, new)
    write_json(work / "verdict.json", {"bundle": found.bundle, "verdict": str(found), "today": today, "new": new})
    print(found, flush=True)
    return found


def rehearse(work: Path) -> int:
    """All of it in small, and a run that was killed beside one that was not. 1 if the two differ."""
    pack(shared_archives(), work / "carried.tar.xz", few=_FEW)
    for name in ("whole", "killed"):
        unpack(work / "carried.tar.xz", work / name / "shared" / "data")
    train(work / "whole", rehearsed=True)
    killed = _kill_at_the_first_checkpoint(work / "killed")
    train(work / "killed", rehearsed=True)
    files = [work / name / "run" / "encoder.safetensors" for name in ("whole", "killed")]
    same = files[0].read_bytes() == files[1].read_bytes()
    print(f"{'killed' if killed else 'NOT killed in time'}; resumed: {'the same' if same else 'ANOTHER'} encoder")
    judge(work / "killed", rehearsed=True)
    return 0 if same and killed else 1


def _kill_at_the_first_checkpoint(work: Path) -> bool:
    """Train in another process until there is a checkpoint; whether it was killed before its end."""
    words = [sys.executable, "-m", "benchmarks.gpu_pretrain", "--rehearse", "--only-train", "--work", str(work)]
    training = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    manifests = (work / "run" / "checkpoints").glob  # a checkpoint is whole once it has one
    while training.poll() is None and not any(manifests("*.json")):
        time.sleep(0.005)
    training.send_signal(signal.SIGKILL)
    training.wait()
    return not (work / "run" / "result.json").exists()


def keep(work: Path, out: Path) -> None:
    """Copy what is small and wanted to `out`: recipes/bundle.py takes out/run."""
    (out / "run").mkdir(parents=True, exist_ok=True)
    for name in _KEPT:
        shutil.copy(work / "run" / name, out / "run" / name)
    shutil.copy(work / "verdict.json", out / "verdict.json")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_pretrain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rehearse", action="store_true", help="on the CPU with few images; in a temporary folder")
    parser.add_argument("--carried", type=Path, default=Path("runs/carried.tar.xz"), metavar="FILE")
    parser.add_argument("--work", type=Path, default=Path("runs/gpu_pretrain"), metavar="FOLDER")
    parser.add_argument("--only-train", action="store_true", help="images are unpacked, and nothing is judged")
    options = parser.parse_args()
    ensure_command_line()
    if options.only_train:
        train(options.work, options.rehearse)
        return 0
    if options.rehearse:
        with tempfile.TemporaryDirectory() as folder:
            return rehearse(Path(folder))
    import torch

    if not torch.cuda.is_available():
        print("gpu-pretrain: torch sees no GPU here, so there is nothing to train; --rehearse does it in small.")
        return 0
    if not options.carried.is_file():
        sys.exit(f"{options.carried}: no such file; pack it with `python -m benchmarks.carried`")
    started = time.perf_counter()
    unpack(options.carried, options.work / "shared" / "data")
    train(options.work, rehearsed=False)
    judge(options.work, rehearsed=False)
    if os.environ.get("OUT"):
        keep(options.work, Path(os.environ["OUT"]))
    print(f"{(time.perf_counter() - started) / 60:.1f} minutes in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
