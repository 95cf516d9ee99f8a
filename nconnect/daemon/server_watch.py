"""Watches the servers of `[[provide.server]]`: which of them answer, and which models they list.

While some peer has a session every `EVERY_S`, and at once when the configuration changes. A server that
refuses the connection is withdrawn at once. Each is asked by itself, a few at a time, with a bound on time
and size; redirects are not followed. Answers are parsed in a thread.
"""

from __future__ import annotations

import asyncio
import errno
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

EVERY_S = 2.0
MODELS_EVERY = 3  # looks: an answer is read and parsed
CONNECT_S = 0.7  # guessed: a neighbour answers within a millisecond
LOOK_ANSWER_S = 3.0  # a server that is loading a model is slow
AT_ONCE = 8
MAX_ANSWER = 256 << 10  # a list of models with all their details
FAILURES = 2  # in a row, that are no refusals: one packet that was lost withdraws nothing


class ServerWatch:
    """One interface's. `live`: by name, the servers that answer."""

    def __init__(
        self, in_force: InForce, changed: Callable[[], None], *, is_heard: Callable[[], bool] = lambda: True
    ) -> None:
        """`changed` is called when `live` has. `is_heard`: whether some peer has a session."""
        self.live: dict[str, LiveServer] = {}
        self._in_force, self._changed, self._is_heard = in_force, changed, is_heard
        self._known: dict[str, ProvidedServer] = {}
        self._failures: dict[str, int] = {}
        self._looks: dict[str, int] = {}
        self._busy: set[ProvidedServer] = set()  # those that are being looked at
        self._room = asyncio.Semaphore(AT_ONCE)
        self._moved = asyncio.Event()
        self._rests = False

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

    def session_up(self, _: object = None) -> None:
        """A peer has a session: look now, unless that is done anyway."""
        if self._rests:
            self._moved.set()

    async def run(self) -> None:
        """Until cancelled; without servers, or peers with a session, it sleeps."""
        async with asyncio.TaskGroup() as looks:
            while True:
                self._moved.clear()
                for server in self._known.values():
                    if server not in self._busy:  # a slow one delays no others
                        looks.create_task(self._look_at(server))
                self._rests = not self._known or not self._is_heard()
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if self._rests else EVERY_S):
                        await self._moved.wait()

    async def look(self) -> None:
        """Ask all of them once."""
        await asyncio.gather(*map(self._look_at, self._known.values()))

    async def _look_at(self, server: ProvidedServer) -> None:
        name = server.name
        self._busy.add(server)
        try:
            async with self._room:
                why = await _connects(server)
                is_new = name not in self.live
                self._note(server, None if why else LiveServer(), is_refused=why == errno.ECONNREFUSED)
                self._looks[name] = 1 if is_new else self._looks.get(name, 0) + 1
                if not why and self._looks[name] % MODELS_EVERY == 1:
                    self._note(server, await ask(server), is_whole=True)
        finally:
            self._busy.discard(server)

    def _note(
        self,
        server: ProvidedServer,
        found: LiveServer | None,
        *,
        is_refused: bool = False,
        is_whole: bool = False,
    ) -> None:
        name = server.name
        if self._known.get(name) != server:
            return  # the configuration has changed meanwhile
        before = self.live.get(name)
        self._failures[name] = 0 if found is not None else self._failures.get(name, 0) + 1
        if found is None:
            if before is None or (self._failures[name] < FAILURES and not is_refused):
                return
            del self.live[name]
        elif found == before or (before is not None and not is_whole):
            return
        else:
            self.live[name] = found
        self._changed()


async def _connects(server: ProvidedServer) -> int:
    """0, or the errno of why not."""
    try:
        async with asyncio.timeout(CONNECT_S):
            (await dial(str(server.host), server.port)).close()
    except OSError as error:  # a TimeoutError is one
        return error.errno or errno.ETIMEDOUT
    except NconnectError:
        return errno.EHOSTUNREACH
    return 0


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
