"""The state machine of a link: an input, and all its outputs."""

from __future__ import annotations

import json
import random
import tracemalloc
import zlib
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nconnect.crypto.keys import Identity, verify
from nconnect.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from nconnect.model import NknAddress
from nconnect.nkn import backoff
from nconnect.nkn.backoff import BURST
from nconnect.nkn.link import MAX_BAD_FRAMES, MAX_REDIRECTS, Link, refuse_unusable
from nconnect.nkn.outputs import (
    Connect,
    Disconnect,
    DownReason,
    LinkDown,
    LinkUp,
    Output,
    Resolve,
    SendBinary,
    SendPing,
    SendText,
    Waived,
)
from nconnect.nkn.states import LinkState
from nconnect.nkn.ways import PLAIN_WAY, Way
from nconnect.wire import actions, sigchain
from nconnect.wire.jsonrpc import NodeInfo
from nconnect.wire.nkn import (
    MAX_FRAME_BYTES,
    InboundMessage,
    OutboundMessage,
    Receipt,
    decode_client_message,
)
from nconnect.wire.protobuf import bytes_field, uint_field

IDENTITY = Identity(bytes(range(32)))
ADDRESS = NknAddress("gpu", IDENTITY.public_key)
DEST = str(NknAddress("laptop", Identity(bytes(32)).public_key))
SEEDS = ("http://seed-1:30003", "http://seed-2:30003", "http://seed-3:30003")
CHALLENGE = bytes(range(100, 132))
HASH = bytes(range(32, 64))


def node(n: int) -> NodeInfo:
    return NodeInfo(f"203.0.113.{n}:30002", f"203.0.113.{n}:30003", f"{n:02x}" * 32, "")


class Driven:
    """A link, its virtual clock, and what it said since it was last asked."""

    def __init__(self, seed: int = 1, seeds: tuple[str, ...] = SEEDS, **options: object) -> None:
        self.now = 5000.0
        rng = random.Random(seed).randbytes
        self.link = Link(IDENTITY, ADDRESS, seeds, now=self.now, rng=rng, **options)  # type: ignore[arg-type]

    def said(self) -> list[Output]:
        outputs = []
        while (output := self.link.poll_output()) is not None:
            outputs.append(output)
        return outputs

    def after(self, seconds: float, tell: Callable[[float], object]) -> list[Output]:
        self.now += seconds
        tell(self.now)
        return self.said()

    def text(self, action: actions.NodeAction) -> list[Output]:
        return self.after(0.01, lambda now: self.link.receive_text(action.encode(), now))  # type: ignore[union-attr]

    def next_deadline(self) -> tuple[str, list[Output]]:
        """Jump to the next deadline: why it was set, and what follows."""
        deadline = self.link.poll_timeout()
        assert deadline is not None
        self.now = max(self.now, deadline.at)
        self.link.handle_timeout(self.now)
        return deadline.why, self.said()

    def connect(self, to: NodeInfo | None = None) -> None:
        """From NEW or RESOLVING to a connection that waits for the challenge."""
        if self.link.state is LinkState.NEW:
            self.after(0.0, self.link.start)
        if self.link.state is LinkState.RESOLVING:
            self.after(0.02, lambda now: self.link.resolved(to or node(1), now))
        self.after(0.02, self.link.connected)

    def log_in(self, to: NodeInfo | None = None, waives: frozenset[actions.Waiver] = frozenset()) -> None:
        """All the way up, and the first ping answered."""
        self.connect(to)
        self.text(actions.AuthChallenge(CHALLENGE))
        self.text(actions.ClientSet(self.link.node, HASH, waives))
        assert self.link.is_up
        assert self.next_deadline() == ("ping the node", [SendPing()])
        self.after(0.02, self.link.pong)

    def back_in_flight(self) -> None:
        """From WAITING to RESOLVING."""
        assert self.link.state is LinkState.WAITING
        why, said = self.next_deadline()
        assert why == "try again"
        assert isinstance(said[0], Resolve)


def lost(d: Driven) -> None:
    said = d.after(0.01, lambda now: d.link.disconnected("the other side closed the connection", now))
    assert reasons(said) == [DownReason.LOST]


def reasons(said: list[Output]) -> list[DownReason]:
    return [output.reason for output in said if isinstance(output, LinkDown)]


# The way up


