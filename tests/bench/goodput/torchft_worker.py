"""A replica of torchft's, or its lighthouse; run in an environment that has torchft.

python -m tests.bench.goodput.torchft_worker lighthouse JOIN_MS HEARTBEAT_MS REPLICAS_MIN
... replica FOLDER COMPUTE_SECONDS WAIT_SECONDS LIGHTHOUSE NUMBER WORKERS MODE

MODE `spares`: the global batch is constant, those beyond WORKERS give zeros until they are needed.
MODE `dynamic`: a step is of whoever is there, and its batch of their slots.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import torch
from tests.bench.goodput.training import Progress, Training, computed

CONNECT_TIMEOUT, QUORUM_TIMEOUT = timedelta(seconds=10), timedelta(seconds=60)


def lighthouse(join_ms: str, heartbeat_ms: str, replicas_min: str) -> None:
    """Tells its port and the version; ends with its standard input."""
    from importlib.metadata import version

    from torchft.coordination import LighthouseServer

    server = LighthouseServer(
        bind="127.0.0.1:0",
        min_replicas=int(replicas_min),
        join_timeout_ms=int(join_ms),
        quorum_tick_ms=20,
        heartbeat_timeout_ms=int(heartbeat_ms),
    )
    print(server.address().rpartition(":")[2], version("torchft"), flush=True)
    sys.stdin.read()
    server.shutdown()


def replica(
    folder: str,
    compute_seconds: str,
    wait_seconds: str,
    lighthouse: str,
    number: str,
    workers: str,
    mode: str,
) -> None:
    """`wait_seconds`: of a collective. Who is no neighbour of a dead replica notices only by it."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torchft import Manager, ProcessGroupGloo
    from torchft.manager import WorldSizeMode

    torch.set_num_threads(1)
    training, progress = Training(), Progress(Path(folder, "progress"))
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    is_dynamic, timeout = mode == "dynamic", timedelta(seconds=float(wait_seconds))
    manager = Manager(
        pg=ProcessGroupGloo(timeout=timeout),
        load_state_dict=training.load_state_dict,
        state_dict=training.state_dict,
        min_replica_size=1 if is_dynamic else int(workers),
        world_size_mode=WorldSizeMode.DYNAMIC if is_dynamic else WorldSizeMode.FIXED_WITH_SPARES,
        timeout=timeout,
        quorum_timeout=QUORUM_TIMEOUT,
        connect_timeout=CONNECT_TIMEOUT,
        rank=0,
        world_size=1,
        store_addr="127.0.0.1",
        store_port=store.port,
        lighthouse_addr=lighthouse,
        replica_id=f"replica_{number}",
        hostname="127.0.0.1",
        init_sync=False,
    )
    while True:
        manager.start_quorum()
        gradient = computed(float(compute_seconds))
        manager.allreduce(gradient).wait()
        if manager.should_commit():
            training.apply(gradient)
            progress.tell(manager.current_step(), manager.num_participants() / int(workers))
        else:
            progress.tell(manager.current_step(), 1 / int(workers), is_counted=False)


if __name__ == "__main__":
    {"lighthouse": lighthouse, "replica": replica}[sys.argv[1]](*sys.argv[2:])
