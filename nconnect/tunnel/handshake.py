"""The two handshake messages, built on Noise_IKpsk2, and the key pair that comes out of them.

What must hold for each message, in the order of the checks. A refusal drops that message alone and leaves an
attempt of ours usable, so that a forged message cannot prevent a genuine answer:

    message     sender                     content
    initiation  a peer of the table        its Noise static key is the key in its NKN address;
                                           Hello.counter is above every earlier one of this peer
    response    the peer we asked          receiver is our attempt's index; it decrypts under that attempt
"""

from __future__ import annotations

from dataclasses import dataclass

from nconnect.crypto.aead import CipherSuite
from nconnect.crypto.keys import Box, Identity
from nconnect.crypto.noise import NO_PSK, Initiator, Responder
from nconnect.errors import RemoteProtocolError
from nconnect.model import NknAddress, Rng
from nconnect.tunnel.session import KeyPair
from nconnect.wire.message import Message, Payload, PayloadType
from nconnect.wire.tunnel import FrameKind, HandshakeFrame, Hello


def prologue(initiator: NknAddress, responder: NknAddress) -> bytes:
    """What both sides mix in first: the protocol, and who talks to whom, by bare NKN address."""
    return b"\0".join((b"nconnect 1", str(initiator).encode(), str(responder).encode()))


def boxed(box: Box, frame: bytes, rng: Rng) -> bytes:
    """A handshake frame as an ordinary encrypted NKN message that wants no reply."""
    payload = Payload(PayloadType.BINARY, message_id=rng(8), data=frame, no_reply=True).encode()
    nonce = rng(24)
    return Message(box.seal(payload, nonce), encrypted=True, nonce=nonce).encode()


class Attempt:
    """Our initiation under way."""

    def __init__(
        self,
        *,
        identity: Identity,
        address: NknAddress,
        peer: NknAddress,
        peer_dh_key: bytes,
        preshared_key: bytes | None,
        suite: CipherSuite,
        local_index: int,
        hello: Hello,
        started_at: float,
        rng: Rng,
    ) -> None:
        self.local_index = local_index
        self.started_at = started_at
        self._suite = suite
        self._noise = Initiator(
            suite,
            identity.dh_private,
            peer_dh_key,
            psk=preshared_key or NO_PSK,
            prologue=prologue(address, peer),
            rng=rng,
        )
        noise = self._noise.write_initiation(hello.encode())
        self.frame = HandshakeFrame(FrameKind.INITIATION, suite.wire_id, local_index, 0, noise).encode()

    def finish(self, frame: HandshakeFrame, now: float) -> tuple[KeyPair, Hello]:
        """Read the response. Raises `RemoteProtocolError`; the attempt then still stands."""
        if frame.suite != self._suite.wire_id:
            raise RemoteProtocolError("a response under another cipher suite")
        hello = Hello.decode(self._noise.read_response(frame.noise))
        keys = self._noise.split()
        pair = KeyPair(self._suite, keys, self.local_index, frame.sender, initiator=True, now=now)
        return pair, hello


@dataclass(frozen=True, slots=True)
class Initiation:
    """A peer's initiation that decrypts and names the right key; not yet answered."""

    frame: HandshakeFrame
    suite: CipherSuite
    hello: Hello
    noise: Responder

    def answer(
        self, *, preshared_key: bytes | None, local_index: int, hello: Hello, now: float
    ) -> tuple[KeyPair, bytes]:
        """The key pair, and the response's frame."""
        self.noise.set_psk(preshared_key or NO_PSK)
        noise = self.noise.write_response(hello.encode())
        keys = self.noise.split()
        pair = KeyPair(self.suite, keys, local_index, self.frame.sender, initiator=False, now=now)
        response = HandshakeFrame(FrameKind.RESPONSE, self.frame.suite, local_index, self.frame.sender, noise)
        return pair, response.encode()


def read_initiation(
    frame: HandshakeFrame,
    *,
    identity: Identity,
    address: NknAddress,
    peer: NknAddress,
    peer_dh_key: bytes,
    rng: Rng,
) -> Initiation:
    """Read a peer's initiation; raises `RemoteProtocolError` when it is not that peer's."""
    suite = CipherSuite.of_wire_id(frame.suite)
    if suite is None:
        raise RemoteProtocolError(f"an initiation under unknown cipher suite {frame.suite}")
    noise = Responder(suite, identity.dh_private, prologue=prologue(peer, address), rng=rng)
    their_key, payload = noise.read_initiation(frame.noise)
    if their_key != peer_dh_key:
        raise RemoteProtocolError("an initiation under another key than its sender's address holds")
    return Initiation(frame, suite, Hello.decode(payload), noise)
