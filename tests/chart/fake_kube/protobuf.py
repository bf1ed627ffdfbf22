"""Helm keeps its releases in Secrets, and sends them as protobuf: as much of it as that takes."""

from __future__ import annotations

import base64
from collections.abc import Iterator

from tests.chart.fake_kube.kinds import Object, Refusal

MAGIC = b"k8s\x00"


def fields(message: bytes) -> dict[int, list[bytes]]:
    """Fields of a message by number; a number among them as its varint's bytes."""
    found: dict[int, list[bytes]] = {}
    for number, value in _each(message):
        found.setdefault(number, []).append(value)
    return found


def _each(message: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            begin = at
            _, at = _varint(message, at)
        elif wire == 2:
            length, begin = _varint(message, at)
            at = begin + length
        else:
            begin, at = at, at + {1: 8, 5: 4}[wire]
        yield number, message[begin:at]


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _text(found: dict[int, list[bytes]], number: int) -> str:
    return found.get(number, [b""])[0].decode("utf-8")


def _map(found: dict[int, list[bytes]], number: int) -> dict[str, bytes]:
    pairs = [fields(pair) for pair in found.get(number, [])]
    return {_text(pair, 1): pair.get(2, [b""])[0] for pair in pairs}


def decoded(body: bytes) -> Object:
    """A Secret within its envelope, k8s.io/apimachinery runtime.Unknown; raises Refusal for other kinds."""
    envelope = fields(body.removeprefix(MAGIC))
    kind = _text(fields(envelope[1][0]), 2)
    if kind != "Secret":
        raise Refusal(415, "UnsupportedMediaType", f"{kind} in protobuf is not understood here, only Secret")
    message = fields(envelope[2][0])
    metadata = fields(message[1][0])
    labels = {name: value.decode("utf-8") for name, value in _map(metadata, 11).items()}
    data = {name: base64.b64encode(value).decode("ascii") for name, value in _map(message, 2).items()}
    return {
        "kind": kind,
        "apiVersion": "v1",
        "metadata": {"name": _text(metadata, 1), "labels": labels},
        "type": _text(message, 3) or "Opaque",
        "data": data,
    }
