"""A port that serves health and nothing else, in plain text: kubelets before Kubernetes 1.37 know no TLS.

Who asks there learns only whether this process runs and is ready, as on the port of all other calls.
"""

from __future__ import annotations

from typing import Any

from grpc_health.v1 import health_pb2_grpc

from sheepfold_server.shell.security import Credentials, Security
from sheepfold_server.shell.start import StartError

CALLS_MAX = 16


def add_health_port(server: Any, servicer: Any, listen: str) -> str:
    """Have a gRPC server, sync or aio like the servicer, serve it at HOST:PORT; returns the address.

    Raises StartError.
    """
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = Credentials(Security()).add_port(server, listen)
    if port == 0:
        raise StartError(
            f"--health-listen {listen}: the port is taken or the address is not of this machine; give another"
        )
    return f"{listen.rsplit(':', 1)[0]}:{port}"
