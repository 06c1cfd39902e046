"""What the formats share: which files of a tree are images, how they are ordered, and what is told of a source."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..digests import identity_of
from ..errors import DataError, from_os_error, printable, some
from ..files import is_file, whole
from ..spellings import split_of
from . import Listing

IMAGE_EXTENSIONS = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".avif",
        ".heic",
        ".heif",
        ".hif",
    )
)
HIDDEN, SYSTEM, OTHER, IRREGULAR = "hidden", "system file", "not an image", "not a regular file"
SAVED, _OF_SAVED = "saved", ("state.json", "dataset_info.json")  # what `save_to_disk` writes beside the data
_TABLES = (".csv", ".tsv", ".parquet")
EXAMPLES = 3  # entries left out that are named, of each reason
REPEATED, BROKEN = "listed already", "broken link"  # of broken links all names are kept: `data check` tells each
OUTSIDE = "link out of the folder; --follow-links follows it"
# what systems, network storage and their users' tools put beside files, in lower case
_SYSTEM = frozenset(
    (
        *("thumbs.db", "desktop.ini", "__macosx", ".appledouble", ".spotlight-v100", ".trashes"),
        *("$recycle.bin", "recycler", "system volume information", "lost+found", ".trash", ".trash-1000"),
        *("@recycle", "@recently-snapshot", ".@__thumb", "@eadir", "@tmp", "@synoresource", "@sharebin", "#recycle"),
        *("#snapshot", ".snapshot", "~snapshot"),
    )
)


@dataclass(frozen=True)
class Tree:
    """The images below a folder, by the bytes of their ids."""

    ids: list[str]  # paths relative to the root
    identities: bytes  # 40 of them per image: device, inode, size, mtime_ns, ctime_ns
    folders: list[str]  # the folders directly in the root, links to folders included
    left_out: dict[str, int]
    examples: dict[str, list[str]]  # reason -> the first names of those left out; of BROKEN all


@dataclass(frozen=True)
class FileReader:
    """Images that are files of their own: `ids` are paths relative to `root`, or absolute."""

    root: str
    ids: Sequence[str]
    identities: bytes | bytearray  # as in Tree
    max_bytes: int = Listing.max_bytes

    def read(self, i: int) -> bytes:
        """The bytes of file `i`. Raises OSError as `files.whole`."""
        return whole(os.path.join(self.root, self.ids[i]), self.max_bytes)

    def identity(self, i: int) -> bytes | None:
        """The 40 bytes of file `i` when it was listed, as `Dataset.identity`."""
        return bytes(self.identities[40 * i : 40 * i + 40])

    def place(self, i: int) -> str | None:
        """The path of file `i`."""
        return os.path.join(self.root, self.ids[i])


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image: by its ending, in any case of letters."""
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def unwanted(name: str) -> str | None:
    """Why an entry of this name is passed over, or None."""
    if name.startswith("._") or name.casefold() in _SYSTEM:
        return SYSTEM
    return HIDDEN if name.startswith(".") else None


def kind_of_folder(path: str) -> str | None:
    """`saved` with the two files of a saved data set, else `flat` with an image directly in it, else `folder` with a
    sub-folder, else `shards` with a tar file, else `folder`; None for no folder.
    """
    if not os.path.isdir(path):
        return None
    if all(os.path.isfile(os.path.join(path, name)) for name in _OF_SAVED):
        return SAVED
    kind = None
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if unwanted(entry.name):
                    continue
                if is_image(entry.name):
                    if _leads_to(entry.is_file):
                        return "flat"
                elif _leads_to(entry.is_dir):
                    kind = "folder"
                elif entry.name.lower().endswith((".tar", ".tar.gz", ".tgz")):
                    kind = kind or "shards"
    except OSError as error:
        raise from_os_error(error, "listing") from error
    return kind or "folder"


def _leads_to(test: Callable[[], bool]) -> bool:
    """What a test of an entry says; False for a link that leads to itself."""
    try:
        return test()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False


def image_tree(root: str, follow_links: bool) -> Tree:
    """Every image below `root`, once.

    Real paths come before any link, so a link never renames a file; links stay under the root unless `follow_links`.
    Opens no file. Raises DataError for a folder that cannot be listed: how many images are in it is not known.
    """
    walk = _Walk(os.path.realpath(root), follow_links)
    try:
        walk.enter("", root)
        while walk.links:
            links, walk.links = sorted(walk.links, key=lambda link: os.fsencode(link[0])), []
            for name, path in links:
                walk.follow(name, path)
    except OSError as error:
        raise from_os_error(error, "listing") from error
    ids = sorted(walk.images, key=os.fsencode)
    return Tree(
        ids,
        b"".join(walk.images[name] for name in ids),
        sorted(walk.folders, key=os.fsencode),
        dict(walk.left_out),
        walk.examples,
    )


