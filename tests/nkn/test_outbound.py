"""What stands before a payload, checked as a strict node checks it."""

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
    digest = sigchain.outbound_digest(
        NODE_KEY,
        message.nonce,
        size,
        message.block_hash,
        sigchain.client_id(str(ADDRESS)),
        IDENTITY.public_key,
        sigchain.client_id(message.dests[0]),
        NknAddress.parse(message.dests[0]).public_key,
    )
    return verify(IDENTITY.public_key, digest, message.signatures[0])


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
