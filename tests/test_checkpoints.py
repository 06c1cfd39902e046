"""Weights files: what loads, what is refused and by which words, and what a strict fill promises."""

import argparse
import gzip
import hashlib
import io
import json
import os
import pickle
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from fewvit.checkpoints import reading as checkpoints
from fewvit.checkpoints.digests import pinned_digest, verify_file
from fewvit.checkpoints.filling import fill, require_finite
from fewvit.checkpoints.hostile import _refusal
from fewvit.checkpoints.opening import require_file
from fewvit.checkpoints.reading import read_checkpoint
from fewvit.errors import CheckpointError, DataError

SHARED = Path(os.environ.get("FEWVIT_SHARED", Path(__file__).resolve().parents[2] / "shared"))
official = pytest.mark.skipif(
    not (SHARED / "parity").is_dir(), reason="rebuilt official files are not here: set FEWVIT_SHARED"
)


def tensors():
    generator = torch.Generator().manual_seed(3)
    return {
        "a.weight": torch.randn(7, 5, generator=generator),
        "a.bias": torch.randn(7, generator=generator),
        "n": torch.tensor(11),
    }


def equal(one, other):
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.pth"
    torch.save(tensors(), path)
    return path


# --- what loads


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_state_dict_comes_back_bit_for_bit(tmp_path, zipped):
    torch.save(tensors(), tmp_path / "x.pth.tar", _use_new_zipfile_serialization=zipped)
    assert equal(read_checkpoint(tmp_path / "x.pth.tar"), tensors())


