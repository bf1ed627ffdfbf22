"""What can be wrong with a checkpoint.

CheckpointError
├── CheckpointRefused            the caller's request cannot be; nothing was touched
├── CheckpointNotStored          the store did not keep what was written; older checkpoints stand
│   └── CheckpointIndexTaken     another checkpoint of the same version and term is there
├── CheckpointCorrupt            a file is not what its index promises; take an older checkpoint
└── CheckpointIndexUnreadable    an index that cannot be relied on; take an older checkpoint
    └── CheckpointFormatUnknown  an index of another version of this program
"""

from __future__ import annotations


class CheckpointError(Exception):
    """Any failure of this package that is not the store's own OSError."""


class CheckpointRefused(CheckpointError, ValueError):
    """A name, a number or an array that no checkpoint can have. The text says what to give instead."""


class CheckpointNotStored(CheckpointError):
    """A write failed or did not read back as meant. Saving again is safe."""

    def __init__(self, file: str, expected: object, found: object) -> None:
        super().__init__(
            f"{file} was not stored: expected {expected}, found {found}; older checkpoints are untouched, "
            "check the space and the permissions of the checkpoint url and save again"
        )


class CheckpointIndexTaken(CheckpointNotStored):
    """Another checkpoint has this version and term: a second coordinator believes in the same term."""

    def __init__(self, file: str, expected: object, found: object) -> None:
        CheckpointError.__init__(
            self,
            f"{file} was not stored: expected {expected}, found {found}, which was left as it is; "
            "end the other coordinator of this job, or save a later version",
        )


class CheckpointCorrupt(CheckpointError):
    """A file that is missing, cut, changed, or holds what none may hold. Reading again will not help."""

    def __init__(self, file: str, expected: object, found: object) -> None:
        super().__init__(
            f"{file} is corrupt: expected {expected}, found {found}; "
            "restore an older checkpoint, or bring this file back from a copy"
        )


class CheckpointIndexUnreadable(CheckpointError):
    """An index that is none, is changed, or stands under another's name. It is kept for a person to see."""

    def __init__(self, file: str, expected: object, found: object) -> None:
        super().__init__(
            f"{file} cannot be used: expected {expected}, found {found}; "
            "restore an older checkpoint, or bring this index back from a copy"
        )


class CheckpointFormatUnknown(CheckpointIndexUnreadable):
    """An index that another version of this program wrote."""

    def __init__(self, file: str, known: int, found: object) -> None:
        CheckpointError.__init__(
            self,
            f"{file} cannot be used: expected format {known}, found format {found!r}; "
            "read it with the version of sheepfold that wrote it, or, if that is this one, restore an older "
            "checkpoint",
        )
