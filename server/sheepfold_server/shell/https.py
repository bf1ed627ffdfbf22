"""What the dashboard shows and asks for over HTTP, and where it may do without."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

from sheepfold_server.core.permissions import Caller
from sheepfold_server.shell.security import (
    LOOK_SECONDS,
    Credentials,
    SecurityFiles,
    log,
    read_security,
)
from sheepfold_server.shell.start import StartError
from sheepfold_wire.connection import is_loopback
from sheepfold_wire.errors import TokenRefused


class Https:
    """A server's TLS, whose certificate is read again whenever its files change."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises StartError."""
        self._files = SecurityFiles(certificate, key)
        self._looked_at, self._stamps = time.monotonic(), self._files.stamps()
        self.context = self._made()

    def renew(self) -> None:
        """Call it often. Files that do not fit each other change nothing, and that is logged."""
        if time.monotonic() - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at, before = time.monotonic(), self._stamps
        self._stamps = self._files.stamps()
        if self._stamps == before:
            return
        try:
            self._made()  # what would be wrong with it is wrong here first
            self._load(self.context)
        except StartError as error:
            log.error("the certificate stays as it was: %s", error)
        else:
            log.info("the certificate is read again: a file has changed")

    def _made(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        self._load(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        certificate, key = self._files.certificate, self._files.key
        assert certificate is not None
        try:
            context.load_cert_chain(certificate, key, password="")
        except (ssl.SSLError, OSError) as error:
            why = error.strerror or str(error)
            raise StartError(
                f"--tls-cert {certificate}, --tls-key {key}: they cannot be read, or do not belong together "
                f"({why}); give both as PEM, the key without a password"
            ) from None


def read_https(certificate: Path | None, key: Path | None) -> Https | None:
    """None without TLS; raises StartError."""
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise StartError("HTTPS needs two files: give --tls-cert and --tls-key together")
    return Https(certificate, key)


class HttpCallers:
    """Tells who calls by a token, of either use: nothing here can be changed by one, or had for it."""

    def __init__(self, token_keys: Path) -> None:
        """Raises StartError."""
        self._credentials = Credentials(read_security(SecurityFiles(token_keys=token_keys)))

    def caller(self, token: str) -> Caller:
        """Raises TokenRefused."""
        verifier = self._credentials.current().verifier
        assert verifier is not None
        grant = verifier.grant(token)
        if grant.certificate:
            raise TokenRefused(
                "the token is bound to a client certificate, and the dashboard asks for none; take a token "
                "that is bound to none"
            )
        return grant.caller


def check_http_listen(
    listen: str, insecure: bool, behind_proxy: bool, *, has_tls: bool, has_login: bool
) -> None:
    """Beyond loopback TLS and a login, or it is said aloud; no token in plain text. Raises StartError."""
    if behind_proxy and (insecure or has_tls or not has_login):
        raise StartError(
            "--behind-proxy is for plain HTTP with a login, behind what ends TLS: give --token-keys, and "
            "neither --tls-cert nor --insecure"
        )
    if is_loopback(listen) or behind_proxy or (has_tls and has_login):
        return
    if not insecure:
        danger = "open to everyone" if has_tls else "in plain text"
        raise StartError(
            f"--listen {listen}: the dashboard would be {danger}; listen on 127.0.0.1, give --tls-cert, "
            "--tls-key and --token-keys (`sheepfold certs` makes keys), or --token-keys and --behind-proxy "
            "where a proxy in front ends TLS, or add --insecure in a trusted network"
        )
    if has_login:
        raise StartError(
            f"--listen {listen}: tokens would cross the network in plain text; give --tls-cert and "
            "--tls-key, or --behind-proxy in place of --insecure where a proxy in front ends TLS"
        )
