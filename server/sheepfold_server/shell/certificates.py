"""A private CA of one `sheepfold up`, the certificate of its servers, and its token: all kept in files.

The CA and the token stay for as long as the directory does, so that workers keep their line. The servers'
certificate is made anew at each start, for the address given then.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sheepfold_server.shell.start import StartError
from sheepfold_server.shell.state_dir import write_secret

CA_DAYS = 3650
SERVER_DAYS = 730
CLOCK_SKEW = timedelta(days=1)
TOKEN_BYTES = 32


def make_security(folder: Path, host: str, now: datetime | None = None) -> None:
    """Make what is missing, and the servers' certificate in any case. `host`: as in URLs. Raises StartError.

    The names in the folder are those of `SecurityFiles.in_folder`.
    """
    now = datetime.now(UTC) if now is None else now
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        ca, ca_key = _kept_ca(folder, now)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _server_certificate(host, key, ca, ca_key, now)
        write_secret(folder / "server.key", _key_pem(key))
        write_secret(folder / "server.pem", _pem(certificate) + _pem(ca))
        if not (folder / "token").exists():
            write_secret(folder / "token", f"{secrets.token_urlsafe(TOKEN_BYTES)}\n".encode("ascii"))
    except OSError as error:
        raise StartError(
            f"{folder}: certificates and token cannot be kept there ({error.strerror}); give another --dir"
        ) from None


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
    host: str,
    key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)  # digital signatures
    until = min(now + timedelta(days=SERVER_DAYS), ca.not_valid_after_utc)
    return (
        _builder(_name("sheepfold server"), ca.subject, key.public_key(), now, until)
        .add_extension(x509.SubjectAlternativeName(_names(host)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
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


def _names(host: str) -> list[x509.GeneralName]:
    """The address itself, and this machine: a tunnel ends at localhost."""
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    addresses = ["127.0.0.1", "::1"]
    try:
        addresses.append(str(ip_address(host.strip("[]").partition("%")[0])))
    except ValueError:
        names.append(x509.DNSName(host))
    return names + [x509.IPAddress(ip_address(each)) for each in dict.fromkeys(addresses)]


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
