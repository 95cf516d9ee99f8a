"""Connecting to a peer's port for direct TCP streams."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence

from nconnect.errors import DropReason, NetworkError
from nconnect.io.errors import plain_reason
from nconnect.io.net.dial import dial
from nconnect.io.net.readiness import until_ready
from nconnect.io.net.stream_link import StreamLink
from nconnect.model import Endpoint
from nconnect.tunnel.paths.stream.door import PROVE_S
from nconnect.tunnel.paths.stream.keys import StreamKeys
from nconnect.tunnel.paths.stream.opening import Dialling
from nconnect.wire.stream import ANSWER_BYTES, NONCE_BYTES

DIAL_S = PROVE_S + 1.0  # the connection, and then what the listener allows


async def dial_first(peer: str, endpoints: Sequence[Endpoint], keys: StreamKeys) -> StreamLink:
    """Connect to all of these at once: the first that proves the peer's key is the stream, the others close.

    `keys`: of the session's current key pair. Takes at most `DIAL_S`. Raises `NetworkError` in one line.
    """
    race = _Race()
    calls = [
        asyncio.create_task(_dial(peer, each, keys, race), name=f"stream to {each}") for each in endpoints
    ]
    stream: StreamLink | None = None
    whys: list[str] = []
    try:
        for call in asyncio.as_completed(calls):
            found = await call
            if isinstance(found, StreamLink):
                stream = found
                return stream
            whys.append(found)
    finally:
        for one in calls:
            one.cancel()
        try:
            ended = await asyncio.gather(*calls, return_exceptions=True)
        except asyncio.CancelledError:
            if stream is not None:
                stream.close()
            raise
        for done in ended:
            if isinstance(done, StreamLink) and done is not stream:  # we are cancelled
                done.close()
    raise NetworkError("; ".join(whys))


class _Race:
    """Who is answered first confirms, and nobody else: the other side must not open two streams."""

    def __init__(self) -> None:
        self._is_won = False

    def win(self) -> bool:
        is_first, self._is_won = not self._is_won, True
        return is_first


async def _dial(peer: str, to: Endpoint, keys: StreamKeys, race: _Race) -> StreamLink | str:
    """The stream, or why there is none."""
    number = keys.take_number()
    if number is None:
        return f"{to}: too many attempts under these keys"
    machine = Dialling(keys, number, os.urandom(NONCE_BYTES))
    try:
        async with asyncio.timeout(DIAL_S):
            sock = await dial(str(to.address), to.port)
            try:
                confirm = await _confirmation(sock, machine)
                if not race.win():
                    raise NetworkError("another address was quicker")
                sock.send(confirm)  # a new socket has room
                return StreamLink(peer, sock, is_ours=True)
            except BaseException:
                sock.close()
                raise
    except TimeoutError:
        return f"{to}: no answer within {DIAL_S:g} s"
    except NetworkError as error:
        return f"{to}: {error}"
    except OSError as error:
        return f"{to}: {plain_reason(error)}"


async def _confirmation(sock: socket.socket, machine: Dialling) -> bytes:
    """What to send when the peer has proved its key. Reads no byte behind its answer."""
    loop = asyncio.get_running_loop()
    sock.send(machine.first)
    left = ANSWER_BYTES
    while True:
        try:
            data = sock.recv(left)
        except BlockingIOError:
            await until_ready(loop, sock.fileno(), loop.add_reader, loop.remove_reader)
            continue
        if not data:
            raise NetworkError("it closed the connection: it does not know this session, or is not the peer")
        left -= len(data)
        said = machine.receive(data)
        if isinstance(said, DropReason):
            raise NetworkError("it is not the peer")
        if said:
            return said
