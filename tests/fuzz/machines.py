"""Targets for the machines: hostile input in every place, and genuine input that must still get through."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from noise.connection import Keypair, NoiseConnection

from nconnect.control.server import ControlServer
from nconnect.crypto.aead import CipherSuite
from nconnect.crypto.keys import Identity
from nconnect.crypto.noise import Initiator, Responder
from nconnect.errors import DropReason, RemoteProtocolError
from nconnect.invite.applicant import Refused
from nconnect.invite.book import Book
from nconnect.invite.desk import Admission
from nconnect.io.http import Credentials, Request
from nconnect.model import NknAddress
from nconnect.nkn.link import Link
from nconnect.tunnel.constants import REPLAY_WINDOW
from nconnect.tunnel.handshake import Attempt
from nconnect.tunnel.replay import ReplayWindow
from nconnect.wire.actions import ClientSet, SetClient
from nconnect.wire.invite import unwrap
from nconnect.wire.nkn import InboundMessage, Message, OutboundMessage
from nconnect.wire.sigchain import login_digest
from tests.control.fake import FakeBackend
from tests.fuzz import oracles
from tests.fuzz.draw import Draw
from tests.invite.examples import (
    DEVICE,
    NOW,
    OTHER,
    OTHER_IDENTITY,
    TOKEN,
    WELCOME,
    Provider,
    applicant,
    asked,
    invitation,
    rng,
)  # fmt: skip
from tests.node.fakes import INFO, NODE, SALT, FakeClient, make_node
from tests.sim.network import Host
from tests.sim.network import packet as genuine_packet
from tests.tunnel.hostile import attempt, batch_of, connected, in_box, initiation, sealed_by

USER, SERVER = "10.86.0.2", "192.168.50.10"
_USES = 1000  # of one tunnel: its keys have a life of 180 s, and each use takes 0.1


class _Tunnel:
    """A provider with a session, made anew after so many inputs."""

    def __init__(self) -> None:
        self.sim, self.user, self.provider = connected()
        self.uses = 0

    @classmethod
    def of(cls, target: str) -> _Tunnel:
        found = _tunnels.get(target)
        if found is None or found.uses > _USES:
            found = _tunnels[target] = cls()
        found.uses += 1
        found.sim.now += 0.1
        found.sim.sent.clear()
        return found

    def count(self, reason: DropReason) -> int:
        return self.provider.dropped().get(reason.value, 0)


_tunnels: dict[str, _Tunnel] = {}


def _changed(data: bytes, draw: Draw) -> bytes:
    """With a few bytes flipped, cut short or grown; perhaps as it was."""
    made = bytearray(data)
    for _ in range(draw.below(4)):
        made[draw.number(2) % len(made)] ^= draw.number()
    return bytes(made[: len(made) - draw.of((0, 0, 0, 1, 16)) or None]) + draw.of((b"", b"", b"\0"))


# --- handshake and session ---


def handshake_machine(data: bytes) -> None:
    """Handshake frames in a genuine box; genuine initiations and responses with bytes changed."""
    used, draw = _Tunnel.of("handshake"), Draw(data)
    user, provider = used.user, used.provider
    peer = provider.peer(user)
    before = len(provider.delivered)

    made = attempt(user, provider)
    frame = _changed(made.frame, draw)
    genuine = _same(frame, made.frame)
    keys, counter = peer.session.next, peer.last_counter
    for payload in (b"nc\x01" + data, b"nc" + data, frame):
        provider.receive(str(user.address), in_box(user, provider, payload))
    assert (peer.session.next is not keys) is genuine, "an initiation that was changed was answered"
    assert (peer.last_counter != counter) is genuine
    if genuine:
        provider.receive(str(user.address), in_box(user, provider, made.frame))
        assert used.count(DropReason.HANDSHAKE_FLOOD), "two at once"

    # The same frame much later is an old one, and one under another key is nobody's.
    used.sim.now += 0.1
    keys = peer.session.next
    provider.receive(str(user.address), in_box(user, provider, made.frame if genuine else frame))
    used.sim.now += 0.1
    provider.receive(str(user.address), in_box(user, provider, _under_another_key(used).frame))
    assert peer.session.next is keys
    _respond(used, draw)
    assert len(provider.delivered) == before


def _under_another_key(used: _Tunnel) -> Attempt:
    stranger = Host(used.sim, used.user.name, 9)
    stranger.tunnel = used.user.tunnel
    return attempt(stranger, used.provider, address=used.user.address)


def _same(frame: bytes, other: bytes) -> bool:
    """Three reserved bytes, and where an answer goes, are under the box's seal alone: the peer's own."""
    return frame[:5] == other[:5] and frame[12:] == other[12:]


def _respond(used: _Tunnel, draw: Draw) -> None:
    """The provider's genuine answer, changed on its way: refused, and the genuine one still fits."""
    user, provider = used.user, used.provider
    peer = user.peer(provider)
    user.tunnel._sessions.initiate(peer, used.sim.now)
    if peer.attempt is None:
        return
    used.sim.sent.clear()
    provider.receive(str(user.address), in_box(user, provider, peer.attempt.frame))
    answers = [payload for sender, _, payload in used.sim.sent if sender == str(provider.address)]
    if not answers:  # both had begun: it waits for its own
        return
    sealed = Message.decode(answers[-1])
    plaintext = peer.box.open(bytes(sealed.payload), sealed.nonce)
    assert plaintext is not None
    frame = plaintext[plaintext.index(b"nc\x01") :].removesuffix(b"\x28\x01")
    keys = peer.session.current
    changed = _changed(frame, draw)
    user.receive(str(provider.address), in_box(provider, user, changed))
    assert (peer.session.current is not keys) is _same(changed, frame)
    if _same(changed, frame):
        return
    user.receive(str(provider.address), in_box(provider, user, frame))
    assert peer.session.current is not keys, "a forged answer spoilt the attempt"
    user.drain()


