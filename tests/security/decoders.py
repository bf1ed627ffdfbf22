"""Every decoder of bytes from outside, with a small corpus made by the encoder beside it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import DecodeError
from tests.integration.harness import small_job
from tests.security.mutate import inputs
from tests.unit.checkpointed import JOB, MANIFEST, SMALL, index_of, save_parts

import sheepfold_wire.messages as m
from sheepfold_server.core.permissions import Caller, Role
from sheepfold_server.shell.tokens import Grant, Signer, Use, Verifier
from sheepfold_server.storage.checkpoints import CheckpointIndex, CheckpointStore
from sheepfold_server.storage.checkpoints.errors import CheckpointError
from sheepfold_server.storage.checkpoints.tensors import LENGTH_BYTES, chunks, header_bytes, parse_header
from sheepfold_server.storage.log.errors import LogError
from sheepfold_server.storage.log.log import RecordLog
from sheepfold_wire.connection import BadAddress, Connection, parse_connection
from sheepfold_wire.convert import command_from_proto, commands_to_proto, report_from_proto, reports_to_proto
from sheepfold_wire.errors import SheepfoldError
from sheepfold_wire.frames import (
    chunk_frame,
    payload_digest,
    pull_end_frame,
    pull_header_frame,
    pull_region_frame,
    push_header_frame,
    push_region_frame,
    read_pull_frame,
    read_push_frame,
)
from sheepfold_wire.ids import AttemptId
from sheepfold_wire.job import job_from_json, job_from_toml
from sheepfold_wire.manifest import Manifest, ManifestError
from sheepfold_wire.status import from_details, to_details
from sheepfold_wire.v1 import shard_pb2

NOW = 1.75e9


@dataclass(frozen=True)
class Decoder:
    """What reads bytes, which errors it may raise, and valid inputs."""

    name: str
    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    corpus: Sequence[bytes]


@dataclass(frozen=True)
class Finding:
    """An input that a decoder answered by an error of none of ours."""

    decoder: str
    error: str
    data: bytes


def push_header() -> m.PushHeader:
    facts = m.Facts(4, 4.0, 0, b"\x03", 0.5)
    digest = payload_digest(b"abc")
    return m.PushHeader("small", AttemptId(1, 2), 0, 3, 1, "a" * 64, "b" * 64, "fp32", 3, digest, facts)


def _text(read: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: read(data.decode("utf-8", "replace"))


def _reports(data: bytes) -> None:
    for each in shard_pb2.ShardReports.FromString(data).reports:
        report_from_proto(each)


def _commands(data: bytes) -> None:
    for each in shard_pb2.ShardCommands.FromString(data).commands:
        command_from_proto(each)


def _part(data: bytes) -> None:
    length = header_bytes(data[:LENGTH_BYTES], "part")
    parse_header(data[LENGTH_BYTES : LENGTH_BYTES + length], len(data), "part")


class _Files:
    """Decoders of files, each in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._job, self._log = folder / "job.toml", folder / "log"

    def toml(self, data: bytes) -> None:
        self._job.write_bytes(data)
        job_from_toml(self._job)

    def valid_log(self) -> bytes:
        log = RecordLog(self._log, "job small", 8192)
        assert not list(log.read())
        log.append('["Books",{"a":1}]', [b"payload"])
        log.append('["Step",{"b":[1,2,3]}]')
        log.close()
        return self._segment().read_bytes()

    def _segment(self) -> Path:
        (found,) = self._log.glob("*.log")
        return found

    def log(self, data: bytes) -> None:
        self._segment().write_bytes(data)
        log = RecordLog(self._log, "job small", 8192)
        try:
            for _ in log.read():
                pass
        finally:
            log.close()

    def index(self) -> CheckpointIndex:
        files = save_parts(CheckpointStore(str(self._folder / "checkpoints"), JOB), 1, 1, SMALL)
        texts = {"manifest_json": SMALL.to_json(), "manifest_digest": SMALL.digest}
        return index_of(version=1, shard_count=1, files=files, **texts)


def decoders(folder: Path) -> list[Decoder]:
    """`folder`: where files are written that are read again."""
    files, signer_key = _Files(folder), Ed25519PrivateKey.from_private_bytes(b"k" * 32)
    header, job = push_header(), small_job()
    ours = (SheepfoldError,)
    token = Signer(signer_key).sign(Grant(Caller(Role.WORKER, "small", "x"), Use.PASS, NOW + 600), NOW)
    verifier = Verifier([signer_key.public_key()])
    address = Connection("127.0.0.1:7070", "a" * 64, token).secret.encode()
    arrays: Any = {"weights": np.zeros((2, 1024), np.float32), "steps": np.arange(3)}
    part = b"".join(bytes(piece) for piece in chunks(arrays, {"job": "small"}))
    index = files.index()
    hello = m.Hello(0, 0, 2, "127.0.0.1:1", "numeric", 1 << 20)
    toml = b'name = "small"\nseed = 11\n[batch]\nsamples = 32\nslot_samples = 4\n[data]\nsamples = 64\n'
    toml += b"[optimizer]\nlr = {peak = 0.02}\n[stop]\nsteps = 4\n"
    lost = to_details(SheepfoldError("x"))
    return [
        Decoder(
            "push frame",
            read_push_frame,
            ours,
            [push_header_frame(header), chunk_frame(0, b"abc"), push_region_frame(5)],
        ),
        Decoder(
            "pull frame",
            read_pull_frame,
            ours,
            [
                pull_header_frame(m.PullHeader(3, 10)),
                chunk_frame(7, b"abcdef"),
                pull_region_frame(9),
                pull_end_frame(3),
            ],
        ),
        Decoder("reports", _reports, (*ours, DecodeError), [reports_to_proto([hello]).SerializeToString()]),
        Decoder(
            "commands", _commands, (*ours, DecodeError), [commands_to_proto([_command()]).SerializeToString()]
        ),
        Decoder(
            "manifest",
            _text(Manifest.from_json),
            (ManifestError,),
            [MANIFEST.to_json().encode(), SMALL.to_json().encode()],
        ),
        Decoder("job json", _text(job_from_json), ours, [job.to_json().encode()]),
        Decoder("job toml", files.toml, ours, [toml]),
        Decoder("log", files.log, (LogError,), [files.valid_log()]),
        Decoder(
            "checkpoint index",
            lambda data: CheckpointIndex.from_bytes(data, index.path),
            (CheckpointError,),
            [index.to_bytes()],
        ),
        Decoder("checkpoint part", _part, (CheckpointError,), [part]),
        Decoder("token", _text(lambda text: verifier.grant(text, NOW)), ours, [token.encode()]),
        Decoder("address", _text(parse_connection), (BadAddress,), [address, b"127.0.0.1:7070"]),
        Decoder("status", from_details, (), [lost]),
    ]


def _command() -> m.ShardCommand:
    return m.Welcome(1, 2)


def attack(decoder: Decoder, seed: int, count: int) -> list[Finding]:
    """What came out of `count` inputs that is neither a value nor a refusal of ours."""
    found = []
    for data in inputs(random.Random(f"{seed} {decoder.name}"), decoder.corpus, count):
        try:
            decoder.read(data)
        except decoder.refusals:
            continue
        except Exception as error:
            found.append(Finding(decoder.name, repr(error)[:200], data[:200]))
    return found
