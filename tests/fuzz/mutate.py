"""Damaged versions of sound files: the same number gives the same bytes on every machine."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable, Sequence

WHOLE = (0, 1, 2, 7, 8, 127, 128, 255, 256, 32767, 65535, 2**24, 2**31 - 1, 2**32 - 1, 2**63 - 1)
FLOATS = (0.0, -1.0, 1e38, 1e-45, float("inf"), float("-inf"), float("nan"))
MOST_STEPS = 6

_FIELD = re.compile(rb"(?<=[ :=,\[{])[^ :=,\[\]{}\r\n]{1,60}")

Step = Callable[[bytearray, random.Random, Sequence[bytes]], None]


def mutant(number: int, seeds: Sequence[bytes], words: Sequence[bytes] = ()) -> bytes:
    """Return damaged file ``number``: a seed with one to six changes.

    Args:
        number: which one.
        seeds: sound files.
        words: pieces with a meaning in this format, put in here and there.
    """
    stream = random.Random(number)
    data = bytearray(stream.choice(seeds))
    for _ in range(stream.randint(1, MOST_STEPS)):
        stream.choice(STEPS)(data, stream, words or seeds)
    return bytes(data)


def _range(data: bytearray, stream: random.Random, longest: int = 64) -> tuple[int, int]:
    first = stream.randint(0, len(data))
    return first, min(len(data), first + stream.randint(1, longest))


def _flip(data: bytearray, stream: random.Random, _: Sequence[bytes]) -> None:
    if data:
        data[stream.randrange(len(data))] ^= 1 << stream.randrange(8)


def _byte(data: bytearray, stream: random.Random, _: Sequence[bytes]) -> None:
    if data:
        data[stream.randrange(len(data))] = stream.randrange(256)


def _number(data: bytearray, stream: random.Random, _: Sequence[bytes]) -> None:
    """Overwrite with a number at the edge of its type, in either byte order."""
    order = stream.choice("<>")
    if stream.random() < 0.2:
        piece = struct.pack(order + stream.choice("fd"), stream.choice(FLOATS))
    else:
        size = stream.choice((1, 2, 4, 8))
        value = stream.choice(WHOLE) * stream.choice((1, -1)) % 256**size
        piece = value.to_bytes(size, "little" if order == "<" else "big")
    # Headers come first in every one of these formats.
    reach = len(data) if stream.random() < 0.5 else min(len(data), 512)
    first = stream.randint(0, max(0, reach - len(piece)))
    data[first : first + len(piece)] = piece


def _delete(data: bytearray, stream: random.Random, _: Sequence[bytes]) -> None:
    first, last = _range(data, stream)
    del data[first:last]


def _repeat(data: bytearray, stream: random.Random, _: Sequence[bytes]) -> None:
    first, last = _range(data, stream)
    data[first:first] = data[first:last] * stream.choice((1, 1, 1, 2, 50))


def _word(data: bytearray, stream: random.Random, words: Sequence[bytes]) -> None:
    first, last = _range(data, stream, 16)
    data[first : stream.choice((first, last))] = stream.choice(words)


def _field(data: bytearray, stream: random.Random, words: Sequence[bytes]) -> None:
    """Replace what stands between two separators of a text."""
    places = [match.span() for match in _FIELD.finditer(data)]
    if places:
        first, last = stream.choice(places)
        data[first:last] = stream.choice(words)


def _splice(data: bytearray, stream: random.Random, words: Sequence[bytes]) -> None:
    """Replace a range with another range of the same file."""
    first, last = _range(data, stream)
    other, end = _range(data, stream)
    data[first:last] = data[other:end]


def _truncate(data: bytearray, stream: random.Random, _: Sequence[bytes]) -> None:
    if stream.random() < 0.2:
        del data[stream.randint(0, len(data)) :]


STEPS: tuple[Step, ...] = (
    _flip, _byte, _number, _number, _delete, _repeat, _word, _field, _splice, _truncate,
)  # fmt: skip
