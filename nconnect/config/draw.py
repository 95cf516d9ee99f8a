"""Networks drawn at random: what a tunnel has when nobody chose one, so that two tunnels rarely meet.

Among 10.0.0.0/8's 65,536 networks of a /24, five providers have two alike once in 6,500 times. RFC 4193,
section 3.2.2 asks for 40 random bits of a unique local prefix.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

from nconnect.model import Prefix, Rng

_TRIES = 256  # guessed: where most of 10.0.0.0/8 is in use, the last one drawn is as good as any


def tunnel_addresses(rng: Rng, taken: Iterable[Prefix] = ()) -> tuple[str, str]:
    """The first addresses of a random /24 of 10.0.0.0/8 and of a random ULA /64, with prefix length.

    `taken`: networks that they do not overlap, if that can be had. The first and the last /16 are left to
    people, who like to choose 10.0.x.y.
    """
    used = [prefix for prefix in taken if prefix.version == 4 and prefix.prefixlen]
    for _ in range(_TRIES):
        second, third = rng(2)
        network = IPv4Network((10 << 24 | (1 + second % 254) << 16 | third << 8, 24))
        if not any(network.overlaps(prefix) for prefix in used):
            break
    ula = IPv6Network((int.from_bytes(b"\xfd" + rng(5)) << 80, 64))
    return f"{network[1]}/{network.prefixlen}", f"{ula[1]}/{ula.prefixlen}"
