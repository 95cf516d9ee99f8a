"""The session's ciphers: known answers, buffers, and what must not open."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from nconnect.crypto.aead import TAG_BYTES, CipherSuite, faster_suite

KEY = bytes(range(32))
every_suite = pytest.mark.parametrize("suite", CipherSuite, ids=lambda suite: suite.value)


@every_suite
@pytest.mark.parametrize("counter", [0, 1, 0x0102030405060708, (1 << 64) - 2])
def test_the_nonce_is_noises(suite: CipherSuite, counter: int) -> None:
    aad, text = b"header", b"packet"
    if suite is CipherSuite.AES256GCM:
        expected = AESGCM(KEY).encrypt(bytes(4) + counter.to_bytes(8, "big"), text, aad)
    else:
        expected = ChaCha20Poly1305(KEY).encrypt(bytes(4) + counter.to_bytes(8, "little"), text, aad)
    out = bytearray(len(text) + TAG_BYTES)
    cipher = suite.aead(KEY)
    assert cipher.seal_into(counter, aad, text, out) == len(out)
    assert out == expected == cipher.seal(counter, aad, text)


def test_names_and_wire_ids() -> None:
    assert {suite.value: suite.wire_id for suite in CipherSuite} == {"aes256gcm": 1, "chacha20poly1305": 2}
    assert [CipherSuite.of_wire_id(n) for n in range(4)] == [None, *CipherSuite, None]


@every_suite
def test_buffers_may_be_larger_and_are_written_at_their_start(suite: CipherSuite) -> None:
    cipher = suite.aead(KEY)
    sealed, plain = bytearray(b"\xaa" * 100), bytearray(b"\xbb" * 100)
    size = cipher.seal_into(7, b"aad", memoryview(b"some text"), memoryview(sealed))
    assert size == 9 + TAG_BYTES
    assert sealed[size:] == b"\xaa" * (100 - size)
    assert cipher.open_into(7, b"aad", memoryview(sealed)[:size], memoryview(plain)) == 9
    assert plain == b"some text" + b"\xbb" * 91
    assert cipher.open(7, b"aad", sealed[:size]) == b"some text"


@every_suite
def test_an_empty_batch_is_a_tag(suite: CipherSuite) -> None:
    cipher, sealed = suite.aead(KEY), bytearray(TAG_BYTES)
    assert cipher.seal_into(0, b"", b"", sealed) == TAG_BYTES
    assert cipher.open_into(0, b"", sealed, bytearray()) == 0


@every_suite
def test_buffers_that_are_too_small_or_not_writable(suite: CipherSuite) -> None:
    cipher = suite.aead(KEY)
    with pytest.raises(ValueError, match="buffer"):
        cipher.seal_into(0, b"", b"text", bytearray(4 + TAG_BYTES - 1))
    with pytest.raises(ValueError, match="buffer"):
        cipher.open_into(0, b"", cipher.seal(0, b"", b"text"), bytearray(3))
    with pytest.raises(TypeError):
        cipher.seal_into(0, b"", b"text", bytes(4 + TAG_BYTES))


@every_suite
def test_what_is_not_authentic_does_not_open(suite: CipherSuite) -> None:
    cipher, out = suite.aead(KEY), bytearray(100)
    sealed = cipher.seal(5, b"aad", b"some text")
    assert cipher.open_into(6, b"aad", sealed, out) is None
    assert cipher.open_into(5, b"aae", sealed, out) is None
    assert cipher.open_into(5, b"aad", sealed[:-1], out) is None
    assert suite.aead(bytes(32)).open_into(5, b"aad", sealed, out) is None
    assert cipher.open(6, b"aad", sealed) is None
    for other in CipherSuite:
        if other is not suite:
            assert other.aead(KEY).open_into(5, b"aad", sealed, out) is None


@every_suite
@given(data=st.binary(max_size=64))
def test_any_bytes_do_not_open(suite: CipherSuite, data: bytes) -> None:
    assert suite.aead(KEY).open_into(0, b"", data, bytearray(64)) is None
    assert suite.aead(KEY).open(0, b"", data) is None


@every_suite
@pytest.mark.parametrize("size", [0, 16, 24, 31, 33])
def test_a_key_is_32_bytes(suite: CipherSuite, size: int) -> None:
    with pytest.raises(ValueError, match="32"):
        suite.aead(bytes(size))


def clock_of(durations: list[float]) -> Iterator[float]:
    """Readings of a clock by which the timed intervals last as given, again and again."""
    now = 0.0
    while True:
        for duration in durations:
            yield now
            now += duration
            yield now


@pytest.mark.parametrize(
    ("durations", "faster"),
    [
        ([1.0, 2.0], CipherSuite.AES256GCM),
        ([2.0, 1.0], CipherSuite.CHACHA20POLY1305),
        ([1.0, 1.0], CipherSuite.AES256GCM),
        # One disturbed round of the faster does not count.
        ([9.0, 2.0, 1.0, 2.0], CipherSuite.AES256GCM),
        ([2.0, 9.0, 2.0, 1.0], CipherSuite.CHACHA20POLY1305),
    ],
)
def test_the_faster_suite_is_the_one_with_the_best_round(durations: list[float], faster: CipherSuite) -> None:
    assert faster_suite(clock_of(durations).__next__) is faster
