"""Asks STUN servers from sockets of its own: what NAT does this network have? `nconnect.nat.stun` decides.

The direct path asks from its data socket instead: what is found here holds for the network, and not for
any other socket's mapping.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from contextlib import suppress

from nconnect.io.clock import boottime
from nconnect.io.net.listening import source_for
from nconnect.io.net.readiness import next_datagram
from nconnect.model import Address, Endpoint
from nconnect.nat.stun import StunProbe, Verdict
from nconnect.wire.stun import MAX_STUN_BYTES

_Found = tuple[Verdict, Address]  # and our own address on the way to the first server


async def ask(servers: Sequence[Endpoint]) -> dict[int, _Found]:
    """What was found, by the IP version of the servers; takes 0.7 s at most.

    Versions without a server, or without a route to the first one, are left out. Raises OSError where
    sockets cannot be had.
    """
    by_version = {version: [s for s in servers if s[0].version == version] for version in (4, 6)}
    asked = {version: _ask(version, those) for version, those in by_version.items() if those}
    found = await asyncio.gather(*asked.values())
    return {version: one for version, one in zip(asked, found, strict=True) if one is not None}


async def _ask(version: int, servers: Sequence[Endpoint]) -> _Found | None:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    try:
        own = source_for(*servers[0])
    except OSError:
        return None  # no route leads there
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        return await _run(sock, StunProbe(servers, now=boottime(), rng=os.urandom)), own


async def _run(sock: socket.socket, probe: StunProbe) -> Verdict:
    while probe.verdict is None:
        while (send := probe.poll_output()) is not None:
            with suppress(OSError):  # no route to this one: it stays silent
                sock.sendto(send.data, (str(send.to[0]), send.to[1]))
        if (came := await next_datagram(sock, MAX_STUN_BYTES, probe)) is not None:
            probe.receive(*came, boottime())
    return probe.verdict
