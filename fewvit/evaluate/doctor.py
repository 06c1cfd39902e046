"""What this machine has and whether it works: torch, FAISS on each device, OpenMP, decoders, disk."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import FewvitError, counted
from ..results import versions

_LOW_DISK = 2 << 30  # bytes


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `state` is ok, note or FAIL; a failure says what to do."""

    what: str
    state: str
    detail: str


def examine(cache_dir: Path) -> Iterator[Finding]:
    """Findings one after another, cheapest first. A check that breaks is itself a finding."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _packages,
        lambda: _disk(cache_dir),
        _decoders,
        _kernels,
        _torch,
        _faiss,
        _openmp,
    ]
    for check in checks:
        try:
            yield from check()
        except (ImportError, OSError, RuntimeError, FewvitError) as error:
            name = getattr(check, "__name__", "disk").strip("_<>")
            yield Finding(name, "FAIL", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")


def _python() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{sys.version.split()[0]} at {sys.prefix}, {counted(os.cpu_count() or 1, 'core')}")


def _packages() -> Iterator[Finding]:
    yield Finding("versions", "ok", ", ".join(f"{name} {version}" for name, version in versions().items()))
    installed = {d.metadata["Name"].lower() for d in importlib.metadata.distributions() if d.metadata["Name"]}
    both = sorted(name for name in installed if name.startswith("faiss-"))
    if len(both) > 1:
        yield Finding(
            "faiss wheels",
            "FAIL",
            f"{' and '.join(both)} overwrite each other; uninstall all of them, then install one",
        )
    if "openvino" not in installed:
        yield Finding(
            "openvino",
            "note",
            "not installed; with it --precision bf16 on a CPU is faster: pip install 'fewvit[openvino]'",
        )


def _disk(cache_dir: Path) -> Iterator[Finding]:
    folder = next(parent for parent in (cache_dir, *cache_dir.parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    yield Finding("cache folder", "ok" if free > _LOW_DISK else "note", f"{cache_dir}, {free / 1e9:.1f} GB free")
    if not os.access(folder, os.W_OK):
        yield Finding("cache folder", "FAIL", f"{folder} cannot be written; set FEWVIT_CACHE_DIR")


def _decoders() -> Iterator[Finding]:
    from PIL import ImageFile

    from ..images import decoder_version

    for policy in ("fast", "pil"):
        yield Finding(f"decoder {policy}", "ok", decoder_version(policy))
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        yield Finding(
            "decoder", "note", "another library set LOAD_TRUNCATED_IMAGES; fewvit refuses cut files all the same"
        )


def _kernels() -> Iterator[Finding]:
    from ..kernels import library
    from ..neighbors.certified import kind

    missing = [name for name in ("near", "resize") if library(name) is None]
    if missing:
        yield Finding(
            "kernels in C",
            "note",
            f"{' and '.join(missing)} not built: k-NN takes FAISS, resizing torch; with a C compiler, install again",
        )
        return
    yield Finding("kernels in C", "ok", f"k-NN by products of {kind()}, resizing")


def _torch() -> Iterator[Finding]:
    import torch

    from ..models.engines import choose_engine, resolve_precision

    build = torch.version.cuda or "CPU only"
    yield Finding(
        "torch",
        "ok",
        f"{torch.__version__} ({build}), {counted(torch.get_num_threads(), 'compute thread')}, "
        f"{torch.backends.cpu.get_cpu_capability()}",
    )
    engines = ", ".join(f"{precision}: {choose_engine(precision, 'cpu')}" for precision in ("fp32", "bf16"))
    yield Finding("CPU engines", "ok", f"{engines}; --precision auto is {resolve_precision('auto', 'cpu')}")
    if not torch.cuda.is_available():
        seen = os.path.exists("/dev/nvidia0")
        yield Finding(
            "GPU",
            "FAIL" if seen else "note",
            "a driver is here, but torch sees no GPU: is its CUDA build newer than the driver?"
            if seen
            else "none; everything runs on the CPU",
        )
        return
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        built_for = torch.cuda.get_arch_list()
        yield Finding(
            f"GPU {number}",
            "ok",
            f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, compute {facts.major}.{facts.minor}; torch is "
            f"built for {' '.join(built_for)}",
        )
        a = torch.arange(64.0, device=f"cuda:{number}").view(8, 8)
        right = torch.equal((a @ a).cpu(), a.cpu() @ a.cpu())
        yield Finding(
            f"GPU {number} computes",
            "ok" if right else "FAIL",
            "matrix product equals the CPU's" if right else "matrix product differs from the CPU's",
        )


def _faiss() -> Iterator[Finding]:
    from ..cpu import is_amd_avx512
    from ..neighbors import Bank
    from ..neighbors.installed import faiss_facts, faiss_gpu_works, faiss_is_here

    if not faiss_is_here():
        yield Finding(
            "faiss", "FAIL", "not installed; torch stands in. pip install faiss-gpu (Linux x86-64) or faiss-cpu"
        )
        return
    kernels = os.environ.get("OPENBLAS_CORETYPE", "")
    if is_amd_avx512() and kernels not in ("", "SkylakeX", "Cooperlake", "SapphireRapids"):
        yield Finding(
            "faiss kernels",
            "note",
            f"OPENBLAS_CORETYPE={kernels} keeps FAISS from this CPU's AVX-512; searches run faster without it",
        )
    version, options, gpus = faiss_facts()
    yield Finding("faiss", "ok", f"{version} ({options}), sees {counted(gpus, 'GPU')}")
    devices = ["cpu"] + (["cuda"] if gpus and faiss_gpu_works() else [])
    if gpus and len(devices) == 1:
        yield Finding("faiss GPU", "note", "this wheel has no kernels for the GPU here; the torch search is used on it")
    rows = np.random.default_rng(0).normal(size=(257, 48)).astype(np.float32)
    for device in devices:
        bank = Bank(rows, device=device)
        exact = bool((bank.search(rows, 1).rows[:, 0] == np.arange(257)).all())
        yield Finding(
            f"faiss on {device}",
            "ok" if exact else "FAIL",
            f"{bank.engine}: each of 257 vectors finds itself"
            if exact
            else "vectors do not find themselves; reinstall faiss",
        )


def _openmp() -> Iterator[Finding]:
    import torch  # noqa: F401  both are loaded, so that their runtimes are seen side by side
    from threadpoolctl import threadpool_info

    from ..neighbors.installed import faiss_facts

    faiss_facts()
    runtimes = sorted({Path(pool["filepath"]).name for pool in threadpool_info() if pool["user_api"] == "openmp"})
    risky = sys.platform == "darwin" and len(runtimes) > 1
    yield Finding(
        "OpenMP",
        "note" if risky else "ok",
        f"{counted(len(runtimes), 'runtime')} in one process ({', '.join(runtimes)})"
        + ("; if it crashes, set OMP_NUM_THREADS=1" if risky else ""),
    )
