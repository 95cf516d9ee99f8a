"""Sealing for one and for several receivers, compared with envelopes of the official SDK."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.crypto.keys import Box, Identity, InvalidKey
from nconnect.errors import ConfigError, TooBig
from nconnect.model import NknAddress
from nconnect.nkn import envelope
from nconnect.nkn.envelope import Batch, Envelopes
from nconnect.wire.message import Message
from nconnect.wire.nkn import MAX_MESSAGE_BYTES

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "nkn_sdk.json").read_text())
ALICE, BOB, CAROL = (Identity(bytes.fromhex(each["seed"])) for each in VECTORS["identities"])
STRANGER = Identity(b"s" * 32)


def envelopes(identity: Identity, seed: int = 1) -> Envelopes:
    return Envelopes(identity, rng=random.Random(seed).randbytes)


def to(identity: Identity, name: str = "x") -> NknAddress:
    return NknAddress(name, identity.public_key)


def only(identity: Identity, dests: list[NknAddress], payload: bytes, *, encrypt: bool = True) -> Batch:
    (batch,) = envelopes(identity).batches(dests, payload, encrypt=encrypt)
    return batch


def scripted(*parts: str) -> Envelopes:
    """Alice's, whose random bytes are these (hex)."""
    left = list(parts)

    def rng(size: int) -> bytes:
        part = bytes.fromhex(left.pop(0))
        assert len(part) == size
        return part

    return Envelopes(ALICE, rng=rng)


def test_for_one_it_makes_what_the_official_sdk_makes() -> None:
    made = VECTORS["single"]
    dest = NknAddress.parse(made["dest"])
    plain = bytes.fromhex(VECTORS["plaintext"])
    (batch,) = scripted(made["nonce"]).batches([dest], plain, encrypt=True)
    assert batch.dests == (dest,)
    assert Message.decode(batch.payloads[0]) == Message.decode(bytes.fromhex(made["bytes"]))


def test_for_several_it_makes_what_the_official_sdk_makes() -> None:
    made = VECTORS["several"]
    dests = [NknAddress.parse(each["dest"]) for each in made]
    first = Message.decode(bytes.fromhex(made[0]["bytes"]))
    # The key that the SDK drew is in the envelope for Bob, who can open it.

    key = Box(BOB, ALICE.public_key).open(first.encrypted_key, first.nonce[:24])
    assert key is not None
    nonces = [each["nonce"] for each in made]
    rng = scripted(key.hex(), nonces[0][48:], nonces[0][:48], nonces[1][:48])
    (batch,) = rng.batches(dests, bytes.fromhex(VECTORS["plaintext"]), encrypt=True)
    assert [Message.decode(each) for each in batch.payloads] == [
        Message.decode(bytes.fromhex(each["bytes"])) for each in made
    ]


def test_it_opens_what_the_official_sdk_sealed() -> None:
    plain = bytes.fromhex(VECTORS["plaintext"])
    single = Message.decode(bytes.fromhex(VECTORS["single"]["bytes"]))
    assert envelopes(BOB).open(ALICE.public_key, single) == plain
    for identity, each in zip((BOB, CAROL), VECTORS["several"], strict=True):
        message = Message.decode(bytes.fromhex(each["bytes"]))
        assert envelopes(identity).open(ALICE.public_key, message) == plain
        assert envelopes(STRANGER).open(ALICE.public_key, message) is None
        assert envelopes(identity).open(STRANGER.public_key, message) is None


@given(st.binary(max_size=300), st.integers(1, 5))
def test_everybody_it_is_for_can_open_it_and_nobody_else(payload: bytes, count: int) -> None:
    readers = [Identity(bytes([n] * 32)) for n in range(count)]
    batch = only(ALICE, [to(reader) for reader in readers], payload)
    assert len(batch.payloads) == count
    for reader, data in zip(readers, batch.payloads, strict=True):
        message = Message.decode(data)
        assert envelopes(reader).open(ALICE.public_key, message) == payload
        assert envelopes(STRANGER).open(ALICE.public_key, message) is None


