"""The bytes before the payload of each message that a link sends, with constant parts precomputed."""

from __future__ import annotations

from collections.abc import Sequence

from nconnect.crypto.keys import SIGNATURE_BYTES, Identity
from nconnect.errors import LocalProtocolError
from nconnect.model import NknAddress, Rng
from nconnect.wire import nkn, sigchain

# zlib's window: a sealed body that several payloads share compresses only if it is shorter than this. Longer
# ones do not shrink, because they are encrypted, and cost 30 ms for each MiB.
_WINDOW_BYTES = 32 << 10
_HEADROOM_BYTES = 64 << 10  # under a frame's bound: field heads, nonce, block hash
RECURRING_BYTES = 4096  # guessed: an acknowledgement, a token, a ping
_MAX_PREFIXES = 1024  # prepared unsigned prefixes kept, about 200 bytes each
MAX_DESTINATIONS = 4096  # prepared digests kept, about 400 bytes each; forgotten all at once beyond


class OutboundPrefixes:
    """Prefixes for one login: for its node's key and block hash, signed unless the node waived that."""

    __slots__ = (
        "_address_id", "_block_hash", "_digests", "_identity", "_node_key", "_prefixes", "_rng", "_signed",
    )  # fmt: skip

    def __init__(
        self,
        identity: Identity,
        address: NknAddress,
        *,
        node_key: bytes,
        block_hash: bytes,
        signed: bool,
        rng: Rng,
    ) -> None:
        self._identity = identity
        self._address_id = sigchain.client_id(str(address))
        self._node_key = node_key
        self._block_hash = block_hash
        self._signed = signed
        self._rng = rng
        self._digests: dict[str, sigchain.OutboundDigest] = {}
        self._prefixes: dict[tuple[str, int], bytes] = {}

    def use_block_hash(self, block_hash: bytes) -> None:
        self._block_hash = block_hash
        self._digests.clear()

    def prefix(self, dest: str, payload_size: int) -> bytes:
        """Everything of a `ClientMessage` to `dest` up to its `payload_size` bytes of payload.

        Raises `LocalProtocolError` when the network would not take such a message.
        """
        kept = self._prefixes.get((dest, payload_size))
        if kept is not None:
            return kept
        if payload_size > nkn.MAX_MESSAGE_BYTES:
            raise LocalProtocolError(f"a message of {payload_size} bytes is more than the network takes")
        if not self._signed:
            return self._unsigned(dest, payload_size)
        digest = self._digests.get(dest) or self._prepare(dest)
        nonce = int.from_bytes(self._rng(4), "little")
        return nkn.outbound_prefix(
            dest,
            payload_size,
            nonce=nonce,
            block_hash=self._block_hash,
            signature=self._identity.sign(digest.digest(nonce, payload_size)),
        )

    def _unsigned(self, dest: str, payload_size: int) -> bytes:
        """Without nonce and signature a prefix is the same for all messages of a size: small ones recur."""
        prefix = nkn.outbound_prefix(dest, payload_size, nonce=0, block_hash=b"", signature=b"")
        if payload_size <= RECURRING_BYTES:
            if len(self._prefixes) >= _MAX_PREFIXES:
                self._prefixes.clear()
            self._prefixes[dest, payload_size] = prefix
        return prefix

    def message(
        self, dests: Sequence[str], payloads: Sequence[bytes], *, max_holding_seconds: int = 0
    ) -> bytes:
        """A whole `ClientMessage`: one payload for all `dests`, or one for each.

        Raises `LocalProtocolError` when the network would not take such a message.
        """
        size = sum(map(len, payloads)) + sum(len(dest) + SIGNATURE_BYTES for dest in dests)
        if size > nkn.MAX_FRAME_BYTES - _HEADROOM_BYTES:
            raise LocalProtocolError(f"a message of {size} bytes is more than the network takes")
        nonce, block_hash = 0, b""
        signatures: tuple[bytes, ...] = ()
        if self._signed:
            nonce = int.from_bytes(self._rng(4), "little")
            block_hash = self._block_hash
            signatures = tuple(
                self._identity.sign(
                    (self._digests.get(dest) or self._prepare(dest)).digest(
                        nonce, len(payloads[0] if len(payloads) == 1 else payloads[index])
                    )
                )
                for index, dest in enumerate(dests)
            )
        message = nkn.OutboundMessage(
            tuple(dests), tuple(payloads), nonce, block_hash, signatures, max_holding_seconds
        )
        return message.encode(compress=len(payloads) > 1 and len(payloads[0]) < _WINDOW_BYTES)

    def _prepare(self, dest: str) -> sigchain.OutboundDigest:
        if len(self._digests) >= MAX_DESTINATIONS:
            self._digests.clear()
        digest = self._digests[dest] = sigchain.OutboundDigest(
            self._node_key,
            self._block_hash,
            self._address_id,
            self._identity.public_key,
            sigchain.client_id(dest),
            NknAddress.parse(dest).public_key,
        )
        return digest
