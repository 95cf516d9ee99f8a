"""Messages, replies and ACKs: what the official SDK writes is accepted, what is malformed is not."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.crypto.keys import Identity
from nconnect.errors import LocalProtocolError, TooBig
from nconnect.model import NknAddress
from nconnect.nkn.envelope import Envelopes
from nconnect.nkn.exchange import (
    MAX_ID_BYTES,
    Exchange,
    Incoming,
    IncomingAnswer,
    IncomingPacket,
    MessageDrop,
)
from nconnect.nkn.recent import KEEP_S
from nconnect.wire.message import Message, Payload, PayloadType, TextData
from nconnect.wire.nkn import InboundMessage, OutboundMessage, decode_client_message

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "nkn_sdk.json").read_text())
IDENTITIES = {
    name: Identity(bytes.fromhex(each["seed"]))
    for name, each in zip(("alice", "bob", "carol"), VECTORS["identities"], strict=True)
}
ADDRESSES = {
    name: NknAddress.parse(each["address"])
    for name, each in zip(("alice", "bob", "carol"), VECTORS["identities"], strict=True)
}
ALICE, BOB, CAROL = ADDRESSES.values()
ASKED = bytes.fromhex(VECTORS["askedId"])
EXCHANGES = {each["name"]: each for each in VECTORS["exchanges"]}
ID = bytes(range(8))


class Party:
    """One client's exchange, and a way to say things to it."""

    def __init__(self, name: str, **options: bool) -> None:
        self.address = ADDRESSES[name]
        self.exchange = Exchange(IDENTITIES[name], rng=random.Random(name).randbytes, **options)
        self.now = 1000.0

    def hear(
        self, src: NknAddress | str, data: bytes, *, has_room: bool = True
    ) -> Incoming | IncomingAnswer | IncomingPacket | MessageDrop:
        """What came of a message: the value, or why it was dropped (which is counted, once)."""
        before = dict(self.exchange.drops)
        found = self.exchange.receive(str(src), memoryview(data), self.now, has_room=has_room)
        counted = [reason for reason, count in self.exchange.drops.items() if count != before[reason]]
        if found is not None:
            assert not counted
            return found
        assert len(counted) == 1
        assert self.exchange.drops[counted[0]] == before[counted[0]] + 1
        return counted[0]

    def say(self, payload: Payload, to: NknAddress, *, encrypt: bool = True) -> bytes:
        """Any payload, as this client would send it."""
        (batch,) = self.exchange._envelopes.batches([to], payload.encode(), encrypt=encrypt)
        return batch.payloads[0]


def received(exchange: dict[str, Any]) -> tuple[str, bytes]:
    """Source and payload of the recorded frame."""
    message = decode_client_message(bytes.fromhex(exchange["inbound"]))
    assert isinstance(message, InboundMessage)
    return message.src, bytes(message.payload)


def content(exchange: dict[str, Any]) -> str | bytes | None:
    data = bytes.fromhex(exchange["data"])
    kind = PayloadType(exchange["type"])
    return (
        None if kind is PayloadType.ACK else TextData.decode(data).text if kind is PayloadType.TEXT else data
    )


# What the official SDK writes


@pytest.mark.parametrize("name", [name for name, each in EXCHANGES.items() if not each["replyToId"]])
def test_recorded_messages_are_read_as_they_were_meant(name: str) -> None:
    recorded = EXCHANGES[name]
    bob = Party("bob", accept_unencrypted=True)
    found = bob.hear(*received(recorded))
    if name == "session":
        assert isinstance(found, IncomingPacket)
        assert found.src == ALICE
        assert found.session_id == bytes.fromhex(recorded["messageId"])
        assert bytes(found.data) == bytes.fromhex(recorded["data"])
        assert bob.hear(*received(recorded)) == found, "all packets of a session have the same id"
        return
    assert found == Incoming(
        ALICE, content(recorded) or "", bytes.fromhex(recorded["messageId"]), recorded["encrypted"], False
    )
    strict = Party("bob").hear(*received(recorded))
    assert strict == (found if recorded["encrypted"] else MessageDrop.UNENCRYPTED)


