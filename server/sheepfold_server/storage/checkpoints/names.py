"""Names of files and folders below the checkpoint url, and what is refused as one."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sheepfold_server.storage.checkpoints.errors import CheckpointRefused
from sheepfold_wire.plan import SHARDS_MAX

TEMPORARY = "tmp-"
"""How a file begins that is not yet renamed to what it shall be."""

NUMBER_MAX = 2**63 - 1

_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
_NUMBER = r"(0|[1-9][0-9]*)"
_INDEX = re.compile(rf"INDEX-{_NUMBER}\.{_NUMBER}\.json")
_PART = re.compile(rf"{_NUMBER}/s{_NUMBER}of{_NUMBER}\.i{_NUMBER}\.[0-9a-f]{{8,16}}\.safetensors")


def check_name(what: str, name: str) -> str:
    """`name` itself. Raises CheckpointRefused for what could leave its folder."""
    if not _NAME.fullmatch(name) or name in (".", ".."):
        raise CheckpointRefused(
            f"{what} {name[:140]!r}: give 1 to 128 of A-Z a-z 0-9 . _ - and neither '.' nor '..'"
        )
    return name


def check_number(what: str, number: int) -> int:
    """`number` itself. Raises CheckpointRefused for what cannot stand in a name."""
    if type(number) is not int or not 0 <= number <= NUMBER_MAX:
        raise CheckpointRefused(f"{what} {number!r}: give a whole number from 0 to {NUMBER_MAX}")
    return number


@dataclass(frozen=True, slots=True)
class PartId:
    """One shard's share of one version, as one incarnation of the shard wrote it."""

    lineage: str
    version: int
    shard: int
    shard_count: int
    incarnation: int

    def __post_init__(self) -> None:
        check_name("lineage", self.lineage)
        check_number("version", self.version)
        check_number("incarnation", self.incarnation)
        if not 0 <= self.shard < self.shard_count <= SHARDS_MAX:
            raise CheckpointRefused(
                f"shard {self.shard} of {self.shard_count}: give 1 to {SHARDS_MAX} shards, numbered from 0"
            )

    def file(self, token: str) -> str:
        """Its file, relative to the folder of the lineage."""
        return f"{self.version}/s{self.shard}of{self.shard_count}.i{self.incarnation}.{token}.safetensors"


def index_file(version: int, term: int) -> str:
    """The index, relative to the folder of the lineage."""
    return f"INDEX-{version}.{term}.json"


def version_and_term(file: str) -> tuple[int, int] | None:
    """What `index_file` was given, or None for any other file."""
    found = _INDEX.fullmatch(file)
    return (int(found[1]), int(found[2])) if found else None


def belongs_to(file: str, version: int, shard: int, shard_count: int) -> bool:
    """Whether `file` is a name that `PartId.file` gives for these."""
    found = _PART.fullmatch(file)
    return found is not None and tuple(map(int, found.groups()[:3])) == (version, shard, shard_count)
