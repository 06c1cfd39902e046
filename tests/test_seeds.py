"""Random numbers as functions of a key: the same in every process, in any order, and different for different keys."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from fewvit.seeds import generator, seed_of

KEYS = [
    (3, 7, 11),
    (3, 7, 12),
    (3, 8, 11),
    (4, 7, 11),
    (37, 11),
    (3, 711),
    ("3", 7, 11),
    (3.0, 7, 11),
    (),
    ("",),
    ("", ""),
    (None,),
    (True,),
    (1,),
]


def test_the_seed_is_the_first_63_bits_of_the_keys_sha256():
    digest = hashlib.sha256(b"str:weights\x1fint:3").digest()
    assert seed_of("weights", 3) == int.from_bytes(digest[:8], "little") // 2 == 4088250007831092328


def test_no_two_keys_share_a_seed():
    seeds = [seed_of(*key) for key in KEYS] + [seed_of(3, 7, i) for i in range(13, 1009)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) >= 2**62  # all 63 bits are used


def test_an_odd_file_name_is_a_key():
    assert seed_of("b\udcff") != seed_of("b")


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_a_numpy_integer_is_the_same_key_as_pythons(kind):
    assert seed_of("epoch", kind(7), 3) == seed_of("epoch", 7, 3)
    assert seed_of(np.str_("epoch"), 7, 3) == seed_of("epoch", 7, 3)


def test_what_was_drawn_before_changes_nothing():
    first = generator(3, 7).standard_normal(11)
    generator(3, 8).standard_normal(1009)
    np.random.default_rng(3).standard_normal(5)
    np.testing.assert_array_equal(generator(3, 7).standard_normal(11), first)
    assert not np.array_equal(generator(3, 8).standard_normal(11), first)


def test_the_stream_is_pcg64s_for_that_seed():
    np.testing.assert_array_equal(
        generator("x", 3).random(7), np.random.Generator(np.random.PCG64(seed_of("x", 3))).random(7)
    )


def test_another_process_with_another_hash_seed_draws_the_same(python):
    code = "from fewvit.seeds import generator; print(generator('crop', 3, 7).integers(0, 10**9, 5).tolist())"
    here = str(generator("crop", 3, 7).integers(0, 10**9, 5).tolist())
    assert {python(code, PYTHONHASHSEED=seed).stdout.strip() for seed in ("0", "7")} == {here}
