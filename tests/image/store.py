"""Images and containers by buildah, all of it below one folder: the system's configuration is not read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BASE = "docker.io/library/debian:bookworm-slim"
"""The whole name of the Dockerfile's default."""
SECONDS_MAX = 1200
STOP_SECONDS_MAX = 30


class Store:
    def __init__(self, folder: Path) -> None:
        home = folder / "home"
        settings = home / ".config" / "containers"
        settings.mkdir(parents=True)
        (settings / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        storage = folder / "storage.conf"
        paths = {"graphroot": folder / "graph", "runroot": folder / "run"}
        lines = [f"{key} = {json.dumps(str(path))}" for key, path in paths.items()]
        storage.write_text("\n".join(["[storage]", 'driver = "vfs"', *lines, ""]))
        self.env = os.environ | {
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / ".config"),
            "CONTAINERS_STORAGE_CONF": str(storage),
            "BUILDAH_ISOLATION": "chroot",
            "DOCKER_HOST": "unix:///nonexistent",  # buildah's turn
        }

    def buildah(self, *arguments: str | Path) -> str:
        return self.ran(["buildah", *map(str, arguments)])

    def ran(self, command: list[str]) -> str:
        """What a command prints; raises RuntimeError with its last words."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=SECONDS_MAX)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
        return done.stdout.strip()

    def take(self, archive: Path) -> None:
        """Have a root file system as the Dockerfile's base."""
        container = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", container, archive, "/")
        self.buildah("commit", "--quiet", container, BASE)
        self.buildah("rm", container)

    def build(self, target: str) -> None:
        """By the script that `make image` runs, where there is no network at all."""
        self.ran(["unshare", "--net", str(ROOT / "deploy/docker/build.sh"), target, "--pull-never"])

    @contextmanager
    def container(self, image: str) -> Iterator[Container]:
        name = self.buildah("from", "--pull-never", image)
        try:
            yield Container(self, name)
        finally:
            self.buildah("rm", name)


class Container:
    """A root file system made of an image, in which processes run as they would from it."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name

    @property
    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.store.buildah("inspect", self.name))["Docker"]["config"]
        return found

    def command(self, user: str, *words: str | Path, **env: str) -> list[str]:
        """The image's entrypoint with these words, for buildah."""
        return self._run(user, env, [*self.config["Entrypoint"], *map(str, words)])

    def says(self, user: str, *words: str | Path, **env: str) -> str:
        """What another program in the image prints; raises RuntimeError."""
        return self.store.ran(self._run(user, env, list(map(str, words))))

    def _run(self, user: str, env: dict[str, str], words: list[str]) -> list[str]:
        given = [f"--env={key}={value}" for key, value in env.items()]
        scripts = f"{ROOT / 'deploy/helm/sheepfold/files'}:/etc/sheepfold/scripts:ro"
        return ["buildah", "run", f"--user={user}", f"--volume={scripts}", *given, self.name, "--", *words]


class Process:
    """One that serves, until it is told to stop."""

    def __init__(self, command: list[str], env: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as file:
            self._buildah = subprocess.Popen(command, env=env, stdout=file, stderr=file)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def await_log(self, words: str, seconds: float = 120.0) -> None:
        """Raises AssertionError with the log if they are not written, or the process ends."""
        end = time.monotonic() + seconds
        while words not in self.log:
            assert self._buildah.poll() is None, f"ended before it wrote {words!r}:\n{self.log}"
            assert time.monotonic() < end, f"not within {seconds:.0f} s: {words!r} in\n{self.log}"
            time.sleep(0.1)

    def terminate(self) -> int:
        """SIGTERM to what runs in the container, as a kubelet sends it; returns the exit code."""
        os.kill(_entrypoint_of(self._buildah.pid), signal.SIGTERM)
        return self._buildah.wait(STOP_SECONDS_MAX)

    def close(self) -> None:
        if self._buildah.poll() is None:
            os.kill(_entrypoint_of(self._buildah.pid), signal.SIGKILL)
            self._buildah.wait(STOP_SECONDS_MAX)


def _entrypoint_of(pid: int) -> int:
    """The process of the image, below those of buildah's own."""
    while Path(f"/proc/{pid}/comm").read_text().startswith(("buildah", "memfd:buildah")):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
        if not children:
            break
        pid = children[0]
    return pid
