"""Opening a websocket: name, connection, TLS where asked for, upgrade."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from typing import Any
from urllib.parse import urlsplit

from nconnect.config.proxy import UNPROXIED, Proxies
from nconnect.config.seed_url import pin_of
from nconnect.errors import NetworkError, RemoteProtocolError
from nconnect.io.errors import reason
from nconnect.io.net.dial import dial
from nconnect.io.net.readiness import receive_some
from nconnect.io.net.tls import check_pin, context_for, explained
from nconnect.io.net.tls_socket import TlsSocket, tls_handshake
from nconnect.io.net.websocket import WebSocket
from nconnect.model import join_addr
from nconnect.wire.upgrade import ClientUpgrade


async def connect(
    url: str,
    *,
    timeout_s: float,
    tls: ssl.SSLContext | None = None,
    verify: bool = True,
    proxies: Proxies = UNPROXIED,
) -> WebSocket:
    """Open a websocket to a `ws://` or `wss://` URL; raises `NetworkError` in one line.

    A fragment `#sha256=…` pins the server's certificate: any other is refused before anything is sent.
    Otherwise, with `verify`, it is verified by `tls`, or by name, dates and issuer.
    `proxies` says whether that goes through a proxy.
    """
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "wss" else 80)
    except ValueError as error:
        raise NetworkError(f"{url}: {error}") from error
    host = parts.hostname
    if parts.scheme not in ("ws", "wss") or not host:
        raise NetworkError(f"{url} is not a websocket address (ws://HOST:PORT or wss://HOST:PORT)")
    try:
        async with asyncio.timeout(timeout_s):
            sock: Any = await dial(host, port, proxies.to(host, port), admit=proxies.admit)
            if parts.scheme == "wss":
                pin = pin_of(url)
                context = tls or await context_for(pin, verify=verify)
                sock = await _secured(sock, host, port, context, pin, proxies)
            return await _upgrade(sock, parts.netloc, parts.path or "/")
    except TimeoutError:
        raise NetworkError(f"{url} did not answer within {timeout_s:g} s") from None
    except RemoteProtocolError as error:
        raise NetworkError(f"{url}: {error}") from error
    except OSError as error:
        raise NetworkError(f"{url}: {reason(error)}") from error


async def _secured(
    sock: socket.socket, host: str, port: int, context: ssl.SSLContext, pin: str | None, proxies: Proxies
) -> TlsSocket:
    """Takes the socket over, and closes it where it fails. Raises also `TlsError`."""
    try:
        secure = await tls_handshake(asyncio.get_running_loop(), sock, context, host)
    except ssl.SSLError as error:
        raise await explained(error, host, port, proxies, plain="ws") from error
    if pin is not None:
        try:
            check_pin(pin, secure.getpeercert(binary_form=True), join_addr(host, port))
        except BaseException:
            secure.close()
            raise
    return TlsSocket(secure)


async def _upgrade(sock: Any, netloc: str, path: str) -> WebSocket:
    """Takes the socket over, and closes it where it fails."""
    loop = asyncio.get_running_loop()
    try:
        upgrade = ClientUpgrade(netloc, path, os.urandom(16))
        sock.sendmsg([upgrade.request])
        early: bytes | None = None
        while early is None:
            early = upgrade.receive(await receive_some(loop, sock))
        return WebSocket(sock, client=True, loop=loop, early=early)
    except BaseException:
        sock.close()
        raise
