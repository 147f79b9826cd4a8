"""Certificates for edges and for their clients, of an authority of our own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY: Final = timedelta(days=1)

Parts = Sequence[tuple[x509.ObjectIdentifier, str]]
"""What a subject consists of, in order."""


class Authority:
    """Signs client certificates.

    Args:
        folder: Where the certificates are kept.
        name: What it is called.
    """

    def __init__(self, folder: Path, name: str = "Clients of Acme") -> None:
        self._folder = folder / name.replace(" ", "-")
        self._folder.mkdir()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.file = self._folder / "ca.crt"
        """What an edge knows it by."""
        may_sign = x509.BasicConstraints(ca=True, path_length=0)
        certificate = _begun(self._name, self._name, self._key, DAY).add_extension(may_sign, critical=True)
        self.file.write_bytes(_text(certificate.sign(self._key, hashes.SHA256())))
        self._issued = 0

    def issue(self, subject: Parts, *, lifetime: timedelta = DAY) -> Path:
        """Return a file with a client's certificate and key; a negative lifetime is one that has ended."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(*part) for part in subject])
        for_clients = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        certificate = _begun(name, self._name, key, lifetime).add_extension(for_clients, critical=False)
        self._issued += 1
        file = self._folder / f"{self._issued}.pem"
        file.write_bytes(_text(certificate.sign(self._key, hashes.SHA256())) + _text(key))
        return file


def make_certificate(folder: Path, host: str = "localhost", lifetime: timedelta = DAY) -> None:
    """Write `tls.crt` and `tls.key` for a host, signed by itself; a second time they are replaced."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    hosts = x509.SubjectAlternativeName([x509.DNSName(host)])
    certificate = _begun(name, name, key, lifetime).add_extension(hosts, critical=False)
    certificate = certificate.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    (folder / "tls.crt").write_bytes(_text(certificate.sign(key, hashes.SHA256())))
    (folder / "tls.key").write_bytes(_text(key))


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    certificate = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    return (
        certificate.serial_number(x509.random_serial_number())
        .not_valid_before(now - 2 * DAY)
        .not_valid_after(now + lifetime)
    )


def _text(found: x509.Certificate | ec.EllipticCurvePrivateKey) -> bytes:
    if isinstance(found, x509.Certificate):
        return found.public_bytes(serialization.Encoding.PEM)
    return found.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
