"""The index of one checkpoint: which files it consists of, and what they are the state of."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sheepfold_server.storage.checkpoints.errors import (
    CheckpointFormatUnknown,
    CheckpointIndexUnreadable,
    CheckpointRefused,
)
from sheepfold_server.storage.checkpoints.names import NUMBER_MAX, belongs_to, check_name, index_file
from sheepfold_wire.manifest import Manifest
from sheepfold_wire.plan import SHARDS_MAX, Plan

INDEX_BYTES_MAX = 256 * 1024 * 1024

Number = Annotated[int, Field(ge=0, le=NUMBER_MAX)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class PartFile(_Record):
    """One shard's file, relative to the folder of the lineage; also what saving it answers."""

    file: str
    bytes: Number
    sha256: Sha256


class CheckpointIndex(_Record):
    """A checkpoint: the state after `version` commits, `applied_steps` of which moved the weights.

    `files[i]` is the file of shard i. `ledger` is the coordinator's own, any JSON object. `created_at` counts
    seconds since 1970. Raises pydantic's ValidationError, a ValueError, for values that do not fit together.
    """

    FORMAT: ClassVar[int] = 1

    job: str
    lineage: str
    version: Number
    applied_steps: Number
    term: Number
    created_at: float
    manifest_json: str
    manifest_digest: Sha256
    config_json: str
    shard_count: Annotated[int, Field(ge=1, le=SHARDS_MAX)]
    split_above_bytes: Number
    needs_whole: tuple[str, ...] = ()
    numeric_fingerprint: str
    kernel: str
    ledger: dict[str, Any]
    files: tuple[PartFile, ...]

    @model_validator(mode="after")
    def _fits_together(self) -> CheckpointIndex:
        check_name("job", self.job)
        check_name("lineage", self.lineage)
        if self.manifest.digest != self.manifest_digest:
            raise ValueError(
                f"manifest_digest is {self.manifest_digest}, the text's is {self.manifest.digest}"
            )
        if len(self.files) != self.shard_count:
            raise ValueError(f"{len(self.files)} files for {self.shard_count} shards: give one for each")
        for shard, part in enumerate(self.files):
            if not belongs_to(part.file, self.version, shard, self.shard_count):
                raise ValueError(
                    f"{part.file[:160]!r} is no file of version {self.version}, "
                    f"shard {shard} of {self.shard_count}"
                )
        return self

    @cached_property
    def manifest(self) -> Manifest:
        """Raises ManifestError where `manifest_json` is none."""
        return Manifest.from_json(self.manifest_json)

    @property
    def name(self) -> str:
        """Its own file, relative to the folder of the lineage."""
        return index_file(self.version, self.term)

    @property
    def path(self) -> str:
        """Its own file, relative to the checkpoint url."""
        return f"{self.job}/{self.lineage}/{self.name}"

    def part_path(self, shard: int) -> str:
        """A shard's file, relative to the checkpoint url."""
        return f"{self.job}/{self.lineage}/{self.files[shard].file}"

    def plan(self, shard_count: int) -> Plan:
        """Where the same state lies on any number of shards."""
        return Plan.of(self.manifest, shard_count, self.split_above_bytes, frozenset(self.needs_whole))

    def is_same_state(self, other: CheckpointIndex) -> bool:
        """Whether both tell of the same state, wherever its files lie and whenever they were written."""
        return self._state() == other._state()

    def _state(self) -> dict[str, Any]:
        contents = [(part.bytes, part.sha256) for part in self.files]
        return {**self.model_dump(exclude={"created_at", "files"}), "contents": contents}

    def to_bytes(self) -> bytes:
        """Canonical JSON with its own digest. Raises CheckpointRefused for a ledger that is no JSON."""
        try:
            plain = json.loads(_canonical({"format": self.FORMAT, **self.model_dump()}))
            content = _canonical({**plain, "digest": _digest(plain)})
        except (TypeError, ValueError, RecursionError) as error:
            raise CheckpointRefused(
                f"the ledger of version {self.version} is no JSON ({error}): "
                "give text, whole and finite numbers, lists and objects only"
            ) from error
        if len(content) > INDEX_BYTES_MAX:
            raise CheckpointRefused(
                f"{self.name} takes {len(content)} bytes, more than {INDEX_BYTES_MAX}: shorten the ledger"
            )
        return content

    @classmethod
    def from_bytes(cls, content: bytes, path: str) -> CheckpointIndex:
        """Reads what `to_bytes` wrote. `path` is where it stood, for the texts and to compare.

        Raises CheckpointFormatUnknown, or CheckpointIndexUnreadable for anything but the very same bytes.
        """
        document = _parsed(content, path)
        if type(document.get("format")) is not int:
            raise CheckpointIndexUnreadable(path, "a format number", f"keys {', '.join(document)[:160]!r}")
        if document["format"] != cls.FORMAT:
            raise CheckpointFormatUnknown(path, cls.FORMAT, document["format"])
        written = document.pop("digest", None)
        if written != _digest(document):
            raise CheckpointIndexUnreadable(path, f"digest {_digest(document)} as of its text", written)
        if _canonical({**document, "digest": written}) != content:
            raise CheckpointIndexUnreadable(path, "canonical JSON", "other bytes of the same meaning")
        del document["format"]
        try:
            index = cls.model_validate_json(_canonical(document))
        except ValidationError as error:
            raise CheckpointIndexUnreadable(path, "the keys and values of an index", error) from error
        if index.path != path:
            raise CheckpointIndexUnreadable(path, "its own index", f"that of {index.path}")
        return index


def _parsed(content: bytes, path: str) -> dict[str, Any]:
    try:
        document = json.loads(content, parse_constant=_refuse)
        _canonical(document)  # refuses 1e999, which is read as infinity
    except (ValueError, RecursionError) as error:
        raise CheckpointIndexUnreadable(path, "JSON", error) from error
    if not isinstance(document, dict):
        raise CheckpointIndexUnreadable(path, "a JSON object", type(document).__name__)
    return document


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _canonical(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(document)).hexdigest()
