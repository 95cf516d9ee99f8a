"""The frames of an invitation's exchange (docs/protocol.md, "Invitations").

Each is the data of an unencrypted NKN payload of type BINARY: the provider does not know the device yet, and
must be able to refuse a stranger without a public-key operation. Secrets are inside the Noise messages.

    0     2        3     4          12
    | "nc"| version| kind| token id | MAC 16    | Noise message 1    application: device to provider
    | "nc"| version| kind| token id | Noise message 2                grant: provider to device
    | "nc"| version| kind| token id | reason u8 | MAC 16             refusal: provider to device

A MAC is BLAKE2s, keyed with a key derived from the token's secret, over the domain, both bare NKN addresses,
the token id and the frame's content. A refusal's MAC also covers the MAC of the application that it answers.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from enum import IntEnum

from nconnect.errors import RemoteProtocolError
from nconnect.model import Buffer
from nconnect.wire.message import Message, Payload, PayloadType
from nconnect.wire.tunnel import MAGIC, VERSION

TOKEN_ID_BYTES = 8
MAC_BYTES = 16
MAX_INVITE_BYTES = 8192  # guessed: a grant that names a hundred subnets has 3 KB

_HEAD = struct.Struct("<2sBB8s")
_DOMAIN = b"nconnect join 1"


class InviteKind(IntEnum):
    """The kind byte; 0 to 2 are the tunnel's (`nconnect.wire.tunnel.FrameKind`)."""

    APPLICATION = 3
    GRANT = 4
    REFUSAL = 5


class Reason(IntEnum):
    """Why a provider refuses a device that holds one of its tokens."""

    USED = 1
    EXPIRED = 2
    REVOKED = 3
    FAILED = 4  # it could not add the peer; its log says why


@dataclass(frozen=True, slots=True)
class Application:
    token_id: bytes
    mac: bytes
    noise: bytes

    def encode(self) -> bytes:
        return _HEAD.pack(MAGIC, VERSION, InviteKind.APPLICATION, self.token_id) + self.mac + self.noise

    @classmethod
    def sealed(cls, mac_key: bytes, device: str, provider: str, token_id: bytes, noise: bytes) -> Application:
        """An application with its MAC."""
        return cls(token_id, _application_mac(mac_key, device, provider, token_id, noise), noise)

    def is_authentic(self, mac_key: bytes, device: str, provider: str) -> bool:
        expected = _application_mac(mac_key, device, provider, self.token_id, self.noise)
        return hmac.compare_digest(self.mac, expected)


@dataclass(frozen=True, slots=True)
class Grant:
    token_id: bytes
    noise: bytes

    def encode(self) -> bytes:
        return _HEAD.pack(MAGIC, VERSION, InviteKind.GRANT, self.token_id) + self.noise


@dataclass(frozen=True, slots=True)
class Refusal:
    token_id: bytes
    reason: int  # a `Reason`, or one of a later version
    mac: bytes

    def encode(self) -> bytes:
        head = _HEAD.pack(MAGIC, VERSION, InviteKind.REFUSAL, self.token_id)
        return head + bytes([self.reason]) + self.mac

    @classmethod
    def sealed(
        cls, mac_key: bytes, device: str, provider: str, asked: Application, reason: Reason
    ) -> Refusal:
        """The answer to `asked`, with its MAC."""
        return cls(asked.token_id, reason, _refusal_mac(mac_key, device, provider, asked, reason))

    def is_authentic(self, mac_key: bytes, device: str, provider: str, asked: Application) -> bool:
        expected = _refusal_mac(mac_key, device, provider, asked, self.reason)
        return hmac.compare_digest(self.mac, expected)


Frame = Application | Grant | Refusal


def wrap(frame: Frame, message_id: bytes) -> bytes:
    """The frame as the payload of an NKN message, unencrypted, that wants no reply."""
    payload = Payload(PayloadType.BINARY, message_id=message_id, data=frame.encode(), no_reply=True)
    return Message(payload.encode()).encode()


def unwrap(content: Buffer) -> Frame | None:
    """The frame in an unencrypted NKN message's payload (`Message.payload`); None if it contains none.

    Raises `RemoteProtocolError` if it begins like a frame and is malformed.
    """
    if len(content) > MAX_INVITE_BYTES + 64:
        return None
    try:
        payload = Payload.decode(content)
    except RemoteProtocolError:
        return None
    data = bytes(payload.data)
    if payload.type is not PayloadType.BINARY or data[:2] != MAGIC:
        return None
    return decode(data)


def decode(data: bytes) -> Frame | None:
    """Read a frame; None when it is of another version or kind. Raises `RemoteProtocolError`."""
    if len(data) < _HEAD.size or len(data) > MAX_INVITE_BYTES:
        raise RemoteProtocolError("a join frame of an impossible size")
    _, version, kind, token_id = _HEAD.unpack_from(data)
    rest = data[_HEAD.size :]
    if data[:2] != MAGIC or version != VERSION:
        return None
    if kind == InviteKind.APPLICATION:
        if len(rest) <= MAC_BYTES:
            raise RemoteProtocolError("an application that is too short")
        return Application(token_id, rest[:MAC_BYTES], rest[MAC_BYTES:])
    if kind == InviteKind.GRANT:
        return Grant(token_id, rest)
    if kind == InviteKind.REFUSAL:
        if len(rest) != 1 + MAC_BYTES:
            raise RemoteProtocolError("a refusal of an impossible size")
        return Refusal(token_id, rest[0], rest[1:])
    return None


def _application_mac(key: bytes, device: str, provider: str, token_id: bytes, noise: bytes) -> bytes:
    return _mac(key, InviteKind.APPLICATION, device, provider, token_id, noise)


def _refusal_mac(key: bytes, device: str, provider: str, asked: Application, reason: int) -> bytes:
    return _mac(key, InviteKind.REFUSAL, device, provider, asked.token_id, asked.mac + bytes([reason]))


def _mac(key: bytes, kind: InviteKind, device: str, provider: str, token_id: bytes, said: bytes) -> bytes:
    # Addresses contain no zero byte, and the part of variable length comes last: the encoding is injective.
    text = b"\0".join((_DOMAIN, device.encode(), provider.encode(), bytes([kind]) + token_id + said))
    return hashlib.blake2s(text, key=key, digest_size=MAC_BYTES).digest()