def test_which_ways_lead_to_a_node_is_said_with_it() -> None:
    pin = "#sha256=" + "ab" * 32
    d = Driven(seeds=("https://h:443" + pin,))
    d.after(0.0, d.link.start)
    way = Way(secure=True, pin="ab" * 32)
    at = NodeInfo("h:443", "", node(1).public_key, "")
    said = d.after(0.1, lambda now: d.link.resolved(at, now, seed="https://h:443" + pin))
    assert said == [Connect(at, 5.0, (way,))]
    d.log_in()
    # Wherever that node sends us, TLS stays, and is verified.
    (*_, go) = d.text(actions.WrongNode(node(2)))
    assert go == Connect(node(2), 5.0, (Way(secure=True, verify=True),))
    d.log_in()
    lost(d)
    assert d.next_deadline()[1] == [Connect(node(2), 5.0, (Way(secure=True, verify=True),))]
    assert [o for o in d.after(0.1, lambda now: d.link.disconnected("gone", now)) if isinstance(o, Resolve)]
    fell_back = d.after(0.1, lambda now: d.link.resolve_failed("none", now))
    assert not [o for o in fell_back if isinstance(o, Connect)]  # it was there in vain already


def test_a_plain_seed_s_node_is_reached_by_the_way_that_worked_last_first() -> None:
    d = Driven()
    tls = Way(secure=True, ask=SEEDS[0])
    d.after(0.0, d.link.start)
    said = d.after(0.1, lambda now: d.link.resolved(node(1), now, seed=SEEDS[0]))
    assert said == [Connect(node(1), 5.0, (PLAIN_WAY, tls))]
    secure = NodeInfo("203.0.113.7:443", "", node(1).public_key, "")
    d.after(0.1, lambda now: d.link.connected(now, node=secure, way=tls))
    d.text(actions.AuthChallenge(CHALLENGE))
    d.text(actions.ClientSet(secure, HASH))
    assert d.link.is_up
    assert (d.link.node, d.link.way.secure) == (secure, True)
    lost(d)
    back = Way(secure=True)
    assert d.next_deadline()[1] == [Connect(secure, 5.0, (back,))]
    d.after(0.1, lambda now: d.link.disconnected("gone", now))
    said = d.after(0.1, lambda now: d.link.resolved(node(1), now, seed=SEEDS[0]))
    assert said == [Connect(node(1), 5.0, (tls, PLAIN_WAY))]


def test_tls_only_is_verified_whichever_seed_named_the_node() -> None:
    d = Driven(tls_only=True)
    d.after(0.0, d.link.start)
    said = d.after(0.1, lambda now: d.link.resolved(node(1), now, seed=SEEDS[0]))
    assert said == [Connect(node(1), 5.0, (Way(secure=True, verify=True),))]


def test_from_a_seed_to_a_login() -> None:
    d = Driven()
    assert d.after(0.0, d.link.start) == [Resolve(SEEDS, str(ADDRESS), 5.0)]
    assert d.after(0.1, lambda now: d.link.resolved(node(1), now)) == [Connect(node(1), 5.0)]
    assert d.after(0.1, d.link.connected) == []
    (login,) = d.text(actions.AuthChallenge(CHALLENGE))
    assert isinstance(login, SendText)
    sent = json.loads(login.text)
    assert (sent["Action"], sent["Addr"]) == ("setClient", str(ADDRESS))
    salt, signature = bytes.fromhex(sent["ClientSalt"]), bytes.fromhex(sent["Signature"])
    assert verify(IDENTITY.public_key, sigchain.login_digest(CHALLENGE, salt), signature)
    assert not d.link.is_up
    assert d.text(actions.ClientSet(node(1), HASH)) == [Waived(False, False), LinkUp(node(1))]
    assert d.link.is_up
    assert d.link.state.word == "up"
    assert d.link.last_node == node(1)
    assert d.link.rtt_s is None
    assert d.next_deadline() == ("ping the node", [SendPing()])
    d.after(0.025, d.link.pong)
    assert d.link.rtt_s == pytest.approx(0.025)


def test_a_sub_client_logs_in_with_its_own_address() -> None:
    link = Link(IDENTITY, ADDRESS.sub_client(2), SEEDS, now=0.0, rng=random.Random(1).randbytes)
    link.start(0.0)
    resolve = link.poll_output()
    assert isinstance(resolve, Resolve)
    assert resolve.address == f"__2__.{ADDRESS}"


def test_an_old_node_sends_no_challenge_and_gets_a_login_without_proof() -> None:
    d = Driven()
    d.connect()
    before = d.now
    why, (login,) = d.next_deadline()
    assert (why, d.now - before) == ("no challenge came", pytest.approx(5.0))
    assert isinstance(login, SendText)
    assert json.loads(login.text)["Signature"] == ""
    d.text(actions.ClientSet(None, b""))
    assert d.link.is_up


