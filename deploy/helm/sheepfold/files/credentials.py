"""Hooks of the chart: make the secrets that are missing, and the line that is all a worker needs.

    credentials.py make [--token-secret NAME] [--tls-secret NAME --tls-name DNS_NAME]
    credentials.py connect --secret NAME --target HOST:PORT --ca FILE --token FILE

A credential that is there is never touched. A line is derived from credentials, so it is written anew.
"""

import argparse
import base64
import json
import os
import ssl
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from sheepfold_server.core.permissions import Role
from sheepfold_server.shell.certificates import keep_join_token, make_security
from sheepfold_server.shell.security import read_ca, read_token
from sheepfold_wire.connection import Connection

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_DAYS = 3650
"""Whoever reads the secrets of the namespace can make new ones: a shorter time would protect from nobody."""
TOKENS = (Role.WORKER, Role.READER, Role.ADMIN)
SHARED = {"server": (Role.COORDINATOR, Role.SHARD)}
"""One certificate for all servers: they mount the same secret."""
SECONDS_MAX = 30


class Api:
    """The secrets of one namespace."""

    def __init__(self, url: str, account: Path, namespace: str, instance: str) -> None:
        self._secrets = f"{url}/api/v1/namespaces/{namespace}/secrets"
        self._account, self._instance = account, instance

    def create(self, name: str, data: dict[str, bytes], kind: str = "Opaque") -> bool:
        """False if there is one of that name, which is left as it is."""
        try:
            self._call("POST", "", self._secret(name, data, kind))
        except urllib.error.HTTPError as error:
            if error.code != 409:
                raise
            return False
        return True

    def write(self, name: str, data: dict[str, bytes]) -> None:
        if not self.create(name, data):
            self._call("PUT", f"/{name}", self._secret(name, data, "Opaque"))

    def _secret(self, name: str, data: dict[str, bytes], kind: str) -> dict[str, Any]:
        encoded = {key: base64.b64encode(value).decode("ascii") for key, value in data.items()}
        labels = {"app.kubernetes.io/instance": self._instance}
        metadata = {"name": name, "labels": labels}
        return {"apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": metadata, "data": encoded}

    def _call(self, method: str, path: str, body: dict[str, Any]) -> None:
        bearer = (self._account / "token").read_text().strip()
        headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
        url, content = self._secrets + path, json.dumps(body).encode("utf-8")
        request = urllib.request.Request(url, content, headers, method=method)
        authority = self._account / "ca.crt"
        trusted = ssl.create_default_context(cafile=str(authority)) if url.startswith("https:") else None
        direct = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted)
        )
        direct.open(request, timeout=SECONDS_MAX).close()


def said(name: str, is_new: bool) -> None:
    print(f"secret {name}: {'made' if is_new else 'was there, kept as it is'}")


def make(api: Api, arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_security(folder, [arguments.tls_name] if arguments.tls_name else [], certificates=SHARED)
        if arguments.token_secret:
            for role in TOKENS:
                keep_join_token(folder, role, time.time(), TOKEN_DAYS)
            names = ["token.key", "token.pub", *(f"{role}.token" for role in TOKENS)]
            data = {name: (folder / name).read_bytes() for name in names}
            said(arguments.token_secret, api.create(arguments.token_secret, data))
        if arguments.tls_secret:
            files = {"tls.crt": "server.pem", "tls.key": "server.key", "ca.crt": "ca.pem"}
            data = {key: (folder / name).read_bytes() for key, name in files.items()}
            said(arguments.tls_secret, api.create(arguments.tls_secret, data, "kubernetes.io/tls"))


def connect(api: Api, arguments: argparse.Namespace) -> None:
    line = Connection(arguments.target, read_ca(arguments.ca), read_token(arguments.token)).secret
    api.write(arguments.secret, {"connection": f"{line}\n".encode("ascii")})
    print(f"secret {arguments.secret}: holds the line for $SHEEPFOLD")


def parser() -> argparse.ArgumentParser:
    host, port = (os.environ.get(f"KUBERNETES_SERVICE_{part}", "") for part in ("HOST", "PORT"))
    address = f"[{host}]" if ":" in host else host
    whole = argparse.ArgumentParser(description=__doc__)
    whole.add_argument("--api", default=f"https://{address}:{port}")
    whole.add_argument("--account", type=Path, default=ACCOUNT)
    whole.add_argument("--namespace", required=True)
    whole.add_argument("--instance", required=True)
    commands = whole.add_subparsers(required=True)
    making = commands.add_parser("make")
    making.add_argument("--token-secret", default="")
    making.add_argument("--tls-secret", default="")
    making.add_argument("--tls-name", default="")
    making.set_defaults(run=make)
    connecting = commands.add_parser("connect")
    connecting.add_argument("--secret", required=True)
    connecting.add_argument("--target", required=True)
    connecting.add_argument("--ca", type=Path, required=True)
    connecting.add_argument("--token", type=Path, required=True)
    connecting.set_defaults(run=connect)
    return whole


def main() -> int:
    arguments = parser().parse_args()
    api = Api(arguments.api, arguments.account, arguments.namespace, arguments.instance)
    arguments.run(api, arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
