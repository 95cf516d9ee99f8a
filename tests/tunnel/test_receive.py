"""Every refusal on the receive side, by name; and after each a genuine packet still passes."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from nacl import bindings

from nconnect.crypto import noise
from nconnect.crypto.aead import CipherSuite
from nconnect.crypto.keys import Identity
from nconnect.errors import DropReason
from nconnect.ip import icmp, offload
from nconnect.model import NknAddress, PeerConfig
from nconnect.tunnel.constants import MAX_PENDING_SENDERS, MAX_REFUSED_HANDSHAKES_PER_S, REJECT_AFTER_S
from nconnect.tunnel.outputs import Settings
from nconnect.wire.message import Message, PayloadType
from nconnect.wire.tunnel import (
    DATA_HEADER,
    FEEDBACK_BODY,
    MAX_LINKS,
    PING_BODY,
    RECORD_HEADER,
    Feature,
    FrameKind,
    RecordKind,
    encode_links,
)
from tests.ip.packets import tcp_super
from tests.sim.network import Host, Simulation, ip, packet, pair
from tests.tunnel.hostile import (
    attempt,
    batch_of,
    captured,
    connected,
    count,
    data_message,
    in_box,
    initiation,
    passes,
    sealed_by,
)
from tests.tunnel.sides import both_up

Made = Callable[[Simulation, Host, Host], bytes]
GOOD = packet("10.86.0.2", "192.168.50.10", b"good")


def last_data(sim: Simulation, source: Host) -> bytes:
    return captured(sim, source, boxed_ones=False)[-1]


def unsent_data(sim: Simulation, user: Host, provider: Host) -> bytes:
    """A genuine batch that has not arrived."""
    return sealed_by(user, provider, batch_of(GOOD))


def flipped(message: bytes, at: int) -> bytes:
    changed = bytearray(message)
    changed[at] ^= 0x10
    return bytes(changed)


def with_header(message: bytes, **fields: int) -> bytes:
    """The same message under a data header with other fields."""
    decoded = Message.decode(message)
    names = ("version", "kind", "reserved", "receiver", "counter")
    values = dict(zip(names, DATA_HEADER.unpack(decoded.nonce), strict=True)) | fields
    header = DATA_HEADER.pack(*(values[name] for name in names))
    return Message(bytes(decoded.payload), encrypted=True, nonce=header).encode()


def record(kind: int, body: bytes) -> bytes:
    return RECORD_HEADER.pack(len(body) | kind << 24) + body


def under(header: bytes, body: bytes) -> bytes:
    """A good packet under another virtio-net header."""
    return header + body[10:]


def error_about(destination: str) -> bytes:
    """A record of the user's port-unreachable about a packet to `destination`; "" quotes none."""
    quoted = packet("192.168.50.10", destination)[10:] if destination else b""
    made = bytearray(packet("10.86.0.2", "192.168.50.10", quoted))
    made[10 + 9] = 1
    made[10 + 20 : 10 + 28] = bytes((3, 3)) + bytes(6)
    return bytes(made)


def bad_batch(batch: bytes) -> Made:
    return lambda sim, user, provider: sealed_by(user, provider, batch)


def bad_frame(data: bytes) -> Made:
    return lambda sim, user, provider: in_box(user, provider, data)


def foreign_initiation(sim: Simulation, user: Host, provider: Host) -> bytes:
    """In the user's own box, but under a Noise static key that is not the user's."""
    stranger = Host(sim, "user", 99)
    stranger.tunnel = user.tunnel
    made = attempt(stranger, provider, address=user.address)
    return initiation(user, provider, made)


def old_initiation(sim: Simulation, user: Host, provider: Host) -> bytes:
    sim.run(1)
    return captured(sim, user, boxed_ones=True)[0]


def second_initiation(sim: Simulation, user: Host, provider: Host) -> bytes:
    counter = provider.peer(user).handshake.last_counter
    first = initiation(user, provider, attempt(user, provider, counter=counter + 1, index=1))
    sim.inject(str(user.address), str(provider.address), first)
    sim.run(0.001)
    return initiation(user, provider, attempt(user, provider, counter=counter + 2, index=2))