def test_a_challenge_that_comes_late_is_answered_once() -> None:
    d = Driven()
    d.connect()
    d.next_deadline()
    (login,) = d.text(actions.AuthChallenge(CHALLENGE))
    assert isinstance(login, SendText)
    assert len(json.loads(login.text)["Signature"]) == 128
    assert d.text(actions.AuthChallenge(CHALLENGE)) == []
    assert d.link.counters.ignored_actions == 1


def test_the_seed_that_answered_is_asked_first_and_the_one_that_misled_last() -> None:
    d = Driven()
    d.after(0.0, d.link.start)
    d.after(0.1, lambda now: d.link.resolved(node(1), now, seed=SEEDS[1]))
    assert d.link.seeds == (SEEDS[1], SEEDS[0], SEEDS[2])
    said = d.after(0.1, lambda now: d.link.disconnected("connection refused", now))
    assert reasons(said) == [DownReason.UNREACHABLE]
    assert d.link.seeds == (SEEDS[0], SEEDS[2], SEEDS[1])
    d.back_in_flight()
    d.after(0.1, lambda now: d.link.resolved(node(1), now, seed="http://stranger"))
    assert d.link.seeds == (SEEDS[0], SEEDS[2], SEEDS[1])


# Every stage has an end


def test_seeds_that_never_answer() -> None:
    d = Driven()
    d.after(0.0, d.link.start)
    why, said = d.next_deadline()
    assert why == "no seed answered"
    assert said[0] == Disconnect("no seed answered")
    assert reasons(said) == [DownReason.NO_SEED]
    assert d.link.state.word == "down"
    assert d.link.last_error == "no seed answered within 5 s"


def test_a_login_page_is_looked_at_every_second_however_long_it_takes() -> None:
    d = Driven()
    d.after(0.0, d.link.start)
    for _ in range(200):
        said = d.after(0.1, lambda now: d.link.resolve_failed("a page", now, reason=DownReason.LOGIN_PAGE))
        assert said == [LinkDown("a page", DownReason.LOGIN_PAGE)]
        deadline = d.link.poll_timeout()
        assert deadline is not None
        assert deadline.at - d.now <= 1.0
        d.back_in_flight()


def test_without_a_seed_the_last_node_is_tried_and_the_seeds_are_what_is_reported() -> None:
    d = Driven(last_node=node(7))
    d.after(0.0, d.link.start)
    assert d.after(0.1, lambda now: d.link.resolve_failed("no seed: refused", now)) == [Connect(node(7), 5.0)]
    said = d.after(0.1, lambda now: d.link.disconnected("connection refused", now))
    assert said == [LinkDown("no seed: refused", DownReason.NO_SEED)]
    d.back_in_flight()
    d.after(0.1, lambda now: d.link.resolve_failed("no seed: refused", now))
    d.connect()
    d.text(actions.AuthChallenge(CHALLENGE))
    d.text(actions.ClientSet(None, b""))
    assert d.link.is_up
    assert d.link.last_error == ""


def test_a_node_that_does_not_take_the_connection() -> None:
    d = Driven()
    d.after(0.0, d.link.start)
    d.after(0.0, lambda now: d.link.resolved(node(1), now))
    _, said = d.next_deadline()
    assert isinstance(said[0], Disconnect)
    assert reasons(said) == [DownReason.UNREACHABLE]


def test_a_node_that_does_not_answer_the_login_however_much_else_it_says() -> None:
    d = Driven()
    d.connect()
    began = d.now
    d.text(actions.AuthChallenge(CHALLENGE))
    for _ in range(400):
        d.after(0.01, d.link.handle_timeout)
        d.after(0.0, lambda now: d.link.receive_text('{"Action":"hello"}', now))
    _, said = d.next_deadline()
    assert reasons(said) == [DownReason.TIMED_OUT]
    assert d.now - began < 6.0
    assert d.link.counters.ignored_actions == 400


@pytest.mark.parametrize(
    ("code", "reason"),
    [(actions.INVALID_SIGNATURE, DownReason.BAD_SIGNATURE), (45001, DownReason.REFUSED)],
)
def test_a_refused_login(code: int, reason: DownReason) -> None:
    d = Driven()
    d.connect()
    d.text(actions.AuthChallenge(CHALLENGE))
    said = d.text(actions.ErrorReply("setClient", code, "SOME\nREASON\x1b[31m"))
    assert isinstance(said[0], Disconnect)
    assert reasons(said) == [reason]
    assert d.link.last_error.isprintable()
    assert "203.0.113.1:30002" in d.link.last_error
    assert d.link.seeds[-1] == SEEDS[0]


