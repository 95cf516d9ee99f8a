"""Checks of what other programs have to do: peers that are silent, and servers behind what is offered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_address

from nconnect.doctor.facts import Facts
from nconnect.doctor.findings import Finding, ok, warning
from nconnect.host.offered import provides
from nconnect.model import Address, Service, join_addr

Listening = Mapping[tuple[str, int], tuple[Address, ...]]

# What is said of a peer in each state that is no session.
_SILENT = {
    "left": "was stopped on its side",
    "stale": "has gone silent",
    "handshaking": "does not answer",
}


def check_peers(facts: Facts) -> Iterator[Finding]:
    """A user needs its provider; that a provider's friend is off is no mistake."""
    is_provider = facts.config is not None and provides(facts.config)
    for name, state in facts.peers:
        what = _SILENT.get(state)
        if what is None:
            continue
        if is_provider:
            yield ok(
                "peers", f"{name} {what}" if state == "left" else f"{name} {what}: it is off, or offline"
            )
        else:
            mend = f"ask whether it is on: `nconnect status` there, and `nconnect ping {name}` here"
            yield warning("peers", f"{name} {what}", mend)


def check_offered(facts: Facts) -> Iterator[Finding]:
    """Services and exposed servers where nothing listens, or not where peers come in."""
    if facts.config is None or facts.listening is None:
        return
    provide = facts.config.provide
    for service in provide.services:
        addresses = _heard(facts.listening, service)
        name = _name(service)
        if not addresses:
            yield warning(
                "services", f"nothing listens on {name}, which is offered", f"start what serves {name}"
            )
        elif all(address.is_loopback for address in addresses):
            first = service.ports[0]
            mend = f"nconnect -c {facts.path} provide add --expose 127.0.0.1:{first}"
            yield warning("services", f"{name} is offered, and listens on loopback only", mend)
    for server in provide.exposed:
        place, host = join_addr(server.host, server.port), ip_address(server.host)
        heard = facts.listening.get(("tcp", server.port), ())
        if not any(address == host or address.is_unspecified for address in heard):
            yield warning(
                "expose", f"nothing listens on {place}, which is offered", f"start what serves {place}"
            )


def _heard(listening: Listening, service: Service) -> list[Address]:
    """Where something listens on a port of the service."""
    first, last = service.ports
    return [
        address
        for (protocol, port), addresses in listening.items()
        if protocol == service.protocol and first <= port <= last
        for address in addresses
    ]


def _name(service: Service) -> str:
    first, last = service.ports
    return f"port {first}{f'-{last}' if last != first else ''}/{service.protocol}"
