"""Signatures, receipts and the block hashes of a node without a chain."""

from __future__ import annotations

from nconnect.crypto.keys import Identity
from nconnect.model import NknAddress
from nconnect.node.proof import (
    MAX_OWED,
    OWED_S,
    RECENT_BLOCKS,
    BlockHashes,
    Ledger,
    PrevHashes,
)
from nconnect.wire.nkn import Receipt
from nconnect.wire.sigchain import receipt_digest

ALICE = Identity(b"a" * 32)


def ledger() -> Ledger:
    return Ledger(NknAddress("alice", ALICE.public_key), b"n" * 32, BlockHashes(b"n" * 32, 0.0))


def test_the_block_hash_changes_with_time() -> None:
    chain = BlockHashes(b"k" * 32, 1000.0)
    assert chain.height(1000.0) == chain.height(1019.9) == 0
    assert chain.next_at(1000.0) == 1020.0
    assert chain.height(1020.0) == 1
    assert chain.height(900.0) == 0
    assert len({chain.block_hash(height) for height in range(100)}) == 100
    assert BlockHashes(b"x" * 32, 0.0).block_hash(0) != chain.block_hash(0)


def test_recent_hashes_are_accepted() -> None:
    chain = BlockHashes(b"k" * 32, 0.0)
    now = 20.0 * 50
    assert chain.is_recent(chain.block_hash(50), now)
    assert chain.is_recent(chain.block_hash(50 - RECENT_BLOCKS + 1), now)
    assert not chain.is_recent(chain.block_hash(50 - RECENT_BLOCKS), now)
    assert not chain.is_recent(chain.block_hash(51), now)
    assert not chain.is_recent(b"", now)
    assert chain.is_recent(chain.block_hash(0), 1.0)


def test_receipts_are_owed_once_and_checked() -> None:
    book = ledger()
    book.owe(b"p" * 32, 0.0)
    signed = Receipt(b"p" * 32, ALICE.sign(receipt_digest(b"p" * 32)))
    assert not book.check_receipt(Receipt(b"q" * 32, signed.signature))
    assert book.check_receipt(signed)
    assert not book.check_receipt(signed)
    book.owe(b"q" * 32, 0.0)
    assert not book.check_receipt(Receipt(b"q" * 32, signed.signature))


def test_what_is_owed_is_bounded_and_forgotten_in_time() -> None:
    book = ledger()
    count = 0
    while book.may_owe(1.0):
        book.owe(count.to_bytes(32, "big"), 1.0)
        count += 1
    assert count == MAX_OWED
    assert not book.may_owe(OWED_S)
    assert book.may_owe(1.0 + OWED_S)
    assert not book.check_receipt(Receipt(bytes(32), ALICE.sign(receipt_digest(bytes(32))))), "forgotten"


def test_prev_hashes_never_repeat() -> None:
    hashes = PrevHashes(lambda size: bytes(size))
    assert len({hashes.next() for _ in range(1000)}) == 1000
