"""NKN's messages, against the protobuf library and the official JavaScript SDK."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from nconnect.errors import RemoteProtocolError
from nconnect.wire import nkn
from nconnect.wire.message import Message, Payload, TextData
from nconnect.wire.nkn import (
    MAX_DESTS,
    MAX_FRAME_BYTES,
    HeadCache,
    InboundMessage,
    OutboundMessage,
    Receipt,
    decode_client_message,
    inbound_prefix,
    outbound_prefix,
)
from nconnect.wire.protobuf import varint
from tests.wire import nkn_proto

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "nkn_sdk.json").read_text())
ALICE, BOB, CAROL = (each["address"] for each in VECTORS["identities"])
HASH, SIGNATURE = b"h" * 32, b"s" * 64
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=100)
U32 = st.integers(0, 2**32 - 1)
FEW_BYTES = st.binary(max_size=70)


def client_message(kind: int, name: str, *, compression: int = 0, **values: Any) -> bytes:
    body = nkn_proto.make(name, **values)
    if compression == 1:
        body = zlib.compress(body)
    return nkn_proto.make("ClientMessage", message_type=kind, message=body, compression_type=compression)


def framed(kind: int, body: bytes) -> bytes:
    return nkn_proto.make("ClientMessage", message_type=kind, message=body)


# --- the SDK's bytes ---


def sdk_outbound(name: str) -> dict[str, Any]:
    return next(each for each in VECTORS["outbound"] if each["name"] == name)


@pytest.mark.parametrize("vector", VECTORS["outbound"], ids=lambda vector: vector["name"])
def test_outbound_messages_of_the_sdk_are_read(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["bytes"])
    data += bytes([7]) * (vector["size"] - len(data))
    message = decode_client_message(data)
    assert isinstance(message, OutboundMessage)
    assert message.dests == tuple(vector["dests"])
    assert message.nonce == vector["nonce"]
    assert message.block_hash.hex() == vector["blockHash"]
    assert message.max_holding_seconds == vector["maxHoldingSeconds"]
    assert [signature.hex() for signature in message.signatures] == vector["signatures"]
    assert [len(payload) for payload in message.payloads] == vector["payloadSizes"]
    if not vector["compressed"]:
        assert message.encode() == data


@pytest.mark.parametrize("name", ["one", "held", "no block hash", "large"])
def test_an_outbound_prefix_makes_the_sdks_bytes(name: str) -> None:
    vector = sdk_outbound(name)
    data = bytes.fromhex(vector["bytes"])
    data += bytes([7]) * (vector["size"] - len(data))
    (size,) = vector["payloadSizes"]
    prefix = outbound_prefix(
        vector["dests"][0],
        size,
        nonce=vector["nonce"],
        block_hash=bytes.fromhex(vector["blockHash"]),
        signature=bytes.fromhex(vector["signatures"][0]),
        max_holding_seconds=vector["maxHoldingSeconds"],
    )
    assert prefix + data[-size:] == data


def test_inbound_and_receipt_are_the_sdks() -> None:
    inbound, receipt = VECTORS["inbound"], VECTORS["receipt"]
    message = decode_client_message(bytes.fromhex(inbound["bytes"]))
    payload = bytes.fromhex(VECTORS["single"]["bytes"])
    assert message == InboundMessage(ALICE, payload, bytes.fromhex(inbound["prevHash"]))
    assert message.encode().hex() == inbound["bytes"]
    answer = decode_client_message(bytes.fromhex(receipt["bytes"]))
    assert isinstance(answer, Receipt)
    assert answer.prev_hash.hex() == receipt["prevHash"]
    assert answer.encode().hex() == receipt["bytes"]


# --- prefixes ---


@given(
    NAMES.filter(bool),
    U32,
    st.binary(max_size=32),
    st.sampled_from([b"", SIGNATURE]),
    U32,
    st.binary(max_size=300),
)
def test_outbound_prefix(
    dest: str, nonce: int, block_hash: bytes, signature: bytes, holding: int, payload: bytes
) -> None:
    prefix = outbound_prefix(
        dest,
        len(payload),
        nonce=nonce,
        block_hash=block_hash,
        signature=signature,
        max_holding_seconds=holding,
    )
    signatures = (signature,) if signature else ()
    expected = OutboundMessage((dest,), (payload,), nonce, block_hash, signatures, holding)
    assert decode_client_message(prefix + payload) == expected
    assert prefix + payload == expected.encode()


@given(NAMES, st.binary(max_size=300), st.binary(max_size=32))
def test_inbound_prefix(src: str, payload: bytes, prev_hash: bytes) -> None:
    data = inbound_prefix(src, len(payload), prev_hash) + payload
    assert decode_client_message(data) == InboundMessage(src, payload, prev_hash)
    outer = nkn_proto.read("ClientMessage", data)
    inner = nkn_proto.read("InboundMessage", outer.message)
    assert (outer.message_type, inner.src, inner.payload, inner.prev_hash) == (1, src, payload, prev_hash)


def test_payloads_are_views_of_the_input() -> None:
    data = bytearray(inbound_prefix(ALICE, 4) + b"abcd")
    message = decode_client_message(memoryview(data))
    assert isinstance(message, InboundMessage)
    data[-4:] = b"wxyz"
    assert message.payload == b"wxyz"
    data = bytearray(outbound_prefix(BOB, 4, nonce=1, block_hash=HASH, signature=SIGNATURE) + b"abcd")
    out = decode_client_message(memoryview(data))
    assert isinstance(out, OutboundMessage)
    data[-4:] = b"wxyz"
    assert out.payload_for(0) == b"wxyz"


# --- against the library ---


@given(
    st.lists(NAMES.filter(bool), min_size=1, max_size=4),
    st.data(),
    U32,
    FEW_BYTES,
    U32,
    st.booleans(),
    st.booleans(),
)
def test_outbound_messages_of_the_library(
    dests: list[str],
    data: st.DataObject,
    nonce: int,
    block_hash: bytes,
    holding: int,
    compressed: bool,
    signed: bool,
) -> None:
    payloads = data.draw(st.lists(FEW_BYTES, min_size=len(dests), max_size=len(dests)) | st.tuples(FEW_BYTES))
    signatures = [SIGNATURE] * len(dests) if signed else []
    made = client_message(
        0, "OutboundMessage", compression=int(compressed), dests=dests, payloads=payloads, nonce=nonce,
        block_hash=block_hash, max_holding_seconds=holding, signatures=signatures,
    )  # fmt: skip
    expected = OutboundMessage(tuple(dests), tuple(payloads), nonce, block_hash, tuple(signatures), holding)
    assert decode_client_message(made) == expected
    assert decode_client_message(expected.encode()) == expected
    for index in range(len(dests)):
        assert expected.payload_for(index) == payloads[index if len(payloads) > 1 else 0]


def test_the_older_fields_for_one_destination() -> None:
    made = client_message(0, "OutboundMessage", dest=BOB, payload=b"old")
    assert decode_client_message(made) == OutboundMessage((BOB,), (b"old",))
    both = client_message(0, "OutboundMessage", dest=BOB, payload=b"old", dests=[CAROL], payloads=[b"new"])
    assert decode_client_message(both) == OutboundMessage((CAROL,), (b"new",))


def wire_field(number: int, kind: int, value: int, body: bytes) -> bytes:
    content = {
        0: varint(value),
        1: value.to_bytes(8, "little"),
        2: varint(len(body)) + body,
        5: value.to_bytes(4, "little"),
    }
    return varint(number << 3 | kind) + content[kind]


FIELD = st.builds(
    wire_field,
    st.integers(1, 9) | st.just(1000),
    st.sampled_from([0, 2, 2, 2, 1, 5]),
    st.sampled_from([0, 1, 2, 3, 4, 300, 2**31, 2**32 - 1]),
    FEW_BYTES | st.sampled_from([b"name", "ж".encode()]),
)
LIKELY = st.lists(FIELD, max_size=6).map(b"".join)
DECODERS: dict[str, Callable[[bytes], Any]] = {
    "Message": Message.decode,
    "Payload": Payload.decode,
    "TextData": TextData.decode,
    "OutboundMessage": lambda body: decode_client_message(framed(0, body)),
    "InboundMessage": lambda body: decode_client_message(framed(1, body)),
    "Receipt": lambda body: decode_client_message(framed(2, body)),
}


@given(st.sampled_from(sorted(DECODERS)), LIKELY | st.binary(max_size=60))
def test_any_bytes_mean_what_they_mean_to_the_library_or_are_refused(name: str, data: bytes) -> None:
    try:
        ours = DECODERS[name](data)
    except RemoteProtocolError:
        return
    try:
        theirs = nkn_proto.read(name, data)
    except DecodeError:
        pytest.fail("read what the library refuses")
    same = list(type(ours).__dataclass_fields__)
    if isinstance(ours, OutboundMessage):
        assert ours.dests == (tuple(theirs.dests) or (theirs.dest,))
        assert ours.payloads == (tuple(theirs.payloads) or (theirs.payload,))
        assert ours.signatures == tuple(theirs.signatures)
        same = ["nonce", "block_hash", "max_holding_seconds"]
    for field in same:
        assert getattr(ours, field) == getattr(theirs, field)


@given(LIKELY | st.builds(framed, st.integers(0, 300), FEW_BYTES))
def test_the_short_way_through_a_frame_ends_where_the_long_one_does(data: bytes) -> None:
    view = memoryview(data)
    try:
        short = nkn._client_message_head(view)
    except RemoteProtocolError:
        with pytest.raises(RemoteProtocolError):
            nkn._client_message_fields(view)
        return
    if short is not None:
        assert nkn._client_message_fields(view) == short


@given(st.binary(max_size=120))
def test_any_frame_is_read_or_refused(data: bytes) -> None:
    try:
        decode_client_message(data)
    except RemoteProtocolError:
        pass


@given(st.sampled_from([each["bytes"] for each in VECTORS["outbound"][:-1]]), st.data())
def test_a_damaged_frame_is_read_or_refused(frame: str, data: st.DataObject) -> None:
    damaged = bytearray.fromhex(frame)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_client_message(damaged[: data.draw(st.integers(0, len(damaged)))])
    except RemoteProtocolError:
        pass


@given(st.permutations([b"\x08\x01", nkn_proto.make("ClientMessage", message=b"\x0a\x01a"), b"\x22\x01?"]))
def test_fields_in_any_order_with_unknown_ones(parts: list[bytes]) -> None:
    assert decode_client_message(b"".join(parts)) == InboundMessage("a", b"")


# --- what must be refused ---


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "destination"),
        (nkn_proto.make("ClientMessage", message_type=3), "type 3"),
        (nkn_proto.make("ClientMessage", message_type=1, compression_type=2), "compression 2"),
        (nkn_proto.make("ClientMessage", message=b"junk", compression_type=1), "compressed"),
        (client_message(0, "OutboundMessage", payloads=[b"x"]), "destination"),
        (client_message(0, "OutboundMessage", dests=["a", "b", "c"], payloads=[b"x", b"y"]), "payload"),
        (client_message(0, "OutboundMessage", dests=["a"], payloads=[b"x", b"y"]), "payload"),
        (client_message(0, "OutboundMessage", dests=["a", "b"], signatures=[SIGNATURE]), "signature"),
        (client_message(0, "OutboundMessage", dests=["a"], signatures=[SIGNATURE] * 2), "signature"),
        (nkn_proto.make("ClientMessage", message=bytes.fromhex("1a02c328")), "UTF-8"),
        (nkn_proto.make("ClientMessage", message=b"\x18\x01"), "number where bytes"),
        (nkn_proto.make("ClientMessage", message=b"\x1a\x01a\x2a\x00"), "32-bit"),
        (nkn_proto.make("ClientMessage", message=b"\x1a\x01a\x20\x80\x80\x80\x80\x10"), "32-bit"),
        (bytes.fromhex("1003"), "number where bytes"),
        (inbound_prefix(ALICE, 5) + b"four", "truncated"),
    ],
)
def test_malformed_messages(data: bytes, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        decode_client_message(data)


def test_the_number_of_destinations_is_bounded() -> None:
    most = OutboundMessage(("a",) * MAX_DESTS, (b"x",) * MAX_DESTS, signatures=(b"s",) * MAX_DESTS)
    assert decode_client_message(most.encode()) == most
    with pytest.raises(RemoteProtocolError, match="destinations"):
        decode_client_message(client_message(0, "OutboundMessage", dests=["a"] * (MAX_DESTS + 1)))
    with pytest.raises(RemoteProtocolError, match="too many"):
        decode_client_message(client_message(0, "OutboundMessage", dests=["a"] * (4 * MAX_DESTS)))


def compressed(body: bytes) -> bytes:
    return nkn_proto.make("ClientMessage", message=body, compression_type=1)


def test_what_it_decompresses_to_is_bounded() -> None:
    head = nkn_proto.make("OutboundMessage", dests=["a"])
    room = MAX_FRAME_BYTES - len(head) - 5
    fits = zlib.compress(nkn_proto.make("OutboundMessage", dests=["a"], payloads=[bytes(room)]))
    message = decode_client_message(compressed(fits))
    assert isinstance(message, OutboundMessage)
    assert len(message.payloads[0]) == room
    bomb = zlib.compress(nkn_proto.make("OutboundMessage", dests=["a"], payloads=[bytes(room + 1)]))
    with pytest.raises(RemoteProtocolError, match="too large"):
        decode_client_message(compressed(bomb))


@pytest.mark.parametrize("damage", [lambda body: body[:-1], lambda body: body + b"x", lambda body: b""])
def test_a_damaged_compressed_message(damage: Callable[[bytes], bytes]) -> None:
    body = zlib.compress(nkn_proto.make("OutboundMessage", dests=["a"]))
    with pytest.raises(RemoteProtocolError, match="compressed"):
        decode_client_message(compressed(damage(body)))


def test_a_message_like_the_last_one_is_recognised_and_no_other() -> None:
    cache = HeadCache()
    one = memoryview(inbound_prefix("laptop." + "ab" * 32, 5) + b"hello")
    message = decode_client_message(one)
    assert isinstance(message, InboundMessage)
    assert cache.find(one) is None
    cache.keep(one, message.src, len(message.payload), message.payload)
    two = memoryview(inbound_prefix("laptop." + "ab" * 32, 5) + b"other")
    found = cache.find(two)
    assert found is not None
    assert (found[0], bytes(found[1])) == (message.src, b"other")
    for unlike in (inbound_prefix("laptop." + "ac" * 32, 5) + b"hello", bytes(one) + b"x", bytes(one)[:-1]):
        assert cache.find(memoryview(unlike)) is None


@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=200))
def test_what_is_recognised_decodes_to_the_same(src: bytes, payload: bytes, other: bytes) -> None:
    """Whatever a first message looked like, a second that is recognised means what it is taken for."""
    cache = HeadCache()
    address = src.hex()
    first = memoryview(InboundMessage(address, payload).encode())
    cache.keep(first, address, len(payload), payload)
    for frame in (other, bytes(first[: len(first) - len(payload)]) + other[: len(payload)]):
        found = cache.find(memoryview(frame))
        if found is not None:
            message = decode_client_message(frame)
            assert isinstance(message, InboundMessage)
            assert (message.src, message.payload) == (found[0], found[1])