def test_a_node_with_another_key_than_the_seed_named() -> None:
    d = Driven(last_node=node(1))
    d.connect()
    d.text(actions.AuthChallenge(CHALLENGE))
    said = d.text(actions.ClientSet(node(2), HASH))
    assert reasons(said) == [DownReason.WRONG_KEY]
    assert not d.link.is_up
    assert d.link.last_node is None


# Redirects


@pytest.mark.parametrize("stage", ["challenge", "login", "up"])
def test_wrong_node_leads_to_the_named_node_at_once(stage: str) -> None:
    d = Driven()
    d.connect()
    if stage != "challenge":
        d.text(actions.AuthChallenge(CHALLENGE))
    if stage == "up":
        d.text(actions.ClientSet(node(1), HASH))
    said = d.text(actions.WrongNode(node(2)))
    assert isinstance(said[0], Disconnect)
    assert said[-1] == Connect(node(2), 5.0)
    assert reasons(said) == ([DownReason.REDIRECTED] if stage == "up" else [])
    assert d.link.prefixes is None
    d.log_in()
    assert d.link.node == node(2)


@pytest.mark.parametrize("lets_in", [False, True])
def test_redirects_in_circles_end_in_backoff(lets_in: bool) -> None:
    d = Driven()
    d.connect()
    connects = 0
    for n in range(MAX_REDIRECTS + 1):
        d.text(actions.AuthChallenge(CHALLENGE))
        if lets_in:
            d.text(actions.ClientSet(d.link.node, HASH))
        said = d.text(actions.WrongNode(node(2 + n % 2)))
        connects += sum(isinstance(output, Connect) for output in said)
        if d.link.state is LinkState.CONNECTING:
            d.after(0.01, d.link.connected)
    assert connects == MAX_REDIRECTS
    assert d.link.state is LinkState.WAITING
    assert reasons(said)[-1] is DownReason.REDIRECT_LOOP
    before = d.now
    d.back_in_flight()
    assert d.now - before > 2.0  # they took from the bucket of attempts


def test_redirects_with_a_while_between_them_are_no_circle() -> None:
    d = Driven()
    d.log_in()
    for n in range(3 * MAX_REDIRECTS):
        d.now += backoff.STABLE_S
        d.link.heard(d.now)
        said = d.text(actions.WrongNode(node(2 + n % 2)))
        assert isinstance(said[-1], Connect)
        d.connect()
        d.text(actions.AuthChallenge(CHALLENGE))
        d.text(actions.ClientSet(d.link.node, HASH))


@pytest.mark.parametrize(
    "addr", ["0.0.0.0:30002", "[::]:30002", "224.0.0.1:30002", "a..b:1", f"{'x' * 64}:1"]
)
def test_nodes_that_nobody_could_connect_to_are_refused(addr: str) -> None:
    with pytest.raises(RemoteProtocolError):
        refuse_unusable(NodeInfo(addr, "", "00" * 32, ""))
    d = Driven()
    d.connect()
    said = d.text(actions.WrongNode(NodeInfo(addr, "", "00" * 32, "")))
    assert reasons(said) == [DownReason.BROKE_PROTOCOL]


def test_nodes_with_names_and_addresses_are_taken() -> None:
    for addr in ("example.org:30002", "192.0.2.1:1", "[2001:db8::1]:30002", "localhost:30002"):
        refuse_unusable(NodeInfo(addr, "", "00" * 32, ""))


# Liveness


def test_it_pings_every_8_s_and_a_silent_node_is_dead_after_10() -> None:
    d = Driven()
    d.log_in()
    up_at = d.now
    pings = []
    while d.link.is_up and d.now < up_at + 60.0:
        _, said = d.next_deadline()
        if SendPing() in said:
            pings.append(d.now - up_at)
            if len(pings) < 3:
                d.after(0.02, d.link.pong)
    assert pings == pytest.approx([8.0, 16.0, 24.0], abs=0.1)
    assert reasons(said) == [DownReason.SILENT]
    assert 26.0 <= d.now - up_at <= 26.2  # ten seconds after the last pong
    assert "silent for 10 s" in d.link.last_error


