"""A Kubernetes API server for tests: real helm installs, upgrades, tests, rolls back and uninstalls with it.

Nothing is started: whatever is stored is reported as done. It refuses what a rendering cannot show: unknown
kinds, a namespace that is not there, changes of what is immutable, and lists with an entry twice. It knows no
schemas, defaults, admission, managers of fields, rights or TLS.
"""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

from tests.chart.fake_kube.cluster import Cluster, Key, Wanted
from tests.chart.fake_kube.kinds import BY_PATH, Kind, Object, Refusal, discovery
from tests.chart.fake_kube.patches import merge, merge_strategically
from tests.chart.fake_kube.protobuf import MAGIC, decoded

WATCH_SECONDS_MAX = 60.0


class FakeKubeApi:
    """Serves a cluster on loopback while it is entered."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        handler = type("Bound", (Handler,), {"cluster": self.cluster})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="fake-kube", daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def write_kubeconfig(self, path: Path) -> None:
        named: dict[str, Object] = {
            "clusters": {"cluster": {"server": self.url}},
            "users": {"user": {}},
            "contexts": {"context": {"cluster": "fake", "user": "fake", "namespace": "training"}},
        }
        config = {name: [{"name": "fake"} | value] for name, value in named.items()}
        path.write_text(
            json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "fake"} | config)
        )

    def __enter__(self) -> FakeKubeApi:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Handler(BaseHTTPRequestHandler):
    """HTTP in front of a cluster."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: each answer would wait 40 ms for an ACK
    cluster: Cluster

    def log_message(self, format: str, *args: Any) -> None:
        """Of hundreds of requests none is worth a line."""

    def _serve(self) -> None:
        url = urlparse(self.path)
        self._query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = url.path.rstrip("/")
        try:
            known = discovery(path)
            if path == "/openapi/v2":
                self._send(200, b"", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
            elif known is not None:
                self._send_object(200, known)
            else:
                self._serve_resource(*_parsed(path))
        except Refusal as refusal:
            self._send_object(refusal.code, refusal.status())
        except OSError:  # the client has gone, which is how it ends a watch
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

    def _serve_resource(self, kind: Kind, namespace: str, name: str, part: str) -> None:
        if part == "log":
            self._send(200, b"done\n", "text/plain")
        elif part:
            raise Refusal(404, "NotFound", f"{kind.plural}/{part} is not served")
        elif name:
            self._send_object(200, self._on_object(Key(kind, namespace, name)))
        elif self.command == "POST":
            obj = self._given()
            name = (obj.get("metadata") or {}).get("name", "")
            if not name or bool(namespace) is not kind.is_namespaced:
                raise Refusal(
                    422, "Invalid", f"{kind.name} is invalid: a name, or a namespace too many or few"
                )
            self._send_object(201, self.cluster.create(Key(kind, namespace, name), obj, self._is_dry))
        else:
            self._list(Wanted(kind, namespace, *map(self._asked, ("labelSelector", "fieldSelector"))))

    @property
    def _is_dry(self) -> bool:
        return "dryRun" in self._query

    def _asked(self, name: str) -> str:
        return self._query.get(name, "")

    def _on_object(self, key: Key) -> Object:
        if self.command == "GET":
            return self.cluster.get(key)
        if self.command == "PUT":
            return self.cluster.replace(key, self._given(), self._is_dry)
        if self.command == "DELETE":
            if self._is_dry:
                self.cluster.get(key)
            else:
                self.cluster.delete(key)
            return {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        how = self.headers.get("Content-Type", "")
        if "apply-patch" in how:
            return self.cluster.apply(key, self._given(), self._is_dry)
        merging = merge_strategically if "strategic" in how else merge
        return self.cluster.patch(key, self._given(), merging, self._is_dry)

    def _given(self) -> Object:
        if self._body.startswith(MAGIC):
            return decoded(self._body)
        try:
            given = json.loads(self._body)
        except ValueError as error:
            raise Refusal(400, "BadRequest", f"the body is no JSON: {error}") from None
        if not isinstance(given, dict):
            raise Refusal(400, "BadRequest", "the body is no object")
        return given

    def _list(self, wanted: Wanted) -> None:
        revision, items = self.cluster.select(wanted)
        if self._asked("watch") in ("1", "true"):
            self._watch(wanted, revision, items)
            return
        about = {"kind": f"{wanted.kind.name}List", "apiVersion": wanted.kind.api}
        self._send_object(200, about | {"metadata": {"resourceVersion": str(revision)}, "items": items})

    def _watch(self, wanted: Wanted, revision: int, items: list[Object]) -> None:
        """What there is first, if asked for, with a bookmark after it; then what changes."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        since = int(self._asked("resourceVersion") or 0)
        is_told_all = self._asked("sendInitialEvents") == "true"
        if since == 0 or is_told_all:
            since = revision
            for item in items:
                self._send_event("ADDED", item)
        if is_told_all:
            marks = {"k8s.io/initial-events-end": "true"}
            metadata = {"resourceVersion": str(revision), "annotations": marks}
            about = {"kind": wanted.kind.name, "apiVersion": wanted.kind.api, "metadata": metadata}
            self._send_event("BOOKMARK", about)
        seconds = min(float(self._asked("timeoutSeconds") or WATCH_SECONDS_MAX), WATCH_SECONDS_MAX)
        for change in self.cluster.watch(wanted, since, seconds):
            self._send_event(change.what, change.obj)
        self.wfile.write(b"0\r\n\r\n")

    def _send_event(self, what: str, obj: Object) -> None:
        line = json.dumps({"type": what, "object": obj}).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.wfile.flush()

    def _send_object(self, code: int, obj: Object) -> None:
        self._send(code, json.dumps(obj).encode(), "application/json")

    def _send(self, code: int, content: bytes, kind: str) -> None:
        with suppress(ConnectionError):
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)


def _parsed(path: str) -> tuple[Kind, str, str, str]:
    """(kind, namespace, name, subresource) of /api/v1/... and /apis/GROUP/VERSION/...; raises Refusal."""
    root, *parts = path.strip("/").split("/")
    depth = {"api": 1, "apis": 2}.get(root, 0)
    api, rest = "/".join(parts[:depth]), parts[depth:]
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces":
        _, namespace, *rest = rest
    kind = BY_PATH.get((api, rest[0])) if rest else None
    if kind is None or len(rest) > 3:
        raise Refusal(404, "NotFound", f"the server could not find the requested resource {path}")
    name, part = (*rest[1:], "", "")[:2]
    return kind, namespace, name, part
