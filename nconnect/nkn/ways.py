"""The ways to a node: its websocket with or without TLS, and how its certificate is verified. Pure.

The nodes that a seed over TLS names, pinned or not, are connected to over TLS only, and verified: nobody on
the path can prevent that. The answer of a plain-text seed proves nothing, so for its nodes TLS is only
another way out of a network (which may let out nothing but TCP 443): both ways are tried in parallel, the
one that worked last first, and the certificate is not verified.

How a certificate is verified, in this order:

1. the pin of a configured seed with this host and port;
2. the fingerprint that the node's description holds, which came over a verified connection;
3. the pin of the seed that named the node, if that has the same host: a node's other TLS port;
4. its name, dates and issuer, as browsers do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nconnect.config.seed_url import is_secure, pin_of, place_of
from nconnect.wire.jsonrpc import NodeInfo, split_addr

# Until the next way or seed is tried in parallel; guessed: RFC 8305 has 0.25 s between two addresses.
STAGGER_S = 0.3


@dataclass(frozen=True, slots=True)
class Way:
    """One way to a node."""

    secure: bool = False  # wss
    pin: str | None = None  # SHA-256 of its certificate's DER, hex: no other is accepted
    verify: bool = False  # without a pin: by name, dates and issuer
    ask: str | None = None  # the seed to ask for the node's address this way, where it is not known

    @property
    def is_verified(self) -> bool:
        """Whether we know whom we are connected to."""
        return self.pin is not None or self.verify


PLAIN_WAY = Way()


def ways_to(node: NodeInfo, seed: str | None, seeds: Sequence[str], *, tls_first: bool) -> tuple[Way, ...]:
    """The ways to a node that `seed`, one of the configured `seeds`, has named; None: one of them did.

    The first is to be tried first, the next besides as soon as it fails or takes `STAGGER_S`.
    """
    if is_secure(seed) if seed is not None else all(map(is_secure, seeds)):
        return (_verified(node, seed, seeds),)
    if seed is None:
        return (PLAIN_WAY,)
    tls = Way(secure=True, ask=seed)
    return (tls, PLAIN_WAY) if tls_first else (PLAIN_WAY, tls)


def redirected(node: NodeInfo, way: Way, seeds: Sequence[str]) -> Way:
    """The way to a node that the one we are connected to, by `way`, has named: never a lesser one."""
    if not way.is_verified:
        return Way(secure=way.secure)
    return _verified(node, None, seeds)


def _verified(node: NodeInfo, seed: str | None, seeds: Sequence[str]) -> Way:
    host, port = split_addr(node.addr)
    host = host.lower()
    pins = {place_of(each): pin for each in seeds if (pin := pin_of(each)) is not None}
    pin = pins.get((host, port)) or node.fingerprint or None
    if pin is None and seed is not None and place_of(seed)[0] == host:
        pin = pin_of(seed)
    return Way(secure=True, pin=pin, verify=pin is None)
