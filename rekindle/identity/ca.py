"""A certificate authority of one state folder and the server certificate it signs.

The CA may only speak for localhost, loopback addresses and the ingress domain (name constraints, critical), so a
client that trusts it trusts nothing else by it. Key identifiers and key usage are set as RFC 5280 wants them: Python
3.13 verifies with X509_STRICT. OpenSSL matches no wildcard directly below a top-level name, so `*.localhost` serves
browsers only; everybody else connects to `localhost`.

Keys are written before certificates and a pair that does not match is made anew: a crash between the two heals.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rekindle.core.errors import Invalid
from rekindle.identity import private

_CA_DAYS = 3650
_SERVER_DAYS = 396  # clients refuse 398 and more; one day of it lies in the past
_RENEW_DAYS = 30
_BACKDATE = timedelta(days=1)  # clients whose clock is behind
_LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


@dataclass(frozen=True, slots=True)
class Files:
    ca_pem: Path
    server_pem: Path
    server_key: Path


@dataclass(frozen=True, slots=True)
class _Pair:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def ensure(folder: Path, *, domain: str, now_ms: int) -> Files:
    """Make or renew the CA and the server certificate in `folder`.

    Either is replaced when less than 30 days are left; the CA also when it does not cover `domain`, the server
    certificate also when its names differ or another CA signed it. Raises Invalid for files that hold neither.
    """
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    authority = _read(folder / "ca.pem", folder / "ca.key")
    if authority is None or _expires_within(authority, now, days=_RENEW_DAYS) or not _covers(authority, domain):
        authority = _new_ca(domain, now)
        _write(folder / "ca.pem", folder / "ca.key", authority)
    server = _read(folder / "server.pem", folder / "server.key")
    if server is None or not _still_good(server, authority, domain, now):
        _write(folder / "server.pem", folder / "server.key", _new_server(authority, domain, now))
    return Files(folder / "ca.pem", folder / "server.pem", folder / "server.key")


def _still_good(server: _Pair, authority: _Pair, domain: str, now: datetime) -> bool:
    if _expires_within(server, now, days=_RENEW_DAYS):
        return False
    if _names(server) != x509.SubjectAlternativeName(_server_names(domain)):
        return False
    try:
        server.certificate.verify_directly_issued_by(authority.certificate)
    except (InvalidSignature, ValueError):
        return False
    return True


def _expires_within(pair: _Pair, now: datetime, *, days: int) -> bool:
    return pair.certificate.not_valid_after_utc - now < timedelta(days=days)


def _covers(authority: _Pair, domain: str) -> bool:
    constraints = authority.certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    return constraints == _constraints(domain)


def _names(server: _Pair) -> x509.SubjectAlternativeName:
    return server.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


# --- making


def _new_ca(domain: str, now: datetime) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    name = _name(f"Rekindle local CA {serial:x}"[:40])  # a name of its own: two CAs can sit in one trust store
    builder = (
        _builder(name, name, key, now, days=_CA_DAYS)
        .serial_number(serial)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(_constraints(domain), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    return _Pair(builder.sign(key, hashes.SHA256()), key)


def _new_server(authority: _Pair, domain: str, now: datetime) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.certificate
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    by = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    builder = (
        _builder(_name("Rekindle"), issuer.subject, key, now, days=_SERVER_DAYS)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectAlternativeName(_server_names(domain)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(by, critical=False)
    )
    return _Pair(builder.sign(authority.key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, *, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _constraints(domain: str) -> x509.NameConstraints:
    names = [x509.DNSName("localhost"), *([x509.DNSName(domain)] if domain else [])]
    return x509.NameConstraints([*names, *(x509.IPAddress(network) for network in _LOOPBACK)], None)


def _server_names(domain: str) -> list[x509.GeneralName]:
    dns = ["localhost", "*.localhost", *([domain, f"*.{domain}"] if domain else [])]
    addresses = [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]
    return [*(x509.DNSName(name) for name in dns), *(x509.IPAddress(address) for address in addresses)]


# --- files


def _write(certificate: Path, key: Path, pair: _Pair) -> None:
    encoded = pair.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    private.write(key, encoded)
    private.write(certificate, pair.certificate.public_bytes(serialization.Encoding.PEM))


def _read(certificate: Path, key: Path) -> _Pair | None:
    """The pair in these files; None when one is absent or they do not belong together."""
    if not (certificate.exists() and key.exists()):
        return None
    try:
        loaded = serialization.load_pem_private_key(key.read_bytes(), None)
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except ValueError as err:
        raise Invalid(
            f"{key} and {certificate} must hold a PEM key and its certificate; move them away to get new ones"
        ) from err
    if not isinstance(loaded, ec.EllipticCurvePrivateKey) or found.public_key() != loaded.public_key():
        return None
    return _Pair(found, loaded)
