"""The node's state machine: who may log in, where messages go, and what is refused."""

from __future__ import annotations

import json
import os
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nconnect.errors import LocalProtocolError
from nconnect.node.connection import State
from nconnect.node.core import MAX_BAD_FRAMES, MAX_EARLY_BYTES, MAX_TEXT_BYTES, VERIFY_WORK
from nconnect.node.relay import MAX_FANOUT_BYTES
from nconnect.node.settings import (
    INFLATES_AT_ONCE,
    MAX_CONNECTIONS_PER_ADDRESS,
    MAX_DESTS_PER_MESSAGE,
    NodeDrop,
    NodeSettings,
)
from nconnect.queueing.turns import MESSAGE_WORK
from nconnect.wire.actions import SetClient
from nconnect.wire.nkn import MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, InboundMessage, OutboundMessage, Receipt
from tests.node.fakes import INFO, SALT, FakeClient, FakeTransport, make_node

# --- login ---


def test_a_connection_is_challenged_at_once() -> None:
    client = FakeClient(make_node())
    (challenge,) = client.transport.texts
    assert challenge["Action"] == "authChallenge"
    assert challenge["Error"] == 0
    assert len(client.challenge) == 32
    assert client.connection.state is State.CHALLENGED


def test_the_key_in_the_address_logs_in() -> None:
    node = make_node()
    client = FakeClient(node).log_in()
    answer = client.transport.texts[1]
    assert (answer["Action"], answer["Error"]) == ("setClient", 0)
    assert answer["Result"]["node"] == INFO.to_json()
    assert len(bytes.fromhex(answer["Result"]["sigChainBlockHash"])) == 32
    assert answer["Result"]["waives"] == ["mask", "signatures"]
    assert node.stats().clients == 1
    assert client.transport.closed is None


def test_what_is_waived_follows_the_settings() -> None:
    def waived(**changes: bool) -> object:
        client = FakeClient(make_node(**changes)).log_in()
        return client.transport.texts[1]["Result"].get("waives")

    assert waived(verify_signatures=True) == ["mask"]
    assert waived(waive_mask=False) == ["signatures"]
    assert waived(waive_mask=False, waive_signatures=False) is None


@pytest.mark.parametrize("signature", [bytes(64), b"\xff" * 64])
def test_a_wrong_signature_is_answered_and_closed(signature: bytes) -> None:
    node = make_node()
    client = FakeClient(node).log_in(signature=signature)
    assert client.transport.texts[1]["Error"] == 42003
    assert client.transport.closed is not None
    assert client.connection.state is State.CLOSED
    assert node.stats().drops == {"bad_login": 1}
    assert node.stats().clients == node.stats().connections == 0


def test_a_signature_for_another_connections_challenge_is_refused() -> None:
    node = make_node()
    mallory = FakeClient(node)
    mallory.connection.challenge = b"z" * 32
    mallory.log_in()
    assert mallory.transport.texts[1]["Error"] == 42003


def test_somebody_elses_address_is_refused() -> None:
    node = make_node()
    alice, mallory = FakeClient(node), FakeClient(node, "mallory", b"m" * 32)
    mallory.log_in(address=alice.address)
    assert mallory.transport.texts[1]["Error"] == 42003


@pytest.mark.parametrize(
    "address", ["", "alice", "alice.", "a" * 64, "A" * 64, " {address}", "{upper}", "x" * 2000 + ".{address}"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    client = FakeClient(make_node())
    client.log_in(address=address.format(address=client.address, upper=client.address.upper()))
    assert client.transport.texts[1]["Error"] in (42002, 42003)
    assert client.connection.state is not State.CLIENT


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"Action":7}',
        b'{"Action":"setClient"}',
        b'{"Action":"setClient","Addr":"x","ClientSalt":"zz","Signature":""}',
        b"[" * 5000,
    ],
)
def test_a_malformed_request_is_answered_and_the_login_then_works(text: bytes) -> None:
    node = make_node()
    client = FakeClient(node)
    client.text(text)
    assert client.transport.texts[1]["Error"] == 41003
    client.log_in()
    assert client.connection.state is State.CLIENT
    assert node.stats().drops == {"malformed": 1}


def test_a_request_that_is_too_long_is_answered_and_not_read() -> None:
    node = make_node()
    client = FakeClient(node)
    client.text(b" " * MAX_TEXT_BYTES + SetClient(client.address, SALT, bytes(64)).encode().encode())
    assert client.transport.texts[1]["Error"] == 41003
    client.log_in()
    assert client.connection.state is State.CLIENT
    assert node.stats().drops == {"too_big": 1}


def test_an_unknown_action_is_answered_and_the_connection_goes_on() -> None:
    client = FakeClient(make_node())
    client.text(json.dumps({"Action": "getsessioncount"}))
    assert client.transport.texts[1]["Error"] == 42001
    client.log_in()
    assert client.connection.state is State.CLIENT


