"""What NKN clients sign: digests of outbound messages, receipts and login challenges.

Digests are SHA-256; the caller signs them with Ed25519. `varbytes` is a length (one byte below 0xfd, else
0xfd and 2, 0xfe and 4, or 0xff and 8 bytes, little-endian) followed by the bytes.

    element   E = varbytes(id = "") || varbytes(next key) || bool(mining = false)
    metadata  M = u32le(nonce) || u32le(payload size) || varbytes(block hash)
                  || varbytes(source id) || varbytes(source key) || varbytes(dest id) || varbytes(dest key)
    outbound      SHA-256(SHA-256(M) || E with next key = the node's)
    receipt       SHA-256(SHA-256(prev_hash) || E with next key = "")
    login         SHA-256(challenge || salt)
"""

from __future__ import annotations

from hashlib import sha256
from struct import Struct

_NONCE_AND_SIZE = Struct("<II")
_U16, _U32, _U64 = Struct("<BH"), Struct("<BI"), Struct("<BQ")


def client_id(address: str) -> bytes:
    """A client's id: SHA-256 of its whole address."""
    return sha256(address.encode()).digest()


class OutboundDigest:
    """What is signed for each message to one destination; the parts that stay the same are precomputed.

    The caller makes a new one when the node or its block hash changes.
    """

    __slots__ = ("_element", "_metadata")

    def __init__(
        self,
        node_public_key: bytes,
        block_hash: bytes,
        source_id: bytes,
        source_key: bytes,
        dest_id: bytes,
        dest_key: bytes,
    ) -> None:
        self._element = _element(node_public_key)
        self._metadata = b"".join(map(varbytes, (block_hash, source_id, source_key, dest_id, dest_key)))

    def digest(self, nonce: int, payload_size: int) -> bytes:
        """The digest to sign; `nonce` and `payload_size` are 32-bit."""
        inner = sha256(_NONCE_AND_SIZE.pack(nonce, payload_size) + self._metadata).digest()
        return sha256(inner + self._element).digest()


def receipt_digest(prev_hash: bytes) -> bytes:
    """The digest to sign for a receipt."""
    return sha256(sha256(prev_hash).digest() + _element(b"")).digest()


def login_digest(challenge: bytes, salt: bytes) -> bytes:
    """The digest to sign when logging in."""
    return sha256(challenge + salt).digest()


def varbytes(data: bytes) -> bytes:
    """The length of `data`, then `data`."""
    size = len(data)
    if size < 0xFD:
        return bytes((size,)) + data
    if size <= 0xFFFF:
        return _U16.pack(0xFD, size) + data
    if size <= 0xFFFFFFFF:
        return _U32.pack(0xFE, size) + data
    return _U64.pack(0xFF, size) + data


def _element(next_key: bytes) -> bytes:
    return varbytes(b"") + varbytes(next_key) + b"\x00"
