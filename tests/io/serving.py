"""What the tests of HTTP share: a server that answers with the request it got, and a certificate."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import AsyncIterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nconnect.io.http.http import Request, Response
from nconnect.io.http.http_connection import Handler, Limits
from nconnect.io.http.http_server import HttpServer

QUICK = Limits(
    header_bytes=2048, body_bytes=4096, request_s=0.1, idle_s=0.1, write_s=0.2, connections=4,
    connections_per_host=4,
)  # fmt: skip


async def echo(ask: Request) -> Response:
    return Response.json(
        {
            "method": ask.method,
            "path": ask.path,
            "query": ask.query,
            "body": ask.body.decode(),
            "peer": ask.peer_host,
            "host": ask.host,
        }
    )


@contextlib.asynccontextmanager
async def url_of(handler: Handler) -> AsyncIterator[str]:
    """Where a server answers with this handler."""
    async with serving(handler) as server:
        yield f"http://127.0.0.1:{server.port}"


@contextlib.asynccontextmanager
async def serving(handler: Handler = echo, limits: Limits | None = None) -> AsyncIterator[HttpServer]:
    server = await HttpServer.listen_tcp("127.0.0.1", 0, handler, limits=limits)
    try:
        yield server
    finally:
        await server.close()
        await asyncio.sleep(0)


def localhost_certificate(folder: Path) -> Path:
    """A self-signed certificate for localhost, with its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "both.pem"
    pem.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return pem
