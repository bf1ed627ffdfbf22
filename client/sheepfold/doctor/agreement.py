"""Whether this machine and the servers' agree on the time and on the version of sheepfold."""

from __future__ import annotations

from sheepfold.doctor.results import CheckResult, milliseconds, ok, skipped, warning

CLOCK, SERVER_VERSION = "clock", "server version"
SKEW_SECONDS_MAX = 2.0
"""Leases do not depend on clocks. Logs of two machines are read side by side, and certificates have dates."""


def check_clock(server_time: float, before: float, after: float) -> CheckResult:
    """`server_time` was read between `before` and `after`, which this machine read; Unix seconds."""
    if not server_time:
        return skipped(CLOCK, "a server that tells its time, of a newer version")
    skew, unsure = server_time - (before + after) / 2, (after - before) / 2
    if abs(skew) <= max(SKEW_SECONDS_MAX, unsure):
        text = f"{milliseconds(abs(skew))} from the coordinator's, give or take {milliseconds(unsure)}"
        return ok(CLOCK, text)
    side = "behind" if skew > 0 else "ahead of"
    return warning(
        CLOCK,
        f"{abs(skew):,.1f} s {side} the coordinator's",
        "Have chrony or systemd-timesyncd set both clocks: logs do not fit together, and a certificate may "
        "count as expired or not yet valid",
    )


def check_server_version(theirs: str, mine: str | None) -> CheckResult:
    """`mine`: None where the client runs from a source tree."""
    if not theirs:
        return skipped(SERVER_VERSION, "a server that tells its version, a newer one")
    if mine is None or theirs == mine:
        return ok(SERVER_VERSION, theirs + (", as here" if mine else ""))
    remedy = f"Install the same here: `pip install sheepfold=={theirs}`"
    return warning(SERVER_VERSION, f"{theirs}, here {mine}", remedy)
