"""Shadowsocks' ciphers, against streams of the library that the official nConnect uses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.crypto.shadowsocks import MAX_CHUNK_BYTES, ShadowCipher, ShadowOpener, ShadowSealer
from nconnect.errors import RemoteProtocolError

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "shadowsocks.json").read_text())["streams"]
CIPHERS = tuple(ShadowCipher)
SALT = bytes(range(32))


def salt(size: int) -> bytes:
    return SALT[:size]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['cipher']}-{v['password']}")
def test_streams_are_those_of_the_official_library(vector: dict) -> None:
    cipher = ShadowCipher(vector["cipher"])
    key = cipher.key(vector["password"])
    stream, writes = bytes.fromhex(vector["stream"]), [bytes.fromhex(text) for text in vector["writes"]]
    opener = ShadowOpener(cipher, key)
    assert opener.open(stream) == b"".join(writes)
    assert opener.salt == stream[: cipher.key_bytes]
    sealer = ShadowSealer(cipher, key, rng=lambda size: stream[:size])
    assert b"".join(map(sealer.seal, writes)) == stream


def test_a_password_of_nothing_is_a_key() -> None:
    # MD5(""), and MD5(MD5("")).
    assert ShadowCipher.AES_128.key("").hex() == "d41d8cd98f00b204e9800998ecf8427e"
    assert ShadowCipher.CHACHA20.key("").hex().endswith("59adb24ef3cdbe0297f05b395827453f")


@given(st.sampled_from(CIPHERS), st.lists(st.binary(max_size=40), max_size=6), st.data())
def test_what_is_sealed_opens_however_it_is_cut(
    cipher: ShadowCipher, writes: list[bytes], data: st.DataObject
) -> None:
    key = cipher.key("p")
    sealer, opener = ShadowSealer(cipher, key, rng=salt), ShadowOpener(cipher, key)
    stream = b"".join(map(sealer.seal, writes))
    got = b""
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        got += opener.open(stream[:size])
        stream = stream[size:]
    assert got == b"".join(writes)
    assert opener.is_between_chunks


def test_long_data_is_cut_into_chunks() -> None:
    cipher = ShadowCipher.CHACHA20
    data = bytes(3 * MAX_CHUNK_BYTES + 1)
    stream = ShadowSealer(cipher, cipher.key(""), rng=salt).seal(data)
    assert len(stream) == 32 + len(data) + 4 * (2 + 16 + 16)
    opener = ShadowOpener(cipher, cipher.key(""))
    assert opener.open(stream[:-1]) == data[:-1]
    assert not opener.is_between_chunks
    assert opener.open(stream[-1:]) == data[-1:]


@given(st.sampled_from(CIPHERS[:3]), st.integers(min_value=0), st.integers(0, 7))
def test_a_bit_that_changed_is_noticed(cipher: ShadowCipher, place: int, bit: int) -> None:
    key = cipher.key("p")
    stream = bytearray(ShadowSealer(cipher, key, rng=salt).seal(b"some data"))
    stream[place % len(stream)] ^= 1 << bit
    with pytest.raises(RemoteProtocolError, match="not authentic"):
        ShadowOpener(cipher, key).open(stream)


@pytest.mark.parametrize("cipher", CIPHERS[:3])
def test_another_password_or_order_does_not_open(cipher: ShadowCipher) -> None:
    sealer = ShadowSealer(cipher, cipher.key("one"), rng=salt)
    first, second = sealer.seal(b"first"), sealer.seal(b"second")
    other = ShadowOpener(cipher, cipher.key("two"))
    with pytest.raises(RemoteProtocolError, match="not authentic"):
        other.open(first)
    assert not other.opened
    opener = ShadowOpener(cipher, cipher.key("one"))
    with pytest.raises(RemoteProtocolError, match="not authentic"):
        opener.open(first[: cipher.key_bytes] + second)


def test_an_empty_chunk_is_refused() -> None:
    cipher = ShadowCipher.AES_128
    sealer = ShadowSealer(cipher, cipher.key(""), rng=salt)
    head = sealer.seal(b"")
    assert sealer._direction is not None
    with pytest.raises(RemoteProtocolError, match="empty"):
        ShadowOpener(cipher, cipher.key("")).open(head + sealer._direction.seal(b"\0\0"))