@pytest.mark.parametrize("name", [name for name, each in EXCHANGES.items() if each["replyToId"]])
def test_recorded_answers_reach_what_waits_for_them(name: str) -> None:
    recorded = EXCHANGES[name]
    bob = Party("bob")
    assert bob.hear(*received(recorded)) is MessageDrop.UNEXPECTED_ANSWER
    bob.exchange.expect(ASKED, [ALICE, CAROL], encrypted=recorded["encrypted"])
    assert bob.hear(*received(recorded)) == IncomingAnswer(
        ALICE, ASKED, ALICE, content(recorded), recorded["encrypted"]
    )
    assert bob.hear(*received(recorded)) is MessageDrop.DUPLICATE
    bob.exchange.forget(ASKED)
    assert bob.hear(*received(recorded)) is MessageDrop.DUPLICATE


@pytest.mark.parametrize("name", EXCHANGES)
def test_what_we_say_is_what_the_official_sdk_says(name: str) -> None:
    recorded = EXCHANGES[name]
    dests = [NknAddress.parse(dest) for dest in recorded["dests"]]
    alice, data = Party("alice"), content(recorded)
    id = bytes.fromhex(recorded["messageId"])
    to = Incoming(BOB, "?", bytes.fromhex(recorded["replyToId"]), recorded["encrypted"], False)
    if name == "session":
        return
    if data is None:
        batches = alice.exchange.ack(to, BOB)
    elif recorded["replyToId"]:
        batches = alice.exchange.reply(to, BOB, data)
    else:
        batches = alice.exchange.message(dests, data, id=id, encrypt=recorded["encrypted"], no_reply=False)
    (batch,) = batches
    theirs = decode_client_message(bytes.fromhex(recorded["outbound"]))
    assert isinstance(theirs, OutboundMessage)
    assert tuple(map(str, batch.dests)) == theirs.dests
    assert len(batch.payloads) == len(theirs.payloads)
    for reader, payload in zip(batch.dests, batch.payloads, strict=False):
        message = Message.decode(payload)
        assert message.encrypted is recorded["encrypted"]
        plain: Any = message.payload
        if message.encrypted:
            who = next(name for name, address in ADDRESSES.items() if address == reader)
            plain = Envelopes(IDENTITIES[who], rng=bytes).open(ALICE.public_key, message)
        assert bytes(plain).hex() == recorded["plain"]


# Replies


@given(st.text(max_size=50) | st.binary(max_size=50), st.booleans())
def test_a_conversation(data: str | bytes, encrypt: bool) -> None:
    alice, bob = Party("alice"), Party("bob", accept_unencrypted=True)
    id = alice.exchange.message_id()
    alice.exchange.expect(id, [BOB], encrypted=encrypt)
    (batch,) = alice.exchange.message([BOB], data, id=id, encrypt=encrypt, no_reply=False)
    found = bob.hear(ALICE, batch.payloads[0])
    assert found == Incoming(ALICE, data, id, encrypt, False)
    assert isinstance(found, Incoming)
    (batch,) = bob.exchange.reply(found, found.src, data)
    assert alice.hear(BOB, batch.payloads[0]) == IncomingAnswer(BOB, id, BOB, data, encrypt)


def test_an_answer_counts_from_who_was_asked_once_and_only_while_it_is_waited_for() -> None:
    alice, bob, carol = Party("alice"), Party("bob"), Party("carol")
    ack = Payload(PayloadType.ACK, reply_to_id=ID)
    alice.exchange.expect(ID, [BOB], encrypted=True)
    assert alice.hear(CAROL, carol.say(ack, ALICE)) is MessageDrop.UNEXPECTED_ANSWER
    assert alice.hear(BOB, bob.say(ack, ALICE, encrypt=False)) is MessageDrop.UNENCRYPTED
    assert isinstance(alice.hear(BOB, bob.say(ack, ALICE)), IncomingAnswer)
    assert alice.hear(BOB, bob.say(ack, ALICE)) is MessageDrop.DUPLICATE
    alice.exchange.forget(ID)
    other = Payload(PayloadType.ACK, reply_to_id=bytes(8))
    assert alice.hear(BOB, bob.say(other, ALICE)) is MessageDrop.UNEXPECTED_ANSWER


