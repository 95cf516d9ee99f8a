"""Identities and boxes, against what the official JavaScript SDK made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.crypto.keys import Box, Identity, InvalidKey, dh_public_of, verify

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "nkn_sdk.json").read_text())
ALICE, BOB, CAROL = (Identity(bytes.fromhex(each["seed"])) for each in VECTORS["identities"])
LOW_ORDER = ("01" + "00" * 31, "ec" + "ff" * 30 + "7f", "00" * 32)
NOT_A_POINT = "02" + "00" * 31


@pytest.mark.parametrize("index", range(3))
def test_an_identity_is_the_sdks(index: int) -> None:
    expected = VECTORS["identities"][index]
    identity = (ALICE, BOB, CAROL)[index]
    assert identity.public_key.hex() == expected["publicKey"]
    assert identity.dh_private.hex() == expected["curvePrivateKey"]
    assert dh_public_of(identity.public_key) == identity.dh_public


def test_a_signature_is_the_sdks() -> None:
    digest = bytes.fromhex(VECTORS["login"]["digest"])
    assert ALICE.sign(digest).hex() == VECTORS["login"]["signature"]


def test_verify_accepts_the_genuine_alone() -> None:
    digest, signature = b"d" * 32, ALICE.sign(b"d" * 32)
    assert verify(ALICE.public_key, digest, signature)
    assert not verify(BOB.public_key, digest, signature)
    assert not verify(ALICE.public_key, b"e" * 32, signature)
    assert not verify(ALICE.public_key, digest, signature[:-1] + bytes([signature[-1] ^ 1]))


@pytest.mark.parametrize("size", [0, 1, 63, 65])
def test_verify_refuses_other_lengths(size: int) -> None:
    assert not verify(ALICE.public_key, b"d" * 32, bytes(size))
    assert not verify(bytes(size), b"d" * 32, ALICE.sign(b"d" * 32))


@pytest.mark.parametrize("key", [*LOW_ORDER, NOT_A_POINT, "", "ab" * 31, "ab" * 33])
def test_unusable_public_keys(key: str) -> None:
    with pytest.raises(InvalidKey):
        dh_public_of(bytes.fromhex(key))
    with pytest.raises(InvalidKey):
        Box(ALICE, bytes.fromhex(key))
    assert not verify(bytes.fromhex(key), b"d" * 32, bytes(64))


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_seed_is_32_bytes(size: int) -> None:
    with pytest.raises(ValueError, match="32"):
        Identity(bytes(size))
    with pytest.raises(InvalidKey):
        Box.of_key(bytes(size))


def test_a_message_to_one_is_the_sdks() -> None:
    plaintext, single = bytes.fromhex(VECTORS["plaintext"]), VECTORS["single"]
    nonce, sealed = bytes.fromhex(single["nonce"]), bytes.fromhex(single["payload"])
    assert Box(ALICE, BOB.public_key).seal(plaintext, nonce) == sealed
    assert Box(BOB, ALICE.public_key).open(memoryview(sealed), nonce) == plaintext
    assert Box(CAROL, ALICE.public_key).open(sealed, nonce) is None


@pytest.mark.parametrize("index", [0, 1])
def test_a_message_to_several_is_the_sdks(index: int) -> None:
    message = {name: bytes.fromhex(value) for name, value in VECTORS["several"][index].items()
               if name in ("payload", "nonce", "encryptedKey")}  # fmt: skip
    reader = (BOB, CAROL)[index]
    key = Box(reader, ALICE.public_key).open(message["encryptedKey"], message["nonce"][:24])
    assert key is not None
    opened = Box.of_key(key).open(message["payload"], message["nonce"][24:])
    assert opened == bytes.fromhex(VECTORS["plaintext"])
    # And the other way: we make what the SDK made.
    assert Box(ALICE, reader.public_key).seal(key, message["nonce"][:24]) == message["encryptedKey"]
    assert (
        Box.of_key(key).seal(bytes.fromhex(VECTORS["plaintext"]), message["nonce"][24:]) == message["payload"]
    )


@given(st.binary(max_size=100), st.binary(max_size=30))
def test_open_refuses_any_bytes(sealed: bytes, nonce: bytes) -> None:
    assert Box(ALICE, BOB.public_key).open(sealed, nonce) is None


@given(st.binary(max_size=100), st.integers(0, 115), st.integers(1, 255))
def test_open_refuses_what_was_changed(plaintext: bytes, index: int, change: int) -> None:
    box = Box(ALICE, BOB.public_key)
    sealed = bytearray(box.seal(plaintext, b"n" * 24))
    assert box.open(sealed, b"n" * 24) == plaintext
    assert box.open(sealed, b"m" * 24) is None
    sealed[index % len(sealed)] ^= change
    assert box.open(sealed, b"n" * 24) is None


def test_repr_shows_no_secret() -> None:
    shown = repr(ALICE) + repr(Box(ALICE, BOB.public_key))
    assert ALICE.public_key.hex() in shown
    for secret in (ALICE.seed, ALICE.dh_private):
        assert secret.hex() not in shown
        assert repr(secret) not in shown
