"""Asking an HTTP/1.1 server once: seeds, a machine's clock, what runs at a port. On h11."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import urlsplit

import h11

from nconnect.config.proxy import UNPROXIED, Proxies
from nconnect.config.seed_url import pin_of
from nconnect.errors import NetworkError, RemoteProtocolError
from nconnect.io.errors import plain_reason
from nconnect.io.http.http import Response, framed, header_texts
from nconnect.io.net.dial import dial, dial_from
from nconnect.io.net.tls import check_pin, context_for, explained
from nconnect.model import Address, join_addr

_READ_BYTES = 64 * 1024
_MAX_PIECES = 1024  # guessed: chunks and interim answers, each of which costs what 100 bytes do


async def request(
    method: str,
    url: str,
    *,
    body: bytes = b"",
    headers: Iterable[tuple[str, str]] = (),
    timeout_s: float,
    max_body_bytes: int = 1 << 20,
    cut: bool = False,
    unix_socket: Path | None = None,
    tls: ssl.SSLContext | None = None,
    proxies: Proxies = UNPROXIED,
    on_connected: Callable[[], None] | None = None,
    source: Address | None = None,
) -> Response:
    """Ask an `http://` or `https://` URL (through `unix_socket` if given) once, on a connection of its own.

    A fragment `#sha256=…` pins the server's certificate: any other is refused before anything is sent.
    Otherwise it is verified, by `tls` or by name, dates and issuer. Redirects are not followed.
    `proxies` says whether that goes through a proxy (by CONNECT, also without TLS). `on_connected` is told
    when somebody has taken the connection, or a proxy is asked for it. `cut`: of a body longer than
    `max_body_bytes` the beginning is returned, a byte more than that at least; otherwise it is an error.
    `source`: this machine's address to ask an address of the same IP version from, without TLS or a proxy.
    Raises `NetworkError` when the server cannot be reached or does not answer within `timeout_s`, and
    `RemoteProtocolError` when what it answers is no HTTP, or is too large.
    """
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise NetworkError(f"{url}: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise NetworkError(f"{url} is not an HTTP address (http://HOST:PORT)")
    server = str(unix_socket) if unix_socket else join_addr(parts.hostname, port)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout_s):
            if unix_socket is not None:
                reader, writer = await asyncio.open_unix_connection(str(unix_socket))
            elif source is not None:
                sock = await dial_from(source, parts.hostname, port)
                reader, writer = await asyncio.open_connection(sock=sock)
            else:
                if on_connected is not None and proxies.to(parts.hostname, port) is not None:
                    on_connected()  # the rest is the proxy's to do: asking it twice would not help
                reader, writer = await _connect(
                    parts.hostname, port, tls, proxies, pin_of(url), secure=parts.scheme == "https"
                )
            if on_connected is not None:
                on_connected()
            wire = h11.Connection(h11.CLIENT, max_incomplete_event_size=16 * 1024)
            ask = h11.Request(
                method=method,
                target=target,
                headers=[
                    ("Host", parts.netloc.rpartition("@")[2]),
                    ("Connection", "close"),
                    ("Content-Length", str(len(body))),
                    *headers,
                ],
            )
            writer.write((wire.send(ask) or b"") + framed(wire, body))
            return await _read_response(wire, reader, max_body_bytes, cut)
    except TimeoutError:
        raise NetworkError(f"{server} did not answer within {timeout_s:g} s") from None
    except OSError as error:
        raise NetworkError(f"{server}: {plain_reason(error)}") from error
    except h11.LocalProtocolError as error:
        raise NetworkError(f"{url} cannot be asked for: {error}") from error
    except h11.RemoteProtocolError as error:
        raise RemoteProtocolError(f"{server} does not speak HTTP: {error}") from error
    finally:
        if writer is not None:
            writer.transport.abort()  # the answer is whole, or not wanted any more


async def _connect(
    host: str, port: int, tls: ssl.SSLContext | None, proxies: Proxies, pin: str | None, *, secure: bool
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Raises also `TlsError`, with which nothing was sent."""
    sock = await dial(host, port, proxies.to(host, port), admit=proxies.admit)
    try:
        if not secure:
            return await asyncio.open_connection(sock=sock)
        context = tls or await context_for(pin)
        reader, writer = await asyncio.open_connection(sock=sock, ssl=context, server_hostname=host)
    except ssl.SSLError as error:
        raise await explained(error, host, port, proxies, plain="http") from error
    except BaseException:
        sock.close()
        raise
    if pin is not None:
        try:
            certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            check_pin(pin, certificate, join_addr(host, port))
        except BaseException:
            writer.transport.abort()
            raise
    return reader, writer


async def _read_response(
    wire: h11.Connection, reader: asyncio.StreamReader, max_body: int, cut: bool
) -> Response:
    head: h11.Response | None = None
    body = bytearray()
    pieces = 0
    while True:
        event = wire.next_event()
        pieces += isinstance(event, h11.InformationalResponse) or (
            isinstance(event, h11.Data) and event.chunk_start
        )
        if pieces > _MAX_PIECES:
            raise RemoteProtocolError(f"the answer comes in more than {_MAX_PIECES} pieces")
        if event is h11.NEED_DATA:
            wire.receive_data(await reader.read(_READ_BYTES))
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > max_body and cut and head is not None:
                return Response(head.status_code, bytes(body), header_texts(head.headers))
            if len(body) > max_body:
                raise RemoteProtocolError(f"the answer is longer than {max_body} bytes")
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return Response(head.status_code, bytes(body), header_texts(head.headers))
        elif isinstance(event, h11.ConnectionClosed):
            raise RemoteProtocolError("the connection was closed without an answer")
