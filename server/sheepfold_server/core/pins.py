"""Pins: versions that readers keep served beyond their age, for a time and within a budget."""

from __future__ import annotations

import sheepfold_wire.messages as m
from sheepfold_wire.errors import BadConfig, NotReady, Overloaded
from sheepfold_wire.ids import NOTHING_LOADED

PIN_SECONDS_MAX = 86_400.0
PINS_MAX = 1024


class Pins:
    """Which versions are pinned, by the names of the pins, and until when."""

    def __init__(self) -> None:
        self._pins: dict[str, tuple[int, float]] = {}

    @property
    def versions(self) -> tuple[int, ...]:
        """Pinned versions, each once, oldest first."""
        return tuple(sorted({version for version, _ in self._pins.values()}))

    def ask(self, request: m.PinRequest, newest: int, now: float, versions_max: int) -> m.PinReply:
        """Pin the newest version, or end the pin. Raises BadConfig, NotReady, Overloaded."""
        if not 0 <= request.seconds <= PIN_SECONDS_MAX:
            raise BadConfig(f"pin of {request.seconds:g} s: give 0 (ends it) to {PIN_SECONDS_MAX:g} s")
        if request.seconds == 0:
            self._pins.pop(request.pin, None)
            return m.PinReply(NOTHING_LOADED)
        if newest == NOTHING_LOADED:
            raise NotReady("the job has no version yet; pin again once it is initialised")
        others = {name: pin for name, pin in self._pins.items() if name != request.pin}
        pinned = {version for version, _ in others.values()} | {newest}
        if len(pinned) > versions_max or len(others) >= PINS_MAX:
            raise Overloaded(
                f"versions {', '.join(map(str, sorted(pinned - {newest})))} are pinned, which is all that "
                f"serve.pinned_versions = {versions_max} allows; end a pin, or raise it in the job file"
            )
        self._pins = {**others, request.pin: (newest, now + request.seconds)}
        return m.PinReply(newest)

    def expire(self, now: float) -> None:
        self._pins = {name: pin for name, pin in self._pins.items() if pin[1] > now}
