"""A name server for tests: the addresses of a few names, and DNS64 (RFC 6147) where asked for.

    python -m lab.name_server LISTEN NAME=ADDRESS… [--dns64 PREFIX]

LISTEN is an address or ADDRESS:PORT (port 53 unless given). A name that is not listed does not exist. With
--dns64, a name without AAAA gets one in the prefix (a /96) for each of its IPv4 addresses; `ipv4only.arpa`
too (RFC 7050).
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

WELL_KNOWN = {"ipv4only.arpa": (IPv4Address("192.0.0.170"), IPv4Address("192.0.0.171"))}  # RFC 7050
TTL_S = 1

Address = IPv4Address | IPv6Address


class NameServer(asyncio.DatagramProtocol):
    """Answers from a table. `silent`: takes the questions, and never answers. `asked` counts them."""

    def __init__(
        self,
        names: Mapping[str, Sequence[Address]],
        *,
        dns64: IPv6Network | None = None,
        silent: bool = False,
    ) -> None:
        self.names = {**WELL_KNOWN, **names}
        self.dns64 = dns64
        self.silent = silent
        self.asked = 0
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.asked += 1
        if not self.silent:
            self._transport.sendto(self.answer(data), addr)

    def answer(self, data: bytes) -> bytes:
        query = dns.message.from_wire(data)
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        question = query.question[0]
        addresses = self.names.get(question.name.to_text(omit_final_dot=True).lower())
        if addresses is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
            return response.to_wire()
        kind = question.rdtype.name
        found = [a for a in addresses if a.version == {"A": 4, "AAAA": 6}.get(kind)]
        if kind == "AAAA" and not found and self.dns64 is not None:
            base = int(self.dns64.network_address)
            found = [IPv6Address(base | int(a)) for a in addresses if isinstance(a, IPv4Address)]
        if found:
            response.answer.append(dns.rrset.from_text(question.name, TTL_S, "IN", kind, *map(str, found)))
        return response.to_wire()


def parse_names(texts: Sequence[str]) -> dict[str, list[Address]]:
    """`NAME=ADDRESS`, a name as often as it has addresses."""
    names: dict[str, list[Address]] = {}
    for text in texts:
        name, _, address = text.partition("=")
        names.setdefault(name.lower(), []).append(ip_address(address))
    return names


async def _serve(listen: str, server: NameServer) -> None:
    host, _, port = listen.rpartition(":") if listen.count(":") == 1 else (listen, "", "53")
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(lambda: server, local_addr=(host, int(port)))
    print("serving", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("listen")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--dns64", type=IPv6Network)
    options = parser.parse_args()
    asyncio.run(_serve(options.listen, NameServer(parse_names(options.names), dns64=options.dns64)))


if __name__ == "__main__":
    main()