class _Walk:
    """One listing: what was found, what was visited, and which links wait until all real paths are known."""

    def __init__(self, root: str, follow_links: bool):
        self.root, self.follow_links = root, follow_links
        self.images: dict[str, bytes] = {}  # id -> identity
        self.folders: list[str] = []
        self.links: list[tuple[str, str]] = []  # (id, path)
        self.visited: set[tuple[int, int]] = set()  # (device, inode) of files and folders
        self.left_out: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def leave(self, reason: str, name: str) -> None:
        """Pass over an entry; the first of each reason are kept by name, and all links that lead nowhere."""
        self.left_out[reason] += 1
        if reason == BROKEN or self.left_out[reason] <= EXAMPLES:
            self.examples.setdefault(reason, []).append(name)

    def enter(self, name: str, path: str) -> None:
        """List what is really in the folder `path`, whose id is `name`, and in the folders below it; put links off."""
        files: list[tuple[str, os.stat_result]] = []
        folders = [(name, path)]
        while folders:
            name, path = folders.pop()
            if not self._is_new(os.stat(path)):
                continue
            if name and "/" not in name:
                self.folders.append(name)
            with os.scandir(path) as entries:
                for entry in entries:
                    child = f"{name}/{entry.name}" if name else entry.name
                    if reason := unwanted(entry.name):
                        self.leave(reason, child)
                    elif entry.is_symlink():
                        self.links.append((child, entry.path))
                    elif is_image(entry.name):
                        files.append((child, entry.stat(follow_symlinks=False)))
                    elif entry.is_dir():
                        folders.append((child, entry.path))
                    else:
                        self.leave(OTHER if entry.is_file() else IRREGULAR, child)
        # of two hard links the first name counts
        for child, status in sorted(files, key=lambda file: os.fsencode(file[0])):
            self.add(child, status)

    def follow(self, name: str, path: str) -> None:
        """List what the link `path` points to, under the link's name."""
        try:
            status = os.stat(path)
        except OSError:  # nothing there, or a link to itself
            self.leave(BROKEN, name)
            return
        inside = os.path.join(os.path.realpath(path), "").startswith(os.path.join(self.root, ""))
        if not inside and not self.follow_links:
            self.leave(OUTSIDE, name)
        elif is_image(name):
            self.add(name, status)
        elif stat.S_ISDIR(status.st_mode):
            self.enter(name, path)
        else:
            self.leave(OTHER if stat.S_ISREG(status.st_mode) else IRREGULAR, name)

    def add(self, name: str, status: os.stat_result) -> None:
        """Take what has an image's name, if it is a regular file that was not listed yet."""
        if not is_file(status):
            self.leave(IRREGULAR, name)
        elif self._is_new(status):
            self.images[name] = identity_of(status)

    def _is_new(self, status: os.stat_result) -> bool:
        key = (status.st_dev, status.st_ino)
        if key in self.visited:
            self.left_out[REPEATED] += 1
            return False
        self.visited.add(key)
        return True


# ---- what is told of a source ----------------------------------------------------------------------------------------


def name_of(source: str) -> str:
    """What result rows call a source: its base name, or its parent's where that says only which part it is."""
    path = os.path.abspath(source)
    head, tail = os.path.split(path)
    if split_of(tail) and os.path.basename(head):
        tail = os.path.basename(head)
    for ending in (".zip", ".tar", ".csv", ".tsv", ".parquet"):
        if tail.lower().endswith(ending):
            return tail[: -len(ending)]
    return tail or path


def tables_beside(source: str) -> list[str]:
    """A line on tables that lie in a folder of images: their labels are not used."""
    found = _tables_in(source)
    if not found:
        return []
    path = printable(os.path.join(source, found[0]))
    return [f"left unread: {some(found)}; if labels are in it, give it as the source: {path}"]


def _tables_in(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.name.lower().endswith(_TABLES) and not unwanted(e.name))


def _instead(source: str) -> str | None:
    """What lies in a folder without an image and is a source itself: a table, or a saved data set."""
    if not os.path.isdir(source):
        return None
    inside = [place for place in (source, os.path.join(source, "data")) if os.path.isdir(place)]
    with os.scandir(source) as entries:
        saved = sorted(entry.path for entry in entries if kind_of_folder(entry.path) == SAVED)
    return next(iter([*(os.path.join(place, name) for place in inside for name in _tables_in(place)), *saved]), None)


def refuse_nothing(source: str, ids: Sequence[str], left_out: dict[str, int]) -> None:
    """Raise DataError if there is no image at all."""
    if not ids:
        passed = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        fix = f"Images end in {' '.join(sorted(IMAGE_EXTENSIONS))}."
        if OUTSIDE in left_out:
            fix = "Give --follow-links, if the links lead to images."
        elif other := _instead(source):
            fix = f"If images are in it, give it as the source: {printable(other)}"
        raise DataError("no image in it" + (f" (passed over: {passed})" if passed else ""), file=source, fix=fix)
