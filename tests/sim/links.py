"""The streams between the coordinator and the shards: they break and come back, or go on one way only."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e

if TYPE_CHECKING:
    from tests.sim.hosts import ShardHost
    from tests.sim.world import World


@dataclass(slots=True)
class Stream:
    """An ordered, two-way stream; breaking it loses what is on the way."""

    epoch: int = 0
    is_up: bool = False
    last_down: float = 0.0
    """When what was sent last down to the shard arrives; nothing overtakes it."""
    last_up: float = 0.0
    stuck: str = ""
    """The direction in which nothing arrives any more before the link is replaced."""

    def begin(self, now: float) -> None:
        self.is_up, self.stuck = True, ""
        self.last_down = self.last_up = now

    def is_heard(self, epoch: int) -> bool:
        """Whether a report that was sent on that link is taken: not of one that was replaced."""
        return epoch == self.epoch


class Links:
    """Brings links up, breaks them, and carries what is said on them."""

    def __init__(self, world: World) -> None:
        self._world = world

    # --- up and down --------------------------------------------------------------------------------

    def up(self, host: ShardHost, is_resumed: bool) -> None:
        if self._world.is_coordinator_up and not host.stream.is_up:
            host.stream.begin(self._world.now)
            self._say_hello(host, is_resumed)

    def _say_hello(self, host: ShardHost, is_resumed: bool) -> None:
        name, number, shards = f"shard-{host.index}", host.incarnation, len(self._world.shards)
        hello = m.Hello(number, host.index, shards, name, "eager/cpu", 1 << 20, keeps_log=True)
        self._world.tell_coordinator(e.ShardUp(host.index, number, hello, is_resumed))

    def up_anew(self, host: ShardHost, epoch: int) -> None:
        """Another core, in the process that holds the link, is told of it."""
        if host.stream.epoch == epoch and self._world.is_coordinator_up:
            self._say_hello(host, is_resumed=False)

    def cut(self, host: ShardHost) -> None:
        host.stream.is_up = False
        host.stream.epoch += 1

    def break_off(self, host: ShardHost, chance: random.Random) -> None:
        """What is on the way is lost; the coordinator notices a moment later."""
        self._replace(host, chance, is_resumed=True)

    def process_lost(self, host: ShardHost, chance: random.Random) -> None:
        """A shard's process is gone; another one is up a moment later."""
        self._replace(host, chance, is_resumed=False)

    def _replace(
        self, host: ShardHost, chance: random.Random, is_resumed: bool, is_noticed: bool = True
    ) -> None:
        self.cut(host)
        epoch, noticed = host.stream.epoch, chance.uniform(0.0, 0.3)
        if is_noticed:
            self._world.at(noticed, self._noticed, host, epoch)
        self._world.at(noticed + chance.uniform(0.05, 1.5), self.back, host, epoch, is_resumed)

    def _noticed(self, host: ShardHost, epoch: int) -> None:
        if host.stream.epoch == epoch and not host.stream.is_up:
            self._world.tell_coordinator(e.ShardDown(host.index))

    def back(self, host: ShardHost, epoch: int, is_resumed: bool) -> None:
        if host.stream.epoch == epoch:
            self.up(host, is_resumed)

    def half_open(self, host: ShardHost) -> None:
        """One direction is dead until a keepalive ends the link; what was sent in it may arrive even later.

        Where only the shard notices, its next link comes while the coordinator believes in this one.
        """
        chance, stream, world = self._world.strikes.chance, host.stream, self._world
        seconds = chance.uniform(0.2, 3.0)
        late = world.now + seconds + chance.uniform(0.0, 3.0)
        stream.stuck = chance.choice(("up", "down"))
        if stream.stuck == "up":
            stream.last_up = late
        else:
            stream.last_down = late
        world.at(seconds, self._keepalive_ends, host, stream.epoch, chance)

    def _keepalive_ends(self, host: ShardHost, epoch: int, chance: random.Random) -> None:
        if host.stream.epoch == epoch:
            self._replace(host, chance, is_resumed=True, is_noticed=chance.random() < 0.5)

    # --- what is said -------------------------------------------------------------------------------

    def command(self, host: ShardHost, command: m.ShardCommand) -> None:
        stream, world = host.stream, self._world
        if stream.is_up:
            if stream.stuck == "down":
                world.marks.hit("command stuck in a half-open link")
            stream.last_down = max(stream.last_down, world.now + world.latency())
            world.at(stream.last_down - world.now, self._command_arrives, host, stream.epoch, command)

    def _command_arrives(self, host: ShardHost, epoch: int, command: m.ShardCommand) -> None:
        """A shard opens its next link only after it has read the one before to its end."""
        if host.stream.epoch == epoch:
            host.command(command)

    def report(self, host: ShardHost, report: m.ShardReport) -> None:
        stream, world = host.stream, self._world
        if stream.is_up:
            if stream.stuck == "up":
                world.marks.hit("report stuck in a half-open link")
            stream.last_up = max(stream.last_up, world.now + world.latency())
            world.at(
                stream.last_up - world.now, self._report_arrives, host, stream.epoch, world.process, report
            )

    def _report_arrives(self, host: ShardHost, epoch: int, process: int, report: m.ShardReport) -> None:
        if process != self._world.process:
            return
        if epoch != host.stream.epoch and host.stream.is_up:
            self._world.marks.hit("report of a replaced link")
        if host.stream.is_heard(epoch):
            self._world.tell_coordinator(e.FromShard(host.index, report))
