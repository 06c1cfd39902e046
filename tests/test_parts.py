"""Weights that come in parts of one archive: joined once, or refused for what is wrong with them."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from pathlib import Path

import pytest
import torch

from fewvit.backbones import Architecture, find_variant
from fewvit.checkpoints.parts import is_in_parts, whole_file
from fewvit.digests import DigestMemory
from fewvit.errors import CheckpointError, DataError, FewvitError
from fewvit.models.backbone import randomise
from fewvit.models.resolve import is_path, resolve
from fewvit.models.spec import Access
from fewvit.models.vit import VisionTransformer

STEM = "franca_vitg14_Laion600M_chunked.tar.gz.part_"
CONTENT = random.Random(3).randbytes(9473)  # nothing that packing makes smaller


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.size, made.linkname = kind, size, link
    return made


def packed(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def cut(folder: Path, data: bytes, places: str = "aa ab ac", stem: str = STEM) -> Path:
    """The data in as many parts as there are places, of unequal sizes; the first part."""
    names = places.split()
    for number, name in enumerate(names):
        at = [len(data) * k // (len(names) + 1) for k in (number, number + 1)]
        (folder / f"{stem}{name}").write_bytes(data[at[0] : None if name == names[-1] else at[1]])
    return folder / f"{stem}{names[0]}"


def joined(path: Path, cache: Path, **options) -> Path:
    return whole_file(path, cache, DigestMemory(), **options)


@pytest.mark.parametrize("given", ["first part", "last part", "folder"])
def test_the_parts_hold_what_was_packed(given, tmp_path):
    first = cut(tmp_path, packed((member("any/name.pth"), CONTENT)))
    path = {"first part": first, "last part": tmp_path / f"{STEM}ac", "folder": tmp_path}[given]
    told: list[str] = []
    assert is_in_parts(path)
    found = joined(path, tmp_path / "cache", notify=told.append)
    assert found.read_bytes() == CONTENT
    assert found == joined(path, tmp_path / "cache", notify=told.append)  # once
    assert len(told) == 1
    assert [one.name for one in (tmp_path / "cache").rglob("*")] == ["unpacked", found.name]


def test_other_parts_of_the_same_names_are_another_file(tmp_path):
    cut(tmp_path, packed((member("x.pth"), CONTENT)))
    one = joined(tmp_path, tmp_path / "cache")
    cut(tmp_path, packed((member("x.pth"), CONTENT[:-7])))
    other = joined(tmp_path, tmp_path / "cache")
    assert (one.read_bytes(), other.read_bytes()) == (CONTENT, CONTENT[:-7])


@pytest.mark.parametrize(("places", "missing"), [("aa ac", "ab"), ("ab ac", "aa")])
def test_a_part_that_is_missing_is_named(places, missing, tmp_path):
    first = cut(tmp_path, packed((member("x.pth"), CONTENT)), places)
    with pytest.raises(DataError, match=f"a part is missing: {STEM}{missing}\n") as error:
        joined(first, tmp_path / "cache")
    assert error.value.exit_code == 3


def test_a_last_part_that_is_missing_is_named_where_all_are_known_and_guessed_where_not(tmp_path):
    first = cut(tmp_path, packed((member("x.pth"), CONTENT)))
    (tmp_path / f"{STEM}ac").unlink()
    with pytest.raises(CheckpointError, match="2 joined parts are cut or damaged") as error:
        joined(first, tmp_path / "cache")
    assert "part_ac" in str(error.value)
    with pytest.raises(DataError, match=f"a part is missing: {STEM}ac"):
        joined(first, tmp_path / "cache", names=[f"{STEM}{place}" for place in ("aa", "ab", "ac")])


HOSTILE = {
    "a link": (packed((member("x.pth", tarfile.SYMTYPE, link="/etc/passwd"), b"")), "x.pth, which is no regular file"),
    "a folder": (packed((member("../..", tarfile.DIRTYPE), b"")), "which is no regular file"),
    "two files": (packed((member("x.pth"), CONTENT), (member("../../y.pth"), b"y")), r"hold \.\./\.\./y\.pth beside"),
    "nothing": (packed(), "hold nothing"),
    "a bomb": (packed((member("x.pth"), bytes(1 << 22))), "is the most for their size"),
    "no archive": (b"not packed at all" * 99, "are cut or damaged"),
    "no tar": (gzip.compress(CONTENT * 3), "are cut or damaged"),
    "a wrong sum": (packed((member("x.pth"), CONTENT))[:-8] + bytes(8), "are cut or damaged"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_archive_that_is_not_one_file_is_refused_and_leaves_nothing(kind, tmp_path):
    data, words = HOSTILE[kind]
    first = cut(tmp_path, data)
    with pytest.raises(CheckpointError, match=words) as error:
        joined(first, tmp_path / "cache")
    assert error.value.exit_code == 4
    assert str(error.value).count("\n") <= 1
    assert not [one for one in (tmp_path / "cache").rglob("*") if one.is_file()]


def test_a_name_that_leads_elsewhere_is_never_used(tmp_path):
    cut(tmp_path, packed((member("../../../outside.pth"), CONTENT)))
    found = joined(tmp_path, tmp_path / "cache")
    assert found.parent == tmp_path / "cache" / "unpacked"
    assert not list(tmp_path.parent.glob("outside*"))


def test_a_folder_of_two_archives_is_refused(tmp_path):
    for stem in (STEM, "other.tar.gz.part_"):
        cut(tmp_path, packed((member("x.pth"), CONTENT)), stem=stem)
    with pytest.raises(DataError, match=r"other\.tar\.gz\.part_aa"):
        joined(tmp_path, tmp_path / "cache")


def test_parts_are_a_backbone_by_their_first_part_by_their_folder_and_under_a_name(tmp_path):
    tiny = Architecture(64, 2, 1, 14, grid=4, feed_forward="swiglu", hidden=176, layer_scale=True)
    model = VisionTransformer(tiny)
    randomise(model, 3)
    teacher = {
        f"backbone.{name.replace('.fc1.', '.w12.').replace('.fc2.', '.w3.')}": value.clone()
        for name, value in model.state_dict().items()
    }
    stream = io.BytesIO()
    torch.save({"teacher": {**teacher, "backbone.mask_token": torch.zeros(1, 64)}}, stream)
    first = cut(tmp_path, packed((member("franca.pth"), stream.getvalue())))
    access, memory = Access(tmp_path / "cache", offline=True), DigestMemory()
    specs = [resolve(str(path), access, memory) for path in (first, tmp_path)]
    assert is_path(str(first))
    assert [(spec.family, spec.architecture, spec.name) for spec in specs] == [
        ("franca", tiny, first.name),
        ("franca", tiny, tmp_path.name),
    ]
    assert specs[0].weights_sha256 == specs[1].weights_sha256
    named = resolve("franca_vitg14_laion", access, memory, weights=str(first))
    assert named.weights_sha256 == specs[0].weights_sha256
    assert find_variant("franca_vitg14_laion")[1].file_name == first.name
    (tmp_path / f"{STEM}ac").unlink()
    for weights in (first, tmp_path):
        with pytest.raises(FewvitError, match=f"a part is missing: {STEM}ac"):
            resolve("franca_vitg14_laion", access, memory, weights=str(weights))


def with_pax(value: str, key: str = "comment", content: bytes = CONTENT) -> bytes:
    """An archive whose one file has an extended header."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        info = member("x.pth", size=len(content))
        info.pax_headers = {key: value}
        archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def test_headers_count_as_what_is_unpacked(tmp_path):
    cut(tmp_path, with_pax("a" * (64 << 20)))  # packs to some 70 kB
    with pytest.raises(CheckpointError, match=r"more than [\d,]+ bytes|announce more than"):
        joined(tmp_path, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.pth"))


def test_a_size_that_is_none_is_damage(tmp_path):
    cut(tmp_path, with_pax("-5", "size"))
    with pytest.raises(CheckpointError, match="joined parts"):
        joined(tmp_path, tmp_path / "cache")