def old_keys(sim: Simulation, user: Host, provider: Host) -> bytes:
    """A batch under keys past their life, while a newer pair is in use."""
    late = unsent_data(sim, user, provider)
    for _ in range(int(REJECT_AFTER_S) + 1):
        sim.run(1)
        assert passes(sim, user, provider)
    return late


MALFORMED: dict[str, tuple[Made, DropReason]] = {
    # what is no NKN message, or none of ours
    "no protobuf": (lambda sim, user, provider: b"\xff\xff", DropReason.MALFORMED),
    "a text in the clear": (
        lambda sim, user, provider: Message(b"hello").encode(),
        DropReason.NOT_OURS,
    ),
    "a box for several": (
        lambda sim, user, provider: Message(b"x" * 40, encrypted=True, nonce=bytes(48)).encode(),
        DropReason.NOT_OURS,
    ),
    "a chat text": (
        lambda sim, user, provider: in_box(user, provider, b"hello", PayloadType.TEXT),
        DropReason.NOT_OURS,
    ),
    "other binary data": (bad_frame(b"hello"), DropReason.NOT_OURS),
    "a box by somebody else": (
        lambda sim, user, provider: Message(b"x" * 40, encrypted=True, nonce=bytes(24)).encode(),
        DropReason.NOT_AUTHENTIC,
    ),
    "a box with no payload in it": (
        lambda sim, user, provider: Message(
            user.peer(provider).handshake.box.seal(b"\xff\xff", bytes(24)), encrypted=True, nonce=bytes(24)
        ).encode(),
        DropReason.MALFORMED,
    ),
    # handshakes
    "a cut off handshake": (bad_frame(b"nc\x01\x01"), DropReason.MALFORMED),
    "a cut off response": (bad_frame(b"nc\x01\x02\x01" + bytes(8)), DropReason.MALFORMED),
    "an unknown kind of handshake": (bad_frame(b"nc\x01\x09\x01" + bytes(40)), DropReason.MALFORMED),
    "a handshake of another version": (bad_frame(b"nc\x02\x01\x01" + bytes(40)), DropReason.WRONG_VERSION),
    "an initiation of nothing": (bad_frame(b"nc\x01\x01\x01" + bytes(7)), DropReason.HANDSHAKE_REFUSED),
    "an initiation of noise": (bad_frame(b"nc\x01\x01\x01" + b"\x55" * 150), DropReason.HANDSHAKE_REFUSED),
    "an initiation of low order": (bad_frame(b"nc\x01\x01\x01" + bytes(150)), DropReason.HANDSHAKE_REFUSED),
    "an unknown suite": (bad_frame(b"nc\x01\x01\x63" + bytes(150)), DropReason.HANDSHAKE_REFUSED),
    "another suite than it says": (
        lambda sim, user, provider: in_box(
            user,
            provider,
            attempt(user, provider).frame[:4]
            + bytes([CipherSuite.CHACHA20POLY1305.wire_id])
            + attempt(user, provider).frame[5:],
        ),
        DropReason.HANDSHAKE_REFUSED,
    ),
    "another static key than the address's": (foreign_initiation, DropReason.HANDSHAKE_REFUSED),
    "an initiation for another identifier": (
        lambda sim, user, provider: initiation(
            user,
            provider,
            attempt(user, provider, to=NknAddress("another", provider.address.public_key)),
        ),
        DropReason.HANDSHAKE_REFUSED,
    ),
    "an initiation by another identifier": (
        lambda sim, user, provider: initiation(
            user,
            provider,
            attempt(user, provider, address=NknAddress("another", user.address.public_key)),
        ),
        DropReason.HANDSHAKE_REFUSED,
    ),
    "an initiation again": (old_initiation, DropReason.HANDSHAKE_REPLAYED),
    "an initiation with counter 0": (
        lambda sim, user, provider: initiation(user, provider, attempt(user, provider, counter=0)),
        DropReason.HANDSHAKE_REPLAYED,
    ),
    "a second initiation at once": (second_initiation, DropReason.HANDSHAKE_FLOOD),
    "a response to nothing": (bad_frame(b"nc\x01\x02\x01" + bytes(80)), DropReason.NO_SESSION),
    # data
    "data of another version": (
        lambda sim, user, provider: with_header(unsent_data(sim, user, provider), version=2),
        DropReason.WRONG_VERSION,
    ),
    "data of another kind": (
        lambda sim, user, provider: with_header(unsent_data(sim, user, provider), kind=FrameKind.INITIATION),
        DropReason.WRONG_VERSION,
    ),
    "an index that nobody has": (
        lambda sim, user, provider: data_message(0, 0, bytes(16)),
        DropReason.NO_SESSION,
    ),
    "data reflected to its sender": (
        lambda sim, user, provider: last_data(sim, provider),
        DropReason.NO_SESSION,
    ),
    "data reflected under the receiver's index": (
        lambda sim, user, provider: with_header(
            last_data(sim, provider),
            receiver=provider.peer(user).session.current.local_index,  # type: ignore[union-attr]
            counter=1 << 20,
        ),
        DropReason.NOT_AUTHENTIC,
    ),
    "data too short for a seal": (
        lambda sim, user, provider: data_message(
            user.peer(provider).session.current.remote_index,  # type: ignore[union-attr]
            1 << 20,
            bytes(15),
        ),
        DropReason.MALFORMED,
    ),
    "data again": (lambda sim, user, provider: last_data(sim, user), DropReason.REPLAYED),
    "the last counters": (
        lambda sim, user, provider: with_header(unsent_data(sim, user, provider), counter=(1 << 64) - 1),
        DropReason.REPLAYED,
    ),
    "a flipped bit": (
        lambda sim, user, provider: flipped(unsent_data(sim, user, provider), -20),
        DropReason.NOT_AUTHENTIC,
    ),
    "a flipped bit of the tag": (
        lambda sim, user, provider: flipped(unsent_data(sim, user, provider), -1),
        DropReason.NOT_AUTHENTIC,
    ),
    "another counter": (
        lambda sim, user, provider: with_header(unsent_data(sim, user, provider), counter=5000),
        DropReason.NOT_AUTHENTIC,
    ),
    "reserved bits that were not sealed": (
        lambda sim, user, provider: with_header(unsent_data(sim, user, provider), reserved=1),
        DropReason.NOT_AUTHENTIC,
    ),
    "a truncated seal": (
        lambda sim, user, provider: Message(
            bytes(Message.decode(unsent_data(sim, user, provider)).payload)[:-1],
            encrypted=True,
            nonce=Message.decode(unsent_data(sim, user, provider)).nonce,
        ).encode(),
        DropReason.NOT_AUTHENTIC,
    ),
    "keys past their life, which are erased": (old_keys, DropReason.NO_SESSION),
    # sealed by the peer itself
    "half a record's head": (bad_batch(b"\1\0\0"), DropReason.BAD_RECORD),
    "a record that goes on": (bad_batch(batch_of(GOOD)[:-1]), DropReason.BAD_RECORD),
    "a good packet and half a record": (bad_batch(batch_of(GOOD) + b"\5"), DropReason.BAD_RECORD),
    "an unknown kind that must be known": (bad_batch(record(127, b"")), DropReason.BAD_RECORD),
    "a short ping": (bad_batch(record(RecordKind.PING, b"short")), DropReason.BAD_RECORD),
    "an empty packet": (bad_batch(batch_of(b"")), DropReason.BAD_PACKET),
    "a header alone": (bad_batch(batch_of(bytes(10))), DropReason.BAD_PACKET),
    "IP version 5": (bad_batch(batch_of(bytes(10) + b"\x55" + GOOD[11:])), DropReason.BAD_PACKET),
    "a packet cut short": (bad_batch(batch_of(GOOD[:-1])), DropReason.BAD_PACKET),
    "a packet with something behind": (bad_batch(batch_of(GOOD + b"x")), DropReason.BAD_PACKET),
    "another's address": (
        bad_batch(batch_of(packet("10.86.0.3", "192.168.50.10"))),
        DropReason.SPOOFED_SOURCE,
    ),
    "our own address": (bad_batch(batch_of(packet("10.86.0.1", "192.168.50.10"))), DropReason.SPOOFED_SOURCE),
    "no address": (bad_batch(batch_of(packet("0.0.0.0", "192.168.50.10"))), DropReason.SPOOFED_SOURCE),
    "an error about another's packet": (
        bad_batch(batch_of(error_about("10.86.0.3"))),
        DropReason.FOREIGN_ERROR,
    ),
    "an error about a packet of ours": (
        bad_batch(batch_of(error_about("192.168.50.10"))),
        DropReason.FOREIGN_ERROR,
    ),
    "an error that quotes nothing": (bad_batch(batch_of(error_about(""))), DropReason.FOREIGN_ERROR),
    "segments of a packet that is none": (
        bad_batch(batch_of(under(offload.HEADER.pack(1, 1, 40, 1400, 20, 16), GOOD))),
        DropReason.BAD_OFFLOAD_HEADER,
    ),
    "a checksum beyond the packet": (
        bad_batch(batch_of(under(offload.HEADER.pack(1, 0, 0, 0, 60000, 16), GOOD))),
        DropReason.BAD_OFFLOAD_HEADER,
    ),
    "an unknown offload type": (
        bad_batch(batch_of(under(offload.HEADER.pack(0, 9, 0, 0, 0, 0), GOOD))),
        DropReason.BAD_OFFLOAD_HEADER,
    ),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_hostile_message_is_counted_by_name_and_harms_nothing(what: str) -> None:
    make, reason = MALFORMED[what]
    sim, user, provider = connected()
    message = make(sim, user, provider)
    before, delivered = count(provider, reason.value), len(provider.delivered)
    others = {name: n for name, n in provider.dropped().items() if name != reason.value}
    sim.inject(str(user.address), str(provider.address), message)
    sim.run(0.001)
    assert count(provider, reason.value) == before + 1
    assert {name: n for name, n in provider.dropped().items() if name != reason.value} == others
    assert len(provider.delivered) == delivered
    assert passes(sim, user, provider)
    assert passes(sim, provider, user)
    assert not user.lost()
    assert not provider.lost()


def test_the_good_packets_of_a_batch_pass_beside_bad_ones() -> None:
    sim, user, provider = connected()
    spoofed = packet("10.86.0.3", "192.168.50.10")
    batch = batch_of(GOOD, spoofed, GOOD[:-1], GOOD) + record(200, b"from a later version") + batch_of(GOOD)
    before = len(provider.delivered)
    sim.inject(str(user.address), str(provider.address), sealed_by(user, provider, batch))
    sim.run(0.001)
    assert provider.delivered[before:] == [GOOD] * 3
    assert (count(provider, "spoofed_source"), count(provider, "bad_packet")) == (1, 1)


def test_an_error_about_a_packet_that_went_to_the_peer_passes() -> None:
    sim, user, provider = connected()
    about = error_about("10.86.0.2")
    sim.inject(str(user.address), str(provider.address), sealed_by(user, provider, batch_of(about)))
    sim.run(0.001)
    assert provider.delivered[-1] == about
    assert count(provider, "foreign_error") == 0


@pytest.mark.parametrize(("kind", "asks"), [(8, False), (0, False), (3, True), (13, True)])
def test_an_echo_passes_without_a_look_for_what_it_quotes(
    monkeypatch: pytest.MonkeyPatch, kind: int, asks: bool
) -> None:
    sim, user, provider = connected()
    made = bytearray(packet("10.86.0.2", "192.168.50.10", b"echo"))
    made[10 + 9] = 1
    made[10 + 20 : 10 + 22] = bytes((kind, 0))
    looks: list[memoryview] = []
    monkeypatch.setattr(icmp, "quoted_destination", looks.append)
    sim.inject(str(user.address), str(provider.address), sealed_by(user, provider, batch_of(bytes(made))))
    sim.run(0.001)
    assert provider.delivered[-1] == bytes(made)
    assert bool(looks) is asks


@pytest.mark.parametrize(
    "source",
    ["0.0.0.1", "127.0.0.1", "224.0.0.1", "169.254.1.1", "240.0.0.1", "255.255.255.255", "::", "::1",
     "::10.86.0.1", "::ffff:10.86.0.1", "fe80::1", "ff02::1"],
)  # fmt: skip
def test_a_peer_s_address_even_if_allowed_is_never_loopback_or_multicast(source: str) -> None:
    """From a peer that may be everything; its other addresses pass."""
    sim, user, provider = connected()
    everything = (ip_network("0.0.0.0/0"), ip_network("::/0"))
    user.tunnel.set_peers([PeerConfig("gpu", provider.address, everything)], sim.now)
    good = from_address("fd50::10" if ":" in source else "192.0.2.1")
    batch = batch_of(from_address(source), good)
    before = len(user.delivered)
    sim.inject(str(provider.address), str(user.address), sealed_by(provider, user, batch))
    sim.run(0.001)
    assert user.delivered[before:] == [good]
    assert count(user, "spoofed_source") == 1


def from_address(source: str) -> bytes:
    """A record of a packet that has nothing but its header."""
    address = ip_address(source)
    if address.version == 4:
        return packet(source, "10.86.0.2")
    return bytes(10) + bytes((0x60, 0, 0, 0, 0, 0, 59, 64)) + address.packed + ip_address("fd86::2").packed


@pytest.mark.parametrize("kind", ["replayed", "forged"])
def test_a_flood_of_refused_handshakes_costs_little_public_key_work(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a peer, or a node that kept them; after a second a genuine one is read again."""
    sim, user, provider = connected()
    made = attempt(user, provider)
    if kind == "replayed":
        flood = captured(sim, user, boxed_ones=True)[0]
    else:
        flood = in_box(user, provider, made.frame[:-1] + b"\0")
    calls = 0
    dh = noise._dh

    def counted(*arguments: Any) -> bytes:
        nonlocal calls
        calls += 1
        return dh(*arguments)

    monkeypatch.setattr(noise, "_dh", counted)
    for _ in range(500):
        provider.receive(str(user.address), flood)
    assert 0 < calls <= 3 * MAX_REFUSED_HANDSHAKES_PER_S
    assert count(provider, "handshake_flood") == 500 - MAX_REFUSED_HANDSHAKES_PER_S
    sim.run(1.0)
    sim.inject(str(user.address), str(provider.address), initiation(user, provider, attempt(user, provider)))
    sim.run(0.001)
    assert provider.peer(user).session.next is not None


def test_a_flood_of_refused_answers_leaves_the_attempt_usable() -> None:
    sim = Simulation()
    user, provider = pair(sim)
    sim.run(0.001)
    made = user.peer(provider).handshake.attempt
    assert made is not None
    head = b"nc\x01\x02" + bytes([CipherSuite.AES256GCM.wire_id]) + bytes(7)
    forged = in_box(provider, user, head + made.local_index.to_bytes(4, "little") + b"\x55" * 80)
    for _ in range(500):
        user.receive(str(provider.address), forged)
    assert count(user, "handshake_refused") == MAX_REFUSED_HANDSHAKES_PER_S
    assert count(user, "handshake_flood") == 500 - MAX_REFUSED_HANDSHAKES_PER_S
    assert user.peer(provider).handshake.attempt is made
    assert sim.run(3, lambda: both_up(user, provider))


@pytest.mark.parametrize("suite", CipherSuite)
def test_nothing_that_is_sent_shows_what_is_in_a_packet(suite: CipherSuite) -> None:
    """Neither what a packet carries nor its addresses; the handshakes show no static key."""
    sim = Simulation()
    user, provider = pair(sim, suite)
    text = b"a question that is nobody else's business"
    whole = packet("10.86.0.2", "192.168.50.10", text)
    user.send_packet(whole, ip("192.168.50.10"))
    assert sim.run(5, lambda: whole in provider.delivered)
    assert captured(sim, user, boxed_ones=True)
    assert captured(sim, user, boxed_ones=False)
    secrets = (text, ip("10.86.0.2") + ip("192.168.50.10"), *(h.identity.dh_public for h in (user, provider)))
    for _, _, payload in sim.sent:
        assert not any(secret in payload for secret in secrets)


def test_an_unknown_sender_costs_no_public_key_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    sim, user, provider = connected()
    genuine = captured(sim, user, boxed_ones=True)[0]

    def costly(*_: object, **__: object) -> None:
        raise AssertionError("a stranger made us work")

    with monkeypatch.context() as patch:
        for name in ("crypto_box_beforenm", "crypto_box_open_easy_afternm", "crypto_sign_open"):
            patch.setattr(bindings, name, costly)
        patch.setattr(noise, "_dh", costly)
        for source in (f"laptop.{bytes(32).hex()}", "x", ""):
            for payload in (genuine, data_message(5, 0, bytes(40)), b"", b"nc\x01\x01"):
                provider.receive(source, payload)
        with pytest.raises(AssertionError, match="a stranger"):  # the patch is in the way of a peer
            provider.receive(str(user.address), genuine)
    assert passes(sim, user, provider)


def test_an_unknown_sender_gets_no_answer_and_makes_no_state() -> None:
    sim, user, provider = connected()
    stranger = Identity(b"\x09" * 32)
    source = f"laptop.{stranger.public_key.hex()}"
    held = len(provider.tunnel.counters())
    genuine = captured(sim, user, boxed_ones=True)[0]
    for payload in (genuine, data_message(5, 0, bytes(40))):
        sent = len(sim.sent)
        sim.inject(source, str(provider.address), payload)
        sim.run(0.001)
        assert len(sim.sent) == sent
    assert provider.tunnel.drops[DropReason.UNKNOWN_PEER] == 2
    assert not provider.tunnel.pending
    assert len(provider.tunnel.counters()) == held
    assert passes(sim, user, provider)


def test_pending_senders_are_remembered_when_wanted_and_bounded() -> None:
    suite = CipherSuite.AES256GCM
    sim, _, provider = connected(provider=Settings(suite, persistent=False, accept_pending=True))
    genuine = captured(sim, provider, boxed_ones=True)[0]
    for number in range(MAX_PENDING_SENDERS + 100):
        for _ in range(2):
            sim.inject(f"{number}.{'ab' * 32}", str(provider.address), genuine)
        sim.run(0.01)
    sim.inject("x" * 5000, str(provider.address), genuine)
    sim.run(0.001)
    pending = provider.tunnel.pending
    assert len(pending) == MAX_PENDING_SENDERS
    assert all(sender.count == 2 and sender.first_at <= sender.last_at for sender in pending)
    assert max(len(sender.address) for sender in pending) < 100


def test_any_source_is_taken_for_data_under_our_index_and_none_for_a_handshake() -> None:
    """A node may say any source; what counts is the key that sealed."""
    sim, user, provider = connected()
    sim.inject(f"__3__.{user.address}", str(provider.address), unsent_data(sim, user, provider))
    sim.run(0.001)
    assert provider.delivered[-1] == GOOD
    sim.inject(
        f"another.{user.identity.public_key.hex()}",
        str(provider.address),
        captured(sim, user, boxed_ones=True)[0],
    )
    sim.run(0.001)
    assert provider.tunnel.drops[DropReason.UNKNOWN_PEER] == 1


def test_an_initiation_from_a_sub_client_is_its_owner_s() -> None:
    sim, user, provider = connected()
    made = attempt(user, provider)
    sim.run(0.1)
    sim.inject(f"__0__.{user.address}", str(provider.address), initiation(user, provider, made))
    sim.run(0.001)
    assert provider.peer(user).session.next is not None


def test_super_packets_pass_only_where_they_were_announced() -> None:
    for features, taken in (
        (Feature.ALL, True),
        (Feature.CHECKSUM | Feature.TSO6, False),
        (Feature(0), False),
    ):
        sim, user, provider = connected(
            provider=Settings(CipherSuite.AES256GCM, features=features, persistent=False)
        )
        record_ = bytes(tcp_super(4000, 1000))
        before = len(provider.delivered)
        sim.inject(str(user.address), str(provider.address), sealed_by(user, provider, batch_of(record_)))
        sim.run(0.001)
        assert (provider.delivered[before:] == [record_]) is taken
        assert count(provider, "bad_offload_header") == (not taken)


def test_many_pings_in_one_batch_are_no_flood_of_answers() -> None:
    sim, user, provider = connected()
    batch = b"".join(record(RecordKind.PING, PING_BODY.pack(n)) for n in range(1000))
    sent = len(sim.sent)
    sim.inject(str(user.address), str(provider.address), sealed_by(user, provider, batch))
    sim.run(0.001)
    assert len(sim.sent) - sent <= 2  # one pong, and a report of what arrived


def test_many_changes_of_links_in_one_batch_are_no_flood_of_probes() -> None:
    """Each would be answered on each of eight lanes: 50,000 messages for one of 320 KB."""
    sim, user, provider = connected()
    links = [{n: number + n for n in range(MAX_LINKS)} for number in range(1, 1000)]
    batch = b"".join(
        record(RecordKind.LINKS, encode_links(number, each)) for number, each in enumerate(links, 2)
    )
    sent = len(sim.sent)
    sim.inject(str(user.address), str(provider.address), sealed_by(user, provider, batch))
    sim.run(0.001)
    assert 1 < len(sim.sent) - sent <= MAX_LINKS + 1


def test_a_pong_that_nobody_asked_for_is_ignored() -> None:
    sim, user, provider = connected()
    rtt_s = provider.peer(user).rtt_s
    batch = record(RecordKind.PONG, PING_BODY.pack(4711))
    sim.inject(str(user.address), str(provider.address), sealed_by(user, provider, batch))
    sim.run(0.001)
    assert provider.peer(user).rtt_s == rtt_s
    assert passes(sim, user, provider)


def test_a_handshake_that_is_far_too_long_is_not_even_opened() -> None:
    sim, user, provider = connected()
    too_long = in_box(user, provider, b"nc\x01\x01" + bytes(100_000))
    sim.inject(str(user.address), str(provider.address), too_long)
    sim.run(0.001)
    assert count(provider, "malformed") == 1
    assert passes(sim, user, provider)


def test_a_batch_larger_than_there_is_room_for_is_refused() -> None:
    sim, user, provider = connected()
    pair = user.peer(provider).session.current
    assert pair is not None
    too_long = data_message(pair.remote_index, pair.counter, bytes(len(provider.opened) + 17))
    sim.inject(str(user.address), str(provider.address), too_long)
    sim.run(0.001)
    assert count(provider, "malformed") == 1
    assert passes(sim, user, provider)


def test_many_reports_in_one_batch_are_read_once() -> None:
    """Each is looked for among all batches under way, up to 4,096 of them."""
    sim, user, provider = connected()
    seen: list[int] = []
    sending = provider.peer(user).relayed.lane.sending
    place_of = type(sending)._place_of

    class Counting(type(sending)):
        __slots__ = ()

        def _place_of(self, index: int, counter: int) -> int | None:
            seen.append(counter)
            return place_of(self, index, counter)

    sending.__class__ = Counting
    body = FEEDBACK_BODY.pack(1, 0, 1 << 40, 0, 0)
    batch = b"".join(record(RecordKind.FEEDBACK, body) for _ in range(1000))
    sim.inject(str(user.address), str(provider.address), sealed_by(user, provider, batch))
    sim.run(0.001)
    assert 0 < len(seen) <= 2  # of each lane, which may be in the list twice