def test_safetensors_are_known_by_their_bytes_and_not_by_their_name(tmp_path):
    save_file(tensors(), tmp_path / "x.pth")
    assert equal(dict(sorted(read_checkpoint(tmp_path / "x.pth").items())), dict(sorted(tensors().items())))
    torch.save(tensors(), tmp_path / "y.safetensors")
    assert equal(read_checkpoint(tmp_path / "y.safetensors"), tensors())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_loaded_tensors_share_no_memory_with_the_file(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    torch.save(tensors(), path) if suffix == ".pth" else save_file(tensors(), path)
    loaded = read_checkpoint(path)
    with open(path, "r+b") as handle:
        handle.write(bytes(path.stat().st_size))
    os.truncate(path, 0)  # under a map this would be SIGBUS
    assert equal({name: loaded[name] for name in tensors()}, tensors())


def numbers():
    return {
        "lr": np.float64(5e-4),
        "swapped": np.dtype(">f4").type(2.5),
        "step": np.int64(-3),
        "flag": np.bool_(True),
        "z": np.complex128(1 - 2j),
        "half": np.float16(0.5),
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_numpy_numbers_and_a_namespace_load_with_values_and_types(tmp_path, zipped):
    args = argparse.Namespace(arch="vit_small", lr=np.float32(0.1))
    torch.save({**numbers(), "args": args}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    tree = read_checkpoint(tmp_path / "x.pth")
    for name, value in numbers().items():
        assert tree[name] == value
        assert type(tree[name]) is type(value)
    assert tree["args"] == args


def test_numbers_in_the_spelling_of_numpy_1_load(tmp_path):
    torch.save(numbers(), tmp_path / "new.pth")
    old = rewritten(
        tmp_path / "new.pth", tmp_path / "old.pth", b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    )
    assert "numpy.core.multiarray.scalar" in torch.serialization.get_unsafe_globals_in_checkpoint(old)
    assert {name: read_checkpoint(old)[name] for name in numbers()} == numbers()


def rewritten(source, target, old, new):
    """A torch zip with `old` replaced by `new` in its pickle, its CRCs right."""
    with zipfile.ZipFile(source) as from_, zipfile.ZipFile(target, "w") as to:
        for record in from_.infolist():
            data = from_.read(record)
            if record.filename.endswith("/data.pkl"):
                assert old in data
                data = data.replace(old, new)
            to.writestr(record.filename, data)
    return target


def test_a_bare_dtype_is_taken_by_numpy_as_the_dtype_it_describes(tmp_path):
    torch.save({"d": np.dtype(">i2")}, tmp_path / "x.pth")
    assert np.dtype(read_checkpoint(tmp_path / "x.pth")["d"]) == np.dtype(">i2")


def test_what_numpy_notes_beside_a_dtype_does_no_harm(tmp_path):
    torch.save(
        {"d": np.dtype(">i2", metadata={"unit": "m"})}, tmp_path / "x.pth"
    )  # NumPy then writes version 4 of its state
    assert np.dtype(read_checkpoint(tmp_path / "x.pth")["d"]) == np.dtype(">i2")


@official
def test_every_rebuilt_official_file_loads_with_the_published_keys_and_shapes():
    told = json.loads((SHARED / "parity" / "manifest.json").read_text())["files"]
    files = {name: entry for name, entry in told.items() if entry["kind"] == "checkpoint"}
    assert len(files) >= 10
    for name, entry in files.items():
        path = SHARED / "parity" / name
        tree = read_checkpoint(path)
        trees = [tree, *(value for value in tree.values() if isinstance(value, dict))]
        shapes = {
            key: list(value.shape) for part in trees for key, value in part.items() if isinstance(value, torch.Tensor)
        }
        flat = entry["keys"].items() if entry["top_level"] == "tensors" else []
        for key, (shape, _) in flat:
            assert shapes[key] == shape
        assert shapes


@official
def test_the_full_dino_file_gives_its_numpy_learning_rates_and_its_arguments():
    tree = read_checkpoint(SHARED / "parity" / "dino_full.pth")
    rate = tree["optimizer"]["param_groups"][0]["lr"]
    assert isinstance(rate, np.float64)
    assert rate == pytest.approx(5e-4 / 3)
    assert (tree["args"].patch_size, tree["args"].arch) == (16, "vit_small")


# --- what is refused


class Calls:
    """Pickles as a call of `function(*args)`."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_foreign_global_is_refused_by_name(tmp_path, zipped):
    torch.save({"w": torch.ones(3), "x": Calls(Path, "a")}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"pathlib\.(_local\.)?Path.*\n.*never runs"):
        read_checkpoint(tmp_path / "x.pth")


def test_all_foreign_globals_of_a_zip_are_listed(tmp_path):
    torch.save({"x": Calls(Path, "a"), "y": Calls(time.sleep, 0), "z": Calls(eval, "1")}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError) as refused:
        read_checkpoint(tmp_path / "x.pth")
    assert all(name in str(refused.value) for name in ("pathlib", "time.sleep", "eval"))


def test_of_many_foreign_globals_the_first_five_are_named_and_the_rest_counted(tmp_path):
    calls = [
        Calls(call, 0)
        for call in (time.sleep, time.ctime, time.gmtime, time.localtime, time.asctime, time.mktime, time.strftime)
    ]
    torch.save(calls, tmp_path / "x.pth")
    five = r"time\.asctime, time\.ctime, time\.gmtime, time\.localtime, time\.mktime and 2 more, which"
    with pytest.raises(CheckpointError, match=five):
        read_checkpoint(tmp_path / "x.pth")


def test_of_a_long_name_of_a_foreign_global_the_beginning_is_shown():
    assert f"asks to call os.{'n' * 77}, which" in str(_refusal([f"os.{'n' * 97}"], "x.pth"))


def test_what_another_library_allowed_in_this_process_is_refused_all_the_same_and_stays_allowed_for_it(tmp_path):
    torch.save({"x": Calls(Path, "a")}, tmp_path / "x.pth")
    with torch.serialization.safe_globals([Path, argparse.Namespace]):
        with pytest.raises(CheckpointError, match="pathlib"):
            read_checkpoint(tmp_path / "x.pth")
        assert set(torch.serialization.get_safe_globals()) >= {Path, argparse.Namespace}
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


@pytest.mark.parametrize(
    "value",
    [np.dtype("O"), np.str_("a"), np.datetime64("2020-01-01"), np.dtype([("a", "i4"), ("b", "O")]), np.ones(3)],
    ids=["object", "string", "date", "record", "array"],
)
def test_numpy_values_that_are_no_numbers_are_refused(tmp_path, value):
    torch.save({"x": value}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="refused"):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "state",
    [
        (3, "<", None, None, None, -1, -1, 63),
        (3, "<", None, None, None, 800, -1, 0),
        (3, "<", (np.dtype("f8"), (9,)), None, None, -1, -1, 0),
        (5, "<", None, None, None, -1, -1, 0),
        (3, "x", None, None, None, -1, -1, 0),
    ],
    ids=["flags", "itemsize", "subarray", "version", "byte order"],
)
def test_a_file_cannot_give_a_dtype_another_layout(tmp_path, state):
    """NumPy itself takes the flags from a pickle: a float64 whose `hasobject` is true."""

    class Twisted:
        def __reduce__(self):
            return np.dtype, ("f8", False, True), state

    torch.save({"x": Twisted()}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="refused"):
        read_checkpoint(tmp_path / "x.pth")


def test_a_numpy_scalar_of_the_wrong_length_or_of_no_bytes_is_refused(tmp_path):
    scalar = np.float64(1).__reduce__()[0]
    for raw in (b"1234567", b"123456789", "12345678", None):
        torch.save({"x": Calls(scalar, np.dtype("f8"), raw)}, tmp_path / "x.pth")
        with pytest.raises(CheckpointError, match="refused: a NumPy scalar"):
            read_checkpoint(tmp_path / "x.pth")


def image(kind):
    stream = io.BytesIO()
    Image.new("RGB", (16, 16)).save(stream, kind)
    return stream.getvalue()


def archive_of(opener, **content):
    stream = io.BytesIO()
    with opener(stream) as archive:
        for name, data in content.items():
            if isinstance(archive, zipfile.ZipFile):
                archive.writestr(name, data)
            else:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def old_tar(data):
    """A tar as it was before the ustar mark: the mark erased, the sum of the header made right again."""
    tar = bytearray(archive_of(lambda s: tarfile.TarFile(fileobj=s, mode="w"), inside=data))
    tar[257:265] = bytes(8)
    tar[148:156] = b" " * 8
    tar[148:155] = b"%06o\0" % sum(tar[:512])
    return bytes(tar)


FOREIGN = {
    "html": (
        b"\n<!DOCTYPE html><html><head><TITLE>Sign in to\n HotelNet</TITLE></head></html>",
        r"web page \(its title: Sign in to HotelNet\)",
    ),
    "html with a long title": (b"<html><title>" + b"s" * 97 + b"</title></html>", r"\(its title: s{80}\)"),
    "bare html": (b"<html><body>x</body></html>", "web page without a title"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 346000000\n",
        r"Git-LFS pointer for 346,000,000 bytes",
    ),
    "lfs without a size": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\n",
        "Git-LFS pointer; ",
    ),
    "json": (b'{"error": "not found"}', "JSON"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
    "text": ("404: Näh\n".encode(), r"plain text \(404: Näh"),
    "text of a long line": (b"4" * 53, r"plain text \(4{40}…\)"),
    "text cut within a letter": (
        ("4" + "ä" * (1 << 15)).encode(),
        r"plain text \(4ää",
    ),  # where reading of its first 64 KiB stops
    "text, then a zero": (b"4" * 211 + bytes(1), "no file that torch wrote"),
    "long text, then zeros": (b"4" * 40009 + bytes(1 << 15), "no file that torch wrote"),
    "gzip": (gzip.compress(b"x" * 999), "gzip"),
    "png": (image("PNG"), "PNG image"),
    "jpeg": (image("JPEG"), "JPEG image"),
    "tar": (archive_of(lambda s: tarfile.TarFile(fileobj=s, mode="w"), inside=b"x" * 99), "tar archive"),
    "old tar": (old_tar(b"x" * 99), "tar archive"),
    "start of a tar": (bytes(257) + b"ustar", "tar archive"),
    "zip": (archive_of(lambda s: zipfile.ZipFile(s, "w"), notes=b"hello"), "another zip archive, holding notes"),
    "npz": (
        archive_of(lambda s: zipfile.ZipFile(s, "w"), **{"x.npy": b"hello"}),
        r"damaged \.npz file \(ValueError: EOF: reading magic string",
    ),
    "numpy": (b"\x93NUMPY\x01\x00", "NumPy array"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "nothing": (b"", r"empty \(0 bytes\)"),
    "noise": (bytes(range(256)) * 5, "no file that torch wrote"),
    "noise with more than a brace for its ninth byte": (bytes(range(200, 256)), "no file that torch wrote"),
    "pickle": (pickle.dumps({"w": 3}), "no file that torch wrote"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_weights_file_is_named_as_what_it_is(tmp_path, name):
    data, words = FOREIGN[name]
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"x{suffix}"
        path.write_bytes(data)
        told = "safetensors" if suffix == ".safetensors" and words == "no file that torch wrote" else words
        with pytest.raises(CheckpointError, match=told) as error:
            read_checkpoint(path, expected_bytes=len(data) + 1 if name == "html" else None)
        assert str(error.value).startswith(str(path))
        assert error.value.exit_code == 4
        assert str(error.value).count("\n") <= 1


def test_a_torchscript_archive_is_refused_as_a_program(tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(
        archive_of(
            lambda s: zipfile.ZipFile(s, "w"), **{"m/data.pkl": b"x", "m/constants.pkl": b"x", "m/code/m.py": b"x"}
        )
    )
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_checkpoint(path)


@pytest.mark.parametrize("left", ["half", "all but a byte"])
def test_a_cut_file_is_called_cut_and_shows_both_sizes_where_the_whole_is_known(tmp_path, left):
    torch.save({"w": torch.zeros(1_000_003)}, tmp_path / "x.pth")
    whole = (tmp_path / "x.pth").stat().st_size
    os.truncate(tmp_path / "x.pth", whole // 2 if left == "half" else whole - 1)
    megabytes = r"2\.0" if left == "half" else r"4\.0"
    with pytest.raises(CheckpointError, match=f"cut or damaged: {megabytes} MB are here"):
        read_checkpoint(tmp_path / "x.pth")
    sizes = r"2\.0 of 4\.0 MB" if left == "half" else f"{whole - 1:,} of {whole:,} bytes"
    with pytest.raises(CheckpointError, match="cut: " + sizes):
        read_checkpoint(tmp_path / "x.pth", expected_bytes=whole)


def test_sizes_are_rounded_to_megabytes_unless_that_hides_the_difference():
    assert checkpoints._megabytes(41_249_999, 82_749_999) == "41.2 of 82.7 MB"
    assert checkpoints._megabytes(41_249_998, 41_249_999) == "41,249,998 of 41,249,999 bytes"
    assert checkpoints._megabytes(41_249_999, 41_250_001) == "41.2 of 41.3 MB"


def test_a_file_longer_than_published_is_refused(good):
    with pytest.raises(CheckpointError, match="too long"):
        read_checkpoint(good, expected_bytes=good.stat().st_size - 1)


def flip(path, needle):
    """Flip one bit within the first occurrence of `needle`."""
    data = bytearray(path.read_bytes())
    data[data.index(needle) + 1] ^= 4
    path.write_bytes(data)


def test_a_flipped_bit_of_the_payload_is_found_by_the_record_crc_and_the_record_is_named(good):
    flip(good, tensors()["a.bias"].numpy().tobytes())
    assert torch.load(good, weights_only=True)["a.bias"].shape == (7,)  # torch itself does not notice
    with pytest.raises(CheckpointError, match=r"damaged: record good/data/1 of \d+"):
        read_checkpoint(good)


def test_a_file_whose_writer_had_crcs_switched_off_loads(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(tensors(), tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        assert archive.testzip() is not None
    assert equal(read_checkpoint(tmp_path / "x.pth"), tensors())


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path):
    torch.save({"w": torch.zeros(1_000_003)}, tmp_path / "x.pth")
    with (
        zipfile.ZipFile(tmp_path / "x.pth") as from_,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as to,
    ):
        for record in from_.infolist():
            to.writestr(record.filename, from_.read(record))
    with pytest.raises(CheckpointError, match="compressed"):
        read_checkpoint(tmp_path / "bomb.pth")


def test_the_records_of_a_large_file_are_checked_at_500_megabytes_a_second(tmp_path):
    torch.save({"w": torch.zeros(50_000_017)}, tmp_path / "x.pth")
    with open(tmp_path / "x.pth", "rb") as handle:
        seconds = min(timed(checkpoints._check_archive, handle, "x", 300_000_000, True) for _ in range(3))
    assert 200 / seconds > 500


def timed(function, *args):
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def test_a_digest_that_differs_is_refused_with_both_digests(good):
    right = hashlib.sha256(good.read_bytes()).hexdigest()
    assert equal(read_checkpoint(good, expected_sha256=right.upper()), tensors())
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(good, expected_sha256="ab" * 32)
    assert right in str(error.value)
    assert "ab" * 32 in str(error.value)
    with pytest.raises(CheckpointError):
        read_checkpoint(good, expected_sha256=right[:16])  # a prefix proves little


def test_what_is_no_dict_is_refused(tmp_path):
    torch.save([torch.ones(3)], tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        read_checkpoint(tmp_path / "x.pth")


def test_missing_files_folders_and_pipes_are_bad_input_and_never_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    for path, words in (
        (tmp_path / "none.pth", "no such file"),
        (tmp_path, "is a folder"),
        (tmp_path / "pipe.pth", "no regular file"),
    ):
        for door in (read_checkpoint, require_file, lambda p: verify_file(p, None, pin=True)):
            with pytest.raises(DataError, match=words) as error:
                door(path)
            assert error.value.exit_code == 3


# --- safetensors


def crafted(path, header, payload=bytes(48), length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + payload)
    return path


def entry(start, end, shape=(3, 2), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


SAFETENSORS = {
    "header of 2^63 bytes": ({"a": entry(0, 24), "b": entry(24, 48)}, {"length": 1 << 63}, "9,223,372,036,854,775,808"),
    "header longer than the file": (b"{" * 211, {"length": 5003}, "cut: .* has 5,003 bytes, 259 are here"),
    "header a byte longer than the file": (b"{" * 211, {"payload": b"", "length": 212}, "has 212 bytes, 211 are here"),
    "overlap": ({"a": entry(0, 24), "b": entry(12, 48, (3, 3))}, {}, "damaged"),
    "shape lies": ({"a": entry(0, 24, (5, 2)), "b": entry(24, 48)}, {}, "damaged"),
    "shape overflows": ({"a": entry(0, 24, (1 << 40, 1 << 40)), "b": entry(24, 48)}, {}, "damaged"),
    "negative offset": ({"a": entry(-24, 24), "b": entry(24, 48)}, {}, "damaged"),
    "unknown dtype": ({"a": entry(0, 24, dtype="X9"), "b": entry(24, 48)}, {}, "damaged"),
    "trailing bytes": ({"a": entry(0, 24)}, {}, "too long"),
    "missing bytes": ({"a": entry(0, 24), "b": entry(24, 96, (3, 6))}, {}, "cut"),
    "repeated key": (
        b'{"a": %s, "a": %s}' % ((json.dumps(entry(0, 48, (3, 4))).encode(),) * 2),
        {},
        "'a' stands there twice",
    ),
    "second key repeated": (b'{"a": 3, "b": 5, "c": 7, "b": 5}', {}, "'b' stands there twice"),
    "repeated inner key": (
        b'{"a": {"dtype": "F32", "dtype": "I32", "shape": [3, 4], "data_offsets": [0, 48]}}',
        {},
        "'dtype' stands there twice",
    ),
    "no JSON": (b"{" * 99, {}, "damaged"),
    "deep nesting": (b'{"a":' + b"[" * 200_000, {}, "damaged"),
    "no dict": (b"[1, 2, 3]", {}, "damaged"),
}


def test_a_crafted_safetensors_file_without_a_fault_loads(tmp_path):
    values = np.arange(12, dtype="f4")
    path = crafted(tmp_path / "x.safetensors", {"a": entry(0, 24), "b": entry(24, 48)}, values.tobytes())
    assert torch.equal(read_checkpoint(path)["b"], torch.arange(6, 12).reshape(3, 2).float())


def test_a_safetensors_file_of_no_tensors_is_whole(tmp_path):
    assert read_checkpoint(crafted(tmp_path / "x.safetensors", {}, b"")) == {}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_a_hostile_safetensors_file_is_refused(tmp_path, name):
    header, how, words = SAFETENSORS[name]
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(crafted(tmp_path / "x.safetensors", header, **how))


def test_a_safetensors_file_of_three_bytes_has_none_of_its_header(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(bytes([5, 0, 0]))
    with pytest.raises(CheckpointError, match=r"cut: .* has 5 bytes, 0 are here"):
        read_checkpoint(tmp_path / "x.safetensors")


def test_a_header_beyond_any_use_is_refused_unread_even_where_the_file_is_as_long(tmp_path):
    path = crafted(tmp_path / "x.safetensors", b"{", b"", length=1 << 30)
    os.truncate(path, 1 << 31)  # a hole: no bytes on the disk
    with pytest.raises(CheckpointError, match="1,073,741,824 bytes; 16,777,216 is the limit"):
        read_checkpoint(path)


# --- finite


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.float8_e4m3fn], ids=str
)
def test_one_nan_is_found_in_every_dtype_and_its_tensor_named(dtype):
    given = {"fine": torch.ones(5).to(dtype), "poked": torch.ones(7, 3).to(dtype), "whole": torch.tensor([3, 7])}
    require_finite(given, "x.pth")
    given["poked"][4, 1] = torch.nan
    with pytest.raises(CheckpointError, match=r"NaN in poked of 3"):
        require_finite(given, "x.pth")


def test_infinity_is_found_and_large_finite_weights_whose_sum_overflows_are_fine():
    require_finite({"a": torch.full((7,), 3e38), "b": torch.full((11,), 60000.0).half()}, "x.pth")
    with pytest.raises(CheckpointError, match="Inf in b"):
        require_finite({"a": torch.full((7,), 3e38), "b": torch.tensor([1.0, torch.inf])}, "x.pth")
    with pytest.raises(CheckpointError, match="in b"):
        require_finite({"b": torch.tensor([1.0, -torch.inf, torch.inf])}, "x.pth")


def test_of_many_unfit_tensors_three_are_named_and_the_rest_counted():
    given = {name: torch.full((2,), torch.nan) for name in "abcde"} | {"whole": torch.ones(2)}
    with pytest.raises(CheckpointError, match="NaN in a, b, c and 2 more of 6 tensors"):
        require_finite(given, "x.pth")
    del given["d"], given["e"]
    with pytest.raises(CheckpointError, match="NaN in a, b, c of 4 tensors"):
        require_finite(given, "x.pth")
    given["a"] = torch.full((2,), torch.inf)  # what is wrong is that of the first
    with pytest.raises(CheckpointError, match="Inf in a, b, c of 4 tensors"):
        require_finite(given, "x.pth")


def test_tensors_without_values_are_refused():
    for value in (torch.ones(3, device="meta"), torch.eye(3).to_sparse()):
        with pytest.raises(CheckpointError, match="odd"):
            require_finite({"odd": value}, "x.pth")


# --- fill


def module():
    net = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7))
    net.register_buffer("scratch", torch.full((2,), 3.0), persistent=False)
    return net


def weights():
    return {
        name: torch.randn(value.shape, generator=torch.Generator().manual_seed(i)).to(value.dtype)
        for i, (name, value) in enumerate(module().state_dict().items())
    }


def test_every_parameter_and_persistent_buffer_is_a_copy_of_its_namesake():
    net, given = module(), weights()
    fill(net, given, "x.pth")
    assert set(given) == set(net.state_dict())
    for name, value in net.state_dict().items():
        assert torch.equal(value, given[name])
        assert value.data_ptr() != given[name].data_ptr()
    assert net[0].weight.requires_grad
    assert torch.equal(net.scratch, torch.full((2,), 3.0))


def test_values_take_the_dtype_of_the_module():
    net, given = module().double(), weights()
    fill(net, {name: value.half() if value.is_floating_point() else value for name, value in given.items()}, "x.pth")
    assert net[0].weight.dtype == torch.float64
    assert torch.equal(net[0].weight, given["0.weight"].half().double())


def test_a_misfit_lists_counts_and_five_of_each_kind_in_turn_and_copies_nothing():
    net, given = module(), weights()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    del given["1.bias"], given["0.bias"]
    given |= {
        "0.weight": torch.ones(5, 7),
        "head.weight": torch.ones(3),
        "head.bias": torch.ones(3),
        "1.running_mean": torch.ones(11),
    }
    with pytest.raises(CheckpointError) as error:
        fill(net, given, "x.pth")
    text = str(error.value)
    assert "2 of another shape, 2 missing, 2 unexpected" in text
    assert (
        "0.weight has (5, 7), want (7, 5); missing 0.bias; unexpected head.weight; 1.running_mean has (11,), "
        "want (7,); missing 1.bias; …" in text
    )
    assert equal(before, net.state_dict())


def test_only_what_matches_a_pattern_may_be_left_over():
    given = {**weights(), "head.weight": torch.ones(3), "header": torch.ones(3)}
    with pytest.raises(CheckpointError, match=r"1 unexpected: unexpected header\n"):
        fill(module(), given, "x.pth", ignorable=["head.*"])
    fill(module(), given, "x.pth", ignorable=["head.*", "header"])


def test_a_wanted_tensor_is_never_ignorable():
    given = weights()
    del given["1.bias"]
    with pytest.raises(CheckpointError, match=r"1 missing: missing 1\.bias"):
        fill(module(), given, "x.pth", ignorable=["*"])


def test_numbers_that_would_lose_their_meaning_do_not_fit():
    with pytest.raises(CheckpointError, match=r"0\.weight has torch\.complex64"):
        fill(module(), {**weights(), "0.weight": torch.ones(7, 5, dtype=torch.complex64)}, "x.pth")
    with pytest.raises(CheckpointError, match=r"num_batches_tracked has torch\.float32"):
        fill(module(), {**weights(), "1.num_batches_tracked": torch.tensor(1.5)}, "x.pth")
    with pytest.raises(CheckpointError, match=r"0\.weight is no dense tensor"):
        fill(module(), {**weights(), "0.weight": torch.ones(7, 5, device="meta")}, "x.pth")


def test_a_module_on_the_meta_device_is_not_silently_left_empty():
    with torch.device("meta"):
        net = module()
    with pytest.raises(ValueError, match="meta"):
        fill(net, weights(), "x.pth")


# --- verify


def test_a_file_is_compared_with_the_published_digest_and_no_pin_is_left(good):
    right = hashlib.sha256(good.read_bytes()).hexdigest()
    assert verify_file(good, right, pin=True) == right
    assert pinned_digest(good) is None
    with pytest.raises(CheckpointError) as error:
        verify_file(good, "cd" * 32, pin=True)
    assert right in str(error.value)
    assert "cd" * 32 in str(error.value)


def test_the_first_digest_seen_is_pinned_and_a_change_is_refused_with_both(good):
    first = verify_file(good, None, pin=False)
    assert pinned_digest(good) is None
    for _ in range(2):  # pinned, then compared with the pin
        assert verify_file(good, None, pin=True) == first
    assert good.with_name("good.pth.sha256").read_text() == f"{first}  good.pth\n"  # as sha256sum -c reads it
    flip(good, b"PK")
    with pytest.raises(CheckpointError) as error:
        verify_file(good, None, pin=True)
    assert first in str(error.value)
    assert hashlib.sha256(good.read_bytes()).hexdigest() in str(error.value)
    assert pinned_digest(good) == first


def test_a_damaged_pin_is_an_error_and_no_consent(good):
    good.with_name("good.pth.sha256").write_text("")
    with pytest.raises(CheckpointError, match="no sha256"):
        verify_file(good, None, pin=True)


def test_the_start_of_an_md5_is_compared(good):
    right = hashlib.md5(good.read_bytes()).hexdigest()
    verify_file(good, None, pin=False, md5_prefix=right[:6])
    with pytest.raises(CheckpointError, match=f"md5 is {right}, expected 8cad7c"):
        verify_file(good, None, pin=False, md5_prefix="8cad7c")
