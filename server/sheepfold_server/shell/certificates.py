"""A private CA, the certificates of its servers, and the key that tokens are signed with: all kept in files.

CA and key stay for as long as the folder does, so that workers keep their line. The servers' certificates are
made anew each time, for the names given then. Which role a certificate is for stands in its URI.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sheepfold_server.core.permissions import Caller, Role
from sheepfold_server.shell.gate import SPIFFE
from sheepfold_server.shell.security import read_signer
from sheepfold_server.shell.start import StartError
from sheepfold_server.shell.state_dir import write_secret
from sheepfold_server.shell.tokens import (
    JOIN_DAYS,
    Grant,
    Use,
    Verifier,
    private_pem,
    public_pem,
    read_public_keys,
)
from sheepfold_wire.errors import TokenRefused

CA_DAYS = 3650
SERVER_DAYS = 730
CLOCK_SKEW = timedelta(days=1)
RENEW_DAYS = 30
DAY_SECONDS = 86_400


EACH_ITS_OWN = {"coordinator": (Role.COORDINATOR,), "shard": (Role.SHARD,)}
"""Names of certificates, and the roles that each is for."""


def make_security(
    folder: Path,
    names: Sequence[str],
    now: datetime | None = None,
    certificates: Mapping[str, Sequence[Role]] = EACH_ITS_OWN,
) -> None:
    """Make what is missing, and the servers' certificates in any case. Raises StartError.

    `names`: addresses and names of the servers, as in URLs; this machine's own are added. What the files are
    called: `SecurityFiles.in_folder`.
    """
    now = datetime.now(UTC) if now is None else now
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        ca, ca_key = _kept_ca(folder, now)
        for file, roles in certificates.items():
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = _server_certificate(roles, names, key, ca, ca_key, now)
            write_secret(folder / f"{file}.key", _key_pem(key))
            write_secret(folder / f"{file}.pem", _pem(certificate) + _pem(ca))
        _keep_token_key(folder)
    except OSError as error:
        raise StartError(
            f"{folder}: certificates and keys cannot be kept there ({error.strerror}); give another --dir"
        ) from None


def _keep_token_key(folder: Path) -> None:
    """The public keys may be more than one: whoever changes the key adds the new one first."""
    if not (folder / "token.key").exists():
        key = Ed25519PrivateKey.generate()
        write_secret(folder / "token.key", private_pem(key))
        write_secret(folder / "token.pub", public_pem(key.public_key()))


def keep_join_token(folder: Path, role: Role, now: float, days: int = JOIN_DAYS) -> str:
    """The join token of a role for all jobs, kept in `ROLE.token`; a new one in the last month of its time.

    Raises StartError.
    """
    file = folder / f"{role}.token"
    signer = read_signer(folder / "token.key", "--dir")
    try:
        verifier = Verifier(read_public_keys((folder / "token.pub").read_bytes()))
        kept = file.read_text("ascii").strip()
        if verifier.grant(kept, now).expires_at - now > RENEW_DAYS * DAY_SECONDS:
            return kept
    except (OSError, ValueError, TokenRefused):
        pass  # there is none, or none that is of use
    grant = Grant(Caller(role, subject="sheepfold up"), Use.JOIN, now + days * DAY_SECONDS)
    token = signer.sign(grant, now)
    write_secret(file, f"{token}\n".encode("ascii"))
    return token


def _kept_ca(folder: Path, now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate_file, key_file = folder / "ca.pem", folder / "ca.key"
    if not certificate_file.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _ca_certificate(key, now)
        write_secret(key_file, _key_pem(key))
        write_secret(certificate_file, _pem(certificate))
        return certificate, key
    try:
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        found = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise _unusable(folder, f"its CA cannot be read ({error})") from None
    if not isinstance(found, ec.EllipticCurvePrivateKey) or found.public_key() != certificate.public_key():
        raise _unusable(folder, "ca.key is not the key of ca.pem")
    if certificate.not_valid_after_utc <= now:
        raise _unusable(folder, f"its CA ended on {certificate.not_valid_after_utc:%Y-%m-%d}")
    return certificate, found


def _unusable(folder: Path, why: str) -> StartError:
    return StartError(f"{folder}: {why}; remove that folder: a new CA is made, and workers need the new line")


def _ca_certificate(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    name = _name(f"sheepfold CA {secrets.token_hex(4)}")
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)  # certificates, CRLs
    return (
        _builder(name, name, key.public_key(), now, now + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _server_certificate(
    roles: Sequence[Role],
    names: Sequence[str],
    key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)  # digital signatures
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    until = min(now + timedelta(days=SERVER_DAYS), ca.not_valid_after_utc)
    uris = [x509.UniformResourceIdentifier(SPIFFE + role) for role in roles]
    return (
        _builder(_name(f"sheepfold {' '.join(roles)}"), ca.subject, key.public_key(), now, until)
        .add_extension(x509.SubjectAlternativeName([*_names(names), *uris]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(until)
    )


def _names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """Those themselves, and this machine: a tunnel ends at localhost."""
    names, addresses = ["localhost"], ["127.0.0.1", "::1"]
    for host in hosts:
        try:
            addresses.append(str(ip_address(host.strip("[]").partition("%")[0])))
        except ValueError:
            names.append(host)
    dns = [x509.DNSName(each) for each in dict.fromkeys(names)]
    return dns + [x509.IPAddress(ip_address(each)) for each in dict.fromkeys(addresses)]


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
