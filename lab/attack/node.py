"""`python -m lab.attack.node`: a node that relays properly, and on command attacks as a hostile one could.

It knows what every node knows: who is logged in, and all frames that pass. A command is the name of an attack
and the address of its victim.
"""

from __future__ import annotations

import asyncio
import os
import struct
import zlib
from collections import deque
from collections.abc import Sequence
from typing import Any

from lab.attack.commands import obey
from nconnect.crypto.keys import Identity
from nconnect.errors import RemoteProtocolError
from nconnect.io.nkn.node_server import NodeServer
from nconnect.model import STUN_PORTS, NodeConfig
from nconnect.node.settings import NodeSettings
from nconnect.wire.message import Message
from nconnect.wire.nkn import InboundMessage, decode_client_message, inbound_prefix

KEPT = 256  # messages to each client that are kept for replay
MANY = 200
MAX_CONNECTIONS = 256  # so that an attacker soon has as many
DATA_NONCE_BYTES = 16
HOSTILE_WORDS = "\x1b[2J\x1b]0;owned\x07\u202eevil"
HONEST = (
    f"phone.{Identity(b'honest device'.ljust(32)).public_key.hex()}"  # unknown senders that a node may invent
)


class Tap:
    """A client's websocket, which keeps what passes."""

    def __init__(self, websocket: Any) -> None:
        self._websocket = websocket
        self.data: deque[tuple[str, bytes]] = deque(maxlen=KEPT)  # (source, payload)
        self.first: list[tuple[str, bytes]] = []  # of the first session
        self.handshakes: list[tuple[str, bytes]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._websocket, name)

    def send_binary(self, parts: Sequence[Any]) -> None:
        whole = b"".join(parts)
        self._websocket.send_binary((whole,))
        message = decode_client_message(whole)
        assert isinstance(message, InboundMessage)
        kept = (message.src, bytes(message.payload))
        try:
            nonce = Message.decode(kept[1]).nonce
        except RemoteProtocolError:
            return  # another attacker's
        if len(nonce) == DATA_NONCE_BYTES:
            self.data.append(kept)
            if len(self.first) < KEPT:
                self.first.append(kept)
        else:
            self.handshakes.append(kept)

    def inject(self, source: str, payload: bytes) -> None:
        self._websocket.send_binary((inbound_prefix(source, len(payload)), payload))

    def raw(self, data: bytes) -> None:
        self._websocket.send_binary((data,))


