"""Changes of valid inputs, drawn from a seed: the same seed makes the same inputs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

NUMBERS = (0, 1, 127, 128, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
VARINTS = (
    *(b"\xff" * 9 + b"\x01", b"\xff" * 10, b"\xff" * 11 + b"\x01"),
    *(b"\x80" * 9, b"\x80\x00", b"\xff" * 4 + b"\x0f"),
)
TEXTS = (
    *(b"-1", b"1e999", b"NaN", b"null", b"true", b"[]", b"{}", b'""', b"9" * 30, b"9" * 5000),
    *(b"[" * 20_000, b'{"a":' * 20_000, b"\xff\xfe", b"\x00", b"\\ud800", b"..%2f..", b"/../", b"%00", b"#"),
)


def flip(draw: random.Random, data: bytearray) -> None:
    for _ in range(draw.choice((1, 1, 1, 2, 8))):
        if data:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def truncate(draw: random.Random, data: bytearray) -> None:
    del data[draw.randrange(len(data) + 1) :]


def number(draw: random.Random, data: bytearray) -> None:
    """A length, count or offset of another size, either byte order."""
    raw = draw.choice(NUMBERS).to_bytes(8, draw.choice(("little", "big")))[: draw.choice((1, 2, 4, 8))]
    at = draw.randrange(len(data) + 1)
    data[at : at + len(raw)] = raw


def varint(draw: random.Random, data: bytearray) -> None:
    at = draw.randrange(len(data) + 1)
    data[at : at + draw.choice((0, 1))] = draw.choice(VARINTS)


def text(draw: random.Random, data: bytearray) -> None:
    at = draw.randrange(len(data) + 1)
    data[at : at + draw.choice((0, 1, 3))] = draw.choice(TEXTS)


def duplicate(draw: random.Random, data: bytearray) -> None:
    first, end = sorted((draw.randrange(len(data) + 1), draw.randrange(len(data) + 1)))
    data[end:end] = data[first:end] * draw.choice((1, 1, 2, 50))


def cut(draw: random.Random, data: bytearray) -> None:
    first, end = sorted((draw.randrange(len(data) + 1), draw.randrange(len(data) + 1)))
    del data[first:end]


def noise(draw: random.Random, data: bytearray) -> None:
    data[:] = draw.choice((draw.randbytes(draw.randrange(64)), draw.choice(TEXTS)))


CHANGES: tuple[Callable[[random.Random, bytearray], None], ...] = (
    *(flip, flip, truncate, number, varint, text, duplicate, cut, noise),
)
INPUT_BYTES_MAX = 1 << 20


def mutated(draw: random.Random, valid: bytes) -> bytes:
    """One to three changes of a valid input."""
    data = bytearray(valid)
    for _ in range(draw.choice((1, 1, 2, 3))):
        draw.choice(CHANGES)(draw, data)
    return bytes(data[:INPUT_BYTES_MAX])


def inputs(draw: random.Random, corpus: Sequence[bytes], count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield mutated(draw, draw.choice(corpus))


def streams(draw: random.Random, valid: Sequence[bytes]) -> list[bytes]:
    """The frames of a call: repeated, left out, in another order, or one of them changed."""
    frames = list(valid)
    for _ in range(draw.choice((1, 1, 2))):
        at = draw.randrange(len(frames)) if frames else 0
        match draw.randrange(5):
            case 0:
                frames[at:at] = frames[at : at + 1]
            case 1:
                del frames[at : at + 1]
            case 2:
                draw.shuffle(frames)
            case _:
                frames[at : at + 1] = [mutated(draw, frame) for frame in frames[at : at + 1]]
    return frames
