"""What a role serves with, read from files: a certificate, its key and its CA, and the token it asks for."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from sheepfold_server.shell.start import StartError
from sheepfold_wire.connection import TOKEN, is_loopback
from sheepfold_wire.tls import fingerprint

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SecurityFiles:
    """Paths as they were given; TLS needs its three together."""

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    token: Path | None = None

    @classmethod
    def in_folder(cls, folder: Path) -> SecurityFiles:
        """As `sheepfold up` names them."""
        return cls(folder / "server.pem", folder / "server.key", folder / "ca.pem", folder / "token")


@dataclass(frozen=True, slots=True)
class Security:
    """Empty: plain text, open to whoever reaches it."""

    chain_pem: bytes = b""
    """As it is served: the role's own certificate first, the CA last, where clients look for it."""
    key_pem: bytes = field(default=b"", repr=False)
    ca: str = ""
    """SHA-256 of the CA's certificate, as in $SHEEPFOLD."""
    token: str = field(default="", repr=False)

    @property
    def has_tls(self) -> bool:
        return bool(self.chain_pem)

    def add_port(self, server: Any, listen: str) -> int:
        """Have a gRPC server listen on HOST:PORT; returns its port, 0 if it cannot."""
        try:
            if not self.has_tls:
                return int(server.add_insecure_port(listen))
            credentials = grpc.ssl_server_credentials([(self.key_pem, self.chain_pem)])
            return int(server.add_secure_port(listen, credentials))
        except RuntimeError:
            return 0


def check_listen(listen: str, insecure: bool, security: Security) -> None:
    """Beyond loopback TLS and a token, or it is said aloud; no token in plain text. Raises StartError."""
    if is_loopback(listen) or (security.has_tls and security.token):
        return
    if not insecure:
        danger = "open to everyone" if security.has_tls else "in plain text and open to everyone"
        raise StartError(
            f"--listen {listen}: traffic would be {danger}; listen on 127.0.0.1, give --tls-cert, --tls-key, "
            "--tls-ca and --token-file, or add --insecure in a network you trust"
        )
    if security.token:
        raise StartError(
            f"--listen {listen}: the token would cross the network in plain text, and no client would send "
            "it; give --tls-cert, --tls-key and --tls-ca, or leave out --token-file"
        )


def read_security(files: SecurityFiles) -> Security:
    """Raises StartError for a file that is missing, or does not fit the others."""
    token = "" if files.token is None else read_token(files.token)
    if files.certificate is None and files.key is None and files.ca is None:
        return Security(token=token)
    if files.certificate is None or files.key is None or files.ca is None:
        raise StartError("TLS needs three files: give --tls-cert, --tls-key and --tls-ca together")
    own = _certificates(files.certificate, "--tls-cert")
    (root,) = ca = _certificates(files.ca, "--tls-ca", count_max=1)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.certificate, files.key, password="")
    except (ssl.SSLError, OSError) as error:
        why = error.strerror or str(error)
        raise StartError(
            f"--tls-key {files.key}: it cannot be read, or is not the key of {files.certificate} ({why}); "
            "give both as PEM, the key without a password"
        ) from None
    chain = own if root in own else own + ca
    return Security(
        "\n".join([*chain, ""]).encode("ascii"), _read(files.key, "--tls-key"), ca_digest(root), token
    )


def read_ca(file: Path) -> str:
    """SHA-256 of the one certificate in a file; raises StartError."""
    (root,) = _certificates(file, "--tls-ca", count_max=1)
    return ca_digest(root)


def ca_digest(pem: str) -> str:
    return fingerprint(ssl.PEM_cert_to_DER_cert(pem))


def read_token(file: Path) -> str:
    """Raises StartError, without the token."""
    token = _read(file, "--token-file").decode("utf-8", "replace").strip()
    if not TOKEN.fullmatch(token):
        raise StartError(
            f"--token-file {file}: a token has 16 to 512 letters, digits, - _ . ~, this one {len(token)} "
            "characters; make one with `openssl rand -hex 32`"
        )
    return token


def _certificates(file: Path, option: str, count_max: int = 16) -> list[str]:
    found = _CERTIFICATE.findall(_read(file, option).decode("ascii", "replace"))
    if not 1 <= len(found) <= count_max:
        due = "1" if count_max == 1 else f"1 to {count_max}"
        raise StartError(f"{option} {file}: {len(found)} certificates in it, give {due} as PEM")
    return found


def _read(file: Path, option: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise StartError(
            f"{option} {file}: it cannot be read ({error.strerror}); check path and owner"
        ) from None
