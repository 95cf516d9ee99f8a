"""A node's TLS certificate: loaded from files, or its own, made once and kept with its key, mode 0600.

Clients pin it by its SHA-256 (`https://HOST:PORT#sha256=…` as a seed), so its names and dates do not matter
to them. They are for clients that verify it against a list of trusted certificates.
"""

from __future__ import annotations

import hashlib
import os
import re
import ssl
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path, PurePath

from nconnect.errors import HostError
from nconnect.io.errors import as_host_error
from nconnect.io.files.trusted import open_path, read_file, status_of, write_atomically

_MAX_BYTES = 1 << 20
VALID_DAYS = 20 * 365  # clients that pin it have to be told when it changes
_SLACK = timedelta(days=1)  # of clocks that are slow
_FIRST = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def make_unless_there(path: Path, hosts: Iterable[str]) -> None:
    """Make a certificate for these names and addresses at `path`, unless there is one.

    Raises `HostError` in one line.
    """
    with as_host_error(f"cannot write {path}"):
        if status_of(path) is None:
            write_atomically(path, _make(hosts))


def fingerprint(path: PurePath) -> str:
    """SHA-256 of the (first) certificate's DER in a PEM file, 64 hex digits; raises `HostError`."""
    with as_host_error(f"cannot read {path}"):
        text = read_file(Path(path), _MAX_BYTES).decode(errors="replace")
    found = _FIRST.search(text)
    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(found[0] if found else "")).hexdigest()
    except ValueError as error:
        raise HostError(f"{path} holds no certificate: give a PEM file") from error


def server_context(cert: PurePath, key: PurePath | None) -> ssl.SSLContext:
    """What a server presents: PEM files of the chain and its key, which may be one. Raises `HostError`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    descriptors: list[int] = []
    try:
        for path in (cert, key or cert):
            with as_host_error(f"cannot read {path}"):
                descriptors.append(open_path(Path(path)))
        # By descriptor: the files that were checked. Without a password: a prompt would hang a service.
        opened = [f"/proc/self/fd/{fd}" for fd in descriptors]
        context.load_cert_chain(opened[0], opened[1], password=lambda: b"")
    except (ssl.SSLError, ValueError, OSError) as error:
        why = getattr(error, "reason", None) or str(error)
        why = str(why).replace("_", " ").lower()
        raise HostError(
            f"{cert} and {key or cert} are no TLS certificate and its key ({why}):"
            " give PEM files that belong together, without a password"
        ) from error
    finally:
        for fd in descriptors:
            os.close(fd)
    return context


def _make(hosts: Iterable[str]) -> bytes:
    # Imported here: a node alone needs them, and they cost 30 ms.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nconnect node")])
    now = datetime.now(UTC)
    names: list[x509.GeneralName] = []
    for host in dict.fromkeys((*hosts, "localhost", "127.0.0.1", "::1")):
        try:
            names.append(x509.IPAddress(ip_address(host)))
        except ValueError:
            if host.isascii():  # others need their A-label, which the caller did not give
                names.append(x509.DNSName(host))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SLACK)
        .not_valid_after(now + timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private + certificate.public_bytes(pem)
