"""What stands in coordinator.proto: how a caller gets in."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class AdmitRequest:
    """Changes a join token, which comes as the call's credential, for a pass."""


@dataclass(frozen=True, slots=True)
class AdmitReply:
    """`token` goes with further calls for `seconds`; empty: this server asks for none."""

    token: str = field(repr=False)
    seconds: float = 0.0