def test_who_does_not_read_the_answers_gets_no_more_of_them() -> None:
    client = FakeClient(make_node()).log_in()
    client.transport.unsent_bytes = 1 << 20
    texts = len(client.transport.texts)
    for _ in range(MAX_BAD_FRAMES):
        client.text(json.dumps({"Action": "getsessioncount"}))
    assert len(client.transport.texts) == texts
    assert client.transport.closed is None
    client.text(json.dumps({"Action": "getsessioncount"}))
    assert client.transport.closed == (1008, "stalled")


def test_a_login_may_be_repeated() -> None:
    """As the official node allows: an SDK that waited too long for the challenge logs in twice."""
    node = make_node()
    client = FakeClient(node).log_in()
    client.log_in()
    assert [text["Error"] for text in client.transport.texts[1:]] == [0, 0]
    client.send(client.address, b"once")
    assert client.payloads() == [b"once"]
    assert (node.stats().clients, node.stats().logins) == (1, 1)


def test_a_second_login_may_not_change_the_address() -> None:
    node = make_node()
    client = FakeClient(node).log_in()
    client.log_in(address=f"another.{client.identity.public_key.hex()}")
    assert client.transport.texts[2]["Error"] == 42001
    client.send(f"another.{client.identity.public_key.hex()}", b"lost")
    client.send(client.address, b"kept")
    assert client.payloads() == [b"kept"]
    assert node.stats().drops == {"bad_login": 1, "unknown_dest": 1}


def test_a_second_login_with_a_wrong_signature_ends_the_connection() -> None:
    client = FakeClient(make_node()).log_in()
    client.log_in(signature=bytes(64))
    assert client.transport.closed == (1008, "bad_login")


def test_a_message_before_the_login_is_dropped_and_the_login_then_works() -> None:
    """The MultiClient of the Go SDK 1.4.8 sends as soon as one of its clients is logged in."""
    node = make_node()
    bob = FakeClient(node, "bob", b"b" * 32).log_in()
    stranger = FakeClient(node)
    stranger.send(bob.address, bytes(MAX_MESSAGE_BYTES))
    stranger.binary(Receipt(b"x" * 32, b"y" * 64).encode())
    stranger.binary(b"\xff")
    assert bob.transport.frames == []
    assert node.stats().drops == {"not_logged_in": 3}
    stranger.log_in()
    stranger.send(bob.address, b"hello")
    assert bob.payloads() == [b"hello"]


