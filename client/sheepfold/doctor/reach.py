"""What it means when a name, a port or a call does not answer, and what to do."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from ipaddress import ip_address

from sheepfold.doctor.results import CheckResult, failed, milliseconds, ok

LISTEN_OPTIONS = "`sheepfold up --listen ADDRESS` or `sheepfold shard --advertise HOST:PORT`"

_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH)
_RESOLVER_IS_SILENT = (socket.EAI_AGAIN, socket.EAI_FAIL)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server as its clients know it. `shard` is empty for the coordinator, else e.g. `shard 0`."""

    host: str
    port: int
    shard: str = ""

    @classmethod
    def of(cls, target: str, shard: str = "") -> Endpoint:
        """From HOST:PORT, an IPv6 host in brackets; raises ValueError."""
        host, _, port = target.rpartition(":")
        if not host:
            raise ValueError(f"{target!r} is no HOST:PORT")
        return cls(host.strip("[]"), int(port), shard)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def check(self, what: str) -> str:
        """Name of a check of this endpoint."""
        return f"{self.shard} {what}".strip()

    @property
    def is_number(self) -> bool:
        try:
            ip_address(self.host.partition("%")[0])
        except ValueError:
            return False
        return True

    @property
    def is_here(self) -> bool:
        """Whether the address means the machine that uses it, whichever it is."""
        if not self.is_number:
            return self.host == "localhost"
        found = ip_address(self.host.partition("%")[0])
        return found.is_loopback or found.is_unspecified


def name_found(endpoint: Endpoint, addresses: list[str], seconds: float) -> CheckResult:
    if endpoint.is_number:
        return ok(endpoint.check("DNS"), f"{endpoint.host} is an address, no name to look up")
    shown = ", ".join(dict.fromkeys(addresses))
    return ok(endpoint.check("DNS"), f"{endpoint.host} is {shown}, found in {milliseconds(seconds)}")


def name_missing(endpoint: Endpoint, error: OSError) -> CheckResult:
    is_silent = isinstance(error, TimeoutError) or error.errno in _RESOLVER_IS_SILENT
    remedy = (
        "The name server does not answer: check /etc/resolv.conf, or use the number of the server, e.g. "
        "10.0.0.5"
        if is_silent
        else "Correct the name, or use the number of the server, e.g. 10.0.0.5"
    )
    if endpoint.shard:
        remedy += f"; what a shard is called is set by {LISTEN_OPTIONS}"
    return failed(endpoint.check("DNS"), f"{endpoint.host} has no address ({_reason(error)})", remedy)


def connected(endpoint: Endpoint, address: str, seconds: float) -> CheckResult:
    via = "" if address == endpoint.host else f" at {address}"
    return ok(endpoint.check("TCP"), f"{endpoint} takes connections{via}, in {milliseconds(seconds)}")


def not_connected(endpoint: Endpoint, error: OSError) -> CheckResult:
    name = endpoint.check("TCP")
    if isinstance(error, ConnectionRefusedError):
        return failed(name, f"nothing listens at {endpoint}", _who_should_listen(endpoint))
    if error.errno in _NO_ROUTE:
        text = f"no way leads to {endpoint} ({_reason(error)})"
        return failed(name, text, "Check that both machines are in one network, and the address for a typo")
    if isinstance(error, TimeoutError):
        return failed(name, f"{endpoint} does not answer (timed out)", _open_port(endpoint))
    return failed(name, f"no connection to {endpoint} ({_reason(error)})", _who_should_listen(endpoint))


def _who_should_listen(endpoint: Endpoint) -> str:
    if endpoint.shard and endpoint.is_here:
        return (
            "Workers are told an address that only the shard's own machine has: give another with "
            f"{LISTEN_OPTIONS}"
        )
    if endpoint.shard:
        return f"See whether the shard still runs, and whether it is at that address, set by {LISTEN_OPTIONS}"
    if endpoint.is_here:
        return (
            "Run `sheepfold up` on this machine, or name the machine where it runs: "
            "`export SHEEPFOLD=...`, the last line that it prints"
        )
    return (
        f"Run `sheepfold up --listen {endpoint.host}` there (without --listen only that machine "
        "itself can connect), and compare the port with the last line that it prints"
    )


def _open_port(endpoint: Endpoint) -> str:
    remedy = (
        f"Open TCP port {endpoint.port} of {endpoint.host} in the firewalls between, or correct the address"
    )
    if endpoint.shard:
        return f"{remedy}; `sheepfold up` takes free ports for shards, `sheepfold shard --listen` fixes one"
    return remedy


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
