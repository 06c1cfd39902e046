"""pyarrow, where it is installed, and what its many exceptions mean."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..errors import DataError, MissingExtra, printable, refuse_out_of_memory


def require_arrow(source: str, doing: str) -> None:
    """Raise MissingExtra without pyarrow."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise MissingExtra(f"{doing} needs pyarrow", file=source, fix="pip install 'fewvit[table]'") from error


@contextlib.contextmanager
def readable(source: str, kind: str) -> Iterator[None]:
    """Raises DataError for whatever a file that is none of its kind, or a damaged one, makes pyarrow raise."""
    import pyarrow

    try:
        yield
    except OSError as error:
        if error.errno is not None:  # the system's own; pyarrow's carry a message alone
            raise
        raise _damaged(source, kind, error) from error
    except (pyarrow.ArrowException, ValueError, TypeError, LookupError, OverflowError, MemoryError) as error:
        refuse_out_of_memory(error, f"reading {printable(source)}")
        raise _damaged(source, kind, error) from error


def _damaged(source: str, kind: str, error: BaseException) -> DataError:
    said = printable((str(error).splitlines() or [""])[0][:200]) or type(error).__name__
    return DataError(f"not a {kind} that can be read, or a damaged one: {said}", file=source)
