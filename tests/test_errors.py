"""The words of errors: the nearest names, numbers and their nouns, and which error an OSError is."""

from __future__ import annotations

import errno
import os

import pytest

from fewvit import errors
from fewvit.errors import (
    DataError,
    FewvitError,
    ResourceError,
    UnknownName,
    are,
    counted,
    from_os_error,
    in_one_line,
    is_out_of_memory,
    refuse_out_of_memory,
)

# what scripts rely on: usage, licence, unknown or unobtainable backbone, missing extra; data; integrity; numbers; disk
# and memory
EXIT_CODES = {
    **dict.fromkeys(
        ("UsageError", "UnknownName", "LicenseRequired", "Unobtainable", "NotInRepository", "MissingExtra"), 2
    ),
    **dict.fromkeys(("DataError", "BadImages", "UnlabelledNeighbor"), 3),
    **dict.fromkeys(("IntegrityError", "CheckpointError", "CacheError", "FingerprintMismatch"), 4),
    "NumericalError": 5,
    "ResourceError": 6,
    "FewvitError": 1,
}


def test_each_error_has_the_exit_code_of_its_kind():
    kinds = {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, FewvitError)
    }
    assert {name: kind.exit_code for name, kind in kinds.items()} == EXIT_CODES


@pytest.mark.parametrize(
    ("asked", "near"),
    [
        ("DINO_VITS16", "dino_vits16"),
        ("Dino_ViTB61", "dino_vitb16"),
        ("dino-vits16", "dino_vits16"),
        ("msn_l", "MSN_L"),
    ],
)
def test_a_name_in_other_letters_gets_the_nearest_one_as_it_is_written(asked, near):
    error = UnknownName("backbone", asked, ["dino_vits16", "dino_vitb16", "MSN_L", "mae_vith14"])
    assert error.near[0] == near
    assert f"unknown backbone {asked!r}. Did you mean {near}" in str(error)


def test_a_name_that_is_near_to_none_gets_the_first_dozen():
    assert "Known: n0, n1" in str(UnknownName("backbone", "zzz", [f"n{i}" for i in range(13)]))


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("could not create a primitive descriptor"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("can't start new thread"), False),
    ],
)
def test_the_many_words_for_no_memory_are_known(error, is_one):
    assert is_out_of_memory(error) == is_one


def test_a_file_that_asks_for_more_than_it_holds_is_damaged_and_not_short_of_memory(monkeypatch):
    refuse_out_of_memory(MemoryError(), "reading x", size=1000)  # 1000 bytes are there: the file lies
    refuse_out_of_memory(RuntimeError("cut"), "reading x")
    with pytest.raises(ResourceError, match="out of memory while reading x"):
        refuse_out_of_memory(MemoryError(), "reading x")
    with pytest.raises(ResourceError):
        refuse_out_of_memory(MemoryError(), "reading x", size=1 << 60)


def test_a_number_agrees_with_its_noun_and_verb():
    assert [counted(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [counted(n, "class has", "classes have") for n in (1, 7)] == ["1 class has", "7 classes have"]
    assert [are(n) for n in (0, 1, 2)] == ["are", "is", "are"]


@pytest.mark.parametrize(
    ("number", "kind", "advice"),
    [
        (errno.EACCES, DataError, "do this"),
        (errno.ENOSPC, ResourceError, "Free some space"),
        (errno.EMFILE, ResourceError, "do this"),
    ],
)
def test_an_error_of_the_system_keeps_its_file_and_gets_advice(number, kind, advice):
    error = from_os_error(OSError(number, os.strerror(number), "/x/y"), "trying", fix="do this")
    assert type(error) is kind
    assert str(error).startswith("/x/y: ")
    assert advice in str(error)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (DataError("3 images cannot be decoded: a.jpg (b'junk\\n')", fix="Repair or remove them."),
         "3 images cannot be decoded: a.jpg (b'junk\\n'). Repair or remove them."),
        (DataError("it is cut off", file="x.json"), "x.json: it is cut off."),
        (DataError("it is cut off.", fix="Run it again"), "it is cut off. Run it again."),
        ("two\n\n  parts\n", "two. parts."),
    ],
)  # fmt: skip
def test_an_error_in_one_line_is_whole_sentences(said, line):
    assert in_one_line(said) == line
