"""An NKN client on a plain socket, for programs that hold hundreds of them and attack a node."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import closing
from typing import BinaryIO

from nconnect.crypto.keys import Identity
from nconnect.wire.actions import SetClient
from nconnect.wire.sigchain import login_digest

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Client:
    """One websocket to a node. It masks with zeros, because masking costs time."""

    def __init__(self, sock: socket.socket, identity: Identity, name: str = "") -> None:
        self.sock = sock
        self.identity = identity
        key = identity.public_key.hex()
        self.address = f"{name}.{key}" if name else key
        self._file: BinaryIO = sock.makefile("rb")

    def upgrade(self) -> bytes:
        """Open the websocket and return the node's challenge. Raises `OSError` when it is refused."""
        self.sock.sendall(UPGRADE)
        if b" 101 " not in (status := self._file.readline()):
            raise ConnectionRefusedError(f"no websocket: {status!r}")
        while (line := self._file.readline()) != b"\r\n":
            if not line:
                raise ConnectionResetError("closed before the websocket was open")
        return bytes.fromhex(json.loads(self.receive())["Challenge"])

    def log_in(self) -> Client:
        challenge, salt = self.upgrade(), os.urandom(32)
        signature = self.identity.sign(login_digest(challenge, salt))
        self.send(SetClient(self.address, salt, signature).encode().encode(), opcode=1)
        if json.loads(self.receive())["Error"]:
            raise ConnectionRefusedError("the login was refused")
        return self

    def send(self, data: bytes, opcode: int = 2) -> None:
        self.sock.sendall(frame_head(opcode, len(data)) + data)

    def receive(self) -> bytes:
        """The next message; pings that come before it are answered. Raises `OSError` at the end."""
        while True:
            head = self._read(2)
            size = head[1]
            if size >= 126:
                size = int.from_bytes(self._read(2 if size == 126 else 8), "big")
            data = self._read(size)
            if head[0] & 15 == 9:
                self.send(data, opcode=10)
            elif head[0] & 15 < 3:
                return data
            elif head[0] & 15 == 8:
                raise ConnectionResetError(f"closed: {data[2:].decode(errors='replace')}")

    def close(self) -> None:
        self._file.close()
        self.sock.close()

    def _read(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise ConnectionResetError("closed")
        return data


def login_s(host: str, port: int) -> float:
    """Seconds that a client with a fresh key takes from connect to login. Raises `OSError`."""
    began = time.monotonic()
    with (
        socket.create_connection((host, port), timeout=10) as sock,
        closing(Client(sock, Identity(os.urandom(32)))) as client,
    ):
        client.log_in()
        return time.monotonic() - began


def frame_head(opcode: int, size: int) -> bytes:
    """The head of a final frame, masked with zeros."""
    if size < 126:
        length = bytes((0x80 | size,))
    elif size < 1 << 16:
        length = b"\xfe" + size.to_bytes(2, "big")
    else:
        length = b"\xff" + size.to_bytes(8, "big")
    return bytes((0x80 | opcode,)) + length + bytes(4)
