"""Certificates that a URL pins, and the errors for those that are refused."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from nconnect.errors import NetworkError, TlsError
from nconnect.io.http.http import Request, Response
from nconnect.io.http.http_client import request
from nconnect.io.http.http_server import HttpServer
from nconnect.io.net import tls, tls_socket, websocket_client
from tests.io.serving import serving, url_of
from tests.loops import run_on_both

DAY = timedelta(days=1)
Taken = list[bytes]


def certificate(
    folder: Path,
    name: str = "localhost",
    *,
    begins: timedelta = -DAY,
    ends: timedelta = DAY,
    issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None = None,
) -> Path:
    """A certificate for this name with its key, self-signed unless an issuer signs it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    by, signer = issuer or (subject, key)
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    path = folder / f"{x509.random_serial_number()}.pem"
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain) + built.public_bytes(pem)
    )
    return path


def pin(path: Path) -> str:
    text = path.read_text()
    der = ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN CERT") :])
    return hashlib.sha256(der).hexdigest()


@contextlib.asynccontextmanager
async def secure(path: Path) -> AsyncIterator[tuple[int, Taken]]:
    """A TLS server's port, and what it was sent; it answers each connection with an empty HTTP answer."""
    taken: Taken = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            if data := await reader.read(4096):
                taken.append(data)
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1], taken
    finally:
        server.close()


async def by_http(url: str) -> None:
    await request("GET", f"https://{url}", timeout_s=5.0)


async def by_websocket(url: str) -> None:
    await websocket_client.connect(f"wss://{url}", timeout_s=5.0)


BOTH = pytest.mark.parametrize("ask", [by_http, by_websocket])
Ask = Callable[[str], Awaitable[None]]


@BOTH
@pytest.mark.parametrize(
    ("name", "begins", "ends"),
    [
        ("localhost", -DAY, DAY),
        ("other", -DAY, DAY),
        ("localhost", -3 * DAY, -DAY),
        ("localhost", DAY, 3 * DAY),
    ],
    ids=["good", "wrong name", "expired", "not yet valid"],
)
def test_with_a_pin_nothing_else_counts(
    ask: Ask, name: str, begins: timedelta, ends: timedelta, tmp_path: Path
) -> None:
    path = certificate(tmp_path, name, begins=begins, ends=ends)

    async def test() -> None:
        async with secure(path) as (port, taken):
            for host in ("localhost", "127.0.0.1"):
                with contextlib.suppress(NetworkError):  # the websocket gets no upgrade here
                    await ask(f"{host}:{port}#sha256={pin(path)}")
            assert len(taken) == 2
            assert all(data.startswith(b"GET / HTTP/1.1\r\n") for data in taken)

    asyncio.run(test())


@BOTH
def test_any_other_certificate_is_refused_and_nothing_is_sent(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = certificate(tmp_path)
    good = ssl.create_default_context(cafile=str(path))
    monkeypatch.setattr(tls, "verifying", lambda: good)  # an authority that vouches for it changes nothing

    async def test() -> None:
        async with secure(path) as (port, taken):
            with pytest.raises(TlsError) as caught:
                await ask(f"localhost:{port}#sha256={'ab' * 32}")
            assert str(caught.value).endswith(
                f"localhost:{port}: the certificate is not the one that the seed URL names"
                f" (sha256 {pin(path)}): somebody may be in between, or the node has a new one"
                " (`nconnect node status` there shows it)"
            )
            with contextlib.suppress(NetworkError):
                await ask(f"localhost:{port}")
            assert len(taken) == 1, "the second, which is verified by name and issuer"

    asyncio.run(test())


@BOTH
def test_what_is_wrong_with_a_certificate_is_said_in_words(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = ec.generate_private_key(ec.SECP256R1())
    issuer = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")]), authority)
    today = f"this device's clock says {datetime.now(UTC):%Y-%m-%d}: set it"
    cases = [
        (certificate(tmp_path), False, "its certificate is self-signed: "),
        (certificate(tmp_path, issuer=issuer), False, "from an authority that this device does not know: "),
        (certificate(tmp_path, "other"), True, "its certificate is for another name than localhost: "),
        (certificate(tmp_path, begins=-3 * DAY, ends=-DAY), True, f"its certificate has expired: {today}"),
        (certificate(tmp_path, begins=DAY, ends=3 * DAY), True, f"its certificate is not valid yet: {today}"),
    ]

    async def test() -> None:
        for path, trusted, words in cases:
            context = ssl.create_default_context(cafile=str(path) if trusted else None)
            monkeypatch.setattr(tls, "verifying", lambda context=context: context)
            async with secure(path) as (port, taken):
                with pytest.raises(TlsError) as caught:
                    await ask(f"localhost:{port}")
                said = str(caught.value)
                assert said.startswith(f"localhost:{port}: "), said
                assert words in said
                assert f"pin it: https://localhost:{port}#sha256={pin(path)}" in said
                assert "\n" not in said
                assert taken == []

    asyncio.run(test())


def test_a_server_without_tls_is_named_as_such() -> None:
    async def test() -> None:
        async with serving() as server:
            place = f"127.0.0.1:{server.port}"
            with pytest.raises(TlsError, match=f"^{place} does not speak TLS: is it http://\\?$"):
                await by_http(place)
            with pytest.raises(TlsError, match=f"^{place} does not speak TLS: is it ws://\\?$"):
                await by_websocket(place)

    run_on_both(test)


def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    """Least of all to a server without TLS."""
    path = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    asked: list[Request] = []

    async def remember(ask: Request) -> Response:
        asked.append(ask)
        return Response(200)

    async def test() -> None:
        async with url_of(remember) as plain:

            async def redirect(ask: Request) -> Response:
                return Response(302, headers=(("location", plain),))

            server = await HttpServer.listen_tcp("127.0.0.1", 0, redirect, tls=context)
            try:
                url = f"https://localhost:{server.port}#sha256={pin(path)}"
                assert (await request("POST", url, timeout_s=5.0)).status == 302
            finally:
                await server.close()
        assert asked == []

    run_on_both(test)


def test_the_authorities_are_loaded_once() -> None:
    assert tls.verifying() is tls.verifying()
    assert tls.unverifying() is tls.unverifying()
    assert tls.verifying().verify_mode is ssl.CERT_REQUIRED
    assert tls.verifying().check_hostname


def test_handshakes_of_a_server_take_turns() -> None:
    """Hundreds whose first words come at once must not keep the loop from the sockets that talk already."""

    async def test() -> None:
        gate, passed = tls_socket._Gate(), []

        async def shake(number: int) -> None:
            await gate.turn()
            passed.append(number)

        most = tls_socket.HANDSHAKES_A_TURN
        tasks = [asyncio.create_task(shake(number)) for number in range(4 * most)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        before = 0
        while len(passed) < len(tasks) - 1:
            await asyncio.sleep(0)
            assert len(passed) <= before + most
            before = len(passed)
        assert passed == [0, *range(2, 4 * most)]

    run_on_both(test)
