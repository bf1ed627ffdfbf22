"""Step-aligned checkpoints of one job, in a directory or in an object store.

    <url>/<job>/<lineage>/<version>/s<shard>of<shards>.i<incarnation>.<token>.safetensors     one per shard
    <url>/<job>/<lineage>/INDEX-<version>.<term>.json                     makes the files of a version count

The token is, in a directory, the first 8 hex digits of the file's SHA-256; in an object store, where nothing
can be renamed into place, 16 random ones, so that no write can harm a file that an index refers to.
A version without an index does not exist: a save may die at any point and leaves only what nobody reads.

Holds no state and takes no lock: any process may read; one coordinator at a time writes indices and retains.
"""

from sheepfold_server.storage.checkpoints.errors import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointFormatUnknown,
    CheckpointIndexTaken,
    CheckpointIndexUnreadable,
    CheckpointNotStored,
    CheckpointRefused,
)
from sheepfold_server.storage.checkpoints.index import CheckpointIndex, PartFile
from sheepfold_server.storage.checkpoints.names import PartId
from sheepfold_server.storage.checkpoints.store import CheckpointStore, Choice, Listing, Problem

__all__ = [
    "CheckpointCorrupt",
    "CheckpointError",
    "CheckpointFormatUnknown",
    "CheckpointIndex",
    "CheckpointIndexTaken",
    "CheckpointIndexUnreadable",
    "CheckpointNotStored",
    "CheckpointRefused",
    "CheckpointStore",
    "Choice",
    "Listing",
    "PartFile",
    "PartId",
    "Problem",
]
