"""The new device's side of an invitation: it applies until it is answered; the caller gives up. Pure."""

from __future__ import annotations

from nconnect.crypto.keys import Identity, dh_public_of
from nconnect.crypto.noise import Initiator
from nconnect.errors import NetworkError, RemoteProtocolError
from nconnect.invite.registrar import SUITE, invite_prologue
from nconnect.invite.token import Token, TokenKeys
from nconnect.invite.welcome import Offer, Welcome, encode_application, read_grant
from nconnect.model import AcceptRoutes, Buffer, NknAddress, Rng
from nconnect.wire.invite import Application, Grant, Reason, Refusal, unwrap, wrap
from nconnect.wire.message import Message

# Guessed. The provider writes a file and sets rules before it answers. Repeating an application is harmless.
_ASK_AGAIN_S = (1.0, 2.0, 3.0)  # the last one repeats

_SENTENCES: dict[Reason | None, str] = {
    Reason.USED: "the invitation has been used already, and each admits one device: ask for another"
    " (if you did not use it, tell the provider)",
    Reason.EXPIRED: "the invitation has expired: ask for another",
    Reason.REVOKED: "the invitation was revoked: ask for another",
    Reason.FAILED: "the provider could not add this device: its log says why; then try again",
}


class NotAdmitted(NetworkError):
    """The provider answered and did not admit the device. The text says why."""


class RoutesNotAccepted(NotAdmitted):
    """The provider offers more routes than this device accepts. The token is still valid."""

    def __init__(self, offered: tuple[str, ...]) -> None:
        super().__init__(f"the provider offers {', '.join(offered)}")
        self.offered = offered  # all prefixes, accepted or not


class Applicant:
    """One application. The caller sends what `poll_send(now)` returns to `dest`, and feeds what arrives."""

    def __init__(
        self,
        token: Token,
        identity: Identity,
        address: NknAddress,
        rng: Rng,
        accept: AcceptRoutes = "private",
    ) -> None:
        """`accept`: which prefixes this device routes. Raises `InvalidKey` if the token's key is unusable."""
        self.dest = str(token.provider)
        self._address = str(address)
        self._keys = TokenKeys.of(token.secret)
        self._rng = rng
        self._noise = Initiator(
            SUITE,
            identity.dh_private,
            dh_public_of(token.provider.public_key),
            psk=self._keys.preshared,
            prologue=invite_prologue(self._address, self.dest, token.token_id),
            rng=rng,
        )
        noise = self._noise.write_initiation(encode_application(accept))
        self._application = Application.sealed(
            self._keys.mac, self._address, self.dest, token.token_id, noise
        )
        self._is_answered = False
        self._asked = 0
        self._ask_at = 0.0

    def poll_send(self, now: float) -> bytes | None:
        """The NKN payload to send now, or None: the same application each time, so it may arrive twice."""
        if self._asked and now < self._ask_at:
            return None
        self._ask_at = now + _ASK_AGAIN_S[min(self._asked, len(_ASK_AGAIN_S) - 1)]
        self._asked += 1
        return wrap(self._application, self._rng(8))

    def poll_timeout(self) -> float:
        """When to call `poll_send` again."""
        return self._ask_at

    def receive(self, source: str, payload: Buffer) -> Welcome | None:
        """Take an NKN message's payload. Returns the provider's welcome, or None for any other message.

        Raises `NotAdmitted` or `RoutesNotAccepted`. Forged messages, and those not for us, change nothing.
        """
        if self._is_answered:
            return None  # a repeated application is answered again
        if source != self.dest and not (source.startswith("__") and source.partition(".")[2] == self.dest):
            return None
        try:
            message = Message.decode(payload)
            frame = None if message.encrypted else unwrap(message.payload)
            if isinstance(frame, Grant):
                granted = self._noise.read_response(frame.noise)
        except RemoteProtocolError:
            return None
        if isinstance(frame, Grant):
            self._is_answered = True
            return _welcome(granted)
        if isinstance(frame, Refusal) and frame.is_authentic(
            self._keys.mac, self._address, self.dest, self._application
        ):
            raise NotAdmitted(_SENTENCES.get(_reason(frame.reason), "the provider refused this invitation"))
        return None


def _welcome(granted: bytes) -> Welcome:
    try:
        answer = read_grant(granted)
    except RemoteProtocolError as error:
        raise NotAdmitted(
            f"the provider's answer cannot be used ({error}): do both sides run the same version of nconnect?"
        ) from None
    if isinstance(answer, Offer):
        raise RoutesNotAccepted(answer.allowed_ips)
    return answer


def _reason(value: int) -> Reason | None:
    try:
        return Reason(value)
    except ValueError:
        return None
