"""A websocket that records, and a client that talks to the node's state machine through one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from nconnect.crypto.keys import Identity
from nconnect.node.connection import Connection
from nconnect.node.core import Node
from nconnect.node.settings import NodeSettings
from nconnect.wire.actions import SetClient
from nconnect.wire.jsonrpc import NodeInfo
from nconnect.wire.nkn import InboundMessage, OutboundMessage, Receipt, decode_client_message
from nconnect.wire.sigchain import OutboundDigest, client_id, login_digest, receipt_digest

NODE = Identity(b"n" * 32)
INFO = NodeInfo("192.0.2.1:30002", "192.0.2.1:30003", NODE.public_key.hex(), "ab" * 32)
SALT = b"s" * 32


class FakeTransport:
    """Takes everything while `writable`, and shows the node what a socket would."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.parts: list[Sequence[Any]] = []
        self.texts: list[dict[str, Any]] = []
        self.pings = 0
        self.limited = True
        self.writable = True
        self.unsent_bytes = 0
        self.tx_bytes = 0
        self.rx_bytes = 0
        self.closed: tuple[int, str] | None = None
        self.on_closed: Any = None
        self.takes: int | None = None  # after so many frames it is full

    def send_binary(self, parts: Sequence[Any]) -> None:
        assert self.writable, "the node must hold back"
        self.parts.append(parts)
        self.frames.append(b"".join(parts))
        self.tx_bytes += len(self.frames[-1])
        if self.takes is not None:
            self.takes -= 1
            self.writable = self.takes > 0

    def send_text(self, text: str) -> None:
        self.texts.append(json.loads(text))

    def ping(self) -> None:
        self.pings += 1

    def lift_limit(self) -> None:
        self.limited = False

    def close(self, code: int = 1000, why: str = "") -> None:
        if self.closed is None:
            self.closed = (code, why)
            self.writable = False
            if self.on_closed is not None:
                self.on_closed()


def rng(size: int) -> bytes:
    return bytes(range(size))


def make_node(now: float = 0.0, **settings: Any) -> Node:
    return Node(NODE, NodeSettings(**settings), now=now, rng=rng)


class FakeClient:
    """The client's side of one connection."""

    def __init__(
        self,
        node: Node,
        name: str = "alice",
        seed: bytes = b"a" * 32,
        now: float = 0.0,
        *,
        host: str = "198.51.100.1",
    ) -> None:
        self.node = node
        self.identity = Identity(seed)
        self.address = f"{name}.{self.identity.public_key.hex()}"
        self.transport = FakeTransport()
        connection = node.open(self.transport, host, INFO, now)
        assert connection is not None
        self.connection: Connection = connection
        self.transport.on_closed = lambda: node.closed(connection)

    @property
    def challenge(self) -> bytes:
        return bytes.fromhex(self.transport.texts[0]["Challenge"])

    def log_in(self, now: float = 0.0, **changes: Any) -> FakeClient:
        request = {
            "address": self.address,
            "salt": SALT,
            "signature": self.identity.sign(login_digest(self.challenge, SALT)),
            **changes,
        }
        self.text(SetClient(**request).encode(), now)
        return self

    def text(self, text: str | bytes, now: float = 0.0) -> None:
        data = text.encode() if isinstance(text, str) else text
        self.node.receive_text(self.connection, memoryview(data), now)

    def binary(self, data: bytes, now: float = 0.0) -> None:
        self.node.receive_binary(self.connection, memoryview(data), now)

    def send(self, dests: str | Sequence[str], *payloads: bytes, now: float = 0.0, **changes: Any) -> None:
        names = (dests,) if isinstance(dests, str) else tuple(dests)
        self.binary(OutboundMessage(names, payloads, **changes).encode(), now)

    def send_signed(
        self,
        dests: str | Sequence[str],
        *payloads: bytes,
        now: float = 0.0,
        block_hash: bytes | None = None,
        **changes: Any,
    ) -> None:
        """`block_hash`: None: the newest that the node has told."""
        block_hash = self.block_hash if block_hash is None else block_hash
        names = (dests,) if isinstance(dests, str) else tuple(dests)
        signatures = []
        for index, dest in enumerate(names):
            payload = payloads[0] if len(payloads) == 1 else payloads[index]
            digest = OutboundDigest(
                NODE.public_key,
                block_hash,
                client_id(self.address),
                self.identity.public_key,
                client_id(dest),
                bytes.fromhex(dest[-64:]),
            )
            signatures.append(self.identity.sign(digest.digest(7, len(payload))))
        changes |= {"nonce": 7, "block_hash": block_hash, "signatures": tuple(signatures)}
        self.send(names, *payloads, now=now, **changes)

    def acknowledge(self, message: InboundMessage) -> None:
        signature = self.identity.sign(receipt_digest(message.prev_hash))
        self.binary(Receipt(message.prev_hash, signature).encode())

    @property
    def block_hash(self) -> bytes:
        for text in reversed(self.transport.texts):
            if text["Action"] == "updateSigChainBlockHash":
                return bytes.fromhex(text["Result"])
            if text["Action"] == "setClient":
                return bytes.fromhex(text["Result"]["sigChainBlockHash"])
        raise AssertionError("not logged in")

    def received(self) -> list[InboundMessage]:
        messages = []
        for frame in self.transport.frames:
            message = decode_client_message(frame)
            assert isinstance(message, InboundMessage)
            messages.append(InboundMessage(message.src, bytes(message.payload), message.prev_hash))
        return messages

    def payloads(self) -> list[bytes]:
        return [bytes(message.payload) for message in self.received()]
