"""Opening a websocket: name, connection, TLS where asked for, upgrade."""

from __future__ import annotations

import asyncio
import os
import ssl
from typing import Any
from urllib.parse import urlsplit

from nconnect.config.proxy import DIRECT, Proxies
from nconnect.errors import NetworkError, RemoteProtocolError
from nconnect.io.dial import dial
from nconnect.io.errors import reason
from nconnect.io.readiness import receive_some
from nconnect.io.tls_socket import TlsSocket, tls_handshake
from nconnect.io.websocket import WebSocket
from nconnect.wire.upgrade import ClientUpgrade


async def connect(
    url: str, *, timeout_s: float, tls: ssl.SSLContext | None = None, proxies: Proxies = DIRECT
) -> WebSocket:
    """Open a websocket to a `ws://` or `wss://` URL; raises `NetworkError` in one line.

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
            sock = await dial(host, port, proxies.to(host, port))
            return await _upgrade(sock, host, parts.netloc, parts.path or "/", parts.scheme == "wss", tls)
    except TimeoutError:
        raise NetworkError(f"{url} did not answer within {timeout_s:g} s") from None
    except RemoteProtocolError as error:
        raise NetworkError(f"{url}: {error}") from error
    except OSError as error:
        raise NetworkError(f"{url}: {reason(error)}") from error


async def _upgrade(
    sock: Any, host: str, netloc: str, path: str, secure: bool, tls: ssl.SSLContext | None
) -> WebSocket:
    """Takes the socket over, and closes it where it fails."""
    loop = asyncio.get_running_loop()
    try:
        if secure:
            context = tls or ssl.create_default_context()
            sock = TlsSocket(await tls_handshake(loop, sock, context, host))
        upgrade = ClientUpgrade(netloc, path, os.urandom(16))
        sock.sendmsg([upgrade.request])
        early: bytes | None = None
        while early is None:
            early = upgrade.receive(await receive_some(loop, sock))
        return WebSocket(sock, client=True, loop=loop, early=early)
    except BaseException:
        sock.close()
        raise
