"""The provider's record of its invitations: enough to verify a token, not enough to print it again.

It has two halves with two owners (decision 0021). The inviting command (root) writes what a device may
become: its name, what it may reach, until when, and later changes and removals. The daemon, which runs as
another user, writes which device came. A peer needs both halves, so the daemon's half alone admits nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from ipaddress import ip_address
from typing import Any

from nconnect.errors import ConfigError, RemoteProtocolError
from nconnect.invite.token import Token, TokenKeys
from nconnect.wire import strict_json

MAX_OPEN = 256  # guessed
MAX_REMEMBERED = 256  # guessed: invitations that are over; forgotten ones, the oldest, are not answered


class InvitationState(Enum):
    OPEN = "open"
    USED = "used"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Invitation:
    """What the provider keeps of one token. Times are seconds since the Unix epoch."""

    token_id: bytes
    name: str  # of the peer that it makes
    made_at: float
    expires_at: float
    allow: tuple[str, ...] | None  # None: all that is provided
    addresses: tuple[str, ...]  # reserved for it, without prefix length; the pool chooses other families'
    mac_key: bytes = field(repr=False)
    # The exchange's key; None once it is over. A session with the device, or a revocation, ends it.
    preshared: bytes | None = field(repr=False)
    revoked_at: float | None = None
    # The inviting side has seen that it expired unused: no device can be added any more.
    is_closed: bool = False
    is_removed: bool = False  # its peer was removed
    # Settings of the peer that were given with the invitation or changed later: the configuration's field
    # and its text; None deletes a field.
    changes: Mapping[str, Any] = field(default_factory=dict, repr=False)
    # The daemon's half.
    device: str = ""  # the NKN address that used it
    is_added: bool = False  # it became a peer; if it no longer is one, it was removed and is not added again
    used_at: float | None = None
    allowed_ips: tuple[str, ...] = ()  # of its peer; () if the peer is in the configuration's file
    peer_key: bytes | None = field(default=None, repr=False)  # the peer's preshared key

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
        changes: Mapping[str, Any] | None = None,
    ) -> Invitation:
        keys = TokenKeys.of(token.secret)
        return cls(
            token.token_id,
            name,
            now,
            expires_at,
            allow,
            addresses,
            keys.mac,
            keys.preshared,
            changes=dict(changes or {}),
        )

    def state(self, now: float) -> InvitationState:
        if self.revoked_at is not None:
            return InvitationState.REVOKED
        if self.device and not self.is_closed:
            return InvitationState.USED
        return InvitationState.EXPIRED if now >= self.expires_at else InvitationState.OPEN

    @property
    def is_peer(self) -> bool:
        """Whether its device is a peer because of this invitation (and not because of the file)."""
        gone = self.is_removed or self.is_closed or self.revoked_at is not None
        return bool(self.device and self.allowed_ips) and not gone

    @property
    def over_at(self) -> float:
        """When it was used or revoked; otherwise when it expires."""
        return next((at for at in (self.revoked_at, self.used_at) if at is not None), self.expires_at)


class Book:
    """All invitations of one interface, by token id. The caller that changes it also stores it."""

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
        """Raises `ConfigError` if an open invitation has this name, or too many are open."""
        waiting = self.open(now)
        if any(each.name == invitation.name for each in waiting):
            raise ConfigError(
                f"{invitation.name} is invited already: revoke that invitation first,"
                f" `nconnect invite revoke {invitation.name}`"
            )
        if len(waiting) >= MAX_OPEN:
            raise ConfigError(f"there are {MAX_OPEN} open invitations: revoke some, or let them expire")
        self._by_id[invitation.token_id] = invitation
        over = [each for each in self if each.state(now) is not InvitationState.OPEN and not each.is_peer]
        for each in sorted(over, key=lambda each: each.over_at)[: max(0, len(over) - MAX_REMEMBERED)]:
            del self._by_id[each.token_id]

    def put(self, invitation: Invitation) -> None:
        """Replace the invitation with the same id."""
        self._by_id[invitation.token_id] = invitation

    def use(self, token_id: bytes, device: str, now: float) -> None:
        """Note that this device has used it."""
        self._by_id[token_id] = replace(self._by_id[token_id], device=device, used_at=now)

    def add_peer(self, token_id: bytes, allowed_ips: Iterable[str], key: bytes) -> None:
        """Note that the device that used it is now a peer."""
        self._by_id[token_id] = replace(
            self._by_id[token_id], is_added=True, allowed_ips=tuple(allowed_ips), peer_key=key
        )

    def release(self, token_id: bytes) -> None:
        """Undo `use`: the device could not be added."""
        self._by_id[token_id] = replace(
            self._by_id[token_id], device="", used_at=None, is_added=False, allowed_ips=(), peer_key=None
        )

    def close_expired(self, now: float) -> None:
        """Close invitations that expired unused, so that no later entry in the daemon's half can use them."""
        for each in list(self):
            if each.state(now) is InvitationState.EXPIRED and not each.is_closed:
                self._by_id[each.token_id] = replace(each, is_closed=True, preshared=None)

    def change_peer(self, token_id: bytes, changes: Mapping[str, Any]) -> None:
        """Record changes to its peer: values of the configuration's fields; None deletes one."""
        old = self._by_id[token_id]
        self._by_id[token_id] = replace(old, changes={**old.changes, **changes})

    def remove_peer(self, token_id: bytes) -> None:
        """Remove its device for good."""
        self._by_id[token_id] = replace(self._by_id[token_id], is_removed=True, preshared=None)

    def seal(self, device: str) -> bool:
        """End the exchange: there was a session with this device. Returns whether anything changed."""
        found = [each for each in self if each.device == device and each.preshared is not None]
        for each in found:
            self._by_id[each.token_id] = replace(each, preshared=None)
        return bool(found)

    def revoke(self, name: str, now: float) -> Invitation:
        """End the open invitation with that name or id. Raises `ConfigError`."""
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
                f"the invitation {name!r} has been used: remove its device with"
                f" `nconnect peer remove {named[-1].name}`"
            )
        raise ConfigError(f"the invitation {name!r} is {state.value} already")

    def to_issued(self) -> Any:
        """The inviting side's half, as JSON."""
        return {
            "version": 2,
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
                    "revoked_at": each.revoked_at,
                    "is_closed": each.is_closed,
                    "is_removed": each.is_removed,
                    "changes": dict(each.changes),
                }
                for each in self
            ],
        }

    def to_used(self) -> Any:
        """The daemon's half, as JSON."""
        return {
            "version": 2,
            "used": [
                {
                    "id": each.token_id.hex(),
                    "device": each.device,
                    "is_added": each.is_added,
                    "is_over": each.preshared is None,
                    "used_at": each.used_at,
                    "allowed_ips": list(each.allowed_ips),
                    "preshared_key": None if each.peer_key is None else each.peer_key.hex(),
                }
                for each in self
                if each.device
            ],
        }

    @classmethod
    def of(cls, issued: Any, used: Any = None) -> Book:
        """Join the two halves. Raises `ConfigError` if one is not what `to_issued` or `to_used` wrote.

        Without `used`, `issued` is in the format of version 1: both halves in one, peers in the file.
        Entries of the daemon's half without an invitation are ignored; each invitation is for one device.
        """
        try:
            book = cls(map(_read, issued["invitations"]))
            for value in issued["invitations"] if used is None else used["used"]:
                content = strict_json.obj(value)
                invitation = book.get(_bytes(content["id"], 8))
                if invitation is not None and not invitation.is_closed and content["device"] != "":
                    book._by_id[invitation.token_id] = _use(invitation, content)
            return book
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
        addresses=tuple(str(ip_address(text)) for text in _texts(content["addresses"])),
        mac_key=_bytes(content["mac_key"], 32),
        preshared=None if preshared is None else _bytes(preshared, 32),
        revoked_at=_time(content["revoked_at"]),
        is_closed=content.get("is_closed") is True,
        is_removed=content.get("is_removed") is True,
        changes=strict_json.obj(content.get("changes", {})),
    )


def _use(invitation: Invitation, content: Mapping[str, Any]) -> Invitation:
    key = content.get("preshared_key")
    return replace(
        invitation,
        preshared=None if content.get("is_over") is True else invitation.preshared,
        device=strict_json.text(content, "device"),
        is_added=content["is_added"] is True,
        used_at=_time(content["used_at"]),
        allowed_ips=_texts(content.get("allowed_ips", [])),
        peer_key=None if key is None else _bytes(key, 32),
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
