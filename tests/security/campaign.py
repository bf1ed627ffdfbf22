"""More odd inputs than tests have time for: every decoder, every call by every credential, bodies of pushes.

    python -m tests.security.campaign [--inputs 120000] [--seed 1]

Servers are processes of their own. They must live, answer in our words alone, let nobody do what a credential
is not for, and grow by no more than a bound; the same holds for the decoders' process. One line of JSON comes
last.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from os import getpid
from pathlib import Path
from typing import Any

from tests.faults.footprint import sample
from tests.faults.overload import servers
from tests.faults.raw import RawWorker
from tests.integration.harness import digest_of, small_job, train
from tests.security.bodies import train_through
from tests.security.calls import CallAttack, Tally
from tests.security.decoders import attack, decoders

from sheepfold_server.shell.security import read_signer
from sheepfold_wire.job import Job

INPUTS = 120_000
OF_DECODERS, OF_CALLS = 0.6, 0.38
"""The rest are bodies."""
WARM_UP = 0.1
"""Of the inputs of a kind, before memory is looked at for the first time."""
GROWTH_MB_MAX = 64.0
THREADS = 8
BODIES_OF_A_ROUND = 10
PROCESSES = 2


def rss_mb(pid: int) -> float:
    found = sample(pid)
    assert found is not None, f"process {pid} has died"
    return found.rss_mb


def job_of(name: str, **changes: Any) -> Job:
    return small_job(name, numerics={"kernel": "eager"}, checkpoint={"every_minutes": 0}, **changes)


def attack_decoders(seed: int, count: int) -> tuple[int, list[str], float]:
    """Inputs, what went wrong, and by how many MiB this process grew; each decoder gets the same share."""
    logging.disable(logging.ERROR)  # logs that are damaged are told of, each time
    crashes: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        each = decoders(Path(directory))
        first, share = 0.0, count // len(each)
        for part, of_it in enumerate((WARM_UP, 1.0 - WARM_UP)):
            for decoder in each:
                crashes += map(str, attack(decoder, 2 * seed + part, int(share * of_it)))
            first = first or rss_mb(getpid())
        return share * len(each), crashes, rss_mb(getpid()) - first


def attack_calls(seed: int, count: int) -> tuple[Tally, dict[str, float], bool]:
    """And by how much the servers grew, and whether a job that was under way had the bits of one before."""
    with servers(is_secured=True) as supervisor:
        address = supervisor.connection.secret
        pids = {"coordinator": supervisor.coordinator.pid, "shard": supervisor.shards[0].pid}
        train(address, job_of("small"))
        train(address, job_of("between"), until_step=2)
        signer = read_signer(supervisor.config.tls / "token.key")
        one = CallAttack(supervisor.connection, supervisor.shards[0].address, signer)
        tally, first = Tally(), dict[str, float]()
        with ThreadPoolExecutor(THREADS) as pool:
            for part, of_it in (("warm-up", WARM_UP), ("rest", 1.0 - WARM_UP)):
                seeds = [f"{seed} {part} {thread}" for thread in range(THREADS)]
                shares = [int(count * of_it) // THREADS] * THREADS
                for found in pool.map(one.run, seeds, shares):
                    tally.take(found)
                first = first or {name: rss_mb(pid) for name, pid in pids.items()}
        grown = {name: rss_mb(pid) - first[name] for name, pid in pids.items()}
        train(address, job_of("between"))
        return tally, grown, digest_of(address, "between") == digest_of(address, "small")


def attack_bodies(seed: int, count: int) -> tuple[int, list[str], bool]:
    """Inputs, what went wrong, and whether the job had the bits of one that was not attacked."""
    changes: dict[str, Any] = {"batch": {"samples": 8, "slot_samples": 4}, "stop": {"steps": 10}}
    leases = 1 + 2 * changes["stop"]["steps"]
    with servers(is_secured=False) as supervisor:
        digests, inputs, wrong = [], 0, list[str]()
        for name, rounds in (("calm", 0), ("bodies", -(-count // (leases * BODIES_OF_A_ROUND)))):
            with closing(RawWorker(supervisor.connection.secret, job_of(name, **changes))) as worker:
                found = train_through(worker, f"{seed}", rounds)
            inputs += found.inputs
            wrong += [*found.crashes, *(f"taken: {each}" for each in found.taken)]
            digests.append(digest_of(supervisor.connection.secret, name))
        return inputs, wrong, digests[0] == digests[1]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=INPUTS)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    began = time.monotonic()
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        share = int(given.inputs * OF_DECODERS) // PROCESSES
        decoding = [pool.submit(attack_decoders, given.seed + part, share) for part in range(PROCESSES)]
        decoded = [future.result() for future in decoding]
    calls, grown, calls_same = attack_calls(given.seed, int(given.inputs * OF_CALLS))
    bodies, of_bodies, bodies_same = attack_bodies(
        given.seed, int(given.inputs * (1.0 - OF_DECODERS - OF_CALLS))
    )
    grown["decoders"] = max(of_process for _, _, of_process in decoded)
    crashes = [*(each for _, found, _ in decoded for each in found), *calls.crashes, *of_bodies]
    for each, times in Counter(crashes + calls.told + calls.wrongly_allowed).most_common(20):
        print(f"{times} times: {each}")
    line = {
        "bench": "security",
        "inputs": sum(count for count, _, _ in decoded) + calls.inputs + bodies,
        "decoded": sum(count for count, _, _ in decoded),
        "calls": dict(calls.outcomes),
        "bodies": bodies,
        "crashes": len(crashes),
        "wrongly_allowed": len(calls.wrongly_allowed),
        "told_of_insides": len(calls.told),
        "same_bits": calls_same and bodies_same,
        "grown_mb": {name: round(megabytes, 1) for name, megabytes in grown.items()},
        "grown_mb_max": GROWTH_MB_MAX,
        "seconds": round(time.monotonic() - began, 1),
    }
    is_red = (
        bool(crashes or calls.wrongly_allowed or calls.told)
        or not line["same_bits"]
        or max(grown.values()) > GROWTH_MB_MAX
    )
    print(json.dumps(line))
    return int(is_red)


if __name__ == "__main__":
    sys.exit(main())