def test_a_node_that_falls_silent_while_messages_come_is_dead_within_4_s() -> None:
    d = Driven()
    d.log_in()
    frame = InboundMessage(DEST, b"payload").encode()
    for _ in range(200):
        d.after(0.05, lambda now: d.link.receive_binary(frame, now))
        deadline = d.link.poll_timeout()
        if deadline is not None and deadline.at <= d.now:
            d.link.handle_timeout(d.now)
            d.link.pong(d.now)
    silent_at = d.now
    while d.link.is_up:
        d.next_deadline()
    assert 3.0 <= d.now - silent_at < 4.0
    assert "silent for 4 s" in d.link.last_error


def test_a_lone_message_changes_no_deadline() -> None:
    d = Driven()
    d.log_in()
    frame = InboundMessage(DEST, b"payload").encode()
    for _ in range(3):
        d.after(2.0, lambda now: d.link.receive_binary(frame, now))
        assert not d.link.deadline_moved


def test_frames_keep_a_link_alive_without_a_pong() -> None:
    d = Driven()
    d.log_in()
    for _ in range(100):
        d.now += 1.0
        d.link.heard(d.now)
        d.link.handle_timeout(d.now)
    assert d.link.is_up


def test_an_idle_link_wakes_seldom() -> None:
    d = Driven()
    d.log_in()
    began, wakes = d.now, 0
    while d.now < began + 600.0:
        _, said = d.next_deadline()
        wakes += 1
        if SendPing() in said:
            d.after(0.03, d.link.pong)
    assert wakes <= 600 / 8 + 1, "for its pings, and nothing else"


def test_a_network_change_is_decided_within_two_seconds() -> None:
    d = Driven()
    d.log_in()
    d.now += 3.0
    d.link.network_changed(d.now)
    began = d.now
    assert d.next_deadline() == ("ping the node", [SendPing()])
    assert d.now == began
    while d.link.is_up:
        _, said = d.next_deadline()
    assert reasons(said) == [DownReason.SILENT]
    assert d.now - began == pytest.approx(2.0)


def test_a_network_change_that_did_no_harm() -> None:
    d = Driven()
    d.log_in()
    d.now += 3.0
    d.link.network_changed(d.now)
    assert d.next_deadline() == ("ping the node", [SendPing()])
    d.after(0.5, d.link.pong)
    for _ in range(10):
        _, said = d.next_deadline()
        if SendPing() in said:
            d.after(0.02, d.link.pong)
    assert d.link.is_up


def test_after_a_sleep_it_asks_before_it_concludes() -> None:
    d = Driven()
    d.log_in()
    d.now += 3600.0
    d.link.handle_timeout(d.now)
    assert d.said() == [SendPing()]
    assert d.link.is_up
    began = d.now
    while d.link.is_up:
        d.next_deadline()
    assert d.now - began == pytest.approx(2.0)


def test_a_network_change_ends_the_wait() -> None:
    d = Driven()
    d.after(0.0, d.link.start)
    for _ in range(60):
        d.after(5.0, lambda now: d.link.resolve_failed("unreachable", now))
        d.back_in_flight()
    d.after(5.0, lambda now: d.link.resolve_failed("unreachable", now))
    d.link.network_changed(d.now)
    deadline = d.link.poll_timeout()
    assert deadline is not None
    assert deadline.at <= d.now


def test_network_changes_without_end_keep_to_the_rate() -> None:
    d = Driven()
    d.after(0.0, d.link.start)
    began, attempts = d.now, 1
    while d.now < began + 100.0:
        if d.link.state is LinkState.RESOLVING:
            d.after(0.0, lambda now: d.link.resolve_failed("unreachable", now))
        d.now += 0.1
        d.link.network_changed(d.now)
        d.link.handle_timeout(d.now)
        attempts += sum(isinstance(output, Resolve) for output in d.said())
    assert attempts <= 100 + backoff.BURST + 1


def test_a_network_change_restarts_an_attempt_that_hangs() -> None:
    d = Driven()
    d.after(0.0, d.link.start)
    assert d.after(0.5, d.link.network_changed) == []
    said = d.after(1.0, d.link.network_changed)
    assert isinstance(said[0], Disconnect)
    before = d.now
    d.back_in_flight()
    assert d.now - before < 0.01


# Data


def prefix_of(d: Driven, payload: bytes) -> OutboundMessage:
    assert d.link.prefixes is not None
    data = d.link.prefixes.prefix(DEST, len(payload)) + payload
    message = decode_client_message(data)
    assert isinstance(message, OutboundMessage)
    return message


