"""Host names to addresses.

The system's `getaddrinfo` is asked, because it knows the hosts file, search domains and the rest of this
machine's configuration. It blocks, for up to a minute if no name server answers. Therefore:

- It runs in at most 16 threads, which end with the process. A look-up in progress is joined, never started
  twice.
- If it takes long, or fails temporarily, `name_servers` asks all configured servers in parallel. The first
  address that either finds is used, so that dead servers cost 0.3 s.
- Addresses are cached for a few seconds, so that several links that connect or retry at once ask once. That a
  name does not exist is cached for one second. A change of the network or of resolv.conf clears the cache.

There is one cache for each event loop, and one set of threads for the process.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from ipaddress import ip_address
from weakref import WeakKeyDictionary

from nconnect.io.net import name_servers

MAX_THREADS = 16
SLOW_S = 0.3  # guessed: a live name server answers sooner, unless it has to ask others
GRACE_S = 1.0  # guessed: how long the servers may take after the system has failed temporarily
_ANSWER_S = 4.0  # guessed; below the 5 s of an attempt, so that the error names the cause
_KEEP_S = 3.0  # below a connection's time-out, so that the next attempt asks again for a name that moved
KEEP_FAILURE_S = 1.0
MAX_KEPT = 256  # names
UNANSWERED = "no name server answered (see /etc/resolv.conf)"

Addresses = list[name_servers.AddressInfo]


async def stream_addresses(host: str, port: int, *, keep_s: float = _KEEP_S) -> Addresses:
    """The addresses of a TCP port, at least one; raises OSError like `socket.getaddrinfo`.

    `keep_s`: how old an answer may be. A look-up has `_ANSWER_S`; cancelling is safe.
    """
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        found = await _names().ask(host, keep_s)
    else:
        found = _look_up(host)  # asks nobody
    return [(*info[:4], (info[4][0], port, *info[4][2:])) for info in found]


def is_asking(host: str) -> bool:
    """Whether a look-up of this name is in progress, so that asking again would only join it."""
    return host in _names().asking


def forget() -> None:
    """Forget all answers, and join no earlier look-up, because the network has changed."""
    _names().forget()


def _look_up(host: str) -> Addresses:
    try:
        return socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)  # type: ignore[return-value]
    except UnicodeError:
        raise socket.gaierror(socket.EAI_NONAME, "not a host name") from None


# --- answers, and look-ups under way ---


@dataclass
class _Asking:
    task: asyncio.Task[Addresses]
    waiters: int = 0


class _Names:
    def __init__(self) -> None:
        self.asking: dict[str, _Asking] = {}
        self._answers: dict[str, tuple[float, Addresses | OSError]] = {}  # when it came, and what
        self._configured = _configuration()

    def forget(self) -> None:
        self.asking.clear()  # each goes on for those who wait for it
        self._answers.clear()
        _threads.forget()

    async def ask(self, host: str, keep_s: float) -> Addresses:
        if (configured := _configuration()) != self._configured:
            self._configured = configured
            self.forget()
        loop = asyncio.get_running_loop()
        at, kept = self._answers.get(host, (0.0, None))
        if isinstance(kept, OSError) and loop.time() - at < KEEP_FAILURE_S:
            raise type(kept)(*kept.args)  # a fresh one: each raise adds to the traceback
        if isinstance(kept, list) and loop.time() - at < keep_s:
            return kept
        asking = self.asking.get(host)
        if asking is None:
            asking = self.asking[host] = _Asking(loop.create_task(_find(host), name=f"look up {host}"))
            asking.task.add_done_callback(lambda _: self._done(host, asking))
        asking.waiters += 1
        try:
            await asyncio.wait([asking.task], timeout=_ANSWER_S)
            if not asking.task.done():
                raise socket.gaierror(socket.EAI_AGAIN, UNANSWERED)
            return asking.task.result()
        finally:
            asking.waiters -= 1
            if not asking.waiters and not asking.task.done():
                self._drop(host, asking)
                asking.task.cancel()
                await asyncio.wait([asking.task])

    def _drop(self, host: str, asking: _Asking) -> bool:
        """Let nobody join it any more; False when that is so already."""
        if self.asking.get(host) is not asking:
            return False
        del self.asking[host]
        return True

    def _done(self, host: str, asking: _Asking) -> None:
        current = self._drop(host, asking)
        if asking.task.cancelled():
            return
        error = asking.task.exception()
        if not current or _is_temporary(error) or not isinstance(error, OSError | None):
            return
        self._answers.pop(host, None)
        self._answers[host] = (asyncio.get_running_loop().time(), error or asking.task.result())
        if len(self._answers) > MAX_KEPT:
            del self._answers[next(iter(self._answers))]


_of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, _Names] = WeakKeyDictionary()


def _names() -> _Names:
    return _of_loop.setdefault(asyncio.get_running_loop(), _Names())


def _configuration() -> tuple[int, ...]:
    """Another one when resolv.conf is another."""
    try:
        found = os.stat(name_servers.RESOLV_CONF)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


async def _find(host: str) -> Addresses:
    """Ask the system, and also the name servers if it is slow."""
    system = asyncio.wrap_future(_threads.look_up(host))
    servers: asyncio.Task[Addresses] | None = None
    try:
        await asyncio.wait([system], timeout=SLOW_S)
        if system.done() and not _is_temporary(system.exception()):
            return system.result()
        servers = asyncio.create_task(name_servers.ask(host), name=f"ask name servers for {host}")
        if not system.done():
            await asyncio.wait([system, servers], return_when=asyncio.FIRST_COMPLETED)
        if system.done() and _is_temporary(system.exception()):
            await asyncio.wait([servers], timeout=GRACE_S)
        if servers.done() and (found := servers.result()):
            return found
        await asyncio.wait([system])
        return system.result()
    finally:
        if not system.cancel():
            system.exception()  # it is known, and wanted no more
        if servers is not None and not servers.done():
            servers.cancel()
            await asyncio.wait([servers])


def _is_temporary(error: BaseException | None) -> bool:
    """Whether the error says nothing about the name: no server answered, or none could be asked."""
    return isinstance(error, OSError) and not (
        isinstance(error, socket.gaierror) and error.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
    )


# --- threads ---


class _Threads:
    """Runs `_look_up` in at most MAX_THREADS threads; further names wait until one is free."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._waiting: deque[tuple[str, Future[Addresses]]] = deque()
        self._joinable: dict[str, Future[Addresses]] = {}

    def forget(self) -> None:
        """Join none of the look-ups that are under way."""
        with self._lock:
            self._joinable.clear()
            for _, future in self._waiting:
                future.set_exception(socket.gaierror(socket.EAI_AGAIN, "the network changed"))
            self._waiting.clear()

    def look_up(self, host: str) -> Future[Addresses]:
        """Shared by all who ask for this name meanwhile, and cannot be cancelled."""
        with self._lock:
            future = self._joinable.get(host)
            if future is not None:
                return future
            future = Future()
            future.set_running_or_notify_cancel()
            if self._running < MAX_THREADS:
                try:
                    threading.Thread(target=self._work, name="look up names", daemon=True).start()
                    self._running += 1
                except RuntimeError as error:  # "can't start new thread"
                    if not self._running:
                        future.set_exception(OSError(f"cannot look names up: {error}"))
                        return future
            self._joinable[host] = future
            self._waiting.append((host, future))
            return future

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._running -= 1
                    return
                host, future = self._waiting.popleft()
            try:
                found = _look_up(host)
            except Exception as error:
                self._forget_one(host, future)
                future.set_exception(error)
            else:
                self._forget_one(host, future)
                future.set_result(found)

    def _forget_one(self, host: str, future: Future[Addresses]) -> None:
        with self._lock:
            if self._joinable.get(host) is future:
                del self._joinable[host]


_threads = _Threads()
