"""Names and connections, each with a bound in time."""

from __future__ import annotations

import queue
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

NAME_SECONDS_MAX = 5.0
CONNECT_SECONDS_MAX = 5.0


@dataclass(frozen=True, slots=True)
class Place:
    """One address of a host, as sockets take it."""

    family: socket.AddressFamily
    to: tuple[Any, ...]

    def __str__(self) -> str:
        return str(self.to[0])


def resolve(host: str, port: int, seconds_max: float = NAME_SECONDS_MAX) -> list[Place]:
    """The addresses of a host, in the order to try them. Raises OSError; TimeoutError if no answer comes."""
    answers: queue.SimpleQueue[list[Place] | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put([Place(family, to) for family, _, _, _, to in found])
        except OSError as error:
            answers.put(error)
        except UnicodeError:  # a label of more than 63 letters, or an empty one
            answers.put(socket.gaierror(socket.EAI_NONAME, "no name has this form"))

    # getaddrinfo takes no timeout: a thread that hangs in it is left behind.
    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        answer = answers.get(timeout=seconds_max)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds_max:.0f} s") from None
    if isinstance(answer, OSError):
        raise answer
    return answer


def connect(places: list[Place], seconds_max: float = CONNECT_SECONDS_MAX) -> tuple[Place, float]:
    """The first place that takes a connection, and the seconds until it did; raises the last OSError."""
    last = OSError("the name has no address")
    for place in places:
        began = time.perf_counter()
        try:
            with socket.socket(place.family, socket.SOCK_STREAM) as opened:
                opened.settimeout(seconds_max)
                opened.connect(place.to)
                return place, time.perf_counter() - began
        except OSError as error:
            last = error
    raise last
