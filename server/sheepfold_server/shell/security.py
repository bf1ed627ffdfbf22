"""What a role proves itself with and what it asks for, read from files, and again whenever they change."""

from __future__ import annotations

import logging
import re
import ssl
import threading
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import grpc

from sheepfold_server.shell.start import StartError
from sheepfold_server.shell.tokens import Signer, Verifier, read_public_keys, read_signing_key
from sheepfold_wire.access import Identity
from sheepfold_wire.connection import TOKEN, is_loopback
from sheepfold_wire.tls import fingerprint

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Files are looked at no more often than this."""

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SecurityFiles:
    """Paths as they were given; TLS needs its three together."""

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    token_keys: Path | None = None
    """Public keys that tokens of callers are signed with."""
    token_signer: Path | None = None
    """Private key that passes are signed with; the coordinator's alone."""

    @classmethod
    def in_folder(cls, folder: Path, role: str) -> SecurityFiles:
        """As `sheepfold certs` and `sheepfold up` name them. `role`: coordinator or shard."""
        signer = folder / "token.key" if role == "coordinator" else None
        return cls(
            folder / f"{role}.pem", folder / f"{role}.key", folder / "ca.pem", folder / "token.pub", signer
        )

    def stamps(self) -> tuple[tuple[int, int], ...]:
        """Changes whenever a file does. A mounted secret is a link that is replaced: it is followed."""
        paths = (getattr(self, each.name) for each in fields(self))
        return tuple(_stamp(path) for path in paths if path is not None)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_ino, found.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Security:
    """Empty: plain text, open to whoever reaches it."""

    chain_pem: bytes = b""
    """As it is served: the role's own certificate first, the CA last, where clients look for it."""
    key_pem: bytes = field(default=b"", repr=False)
    ca_pem: bytes = b""
    ca: str = ""
    """SHA-256 of the CA's certificate, as in $SHEEPFOLD."""
    verifier: Verifier | None = field(default=None, repr=False)
    signer: Signer | None = field(default=None, repr=False)
    files: SecurityFiles = SecurityFiles()
    """Where it was read from."""

    @property
    def has_tls(self) -> bool:
        return bool(self.chain_pem)

    @property
    def identity(self) -> Identity | None:
        """What this role shows to a server that asks for a certificate."""
        return Identity(self.ca_pem, self.key_pem, self.chain_pem) if self.has_tls else None

    def certificates(self) -> Any:
        """For grpc: what a server shows, and the CA that certificates of callers must be signed by."""
        return grpc.ssl_server_certificate_configuration([(self.key_pem, self.chain_pem)], self.ca_pem)


class Credentials:
    """A role's security as its files have it now. Any thread may ask."""

    def __init__(self, security: Security) -> None:
        self._security = security
        self._stamps = security.files.stamps()
        self._looked_at = time.monotonic()
        self._lock = threading.Lock()

    def current(self) -> Security:
        """Files that no longer fit each other change nothing, and that is logged: one is being replaced."""
        with self._lock:
            if time.monotonic() - self._looked_at < LOOK_SECONDS:
                return self._security
            self._looked_at = time.monotonic()
            stamps = self._security.files.stamps()
            if stamps != self._stamps:
                self._stamps = stamps
                self._read()
            return self._security

    def _read(self) -> None:
        try:
            self._security = read_security(self._security.files)
        except StartError as error:
            log.error("certificates and keys stay as they were: %s", error)
        else:
            log.info("certificates and keys are read again: a file has changed")

    def add_port(self, server: Any, listen: str, asks_certificate: bool = False) -> int:
        """Have a gRPC server listen on HOST:PORT; returns its port, 0 if it cannot.

        Each handshake is made with the certificate of that moment.
        """
        try:
            if not self._security.has_tls:
                return int(server.add_insecure_port(listen))
            shown = [self._security]

            def fetch() -> Any:
                now = self.current()
                if now is shown[0]:
                    return None  # as before
                shown[0] = now
                return now.certificates()

            credentials = grpc.dynamic_ssl_server_credentials(
                self._security.certificates(), fetch, require_client_authentication=asks_certificate
            )
            return int(server.add_secure_port(listen, credentials))
        except RuntimeError:
            return 0


def check_listen(listen: str, insecure: bool, security: Security) -> None:
    """Beyond loopback TLS and tokens, or it is said aloud; no token in plain text. Raises StartError."""
    if is_loopback(listen) or (security.has_tls and security.verifier):
        return
    if not insecure:
        danger = "open to everyone" if security.has_tls else "in plain text and open to everyone"
        raise StartError(
            f"--listen {listen}: traffic would be {danger}; listen on 127.0.0.1, give --tls-cert, --tls-key, "
            "--tls-ca and --token-keys (`sheepfold certs` makes them), or add --insecure in a trusted network"
        )
    if security.verifier:
        raise StartError(
            f"--listen {listen}: tokens would cross the network in plain text, and no client would send "
            "one; give --tls-cert, --tls-key and --tls-ca, or leave out --token-keys"
        )


def read_security(files: SecurityFiles) -> Security:
    """Raises StartError for a file that is missing, or does not fit the others."""
    verifier = None if files.token_keys is None else _verifier(files.token_keys)
    signer = None if files.token_signer is None else read_signer(files.token_signer)
    if files.certificate is None and files.key is None and files.ca is None:
        return Security(verifier=verifier, signer=signer, files=files)
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
        "\n".join([*chain, ""]).encode("ascii"),
        _read(files.key, "--tls-key"),
        root.encode("ascii"),
        ca_digest(root),
        verifier,
        signer,
        files,
    )


def read_ca(file: Path) -> str:
    """SHA-256 of the one certificate in a file; raises StartError."""
    (root,) = _certificates(file, "--tls-ca", count_max=1)
    return ca_digest(root)


def ca_digest(pem: str) -> str:
    return fingerprint(ssl.PEM_cert_to_DER_cert(pem))


def read_token(file: Path) -> str:
    """A token of ours; raises StartError, without the token."""
    token = _read(file, "--token-file").decode("utf-8", "replace").strip()
    if not TOKEN.fullmatch(token):
        raise StartError(
            f"--token-file {file}: a token has 16 to 1024 letters, digits, - _ . ~, this one {len(token)} "
            "characters; make one with `sheepfold token`"
        )
    return token


def read_signer(file: Path, option: str = "--token-signer") -> Signer:
    """Raises StartError."""
    try:
        return Signer(read_signing_key(_read(file, option)))
    except (ValueError, TypeError) as error:
        raise StartError(
            f"{option} {file}: it holds no private Ed25519 key as PEM without a password ({error}); "
            "`sheepfold certs` makes one"
        ) from None


def _verifier(file: Path) -> Verifier:
    try:
        return Verifier(read_public_keys(_read(file, "--token-keys")))
    except ValueError as error:
        raise StartError(
            f"--token-keys {file}: give one or more public Ed25519 keys as PEM ({error}); "
            "`sheepfold certs` makes them"
        ) from None


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
