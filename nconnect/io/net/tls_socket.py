"""TLS on a non-blocking socket, with the standard library's ssl."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from nconnect.io.net.readiness import until_ready
from nconnect.model import Buffer

HANDSHAKES_A_TURN = 8  # a server's first step takes 0.2 ms (P-256, measured): sockets that talk go on between


class TlsSocket:
    """A non-blocking TLS socket with the two calls that `WebSocket` uses, on the standard library's ssl."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self.socket = sock
        self.fileno = sock.fileno
        self.getpeername = sock.getpeername
        self.close = sock.close
        self.pending = sock.pending

    def recv_into(self, buffer: memoryview) -> int:
        try:
            return self.socket.recv_into(buffer)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None

    def sendmsg(self, parts: Sequence[Buffer]) -> int:
        try:
            return self.socket.send(parts[0] if len(parts) == 1 else b"".join(parts))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None


async def tls_handshake(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, context: ssl.SSLContext, host: str | None
) -> ssl.SSLSocket:
    """Wrap a connected socket; `host` None on the server's side, where handshakes take turns."""
    gate = _gates.setdefault(loop, _Gate()) if host is None else None
    secure = context.wrap_socket(
        sock, server_side=host is None, server_hostname=host, do_handshake_on_connect=False
    )
    try:
        while True:
            try:
                secure.do_handshake()
                return secure
            except ssl.SSLWantReadError:
                await until_ready(loop, secure.fileno(), loop.add_reader, loop.remove_reader)
                if gate is not None:
                    await gate.turn()
            except ssl.SSLWantWriteError:
                await until_ready(loop, secure.fileno(), loop.add_writer, loop.remove_writer)
    except BaseException:
        secure.close()  # `sock` gave its descriptor up
        raise


class _Gate:
    """Lets a few wait no longer in each turn of a loop, first come first served."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def turn(self) -> None:
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._open)
        self._waiting.append(turn)
        await turn

    def _open(self) -> None:
        for _ in range(min(HANDSHAKES_A_TURN, len(self._waiting))):
            turn = self._waiting.popleft()
            if not turn.done():  # else it was cancelled
                turn.set_result(None)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._open)


_gates: WeakKeyDictionary[asyncio.AbstractEventLoop, _Gate] = WeakKeyDictionary()
