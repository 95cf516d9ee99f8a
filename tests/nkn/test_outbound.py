"""The prefix of an outbound message, checked as a strict node checks it."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.crypto.keys import Identity, verify
from nconnect.errors import ConfigError, LocalProtocolError
from nconnect.model import NknAddress
from nconnect.nkn import outbound
from nconnect.nkn.outbound import OutboundPrefixes
from nconnect.wire import sigchain
from nconnect.wire.nkn import OutboundMessage, decode_client_message

IDENTITY = Identity(bytes(range(32)))
ADDRESS = NknAddress("gpu", IDENTITY.public_key)
DEST = NknAddress("laptop", Identity(bytes(32)).public_key)
NODE_KEY = bytes(range(50, 82))


def prefixes(*, signed: bool, block_hash: bytes = b"hash") -> OutboundPrefixes:
    return OutboundPrefixes(
        IDENTITY, ADDRESS, node_key=NODE_KEY, block_hash=block_hash, signed=signed, rng=os.urandom
    )


def read(data: bytes) -> OutboundMessage:
    message = decode_client_message(data)
    assert isinstance(message, OutboundMessage)
    return message


def is_signed(message: OutboundMessage, size: int) -> bool:
    prepared = sigchain.OutboundDigest(
        NODE_KEY,
        message.block_hash,
        sigchain.client_id(str(ADDRESS)),
        IDENTITY.public_key,
        sigchain.client_id(message.dests[0]),
        NknAddress.parse(message.dests[0]).public_key,
    )
    return verify(IDENTITY.public_key, prepared.digest(message.nonce, size), message.signatures[0])


@given(st.binary(max_size=300), st.binary(max_size=64), st.integers(0, 9))
def test_prefix_and_payload_are_a_signed_message(payload: bytes, block_hash: bytes, sub: int) -> None:
    some = prefixes(signed=True, block_hash=block_hash)
    dest = str(DEST.sub_client(sub))
    message = read(some.prefix(dest, len(payload)) + payload)
    assert (message.dests, bytes(message.payloads[0]), message.block_hash) == ((dest,), payload, block_hash)
    assert is_signed(message, len(payload))
    assert not is_signed(message, len(payload) + 1)
    some.use_block_hash(b"newer")
    message = read(some.prefix(dest, len(payload)) + payload)
    assert message.block_hash == b"newer"
    assert is_signed(message, len(payload))


def test_without_signatures_there_is_nothing_but_the_destination() -> None:
    message = read(prefixes(signed=False).prefix(str(DEST), 5) + b"hello")
    assert message == OutboundMessage((str(DEST),), (b"hello",))


def test_a_nonce_is_fresh_each_time() -> None:
    some = prefixes(signed=True)
    assert len({read(some.prefix(str(DEST), 0)).nonce for _ in range(50)}) > 45


def test_what_the_network_would_not_take() -> None:
    for signed in (True, False):
        prefixes(signed=signed).prefix(str(DEST), 4_000_000)
        with pytest.raises(LocalProtocolError):
            prefixes(signed=signed).prefix(str(DEST), 4_000_001)
    with pytest.raises(ConfigError):
        prefixes(signed=True).prefix("nobody", 1)


def test_what_is_prepared_is_bounded_and_stays_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "MAX_DESTINATIONS", 8)
    some = prefixes(signed=True)
    for n in range(100):
        message = read(some.prefix(str(DEST.sub_client(n)), 0))
        assert is_signed(message, 0)
        assert len(some._digests) <= 8


@given(st.integers(1, 5), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))
def test_a_whole_message_is_signed_for_each_destination(
    count: int, shared: bool, signed: bool, holding: int
) -> None:
    some = prefixes(signed=signed)
    dests = [str(DEST.sub_client(n)) for n in range(count)]
    payloads = [b"x" * (n + 1) for n in range(1 if shared else count)]
    message = read(some.message(dests, payloads, max_holding_seconds=holding))
    assert (list(message.dests), list(map(bytes, message.payloads))) == (dests, payloads)
    assert message.max_holding_seconds == holding
    assert len(message.signatures) == (count if signed else 0)
    for index, (dest, signature) in enumerate(zip(dests, message.signatures, strict=False)):
        size = len(message.payload_for(index))
        assert is_signed(OutboundMessage((dest,), (b"",), message.nonce, b"hash", (signature,)), size)
        assert not is_signed(OutboundMessage((dest,), (b"",), message.nonce, b"hash", (signature,)), size + 1)


def test_several_payloads_are_compressed_where_it_can_help() -> None:
    some, dests = prefixes(signed=False), [str(DEST), str(DEST.sub_client(0))]
    for size, is_smaller in ((20_000, True), (40_000, False)):
        body = os.urandom(size)
        frame = some.message(dests, [body, body])
        assert (len(frame) < 2 * size) is is_smaller
        assert read(frame).payloads == (body, body)
    assert len(some.message(dests, [bytes(20_000)])) > 20_000  # one payload: as the official SDKs do


def test_a_whole_message_that_the_network_would_not_take() -> None:
    for signed in (True, False):
        some = prefixes(signed=signed)
        some.message([str(DEST)], [bytes(4_000_000)])
        with pytest.raises(LocalProtocolError, match="more than the network takes"):
            some.message([str(DEST)] * 2, [bytes(2_100_000)] * 2)
