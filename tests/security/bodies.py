"""Bodies that do not belong to the header of their push, which was accepted: one lease, many of them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from tests.faults.raw import RawWorker
from tests.security.mutate import mutated

import sheepfold_wire.messages as m
from sheepfold_wire.errors import SheepfoldError
from sheepfold_wire.frames import chunk_frame, chunk_frames, push_header_frame, push_region_frame

CHUNK_BYTES = 64 << 10


def bodies(draw: random.Random, header: bytes, payload: bytes) -> dict[str, list[bytes]]:
    """By what is wrong with them; all frames but for that are whole, with checksums that are right."""
    frames = list(chunk_frames(payload, CHUNK_BYTES))
    at = draw.randrange(len(frames))
    other = bytearray(payload)
    other[draw.randrange(len(other))] ^= 1 << draw.randrange(8)
    more = [chunk_frame(len(payload), draw.randbytes(draw.choice((1, 4096))))]
    return {
        "none": [],
        "cut off": frames[:at],
        "a frame left out": frames[:at] + frames[at + 1 :] or [b""],
        "a frame twice": frames[: at + 1] + frames[at:],
        "too long": frames + more,
        "another digest": list(chunk_frames(other, CHUNK_BYTES)),
        "a header again": [*frames[:at], header, *frames[at:]],
        "no frames": [draw.randbytes(draw.randrange(1, 200)) for _ in range(3)],
        "a frame changed": [*frames[:at], frames[at][:-1] + bytes([frames[at][-1] ^ 1]), *frames[at + 1 :]],
        "a region of nobody": [push_region_frame(draw.randrange(1, 1 << 62))],
        "a region after frames": [*frames[:at], push_region_frame(draw.randrange(1, 1 << 62))],
        "an odd frame": [*frames[:at], mutated(draw, chunk_frame(0, b"abc")), *frames[at:]],
    }


@dataclass
class Findings:
    """What became of bodies."""

    inputs: int = 0
    taken: list[str] = field(default_factory=list)
    """Of bodies that were staged. Stays empty."""
    crashes: list[str] = field(default_factory=list)
    """Answers that are none of ours. Stays empty."""


def train_through(worker: RawWorker, seed: str, rounds: int) -> Findings:
    """A worker that sends every kind of broken body before each part, `rounds` times, and then the part."""
    draw, found = random.Random(seed), Findings()
    while (lease := worker.lease()) is not None:
        for shard in range(len(worker.attached.shards)):
            for _ in range(rounds):
                _attack(worker, lease, shard, draw, found)
            worker.push_part(lease, shard)
    return found


def _attack(worker: RawWorker, lease: m.Lease, shard: int, draw: random.Random, found: Findings) -> None:
    payload = worker.payload(lease, shard)
    header = push_header_frame(worker.header(lease, shard, payload))
    for what, body in bodies(draw, header, payload).items():
        found.inputs += 1
        try:
            worker.send(shard, [header, *body])
        except SheepfoldError as error:
            if error.reason == "INTERNAL":
                found.crashes.append(f"{what}: {error}")
        except Exception as error:
            found.crashes.append(f"{what}: {error}")
        else:
            found.taken.append(what)
