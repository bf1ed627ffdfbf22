"""Machines that are network namespaces of this one, on a switch, each behind a link of a limited rate."""

from __future__ import annotations

import ctypes
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.step.given import Given
from tests.bench.step.system import MakeRank, Rank

CLONE_NEWNET = 0x40000000
BURST_SECONDS = 0.002
"""What a link lets through at once: less than a frame of a payload takes, more than a call."""
QUEUE = "50ms"


class Machine:
    """A namespace, with eth0 at `address`."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address

    def command(self, *arguments: str) -> list[str]:
        """To be run in it."""
        return ["ip", "netns", "exec", self.name, *arguments]


@contextmanager
def machines(count: int, rate: str) -> Iterator[list[Machine]]:
    """So many, each with a link of `rate` bits per second in each direction, such as 1gbit; needs root."""
    token = f"sheepfold-{os.getpid()}-{secrets.token_hex(2)}"
    switch, made = f"{token}-switch", [f"{token}-{number}" for number in range(count)]
    found = [Machine(name, f"10.78.0.{number + 1}") for number, name in enumerate(made)]
    try:
        for name in (switch, *made):
            _ip("netns", "add", name)
        _ip("-n", switch, "link", "add", "bridge0", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge0", "up")
        for number, machine in enumerate(found):
            port = f"port{number}"
            cable = ("type", "veth", "peer", "name", "eth0", "netns", machine.name)
            _ip("link", "add", port, "netns", switch, *cable)
            _ip("-n", switch, "link", "set", port, "master", "bridge0", "up")
            _ip("-n", machine.name, "address", "add", f"{machine.address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", machine.name, "link", "set", device, "up")
            _limit(switch, port, rate)
            _limit(machine.name, "eth0", rate)
        yield found
    finally:
        for name in (*made, switch):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def _limit(namespace: str, device: str, rate: str) -> None:
    burst = int(bits_per_second(rate) / 8 * BURST_SECONDS)
    shape = ("tbf", "rate", rate, "burst", str(burst), "latency", QUEUE)
    _run("tc", "-n", namespace, "qdisc", "add", "dev", device, "root", *shape)


def bits_per_second(rate: str) -> float:
    return float(rate.removesuffix("gbit")) * 1e9


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}; it takes Linux, root, ip and tc")


def in_machine(
    given: Given, rank: int, workers: int, names: list[str], make: MakeRank, *arguments: Any
) -> Rank:
    """A rank whose process has moved into the namespace of its number, before it opens a socket."""
    os.environ["GLOO_SOCKET_IFNAME"] = "eth0"
    with (Path("/var/run/netns") / names[rank]).open() as namespace:
        library = ctypes.CDLL(None, use_errno=True)
        if library.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"namespace {names[rank]} cannot be entered")
    return make(given, rank, workers, *arguments)
