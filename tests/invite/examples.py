"""A provider, a device and the exchange between them, without a network."""

from __future__ import annotations

import random
from collections.abc import Callable

from nconnect.crypto.keys import Identity
from nconnect.errors import RemoteProtocolError
from nconnect.invite.applicant import Applicant
from nconnect.invite.book import Book, Invitation
from nconnect.invite.registrar import Admission, Registrar, application_in
from nconnect.invite.token import Token
from nconnect.invite.welcome import Welcome
from nconnect.model import AcceptRoutes, NknAddress
from nconnect.wire.message import Message

NOW = 1_800_000_000.0
SEEDS = ("http://203.0.113.7:30003",)
WELCOME = Welcome("laptop", "gpu-box", ("10.86.0.2/24",), ("10.86.0.1/32", "192.168.50.0/24"), b"\x05" * 32)


def rng(seed: int) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


PROVIDER_IDENTITY = Identity(b"\x01" * 32)
PROVIDER = NknAddress("gpu-box", PROVIDER_IDENTITY.public_key)
DEVICE_IDENTITY = Identity(b"\x02" * 32)
DEVICE = NknAddress("laptop", DEVICE_IDENTITY.public_key)
OTHER_IDENTITY = Identity(b"\x03" * 32)
OTHER = NknAddress("other", OTHER_IDENTITY.public_key)
TOKEN = Token(PROVIDER, b"token-id", b"secret of sixteen"[:16], SEEDS)


def invitation(token: Token = TOKEN, *, name: str = "laptop", expires_at: float = NOW + 3600) -> Invitation:
    return Invitation.of(token, name=name, now=NOW, expires_at=expires_at, allow=None, addresses=())


def applicant(
    token: Token = TOKEN,
    identity: Identity = DEVICE_IDENTITY,
    address: NknAddress = DEVICE,
    seed: int = 1,
    accept: AcceptRoutes = "private",
) -> Applicant:
    return Applicant(token, identity, address, rng(seed), accept)


def asked(who: Applicant, now: float = 0.0) -> bytes:
    payload = who.poll_send(now)
    assert payload is not None
    return payload


class Provider:
    """A registrar with its book."""

    def __init__(self, *invitations: Invitation) -> None:
        self.book = Book(invitations)
        self.registrar = Registrar(PROVIDER_IDENTITY, PROVIDER, rng(2))

    def judge(
        self, payload: bytes, source: NknAddress = DEVICE, *, now: float = 0.0, wall: float = NOW
    ) -> bytes | Admission | None:
        """What comes of an NKN message's payload."""
        try:
            message = Message.decode(payload)
        except RemoteProtocolError:
            return None
        application = None if message.encrypted else application_in(message.payload)
        if application is None:
            return None
        return self.registrar.judge(str(source), application, self.book, now=now, wall=wall)

    def admit(self, payload: bytes, source: NknAddress = DEVICE) -> bytes:
        """The grant for an application that must be admitted."""
        admission = self.judge(payload, source)
        assert isinstance(admission, Admission)
        self.book.use(admission.invitation.token_id, str(admission.device), NOW)
        return admission.grant(WELCOME, rng(3))