def test_an_answer_in_the_clear_counts_only_if_the_message_was_sent_so() -> None:
    for accept in (False, True):
        alice, bob = Party("alice", accept_unencrypted=accept), Party("bob")
        reply = bob.say(Payload(PayloadType.BINARY, data=b"x", reply_to_id=ID), ALICE, encrypt=False)
        alice.exchange.expect(ID, [BOB], encrypted=True)
        assert alice.hear(BOB, reply) is MessageDrop.UNENCRYPTED
        alice.exchange.expect(ID, [BOB], encrypted=False)
        assert alice.hear(BOB, reply) == IncomingAnswer(BOB, ID, BOB, b"x", False)


def test_a_sub_client_answers_for_its_client() -> None:
    alice, bob = Party("alice"), Party("bob")
    alice.exchange.expect(ID, [BOB], encrypted=True)
    ack = bob.say(Payload(PayloadType.ACK, reply_to_id=ID), ALICE)
    found = alice.hear(BOB.sub_client(2), ack)
    assert isinstance(found, IncomingAnswer)
    assert (found.src, found.dest) == (BOB.sub_client(2), BOB)
    assert alice.hear(BOB.sub_client(0), ack) is MessageDrop.DUPLICATE


# Duplicates


def test_copies_of_a_message_are_delivered_once_for_five_minutes() -> None:
    alice, bob, carol = Party("alice"), Party("bob"), Party("carol")
    copy = Payload(PayloadType.BINARY, ID, b"hello")
    assert isinstance(bob.hear(ALICE.sub_client(0), alice.say(copy, BOB)), Incoming)
    for k in (0, 1, 2):
        assert bob.hear(ALICE.sub_client(k), alice.say(copy, BOB)) is MessageDrop.DUPLICATE
    assert isinstance(bob.hear(CAROL, carol.say(copy, BOB)), Incoming)  # the id is the sender's own
    bob.now += KEEP_S
    assert isinstance(bob.hear(ALICE, alice.say(copy, BOB)), Incoming)


def test_what_found_no_room_may_come_again() -> None:
    alice, bob = Party("alice"), Party("bob")
    copy = alice.say(Payload(PayloadType.BINARY, ID, b"hello"), BOB)
    assert bob.hear(ALICE, copy, has_room=False) is MessageDrop.INBOX_FULL
    assert isinstance(bob.hear(ALICE, copy), Incoming)


def test_messages_without_an_id_are_no_copies_of_each_other() -> None:
    alice, bob = Party("alice"), Party("bob")
    for _ in range(2):
        assert isinstance(bob.hear(ALICE, alice.say(Payload(PayloadType.BINARY, data=b"x"), BOB)), Incoming)


# What must be refused


def test_who_it_is_from_is_who_sealed_it() -> None:
    bob, carol = Party("bob"), Party("carol")
    sealed = carol.say(Payload(PayloadType.TEXT, ID, TextData("I am Alice").encode()), BOB)
    assert bob.hear(ALICE, sealed) is MessageDrop.NOT_AUTHENTIC
    assert bob.hear(NknAddress("alice", CAROL.public_key), sealed) != MessageDrop.NOT_AUTHENTIC


def test_a_message_for_somebody_else() -> None:
    alice, carol = Party("alice"), Party("carol")
    assert carol.hear(ALICE, alice.say(Payload(PayloadType.BINARY, ID), BOB)) is MessageDrop.NOT_AUTHENTIC


