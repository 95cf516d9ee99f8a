"""The provider's side of an invitation: checks an application and decides the answer. Pure.

The checks, in order:

application                                 answer
not well-formed                             silence
unknown token id                            silence, at the cost of one dictionary look-up
wrong MAC                                   silence, at the cost of one hash
too many under one token                    silence
expired, revoked, used by another device,   a refusal with the reason, without a public-key operation
  or by this one, which had a session since
does not decrypt, or names another key      silence
an open invitation, or one that this        `Admission`: the caller adds the peer and grants, or offers
  device has used without a session yet       if the device does not accept all routes
"""

from __future__ import annotations

from dataclasses import dataclass

from nconnect.crypto.aead import CipherSuite
from nconnect.crypto.keys import Identity, InvalidKey, dh_public_of
from nconnect.crypto.noise import Responder
from nconnect.errors import ConfigError, RemoteProtocolError
from nconnect.invite.book import Book, Invitation, InvitationState
from nconnect.invite.welcome import Offer, Welcome, accepted_in
from nconnect.model import AcceptRoutes, Buffer, NknAddress, Rng
from nconnect.queueing.rate_limiter import RateLimiter
from nconnect.wire.invite import Application, Grant, Reason, Refusal, unwrap, wrap

# Guessed. A valid MAC shows that the sender holds a token, or repeats an application of somebody who does.
BURST = 8  # applications under one token at once
PER_SECOND = 1.0  # and over time
SUITE = CipherSuite.CHACHA20POLY1305  # the same for all: one message each way

_REASONS = {
    InvitationState.USED: Reason.USED,
    InvitationState.EXPIRED: Reason.EXPIRED,
    InvitationState.REVOKED: Reason.REVOKED,
}


def invite_prologue(device: str, provider: str, token_id: bytes) -> bytes:
    """The Noise prologue of the exchange."""
    return b"\0".join((b"nconnect join 1", device.encode(), provider.encode(), token_id))


@dataclass(frozen=True, slots=True)
class Admission:
    """A device that may be admitted. Add it as a peer, then send one of the answers to `dest`."""

    invitation: Invitation
    device: NknAddress
    dest: str  # from where it applied: `device`, or one of its sub-clients
    application: Application
    noise: Responder
    accept: AcceptRoutes  # which prefixes the device routes, as it says

    def grant(self, content: Welcome | Offer, rng: Rng) -> bytes:
        """The grant, as an NKN message's payload. Call it once.

        It is an `Offer` if the device accepts fewer routes than it would get.
        """
        noise = self.noise.write_response(content.encode())
        return wrap(Grant(self.application.token_id, noise), rng(8))

    def refuse(self, provider: NknAddress, reason: Reason, rng: Rng) -> bytes:
        """The refusal: the device cannot be added, or has been removed."""
        return _refusal(self.invitation, self.dest, provider, self.application, reason, rng)


class Registrar:
    """Judges applications. The caller owns the book and stores it."""

    def __init__(self, identity: Identity, address: NknAddress, rng: Rng) -> None:
        self._identity = identity
        self._address = address
        self._rng = rng
        self._limiter = RateLimiter(PER_SECOND, BURST, key=str)  # by token id

    def judge(
        self, source: str, application: Application, book: Book, *, now: float, wall: float
    ) -> bytes | Admission | None:
        """Judge an application from an NKN address: a refusal to send, an `Admission`, or None for silence.

        `now` is seconds of CLOCK_BOOTTIME; `wall`, the wall clock, decides about expiry.
        """
        invitation = book.get(application.token_id)
        if invitation is None:
            return None
        if not application.is_authentic(invitation.mac_key, source, str(self._address)):
            return None
        if not self._limiter.allow(invitation.token_id.hex(), now):
            return None
        state = invitation.state(wall)
        device = _device(source)
        if device is None:
            return None
        again = state is InvitationState.USED and invitation.device == str(device)
        preshared = invitation.preshared
        if (state is not InvitationState.OPEN and not again) or preshared is None:
            reason = _REASONS.get(state, Reason.USED)
            return _refusal(invitation, source, self._address, application, reason, self._rng)
        try:
            noise = Responder(
                SUITE,
                self._identity.dh_private,
                prologue=invite_prologue(source, str(self._address), application.token_id),
                rng=self._rng,
            )
            their_key, content = noise.read_initiation(application.noise)
            if their_key != dh_public_of(device.public_key):
                return None
            accept = accepted_in(content)
        except (RemoteProtocolError, InvalidKey):
            return None
        noise.set_psk(preshared)
        return Admission(invitation, device, source, application, noise, accept)


def application_in(content: Buffer) -> Application | None:
    """The application in an unencrypted NKN message; None for anything else, malformed or not."""
    try:
        frame = unwrap(content)
    except RemoteProtocolError:
        return None
    return frame if isinstance(frame, Application) else None


def _device(source: str) -> NknAddress | None:
    """The address that the device will have as a peer; None if the source is no NKN address.

    A device whose tunnel is up applies as a sub-client of its address, which the tunnel's link uses itself.
    """
    try:
        address = NknAddress.parse(source)
    except ConfigError:
        return None
    return address.bare if str(address) == source and address.bare.bare == address.bare else None


def _refusal(
    invitation: Invitation, device: str, provider: NknAddress, asked: Application, reason: Reason, rng: Rng
) -> bytes:
    return wrap(Refusal.sealed(invitation.mac_key, device, str(provider), asked, reason), rng(8))