def session_machine(data: bytes) -> None:
    """Any batch that the peer itself sealed: its own packets come out, once, and nothing else."""
    used, draw = _Tunnel.of("session"), Draw(data)
    user, provider = used.user, used.provider
    if user.peer(provider).session.current is None:
        _tunnels.clear()
        return
    mine = genuine_packet(USER, SERVER, data)
    changed = bytearray(mine)
    for _ in range(draw.below(6)):
        changed[draw.below(38)] = draw.number()
    good = bytes(changed[22:26]) == bytes([10, 86, 0, 2]) and oracles.is_packet(bytes(changed[10:]))
    good = good and changed[10] >> 4 == 4 and oracles.is_offload_sane(bytes(changed))
    for batch, expected in ((data, None), (batch_of(bytes(changed)), [bytes(changed)] if good else [])):
        sealed = sealed_by(user, provider, batch)
        spoilt = _changed(sealed, draw)
        before = len(provider.delivered)
        if spoilt != sealed:
            provider.receive(str(user.address), spoilt)
            assert len(provider.delivered) == before or Message.decode(spoilt) == Message.decode(sealed)
        if len(provider.delivered) == before:
            provider.receive(str(user.address), sealed)
        came = provider.delivered[before:]
        assert expected is None or came == expected
        for record in came:
            assert oracles.is_packet(record[10:])
            assert oracles.is_offload_sane(record)
            assert str(oracles.addresses(record[10:])[0]) == USER
        if (
            user.peer(provider).session.current is not None
            and provider.peer(user).session.current is not None
        ):
            replayed = used.count(DropReason.REPLAYED)
            provider.receive(str(user.address), sealed)
            assert len(provider.delivered) == before + len(came), "delivered twice"
            assert used.count(DropReason.REPLAYED) > replayed
        del provider.delivered[before:]