@pytest.mark.parametrize(
    "src",
    [
        "",
        "alice",
        "alice." + "g" * 64,
        f" {ALICE}",
        f"{ALICE}\n",
        str(ALICE).upper(),
        "a" * 2000 + f".{ALICE}",
    ],
)
def test_sources_that_are_no_addresses(src: str) -> None:
    alice, bob = Party("alice"), Party("bob")
    assert bob.hear(src, alice.say(Payload(PayloadType.BINARY, ID), BOB)) is MessageDrop.MALFORMED


def test_a_source_whose_key_is_none() -> None:
    alice, bob = Party("alice"), Party("bob")
    sealed = alice.say(Payload(PayloadType.BINARY, ID), BOB)
    assert bob.hear(NknAddress("", bytes(32)), sealed) is MessageDrop.NOT_AUTHENTIC


def test_payloads_that_make_no_sense() -> None:
    alice, bob = Party("alice"), Party("bob")

    def hear(plain: bytes) -> object:
        (batch,) = alice.exchange._envelopes.batches([BOB], plain, encrypt=True)
        return bob.hear(ALICE, batch.payloads[0])

    long_id = bytes(MAX_ID_BYTES + 1)
    for plain in (
        b"\xff",
        b"\x08\x09",  # type 9
        Payload(PayloadType.TEXT, ID, b"\x0a\x02\xc3\x28").encode(),  # not UTF-8
        Payload(PayloadType.TEXT, ID, b"\x0a\xff").encode(),
        Payload(PayloadType.BINARY, long_id).encode(),
        Payload(PayloadType.BINARY, reply_to_id=long_id).encode(),
    ):
        assert hear(plain) is MessageDrop.MALFORMED
    assert hear(Payload(PayloadType.ACK, ID).encode()) is MessageDrop.UNEXPECTED_ANSWER
    assert isinstance(hear(Payload(PayloadType.BINARY, bytes(MAX_ID_BYTES)).encode()), Incoming)


def test_a_frame_of_the_tunnel_is_no_message() -> None:
    bob = Party("bob")
    frame = Message(bytes(100), True, bytes(16)).encode()
    assert bob.hear(ALICE, frame) is MessageDrop.NOT_AUTHENTIC


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_counted(data: bytes, accept: bool) -> None:
    bob = Party("bob", accept_unencrypted=accept)
    found = bob.hear(ALICE, data)
    assert isinstance(found, MessageDrop) or accept


@given(st.sampled_from(sorted(EXCHANGES)), st.data())
def test_damage_never_becomes_another_message(name: str, data: st.DataObject) -> None:
    recorded = EXCHANGES[name]
    src, payload = received(recorded)
    damaged = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    bob = Party("bob")
    bob.exchange.expect(ASKED, [ALICE], encrypted=True)
    found = bob.hear(src, bytes(damaged))
    if not isinstance(found, MessageDrop):  # the damage was to what does not matter, as a tag's length
        assert found == undamaged(name)


def undamaged(name: str) -> object:
    bob = Party("bob")
    bob.exchange.expect(ASKED, [ALICE], encrypted=True)
    return bob.hear(*received(EXCHANGES[name]))


def test_what_cannot_be_sent() -> None:
    alice = Party("alice")
    with pytest.raises(TooBig):
        alice.exchange.message([BOB], bytes(4_000_000), id=ID, encrypt=True, no_reply=False)
    with pytest.raises(LocalProtocolError, match="surrogate"):
        alice.exchange.message([BOB], "\ud800", id=ID, encrypt=True, no_reply=False)


def test_any_buffer_can_be_sent() -> None:
    alice, bob = Party("alice"), Party("bob")
    for data in (bytearray(b"abcd"), memoryview(b"abcd"), memoryview(b"abcd").cast("I")):
        id = alice.exchange.message_id()
        (batch,) = alice.exchange.message([BOB], data, id=id, encrypt=True, no_reply=True)
        found = bob.hear(ALICE, batch.payloads[0])
        assert isinstance(found, Incoming)
        assert (found.data, found.no_reply) == (b"abcd", True)