def test_for_several_the_payload_is_sealed_once() -> None:
    batch = only(ALICE, [to(BOB), to(CAROL), to(STRANGER)], b"secret" * 20)
    messages = [Message.decode(each) for each in batch.payloads]
    assert len({bytes(message.payload) for message in messages}) == 1
    assert len({message.encrypted_key for message in messages}) == 3
    assert b"secret" not in batch.payloads[0]


def test_in_the_clear_there_is_one_payload_for_all() -> None:
    batch = only(ALICE, [to(BOB), to(CAROL)], b"open", encrypt=False)
    assert (len(batch.dests), batch.payloads) == (2, (Message(b"open").encode(),))


@pytest.mark.parametrize("place", ["payload", "nonce", "encrypted_key"])
@pytest.mark.parametrize("several", [False, True])
def test_what_was_changed_on_the_way_does_not_open(place: str, several: bool) -> None:
    batch = only(ALICE, [to(BOB), to(CAROL)] if several else [to(BOB)], b"payload")
    message = Message.decode(batch.payloads[0])
    parts = {name: bytes(getattr(message, name)) for name in ("payload", "nonce", "encrypted_key")}
    for damaged in (parts[place][:-1], parts[place] + b"\x00", bytes(len(parts[place]) or 48)):
        changed = Message(**{**parts, place: damaged}, encrypted=True)
        if changed != Message(**parts, encrypted=True):
            assert envelopes(BOB).open(ALICE.public_key, changed) is None


@given(st.binary(max_size=80), st.binary(max_size=60), st.binary(max_size=60))
def test_any_bytes_are_refused(payload: bytes, nonce: bytes, key: bytes) -> None:
    assert envelopes(BOB).open(ALICE.public_key, Message(payload, True, nonce, key)) is None


def test_a_key_that_is_none() -> None:
    with pytest.raises(InvalidKey):
        envelopes(BOB).open(bytes(32), Message(b"x" * 40, True, bytes(24)))
    with pytest.raises(ConfigError, match=r"x\.00+ is not an NKN address"):
        only(ALICE, [NknAddress("x", bytes(32))], b"x")


def test_many_destinations_go_in_messages_that_the_network_takes() -> None:
    dests = [to(BOB, f"n{n}") for n in range(300)]
    for size in (10, 100_000, 3_000_000):
        batches = []
        for batch in envelopes(ALICE).batches(dests[: 300 if size < 1000 else 60], bytes(size), encrypt=True):
            assert len(batch.dests) == len(batch.payloads) <= 128
            total = sum(map(len, batch.payloads)) + sum(len(str(dest)) + 64 for dest in batch.dests)
            assert total <= MAX_MESSAGE_BYTES
            batches.append(batch.dests)
        assert [dest for batch in batches for dest in batch] == dests[: 300 if size < 1000 else 60]


def test_too_big_is_said_before_anything_is_sealed() -> None:
    with pytest.raises(TooBig, match=r"4000001 bytes are too many.*pieces"):
        envelopes(ALICE).batches([to(BOB)], bytes(4_000_001), encrypt=True)
    longest = MAX_MESSAGE_BYTES - envelope._HEADROOM_BYTES - 64 - len(str(to(BOB)))
    assert only(ALICE, [to(BOB)], bytes(longest))
    with pytest.raises(TooBig, match=f"takes {longest} "):
        envelopes(ALICE).batches([to(BOB)], bytes(longest + 1), encrypt=False)


def test_kept_boxes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope, "MAX_BOXES", 4)
    some = envelopes(ALICE)
    for n in range(20):
        reader = Identity(bytes([n + 1] * 32))
        (batch,) = some.batches([to(reader)], b"hello", encrypt=True)
        assert envelopes(reader).open(ALICE.public_key, Message.decode(batch.payloads[0])) == b"hello"
        assert some._box.cache_info().currsize <= 4
