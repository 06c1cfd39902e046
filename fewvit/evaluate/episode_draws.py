"""Which images make an episode: drawn from a seed, or the published runs of Omniglot; and files that name classes."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError, counted, from_os_error, printable
from ..seeds import generator

_LABELS = "class_labels.txt"  # of each of Omniglot's runs


@dataclass(frozen=True)
class Episodes:
    """Row numbers of E episodes of one shape, and their labels 0..ways-1."""

    support: np.ndarray  # (E, n)
    support_labels: np.ndarray  # (E, n)
    queries: np.ndarray  # (E, q)
    query_labels: np.ndarray  # (E, q)
    ways: int

    def __len__(self) -> int:
        return len(self.support)

    @property
    def shape(self) -> dict[str, int]:
        """`ways`, and `shots` and `queries` per class."""
        return {
            "ways": self.ways,
            "shots": self.support.shape[1] // self.ways,
            "queries": self.queries.shape[1] // self.ways,
        }

    @property
    def shown(self) -> str:
        """`5-way 1-shot`."""
        return f"{self.ways}-way {self.shape['shots']}-shot"


def read_classes(file: str, number: Mapping[str, int]) -> list[int]:
    """Numbers of the classes in a text file, one per line: its name, or its name and words about it.

    Raises DataError for one without a number.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise from_os_error(error, "reading the class names") from error
    except UnicodeDecodeError as error:
        raise DataError(f"not a text file: {error}", file=file) from error
    names = [name if name in number else _first_word(name, number) for line in lines if (name := line.strip())]
    unknown = [name for name in names if name not in number]
    if unknown or not names:
        shown = ", ".join(map(printable, unknown[:5])) + (" …" if len(unknown) > 5 else "")
        what = (
            f"{len(unknown)} of its {counted(len(names), 'class', 'classes')} "
            f"{'has' if len(unknown) == 1 else 'have'} no images here: {shown}"
            if names
            else "names no class"
        )
        raise DataError(what, file=file, fix="Write one class per line, as the class folders are called.")
    return [number[name] for name in names]


def _first_word(line: str, number: Mapping[str, int]) -> str:
    """The class that a line begins with, as `n01443537 goldfish`; the whole line where its first word is none."""
    word = line.split(maxsplit=1)[0]
    return word if word in number else line


def draw_episodes(
    members: Sequence[np.ndarray], ways: int, shots: int, queries: int, count: int, seed: int
) -> Episodes:
    """Episodes 0..count-1 of a seed, from the rows of each class; an episode depends on its number and the seed alone.

    Queries are drawn before support, so that the same episode with more shots has the same queries and a support that
    begins with the smaller one.
    """
    drawn = [_draw(members, ways, shots, queries, generator("episode", seed, number)) for number in range(count)]
    labels = [np.tile(np.repeat(np.arange(ways), each), (count, 1)) for each in (shots, queries)]
    support, asked = (np.stack(side) for side in zip(*drawn, strict=True))
    return Episodes(support, labels[0], asked, labels[1], ways)


def _draw(
    members: Sequence[np.ndarray], ways: int, shots: int, queries: int, stream: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Support (ways * shots,) and queries (ways * queries,), class after class."""
    shuffled = [stream.permutation(members[c]) for c in stream.choice(len(members), ways, replace=False)]
    support = np.concatenate([rows[queries : queries + shots] for rows in shuffled])
    return support, np.concatenate([rows[:queries] for rows in shuffled])


def read_runs(source: str, ids: Sequence[str]) -> Episodes:
    """One episode per run of a folder or zip of Omniglot's one-shot runs; every training image is a class of its own.

    Source: Lake et al. 2015: 20 runs of 20-way 1-shot. Lines of `class_labels.txt` read `run01/test/item01.png
    run01/training/class01.png`: a query, and the training image of its class. Raises DataError for a missing image.
    """
    row = {name: i for i, name in enumerate(ids)}
    runs = [_one_run(*run, row) for run in _label_files(source)]
    if not runs:
        raise _no_runs(source)
    if len({(len(support), len(queries)) for support, queries, _ in runs}) > 1:
        raise DataError("its runs are not all of one shape", file=source)
    support, queries, labels = (np.stack(side) for side in zip(*runs, strict=True))
    ways = support.shape[1]
    return Episodes(support, np.tile(np.arange(ways), (len(runs), 1)), queries, labels, ways)


def require_runs(source: str) -> None:
    """Raise DataError for what is there and holds no runs, before its images are listed by rules not made for runs."""
    if os.path.exists(source) and not any(True for _ in _label_files(source)):
        raise _no_runs(source)


def _no_runs(source: str) -> DataError:
    return DataError(
        f"holds no run of Omniglot's: there is no {_LABELS} in it",
        file=source,
        fix="Give the folder or zip of Omniglot's one-shot runs.",
    )


def _label_files(source: str) -> Iterator[tuple[str, str]]:
    """(path, text) of each run's list, by path, paths relative to the source."""
    try:
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                for name in sorted(name for name in archive.namelist() if name.rpartition("/")[2] == _LABELS):
                    yield name, archive.read(name).decode()
            return
        for file in sorted(Path(source).rglob(_LABELS)):
            yield file.relative_to(source).as_posix(), file.read_text(encoding="utf-8")
    except OSError as error:
        raise from_os_error(error, "reading the runs") from error
    except (UnicodeDecodeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"its {_LABELS} cannot be read: {error}", file=source) from error


def _one_run(path: str, text: str, row: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the training images (W,) and of the queries (q,), and the training image (q,) that each query matches."""
    above = path.rpartition("/")[0].rpartition("/")[0]  # the folder that holds run01
    pairs = [line.split() for line in text.splitlines() if line.strip()]
    bad = next((words for words in pairs if len(words) != 2), None)
    if bad is not None or not pairs:
        raise DataError(f"{' '.join(bad or []) or 'an empty file'!r} is not a query and a training image", file=path)
    training = sorted({support for _, support in pairs})
    support = [_row_of(name, above, row, path) for name in training]
    queries = [_row_of(query, above, row, path) for query, _ in pairs]
    return np.array(support), np.array(queries), np.array([training.index(name) for _, name in pairs])


def _row_of(name: str, above: str, row: Mapping[str, int], path: str) -> int:
    """The row of an image whose id may lack leading folders that hold nothing else."""
    candidate = f"{above}/{name}" if above else name
    while candidate not in row:
        _, slash, candidate = candidate.partition("/")
        if not slash:
            raise DataError(f"{printable(name)} is not among the images", file=path)
    return row[candidate]
