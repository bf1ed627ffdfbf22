"""Stores of objects that fail when told to: one in memory, and an S3 server of this process.

Both ask one `Faults` before every operation. The one in memory is the driver itself, so that nothing but our
own code can make up for a fault; the server is below s3fs and botocore, which have retries of their own.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem

OPERATIONS = {
    "put refused": "put",
    "put stored, answer lost": "put",
    "put half stored, answer lost": "put",
    "put half stored, answered as done": "put",
    "get refused": "get",
    "get cut short": "get",
    "head refused": "head",
    "list refused": "list",
    "list out of date": "list",
}
"""Every fault, and the operation it befalls. A put of S3 stores all or nothing: the halves are for memory."""

FAULTS_OF_S3 = [fault for fault in OPERATIONS if "half" not in fault]


@dataclass
class Faults:
    """Which operation fails: the `at`-th of the fault's kind since it was armed, or from there on all."""

    fault: str = ""
    at: int = 0
    is_lasting: bool = False
    seen: int = 0
    fired: int = 0

    def arm(self, fault: str, at: int = 1, is_lasting: bool = False) -> None:
        self.fault, self.at, self.is_lasting, self.seen, self.fired = fault, at, is_lasting, 0, 0

    def disarm(self) -> None:
        self.fault = ""

    def of(self, operation: str) -> str:
        """The fault that befalls this operation, or ""."""
        if OPERATIONS.get(self.fault) != operation:
            return ""
        self.seen += 1
        if self.seen != self.at and not (self.is_lasting and self.seen > self.at):
            return ""
        self.fired += 1
        return self.fault


# --- in memory -------------------------------------------------------------------------------------------


class FaultyFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec carries no annotations
    """fsspec's memory, with faults, and an overwrite that is not atomic."""

    protocol = "faulty"
    cachable = False
    faults: ClassVar[Faults] = Faults()
    listings: ClassVar[dict[str, Any]] = {}
    """What was listed last."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.inner = MemoryFileSystem()

    def _open(self, path: str, mode: str = "rb", *given: Any, **named: Any) -> io.BytesIO:
        return Put(self, path) if "w" in mode else io.BytesIO(self.get(path))

    def get(self, path: str) -> bytes:  # type: ignore[override]
        content: bytes = self.inner.cat_file(path)
        match self.faults.of("get"):
            case "get refused":
                raise OSError(5, "500 internal error")
            case "get cut short":
                return content[: len(content) // 2]
        return content

    def put(self, path: str, content: bytes) -> None:  # type: ignore[override]
        fault = self.faults.of("put")
        if fault == "put refused":
            raise OSError(5, "500 internal error")
        self.inner.pipe_file(path, content[: len(content) // 2] if "half" in fault else content)
        if fault.endswith("answer lost"):
            raise TimeoutError("no answer")

    def info(self, path: str, **named: Any) -> Any:
        if self.faults.of("head"):
            raise OSError(5, "500 internal error")
        return self.inner.info(path)

    def ls(self, path: str, detail: bool = True, **named: Any) -> Any:
        match self.faults.of("list"):
            case "list refused":
                raise OSError(5, "500 internal error")
            case "list out of date" if path in self.listings:
                return self.listings[path]
        self.listings[path] = self.inner.ls(path, detail=True)
        return self.listings[path]

    def rm_file(self, path: str) -> None:
        self.inner.rm_file(path)


class Put(io.BytesIO):
    """A streamed put, which takes place when it is closed."""

    def __init__(self, filesystem: FaultyFileSystem, path: str) -> None:
        super().__init__()
        self.filesystem, self.path = filesystem, path

    def close(self) -> None:
        if not self.closed:
            content = self.getvalue()
            super().close()
            self.filesystem.put(self.path, content)


fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)


# --- a server --------------------------------------------------------------------------------------------

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


class FaultyServer:
    """A WSGI application before that of an S3 server."""

    def __init__(self, inner: Application, faults: Faults) -> None:
        self.inner, self.faults = inner, faults
        self.listings: dict[str, Any] = {}
        self.before_put: Callable[[str], None] = lambda path: None
        self.puts: list[str] = []
        self.knows_conditions = True
        self.one_at_a_time = threading.Lock()  # the inner one looks, and puts then

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        operation = operation_of(environ)
        if operation == "put":
            self.puts.append(environ["PATH_INFO"])
            self.before_put(environ["PATH_INFO"])
            if not self.knows_conditions:
                environ.pop("HTTP_IF_NONE_MATCH", None)
        fault = self.faults.of(operation)
        if fault.endswith("refused"):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            return refuse(start_response, has_body=operation != "head")
        with self.one_at_a_time:
            status, headers, body = self.answer(environ)
        if operation == "list":
            standing = self.listings.setdefault(environ["QUERY_STRING"], (status, headers, body))
            if fault == "list out of date":
                status, headers, body = standing
            self.listings[environ["QUERY_STRING"]] = status, headers, body
        if fault == "put stored, answer lost":
            return refuse(start_response)
        start_response(status, headers)  # its length, also before a body that is cut short
        return [body[: len(body) // 2] if fault == "get cut short" else body]

    def answer(self, environ: Environ) -> tuple[str, list[tuple[str, str]], bytes]:
        started: list[Any] = []
        body = b"".join(self.inner(environ, lambda *given: started.extend(given)))
        return started[0], started[1], body


def operation_of(environ: Environ) -> str:
    """A list is a get of the bucket."""
    method, is_bucket = environ["REQUEST_METHOD"], environ["PATH_INFO"].strip("/").count("/") == 0
    if is_bucket:
        return "list" if method == "GET" and "list-type" in environ["QUERY_STRING"] else "bucket"
    return {"GET": "get", "HEAD": "head", "PUT": "put"}.get(method, method.lower())


def refuse(start_response: Callable[..., Any], has_body: bool = True) -> list[bytes]:
    body = b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"
    headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
    start_response(f"{HTTPStatus.INTERNAL_SERVER_ERROR} Internal Server Error", headers)
    return [body] if has_body else []


@contextmanager
def s3_server(faults: Faults) -> Iterator[tuple[str, FaultyServer]]:
    """(its address, its faults), at a port that the system chooses."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Silent(WSGIRequestHandler):
        def log(self, *given: Any, **named: Any) -> None:
            pass

    application = FaultyServer(DomainDispatcherApplication(create_backend_app), faults)
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Silent)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", application
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
