"""The images that travel to a GPU: the archives that `benchmarks.learned` reads, as one small file.

    python -m benchmarks.carried [FILE]          by default runs/carried.tar.xz, which git ignores

They are those of $FEWVIT_SHARED/data. A third of a small JPEG file is the tables that all of them share: one after
another they are packed once. The same archives give the same bytes. A packed file never goes into the repository.
"""

from __future__ import annotations

import argparse
import io
import lzma
import os
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fewvit.files import replacing

ARCHIVES = ("tinyimagenet-train.zip", "tinyimagenet-val.zip", "omniglot-small1.zip")
# of what may travel with a checkout, 64 MiB with the checkout itself, which has 12 MB
LIMIT = 52_000_000  # bytes
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first that a zip archive can say


@dataclass(frozen=True)
class Few:
    """The first images of the first innermost folders of an archive."""

    folders: int
    images: int  # of each


def shared_archives() -> Path:
    """The folder of the archives."""
    return Path(os.environ.get("FEWVIT_SHARED", "../shared")) / "data"


def pack(source: Path, file: Path, limit: int = LIMIT, few: Mapping[str, Few] | None = None) -> int:
    """Write the archives in `source` to `file`; its size in bytes.

    `few` keeps only some of an archive's images. Raises SystemExit, and writes nothing, for
    an archive that is missing and for more bytes than `limit`.
    """
    if missing := [name for name in ARCHIVES if not (source / name).is_file()]:
        sys.exit(f"{source}: no {', '.join(missing)}; FEWVIT_SHARED names the folder whose data/ holds them")
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as handle:
        with lzma.open(handle, "wb", preset=6) as squeezed, tarfile.open(fileobj=squeezed, mode="w|") as tar:
            for name in ARCHIVES:
                for member, content in _members(source / name, (few or {}).get(name)):
                    _add(tar, f"{name}/{member}", content)
        size = handle.tell()
        if size > limit:
            sys.exit(f"{file} would have {size / 1e6:.1f} MB, and {limit / 1e6:.1f} may travel; nothing was written")
    return size


def unpack(file: Path, folder: Path) -> None:
    """The archives again, in `folder`; those that are there already stay."""
    if all((folder / name).is_file() for name in ARCHIVES):
        return
    folder.mkdir(parents=True, exist_ok=True)
    parts = {name: folder / f"{name}.part" for name in ARCHIVES}
    archives = {name: zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) for name, part in parts.items()}
    with tarfile.open(file, "r:xz") as tar:
        for member in tar:
            name, _, path = member.name.partition("/")
            content = tar.extractfile(member)
            if name not in archives or content is None:
                sys.exit(f"{file}: {member.name} is nothing that benchmarks.carried packs")
            archives[name].writestr(zipfile.ZipInfo(path, _EPOCH), content.read())
    for name, archive in archives.items():
        archive.close()
        os.replace(parts[name], folder / name)


def _members(archive: Path, few: Few | None) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of an archive by name, so that alike ones follow each other."""
    with zipfile.ZipFile(archive) as opened:
        names = sorted(info.filename for info in opened.infolist() if not info.is_dir())
        if few is not None:
            inside: dict[str, list[str]] = {}
            for name in names:
                inside.setdefault(name.rpartition("/")[0], []).append(name)
            names = [name for folder in list(inside)[: few.folders] for name in inside[folder][: few.images]]
        for name in names:
            yield name, opened.read(name)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)  # of no time, owner or mode of its own
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.carried", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?", type=Path, default=Path("runs/carried.tar.xz"))
    file = parser.parse_args().file
    print(f"{file}: {pack(shared_archives(), file) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