def test_messages_before_the_login_are_bounded() -> None:
    stranger = FakeClient(make_node())
    for _ in range(MAX_EARLY_BYTES // 1024):
        stranger.binary(bytes(1024))
    assert stranger.transport.closed is None
    stranger.binary(bytes(1024))
    assert stranger.transport.closed == (1008, "not_logged_in")


def test_frames_that_were_too_large_to_keep_count_too() -> None:
    stranger = FakeClient(make_node())
    assert stranger.transport.limited
    stranger.node.skipped(stranger.connection, MAX_EARLY_BYTES)
    assert stranger.transport.closed is None
    stranger.node.skipped(stranger.connection, 1)
    assert stranger.transport.closed == (1008, "not_logged_in")
    assert not FakeClient(make_node()).log_in().transport.limited


def test_messages_before_the_login_do_not_put_off_its_end() -> None:
    node = make_node()
    stranger = FakeClient(node)
    for tenths in range(100):
        stranger.transport.rx_bytes += 1
        stranger.binary(b"x", now=tenths / 10)
    node.handle_timeout(10.5)
    assert stranger.transport.closed == (1008, "login_timeout")


def test_closing_twice_is_our_mistake() -> None:
    node = make_node()
    client = FakeClient(node)
    node.closed(client.connection)
    with pytest.raises(LocalProtocolError):
        node.closed(client.connection)


def test_connections_are_bounded() -> None:
    node = make_node(max_connections=2)
    FakeClient(node), FakeClient(node, host="198.51.100.2")
    assert not node.admits("192.0.2.9", 0.0), "nobody has more than it would have"
    assert node.open(FakeTransport(), "192.0.2.9", INFO, 0.0) is None
    assert node.stats().drops == {"too_many_connections": 2}


def test_one_source_has_a_share_of_the_connections() -> None:
    node = make_node(max_connections=1000, source_connections=3, rate_per_s=None)
    clients = [FakeClient(node, host=f"2001:db8:1:2::{n}") for n in range(3)]
    assert not node.admits("2001:db8:1:2:ffff::1", 0.0), "one /64 is one source"
    assert node.admits("2001:db8:1:3::1", 0.0)
    assert node.admits("192.0.2.9", 0.0)
    clients[0].transport.close()
    assert node.admits("2001:db8:1:2:ffff::1", 0.0)
    assert not node.admits("2001:db8:1:2:ffff::1", 0.0, opening={"2001:db8:1:2::": 1})


def test_the_share_follows_the_size_and_no_rate_limit_means_no_share() -> None:
    assert NodeSettings().source_share == 1024
    assert NodeSettings(max_connections=100).source_share == 16
    assert NodeSettings().with_rate(0).source_share == NodeSettings().max_connections
    assert NodeSettings(source_connections=5).with_rate(0).source_share == 5


def test_few_sources_that_fill_a_node_keep_nobody_out() -> None:
    """Ten addresses hold all places; honest clients log in, and none of theirs is taken."""
    node = make_node(max_connections=100, rate_per_s=None)
    hostile = [FakeClient(node, seed=bytes([n]) * 32, host=f"203.0.113.{n % 10}") for n in range(100)]
    for client in hostile[:95]:
        client.log_in()
    honest = []
    for n in range(20):
        assert node.admits(f"198.51.100.{n}", 1.0)
        honest.append(
            FakeClient(node, seed=bytes([200 + n]) * 32, now=1.0, host=f"198.51.100.{n}").log_in(1.0)
        )
    assert not any(client.transport.closed for client in honest)
    assert all(client.transport.closed for client in hostile[95:]), "who is not logged in goes first"
    assert node.stats().drops == {"displaced": 20}
    taken = [sum(1 for c in hostile[n::10] if c.transport.closed) for n in range(10)]
    assert taken == [2] * 10, "those that have most, in turn"


def test_connects_of_one_host_are_limited() -> None:
    node = make_node(rate_per_s=10.0, burst=3)
    assert [node.admits("192.0.2.9", 0.0) for _ in range(4)] == [True, True, True, False]
    assert node.admits("192.0.2.10", 0.0)
    assert node.admits("192.0.2.9", 0.1)
    assert node.stats().drops == {"rate_limited": 1}


# --- relaying ---


def pair(**changes: Any) -> tuple[FakeClient, FakeClient]:
    node = make_node(**changes)
    return FakeClient(node).log_in(), FakeClient(node, "bob", b"b" * 32).log_in()


def test_a_message_arrives_with_its_sender() -> None:
    alice, bob = pair()
    alice.send(bob.address, b"hello")
    assert bob.received() == [InboundMessage(alice.address, b"hello")]
    assert alice.transport.frames == []
    stats = alice.node.stats()
    assert (stats.messages, stats.bytes, stats.drops) == (1, 5, {})


def test_the_payload_is_handed_on_as_a_view_of_what_arrived() -> None:
    alice, bob = pair()
    frame = OutboundMessage((bob.address,), (b"p" * 100_000,)).encode()
    alice.binary(frame)
    (head, payload) = bob.transport.parts[0]
    assert isinstance(payload, memoryview)
    assert payload.obj is frame
    assert len(head) < 200


def test_a_client_may_write_to_itself() -> None:
    alice, _ = pair()
    alice.send(alice.address, b"note")
    assert alice.payloads() == [b"note"]


def test_all_connections_of_an_address_get_the_message() -> None:
    alice, bob = pair()
    second = FakeClient(alice.node, "bob", b"b" * 32).log_in()
    alice.send(bob.address, b"1")
    alice.node.closed(bob.connection)
    alice.send(bob.address, b"2")
    assert bob.payloads() == [b"1"]
    assert second.payloads() == [b"1", b"2"]
    alice.node.closed(second.connection)
    alice.send(bob.address, b"3")
    assert alice.node.stats().drops == {"unknown_dest": 1}


def test_connections_with_one_address_are_bounded_and_the_newest_win() -> None:
    node = make_node()
    alice = FakeClient(node).log_in()
    bobs = [FakeClient(node, "bob", b"b" * 32).log_in() for _ in range(MAX_CONNECTIONS_PER_ADDRESS + 2)]
    alice.send(bobs[0].address, b"x")
    assert [len(bob.transport.frames) for bob in bobs] == [0, 0] + [1] * MAX_CONNECTIONS_PER_ADDRESS
    assert node.stats().drops == {"displaced": 2}
    assert node.stats().clients == 1 + MAX_CONNECTIONS_PER_ADDRESS


def test_several_dests_share_a_payload_or_get_one_each() -> None:
    alice, bob = pair()
    carol = FakeClient(alice.node, "carol", b"c" * 32).log_in()
    alice.send((bob.address, carol.address), b"both")
    alice.send((bob.address, carol.address), b"for bob", b"for carol")  # compressed, as SDKs do
    assert bob.payloads() == [b"both", b"for bob"]
    assert carol.payloads() == [b"both", b"for carol"]


def test_the_older_form_of_dest_and_payload_is_understood() -> None:
    alice, bob = pair()
    body = b"\x0a" + bytes((len(bob.address),)) + bob.address.encode() + b"\x12\x02hi"
    alice.binary(b"\x12" + bytes((len(body),)) + body)
    assert bob.payloads() == [b"hi"]


def test_a_message_to_nobody_is_counted() -> None:
    alice, bob = pair()
    alice.send(("nobody." + "0" * 64, bob.address), b"x")
    assert bob.payloads() == [b"x"]
    assert alice.node.stats().drops == {"unknown_dest": 1}
    assert alice.transport.closed is None


def test_size_limit() -> None:
    alice, bob = pair()
    alice.send(bob.address, bytes(MAX_MESSAGE_BYTES))
    assert len(bob.payloads()[0]) == MAX_MESSAGE_BYTES
    assert len(bob.transport.frames[0]) < MAX_FRAME_BYTES
    alice.send(bob.address, bytes(MAX_MESSAGE_BYTES + 1))
    assert len(bob.transport.frames) == 1
    assert alice.node.stats().drops == {"too_big": 1}


def test_too_many_dests_are_refused() -> None:
    alice, bob = pair()
    alice.send([bob.address] * MAX_DESTS_PER_MESSAGE, b"x")
    assert len(bob.transport.frames) == MAX_DESTS_PER_MESSAGE
    alice.send([bob.address] * (MAX_DESTS_PER_MESSAGE + 1), b"x")
    alice.send([bob.address] * 64, bytes(MAX_FANOUT_BYTES // 64 + 1))
    assert len(bob.transport.frames) == MAX_DESTS_PER_MESSAGE
    assert alice.node.stats().drops == {"too_many_dests": 2}


def test_a_zip_bomb_is_refused() -> None:
    alice, bob = pair()
    body = b"\x1a" + bytes((len(bob.address),)) + bob.address.encode()
    bomb = zlib.compress(body + b"\x42\x80\x80\x80\x08" + bytes(16 << 20), 9)
    size = len(bomb)
    varint = bytes((size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14))
    alice.binary(b"\x12" + varint + bomb + b"\x18\x01")
    assert bob.transport.frames == []
    assert alice.node.stats().drops == {"malformed": 1}


@pytest.mark.parametrize(
    "frame", [b"\xff", b"\x08\x07", InboundMessage("eve", b"x").encode(), b"\x18\x05\x12\x00"]
)
def test_malformed_frames_are_dropped_and_too_many_close_the_connection(frame: bytes) -> None:
    alice, bob = pair()
    for _ in range(MAX_BAD_FRAMES):
        alice.binary(frame)
    alice.send(bob.address, b"still here")
    assert bob.payloads() == [b"still here"]
    assert alice.node.stats().drops == {"malformed": MAX_BAD_FRAMES}
    alice.binary(frame)
    assert alice.transport.closed == (1008, "malformed")
    assert bob.transport.closed is None


def bomb() -> bytes:
    """A compressed message whose payload is zeros, nearly as many as one may hold."""
    return OutboundMessage(("nobody",), (bytes(INFLATES_AT_ONCE - 1000),)).encode(compress=True)


def test_a_source_makes_the_node_decompress_no_more_than_its_budget() -> None:
    node = make_node(inflated_rate=4 << 20)
    alice = FakeClient(node).log_in()
    other = FakeClient(node, "other", b"o" * 32, host="198.51.100.9").log_in()
    frame = bomb()
    assert len(frame) < 8192
    for _ in range(10):
        alice.binary(frame, now=1.0)
    assert node.stats().drops == {"unknown_dest": 4, "inflates_too_far": 6}
    assert alice.transport.closed is None
    other.binary(frame, now=1.0)
    assert node.stats().drops["unknown_dest"] == 5, "another source has its own"
    alice.binary(frame, now=1.1)
    assert node.stats().drops["inflates_too_far"] == 7
    alice.binary(frame, now=2.0)
    assert node.stats().drops["unknown_dest"] == 6


def test_no_message_is_decompressed_for_longer_than_others_can_wait() -> None:
    node = make_node(inflated_rate=64 << 20)
    alice = FakeClient(node).log_in()
    alice.binary(OutboundMessage(("nobody",), (bytes(3 << 20),)).encode(compress=True))
    assert node.stats().drops == {"inflates_too_far": 1}


def test_what_the_sdk_compresses_for_its_sub_clients_costs_no_budget() -> None:
    node = make_node(inflated_rate=1 << 20)
    alice = FakeClient(node).log_in()
    shared = os.urandom(20_000)  # within what zlib looks back
    message = OutboundMessage(("a", "b", "c", "d"), tuple(bytes([n]) * 40 + shared for n in range(4)))
    frame = message.encode(compress=True)
    for _ in range(500):  # 40 MB in no time
        alice.binary(frame, now=1.0)
    assert node.stats().drops == {"unknown_dest": 2000}


def test_a_malformed_frame_now_and_then_closes_nothing() -> None:
    alice, _ = pair()
    for minute in range(2 * MAX_BAD_FRAMES):
        alice.binary(b"\xff", now=60.0 * minute)
        run_until(alice, 60.0 * (minute + 1))
    assert alice.transport.closed is None


def test_a_receipt_that_was_not_asked_for_is_let_pass() -> None:
    alice, _ = pair()
    alice.binary(Receipt(b"x" * 32, b"y" * 64).encode())
    assert alice.transport.closed is None


def test_capture_sees_each_payload() -> None:
    alice, bob = pair()
    seen: list[bytes] = []
    alice.node.relay.capture = lambda payload: seen.append(bytes(payload))
    alice.send(bob.address, b"sealed")
    assert seen == [b"sealed"]


# --- when a socket is full ---


def test_a_full_socket_is_waited_for_and_the_order_kept() -> None:
    alice, bob = pair()
    bob.transport.writable = False
    for number in range(5):
        alice.send(bob.address, b"%d" % number)
    assert bob.transport.frames == []
    assert alice.node.stats().queue_bytes > 0
    bob.transport.writable, bob.transport.takes = True, 2
    alice.node.writable(bob.connection, 0.0)
    assert bob.payloads() == [b"0", b"1"]
    alice.send(bob.address, b"5")  # behind those that wait
    bob.transport.writable, bob.transport.takes = True, None
    alice.send(bob.address, b"6")
    assert bob.payloads() == [b"0", b"1"]
    alice.node.writable(bob.connection, 0.0)
    assert bob.payloads() == [b"%d" % number for number in range(7)]
    assert alice.node.stats().queue_bytes == 0
    alice.send(bob.address, b"7")
    assert bob.payloads()[-1] == b"7"
    assert alice.node.stats().drops == {}


def test_a_held_message_is_a_copy() -> None:
    alice, bob = pair()
    bob.transport.writable = False
    frame = bytearray(OutboundMessage((bob.address,), (b"original",)).encode())
    alice.binary(frame)  # type: ignore[arg-type]
    frame[:] = bytes(len(frame))
    bob.transport.writable = True
    alice.node.writable(bob.connection, 0.0)
    assert bob.payloads() == [b"original"]


def test_a_heavy_source_does_not_push_out_another() -> None:
    node = make_node(client_queue_bytes=100_000)
    heavy, light = FakeClient(node).log_in(), FakeClient(node, "light", b"l" * 32).log_in()
    bob = FakeClient(node, "bob", b"b" * 32).log_in()
    bob.transport.writable = False
    light.send(bob.address, b"token")
    for _ in range(50):
        heavy.send(bob.address, bytes(10_000))
    light.send(bob.address, b"another")
    assert node.stats().drops["queue_full"] >= 40
    assert node.stats().queue_bytes <= 100_000
    bob.transport.writable = True
    node.writable(bob.connection, 0.001)
    sources = [message.src for message in bob.received()]
    assert sources.count(light.address) == 2
    assert light.address in sources[:2]


def test_a_heavy_client_does_not_delay_another() -> None:
    """A token waits for a quantum or two of a transfer to the same client, and for nothing to another."""
    node = make_node()
    heavy, light = FakeClient(node).log_in(), FakeClient(node, "light", b"l" * 32).log_in()
    bob, carol = FakeClient(node, "bob", b"b" * 32).log_in(), FakeClient(node, "carol", b"c" * 32).log_in()
    bob.transport.writable = False
    for _ in range(100):
        heavy.send(bob.address, bytes(64_000))
    for number in range(20):
        light.send(carol.address, b"%d" % number)
        assert carol.payloads()[-1] == b"%d" % number, "at once"
        before = len(bob.received())
        light.send(bob.address, b"%d" % number)
        for _ in range(3):  # a slow socket takes one at a time
            bob.transport.writable, bob.transport.takes = True, 1
            node.writable(bob.connection, 0.001 * number)
        assert b"%d" % number in [message.payload for message in bob.received()[before:]]
    assert node.stats().drops == {}


def test_slow_clients_together_stay_within_the_nodes_bound() -> None:
    node = make_node(client_queue_bytes=50_000, node_queue_bytes=100_000)
    alice = FakeClient(node).log_in()
    slow = [FakeClient(node, "slow", bytes((n,)) * 32).log_in() for n in range(1, 30)]
    for client in slow:
        client.transport.writable = False
    for _ in range(20):
        for client in slow:
            alice.send(client.address, bytes(1000))
            assert node.stats().queue_bytes <= 100_000
    assert node.stats().drops["node_full"] > 0
    held = [c.connection.egress.size_bytes if c.connection.egress else 0 for c in slow]
    assert min(held) > 0, "everybody has a share"


def test_a_client_that_goes_takes_its_queue_along() -> None:
    alice, bob = pair()
    bob.transport.writable = False
    alice.send(bob.address, b"x")
    alice.send(bob.address, b"y")
    bob.transport.close()
    assert alice.node.stats().queue_bytes == 0
    assert alice.node.stats().drops == {"client_gone": 2}


def test_a_socket_that_dies_while_it_is_sent_to_is_survived() -> None:
    alice, bob = pair()
    second = FakeClient(alice.node, "bob", b"b" * 32).log_in()

    def die(parts: object) -> None:
        bob.transport.close()
        second.transport.close()

    bob.transport.send_binary = die  # type: ignore[method-assign]
    alice.send([bob.address, bob.address], b"x")
    assert alice.node.stats().clients == 1
    assert second.transport.frames == []


# --- verifying ---


def test_a_right_signature_is_passed_on_with_a_receipt_asked_for() -> None:
    alice, bob = pair(verify_signatures=True)
    alice.send_signed(bob.address, b"hello")
    (message,) = bob.received()
    assert (message.src, message.payload) == (alice.address, b"hello")
    assert len(message.prev_hash) == 32
    bob.acknowledge(message)
    assert alice.node.stats().receipts == 1
    bob.acknowledge(message)  # only once
    assert bob.transport.closed is None
    assert alice.node.stats().receipts == 1
    assert alice.node.stats().drops == {"bad_receipt": 1}


def test_a_right_signature_without_a_block_hash_is_passed_on() -> None:
    """As the SDKs send it before they have read the answer to their login."""
    alice, bob = pair(verify_signatures=True)
    alice.send_signed(bob.address, b"early", block_hash=b"")
    assert bob.payloads() == [b"early"]
    assert alice.node.stats().drops == {}


def test_each_dest_needs_its_own_signature() -> None:
    alice, bob = pair(verify_signatures=True)
    carol = FakeClient(alice.node, "carol", b"c" * 32).log_in()
    alice.send_signed((bob.address, carol.address), b"one", b"other")
    assert (bob.payloads(), carol.payloads()) == ([b"one"], [b"other"])
    assert bob.received()[0].prev_hash != carol.received()[0].prev_hash


def test_a_message_without_signature_is_refused() -> None:
    alice, bob = pair(verify_signatures=True)
    alice.send(bob.address, b"hello", block_hash=alice.block_hash)
    assert bob.transport.frames == []
    assert alice.node.stats().drops == {"bad_signature": 1}
    alice.send_signed(bob.address, b"signed")
    assert bob.payloads() == [b"signed"]


def test_a_block_hash_that_is_none_of_ours_is_refused() -> None:
    alice, bob = pair(verify_signatures=True)
    alice.send_signed(bob.address, b"hello", block_hash=b"x" * 32)
    assert bob.transport.frames == []
    assert alice.node.stats().drops == {"bad_signature": 1}


def test_who_signs_wrongly_again_and_again_is_closed() -> None:
    alice, bob = pair(verify_signatures=True)
    for _ in range(MAX_BAD_FRAMES + 1):
        alice.send(bob.address, b"hello", block_hash=alice.block_hash)
    assert alice.transport.closed == (1008, "bad_signature")


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": 8},
        {"block_hash": b"x" * 32},
        {"block_hash": b""},
        {"signatures": (bytes(64),)},
        {"payloads": (b"longer than it was",)},
    ],
)
def test_a_signature_over_something_else_is_refused(change: dict[str, object]) -> None:
    alice, bob = pair(verify_signatures=True)
    sent: list[OutboundMessage] = []
    alice.send = lambda dests, *payloads, now=0.0, **rest: sent.append(  # type: ignore[method-assign]
        OutboundMessage(tuple(dests), payloads, **rest)
    )
    alice.send_signed(bob.address, b"hello")
    values = {name: getattr(sent[0], name) for name in OutboundMessage.__slots__} | change
    alice.binary(OutboundMessage(**values).encode())
    assert bob.transport.frames == []
    assert alice.node.stats().drops == {"bad_signature": 1}


def test_a_forged_receipt_is_none() -> None:
    alice, bob = pair(verify_signatures=True)
    alice.send_signed(bob.address, b"hello")
    for _ in range(MAX_BAD_FRAMES + 1):
        assert bob.transport.closed is None
        bob.binary(Receipt(bob.received()[0].prev_hash, bytes(64)).encode())
    assert bob.transport.closed == (1008, "bad_receipt")
    assert alice.node.stats().receipts == 0


def test_the_block_hash_changes_and_the_old_one_is_good_for_a_while() -> None:
    alice, bob = pair(verify_signatures=True)
    old = alice.block_hash
    alice.node.handle_timeout(20.0)
    assert alice.transport.texts[-1]["Action"] == "updateSigChainBlockHash"
    assert alice.block_hash != old
    alice.send_signed(bob.address, b"new", now=20.0)
    alice.transport.texts = [t for t in alice.transport.texts if t["Action"] != "updateSigChainBlockHash"]
    alice.send_signed(bob.address, b"old", now=20.0)
    assert bob.payloads() == [b"new", b"old"]
    alice.send_signed(bob.address, b"too old", now=20.0 * 12)
    assert bob.payloads() == [b"new", b"old"]


# --- time ---


def test_who_does_not_log_in_is_closed() -> None:
    node = make_node(now=100.0)
    client = FakeClient(node, now=100.0)
    deadline = node.poll_timeout()
    assert deadline is not None
    assert 110.0 <= deadline.at <= 110.5
    node.handle_timeout(109.9)
    assert client.transport.closed is None
    node.handle_timeout(deadline.at)
    assert client.transport.closed is not None
    assert node.stats().drops == {"login_timeout": 1}
    assert node.poll_timeout() is None


def run_until(client: FakeClient, end: float, *, reads: bool = True, writes: bool = True) -> None:
    """Follow the node's deadlines; the client answers pings if it `writes` and takes data if it `reads`."""
    node = client.node
    while (deadline := node.poll_timeout()) is not None and deadline.at <= end:
        pings = client.transport.pings
        node.handle_timeout(deadline.at)
        if writes and (client.transport.pings > pings or not reads):
            client.transport.rx_bytes += 6


def test_a_client_that_answers_pings_stays() -> None:
    client = FakeClient(make_node()).log_in()
    run_until(client, 3600.0)
    assert client.transport.closed is None
    assert 85 <= client.transport.pings <= 91  # an answer is good for one interval more


def test_a_client_that_pings_by_itself_is_not_pinged() -> None:
    """With 10,000 of them it would be half of an idle node's work."""
    client = FakeClient(make_node()).log_in()
    now = 0.0
    while now < 600.0:
        now += 8.0
        run_until(client, now)
        client.transport.rx_bytes += 6
    assert client.transport.pings == 0
    run_until(client, now + 61.0, writes=False)
    assert client.transport.pings == 2


def test_a_silent_client_is_closed() -> None:
    client = FakeClient(make_node()).log_in()
    run_until(client, 59.0, writes=False)
    assert client.transport.closed is None
    run_until(client, 90.0, writes=False)
    assert client.transport.closed is not None
    assert client.node.stats().drops == {"idle": 1}


def test_a_client_that_does_not_read_is_closed() -> None:
    client = FakeClient(make_node()).log_in()
    run_until(client, 100.0)
    client.transport.writable = False
    run_until(client, 140.0, reads=False)
    assert client.transport.closed is None
    run_until(client, 200.0, reads=False)
    assert client.transport.closed is not None
    assert client.node.stats().drops == {"stalled": 1}


def test_clients_that_come_and_go_leave_nothing_behind() -> None:
    node = make_node()
    for _ in range(5000):
        FakeClient(node).transport.close()
    assert len(node._checks) < 2000
    assert node.stats().connections == 0


def test_reordering_loses_nothing_and_delays_no_lone_message() -> None:
    alice, bob = pair(reorder=True)
    numbers = [b"%d" % number for number in range(500)]
    for number in numbers:
        alice.send(bob.address, number)
    deadline = alice.node.poll_timeout()
    assert deadline is not None
    assert deadline.at <= 0.01
    alice.node.handle_timeout(deadline.at)
    assert bob.payloads() != numbers
    assert sorted(bob.payloads()) == sorted(numbers)
    alice.node.handle_timeout(1.0)
    alice.send(bob.address, b"lone", now=1.0)
    after = alice.node.poll_timeout()
    assert after is not None
    alice.node.handle_timeout(1.01)
    assert bob.payloads()[-1] == b"lone"


# --- hostile bytes ---


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=300)), max_size=8), st.booleans(), st.booleans())
@settings(max_examples=150)
def test_any_bytes_are_counted_and_nothing_else(
    frames: list[tuple[bool, bytes]], login: bool, verify: bool
) -> None:
    node = make_node(verify_signatures=verify)
    bob = FakeClient(node, "bob", b"b" * 32).log_in()
    eve = FakeClient(node, "eve", b"e" * 32)
    if login:
        eve.log_in()
    for is_text, data in frames:
        (eve.text if is_text else eve.binary)(data)
    assert bob.transport.closed is None
    assert (eve.transport.closed is None) == (eve.connection.state is not State.CLOSED)


