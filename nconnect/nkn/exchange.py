"""Messages, replies and ACKs between two clients, in sealed envelopes. Pure.

    message   has an id of 8 random bytes
    reply     has no id; its `reply_to_id` is the message's id
    ACK       as a reply, without content: the message arrived, and there is no reply

Nothing that arrives raises an error: it becomes an `Incoming`, `IncomingAnswer` or counted `MessageDrop`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from nconnect.crypto.keys import Identity, InvalidKey
from nconnect.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from nconnect.model import MAX_ADDRESS_CHARS, Buffer, NknAddress, Rng
from nconnect.nkn.envelope import Batch, Envelopes
from nconnect.nkn.recent import RecentIds
from nconnect.wire.message import Message, Payload, PayloadType, TextData

ID_BYTES = 8  # the official SDKs' message ids
MAX_PARSED = 1024  # that are kept parsed; guessed: as many as shared keys
MAX_ID_BYTES = 64  # guessed: longer ones are refused, since they are remembered and sent back


class MessageDrop(Enum):
    """Why a message that arrived was not delivered. Values are the names in `Client.drops`."""

    MALFORMED = "malformed"  # no message of NKN's, or from no address
    NOT_AUTHENTIC = "not_authentic"  # not sealed by who it says it is from, or not for us
    UNENCRYPTED = "unencrypted"  # in the clear, which was not asked for
    DUPLICATE = "duplicate"  # another copy came before
    UNEXPECTED_ANSWER = "unexpected_answer"  # to no message that waits, or from somebody else
    SESSION = "session"  # of a stream (NCP), to a client that has none
    INBOX_FULL = "inbox_full"  # more waits to be received than may


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message from another client."""

    src: NknAddress
    data: str | bytes
    id: bytes
    encrypted: bool
    no_reply: bool  # the sender waits for no answer


@dataclass(frozen=True, slots=True)
class IncomingAnswer:
    """A reply, or an ACK (`data` None), to our message `to_id`."""

    src: NknAddress
    to_id: bytes
    dest: NknAddress  # the destination, as it was given to `expect`, that answered
    data: str | bytes | None
    encrypted: bool


@dataclass(frozen=True, slots=True)
class IncomingPacket:
    """A packet of a stream (`nconnect.ncp`)."""

    src: NknAddress
    session_id: bytes
    data: Buffer


