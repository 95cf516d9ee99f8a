"""Statements: what arrives is what was said last, whatever the network does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.tunnel.outputs import Stated
from nconnect.tunnel.statements import (
    MAX_STATEMENT_BYTES,
    PART_BYTES,
    RECEIVER_BURST,
    StatementReceiver,
    StatementSender,
)
from nconnect.tunnel.timers import NEVER
from nconnect.wire.tunnel import STATEMENT_ACK_BODY, STATEMENT_HEAD, RecordKind, control_batch
from tests.sim.network import Faults, Host, Simulation, pair
from tests.tunnel.hostile import connected, count, passes, sealed_by


def stated(host: Host) -> list[bytes]:
    return [event.document for event in host.events if isinstance(event, Stated)]


def say(source: Host, destination: Host, document: bytes) -> None:
    source.tunnel.announce(source.peer(destination), document, source.sim.now)
    source.drain()


def part(epoch: int, revision: int, size: int, offset: int, data: bytes) -> memoryview:
    return memoryview(STATEMENT_HEAD.pack(epoch, revision, size, offset) + data)


# Between two tunnels


def test_it_arrives_at_once_and_is_not_sent_again() -> None:
    sim, user, provider = connected()
    say(provider, user, b"first")
    sim.run(0.05)
    assert stated(user) == [b"first"]
    sent = len(sim.sent)
    say(provider, user, b"first")
    sim.run(2.0)
    assert (stated(user), len(sim.sent)) == ([b"first"], sent)


def test_who_has_nothing_to_say_sends_nothing() -> None:
    sim, user, provider = connected()
    sent = len(sim.sent)
    say(provider, user, b"")
    sim.run(2.0)
    assert len(sim.sent) == sent


def test_what_was_said_can_be_withdrawn() -> None:
    sim, user, provider = connected()
    for document in (b"first", b""):
        say(provider, user, document)
        sim.run(0.05)
    assert stated(user) == [b"first", b""]


def test_both_sides_may_speak() -> None:
    sim, user, provider = connected()
    say(provider, user, b"from the provider")
    say(user, provider, b"from the user")
    sim.run(0.1)
    assert (stated(user), stated(provider)) == ([b"from the provider"], [b"from the user"])


def test_the_largest_is_cut_and_joined_and_a_larger_one_is_the_callers_mistake() -> None:
    sim, user, provider = connected()
    largest = sim.random_bytes(MAX_STATEMENT_BYTES)
    say(provider, user, largest)
    sim.run(1.0)
    assert stated(user) == [largest]
    with pytest.raises(ValueError, match="65537"):
        say(provider, user, bytes(MAX_STATEMENT_BYTES + 1))


@pytest.mark.parametrize("seed", range(5))
def test_it_gets_through_loss_doubling_and_reordering(seed: int) -> None:
    sim, user, provider = connected(seed)
    sim.faults = Faults(loss=0.3, duplicate=0.3, delay=(0.01, 0.3))
    documents = [sim.random_bytes(size) for size in (10, MAX_STATEMENT_BYTES, 0, PART_BYTES, PART_BYTES + 1)]
    for document in documents:
        say(provider, user, document)
        assert sim.run(120.0, lambda document=document: stated(user)[-1:] == [document])
    sim.run(120.0)
    assert stated(user)[-1] == documents[-1], "nothing that is late replaces it"


def test_many_changes_become_few_and_the_last_one_arrives() -> None:
    sim, user, provider = connected()
    for number in range(1000):
        say(provider, user, b"%d" % number)
        sim.run(0.001)
    sim.run(2.0)
    assert stated(user)[-1] == b"999"
    assert len(stated(user)) <= 6
    assert not count(user, "bad_statement")


def test_changes_in_quick_succession_do_not_prevent_a_long_one() -> None:
    sim, user, provider = connected()
    sim.faults = Faults(delay=(0.4, 0.4))  # 8 parts of 0.8 s each
    for number in range(20):
        say(provider, user, bytes([number]) * MAX_STATEMENT_BYTES)
        sim.run(1.0)
    assert 2 <= len(stated(user)) <= 4


def test_a_peer_that_comes_back_without_memory_is_told_again() -> None:
    sim, user, provider = connected()
    say(provider, user, b"first")
    sim.run(0.05)
    user.events.clear()
    user.restart()
    assert passes(sim, user, provider)
    assert sim.run(1.0, lambda: stated(user) == [b"first"])


def test_a_restarted_sender_is_believed_from_its_first_revision_on() -> None:
    sim, user, provider = connected()
    for document in (b"1", b"2", b"3"):
        say(provider, user, document)
        sim.run(1.1)
    provider.restart()
    passes(sim, user, provider)  # is lost, and tells the provider that there was a session
    say(provider, user, b"4")
    assert sim.run(1.0, lambda: stated(user) == [b"1", b"2", b"3", b"4"])


def test_a_rekey_tells_a_peer_nothing_that_it_has() -> None:
    sim, user, provider = connected()
    say(provider, user, b"first")
    sim.run(400.0)
    assert stated(user) == [b"first"]


def test_it_waits_for_a_session() -> None:
    sim = Simulation(0)
    user, provider = pair(sim)
    sim.faults = Faults(cut=True)
    say(provider, user, b"first")
    sim.run(30.0)
    sim.faults = Faults()
    assert sim.run(10.0, lambda: stated(user) == [b"first"])


def test_a_peer_that_never_acknowledges_is_told_ever_more_rarely() -> None:
    sender, sent, now = StatementSender(), [], 0.0
    sender.say(b"x", 1, now)
    while now < 600.0:
        if sender.due(now, 0.1) is not None:
            sent.append(now)
        now = sender.next_at
    assert sent[:4] == [0.0, 0.5, 1.5, 3.5]
    assert len(sent) <= 17
    sender.hurry(600.0)
    assert sender.due(600.0, 0.1) is not None, "a link is back: at once"


# Acknowledgements


def test_acks_of_something_else_change_nothing() -> None:
    sender = StatementSender()
    sender.on_ack(STATEMENT_ACK_BODY.pack(0, 0, 0), 0.0)
    assert sender.next_at == NEVER
    sender.say(bytes(2 * PART_BYTES), 7, 0.0)
    first = sender.due(0.0, 0.0)
    for epoch, revision, size in ((8, 1, 9), (7, 2, 9), (7, 1, 0), (7, 1, 2 * PART_BYTES + 1), (7, 0, 2)):
        sender.on_ack(STATEMENT_ACK_BODY.pack(epoch, revision, size), 0.1)
        assert sender.due(0.1, 0.0) is None
    assert sender.due(0.5, 0.0) == first
    sender.on_ack(STATEMENT_ACK_BODY.pack(7, 1, PART_BYTES), 0.6)
    assert sender.due(0.6, 0.0) == part(7, 1, 2 * PART_BYTES, PART_BYTES, bytes(PART_BYTES))
    sender.on_ack(STATEMENT_ACK_BODY.pack(7, 1, PART_BYTES), 0.7)
    assert sender.due(0.7, 0.0) is None, "an ack that came twice sends nothing twice"


@given(st.lists(st.binary(min_size=12, max_size=12), max_size=8))
def test_no_acks_stop_a_statement(bodies: list[bytes]) -> None:
    sender = StatementSender()
    sender.say(bytes(3 * PART_BYTES), 7, 0.0)
    for body in bodies:
        if body[:8] == STATEMENT_ACK_BODY.pack(7, 1, 0)[:8]:
            continue
        sender.on_ack(body, 0.0)
    assert sender.due(0.0, 0.0) is not None


# What a hostile peer may send


@pytest.mark.parametrize(
    "body",
    [
        b"",
        bytes(15),
        part(1, 1, MAX_STATEMENT_BYTES + 1, 0, b"x"),
        part(1, 1, 2, 1, b"xx"),
        part(1, 1, 2, 0xFFFF_FFFF, b"x"),
        part(1, 1, 2, 0, b""),
        part(1, 1, 0, 0, b"x"),
    ],
)
def test_a_malformed_part_is_counted_and_changes_nothing(body: bytes) -> None:
    sim, user, provider = connected()
    say(provider, user, b"first")
    sim.run(0.05)
    batch = control_batch((RecordKind.STATEMENT, bytes(body)))
    sim.inject(str(provider.address), str(user.address), sealed_by(provider, user, batch))
    sim.run(0.05)
    assert count(user, "bad_statement") == 1
    assert stated(user) == [b"first"]
    say(provider, user, b"second")
    sim.run(0.05)
    assert stated(user) == [b"first", b"second"]


def test_a_gap_is_acknowledged_up_to_it() -> None:
    receiver = StatementReceiver()
    assert receiver.on_part(part(1, 1, 6, 0, b"ab"), 0.0) == (STATEMENT_ACK_BODY.pack(1, 1, 2), None)
    assert receiver.on_part(part(1, 1, 6, 4, b"ef"), 0.0) == (STATEMENT_ACK_BODY.pack(1, 1, 2), None)
    assert receiver.on_part(part(1, 1, 6, 2, b"cdef"), 0.0) == (STATEMENT_ACK_BODY.pack(1, 1, 6), b"abcdef")
    assert receiver.on_part(part(1, 1, 6, 0, b"ab"), 0.0) == (STATEMENT_ACK_BODY.pack(1, 1, 6), None)


def test_what_is_late_is_ignored() -> None:
    receiver = StatementReceiver()
    for epoch, revision in ((1, 1), (1, 3), (2, 1)):
        assert receiver.on_part(part(epoch, revision, 1, 0, b"x"), 0.0)[1] == b"x"
    for epoch, revision in ((1, 4), (1, 1), (2, 0)):
        assert receiver.on_part(part(epoch, revision, 1, 0, b"x"), 0.0) == (None, None)


def test_a_statement_has_one_size() -> None:
    receiver = StatementReceiver()
    receiver.on_part(part(1, 1, 6, 0, b"ab"), 0.0)
    with pytest.raises(ValueError, match="two sizes"):
        receiver.on_part(part(1, 1, 7, 2, b"ab"), 0.0)


def test_statements_beyond_the_rate_are_refused_and_later_ones_taken() -> None:
    receiver, taken = StatementReceiver(), 0
    for number in range(1000):
        try:
            taken += receiver.on_part(part(number, 1, 1, 0, b"x"), number / 1100)[1] is not None
        except ValueError:
            pass
    assert taken == RECEIVER_BURST
    assert receiver.on_part(part(5000, 1, 1, 0, b"y"), 3.0)[1] == b"y"


@given(st.lists(st.tuples(st.binary(max_size=40), st.floats(0.0, 2.0)), max_size=30))
def test_any_bytes_are_taken_or_refused(bodies: list[tuple[bytes, float]]) -> None:
    receiver, now = StatementReceiver(), 0.0
    for body, wait in bodies:
        now += wait
        try:
            ack, document = receiver.on_part(memoryview(body), now)
        except ValueError:
            continue
        assert document is None or ack is not None
        assert document is None or len(document) <= len(body)
    assert receiver.on_part(part(0xFFFF_FFFE, 9, 3, 0, b"end"), now + 1.0)[1] == b"end"