class HostileNode:
    """Attacks by name; each is a method of the victim's tap."""

    def __init__(self, server: NodeServer) -> None:
        self._taps: dict[Any, Tap] = {}
        packer = zlib.compressobj(1)
        self._bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
        node: Any = server.node
        self._node = server.node
        original = node.open

        def opened(websocket: Any, *rest: Any) -> Any:
            tap = Tap(websocket)
            connection = original(tap, *rest)
            if connection is not None:
                self._taps[connection] = tap
            return connection

        node.open = opened

    def tap(self, address: str) -> Tap:
        """The newest connection of a client."""
        return [tap for connection, tap in self._taps.items() if connection.address == address][-1]

    async def do(self, name: str, *words: str) -> object:
        """Run an attack, or answer a question about the node itself."""
        if name == "measure":
            return self.measure()
        if name == "search":
            return self.search(*words)
        await self.attack(name, *words)
        return None

    def search(self, *texts: str) -> dict[str, int]:
        """How many messages it has kept, and how many of them hold one of these texts."""
        kept = [
            payload for tap in self._taps.values() for _, payload in (*tap.data, *tap.first, *tap.handshakes)
        ]
        found = [payload for payload in kept if any(text.encode() in payload for text in texts)]
        return {"kept": len(kept), "found": len(found)}

    def measure(self) -> dict[str, int]:
        """The node's counts of what it refused, and its memory."""
        counted = self._node.stats().drops
        with open("/proc/self/statm") as file:
            return {**counted, "rss_bytes": int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")}

    async def attack(self, name: str, address: str, other: str = "") -> None:
        getattr(self, name)(self.tap(address), self.tap(other) if other else None)

    def replay(self, tap: Tap, _: Tap | None) -> None:
        for source, payload in list(tap.data):
            tap.inject(source, payload)

    def duplicate(self, tap: Tap, _: Tap | None) -> None:
        source, payload = tap.data[-1]
        for _n in range(MANY):
            tap.inject(source, payload)

    def flip_bits(self, tap: Tap, _: Tap | None) -> None:
        """Frames with a new counter and one flipped bit."""
        for n, (source, payload) in enumerate(list(tap.data)):
            message = Message.decode(payload)
            body = bytearray(message.payload)
            body[n % len(body)] ^= 1 << n % 8
            tap.inject(source, _data(_renumbered(message.nonce, 3000 + n), bytes(body)))

    def truncate(self, tap: Tap, _: Tap | None) -> None:
        for n, (source, payload) in enumerate(list(tap.data)):
            message = Message.decode(payload)
            tap.inject(source, _data(message.nonce, bytes(message.payload[: n % 16])))

    def late(self, tap: Tap, other: Tap | None) -> None:
        """Frames of an ended session that were held back."""
        for source, payload in tap.first:
            tap.inject(source, payload)

    def reflect(self, tap: Tap, other: Tap | None) -> None:
        """The victim's own messages come back to it, in the name of its peer."""
        assert other is not None
        source = tap.data[-1][0]
        for _, payload in list(other.data):
            tap.inject(source, payload)

    def replay_handshake(self, tap: Tap, _: Tap | None) -> None:
        source, payload = next(kept for kept in tap.handshakes)
        tap.inject(source, payload)

    def flood_handshakes(self, tap: Tap, _: Tap | None) -> None:
        source, payload = next(kept for kept in tap.handshakes)
        for _n in range(5000):
            tap.inject(source, payload)

    def forge_sender(self, tap: Tap, _: Tap | None) -> None:
        """Boxes that nobody sealed, in the name of the peer."""
        source = tap.data[-1][0]
        for _n in range(MANY):
            sealed = Message(os.urandom(180), encrypted=True, nonce=os.urandom(24)).encode()
            tap.inject(source, sealed)

    def plain_text(self, tap: Tap, _: Tap | None) -> None:
        source = tap.data[-1][0]
        for n in range(MANY):
            tap.inject(source, Message(os.urandom(n), encrypted=False, nonce=b"").encode())

    def no_messages(self, tap: Tap, _: Tap | None) -> None:
        source = tap.data[-1][0]
        for n in range(MANY):
            tap.inject(source, b"\xff" * (n + 1))

    def unknown_senders(self, tap: Tap, _: Tap | None) -> None:
        for _n in range(5000):
            boxed = Message(os.urandom(60), encrypted=True, nonce=os.urandom(24)).encode()
            tap.inject(f"x.{os.urandom(32).hex()}", boxed)

    def bad_frames(self, tap: Tap, _: Tap | None) -> None:
        tap.raw(b"\xff\x00garbage")
        tap.raw(b"")

    def bomb(self, tap: Tap, _: Tap | None) -> None:
        """200 MB of zeros in 1 MB."""
        tap.raw(b"\x08\x01\x12" + _varint(len(self._bomb)) + self._bomb + b"\x18\x01")

    def actions(self, tap: Tap, _: Tap | None) -> None:
        for text in ('{"Action":"unknown"}', '{"Action":"updateSigChainBlockHash","Result":"zz"}'):
            for _n in range(20):
                tap.send_text(text)

    def pings(self, tap: Tap, _: Tap | None) -> None:
        for _n in range(2000):
            tap.ping()

    def oversized(self, tap: Tap, _: Tap | None) -> None:
        """A frame above what NKN allows."""
        tap.raw(bytes((4 << 20) + 100))

    def hang_up(self, tap: Tap, _: Tap | None) -> None:
        tap.close(1000, "goodbye")

    def hang_up_in_colour(self, tap: Tap, _: Tap | None) -> None:
        """The reason clears a terminal, sets its title and turns the text round."""
        tap.close(1008, HOSTILE_WORDS)

    def knock(self, tap: Tap, _: Tap | None) -> None:
        """Knock as an unknown sender, the same one each time."""
        tap.inject(HONEST, Message(os.urandom(60), encrypted=True, nonce=os.urandom(24)).encode())


def _renumbered(nonce: bytes, ahead: int) -> bytes:
    version, kind, reserved, index, counter = struct.unpack("<BBHIQ", nonce)
    return struct.pack("<BBHIQ", version, kind, reserved, index, counter + ahead)


def _data(nonce: bytes, sealed: bytes) -> bytes:
    return Message(sealed, encrypted=True, nonce=nonce).encode()


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


async def _main() -> None:
    server = NodeServer(
        NodeConfig("::", stun_ports=STUN_PORTS),
        Identity(os.urandom(32)),
        NodeSettings(max_connections=MAX_CONNECTIONS),
    )
    hostile = HostileNode(server)
    await server.start()
    await obey(hostile.do)
    await server.close()


if __name__ == "__main__":
    asyncio.run(_main())
