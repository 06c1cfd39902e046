"""Pickles of plain data from strangers, read by our own small machine: Python's unpickler is never asked.

A pickle is a program, and one of its instructions calls whatever the file names. This machine has the instructions for
None, numbers, text, bytes, lists, tuples, dicts and sets, in all protocols from 0 to 5, and for NumPy's numeric arrays
and scalars, which it makes itself. Everything else is refused by name. Memory is bounded: by the size of the file, the
number of its containers, by arrays that have to lie in the file as they are, and by what functions may be given: a text
that is remembered could be made to bytes a thousand times.
"""

from __future__ import annotations

import io
import os
import pickletools
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import IntegrityError, from_os_error, printable
from .plain_numpy import NoNumberError, PlainDtype
from .stand_ins import STAND_INS, BegunArray, Named, RefusedError, as_key, filled_array

_MOST_BYTES = 16 << 20  # of a file; the published ground truths have less than one MiB
_MOST_INSTRUCTIONS = 5_000_000  # seconds of work
_MOST_CONTAINERS = 100_000  # a set takes 216 bytes of memory and one of the file
_GIVEN_BEYOND = 1 << 20  # letters and elements that functions are given beyond the bytes of the file
_NEVER = "fewvit never runs the code of a file: ask its author for JSON."
_CONSTANTS: Mapping[str, object] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = frozenset(
    [
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "UNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE",
        "BINUNICODE8",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
    ]
)
_CONTAINERS: Mapping[str, Callable[[], object]] = {
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "EMPTY_TUPLE": tuple,
}
_PUTS, _GETS = ("PUT", "BINPUT", "LONG_BINPUT"), ("GET", "BINGET", "LONG_BINGET")
_SILENT = ("PROTO", "FRAME")
# instructions that make objects of classes or fetch from outside, in words
_FOREIGN = {
    "INST": "an object of",
    "OBJ": "an object of a class",
    "NEWOBJ": "an object of a class",
    "NEWOBJ_EX": "an object of a class",
    "EXT1": "number {} of the registry of extensions",
    "EXT2": "number {} of the registry of extensions",
    "EXT4": "number {} of the registry of extensions",
    "PERSID": "a persistent object",
    "BINPERSID": "a persistent object",
    "NEXT_BUFFER": "a buffer outside the file",
    "READONLY_BUFFER": "a buffer outside the file",
}


_MARK = object()


def read_plain_pickle(path: str | os.PathLike[str]) -> Any:
    """The plain data in a pickle file: containers, numbers, text and numeric arrays; NumPy scalars as Python's numbers.

    Raises DataError if it cannot be opened, IntegrityError if it is damaged, too large or asks for anything else.
    """
    try:
        with open(path, "rb") as handle:
            data = handle.read(_MOST_BYTES + 1)
    except OSError as error:
        raise from_os_error(error, "reading the pickle") from error
    if len(data) > _MOST_BYTES:
        raise IntegrityError(f"refused: it has more than {_MOST_BYTES >> 20} MiB", file=Path(path))
    return plain_data(data, path)


def plain_data(data: bytes, path: str | os.PathLike[str]) -> Any:
    """The plain data in the bytes of a pickle, however many, that came from `path`. Raises as `read_plain_pickle`."""
    try:
        return _Machine().run(data)
    except (RefusedError, NoNumberError) as error:
        raise IntegrityError(f"refused: {error}", file=Path(path), fix=_NEVER) from error
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, struct.error) as error:
        raise IntegrityError("is no pickle, or a damaged one", file=Path(path), fix="Fetch it again.") from error