def message_machine(data: bytes) -> None:
    """Any payload, from the peer and from strangers, who get no answer."""
    used = _Tunnel.of("message")
    provider = used.provider
    before = len(provider.delivered)
    for source in (f"x.{'ab' * 32}", data[:40].decode(errors="replace"), f"__9.{used.user.address}"):
        sent = len(used.sim.sent)
        provider.receive(source, data)
        provider.receive(source, initiation(used.user, provider, attempt(used.user, provider)))
        assert len(used.sim.sent) == sent or provider.tunnel._peer_at(source) is not None, (
            "a stranger was answered"
        )
    provider.receive(str(used.user.address), data)
    assert len(provider.delivered) == before


def replay_windows(data: bytes) -> None:
    """Each counter once, and none that is too old: beside a set of all that were marked."""
    draw, window = Draw(data), ReplayWindow()
    marked: set[int] = set()
    base = draw.number(8)
    while draw:
        step = draw.number(2)
        jump = draw.of((63, 64, 8128, 8191, 8192, 8193, 8256))
        base += draw.of((0, 1, -1, step, -step, jump))
        counter = max(0, base)
        newest = max(marked, default=-1)
        fresh = counter not in marked and counter > newest - REPLAY_WINDOW
        assert window.is_fresh(counter) is fresh, (counter, newest)
        if fresh:
            window.mark(counter)
            marked.add(counter)


_NAMES = {
    CipherSuite.AES256GCM: b"Noise_IKpsk2_25519_AESGCM_SHA256",
    CipherSuite.CHACHA20POLY1305: b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s",
}
_ALICE, _BOB = Identity(b"\x01" * 32), Identity(b"\x02" * 32)


def noise_messages(data: bytes) -> None:
    """Against an independent implementation; what was changed on its way is refused, and spoils nothing."""
    draw = Draw(data)
    suite = draw.of(tuple(CipherSuite))
    ours_starts, flips = draw.flag(), Draw(draw.take(10))
    psk, prologue, first, second = draw.take(4) * 8, draw.piece(20), draw.piece(40), draw.piece(40)
    theirs = NoiseConnection.from_name(_NAMES[suite])
    theirs.set_psks(psk)
    theirs.set_prologue(prologue)
    own = _BOB if ours_starts else _ALICE
    theirs.set_keypair_from_private_bytes(Keypair.STATIC, own.dh_private)
    ephemeral = Identity(b"e" * 32).dh_private
    if ours_starts:
        theirs.set_as_responder()
        theirs.start_handshake()
        start = Initiator(
            suite, _ALICE.dh_private, _BOB.dh_public, rng=lambda _: ephemeral, psk=psk, prologue=prologue
        )
        assert theirs.read_message(start.write_initiation(first)) == first
        answer = bytes(theirs.write_message(second))
        _refused_when_changed(start.read_response, answer, flips)
        assert start.read_response(answer) == second
        send, receive = start.split()
        digest = start.handshake_hash
    else:
        theirs.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, _BOB.dh_public)
        theirs.set_as_initiator()
        theirs.start_handshake()
        end = Responder(suite, _BOB.dh_private, rng=lambda _: ephemeral, psk=psk, prologue=prologue)
        message = bytes(theirs.write_message(first))
        _refused_when_changed(end.read_initiation, message, flips)
        assert end.read_initiation(message) == (_ALICE.dh_public, first)
        assert theirs.read_message(end.write_response(second)) == second
        send, receive = end.split()
        digest = end.handshake_hash
    assert theirs.get_handshake_hash() == digest
    assert theirs.decrypt(suite.aead(send).seal(0, b"", b"up")) == b"up"
    assert suite.aead(receive).open(0, b"", theirs.encrypt(b"down")) == b"down"


def _refused_when_changed(read: Callable[[bytes], object], message: bytes, draw: Draw) -> None:
    changed = _changed(message, draw)
    low_order = draw.of((bytes(32), b"\x01" + bytes(31))) + message[32:]
    for other in (changed, low_order):
        # The top bit of a public key is not part of it, but of what is hashed: it must matter too.
        if other != message:
            try:
                read(other)
            except RemoteProtocolError:
                continue
            raise AssertionError("a message that was changed was taken")


# --- node and link ---


