"""What a verifying node checks: the signature of each outbound message, and receipts (docs/protocol.md).

A `prev_hash` in an inbound message asks for a receipt; the client signs it. At most `MAX_OWED` receipts of a
client are outstanding: beyond that its messages do not ask for one. A receipt that has not come after
`OWED_S` is forgotten.

A private node has no block chain. Its block hash is the SHA-256 of its key and the number of
`BLOCK_INTERVAL_S` since its start, so that clients see it change as on the official network. The last few are
accepted.
"""

from __future__ import annotations

import hashlib

from nconnect.crypto.keys import verify
from nconnect.errors import ConfigError
from nconnect.model import NknAddress, Rng
from nconnect.node.settings import BLOCK_INTERVAL_S
from nconnect.wire.nkn import OutboundMessage, Receipt
from nconnect.wire.sigchain import OutboundDigest, client_id, receipt_digest

MAX_OWED = 16_384  # guessed: 16 MiB of small messages in flight to one client
OWED_S = 120.0  # guessed: longer than any queue holds a message
RECENT_BLOCKS = 10  # a client may sign with an earlier hash than the newest


class BlockHashes:
    """The node's block hashes: one for each interval since it started."""

    def __init__(self, public_key: bytes, now: float) -> None:
        self._public_key = public_key
        self._started_at = now

    def height(self, now: float) -> int:
        return max(0, int((now - self._started_at) / BLOCK_INTERVAL_S))

    def block_hash(self, height: int) -> bytes:
        return hashlib.sha256(self._public_key + height.to_bytes(8, "big")).digest()

    def next_at(self, now: float) -> float:
        """When the height increases."""
        return self._started_at + (self.height(now) + 1) * BLOCK_INTERVAL_S

    def is_recent(self, block_hash: bytes, now: float) -> bool:
        height = self.height(now)
        return any(
            block_hash == self.block_hash(h) for h in range(height, max(-1, height - RECENT_BLOCKS), -1)
        )


class Ledger:
    """Checks one client's signatures, and stores which receipts it owes."""

    __slots__ = ("_address", "_chain", "_id", "_key", "_node_key", "_owed")

    def __init__(self, address: NknAddress, node_public_key: bytes, chain: BlockHashes) -> None:
        self._address = address
        self._id = client_id(str(address))
        self._key = address.public_key
        self._node_key = node_public_key
        self._chain = chain
        self._owed: dict[bytes, float] = {}  # prev_hash -> when it was sent; oldest first

    def check_outbound(self, message: OutboundMessage, now: float) -> bool:
        """Whether the signature for each dest is this client's, over its message and a recent block hash.

        An empty block hash is accepted: the SDKs sign with it until they have read the answer to their
        login. The hash binds a signature to a time, which matters to a block chain only.
        """
        if len(message.signatures) != len(message.dests):
            return False
        if message.block_hash and not self._chain.is_recent(message.block_hash, now):
            return False
        for index, dest in enumerate(message.dests):
            try:
                dest_key = NknAddress.parse(dest).public_key
            except ConfigError:
                return False
            prepared = OutboundDigest(
                self._node_key, message.block_hash, self._id, self._key, client_id(dest), dest_key
            )
            digest = prepared.digest(message.nonce, len(message.payload_for(index)))
            if not verify(self._key, digest, message.signatures[index]):
                return False
        return True

    def may_owe(self, now: float) -> bool:
        """Whether one more receipt may be asked for."""
        owed = self._owed
        while owed:
            oldest = next(iter(owed))
            if now - owed[oldest] < OWED_S:
                break
            del owed[oldest]
        return len(owed) < MAX_OWED

    def owe(self, prev_hash: bytes, now: float) -> None:
        """Note that a message that asks for a receipt goes to this client."""
        self._owed[prev_hash] = now

    def check_receipt(self, receipt: Receipt) -> bool:
        """Whether the client owed this receipt and signed it. Afterwards it is no longer owed."""
        if self._owed.pop(receipt.prev_hash, None) is None:
            return False
        return verify(self._key, receipt_digest(receipt.prev_hash), receipt.signature)


class PrevHashes:
    """Unpredictable values that never repeat: a hash over a secret and a counter."""

    def __init__(self, rng: Rng) -> None:
        self._secret = rng(32)
        self._count = 0

    def next(self) -> bytes:
        self._count += 1
        return hashlib.sha256(self._secret + self._count.to_bytes(8, "big")).digest()
