"""The node as a STUN server (RFC 8489): it tells a client from where its request came. Pure.

A client asks two ports from one socket. Equal answers mean that its NAT gives all destinations one port, so
that a peer can reach it there; `docs/node.md` says more.

Source addresses of UDP can be forged, so the server must not be of use to send somebody more than was
sent to it: a request that is at least as long as its answer is answered freely, a shorter one (20 bytes ask
for 32, of IPv6 44) within a rate for its prefix, and errors are never answered. Everything that gets no
answer is counted.
"""

from __future__ import annotations

from collections import Counter
from enum import Enum
from ipaddress import IPv6Address, ip_address, ip_network

from nconnect.errors import RemoteProtocolError
from nconnect.model import Buffer
from nconnect.queueing.rate_limiter import RateLimiter
from nconnect.wire import stun

PLAIN_RATE_PER_S = 10.0  # guessed: a household asks 2 ports 3 times when its network changes
PLAIN_BURST = 50
_PREFIX_BITS = {4: 24, 6: 56}  # what one attacker can be expected to have, or forge on its network


class StunDrop(Enum):
    """Why a datagram got no answer. Values are the names in `node status --json`."""

    MALFORMED = "malformed"  # no STUN message
    UNSUPPORTED = "unsupported"  # another message than a binding request, or it asks for more
    RATE_LIMITED = "rate_limited"  # shorter than its answer, and over its prefix's rate
    UNSENT = "unsent"  # the socket did not take the answer


class StunServer:
    """Answers datagrams; `answers` and `drops` count them from the start."""

    def __init__(self, rate_per_s: float = PLAIN_RATE_PER_S, burst: int = PLAIN_BURST) -> None:
        self.answers = 0
        self.drops: Counter[StunDrop] = Counter()
        self._limiter = RateLimiter(rate_per_s, burst, key=prefix_of)

    def answer(self, data: Buffer, host: str, port: int, now: float) -> bytes | None:
        """What to send back to a datagram's source, an address as text; None: nothing. Never raises."""
        try:
            message = stun.decode(data)
        except RemoteProtocolError:
            self.drops[StunDrop.MALFORMED] += 1
            return None
        if message.type != stun.BINDING_REQUEST or stun.unknown_required(message):
            self.drops[StunDrop.UNSUPPORTED] += 1
            return None
        address = ip_address(host.partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if len(data) < stun.response_bytes(address.version) and not self._limiter.allow(str(address), now):
            self.drops[StunDrop.RATE_LIMITED] += 1
            return None
        self.answers += 1
        return stun.encode_response(message.transaction, address, port)

    def unsent(self) -> None:
        """The answer that was given last did not go out."""
        self.answers -= 1
        self.drops[StunDrop.UNSENT] += 1


def prefix_of(host: str) -> str:
    """What shares a rate: the /24 of an IPv4 address, the /56 of an IPv6 address.

    >>> prefix_of("192.0.2.77"), prefix_of("2001:db8:0:1ff::1")
    ('192.0.2.0/24', '2001:db8:0:100::/56')
    """
    address = ip_address(host)
    return str(ip_network((address, _PREFIX_BITS[address.version]), strict=False))
