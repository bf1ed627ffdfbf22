"""Health, and a port that serves nothing else, in plain text: kubelets before Kubernetes 1.37 know no TLS.

Who asks learns only whether this process runs and is ready. Of grpc's health service Check alone is served:
its Watch sends under a lock, so that one stranger who does not read keeps others from asking, and the process
from ending.
"""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from sheepfold_server.shell.gate import Gate
from sheepfold_server.shell.security import Credentials, Security
from sheepfold_server.shell.start import StartError

CALLS_MAX = 16


def gate() -> Gate:
    """Of a server that knows no other call."""
    return Gate(Credentials(Security()))


def add_health(server: Any, servicer: Any) -> None:
    """Have a gRPC server, sync or aio like the servicer, answer whether it serves."""
    check = grpc.unary_unary_rpc_method_handler(
        servicer.Check,
        health_pb2.HealthCheckRequest.FromString,
        health_pb2.HealthCheckResponse.SerializeToString,
    )
    service = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Check": check}),))


def add_health_port(server: Any, servicer: Any, listen: str) -> str:
    """Have a gRPC server, sync or aio like the servicer, serve it at HOST:PORT; returns the address.

    Raises StartError.
    """
    add_health(server, servicer)
    port = Credentials(Security()).add_port(server, listen)
    if port == 0:
        raise StartError(
            f"--health-listen {listen}: the port is taken or the address is not of this machine; give another"
        )
    return f"{listen.rsplit(':', 1)[0]}:{port}"
