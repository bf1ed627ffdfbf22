"""Which shard processes a coordinator takes: one for each shard, of one numeric fingerprint and history."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import sheepfold_wire.messages as m
from sheepfold_wire.errors import BadConfig, NotReady, NumericsMismatch, StaleIncarnation

Send = Callable[[m.ShardCommand], None]


@dataclass(slots=True)
class LinkState:
    """The newest link of a shard."""

    incarnation: int
    hello: m.Hello
    send: Send
    is_up: bool = True


def check_hello(hello: m.Hello, shard_count: int, links: Mapping[int, LinkState], newest: int) -> None:
    """`newest`: incarnation of the shard. Raises BadConfig, NumericsMismatch, StaleIncarnation, NotReady."""
    if hello.shard_count != shard_count or not 0 <= hello.shard < shard_count:
        raise BadConfig(
            f"shard {hello.shard} of {hello.shard_count} does not fit here: this coordinator has "
            f"{shard_count} shards, numbered from 0; start it with the same --shards"
        )
    _check_numerics(hello, links)
    _check_process(hello, links.get(hello.shard), newest)


def _check_process(hello: m.Hello, known: LinkState | None, newest: int) -> None:
    """One process is one shard: no second one beside it, none that served another coordinator."""
    if hello.incarnation and hello.incarnation != newest:
        raise StaleIncarnation(
            f"FENCED: shard {hello.shard} at {hello.address} is incarnation {hello.incarnation}, the "
            f"newest is {newest}: another process has taken its place, or it served another coordinator; "
            "stop it"
        )
    if not hello.incarnation and known is not None and known.is_up:
        raise NotReady(
            f"shard {hello.shard} is served by a process at {known.hello.address} already; stop that one "
            "first, or give this one another --index"
        )


def _check_numerics(hello: m.Hello, links: Mapping[int, LinkState]) -> None:
    """Bits are promised within one numeric fingerprint only; the kernel is the job's own choice."""
    for shard, link in links.items():
        if shard != hello.shard and link.hello.numeric_fingerprint != hello.numeric_fingerprint:
            raise NumericsMismatch(
                f"shard {hello.shard} computes with {hello.numeric_fingerprint}, shard {shard} with "
                f"{link.hello.numeric_fingerprint}; give all shards the same device type, processor "
                "family and torch version"
            )
