"""A user and a provider: their settings, numbered packets between them, and what their session is."""

from __future__ import annotations

from nconnect.crypto.aead import CipherSuite
from nconnect.tunnel.outputs import Settings
from nconnect.tunnel.peer import PeerState
from tests.sim.network import Host, Simulation, ip, packet

SUITE = CipherSuite.AES256GCM
ON_DEMAND = Settings(SUITE, persistent=False)
PERSISTENT = Settings(SUITE, persistent=True)
UP = PeerState.UP


def both_up(user: Host, provider: Host) -> bool:
    return user.peer(provider).state is UP and provider.peer(user).state is UP


def is_up_within(sim: Simulation, seconds: float, host: Host, other: Host) -> bool:
    return sim.run(seconds, lambda: host.peer(other).state is UP)


def to_provider(number: int) -> tuple[bytes, bytes]:
    return packet("10.86.0.2", "192.168.50.10", number.to_bytes(4)), ip("192.168.50.10")


def to_user(number: int) -> tuple[bytes, bytes]:
    return packet("192.168.50.10", "10.86.0.2", number.to_bytes(4)), ip("10.86.0.2")


def indices(host: Host, other: Host) -> tuple[int, int]:
    current = host.peer(other).session.current
    assert current is not None
    return current.local_index, current.remote_index
