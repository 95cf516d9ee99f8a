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
_ANSWER_S = 3.0  # a server that is loading a model is slow
AT_ONCE = 128  # connections under way; a home router's table holds thousands
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
    wanted = [(host, port) for host in hosts for port in ports]
    done = 0

    async def look(host: str, port: int) -> Server | None:
        nonlocal done
        async with room:
            found = await probe(host, port)
        done += 1
        step(done, len(wanted))
        return found

    found = await asyncio.gather(*(look(host, port) for host, port in wanted))
    return [server for server in found if server is not None]


async def probe(host: str, port: int) -> Server | None:
    """The inference server at one port; None when nothing answers, or something else does."""
    try:
        async with asyncio.timeout(_CONNECT_S):
            (await dial(host, port)).close()
    except (OSError, TimeoutError):
        return None
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
