"""Searches for inference servers: on loopback, and in a provider's own networks if told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from nconnect.doctor.inference import PORTS, PROBE_PATHS, Server, recognise
from nconnect.errors import NconnectError
from nconnect.io.http import http_client
from nconnect.io.net.dial import dial
from nconnect.io.system import listeners
from nconnect.model import Address, join_addr

_CONNECT_S = 0.7  # guessed: a neighbour answers within a millisecond, one that sleeps does not count
_SILENT_S = 0.2  # at other ports of a host that was silent at the first: its address is known by then
_ANSWER_S = 3.0  # a server that is loading a model is slow
AT_ONCE = 256  # connections under way; a home router's table holds thousands
MAX_HOSTS = 1024  # of one search: larger networks are not looked through


async def scan(
    hosts: Iterable[str],
    ports: Sequence[int] = tuple(PORTS),
    *,
    step: Callable[[int, int], None] = lambda done, of: None,
) -> list[Server]:
    """The inference servers among `hosts`, in their order. Connects to each port of each host.

    `step` is called after each connection: how many are done, of how many.
    """
    room = asyncio.Semaphore(AT_ONCE)
    wanted = list(hosts)
    first, *others = ports
    done, of = 0, len(wanted) * len(ports)

    async def look(host: str, port: int, patience_s: float) -> tuple[Server | None, bool]:
        nonlocal done
        async with room:
            answers = await _connect(host, port, patience_s)
            found = await _recognise(host, port) if answers else None
        done += 1
        step(done, of)
        return found, answers is None

    async def search(host: str) -> list[Server]:
        server, is_silent = await look(host, first, _CONNECT_S)
        patience_s = _SILENT_S if is_silent else _CONNECT_S
        more = await asyncio.gather(*(look(host, port, patience_s) for port in others))
        return [found for found in (server, *(found for found, _ in more)) if found is not None]

    return [server for found in await asyncio.gather(*map(search, wanted)) for server in found]


async def probe(host: str, port: int) -> Server | None:
    """The inference server at one port; None when nothing answers, or something else does."""
    return await _recognise(host, port) if await _connect(host, port, _CONNECT_S) else None


async def _connect(host: str, port: int, patience_s: float) -> bool | None:
    """Whether a connection is accepted; None: there was no answer."""
    try:
        async with asyncio.timeout(patience_s):
            (await dial(host, port)).close()
    except ConnectionRefusedError:
        return False
    except (OSError, TimeoutError):
        return None
    return True


async def _recognise(host: str, port: int) -> Server | None:
    for path in PROBE_PATHS:
        try:
            answer = await http_client.request(
                "GET", f"http://{join_addr(host, port)}{path}", timeout_s=_ANSWER_S
            )
        except NconnectError:
            continue
        server = recognise(host, port, path, answer.status, answer.header("server"), answer.body)
        if server is not None:
            return server
    return None


def listening(ports: Iterable[int] = PORTS) -> dict[int, list[Address]]:
    """On which addresses this machine listens on each of these TCP ports; absent: on none."""
    found = listeners.listeners()
    return {port: list(found["tcp", port]) for port in ports if ("tcp", port) in found}
