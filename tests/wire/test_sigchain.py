"""What clients sign, against signatures that the official JavaScript SDK made."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from nconnect.crypto.keys import Identity, verify
from nconnect.model import NknAddress
from nconnect.wire.nkn import Receipt, decode_client_message
from nconnect.wire.sigchain import (
    OutboundDigest,
    client_id,
    login_digest,
    receipt_digest,
    varbytes,
)

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "nkn_sdk.json").read_text())
ALICE = Identity(bytes.fromhex(VECTORS["identities"][0]["seed"]))
ADDRESS = VECTORS["identities"][0]["address"]
NODE_KEY = bytes.fromhex(VECTORS["node"]["pubkey"])


@pytest.mark.parametrize("index", range(3))
def test_client_ids_are_the_sdks(index: int) -> None:
    identity = VECTORS["identities"][index]
    assert client_id(identity["address"]).hex() == identity["clientId"]


@pytest.mark.parametrize("vector", VECTORS["outbound"], ids=lambda vector: vector["name"])
def test_outbound_signatures_are_the_sdks(vector: dict[str, Any]) -> None:
    sizes = vector["payloadSizes"]
    for index, dest in enumerate(vector["dests"]):
        prepared = OutboundDigest(
            NODE_KEY,
            bytes.fromhex(vector["blockHash"]),
            client_id(ADDRESS),
            ALICE.public_key,
            client_id(dest),
            NknAddress.parse(dest).public_key,
        )
        digest = prepared.digest(vector["nonce"], sizes[index] if len(sizes) > 1 else sizes[0])
        assert ALICE.sign(digest).hex() == vector["signatures"][index]


def test_each_part_of_an_outbound_message_is_signed() -> None:
    def digest(nonce: int, payload_size: int, **parts: bytes) -> bytes:
        return OutboundDigest(**parts).digest(nonce, payload_size)

    parts: dict[str, Any] = {
        "node_public_key": NODE_KEY,
        "nonce": 7,
        "payload_size": 100,
        "block_hash": b"h" * 32,
        "source_id": b"s" * 32,
        "source_key": ALICE.public_key,
        "dest_id": b"d" * 32,
        "dest_key": b"k" * 32,
    }
    genuine = digest(**parts)
    signature = ALICE.sign(genuine)
    for name, value in parts.items():
        other = value + 1 if isinstance(value, int) else bytes(32)
        assert not verify(ALICE.public_key, digest(**parts | {name: other}), signature)
    assert verify(ALICE.public_key, genuine, signature)


def test_a_digest_is_used_again() -> None:
    parts = (NODE_KEY, b"h" * 32, b"s" * 32, ALICE.public_key, b"d" * 32, b"k" * 32)
    prepared = OutboundDigest(*parts)
    for nonce, size in ((0, 0), (1, 65536), (2**32 - 1, 2**32 - 1)):
        assert prepared.digest(nonce, size) == OutboundDigest(*parts).digest(nonce, size)


def test_a_receipt_is_the_sdks() -> None:
    receipt = decode_client_message(bytes.fromhex(VECTORS["receipt"]["bytes"]))
    assert isinstance(receipt, Receipt)
    assert ALICE.sign(receipt_digest(receipt.prev_hash)) == receipt.signature


def test_a_login_is_the_sdks() -> None:
    login = VECTORS["login"]
    digest = login_digest(bytes.fromhex(login["challenge"]), bytes.fromhex(login["salt"]))
    assert digest.hex() == login["digest"]
    assert ALICE.sign(digest).hex() == login["signature"]


@pytest.mark.parametrize(
    ("size", "head"),
    [(0, "00"), (1, "01"), (0xFC, "fc"), (0xFD, "fdfd00"), (0xFFFF, "fdffff"), (0x10000, "fe00000100")],
)
def test_varbytes(size: int, head: str) -> None:
    assert varbytes(b"x" * size) == bytes.fromhex(head) + b"x" * size


def test_a_block_hash_of_any_length_stands_behind_its_length() -> None:
    # By hand, from the layout: so that the vectors are not the only witness for an empty hash.
    metadata = bytes.fromhex("07000000" "64000000" "00" "01" "61" "01" "62" "01" "63" "01" "64")  # fmt: skip
    expected = sha256(sha256(metadata).digest() + b"\x00" + b"\x01e" + b"\x00").digest()
    assert OutboundDigest(b"e", b"", b"a", b"b", b"c", b"d").digest(7, 100) == expected