def test_an_outbound_message_is_signed_for_the_node_and_the_block_hash() -> None:
    d = Driven()
    d.log_in()
    for block_hash in (HASH, bytes(32)):
        nonces = set()
        for payload in (b"", b"hello", bytes(70_000)):
            message = prefix_of(d, payload)
            assert (message.dests, bytes(message.payloads[0])) == ((DEST,), payload)
            assert message.block_hash == block_hash
            nonces.add(message.nonce)
            prepared = sigchain.OutboundDigest(
                node(1).public_key_bytes,
                block_hash,
                sigchain.client_id(str(ADDRESS)),
                IDENTITY.public_key,
                sigchain.client_id(DEST),
                NknAddress.parse(DEST).public_key,
            )
            digest = prepared.digest(message.nonce, len(payload))
            assert verify(IDENTITY.public_key, digest, message.signatures[0])
        assert len(nonces) == 3
        d.text(actions.BlockHashUpdate(bytes(32)))


def test_a_node_that_waives_signatures_gets_none() -> None:
    d = Driven()
    d.connect()
    d.text(actions.AuthChallenge(CHALLENGE))
    both = frozenset(actions.Waiver)
    assert d.text(actions.ClientSet(node(1), HASH, both)) == [Waived(True, True), LinkUp(node(1))]
    assert prefix_of(d, b"x").signatures == ()


def test_what_may_not_be_sent() -> None:
    d = Driven()
    with pytest.raises(LocalProtocolError):
        d.link.outbound([DEST], [b"x"])
    assert not d.link.prefixes
    d.log_in()
    prefixes = d.link.prefixes
    assert prefixes
    with pytest.raises(LocalProtocolError):
        prefixes.prefix(DEST, 4_000_001)
    with pytest.raises(ConfigError):
        prefixes.prefix("nobody", 1)


def test_a_message_is_handed_on_and_a_receipt_is_owed_where_asked() -> None:
    d = Driven()
    d.log_in()
    plain = InboundMessage(DEST, b"payload")
    got = d.link.receive_binary(plain.encode(), d.now)
    assert got is not None
    assert (got.src, bytes(got.payload)) == (DEST, b"payload")
    assert d.said() == []
    got = d.link.receive_binary(InboundMessage(DEST, b"payload", HASH).encode(), d.now)
    assert got is not None
    assert not d.link.outputs, "it may wait"
    assert len(d.link.receipts) == 1
    (receipt,) = d.said()
    assert not d.link.receipts
    assert isinstance(receipt, SendBinary)
    sent = decode_client_message(receipt.data)
    assert isinstance(sent, Receipt)
    assert sent.prev_hash == HASH
    assert verify(IDENTITY.public_key, sigchain.receipt_digest(HASH), sent.signature)


def test_a_receipt_is_for_its_own_connection_only() -> None:
    d = Driven()
    d.log_in()
    d.link.receive_binary(InboundMessage(DEST, b"payload", HASH).encode(), d.now)
    d.link.disconnected("gone", d.now)
    assert not d.link.receipts
    assert not any(isinstance(output, SendBinary) for output in d.said())


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"garbage garbage",
        Receipt(HASH, bytes(64)).encode(),
        OutboundMessage((DEST,), (b"x",)).encode(),
        InboundMessage(DEST, b"x", bytes(65)).encode(),
        b"\x08\x01\x12\x0bnot deflate\x18\x01",
    ],
)
def test_binary_garbage_is_counted_and_in_the_end_too_much(data: bytes) -> None:
    d = Driven()
    d.log_in()
    for n in range(MAX_BAD_FRAMES):
        assert d.link.receive_binary(data, d.now) is None
        assert d.link.counters.bad_frames == n + 1
    assert d.link.is_up
    assert d.link.receive_binary(data, d.now) is None
    assert not d.link.is_up
    assert reasons(d.said()) == [DownReason.BROKE_PROTOCOL]


def test_a_bomb_is_counted_and_grows_to_no_more_than_a_frame() -> None:
    """100 MB of zeros in 100 KB, in the form of a message to us."""
    packer = zlib.compressobj(9)
    zeros = b"".join(packer.compress(bytes(1 << 20)) for _ in range(100)) + packer.flush()
    bomb = bytes_field(2, zeros) + uint_field(3, 1)
    for frame in (uint_field(1, 1) + bomb, InboundMessage(DEST, b"x").encode() + bomb):
        d = Driven()
        d.log_in()
        tracemalloc.start()
        assert d.link.receive_binary(frame, d.now) is None
        grown = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert d.link.counters.bad_frames == 1
        assert grown < 3 * MAX_FRAME_BYTES


