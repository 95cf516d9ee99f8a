"""The handshake: against published vectors, against an independent implementation, and against forgers."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from noise.connection import Keypair, NoiseConnection

from nconnect.crypto.aead import CipherSuite
from nconnect.crypto.keys import Identity, InvalidKey
from nconnect.crypto.noise import (
    INITIATION_OVERHEAD_BYTES,
    MAX_NOISE_BYTES,
    NO_PSK,
    RESPONSE_OVERHEAD_BYTES,
    Initiator,
    Responder,
)
from nconnect.errors import LocalProtocolError, RemoteProtocolError

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "noise_ikpsk2.json").read_text())["vectors"]
NAMES = {
    CipherSuite.AES256GCM: "Noise_IKpsk2_25519_AESGCM_SHA256",
    CipherSuite.CHACHA20POLY1305: "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s",
}
SUITES = {name: suite for suite, name in NAMES.items()}
ALICE, BOB, MALLORY = (Identity(bytes([n]) * 32) for n in (1, 2, 3))
PSK = b"p" * 32
LOW_ORDER = (bytes(32), b"\x01" + bytes(31), bytes.fromhex("ecff" + "ff" * 29 + "7f"))

every_suite = pytest.mark.parametrize("suite", CipherSuite, ids=lambda suite: suite.value)


def always(value: bytes) -> Callable[[int], bytes]:
    """An rng that gives the same each time."""
    return lambda size: value[:size]


def initiator(suite: CipherSuite, **changes: Any) -> Initiator:
    options: dict[str, Any] = {"rng": always(b"i" * 32), "psk": PSK, "prologue": b"hello"} | changes
    return Initiator(suite, ALICE.dh_private, options.pop("remote", BOB.dh_public), **options)


def responder(suite: CipherSuite, **changes: Any) -> Responder:
    options: dict[str, Any] = {"rng": always(b"r" * 32), "psk": PSK, "prologue": b"hello"} | changes
    return Responder(suite, BOB.dh_private, **options)


def flipped(message: bytes, index: int) -> bytes:
    return message[:index] + bytes([message[index] ^ 1]) + message[index + 1 :]


def complete(first: Initiator, second: Responder) -> None:
    """Finish a genuine handshake after `first` has written, and check that both have the same."""
    first.read_response(second.write_response(b"re"))
    assert first.split() == second.split()[::-1]
    assert first.handshake_hash == second.handshake_hash


# --- vectors ---


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["protocol_name"])
def test_published_vectors(vector: dict[str, Any]) -> None:
    suite = SUITES[vector["protocol_name"]]
    texts = {name: value for name, value in vector.items() if isinstance(value, str)}
    del texts["protocol_name"]
    data = {name: bytes.fromhex(value) for name, value in texts.items()}
    psk = bytes.fromhex(vector["init_psks"][0])
    first = Initiator(
        suite,
        data["init_static"],
        data["init_remote_static"],
        rng=always(data["init_ephemeral"]),
        psk=psk,
        prologue=data["init_prologue"],
    )
    second = Responder(
        suite,
        data["resp_static"],
        rng=always(data["resp_ephemeral"]),
        psk=psk,
        prologue=data["resp_prologue"],
    )
    messages = [(bytes.fromhex(m["payload"]), bytes.fromhex(m["ciphertext"])) for m in vector["messages"]]

    assert first.write_initiation(messages[0][0]) == messages[0][1]
    assert second.read_initiation(messages[0][1])[1] == messages[0][0]
    assert second.write_response(messages[1][0]) == messages[1][1]
    assert first.read_response(messages[1][1]) == messages[1][0]
    assert first.handshake_hash == second.handshake_hash == data["handshake_hash"]
    send, receive = (suite.aead(key) for key in first.split())
    for index, (payload, ciphertext) in enumerate(messages[2:]):
        sealed = (receive if index % 2 else send).seal(index // 2, b"", payload)
        assert sealed == ciphertext


def test_both_suites_have_vectors() -> None:
    assert {vector["protocol_name"] for vector in VECTORS} == set(SUITES)


# --- an independent implementation ---


def other_side(suite: CipherSuite, *, starts: bool) -> NoiseConnection:
    noise = NoiseConnection.from_name(NAMES[suite].encode())
    noise.set_psks(PSK)
    noise.set_prologue(b"hello")
    mine = ALICE if starts else BOB
    noise.set_keypair_from_private_bytes(Keypair.STATIC, mine.dh_private)
    if starts:
        noise.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, BOB.dh_public)
        noise.set_as_initiator()
    else:
        noise.set_as_responder()
    noise.start_handshake()
    return noise


@every_suite
def test_we_start_and_they_answer(suite: CipherSuite) -> None:
    ours, theirs = initiator(suite), other_side(suite, starts=False)
    assert theirs.read_message(ours.write_initiation(b"one")) == b"one"
    assert ours.read_response(bytes(theirs.write_message(b"two"))) == b"two"
    send, receive = (suite.aead(key) for key in ours.split())
    for counter in range(3):
        assert theirs.decrypt(send.seal(counter, b"", b"up")) == b"up"
        assert receive.open(counter, b"", theirs.encrypt(b"down")) == b"down"
    assert theirs.get_handshake_hash() == ours.handshake_hash


@every_suite
def test_they_start_and_we_answer(suite: CipherSuite) -> None:
    ours, theirs = responder(suite), other_side(suite, starts=True)
    assert ours.read_initiation(bytes(theirs.write_message(b"one"))) == (ALICE.dh_public, b"one")
    assert theirs.read_message(ours.write_response(b"two")) == b"two"
    send, receive = (suite.aead(key) for key in ours.split())
    for counter in range(3):
        assert theirs.decrypt(send.seal(counter, b"", b"down")) == b"down"
        assert receive.open(counter, b"", theirs.encrypt(b"up")) == b"up"
    assert theirs.get_handshake_hash() == ours.handshake_hash


# --- what must be refused, and that the machine survives it ---


@every_suite
def test_psk_may_be_set_once_the_caller_is_known(suite: CipherSuite) -> None:
    first, second = initiator(suite), responder(suite, psk=NO_PSK)
    assert second.read_initiation(first.write_initiation())[0] == ALICE.dh_public
    second.set_psk(PSK)
    complete(first, second)
    with pytest.raises(LocalProtocolError):
        second.set_psk(PSK)


@every_suite
def test_another_psk_is_refused_by_the_initiator(suite: CipherSuite) -> None:
    first, wrong, right = initiator(suite), responder(suite, psk=NO_PSK), responder(suite)
    message = first.write_initiation()
    wrong.read_initiation(message)
    with pytest.raises(RemoteProtocolError):
        first.read_response(wrong.write_response())
    right.read_initiation(message)
    complete(first, right)


@every_suite
@pytest.mark.parametrize("index", [0, 31, 32, 79, 80, 95, 96, 98])
def test_a_forged_initiation_leaves_the_responder_usable(suite: CipherSuite, index: int) -> None:
    first, second = initiator(suite), responder(suite)
    genuine = first.write_initiation(b"abc")
    with pytest.raises(RemoteProtocolError):
        second.read_initiation(flipped(genuine, index))
    assert second.read_initiation(genuine) == (ALICE.dh_public, b"abc")
    complete(first, second)


@every_suite
@pytest.mark.parametrize("index", [0, 31, 32, 47, 49])
def test_a_forged_response_leaves_the_initiator_usable(suite: CipherSuite, index: int) -> None:
    first, second = initiator(suite), responder(suite)
    second.read_initiation(first.write_initiation())
    genuine = second.write_response(b"xy")
    with pytest.raises(RemoteProtocolError):
        first.read_response(flipped(genuine, index))
    with pytest.raises(LocalProtocolError):
        first.split()
    assert first.read_response(genuine) == b"xy"
    assert first.split() == second.split()[::-1]


@every_suite
@pytest.mark.parametrize("change", [{"prologue": b"other"}, {"remote": MALLORY.dh_public}], ids=str)
def test_an_initiation_for_another_is_refused(suite: CipherSuite, change: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        responder(suite).read_initiation(initiator(suite, **change).write_initiation())


def test_an_initiation_of_the_other_suite_is_refused() -> None:
    message = initiator(CipherSuite.AES256GCM).write_initiation()
    with pytest.raises(RemoteProtocolError):
        responder(CipherSuite.CHACHA20POLY1305).read_initiation(message)


@every_suite
@pytest.mark.parametrize("point", LOW_ORDER, ids=bytes.hex)
def test_low_order_points_are_refused(suite: CipherSuite, point: bytes) -> None:
    with pytest.raises(InvalidKey):
        initiator(suite, remote=point)
    first, second = initiator(suite), responder(suite)
    genuine = first.write_initiation()
    with pytest.raises(RemoteProtocolError, match="low order"):
        second.read_initiation(point + genuine[32:])
    second.read_initiation(genuine)
    with pytest.raises(RemoteProtocolError, match="low order"):
        first.read_response(point + second.write_response()[32:])


@every_suite
def test_a_static_key_of_low_order_is_refused_although_sealed_correctly(suite: CipherSuite) -> None:
    first, second = initiator(suite), responder(suite)
    first._static = copy(first._static)  # an identity's is kept for the next handshake
    first._static.public = bytes(32)
    with pytest.raises(RemoteProtocolError, match="low order"):
        second.read_initiation(first.write_initiation())


@pytest.mark.parametrize("size", [0, 31, INITIATION_OVERHEAD_BYTES - 1, MAX_NOISE_BYTES + 1])
def test_sizes_that_cannot_be(size: int) -> None:
    suite = CipherSuite.AES256GCM
    with pytest.raises(RemoteProtocolError, match="bytes"):
        responder(suite).read_initiation(bytes(size))
    first = initiator(suite)
    first.write_initiation()
    with pytest.raises(RemoteProtocolError, match="bytes"):
        first.read_response(
            bytes(min(size, RESPONSE_OVERHEAD_BYTES - 1) if size <= MAX_NOISE_BYTES else size)
        )


def test_payloads_up_to_the_largest_message_and_no_further() -> None:
    suite = CipherSuite.AES256GCM
    first, second = initiator(suite), responder(suite)
    largest = bytes(MAX_NOISE_BYTES - INITIATION_OVERHEAD_BYTES)
    with pytest.raises(LocalProtocolError):
        first.write_initiation(largest + b"x")
    assert second.read_initiation(memoryview(first.write_initiation(largest))) == (ALICE.dh_public, largest)
    with pytest.raises(LocalProtocolError):
        second.write_response(bytes(MAX_NOISE_BYTES - RESPONSE_OVERHEAD_BYTES + 1))
    complete(first, second)


def test_calls_out_of_order_are_our_own_mistake() -> None:
    suite = CipherSuite.AES256GCM
    first, second = initiator(suite), responder(suite)
    for wrong in (lambda: first.read_response(bytes(48)), second.write_response, first.split, second.split):
        with pytest.raises(LocalProtocolError):
            wrong()
    with pytest.raises(LocalProtocolError):
        _ = first.handshake_hash
    message = first.write_initiation()
    second.read_initiation(message)
    complete(first, second)
    for wrong in (first.write_initiation, lambda: second.read_initiation(message), second.write_response):
        with pytest.raises(LocalProtocolError):
            wrong()
    with pytest.raises(LocalProtocolError):
        first.read_response(bytes(48))


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_keys_of_another_length_are_refused(size: int) -> None:
    suite = CipherSuite.AES256GCM
    key = bytes(range(size))
    with pytest.raises(InvalidKey):
        initiator(suite, psk=key)
    with pytest.raises(InvalidKey):
        initiator(suite, remote=key)
    with pytest.raises(InvalidKey):
        responder(suite).set_psk(key)
    with pytest.raises(InvalidKey):
        Responder(suite, key, rng=always(b"r" * 32))
    with pytest.raises(InvalidKey):
        initiator(suite, rng=always(key) if size < 32 else lambda _: key)


@given(st.binary(min_size=0, max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    first, second = initiator(CipherSuite.CHACHA20POLY1305), responder(CipherSuite.CHACHA20POLY1305)
    first.write_initiation()
    with pytest.raises(RemoteProtocolError):
        second.read_initiation(data)
    with pytest.raises(RemoteProtocolError):
        first.read_response(data)


def test_no_secret_in_any_repr() -> None:
    first, second = initiator(CipherSuite.AES256GCM), responder(CipherSuite.AES256GCM)
    second.read_initiation(first.write_initiation())
    complete(first, second)
    shown = repr(first) + repr(second) + repr(first._final)
    for secret in (PSK, ALICE.dh_private, BOB.dh_private, *first.split()):
        assert secret.hex() not in shown
        assert repr(secret) not in shown
