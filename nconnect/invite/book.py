"""What a provider keeps of its tokens: enough to verify one, not enough to print it again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from nconnect.errors import ConfigError, RemoteProtocolError
from nconnect.invite.token import Token, TokenKeys
from nconnect.wire import strict_json

MAX_OPEN = 256  # guessed
MAX_REMEMBERED = 256  # guessed: of those that are over; the oldest are forgotten, and then meet silence


class InvitationState(Enum):
    OPEN = "open"
    USED = "used"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Invitation:
    """One token's other side. Times are seconds since the Unix epoch."""

    token_id: bytes
    name: str  # of the peer that it makes
    made_at: float
    expires_at: float
    allow: tuple[str, ...] | None  # None: all that is provided
    addresses: tuple[str, ...]  # kept for it, without prefix length; for other families the pool decides
    mac_key: bytes = field(repr=False)
    # Of the exchange; None once it is over. A session with the device, or a revocation, ends it.
    preshared: bytes | None = field(repr=False)
    device: str = ""  # the NKN address that used it
    is_added: bool = False  # it became a peer; if it is none any more, it was removed and stays out
    used_at: float | None = None
    revoked_at: float | None = None

    @classmethod
    def of(
        cls,
        token: Token,
        *,
        name: str,
        now: float,
        expires_at: float,
        allow: tuple[str, ...] | None,
        addresses: tuple[str, ...],
    ) -> Invitation:
        keys = TokenKeys.of(token.secret)
        return cls(token.token_id, name, now, expires_at, allow, addresses, keys.mac, keys.preshared)

    def state(self, now: float) -> InvitationState:
        if self.revoked_at is not None:
            return InvitationState.REVOKED
        if self.device:
            return InvitationState.USED
        return InvitationState.EXPIRED if now >= self.expires_at else InvitationState.OPEN

    @property
    def over_at(self) -> float:
        """When it was used or revoked, or else will expire."""
        return next((at for at in (self.revoked_at, self.used_at) if at is not None), self.expires_at)


class Book:
    """All invitations of one interface, by token id. A value with methods: whoever changes it stores it."""

    def __init__(self, invitations: Iterable[Invitation] = ()) -> None:
        self._by_id = {invitation.token_id: invitation for invitation in invitations}

    def __iter__(self) -> Iterator[Invitation]:
        """In the order in which they were made."""
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, token_id: bytes) -> Invitation | None:
        return self._by_id.get(token_id)

    def open(self, now: float) -> list[Invitation]:
        return [each for each in self if each.state(now) is InvitationState.OPEN]

    def add(self, invitation: Invitation, now: float) -> None:
        """Raises `ConfigError` when an open one has the name, or there are too many."""
        waiting = self.open(now)
        if any(each.name == invitation.name for each in waiting):
            raise ConfigError(
                f"{invitation.name} is invited already: revoke that first,"
                f" `nconnect invite revoke {invitation.name}`"
            )
        if len(waiting) >= MAX_OPEN:
            raise ConfigError(f"there are {MAX_OPEN} open invitations: revoke some, or let them expire")
        self._by_id[invitation.token_id] = invitation
        over = [each for each in self if each.state(now) is not InvitationState.OPEN]
        for each in sorted(over, key=lambda each: each.over_at)[: max(0, len(over) - MAX_REMEMBERED)]:
            del self._by_id[each.token_id]

    def use(self, token_id: bytes, device: str, now: float) -> None:
        """From now on it is this device's."""
        self._by_id[token_id] = replace(self._by_id[token_id], device=device, used_at=now)

    def added(self, token_id: bytes) -> None:
        """The device that used it is in the peer table."""
        self._by_id[token_id] = replace(self._by_id[token_id], is_added=True)

    def release(self, token_id: bytes) -> None:
        """It could not be used after all."""
        self._by_id[token_id] = replace(self._by_id[token_id], device="", used_at=None)

    def seal(self, device: str) -> bool:
        """There was a session with this device: its invitation is over for good. Whether that was news."""
        found = [each for each in self if each.device == device and each.preshared is not None]
        for each in found:
            self._by_id[each.token_id] = replace(each, preshared=None)
        return bool(found)

    def revoke(self, name: str, now: float) -> Invitation:
        """End the open invitation of that name, or with that id. Raises `ConfigError`."""
        named = [each for each in self if name in (each.name, each.token_id.hex())]
        for each in named:
            if each.state(now) is InvitationState.OPEN:
                gone = replace(each, revoked_at=now, preshared=None)
                self._by_id[each.token_id] = gone
                return gone
        if not named:
            names = ", ".join(sorted(each.name for each in self.open(now)))
            raise ConfigError(
                f"there is no invitation {name!r}: {f'open are {names}' if names else 'none is open'}"
            )
        state = named[-1].state(now)
        if state is InvitationState.USED:
            raise ConfigError(
                f"the invitation {name!r} has been used: shut its device out with"
                f" `nconnect peer remove {named[-1].name}`"
            )
        raise ConfigError(f"the invitation {name!r} is {state.value} already")

    def to_json(self) -> Any:
        return {
            "version": 1,
            "invitations": [
                {
                    "id": each.token_id.hex(),
                    "name": each.name,
                    "made_at": each.made_at,
                    "expires_at": each.expires_at,
                    "allow": None if each.allow is None else list(each.allow),
                    "addresses": list(each.addresses),
                    "mac_key": each.mac_key.hex(),
                    "preshared": None if each.preshared is None else each.preshared.hex(),
                    "device": each.device,
                    "is_added": each.is_added,
                    "used_at": each.used_at,
                    "revoked_at": each.revoked_at,
                }
                for each in self
            ],
        }

    @classmethod
    def from_json(cls, value: Any) -> Book:
        """Read what `to_json` gave. Raises `ConfigError` when it is something else."""
        try:
            return cls(map(_read, value["invitations"]))
        except (LookupError, TypeError, ValueError, RemoteProtocolError):
            raise ConfigError("the file of invitations makes no sense") from None


def _read(value: Any) -> Invitation:
    content = strict_json.obj(value)
    allow, preshared = content["allow"], content["preshared"]
    return Invitation(
        token_id=_bytes(content["id"], 8),
        name=strict_json.text(content, "name"),
        made_at=float(content["made_at"]),
        expires_at=float(content["expires_at"]),
        allow=None if allow is None else _texts(allow),
        addresses=_texts(content["addresses"]),
        mac_key=_bytes(content["mac_key"], 32),
        preshared=None if preshared is None else _bytes(preshared, 32),
        device=strict_json.text(content, "device"),
        is_added=content["is_added"] is True,
        used_at=_time(content["used_at"]),
        revoked_at=_time(content["revoked_at"]),
    )


def _bytes(value: Any, size: int) -> bytes:
    data = bytes.fromhex(value)
    if len(data) != size:
        raise ValueError
    return data


def _texts(value: Any) -> tuple[str, ...]:
    if type(value) is not list or not all(type(item) is str for item in value):
        raise ValueError
    return tuple(value)


def _time(value: Any) -> float | None:
    return None if value is None else float(value)
