"""`python -m lab.attack.outsider ATTACK HOST PORT SECONDS HEX [SOURCE…]`: a stranger at a direct port.

HOST is an IPv4 or IPv6 address. HEX is what it has overheard: of UDP a datagram of the peer's, or to it (for
`recorded`), of TCP an OPEN. It prints `ready` when it
begins, and at the end a JSON object with what it sent and what came back. Rates and numbers are bounded.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import count, cycle

from nconnect.wire.direct import decode_header, encode_header
from nconnect.wire.stream import OPEN_BYTES
from nconnect.wire.stun import BINDING_RESPONSE, TRANSACTION_BYTES, encode_request

DATAGRAMS_PER_S = 10_000
DATAGRAM_BYTES = 200
AHEAD = 1_000_000  # of the counter that was overheard: so far no peer's own counter gets meanwhile
CONNECTIONS_PER_S = 100
GOES_ON_S = 4.0  # longer than the port waits for a proof


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


# UDP: endless datagrams


def wrong_index(_overheard: bytes) -> Iterator[bytes]:
    """Noise: whose index is in it is chance."""
    while True:
        yield os.urandom(DATAGRAM_BYTES)


def bad_tag(overheard: bytes) -> Iterator[bytes]:
    """The index of a session, and counters that have not been; the rest is noise."""
    index, counter = decode_header(overheard)
    noise = os.urandom(DATAGRAM_BYTES)
    for number in count(counter + AHEAD):
        yield encode_header(index, number) + noise


def recorded(overheard: bytes) -> Iterator[bytes]:
    """The datagram that was overheard, again and again."""
    return cycle((overheard,))


def stun(_overheard: bytes) -> Iterator[bytes]:
    """Binding requests, and answers to nothing that say that the device is somewhere else (RFC 8489)."""
    mapped = struct.pack(">HHBBHI", 0x0020, 8, 0, 1, 0x1234, 0x0102_0304)
    while True:
        transaction = os.urandom(TRANSACTION_BYTES)
        yield encode_request(transaction)
        yield struct.pack(">HHI12s", BINDING_RESPONSE, len(mapped), 0x2112_A442, transaction) + mapped


def flood(datagrams: Iterator[bytes], host: str, port: int, seconds: float) -> dict[str, int]:
    """Send at the rate; count what comes back."""
    sent = answers = 0
    with socket.socket(_family(host), socket.SOCK_DGRAM) as sock:
        sock.connect((host, port))
        sock.setblocking(False)
        began = time.monotonic()
        while (passed := time.monotonic() - began) < seconds:
            for _ in range(min(200, int(passed * DATAGRAMS_PER_S) - sent)):
                with suppress(OSError):
                    sock.send(next(datagrams))
                sent += 1
            with suppress(OSError):
                while sock.recv(2048):
                    answers += 1
            time.sleep(0.002)
    return {"sent": sent, "answers": answers}


# TCP


class Knocker:
    """Connections that say nothing, half of something, noise, or an OPEN that was recorded, in turn."""

    def __init__(self, host: str, port: int, opening: bytes, sources: list[str]) -> None:
        self._to = (host, port)
        self._sources = cycle(sources)
        self._words = cycle((b"", opening[:10], os.urandom(OPEN_BYTES), os.urandom(4096), opening))
        self._selector = selectors.DefaultSelector()
        self.counts: Counter[str] = Counter(connections=0, answered_bytes=0, open_at_once=0, left=0)

    def run(self, seconds: float) -> dict[str, int]:
        """Connect for so long, and then wait until all should be closed."""
        began = time.monotonic()
        while (passed := time.monotonic() - began) < seconds + GOES_ON_S:
            due = int(min(passed, seconds) * CONNECTIONS_PER_S) - self.counts["connections"]
            for _ in range(min(due, 20)):
                self._connect()
            self._read()
        self.counts["left"] = len(self._selector.get_map())
        return dict(self.counts)

    def _connect(self) -> None:
        self.counts["connections"] += 1
        sock = socket.socket(_family(self._to[0]))
        try:
            sock.bind((next(self._sources), 0))
            sock.settimeout(1.0)
            sock.connect(self._to)
            sock.setblocking(False)
            sock.send(next(self._words))
        except OSError:  # closed at once, by the limit of a source
            sock.close()
            return
        self._selector.register(sock, selectors.EVENT_READ)
        at_once = len(self._selector.get_map())
        self.counts["open_at_once"] = max(self.counts["open_at_once"], at_once)

    def _read(self) -> None:
        for key, _ in self._selector.select(0.005):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            data = b""
            with suppress(ConnectionError):
                data = sock.recv(4096)
            self.counts["answered_bytes"] += len(data)
            if not data:
                self._selector.unregister(sock)
                sock.close()


def main() -> None:
    attack, host, port, seconds, overheard, *sources = sys.argv[1:]
    said = bytes.fromhex(overheard)
    print("ready", flush=True)
    if attack == "knock":
        counts = Knocker(host, int(port), said, sources).run(float(seconds))
    else:
        datagrams = {"wrong_index": wrong_index, "bad_tag": bad_tag, "recorded": recorded, "stun": stun}
        counts = flood(datagrams[attack](said), host, int(port), float(seconds))
    print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    main()