def node_machine(data: bytes) -> None:
    """Frames and actions of a client that has logged in, and of one that has not; others get through."""
    node = make_node()
    alice, bob, stranger = (
        FakeClient(node).log_in(),
        FakeClient(node, "bob", b"b" * 32).log_in(),
        FakeClient(node, "eve", b"e" * 32),
    )
    draw, now = Draw(data), 0.0
    while draw:
        who, kind = draw.of((alice, stranger)), draw.below(6)
        part = draw.piece(200)
        if kind == 3:
            name = draw.of((bob.address, "bob", part.decode("latin-1")))
            part = OutboundMessage((name,) * (1 + draw.below(3)), (part,)).encode()
        elif kind == 4:
            part = _login(stranger, draw).encode().encode()
        if who.transport.closed is None:
            (who.text if kind in (1, 4) else who.binary)(part, now)
        now += draw.below(16) * 0.1
        node.handle_timeout(now)
    assert not stranger.transport.frames, "who is not logged in gets nothing"
    assert all(text.get("Action") != "setClient" or text.get("Error") for text in stranger.transport.texts)
    for message in bob.received():
        assert message.src == alice.address, "a client spoke in another's name"
    assert not alice.received() or {message.src for message in alice.received()} == {alice.address}
    if now < 5 and bob.transport.closed is None:
        carol = FakeClient(node, "carol", b"c" * 32, now).log_in(now)
        carol.send(bob.address, b"hello", now=now)
        assert bob.payloads()[-1:] == [b"hello"]


def _login(client: FakeClient, draw: Draw) -> SetClient:
    """A login with one thing wrong in it."""
    signature = client.identity.sign(login_digest(client.challenge, SALT))
    good = SetClient(client.address, SALT, signature)
    other = Identity(b"a" * 32)
    return draw.of(
        (
            dataclasses.replace(good, address=f"alice.{other.public_key.hex()}"),
            dataclasses.replace(good, salt=b"t" * 32),
            dataclasses.replace(good, signature=bytes(64)),
            dataclasses.replace(good, signature=other.sign(login_digest(client.challenge, SALT))),
            dataclasses.replace(good, signature=client.identity.sign(login_digest(bytes(32), SALT))),
        )
    )


def link_machine(data: bytes) -> None:
    """What a node says to a client that has just connected, at every step of the login."""
    link = Link(
        NODE, NknAddress("x", NODE.public_key), ("http://192.0.2.1:30003",), now=0.0, rng=lambda n: bytes(n)
    )
    link.start(0.0)
    _drain(link)
    link.resolved(INFO, 0.0, seed="http://192.0.2.1:30003")
    _drain(link)
    link.connected(0.0)
    _drain(link)
    draw, now = Draw(data), 0.0
    challenged = False
    while draw:
        what, node = draw.below(8), None
        if what == 6 and not challenged:
            text, challenged = b'{"Action":"authChallenge","Challenge":"' + b"33" * 32 + b'"}', True
        elif what == 7:
            node = draw.of((INFO, None, dataclasses.replace(INFO, public_key="ab" * 32)))
            text = ClientSet(node, b"\x01").encode().encode()
        else:
            text = draw.piece(200)
        is_text = what & 1 or what >= 6
        frame = InboundMessage("a", text).encode() if what == 2 else text
        message = (link.receive_text if is_text else link.receive_binary)(text if is_text else frame, now)
        names = _drain(link)
        if "LinkUp" in names:
            assert challenged, "up without a login"
            assert node in (None, INFO), "up at a node of another key"
        if message is not None:
            assert challenged, "a message before the login was asked for"
            assert what != 2 or bytes(message.payload) == text
        now += draw.below(16) * 0.1
        if "Disconnect" in names or "LinkDown" in names:
            return


def _drain(link: Link) -> list[str]:
    """Take all it wants done."""
    names = []
    while (output := link.poll_output()) is not None:
        names.append(type(output).__name__)
    return names


# --- control socket, invitations ---