def test_a_message_before_the_login_is_refused_and_during_it_taken() -> None:
    message = InboundMessage(DEST, b"held").encode()
    d = Driven()
    d.connect()
    assert d.link.receive_binary(message, d.now) is None
    assert reasons(d.said()) == [DownReason.BROKE_PROTOCOL]
    d = Driven()
    d.connect()
    d.text(actions.AuthChallenge(CHALLENGE))
    assert d.link.receive_binary(message, d.now) is not None


def test_text_garbage_ends_a_login_and_is_let_pass_on_a_link_that_works() -> None:
    d = Driven()
    d.connect()
    said = d.after(0.0, lambda now: d.link.receive_text(b"<html>", now))
    assert reasons(said) == [DownReason.BROKE_PROTOCOL]
    d = Driven()
    d.log_in()
    assert d.after(0.0, lambda now: d.link.receive_text(b"<html>", now)) == []
    assert d.link.is_up
    assert d.link.counters.bad_frames == 1


# Again and again


def test_a_lost_link_comes_back_and_is_counted() -> None:
    d = Driven()
    d.log_in()
    assert d.link.reconnects == 0
    said = d.after(30.0, lambda now: d.link.disconnected("the other side closed the connection", now))
    assert said == [LinkDown("node 203.0.113.1:30002: the other side closed the connection", DownReason.LOST)]
    before = d.now
    assert d.next_deadline() == ("try again", [Connect(node(1), 5.0)])  # without asking a seed
    assert d.now - before < 0.3
    d.log_in()
    assert d.link.reconnects == 1


def test_a_node_that_closed_and_is_not_back_is_no_delay() -> None:
    d = Driven()
    d.log_in()
    lost(d)
    assert d.next_deadline() == ("try again", [Connect(node(1), 5.0)])
    (asked,) = d.after(0.001, lambda now: d.link.disconnected("connection refused", now))
    assert isinstance(asked, Resolve)
    assert d.after(0.001, lambda now: d.link.resolved(node(2), now)) == [Connect(node(2), 5.0)]
    d.log_in()
    assert d.link.node == node(2)


def test_node_and_seeds_are_tried_in_turn_each_once_a_second() -> None:
    d = Driven()
    d.log_in()
    lost(d)
    d.next_deadline()
    d.after(0.001, lambda now: d.link.disconnected("connection refused", now))
    tries: dict[type[Output], list[float]] = {Connect: [], Resolve: []}
    last: type[Output] = Resolve
    began = d.now
    while d.now < began + 100.0:
        if last is Resolve:
            said = d.after(0.001, lambda now: d.link.resolve_failed("no seed: refused", now))
            assert said == [LinkDown("no seed: refused", DownReason.NO_SEED)]  # and not to node 1 once more
        else:
            assert d.after(0.001, lambda now: d.link.disconnected("connection refused", now)) == []
            assert d.link.last_error == "no seed: refused", "what a user can mend"
        why, (tried,) = d.next_deadline()
        assert why == "try again"
        assert type(tried) is not last
        last = type(tried)
        tries[last].append(d.now - began)
    for times in tries.values():
        assert all(len([at for at in times if at <= end]) <= BURST + end for end in times)
    both = sorted(at for times in tries.values() for at in times if at > 10.0)
    assert max(b - a for a, b in pairwise(both)) < 0.51
    d.log_in()
    assert d.link.is_up


def test_after_turns_a_lost_node_is_gone_back_to_and_the_seeds_are_asked_at_once() -> None:
    d = Driven()
    d.log_in()
    for _ in range(2):
        lost(d)
        d.next_deadline()
        d.after(0.001, lambda now: d.link.disconnected("connection refused", now))
        d.after(0.001, lambda now: d.link.resolve_failed("no seed: refused", now))
        assert d.next_deadline()[1] == [Connect(node(1), 5.0)]
        d.log_in()


def test_a_node_that_is_back_with_another_key_is_looked_for_again_at_once() -> None:
    d = Driven()
    d.log_in()
    lost(d)
    d.next_deadline()
    d.connect()
    d.text(actions.AuthChallenge(CHALLENGE))
    said = d.text(actions.ClientSet(node(2), HASH))
    assert [type(output) for output in said] == [Disconnect, Resolve]
    assert d.link.last_node is None
    d.after(0.01, lambda now: d.link.resolved(node(2), now))
    d.log_in()
    assert d.link.node == node(2)


