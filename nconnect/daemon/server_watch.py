"""Watches the servers of `[[provide.server]]`: which of them answer, and which models they list.

Every `EVERY_S`, and at once when the configuration changes. Each is asked by itself, a few at a time, with a
bound on time and size; redirects are not followed. Answers are parsed in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from nconnect.daemon.settings import InForce
from nconnect.doctor.inference import models_of, recognise
from nconnect.errors import NconnectError
from nconnect.io.http import http_client
from nconnect.io.http.http import Response
from nconnect.io.net.dial import dial
from nconnect.model import ProvidedServer
from nconnect.offers.statement import MAX_MODELS
from nconnect.offers.told import LiveServer

EVERY_S = 5.0
CONNECT_S = 0.7  # guessed: a neighbour answers within a millisecond
LOOK_ANSWER_S = 3.0  # a server that is loading a model is slow
AT_ONCE = 8
MAX_ANSWER = 256 << 10  # a list of models with all their details
FAILURES = 2  # in a row: a server that is restarted is not withdrawn at once


class ServerWatch:
    """One interface's. `live`: by name, the servers that answer."""

    def __init__(self, in_force: InForce, changed: Callable[[], None]) -> None:
        """`changed` is called when `live` has."""
        self.live: dict[str, LiveServer] = {}
        self._in_force, self._changed = in_force, changed
        self._known: dict[str, ProvidedServer] = {}
        self._failures: dict[str, int] = {}
        self._moved = asyncio.Event()

    def config_changed(self, _: object = None) -> None:
        """Another configuration is in force: what is not in it is withdrawn at once."""
        servers = {server.name: server for server in self._in_force.file.config.provide.servers}
        if servers == self._known:
            return
        gone = [name for name in self.live if servers.get(name) != self._known.get(name)]
        self._known = servers
        for name in gone:
            del self.live[name]
        self._moved.set()
        if gone:
            self._changed()

    async def run(self) -> None:
        """Until cancelled; without servers it sleeps."""
        while True:
            self._moved.clear()
            await self.look()
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S if self._known else None):
                    await self._moved.wait()

    async def look(self) -> None:
        """Ask all of them once."""
        room = asyncio.Semaphore(AT_ONCE)

        async def look_at(server: ProvidedServer) -> None:
            async with room:
                is_there = await _listens(server)
                self._note(server, LiveServer() if is_there else None, only_whether=True)
                if is_there:
                    self._note(server, await ask(server))

        await asyncio.gather(*map(look_at, self._known.values()))

    def _note(self, server: ProvidedServer, found: LiveServer | None, *, only_whether: bool = False) -> None:
        name = server.name
        if self._known.get(name) != server:
            return  # the configuration has changed meanwhile
        before = self.live.get(name)
        self._failures[name] = 0 if found is not None else self._failures.get(name, 0) + 1
        if found is None:
            if before is None or self._failures[name] < FAILURES:
                return
            del self.live[name]
        elif found == before or (only_whether and before is not None):
            return
        else:
            self.live[name] = found
        self._changed()


async def _listens(server: ProvidedServer) -> bool:
    try:
        async with asyncio.timeout(CONNECT_S):
            (await dial(str(server.host), server.port)).close()
    except (OSError, TimeoutError, NconnectError):
        return False
    return True


async def ask(server: ProvidedServer) -> LiveServer:
    """What the server is, and its models: nothing where it is no inference server, or does not say."""
    base = server.url.removesuffix("/v1")
    for path in ("/v1/models", "/api/tags"):
        try:
            answer = await http_client.request(
                "GET", f"{base}{path}", timeout_s=LOOK_ANSWER_S, max_body_bytes=MAX_ANSWER
            )
        except NconnectError:
            continue
        found = await asyncio.to_thread(_read, server, path, answer)
        if found is not None:
            return found
    return LiveServer()


def _read(server: ProvidedServer, path: str, answer: Response) -> LiveServer | None:
    host, says = str(server.host), answer.header("server")
    known = recognise(host, server.port, path, answer.status, says, answer.body)
    models = models_of(path, answer.status, answer.body, MAX_MODELS)
    if known is None and not models:
        return None
    return LiveServer("Ollama" if known is None else known.name, models)