@given(st.data())
@settings(max_examples=100)
def test_a_damaged_message_never_raises(data: st.DataObject) -> None:
    alice, bob = pair()
    frame = bytearray(
        OutboundMessage((bob.address,), (b"payload",), nonce=3, signatures=(bytes(64),)).encode()
    )
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    alice.binary(bytes(frame[: data.draw(st.integers(0, len(frame)))]))
    assert bob.transport.closed is None


def test_every_reason_has_a_name_of_its_own() -> None:
    assert len({reason.value for reason in NodeDrop}) == len(NodeDrop)


def test_a_login_cannot_be_replayed_on_another_connection() -> None:
    node = make_node()
    challenges = iter([b"1" * 32, b"2" * 32])
    node._rng = lambda size: next(challenges)
    first = FakeClient(node).log_in()
    second = FakeClient(node)
    request = SetClient(first.address, SALT, first.identity.sign(b"old"))
    second.text(request.encode())
    assert second.transport.texts[1]["Error"] == 42003


# --- shares of what the node has ---


def test_work_is_charged_to_the_senders_source() -> None:
    node = make_node()
    alice, bob = FakeClient(node).log_in(), FakeClient(node, "bob", b"b" * 32, host="198.51.100.2").log_in()
    share = alice.connection.source.share
    before = share.spent
    alice.send([bob.address] * 4, bytes(1000))
    assert share.spent - before >= 3 * (1000 + MESSAGE_WORK), "each dest beyond the first"
    before = share.spent
    alice.binary(OutboundMessage((bob.address,), (bytes(1 << 20),)).encode(compress=True))
    assert share.spent - before >= 1 << 20, "what was decompressed"
    before = share.spent
    alice.send("carol." + "ab" * 32, b"x", max_holding_seconds=60)
    assert share.spent - before >= MESSAGE_WORK, "what is held"
    assert bob.connection.source.share.spent <= VERIFY_WORK, "its login alone"