def test_a_host_that_does_not_say_no_is_not_gone_back_to_again() -> None:
    d = Driven()
    d.log_in()
    lost(d)
    d.next_deadline()
    _, said = d.next_deadline()
    assert [type(output) for output in said] == [Disconnect, Resolve]
    d.after(0.1, lambda now: d.link.resolve_failed("no seed answered", now))
    d.back_in_flight()


@pytest.mark.parametrize("what", ["silent", "another network", "refused a login", "stopped"])
def test_only_a_node_that_closed_is_gone_back_to(what: str) -> None:
    d = Driven()
    d.log_in()
    if what == "silent":
        while d.link.is_up:
            d.next_deadline()
    else:
        lost(d)
    if what == "another network":
        d.after(0.0, d.link.network_changed)
    elif what == "refused a login":
        d.next_deadline()
        d.connect()
        lost(d)
    elif what == "stopped":
        d.after(0.0, d.link.stop)
        assert isinstance(d.after(0.0, d.link.start)[0], Resolve)
        return
    d.back_in_flight()


def test_it_stops_and_starts() -> None:
    d = Driven()
    d.log_in()
    assert d.after(1.0, d.link.stop) == [Disconnect("stopped"), LinkDown("stopped", DownReason.STOPPED)]
    assert d.link.poll_timeout() is None
    assert d.after(1.0, d.link.stop) == []
    assert d.after(1.0, d.link.network_changed) == []
    d.after(0.0, d.link.start)
    d.log_in()


def test_calls_that_the_state_forbids_are_our_mistake() -> None:
    d = Driven()
    for wrong in (
        lambda now: d.link.resolved(node(1), now),
        lambda now: d.link.resolve_failed("x", now),
        d.link.connected,
        lambda now: d.link.disconnected("x", now),
        lambda now: d.link.receive_text("{}", now),
        lambda now: d.link.receive_binary(b"", now),
    ):
        with pytest.raises(LocalProtocolError):
            wrong(d.now)
    d.after(0.0, d.link.start)
    with pytest.raises(LocalProtocolError):
        d.link.start(d.now)
    with pytest.raises(LocalProtocolError):
        Link(IDENTITY, NknAddress("x", bytes(32)), SEEDS, now=0.0, rng=bytes)
    with pytest.raises(LocalProtocolError):
        Link(IDENTITY, ADDRESS, (), now=0.0, rng=bytes)


def test_a_spurious_timeout_is_harmless() -> None:
    d = Driven()
    d.link.handle_timeout(d.now)
    d.after(0.0, d.link.start)
    assert d.after(0.1, d.link.handle_timeout) == []
    d.log_in()
    assert d.after(0.1, d.link.handle_timeout) == []


STAGES = ("challenge", "login", "up")
TEXTS = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=100),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=8,
    ).map(json.dumps),
    st.fixed_dictionaries(
        {
            "Action": st.sampled_from(["authChallenge", "setClient", "updateSigChainBlockHash", "", "x"]),
            "Error": st.sampled_from([0, 0, 48001, 42003, 41003, -1, "0", None]),
            "Challenge": st.sampled_from(["00" * 32, "00", 5, None]),
            "Result": st.sampled_from(
                [None, {}, "00" * 32, node(3).to_json(), {"node": node(1).to_json()}, {"waives": [1]}]
            ),
        }
    ).map(json.dumps),
)
BINARIES = st.one_of(
    st.binary(max_size=300),
    st.builds(InboundMessage, st.text(max_size=20), st.binary(max_size=50), st.binary(max_size=70)).map(
        lambda message: message.encode()
    ),
)


@settings(max_examples=150)
@given(
    stage=st.sampled_from(STAGES),
    frames=st.lists(
        st.one_of(TEXTS.map(lambda t: ("text", t)), BINARIES.map(lambda b: ("binary", b))), max_size=40
    ),
)
def test_nothing_that_a_node_sends_ever_raises(stage: str, frames: list[tuple[str, bytes | str]]) -> None:
    d = Driven()
    d.connect()
    if stage != "challenge":
        d.text(actions.AuthChallenge(CHALLENGE))
    if stage == "up":
        d.text(actions.ClientSet(None, HASH))
    for kind, data in frames:
        if d.link.state not in (LinkState.AWAITING_CHALLENGE, LinkState.LOGGING_IN, LinkState.UP):
            break
        if kind == "text":
            d.link.receive_text(data, d.now)
        else:
            assert isinstance(data, bytes)
            d.link.receive_binary(memoryview(data), d.now)
        d.said()
    assert d.link.poll_timeout() is not None  # it is never stuck
