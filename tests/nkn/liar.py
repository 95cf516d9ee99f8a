"""A node and its seed that say what a test wants, true or not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
from collections.abc import AsyncIterator, Callable

from nconnect.io.http.http import Request, Response
from nconnect.io.http.http_server import HttpServer
from nconnect.io.net.listening import bind_tcp
from nconnect.io.net.websocket import WebSocket
from nconnect.io.net.websocket_server import WebSocketServer
from nconnect.wire import actions
from nconnect.wire.jsonrpc import NodeInfo

HASH = bytes(32)


class Guest:
    """One client's connection at a liar."""

    def __init__(self, liar: Liar, socket: WebSocket) -> None:
        self.liar = liar
        self.socket = socket
        self.address = ""
        self.closed = False
        asyncio.get_running_loop().call_soon(lambda: self.closed or liar.on_open(self))

    def say(self, action: actions.NodeAction) -> None:
        self.socket.send_text(action.encode())  # type: ignore[union-attr]

    def challenge(self) -> None:
        self.say(actions.AuthChallenge(bytes(32)))

    def let_in(self) -> None:
        self.say(actions.ClientSet(self.liar.info, HASH))

    def on_text(self, data: memoryview) -> None:
        login = actions.parse_client_action(data)
        assert isinstance(login, actions.SetClient)
        self.address = login.address
        self.liar.on_login(self)

    def on_binary(self, data: memoryview) -> None:
        self.liar.frames += 1

    def on_pong(self) -> None: ...
    def on_writable(self) -> None: ...

    def on_closed(self, why: str) -> None:
        self.closed = True


class Liar:
    """Honest, unless a test changes what it does."""

    def __init__(self) -> None:
        self.on_open: Callable[[Guest], None] = Guest.challenge
        self.on_login: Callable[[Guest], object] = Guest.let_in
        self.answer: Callable[[str], object] = self.honest
        self.state = "PERSIST_FINISHED"
        self.connects = 0
        self.asked: list[str] = []
        self.frames = 0
        self.info: NodeInfo
        self.seed = ""

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, tls: ssl.SSLContext | None = None) -> AsyncIterator[Liar]:
        self = cls()
        sockets = WebSocketServer(bind_tcp("127.0.0.1", 0), self._accept, tls)
        http = await HttpServer.listen_tcp("127.0.0.1", 0, self._rpc)
        self.seed = f"http://127.0.0.1:{http.port}"
        self.info = NodeInfo(f"127.0.0.1:{sockets.port}", f"127.0.0.1:{http.port}", os.urandom(32).hex(), "")
        try:
            yield self
        finally:
            await sockets.close()
            await http.close()
            await asyncio.sleep(0)

    def honest(self, method: str) -> object:
        return {"syncState": self.state} if method == "getnodestate" else self.info.to_json()

    def _accept(self, socket: WebSocket) -> Guest:
        self.connects += 1
        return Guest(self, socket)

    async def _rpc(self, request: Request) -> Response:
        asked = json.loads(request.body)
        self.asked.append(asked["method"])
        result = self.answer(asked["method"])
        if asyncio.iscoroutine(result):
            result = await result
        if isinstance(result, Response):
            return result
        return Response.json({"id": asked["id"], "jsonrpc": "2.0", "result": result})