def test_what_a_socket_keeps_counts_in_the_pool() -> None:
    node = make_node(node_queue_bytes=1 << 20)
    alice, bob = FakeClient(node).log_in(), FakeClient(node, "bob", b"b" * 32, host="198.51.100.2").log_in()
    bob.transport.takes, bob.transport.unsent_bytes = 1, 300_000
    alice.send(bob.address, bytes(400_000))
    assert node.stats().queue_bytes == 300_000
    alice.send(bob.address, bytes(100_000))
    assert node.stats().queue_bytes > 400_000
    bob.transport.takes, bob.transport.unsent_bytes, bob.transport.writable = None, 0, True
    node.writable(bob.connection, 0.0)
    assert node.stats().queue_bytes == 0
    assert len(bob.received()) == 2


def test_the_pool_is_kept_by_closing_who_does_not_read() -> None:
    """Fifty clients of one address, each with most of a large message unread, and one that reads slowly."""
    node = make_node(node_queue_bytes=4 << 20)
    alice = FakeClient(node, host="198.51.100.9").log_in()
    slow = FakeClient(node, "slow", b"s" * 32, host="198.51.100.2").log_in()
    slow.transport.takes, slow.transport.unsent_bytes = 1, 200_000
    alice.send(slow.address, bytes(300_000))
    deaf = [FakeClient(node, f"deaf{n}", bytes([n]) * 32).log_in() for n in range(50)]
    for client in deaf:
        client.transport.takes, client.transport.unsent_bytes = 1, 900_000
        alice.send(client.address, bytes(1_000_000))
        assert node.stats().queue_bytes <= 4 << 20
    assert sum(client.transport.closed is not None for client in deaf) >= 46
    assert slow.transport.closed is None
    assert node.stats().drops["stalled"] >= 46
    assert node.relay.pool.used_bytes == sum(s.waiting.used_bytes for s in node._sources)


def test_places_before_the_login_go_from_the_source_with_most_to_others() -> None:
    node = make_node(max_logins=20)
    waiting = [FakeClient(node, host="203.0.113.1") for _ in range(10)]
    waiting += [FakeClient(node, host="203.0.113.2") for _ in range(10)]
    assert node.admits("198.51.100.1", 0.0)
    assert sum(client.transport.closed is not None for client in waiting) == 1
    alice = FakeClient(node).log_in()
    assert alice.connection.state is State.CLIENT
    assert node.stats().connections == 20


def test_half_handshakes_count_as_places_before_the_login() -> None:
    node = make_node(max_logins=20)
    closed: list[str] = []
    node.close_opening = closed.append
    opening = {"203.0.113.1": 12, "203.0.113.2": 8}
    assert node.admits("198.51.100.1", 0.0, opening=opening)
    assert closed == ["203.0.113.1"]
    assert not node.admits("203.0.113.1", 0.0, opening=opening)
    assert node.stats().drops == {"displaced": 1, "too_many_connections": 1}