def control_machine(data: bytes) -> None:
    """Any request of root's: answered in JSON, and never by a mistake of ours; of others': refused."""
    draw = Draw(data)
    paths = (
        "/v1/status",
        "/v1/wait",
        "/v1/ping",
        "/v1/pending",
        "/v1/reload",
        "/v1/down",
        "/",
        draw.text(20),
    )
    head, _, body = data.partition(b"\n")
    method, _, target = head.decode(errors="replace").partition(" ")
    seconds = draw.of(("-1", "nan", "inf", "1e999", "1", "x", "1e9"))
    content = draw.of(
        ({"peer": "laptop"}, {"peer": "laptop", "timeout_s": draw.of((1, True, "1", None, [], -1))})
    )
    backend = FakeBackend(Path("/nowhere"))
    server = ControlServer(backend, uid=1000)
    own = Credentials(1, draw.of((0, 1000)), 0)
    likely = f"{draw.of(paths)}?timeout_s={seconds}"
    for request in (
        Request(method, target, (), body, "", own),
        Request(draw.of(("GET", "POST")), likely, (), json.dumps(content).encode(), "", own),
    ):
        response = asyncio.run(server.handle(request))
        assert response.status in (200, 400, 404, 405, 409, 504), response
        json.loads(response.body)
        asked_so_far = len(backend.asked)
        for credentials in (None, Credentials(1, draw.of((1, 999, 65534)), 0)):
            refused = asyncio.run(server.handle(dataclasses.replace(request, credentials=credentials)))
            assert refused.status == 403
            assert len(backend.asked) == asked_so_far, "somebody else was served"
    for entry in backend.asked:
        assert not isinstance(entry, tuple) or 0 <= entry[-1] <= 1e6


def invitation_machine(data: bytes) -> None:
    """Applications and answers with bytes changed, of others, too late: none lets anybody in."""
    draw = Draw(data)
    state = draw.below(4)
    book = invitation(expires_at=NOW - 1 if state == 1 else NOW + 3600)
    provider = Provider(book)
    if state == 2:
        provider.book.revoke("laptop", NOW)
    device = applicant()
    genuine = asked(device)
    thief = applicant(dataclasses.replace(TOKEN, secret=draw.take(16)), OTHER_IDENTITY, OTHER)
    for payload, source in (
        (data, DEVICE), (asked(thief), OTHER), (genuine, OTHER),
        (asked(applicant(TOKEN, OTHER_IDENTITY, DEVICE)), DEVICE),
    ):  # fmt: skip
        judged = provider.judge(payload, source)
        is_told = (
            state in (1, 2) and payload not in (data, genuine) and source is DEVICE
        )  # it holds the token
        assert judged is None or (is_told and isinstance(judged, bytes)), "let in, or answered"
    message = Message.decode(genuine)
    changed = _changed(bytes(message.payload), draw)
    if changed != bytes(message.payload):
        judged = provider.judge(Message(changed).encode())
        # What is around the application, such as the message's id, is not part of it.
        assert judged is None or unwrap(changed) == unwrap(message.payload)
    judged = provider.judge(genuine)
    if state in (1, 2):
        assert isinstance(judged, bytes)
        return
    assert isinstance(judged, Admission), "the genuine one is let in"
    grant = judged.grant(WELCOME, rng(3))
    answer = Message.decode(grant)
    spoilt = _changed(bytes(answer.payload), draw)
    try:
        for source, payload in ((DEVICE, grant), (OTHER, grant)):
            assert device.receive(str(source), payload) is None
        if spoilt != bytes(answer.payload):
            got = device.receive(device.dest, Message(spoilt).encode())
            assert got is None or got == WELCOME
            if got is not None:
                return
        assert device.receive(device.dest, data) is None
    except Refused:
        raise AssertionError("a forged refusal was believed") from None
    assert device.receive(device.dest, grant) == WELCOME
    assert isinstance(provider.book, Book)


MACHINES = (
    handshake_machine, session_machine, message_machine, replay_windows, noise_messages, node_machine,
    link_machine, control_machine, invitation_machine,
)  # fmt: skip
