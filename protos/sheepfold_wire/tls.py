"""Looks at the certificates of a server before the first call, and says in words what is wrong with them.

gRPC takes a CA as PEM, and reports a certificate that fails as a server that does not answer, again and
again. So the chain is fetched once by `ssl`; the CA in it must have the fingerprint that the address names;
then a second handshake, with exactly that CA, checks signature, name and dates.
"""

from __future__ import annotations

import _ssl
import hashlib
import hmac
import socket
import ssl
import sys
from dataclasses import dataclass
from typing import Any

from sheepfold_wire.errors import ServerUntrusted

SECONDS_MAX = 5.0
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL")


@dataclass(frozen=True, slots=True)
class ServerTls:
    """A server whose certificate is signed by the CA that was asked for."""

    ca_pem: bytes
    version: str
    fingerprint: str
    """SHA-256 of the server's own certificate."""
    expires_at: float
    """Unix time."""


def fingerprint(der: bytes) -> str:
    """SHA-256 of a certificate, 64 hex digits."""
    return hashlib.sha256(der).hexdigest()


def examine_tls(target: str, ca: str, seconds_max: float = SECONDS_MAX) -> ServerTls:
    """`seconds_max` bounds each wait for the server. Raises OSError if nobody answers, ServerUntrusted."""
    found = find_ca(target, ca, seconds_max)
    trusting = _context()
    trusting.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(found))
    trusting.verify_mode, trusting.check_hostname = ssl.CERT_REQUIRED, True
    with _connected(target, trusting, seconds_max) as tls:
        own, facts = tls.getpeercert(True), tls.getpeercert()
        assert own is not None  # it was verified
        assert facts is not None
        return ServerTls(
            ca_pem=ssl.DER_cert_to_PEM_cert(found).encode("ascii"),
            version=tls.version() or "",
            fingerprint=fingerprint(own),
            expires_at=float(ssl.cert_time_to_seconds(str(facts["notAfter"]))),
        )


def find_ca(target: str, ca: str, seconds_max: float = SECONDS_MAX) -> bytes:
    """The certificate (DER) in the server's chain whose SHA-256 is `ca`; as examine_tls raises."""
    with _connected(target, _context(), seconds_max) as tls:
        chain = _chain(tls)
    for der in chain:
        if hmac.compare_digest(fingerprint(der), ca):
            return der
    shown = fingerprint(chain[-1]) if chain else "no certificate"
    raise ServerUntrusted(
        f"{target} shows the CA sha256:{shown}, but the address names ca=sha256:{ca}: the address is that of "
        "another `sheepfold up`, or something in between answers in the server's place; take the line that "
        "`sheepfold up` prints there now"
    )


def speaks_tls(target: str, seconds_max: float = SECONDS_MAX) -> bool:
    """Whether a TLS server answers there, whoever it is."""
    try:
        with _connected(target, _context(), seconds_max):
            return True
    except (OSError, ServerUntrusted):
        return False


def _context() -> ssl.SSLContext:
    """Trusts whoever answers: fit to look at certificates, and for nothing else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])  # a gRPC server hangs up on others
    return context


def _connected(target: str, context: ssl.SSLContext, seconds_max: float) -> ssl.SSLSocket:
    host, _, port = target.rpartition(":")
    host = host.strip("[]")
    opened = socket.create_connection((host, int(port)), seconds_max)
    try:
        return context.wrap_socket(opened, server_hostname=host.partition("%")[0])
    except ssl.SSLCertVerificationError as error:
        raise ServerUntrusted(
            f"the certificate of {target} is refused: {error.verify_message}; use a name or address that the "
            "certificate is for, and compare the clocks of both machines"
        ) from None
    except ssl.SSLError as error:
        if error.reason in _NO_TLS:
            raise ServerUntrusted(
                f"{target} speaks no TLS, and the address asks for it (ca=sha256:...): check the port, or "
                "take the line that `sheepfold up` prints there now"
            ) from None
        raise
    finally:
        opened.close()  # wrap_socket has taken the descriptor over if it succeeded


def _chain(tls: ssl.SSLSocket) -> list[bytes]:
    """What the server sent, DER, its own certificate first. Python has a public name for it from 3.13 on."""
    if sys.version_info >= (3, 13):
        return list(tls.get_unverified_chain() or ())
    inner: Any = tls._sslobj  # type: ignore[attr-defined]
    return [each.public_bytes(_ssl.ENCODING_DER) for each in inner.get_unverified_chain() or ()]
