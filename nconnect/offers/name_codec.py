"""Names with their addresses, as the daemon tells them to its helper, which is root: lines of `ADDRESS NAME`.

The helper trusts nothing that it reads, so `decode` checks all that does not depend on the configuration:
that a name lies beneath `.internal` (which ICANN has reserved for private use), beneath no other system's
zone there, has a part or two before that, and an address that another machine can have; and how many.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address, ip_network

from nconnect.model import Address

ZONE = "internal"
# Names beneath `.internal` that other systems use: Google Cloud, Docker, Podman, Kubernetes, Amazon EC2
# (`ec2.internal`, `compute.internal`).
RESERVED = frozenset(
    ("google", "docker", "containers", "kubernetes", "ec2", "compute", "localhost", "nconnect")
)
MAX_LABEL = 63  # RFC 1035, section 2.3.4
MAX_PROVIDERS = 250  # systemd-resolved takes 256 domains for a link
MAX_LINES = 512  # of a name and an address, in all
MAX_BYTES = MAX_LINES * (45 + 1 + 2 * MAX_LABEL + len("..internal") + 1)

Names = dict[str, tuple[Address, ...]]  # a whole name, without a dot at the end -> its addresses

_NOWHERE = (ip_network("0.0.0.0/8"), ip_network("255.255.255.255/32"))  # RFC 6890
LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"(?:{LABEL}\.)?({LABEL})\.{ZONE}")


def is_usable(address: Address) -> bool:
    """Whether a name may have it: an address of one other machine."""
    if isinstance(address, IPv6Address) and (address.ipv4_mapped is not None or address.scope_id):
        return False
    return not (
        address.is_loopback
        or address.is_multicast
        or address.is_unspecified
        or address.is_link_local
        or any(address in prefix for prefix in _NOWHERE)
    )


def domains(known: Iterable[str]) -> tuple[str, ...]:
    """The providers' own names, PROVIDER.internal, of whole names; sorted."""
    return tuple(sorted({".".join(name.split(".")[-2:]) for name in known}))


def encode(known: Names) -> bytes:
    """Lines of `ADDRESS NAME`, as `decode` reads them."""
    return "".join(f"{a} {name}\n" for name, addresses in known.items() for a in addresses).encode()


def decode(data: bytes) -> Names:
    """Read and check what a process with fewer rights sent. Raises `ValueError`, without its words."""
    if len(data) > MAX_BYTES or data.count(b"\n") > MAX_LINES:
        raise ValueError("too many names")
    found: dict[str, list[Address]] = {}
    for line in data.decode("ascii").split("\n")[:-1]:
        text, _, name = line.partition(" ")
        match = _NAME.fullmatch(name)
        if match is None or match[1] in RESERVED:
            raise ValueError("a name that is not allowed")
        address = ip_address(text)
        if str(address) != text or not is_usable(address):
            raise ValueError("an address that is not allowed")
        found.setdefault(name, []).append(address)
    if data and not data.endswith(b"\n"):
        raise ValueError("the last line is not whole")
    if len(domains(found)) > MAX_PROVIDERS:
        raise ValueError("too many names")
    return {name: tuple(addresses) for name, addresses in found.items()}
