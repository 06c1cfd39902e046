"""What is read of the CPU, and the kernels that are asked for because of it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from fewvit import cpu

WIDE = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
INFO = "vendor_id\t: AuthenticAMD\nmodel name\t: bf16 lake\nflags\t\t: sse avx512f avx512_bf16\n"


@pytest.fixture
def fresh_flags():
    cpu.cpu_flags.cache_clear()
    yield
    cpu.cpu_flags.cache_clear()


@pytest.fixture
def flags(monkeypatch):
    return lambda words: monkeypatch.setattr(cpu, "cpu_flags", lambda: frozenset(words))


def test_flags_are_read_where_the_system_tells_them(monkeypatch, fresh_flags):
    monkeypatch.setattr(cpu.Path, "read_text", lambda path: INFO)
    assert cpu.cpu_flags() == {"AuthenticAMD", "sse", "avx512f", "avx512_bf16"}


def test_flags_are_empty_where_the_system_tells_none(monkeypatch, fresh_flags):
    def absent(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(cpu.Path, "read_text", absent)
    assert cpu.cpu_flags() == frozenset()
    assert not cpu.is_amd_avx512()


@pytest.mark.parametrize(
    ("words", "wide"),
    [
        ({"AuthenticAMD", *WIDE}, True),
        ({"GenuineIntel", *WIDE}, False),
        ({"AuthenticAMD"}, False),
        ({"AuthenticAMD", "avx512f"}, False),
    ],
)
def test_an_amd_cpu_with_all_of_avx512_is_known_by_its_flags(words, wide, flags):
    flags(words)
    assert cpu.is_amd_avx512() is wide


@pytest.mark.parametrize(("words", "computes"), [({"avx512_bf16"}, True), ({"amx_bf16"}, True), ({"avx512f"}, False)])
def test_bf16_products_are_known_by_their_flags(words, computes, flags):
    flags(words)
    assert cpu.computes_bf16() is computes


def test_wide_kernels_are_asked_for_only_while_a_library_loads(flags, monkeypatch):
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    flags({"AuthenticAMD", *WIDE})

    def load_what_is_not_there():
        with cpu.wide_openblas():
            assert os.environ["OPENBLAS_CORETYPE"] == "SkylakeX"
            raise ImportError

    with pytest.raises(ImportError):
        load_what_is_not_there()
    assert "OPENBLAS_CORETYPE" not in os.environ


def test_the_users_choice_of_kernels_stands(flags, monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    flags({"AuthenticAMD", *WIDE})
    with cpu.wide_openblas():
        assert os.environ["OPENBLAS_CORETYPE"] == "Haswell"
    assert os.environ["OPENBLAS_CORETYPE"] == "Haswell"


def test_other_cpus_are_left_to_openblas(flags, monkeypatch):
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    flags({"GenuineIntel", *WIDE})
    with cpu.wide_openblas():
        assert "OPENBLAS_CORETYPE" not in os.environ


LOADED = """
import numpy as np
from threadpoolctl import threadpool_info
from fewvit.neighbors import Bank
Bank(np.eye(4, dtype=np.float32), engine="faiss", device="cpu")
print([i["architecture"] for i in threadpool_info() if i["internal_api"] == "openblas" and "faiss" in i["filepath"]])
"""


@pytest.mark.skipif(
    not cpu.is_amd_avx512(), reason="only AMD CPUs with AVX-512 need another kernel than OpenBLAS's choice"
)
def test_faiss_computes_with_avx512_on_amd():
    clean = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    done = subprocess.run([sys.executable, "-c", LOADED], env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("['SkylakeX']", "[]"), "[] is a FAISS without an OpenBLAS of its own"


FREED = """
import ctypes, sys
from fewvit.cpu import keep_freed_memory
libc = ctypes.CDLL(None)
FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]
libc.mallinfo2.restype, libc.malloc.restype, libc.free.argtypes = Info, ctypes.c_void_p, [ctypes.c_void_p]
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
before = libc.mallinfo2().hblks
blocks = [libc.malloc(20 << 20) for _ in range(10)]
own = libc.mallinfo2().hblks - before  # blocks that were asked of the system one by one
for block in blocks:
    libc.free(block)
print(kept, own, libc.mallinfo2().arena >> 20)
"""
only_glibc = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc, from 2.33 on, tells what it keeps"
)
MALLOC = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def freed(how: str, **settings: str) -> tuple[str, int, int]:
    """In a process of its own.

    What `keep_freed_memory` said, how many of ten large blocks came straight from the system, and the MiB kept.
    """
    clean = {name: value for name, value in os.environ.items() if name not in MALLOC}
    done = subprocess.run(
        [sys.executable, "-c", FREED, how], env=clean | settings, capture_output=True, text=True, check=True
    )
    kept, own, arena = done.stdout.split()
    return kept, int(own), int(arena)


@only_glibc
def test_what_is_freed_stays_for_what_is_asked_for_next():
    _, own, arena = freed("leave")
    assert own == 10
    assert arena < 100  # all went back
    kept, own, arena = freed("keep")
    assert (kept, own) == ("True", 0)
    assert 200 <= arena < 300


@only_glibc
@pytest.mark.parametrize("name", MALLOC[:2])
def test_the_users_settings_of_malloc_stand(name):
    assert freed("keep", **{name: "131072"})[0] == "False"


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(cpu.sys, "platform", "darwin")
    monkeypatch.setattr(cpu.ctypes, "CDLL", lambda name: pytest.fail("no C library is asked"))
    cpu.keep_freed_memory.cache_clear()
    assert not cpu.keep_freed_memory()
    cpu.keep_freed_memory.cache_clear()


def test_a_c_library_without_the_setting_is_left_alone(monkeypatch):
    monkeypatch.setattr(cpu.sys, "platform", "linux")
    monkeypatch.setattr(cpu.ctypes, "CDLL", lambda name: object())
    for variable in MALLOC:
        monkeypatch.delenv(variable, raising=False)
    cpu.keep_freed_memory.cache_clear()
    assert not cpu.keep_freed_memory()
    cpu.keep_freed_memory.cache_clear()
