"""Targets for handshakes and sessions: hostile input, beside genuine input that must still get through."""

from __future__ import annotations

from collections.abc import Callable

from noise.connection import Keypair, NoiseConnection

from nconnect.crypto.aead import CipherSuite, ReplayWindow
from nconnect.crypto.keys import Identity
from nconnect.crypto.noise import Initiator, Responder
from nconnect.errors import DropReason, RemoteProtocolError
from nconnect.tunnel.constants import REPLAY_WINDOW
from nconnect.tunnel.handshake import Attempt
from nconnect.wire.message import Message
from tests.fuzz import oracles
from tests.fuzz.draw import Draw
from tests.sim.network import Host
from tests.sim.network import packet as genuine_packet
from tests.tunnel.hostile import attempt, batch_of, connected, in_box, initiation, sealed_by

USER, SERVER = "10.86.0.2", "192.168.50.10"
_USES = 150  # of one tunnel: its keys have a life of 180 s, and each use takes 1.0 and up to 0.2


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
        found.sim.now += 1.0  # so that no input suffers by what was refused of those before it
        found.sim.sent.clear()
        return found

    def count(self, reason: DropReason) -> int:
        return self.provider.dropped().get(reason.value, 0)


_tunnels: dict[str, _Tunnel] = {}


# --- handshake and session ---


def handshake_machine(data: bytes) -> None:
    """Handshake frames in a genuine box; genuine initiations and responses with bytes changed."""
    used, draw = _Tunnel.of("handshake"), Draw(data)
    user, provider = used.user, used.provider
    peer = provider.peer(user)
    before = len(provider.delivered)

    made = attempt(user, provider)
    frame = draw.changed(made.frame)
    genuine = _same(frame, made.frame)
    keys, counter = peer.session.next, peer.handshake.last_counter
    for payload in (b"nc\x01" + data, b"nc" + data, frame):
        provider.receive(str(user.address), in_box(user, provider, payload))
    assert (peer.session.next is not keys) is genuine, "an initiation that was changed was answered"
    assert (peer.handshake.last_counter != counter) is genuine
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
    user.tunnel._sessions.handshakes.initiate(peer, used.sim.now)
    if peer.handshake.attempt is None:
        return
    used.sim.sent.clear()
    provider.receive(str(user.address), in_box(user, provider, peer.handshake.attempt.frame))
    answers = [payload for sender, _, payload in used.sim.sent if sender == str(provider.address)]
    if not answers:  # both had begun: it waits for its own
        return
    sealed = Message.decode(answers[-1])
    plaintext = peer.handshake.box.open(bytes(sealed.payload), sealed.nonce)
    assert plaintext is not None
    frame = plaintext[plaintext.index(b"nc\x01") :].removesuffix(b"\x28\x01")
    keys = peer.session.current
    changed = draw.changed(frame)
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
    mine = genuine_packet(USER, SERVER, data)
    changed = bytearray(mine)
    for _ in range(draw.below(6)):
        changed[draw.below(38)] = draw.number()
    good = bytes(changed[22:26]) == bytes([10, 86, 0, 2]) and oracles.is_packet(bytes(changed[10:]))
    good = good and changed[10] >> 4 == 4 and oracles.is_offload_sane(bytes(changed))
    for batch, expected in ((data, None), (batch_of(bytes(changed)), [bytes(changed)] if good else [])):
        sealed = sealed_by(user, provider, batch)
        spoilt = draw.changed(sealed)
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
        del provider.delivered[before:]
        if provider.peer(user).session.current is None:  # the batch was a goodbye
            del _tunnels["session"]
            return
        replayed = used.count(DropReason.REPLAYED)
        provider.receive(str(user.address), sealed)
        assert len(provider.delivered) == before, "delivered twice"
        assert used.count(DropReason.REPLAYED) > replayed


def message_machine(data: bytes) -> None:
    """Any payload, from the peer and from strangers, who get no answer."""
    used = _Tunnel.of("message")
    provider = used.provider
    before = len(provider.delivered)
    for source in (f"x.{'ab' * 32}", data[:40].decode(errors="replace"), f"__9.{used.user.address}"):
        sent = len(used.sim.sent)
        provider.receive(source, data)
        provider.receive(source, initiation(used.user, provider, attempt(used.user, provider)))
        assert len(used.sim.sent) == sent or provider.tunnel.receiver._peer_at(source) is not None, (
            "a stranger was answered"
        )
    provider.receive(str(used.user.address), data)
    assert len(provider.delivered) == before


def replay_windows(data: bytes) -> None:
    """Each counter once, and none that is too old: beside a set of all that were marked."""
    draw, window = Draw(data), ReplayWindow(REPLAY_WINDOW)
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
    changed = draw.changed(message)
    low_order = draw.of((bytes(32), b"\x01" + bytes(31))) + message[32:]
    for other in (changed, low_order):
        # The top bit of a public key is not part of it, but of what is hashed: it must matter too.
        if other != message:
            try:
                read(other)
            except RemoteProtocolError:
                continue
            raise AssertionError("a message that was changed was taken")
