"""Runs the pods of a rendering as processes here, with their own commands, environment, files and probes.

What a cluster would give is replaced in their texts, and nothing else: names and addresses of pods become
ports on 127.0.0.1, paths of mounts become folders, `$(NAME)` its value. Containers besides the first, limits
and policies are not there.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.chart.rendering import NAMESPACE, Object, of_kind, pods

ReadSecret = Callable[[str], dict[str, bytes]]
PROBE_SECONDS = 0.5
READY_SECONDS_MAX = 120.0
OWN_HOSTS = ("0.0.0.0", "127.0.0.1")
ENDPOINT = re.compile(r"(?P<host>[A-Za-z0-9.-]+):(?P<port>7070|7071|7072|7073|8070)\b")


class Node:
    """All pods of a release, with their disks and ports."""

    def __init__(self, folder: Path, objects: list[Object], read_secret: ReadSecret) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.read_secret = folder, read_secret
        self.configs = {each["metadata"]["name"]: each["data"] for each in of_kind(objects, "ConfigMap")}
        self._ports: dict[tuple[str, int], int] = {}
        self._pods = dict(pods(objects))
        self.running: dict[str, Pod] = {}
        for owner in of_kind(objects, "StatefulSet", "Deployment"):
            self._place(owner)

    def _place(self, owner: Object) -> None:
        kind, name, template = owner["kind"], owner["metadata"]["name"], owner["spec"]["template"]
        for ordinal in range(owner["spec"]["replicas"]):
            pod_name = f"{name}-{ordinal}" if kind == "StatefulSet" else name
            labels = template["metadata"]["labels"] | {"apps.kubernetes.io/pod-index": str(ordinal)}
            claims = {
                each["metadata"]["name"]: pod_name for each in owner["spec"].get("volumeClaimTemplates", [])
            }
            self.running[pod_name] = Pod(self, pod_name, template["spec"], labels, claims)

    def once(self, owner: str, name: str) -> Pod:
        """A pod that runs to its end, of an object such as Job/fold-sheepfold-job."""
        pod = self._pods[owner]
        return Pod(self, name, pod["spec"], pod["metadata"]["labels"], {})

    def port(self, pod: str, port: int) -> int:
        """Where on 127.0.0.1 a port of a pod is."""
        if (pod, port) not in self._ports:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self._ports[pod, port] = free.getsockname()[1]
        return self._ports[pod, port]

    def with_local_addresses(self, text: str, pod: str = "") -> str:
        """`pod`: whose own address 0.0.0.0 is."""

        def local(match: re.Match[str]) -> str:
            host = pod if match["host"] in OWN_HOSTS else match["host"].partition(".")[0]
            return f"127.0.0.1:{self.port(host, int(match['port']))}"

        return ENDPOINT.sub(local, text)

    def close(self) -> None:
        for pod in self.running.values():
            pod.kill()


class Pod:
    """Its first container. It may be started again, with the disks it had."""

    def __init__(
        self, node: Node, name: str, spec: Object, labels: dict[str, str], claims: dict[str, str]
    ) -> None:
        self.name, self.spec, self._node, self._labels = name, spec, node, labels
        self._claims = claims
        self._container = spec["containers"][0]
        self._log = node.folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._mounts: dict[str, Path] = {}
        self._env: dict[str, str] = {}

    # --- as a kubelet sees it --------------------------------------------------------------------------

    def start(self) -> None:
        self._mounts = {mount["mountPath"]: self._volume(mount["name"]) for mount in self._mount_list}
        self._env = {}
        for variable in self._container.get("env", []):
            self._env[variable["name"]] = self._local(self._value_of(variable))
        words = self._container["command"] + self._container.get("args", [])
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(words), env=self._environment, stdout=log, stderr=log, start_new_session=True
            )

    def await_ready(self) -> None:
        """By the startup probe, then the readiness probe."""
        self.await_probe("startupProbe")
        self.await_probe("readinessProbe")

    def await_probe(self, probe: str) -> None:
        """Raises AssertionError with the log if the process ends, or never answers."""
        end = time.monotonic() + READY_SECONDS_MAX
        while not self.answers(probe):
            assert self._process is not None
            assert self._process.poll() is None, f"{self.name} ended:\n{self.log}"
            assert time.monotonic() < end, f"{self.name}: {probe} fails:\n{self.log}"
            time.sleep(PROBE_SECONDS)  # between two probes, as a kubelet does

    def answers(self, probe: str) -> bool:
        asked = self._container[probe]
        seconds = asked.get("timeoutSeconds", 1)
        if "httpGet" in asked:
            return self._answers_http(asked["httpGet"])
        port = self._node.port(self.name, asked["grpc"]["port"])
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            request = health_pb2.HealthCheckRequest(service=asked["grpc"]["service"])
            try:
                reply = health_pb2_grpc.HealthStub(channel).Check(request, timeout=seconds)
            except grpc.RpcError:
                return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    def terminate(self) -> int:
        """SIGTERM and the grace period of the pod; returns the exit code. Raises TimeoutExpired."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(self.spec["terminationGracePeriodSeconds"])

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def run(self) -> int:
        """From start to end; returns the exit code."""
        self.start()
        assert self._process is not None
        return self._process.wait(READY_SECONDS_MAX)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]

    # --- what a cluster gives --------------------------------------------------------------------------

    @property
    def _mount_list(self) -> list[Object]:
        mounts: list[Object] = self._container["volumeMounts"]
        return mounts

    @property
    def _environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
        inherited = {"PATH": path, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        return inherited | self._env

    def _value_of(self, variable: Object) -> str:
        if "value" in variable:
            return str(variable["value"])
        if "resourceFieldRef" in variable["valueFrom"]:
            kind, _, resource = variable["valueFrom"]["resourceFieldRef"]["resource"].partition(".")
            return str(math.ceil(cores(self._container["resources"][kind][resource])))
        path = variable["valueFrom"]["fieldRef"]["fieldPath"]
        if label := re.fullmatch(r"metadata\.labels\['(.+)'\]", path):
            return self._labels[label[1]]
        return {"metadata.name": self.name, "metadata.namespace": NAMESPACE}[path]

    def _command(self, words: list[str]) -> list[str]:
        return [self._local(word) for word in words]

    def _local(self, text: str) -> str:
        expanded = re.sub(r"\$\((\w+)\)", lambda match: self._env[match[1]], text)
        paths = "|".join(sorted(map(re.escape, self._mounts), key=len, reverse=True))
        inside = re.sub(rf"(?<![\w./-])({paths})(?=/|$)", lambda match: str(self._mounts[match[1]]), expanded)
        return self._node.with_local_addresses(inside, self.name)

    def _volume(self, name: str) -> Path:
        """Its folder: kept for a claim, made anew for all else."""
        if name in self._claims:
            return self._folder("claims", f"{name}-{self._claims[name]}")
        (volume,) = (each for each in self.spec["volumes"] if each["name"] == name)
        if "persistentVolumeClaim" in volume:
            return self._folder("claims", volume["persistentVolumeClaim"]["claimName"])
        folder = self._folder(self.name, name)
        shutil.rmtree(folder)
        folder.mkdir()
        for file, content in self._files(volume).items():
            (folder / file).write_bytes(content)
        return folder

    def _folder(self, *parts: str) -> Path:
        folder = self._node.folder.joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _files(self, volume: Object) -> dict[str, bytes]:
        if "configMap" in volume:
            data = self._node.configs[volume["configMap"]["name"]]
            return {key: text.encode() for key, text in data.items()}
        if "secret" not in volume:
            return {}
        content = self._node.read_secret(volume["secret"]["secretName"])
        if "items" in volume["secret"]:
            return {item["path"]: content[item["key"]] for item in volume["secret"]["items"]}
        if "connection" in content:
            line = self._node.with_local_addresses(content["connection"].decode())
            return {"connection": line.encode()}
        return content

    def _answers_http(self, asked: dict[str, Any]) -> bool:
        ports = {each["name"]: each["containerPort"] for each in self._container["ports"]}
        port = self._node.port(self.name, ports.get(asked["port"], asked["port"]))
        try:
            answer = httpx.get(f"http://127.0.0.1:{port}{asked['path']}", trust_env=False)
        except httpx.HTTPError:
            return False
        return 200 <= answer.status_code < 400


def cores(quantity: str | int) -> float:
    text = str(quantity)
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)
