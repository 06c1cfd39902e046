"""Standard streams that are closed, full or cut off: one line and the right exit code, and never a fault of ours."""

from __future__ import annotations

import os
import sys

from fewvit.errors import from_os_error

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))  # by their numbers


def open_closed_ones() -> None:
    """Put an empty device in place of what the caller closed, before any file can take its number.

    A file that had number 2 would get whatever a C library prints.
    """
    closed = []
    for number, (name, mode) in enumerate(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            closed.append(name)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False, encoding="utf-8"))  # noqa: SIM115  it stays
    if "stdout" in closed:
        sys.stderr.write("stdout is closed, so what is printed is lost\n")


def flushed(code: int) -> int:
    """The exit code once everything is printed; where that fails what is left is dropped.

    A reader that has gone is no error; a full device is.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            _drop(stream.fileno())
        except OSError as error:
            _drop(stream.fileno())
            known = from_os_error(error, "printing the result")
            code = code or known.exit_code
            if stream is sys.stdout:
                sys.stderr.write(f"fewvit: {known}\n")
    return code


def reader_has_gone() -> bool:
    """Whether click met a broken pipe, wrapped the streams and is about to exit with 1."""
    return type(sys.stdout).__name__ == "PacifyFlushWrapper"


def _drop(number: int) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)
