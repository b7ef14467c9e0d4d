"""Random changes to the bytes of sound inputs, with words of the format thrown in: inputs for `harness`.

It knows nothing of any format, so it finds what nobody thought of; targets that know their format make more inputs
that get past the first check.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

NUMBERS = (0, 1, 2, 7, 8, 9, 127, 128, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63)
"""Values at which readers make mistakes; written as decimal text and as words of 1 to 8 bytes."""

_BYTES = (0, 1, 32, 34, 48, 57, 127, 128, 254, 255)


def maker(seeds: Sequence[bytes], dictionary: Sequence[bytes]) -> Callable[[random.Random], bytes]:
    """Make a maker of inputs.

    Parameters
    ----------
    seeds : sequence of bytes
        Sound inputs, from which all others are made by one to eight changes.
    dictionary : sequence of bytes
        Words of the format, put in at random places.

    Returns
    -------
    callable
        Gives an input for a random generator; the same for the same state of it.
    """

    def make(generator: random.Random) -> bytes:
        data = bytearray(generator.choice(seeds))
        for _ in range(generator.choice((1, 1, 1, 2, 2, 3, 5, 8))):
            if generator.random() < 0.4:
                _insert(data, generator, _piece(generator, seeds, dictionary))
            else:
                generator.choices(_CHANGES, _OFTEN)[0](data, generator)
        return bytes(data)

    return make


def _piece(generator: random.Random, seeds: Sequence[bytes], dictionary: Sequence[bytes]) -> bytes:
    kind = generator.randrange(10)
    if kind < 6 and dictionary:
        return generator.choice(dictionary)
    if kind < 9:
        return str(generator.choice(NUMBERS) + generator.choice((-1, 0, 0, 1))).encode()
    other = generator.choice(seeds)
    start, end = _span(other, generator)
    return other[start:end]


def _span(data: bytes | bytearray, generator: random.Random) -> tuple[int, int]:
    start = generator.randrange(len(data) + 1)
    return start, min(len(data), start + generator.choice((1, 1, 2, 4, 8, 16, 64)))


def _insert(data: bytearray, generator: random.Random, piece: bytes) -> None:
    start, end = _span(data, generator)
    data[start : generator.choice((start, end))] = piece


def _flip(data: bytearray, generator: random.Random) -> None:
    if data:
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)


def _set(data: bytearray, generator: random.Random) -> None:
    if data:
        data[generator.randrange(len(data))] = generator.choice(_BYTES)


def _write_number(data: bytearray, generator: random.Random) -> None:
    width = generator.choice((1, 2, 4, 8))
    start = generator.randrange(len(data) + 1)
    value = generator.choice(NUMBERS) + generator.choice((-1, 0, 1))
    data[start : start + width] = (value % (1 << (8 * width))).to_bytes(width, generator.choice(("little", "big")))


def _delete(data: bytearray, generator: random.Random) -> None:
    start, end = _span(data, generator)
    del data[start:end]


def _repeat(data: bytearray, generator: random.Random) -> None:
    start, end = _span(data, generator)
    data[start:start] = data[start:end] * generator.choice((1, 1, 2, 16, 256))


def _move(data: bytearray, generator: random.Random) -> None:
    start, end = _span(data, generator)
    piece = bytes(data[start:end])
    del data[start:end]
    place = generator.randrange(len(data) + 1)
    data[place:place] = piece


def _cut(data: bytearray, generator: random.Random) -> None:
    del data[generator.randrange(len(data) + 1) :]


_CHANGES: Sequence[Callable[[bytearray, random.Random], None]] = (
    _flip, _set, _write_number, _delete, _repeat, _move, _cut,
)  # fmt: skip
_OFTEN = (4, 4, 3, 3, 2, 1, 0.5)
