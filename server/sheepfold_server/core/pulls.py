"""Pulls that wait for a version, and digests that wait for the end of a step."""

from __future__ import annotations

from collections.abc import Iterable

from sheepfold_server.core.events import ComputeDigest, RefusePull, ServePull, ShardEffect
from sheepfold_wire.errors import VersionGone


class Pulls:
    """Every pull is one version, pinned when it is answered."""

    def __init__(self) -> None:
        self.oldest = 0
        """Oldest version that is still encoded, but for pinned ones."""
        self.kept: frozenset[int] = frozenset()
        """Pinned versions that are still encoded."""
        self._waiting: dict[int, int] = {}
        self._digests: list[int] = []

    def keep(self, versions: Iterable[int]) -> None:
        """All that are pinned now; what is gone already stays gone."""
        self.kept = frozenset(v for v in versions if v >= self.oldest or v in self.kept)

    def ask(self, token: int, version: int | None, newest: int) -> list[ShardEffect]:
        """Serve, refuse, or remember a pull; `version` None is the newest committed one."""
        if version is None:
            version = max(0, newest)
        if version > newest:
            self._waiting[token] = version
            return []
        if version < self.oldest and version not in self.kept:
            pinned = "".join(f"{kept}, " for kept in sorted(self.kept) if kept < self.oldest)
            served = f"{pinned}{self.oldest} to {newest} are"
            return [
                RefusePull(
                    token, VersionGone(f"version {version} is no longer served, {served}; pull the newest")
                )
            ]
        return [ServePull(token, version)]

    def forget(self, token: int) -> None:
        self._waiting.pop(token, None)

    def ask_digest(self, token: int, newest: int, is_applying: bool) -> list[ShardEffect]:
        """Digests are taken between steps only: within one, moments are ahead of weights."""
        if is_applying or newest < 0:
            self._digests.append(token)
            return []
        return [ComputeDigest(token, newest)]

    def applied(self, newest: int, is_applying: bool) -> list[ShardEffect]:
        """A version became visible: answer those who waited for it."""
        ready = [(token, version) for token, version in self._waiting.items() if version <= newest]
        effects: list[ShardEffect] = []
        for token, version in ready:
            del self._waiting[token]
            effects.extend(self.ask(token, version, newest))
        if not is_applying:
            effects.extend(ComputeDigest(token, newest) for token in self._digests)
            self._digests.clear()
        return effects
