"""A small HTTP/1.1 server: the node's RPC, the control socket, metrics.

A server answers requests one after another for each connection (`http_connection`), whatever a client
pipelines; a client that is slow to ask, slow to read, or asks for too much is cut off by the `Limits`. A
handler whose caller goes away is cancelled.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

from nconnect.errors import HostError
from nconnect.io.errors import plain_reason
from nconnect.io.http.http_connection import Clients, Handler, HttpConnection, Limits
from nconnect.io.net.accepting import Acceptor
from nconnect.io.net.socket_transport import SocketTransport
from nconnect.io.net.tls_socket import TlsSocket, tls_handshake


class HttpServer:
    """One listening socket and its connections, or, made directly, only those that it is given to `adopt`."""

    def __init__(self, handler: Handler, limits: Limits) -> None:
        self._handler = handler
        self._limits = limits
        self._all = Clients()
        self._server: asyncio.Server | Acceptor | None = None
        self._opening: set[asyncio.Task[Any]] = set()  # connections whose TLS handshake is under way
        self.port = 0  # TCP only

    @classmethod
    async def listen_tcp(
        cls,
        host: str,
        port: int,
        handler: Handler,
        *,
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> HttpServer:
        """Listen on one address; port 0 takes a free one. Raises `HostError` in one line."""
        self = cls(handler, limits or Limits())
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._connection,
                host,
                port,
                ssl=tls,
                ssl_handshake_timeout=self._limits.request_s if tls else None,
                backlog=1024,
            )
            self.port = self._server.sockets[0].getsockname()[1]
        except OSError as error:
            raise HostError(
                f"cannot listen on {host} port {port}: {plain_reason(error)}"
                " (is another one running? choose another address or port)"
            ) from error
        return self

    @classmethod
    async def listen_on(
        cls,
        listener: socket.socket,
        handler: Handler,
        *,
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
        admit: Callable[[str], bool] | None = None,
    ) -> HttpServer:
        """Serve on a socket that listens already, and is the server's from now on.

        `admit(ip)` is asked before a connection costs anything.
        """
        self = cls(handler, limits or Limits())
        if listener.family == socket.AF_UNIX:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(self._connection, sock=listener, backlog=128)
        else:
            self.port = listener.getsockname()[1]
            self._server = Acceptor(listener, partial(self._open, tls), admit)
        return self

    def adopt(self, sock: Any, received: bytes) -> None:
        """Serve an accepted connection, a non-blocking `socket.socket` or `TlsSocket`, whose first bytes
        somebody has read. Closing it is the server's from now on."""
        SocketTransport(asyncio.get_running_loop(), sock, self._connection()).start(received)

    async def close(self) -> None:
        """Stop listening, cancel the handlers that run, close every connection. May be called twice."""
        if self._server is not None:
            self._server.close()
        for opening in self._opening:
            opening.cancel()
        tasks = [c.task for c in self._all.connections if c.task is not None]
        for connection in list(self._all.connections):
            connection.abort()
        await asyncio.gather(*tasks, *self._opening, return_exceptions=True)
        await asyncio.sleep(0)  # what was aborted is closed in the loop's next turn

    def _open(self, tls: ssl.SSLContext | None, sock: socket.socket, host: str) -> None:
        """Serve a connection; with TLS its handshake has a request's time."""
        opening = asyncio.get_running_loop().create_task(self._connect(tls, sock), name=f"http from {host}")
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _connect(self, tls: ssl.SSLContext | None, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is None:
                await loop.connect_accepted_socket(self._connection, sock)
                return
            async with asyncio.timeout(self._limits.request_s):
                self.adopt(TlsSocket(await tls_handshake(loop, sock, tls, None)), b"")
        except (OSError, TimeoutError):
            sock.close()  # it was gone, or its handshake failed

    def _connection(self) -> asyncio.Protocol:
        return HttpConnection(self._handler, self._limits, self._all)
