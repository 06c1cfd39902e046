"""What can be wrong with bytes, JSON, arrays and TOML; every choice is the generator's."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

# ---- bytes


def damaged(data: bytes, stream: random.Random) -> bytes:
    """Some bytes flipped, cut, put in, left out, exchanged, said twice or zeroed, once or a few times."""
    for _ in range(stream.choice((1, 1, 1, 2, 5))):
        data = stream.choice(_DAMAGE)(data, stream)
    return data


def _span(data: bytes, stream: random.Random, most: int = 64) -> tuple[int, int]:
    start = stream.randrange(len(data) + 1)
    return start, min(len(data), start + stream.randint(1, most))


def _flipped(data: bytes, stream: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(stream.choice((1, 1, 2, 8)) if data else 0):
        changed[stream.randrange(len(changed))] ^= 1 << stream.randrange(8)
    return bytes(changed)


def _set(data: bytes, stream: random.Random) -> bytes:
    at, _ = _span(data, stream)
    return data[:at] + stream.choice((b"\0", b"\xff", b"\x80", b"\n", b'"', b"9")) + data[at + 1 :]


def _cut(data: bytes, stream: random.Random) -> bytes:
    return data[: stream.choice((stream.randrange(len(data) + 1), len(data) - 1, stream.randrange(16)))]


def _put_in(data: bytes, stream: random.Random) -> bytes:
    at, _ = _span(data, stream)
    return data[:at] + stream.randbytes(stream.choice((1, 3, 40))) + data[at:]


def _left_out(data: bytes, stream: random.Random) -> bytes:
    start, end = _span(data, stream)
    return data[:start] + data[end:]


def _exchanged(data: bytes, stream: random.Random) -> bytes:
    (a, b), (c, d) = sorted((_span(data, stream), _span(data, stream)))
    return data if b > c else data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _said_twice(data: bytes, stream: random.Random) -> bytes:
    start, end = _span(data, stream, max(64, len(data)))
    return data[:end] + data[start:end] + data[end:]


def _zeroed(data: bytes, stream: random.Random) -> bytes:
    start, end = _span(data, stream)
    return data[:start] + bytes(end - start) + data[end:]


_DAMAGE: list[Callable[[bytes, random.Random], bytes]] = [
    *(_flipped, _flipped, _flipped, _set, _cut, _put_in, _left_out, _exchanged, _said_twice, _zeroed)
]

# ---- JSON

_RAW = "@@raw@@"  # stands for text that no Python value is written as
_TEXTS: list[str] = [
    *("[" * 5000 + "]" * 5000, "[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, "9" * 5000, "-" + "9" * 5000),
    *("1e999", "-1e999", "NaN", "Infinity", "1" + "0" * 400, "0.1e-400", '{"a": 1, "a": 2}', '"\\ud800"', "2" * 40),
]
_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**63, 2**70, -(2**70), 1.5, 1e308, -0.0),
    *("", "x", "0", "nan", "\ud800", "\0", "two\nlines", "\x1b[31m", "../../x", "/etc/passwd", "é" * 300, "x" * 20_000),
    *([], {}, [[]], [None], [1, "a"], {"a": 1}, {"": {}}, [0.5] * 3, [{}], {"schema": 7}),
]


def any_value(stream: random.Random) -> Any:
    """A value that is seldom the right one."""
    return stream.choice(_VALUES)


def changed_json(value: Any, stream: random.Random) -> Any:
    """A copy in which one place, or a few, hold something else, are gone, or go by another name."""
    value = json.loads(json.dumps(value))
    for _ in range(stream.choice((1, 1, 1, 2, 4))):
        value = _changed(value, stream)
    return value


def written_json(value: Any, stream: random.Random) -> bytes:
    """A changed copy as text; one in four holds what no Python value is written as."""
    if stream.random() < 0.75:
        text = json.dumps(changed_json(value, stream))
    else:
        text = json.dumps(_with(value, stream, lambda old: _RAW)).replace(f'"{_RAW}"', stream.choice(_TEXTS))
    return text.encode("utf-8", "surrogatepass")


def _changed(value: Any, stream: random.Random) -> Any:
    return _with(value, stream, lambda old: _other(old, stream))


def _with(value: Any, stream: random.Random, change: Callable[[Any], Any]) -> Any:
    """The value with one of its places, chosen on the way down, changed."""
    if isinstance(value, dict) and value and stream.random() < 0.93:
        key = stream.choice(list(value))
        return {**value, key: _with(value[key], stream, change)}
    if isinstance(value, list) and value and stream.random() < 0.93:
        at = stream.randrange(len(value))
        return [*value[:at], _with(value[at], stream, change), *value[at + 1 :]]
    return change(value)


def _other(old: Any, stream: random.Random) -> Any:
    kind = stream.random()
    if isinstance(old, dict) and old and kind < 0.7:
        key = stream.choice(list(old))
        rest = {name: one for name, one in old.items() if name != key}
        return rest if kind < 0.4 else {**rest, stream.choice(("x", key.upper(), "")): old[key]}
    if isinstance(old, list) and old and kind < 0.7:
        return old[1:] if kind < 0.25 else old + old if kind < 0.5 else old[::-1]
    if isinstance(old, int | float) and not isinstance(old, bool) and kind < 0.4:
        return stream.choice((-old, old + 1, old - 1, old * 2**40, old + 0.5, str(old)))
    if isinstance(old, str) and kind < 0.3:
        return stream.choice((old + "x", old[:-1], old.upper(), old + "\n", [old], "\x00" + old))
    return any_value(stream)


# ---- arrays

_TYPES = ("f2", "f4", "f8", "i1", "i4", "i8", "u1", "u8", "?")
_NUMBERS = (np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, 0.0, -1.0, 1e18, 7.0)


def changed_arrays(
    arrays: Mapping[str, np.ndarray], stream: random.Random, types: tuple[str, ...] = _TYPES
) -> dict[str, np.ndarray]:
    """A copy in which one array, or two, are of another type, shape or content, gone, or called something else."""
    found = dict(arrays)
    for _ in range(stream.choice((1, 1, 1, 2))):
        if not found:
            break
        name = stream.choice(sorted(found))
        kind = stream.random()
        if kind < 0.1:
            del found[name]
        elif kind < 0.15:
            found[name + "x"] = found.pop(name)
        elif kind < 0.2:
            found["x"] = np.zeros(3, np.float32)
        elif kind < 0.4:
            with np.errstate(all="ignore"):
                try:
                    found[name] = found[name].astype(stream.choice(types))
                except (ValueError, TypeError):  # text that is no number
                    found[name] = np.zeros(found[name].shape, stream.choice(types))
        elif kind < 0.7:
            found[name] = _reshaped(found[name], stream)
        else:
            found[name] = _renumbered(found[name], stream)
    return found


def _reshaped(array: np.ndarray, stream: random.Random) -> np.ndarray:
    ways: list[Callable[[np.ndarray], np.ndarray]] = [
        lambda a: a.T,
        lambda a: a.reshape(-1),
        lambda a: a[None],
        lambda a: a[..., None],
        lambda a: a[:0],
        lambda a: a[:1],
        lambda a: a[:-1],
        lambda a: a[..., :-1],
        lambda a: a[..., :0],
        lambda a: np.concatenate([a, a]),
        lambda a: a[..., ::-1],
        lambda a: a.reshape(-1)[0],
        lambda a: np.zeros((0,) * 5, a.dtype),
    ]
    try:
        return np.asarray(stream.choice(ways)(array)).copy()
    except (ValueError, IndexError):  # of an array without a dimension, or empty
        return np.zeros(3, array.dtype)


def _renumbered(array: np.ndarray, stream: random.Random) -> np.ndarray:
    if array.dtype.kind not in "fiu" or not array.size:
        return array[::-1].copy() if array.ndim else array
    found = array.copy()
    number = stream.choice(_NUMBERS)
    if array.dtype.kind in "iu":
        limits = np.iinfo(array.dtype)
        number = stream.choice((limits.max, limits.min, -1 if limits.min else limits.max, 0, 1, 7))
    whole = stream.random() < 0.3
    with np.errstate(all="ignore"):
        if whole:
            found[...] = number
        else:
            found.reshape(-1)[stream.randrange(found.size)] = number
    return found


# ---- TOML

_TOML: list[str] = [
    *("[" * 5000, "x = " + "[" * 5000, "x = " + "[" * 5000 + "]" * 5000, "x = " + "{a=" * 3000, "[x.y.z]", "[[x]]"),
    *("x = 9" + "9" * 5000, "x = nan", "x = 1979-05-27T07:32:00Z", "x = 07:32:00", 'x = "\\ud800"', "x = 1e999"),
    *(
        "x = true",
        "x = -1",
        'x = ""',
        "x = []",
        "x = {}",
        'x = {a = 1, b = ["c"]}',
        "x = [[1], [[2]]]",
        'x = "\\u0000"',
    ),
    *('x = "\\u001b[31m"', 'x = """two\nlines"""', "x = 2e70", "x = 1" + "0" * 70, 'x = [{a = "b"}]', "x.y.z = 1"),
    *("x" + ".a" * 3000 + " = 1", "'' = 1", '"\\n" = 1', "x = 0x7fffffffffffffffffff", "x = inf", "x = [true, 1, 'a']"),
]


def changed_toml(text: str, keys: list[str], stream: random.Random) -> bytes:
    """Lines exchanged, left out, said twice, or a key that is known with a value that it hardly takes."""
    lines = text.splitlines()
    for _ in range(stream.choice((1, 1, 2, 3))):
        at, kind = stream.randrange(len(lines) + 1), stream.random()
        if kind < 0.8:
            key = stream.choice([*keys, "x"])
            line = stream.choice(_TOML)
            line = line.replace("x", key, 1) if line[0] in "x[" and stream.random() < 0.95 else line
            if stream.random() < 0.7:  # in its place: no key stands there twice
                lines = [one for one in lines if not one.startswith(key)]
            lines.insert(min(at, len(lines)), line)
        elif kind < 0.9 and lines:
            lines.append(stream.choice(lines))
        elif lines:
            lines.pop(stream.randrange(len(lines)))
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