class Exchange:
    """One client's side of all its conversations. Times are CLOCK_BOOTTIME seconds."""

    def __init__(self, identity: Identity, *, rng: Rng, accept_unencrypted: bool = False) -> None:
        self.drops = dict.fromkeys(MessageDrop, 0)
        self._envelopes = Envelopes(identity, rng=rng)
        self._rng = rng
        self._accept_unencrypted = accept_unencrypted
        self._recent = RecentIds()
        self._expected: dict[bytes, _Expected] = {}

    # Sending

    def message_id(self) -> bytes:
        return self._rng(ID_BYTES)

    def expect(self, id: bytes, dests: Sequence[NknAddress], *, encrypted: bool) -> None:
        """Let each of `dests` answer message `id` once; in the clear only if it was sent so."""
        self._expected[id] = _Expected(set(dests), encrypted)

    def forget(self, id: bytes) -> None:
        """Stop waiting for answers to `id`."""
        self._expected.pop(id, None)

    def message(
        self, dests: Sequence[NknAddress], data: str | Buffer, *, id: bytes, encrypt: bool, no_reply: bool
    ) -> Iterator[Batch]:
        """Raises `TooBig`, `LocalProtocolError`; and `ConfigError` while it is iterated."""
        kind, content = _content(data)
        payload = Payload(kind, id, content, no_reply=no_reply)
        return self._envelopes.batches(dests, payload.encode(), encrypt=encrypt)

    def reply(self, to: Incoming, dest: NknAddress, data: str | Buffer) -> Iterator[Batch]:
        kind, content = _content(data)
        payload = Payload(kind, data=content, reply_to_id=to.id)
        return self._envelopes.batches((dest,), payload.encode(), encrypt=to.encrypted)

    def ack(self, to: Incoming, dest: NknAddress) -> Iterator[Batch]:
        payload = Payload(PayloadType.ACK, reply_to_id=to.id)
        return self._envelopes.batches((dest,), payload.encode(), encrypt=to.encrypted)

    def packet(self, dest: NknAddress, session_id: bytes, packet: bytes) -> tuple[bytes, bytes]:
        """A packet of a stream, sealed: the parts of the message. Raises `ConfigError`."""
        return self._envelopes.seal_parts(dest, Payload(PayloadType.SESSION, session_id, packet).encode())

    # Receiving

    def receive(
        self, src: str, data: Buffer, now: float, *, has_room: bool
    ) -> Incoming | IncomingAnswer | IncomingPacket | None:
        """Read a message; None: counted in `drops`. `has_room`: whether the inbox takes one more.

        `data` is borrowed; what is returned is not.
        """
        found = self._read(src, data, now, has_room)
        if isinstance(found, MessageDrop):
            self.drops[found] += 1
            return None
        return found

    def _read(
        self, src: str, data: Buffer, now: float, has_room: bool
    ) -> Incoming | IncomingAnswer | IncomingPacket | MessageDrop:
        try:
            sender = _address(src)
            message = Message.decode(data)
            plain: Buffer | None = message.payload
            if message.encrypted:
                plain = self._envelopes.open(sender.public_key, message)
            if plain is None:
                return MessageDrop.NOT_AUTHENTIC
            payload = Payload.decode(plain)
            content = None if payload.type is PayloadType.SESSION else _text_or_bytes(payload)
        except InvalidKey:
            return MessageDrop.NOT_AUTHENTIC
        except RemoteProtocolError:
            return MessageDrop.MALFORMED
        if len(payload.message_id) > MAX_ID_BYTES or len(payload.reply_to_id) > MAX_ID_BYTES:
            return MessageDrop.MALFORMED
        if payload.type is PayloadType.SESSION:
            if not message.encrypted:  # the official SDKs refuse it as well
                return MessageDrop.UNENCRYPTED
            if not payload.message_id:
                return MessageDrop.MALFORMED
            return IncomingPacket(sender, payload.message_id, payload.data)
        if payload.type is PayloadType.ACK or payload.reply_to_id:
            return self._answer(sender, payload.reply_to_id, content, message.encrypted, now)
        if not message.encrypted and not self._accept_unencrypted:
            return MessageDrop.UNENCRYPTED
        assert content is not None
        if not has_room:
            return MessageDrop.INBOX_FULL  # not remembered, because another copy may find room
        if payload.message_id and not self._recent.add(str(sender.bare), payload.message_id, now):
            return MessageDrop.DUPLICATE
        return Incoming(sender, content, payload.message_id, message.encrypted, payload.no_reply)

    def _answer(
        self, sender: NknAddress, to_id: bytes, data: str | bytes | None, encrypted: bool, now: float
    ) -> IncomingAnswer | MessageDrop:
        who = f"answer {sender.bare}"
        expected = self._expected.get(to_id)
        dest = None if expected is None else expected.match(sender)
        if expected is None or dest is None:
            known = self._recent.has(who, to_id, now)
            return MessageDrop.DUPLICATE if known else MessageDrop.UNEXPECTED_ANSWER
        if expected.encrypted and not encrypted:
            return MessageDrop.UNENCRYPTED
        self._recent.add(who, to_id, now)
        expected.dests.remove(dest)
        return IncomingAnswer(sender, to_id, dest, data, encrypted)


@dataclass(frozen=True, slots=True)
class _Expected:
    dests: set[NknAddress]  # those that did not answer yet
    encrypted: bool

    def match(self, sender: NknAddress) -> NknAddress | None:
        """Which destination this is: itself, or the client whose sub-client it is."""
        for dest in (sender, sender.bare):
            if dest in self.dests:
                return dest
        return None


def _content(data: str | Buffer) -> tuple[PayloadType, bytes]:
    if not isinstance(data, str):
        return PayloadType.BINARY, bytes(data)
    try:
        return PayloadType.TEXT, TextData(data).encode()
    except UnicodeEncodeError:
        raise LocalProtocolError("a text with half of a surrogate pair cannot be sent") from None


def _text_or_bytes(payload: Payload) -> str | bytes | None:
    """A copy of the content; None for an ACK. Raises `RemoteProtocolError`."""
    if payload.type is PayloadType.TEXT:
        return TextData.decode(payload.data).text
    return None if payload.type is PayloadType.ACK else bytes(payload.data)


@lru_cache(MAX_PARSED)
def _address(src: str) -> NknAddress:
    try:
        address = NknAddress.parse(src) if len(src) <= MAX_ADDRESS_CHARS else None
    except ConfigError:
        address = None
    if address is None or str(address) != src:
        raise RemoteProtocolError("a message that is from no address")
    return address
