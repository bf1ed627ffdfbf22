"""`make image-check`: the cpu image is built without a network, by buildah, and trains as the checkout does.

Linted first. Then, as the user that the chart runs it by and as one that OpenShift might choose: servers
start from the image, a worker of this checkout and one of the image make steps through them, and SIGTERM ends
them with 0. Digests are compared with those of the same jobs on servers of this checkout. One line of JSON
comes last.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.image.base import made_base
from tests.image.store import ROOT, Container, Process, Store
from tests.image.test_dockerfile import DOCKERFILE, VERSION, complaints
from tests.integration.harness import digest_of, running_fold, small_job, train

import sheepfold
from sheepfold_wire.job import Job

SHARDS = 2
CHART_USER = "10001:10001"
OPENSHIFT_USER = "1000790000:0"
IMAGE = f"sheepfold:{VERSION}"
JOBS = [small_job(f"small-{kernel}", numerics={"kernel": kernel}) for kernel in ("eager", "compiled")]
"""The compiled one proves that the image can compile."""
TOOLS = {"buildah": "buildah", "debootstrap": "debootstrap", "unshare": "util-linux"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


@contextmanager
def started(
    container: Container, user: str, logs: Path, roles: list[list[str]], **env: str
) -> Iterator[None]:
    """Each role as a process; all of them must end with 0 when they are told to."""
    processes = [
        Process(container.command(user, *role, **env), container.store.env, logs / f"{user}-{number}.log")
        for number, role in enumerate(roles)
    ]
    try:
        for process in processes:
            process.await_log(" listens on " if len(roles) > 1 else "SHEEPFOLD")
        yield
        codes = [process.terminate() for process in reversed(processes)]
        assert codes == [0] * len(roles), f"SIGTERM ended them with {codes}:\n{processes[0].log}"
    finally:
        for process in processes:
            process.close()


def trained(address: str, job: Job) -> tuple[int, str]:
    """(versions, digest) of a job after one worker has trained it to its end."""
    results = train(address, job)
    with sheepfold.Client(job.name, address=address) as client:
        version = client.digest()[0]
    assert results
    return int(version), digest_of(address, job.name)


def of_checkout() -> list[tuple[int, str]]:
    with running_fold(SHARDS) as fold:
        return [trained(fold.address, job) for job in JOBS]


def as_the_chart_runs_it(container: Container, logs: Path) -> list[tuple[int, str]]:
    """Coordinator and shards, each its own process; state and kernels under /tmp, as on a read-only root."""
    coordinator = f"127.0.0.1:{free_port()}"
    roles = [["coordinator", f"--shards={SHARDS}", f"--listen={coordinator}", "--dir=/tmp/coordinator"]]
    for index in range(SHARDS):
        own = [f"--index={index}", f"--shards={SHARDS}", f"--coordinator={coordinator}"]
        roles.append(["shard", *own, f"--dir=/tmp/shard-{index}"])
    with started(container, CHART_USER, logs, roles, HOME="/tmp", SHEEPFOLD_KERNELS="/tmp/kernels"):
        said = container.says(
            CHART_USER, "python", "/etc/sheepfold/scripts/try.py", SHEEPFOLD=coordinator, HOME="/tmp"
        )
        assert "one step was made" in said, said
        return [trained(coordinator, job) for job in JOBS]


def as_openshift_runs_it(container: Container, logs: Path) -> tuple[int, str]:
    """`sheepfold up` by a user without a name, of group 0, in the image's own home."""
    port = free_port()
    up = ["up", f"--shards={SHARDS}", f"--port={port}", "--dashboard-port=0"]
    with started(container, OPENSHIFT_USER, logs, [up]):
        return trained(f"127.0.0.1:{port}", JOBS[0])


def check_contents(container: Container) -> int:
    """Number of packages that the SBOM names: what is installed, of this version."""
    listed = json.loads(container.says(CHART_USER, "cat", "/opt/sheepfold/sbom.cdx.json"))
    assert listed["bomFormat"] == "CycloneDX"
    named = {f"{each['name']}=={each['version']}" for each in listed["components"]}
    frozen = container.says(CHART_USER, "pip", "--disable-pip-version-check", "freeze", "--all").splitlines()
    installed = {line for line in frozen if "==" in line}
    normal = [{re.sub(r"[-_.]+", "-", line).lower() for line in each} for each in (installed, named)]
    assert normal[0] == normal[1], sorted(normal[0] ^ normal[1])
    assert {line.split("==")[0] for line in installed} >= {"torch", "grpcio", "fastapi"}
    written = ROOT / "dist" / f"{IMAGE.replace(':', '-')}.cdx.json"
    assert json.loads(written.read_text()) == listed
    return len(named)


def main() -> int:
    if missing := [package for tool, package in TOOLS.items() if shutil.which(tool) is None]:
        sys.exit(f"apt-get install -y {' '.join(missing)}")
    if os.geteuid() != 0:
        sys.exit("debootstrap and buildah make root file systems here: run it as root")
    if found := complaints(DOCKERFILE):
        sys.exit(found)
    golden = of_checkout()
    with tempfile.TemporaryDirectory(prefix="sheepfold-image-") as scratch:
        store = Store(Path(scratch))
        store.take(made_base())
        began = time.monotonic()
        store.build("cpu")
        build_seconds = time.monotonic() - began
        with store.container(IMAGE) as container:
            packages = check_contents(container)
            size = subprocess.run(
                ["du", "-sb", store.buildah("mount", container.name)],
                capture_output=True,
                text=True,
                check=True,
            )
            by_chart = as_the_chart_runs_it(container, Path(scratch))
            by_openshift = as_openshift_runs_it(container, Path(scratch))
    same = sum(
        ours == theirs for ours, theirs in zip([*golden, golden[0]], [*by_chart, by_openshift], strict=True)
    )
    report = {
        "bench": "image",
        "build_seconds": round(build_seconds),
        "bytes": int(size.stdout.split()[0]),
        "packages": packages,
        "users": 2,
        "steps": sum(version for version, _ in [*by_chart, by_openshift]),
        "digests": len(JOBS) + 1,
        "equal_digests": same,
    }
    print(json.dumps(report))
    return 0 if same == len(JOBS) + 1 else 1


if __name__ == "__main__":
    sys.exit(main())