class _Machine:
    """A pickle's stack and memo. Whatever is popped was pushed here, so every value is plain or one of our own."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.containers = 0
        self.may_be_given = _GIVEN_BEYOND  # what one byte of the file stands for is given once

    def run(self, data: bytes) -> Any:
        """What the program leaves. Raises RefusedError, or one of the errors of broken programs."""
        self.may_be_given += len(data)
        for count, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(data))):
            if opcode.name == "STOP":
                return self._finished(self.stack.pop())
            if count == _MOST_INSTRUCTIONS:
                raise RefusedError(f"it has more than {_MOST_INSTRUCTIONS:,} instructions")
            self._step(opcode.name, argument)
        raise ValueError("no STOP")

    def _step(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            self.stack.append(_literal(argument))
        elif name in _CONTAINERS:
            self._push_container(_CONTAINERS[name]())
        elif name in _PUTS or name == "MEMOIZE":
            self._remember(len(self.memo) if name == "MEMOIZE" else int(argument))
        elif name in _GETS:
            self.stack.append(self.memo[int(argument)])
        elif name in _FOREIGN:
            raise RefusedError(f"it asks for {_foreign(name, argument)}")
        elif name not in _SILENT:
            _INSTRUCTIONS[name](self, argument)

    def _finished(self, value: Any) -> Any:
        if isinstance(value, Named | BegunArray | PlainDtype) or value is _MARK:
            raise RefusedError("it holds no data")
        return value

    def _remember(self, slot: int) -> None:
        top = self.stack[-1]
        if isinstance(top, BegunArray):
            top.slots.append(slot)
        self.memo[slot] = top

    def _push_container(self, value: object) -> None:
        self.containers += 1
        if self.containers > _MOST_CONTAINERS:
            raise RefusedError(f"it has more than {_MOST_CONTAINERS:,} lists, tuples, dicts and sets")
        self.stack.append(value)

    def _give(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of a function, which may copy them."""
        self.may_be_given -= sum(len(one) for one in arguments if isinstance(one, str | bytes | list | tuple))
        if self.may_be_given < 0:
            raise RefusedError("it has the same data copied again and again")
        return arguments

    def _since_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError("no mark")
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def _popped(self, length: int) -> tuple[Any, ...]:
        return tuple(self.stack.pop() for _ in range(length))[::-1]

    def _top(self, kind: type) -> Any:
        """What an instruction fills. Raises TypeError for anything but this kind of container."""
        if type(self.stack[-1]) is not kind:
            raise TypeError(kind)
        return self.stack[-1]

    # ---- one method for each instruction that is neither a literal nor an empty container

    def mark(self, argument: Any) -> None:
        self.stack.append(_MARK)

    def pop(self, argument: Any) -> None:
        self.stack.pop()

    def pop_mark(self, argument: Any) -> None:
        self._since_mark()

    def dup(self, argument: Any) -> None:
        self.stack.append(self.stack[-1])

    def list_(self, argument: Any) -> None:
        self._push_container(self._since_mark())

    def tuple_(self, argument: Any) -> None:
        self._push_container(tuple(self._since_mark()))

    def frozenset_(self, argument: Any) -> None:
        self._push_container(frozenset(map(as_key, self._since_mark())))

    def tuple_1(self, argument: Any) -> None:
        self._push_container(self._popped(1))

    def tuple_2(self, argument: Any) -> None:
        self._push_container(self._popped(2))

    def tuple_3(self, argument: Any) -> None:
        self._push_container(self._popped(3))

    def dict_(self, argument: Any) -> None:
        values = self._since_mark()
        self._push_container(dict(zip(map(as_key, values[::2]), values[1::2], strict=True)))

    def append(self, argument: Any) -> None:
        value = self.stack.pop()
        self._top(list).append(value)

    def appends(self, argument: Any) -> None:
        values = self._since_mark()
        self._top(list).extend(values)

    def setitem(self, argument: Any) -> None:
        value, key = self.stack.pop(), as_key(self.stack.pop())
        self._top(dict)[key] = value

    def setitems(self, argument: Any) -> None:
        values = self._since_mark()
        self._top(dict).update(zip(map(as_key, values[::2]), values[1::2], strict=True))

    def additems(self, argument: Any) -> None:
        values = self._since_mark()
        self._top(set).update(map(as_key, values))

    def global_(self, argument: str) -> None:
        self._push_named(".".join(argument.split(" ", 1)))

    def stack_global(self, argument: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._push_named(
            f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "a nameless thing"
        )

    def _push_named(self, name: str) -> None:
        if name not in STAND_INS and name != "numpy.ndarray":
            raise RefusedError(f"it asks for {printable(name)[:80]}, which is no plain data")
        self.stack.append(Named(name))

    def reduce(self, argument: Any) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        if not isinstance(called, Named) or called.name not in STAND_INS or type(arguments) is not tuple:
            raise RefusedError("it calls what is no function for plain data")
        self._push_container(STAND_INS[called.name](*self._give(arguments)))

    def build(self, argument: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(state) is not tuple:
            raise RefusedError("it gives an object a state that no plain data has")
        if isinstance(target, PlainDtype):
            target.__setstate__(state)
        elif isinstance(target, BegunArray):
            _, shape, dtype, in_columns, raw = self._give(state)
            self.stack[-1] = filled_array(raw, dtype, shape, "F" if in_columns else "C")
            self.memo |= dict.fromkeys(target.slots, self.stack[-1])
        else:
            raise RefusedError(f"it gives a {type(target).__name__} the state of an object")


_INSTRUCTIONS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": _Machine.dup,
    "LIST": _Machine.list_,
    "TUPLE": _Machine.tuple_,
    "TUPLE1": _Machine.tuple_1,
    "TUPLE2": _Machine.tuple_2,
    "TUPLE3": _Machine.tuple_3,
    "DICT": _Machine.dict_,
    "FROZENSET": _Machine.frozenset_,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.setitem,
    "SETITEMS": _Machine.setitems,
    "ADDITEMS": _Machine.additems,
    "GLOBAL": _Machine.global_,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}


def _foreign(name: str, argument: Any) -> str:
    text = _FOREIGN[name].format(argument)
    return f"{text} {printable('.'.join(str(argument).split(' ', 1)))[:80]}" if name == "INST" else text


def _literal(value: Any) -> Any:
    if isinstance(value, int) and abs(value) >> 64:
        raise RefusedError("it has a whole number of more than 64 bits")
    return bytes(value) if isinstance(value, bytearray) else value
