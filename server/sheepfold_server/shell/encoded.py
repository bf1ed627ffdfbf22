"""The encoded copies of the versions that one job's shard serves.

A copy in fp32 is as large as the weights. While a version is the newest they are the copy: one is made once
somebody asks for it, and before they are written over if the version is served longer.
"""

from __future__ import annotations

import threading

from sheepfold_server.optim.export import reencoded
from sheepfold_server.optim.state import ShardTensors
from sheepfold_wire.codecs import Codec
from sheepfold_wire.errors import VersionGone
from sheepfold_wire.frames import Buffer
from sheepfold_wire.manifest import ROW_ELEMENTS


class EncodedVersions:
    """Copies by version and codec. `exact`, `asked_for` and `overwrite` are the kernel thread's."""

    def __init__(self, tensors: ShardTensors, open_steps: int) -> None:
        """With more than one open step, versions are served beside newer ones."""
        self._tensors = tensors
        self._lock = threading.Lock()
        self._copies: dict[tuple[int, Codec], Buffer] = {}
        self._codecs = {Codec.FP32} if open_steps > 1 else set[Codec]()
        self._pinned: frozenset[int] = frozenset()

    @property
    def codecs(self) -> tuple[Codec, ...]:
        """In which every new version is encoded as it is made: those that were asked for."""
        with self._lock:
            return tuple(sorted(self._codecs, key=list(Codec).index))

    def keep(self, version: int, made: dict[Codec, Buffer]) -> None:
        with self._lock:
            self._copies.update({(version, codec): payload for codec, payload in made.items()})

    def find(self, version: int, codec: Codec) -> Buffer | None:
        with self._lock:
            return self._copies.get((version, codec))

    def carry_over(self, step: int) -> None:
        """A skipped step's version has the weights of the one before."""
        with self._lock:
            kept = {codec: payload for (v, codec), payload in self._copies.items() if v == step}
            self._copies.update({(step + 1, codec): payload for codec, payload in kept.items()})

    def retire(self, oldest: int, pinned: frozenset[int]) -> None:
        with self._lock:
            self._pinned = pinned
            self._copies = {
                key: payload for key, payload in self._copies.items() if key[0] >= oldest or key[0] in pinned
            }

    def exact(self, version: int, newest: int) -> Buffer | None:
        """Its fp32 copy, made now if `newest` is the version; None if there is none any more."""
        found = self.find(version, Codec.FP32)
        if found is None and version == newest:
            found = self._tensors.encoded(Codec.FP32)
            self.keep(version, {Codec.FP32: found})
        return found

    def asked_for(self, version: int, codec: Codec, newest: int) -> Buffer:
        """In a codec that nobody asked for yet, and that comes with every version from here on.

        Raises VersionGone.
        """
        with self._lock:
            self._codecs.add(codec)
        exact = self.exact(version, newest)
        if exact is None:
            raise VersionGone(
                f"version {version} was not asked for in {codec.value} before version {newest} was made of "
                "it; pull the newest"
            )
        if codec is Codec.FP32:
            return exact
        return reencoded(exact, self._tensors.layout.rows * ROW_ELEMENTS, codec)

    def overwrite(self, newest: int) -> None:
        """Before the weights of the newest version change: a copy of them if it is pinned."""
        if newest in self._pinned:
            self.exact(newest, newest)
