"""What the HTTP client accepts as an answer, and its error for everything else."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from nconnect.errors import NetworkError, RemoteProtocolError
from nconnect.io.http.http_client import request
from nconnect.io.http.http_server import HttpServer
from tests.io.serving import QUICK, echo, localhost_certificate
from tests.loops import run_on_both, until


@contextlib.asynccontextmanager
async def answering(data: bytes, *, then_close: bool = True) -> AsyncIterator[str]:
    """A server that answers anything with `data`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(data)
        if not then_close:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
        await asyncio.sleep(0.01)


def test_an_answer_in_very_many_chunks_is_given_up() -> None:
    """Each costs a hundred times what its byte does, and the loop waits for all that came together."""

    async def test() -> None:
        head, chunk, end = (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"1\r\nx\r\n",
            b"0\r\n\r\n",
        )
        async with answering(head + chunk * 1024 + end) as url:
            assert (await request("GET", url, timeout_s=5.0)).body == b"x" * 1024
        async with answering(head + chunk * 1025 + end) as url:
            with pytest.raises(RemoteProtocolError, match="more than 1024 pieces"):
                await request("GET", url, timeout_s=5.0)

    run_on_both(test)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "does not speak HTTP"),
        (b"", "does not speak HTTP|reset"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + bytes(5000), "longer than 1000 bytes"),
        (b"HTTP/1.1 102 \r\n\r\n" * 1025, "more than 1024 pieces"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort", "does not speak HTTP|reset"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 40_000, "does not speak HTTP|reset"),
    ],
)
def test_the_client_refuses_what_is_no_answer(data: bytes, why: str) -> None:
    async def test() -> None:
        async with answering(data) as url:
            with pytest.raises((RemoteProtocolError, NetworkError), match=why):
                await request("GET", url, timeout_s=5.0, max_body_bytes=1000)

    run_on_both(test)


def test_the_client_gives_up_on_a_server_that_says_nothing() -> None:
    async def test() -> None:
        async with answering(b"", then_close=False) as url:
            with pytest.raises(NetworkError, match=r"did not answer within 0\.05 s"):
                await request("GET", url, timeout_s=0.05)

    run_on_both(test)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1:1/", "connection refused|connect call failed"),
        ("ftp://127.0.0.1/", "not an HTTP address"),
        ("http:///x", "not an HTTP address"),
        ("http://127.0.0.1:99999/", "[Pp]ort"),
        ("http://127.0.0.1:1/a b", "cannot be asked for|refused|failed"),
    ],
)
def test_the_client_says_what_is_wrong_with_an_address(url: str, why: str) -> None:
    async def test() -> None:
        with pytest.raises(NetworkError, match=why) as caught:
            await request("GET", url, timeout_s=5.0)
        assert "\n" not in str(caught.value)

    run_on_both(test)


def test_https(tmp_path: Path) -> None:
    pem = localhost_certificate(tmp_path)
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(pem)
    theirs = ssl.create_default_context(cafile=str(pem))
    patient = replace(QUICK, request_s=10.0)  # the handshake's limit too

    async def test() -> None:
        server = await HttpServer.listen_tcp("127.0.0.1", 0, echo, limits=patient, tls=ours)
        try:
            url = f"https://localhost:{server.port}/"
            answer = await request("POST", url, body=b"hi", timeout_s=5.0, tls=theirs)
            assert b'"body":"hi"' in answer.body
            answer = await request("POST", url, body=bytes(5000), timeout_s=5.0, tls=theirs)
            assert answer.status == 413
            with pytest.raises(NetworkError, match="its certificate is self-signed"):
                await request("GET", url, timeout_s=5.0)
        finally:
            await server.close()
        await until(lambda: len(asyncio.all_tasks()) == 1)  # the loop's own, for the failed handshake

    run_on_both(test)
