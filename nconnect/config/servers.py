"""`[[provide.server]]`, servers with a name and a URL, `[[provide.host]]`, hosts with a name and an address,
and `[control] readers`, who may read about offers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any
from urllib.parse import urlsplit

from nconnect.config.table import Section, string
from nconnect.errors import ConfigError
from nconnect.model import Address, InterfaceAddress, ProvideConfig, ProvidedHost, ProvidedServer

MAX_SERVERS = MAX_HOSTS = 64  # as many as peers take (`nconnect.offers.statement`)
MAX_URL = 255
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?")  # as useradd(8) of Debian and Red Hat takes it
_PORTS = {"http": 80, "https": 443}
_EXAMPLES = {
    "server": ("ollama", "http://127.0.0.1:11434"),
    "host": ("nas", "192.168.50.20"),
}  # of the two keys


def parse_server(name: str, url: str, names: tuple[str, ...] = ()) -> ProvidedServer:
    """One server. Raises `ConfigError`."""
    for each in (name, *names):
        check_name(each, "server")
    return parse_server_url(name, url, names)


def parse_host(name: str, address: str) -> ProvidedHost:
    """One host. Raises `ConfigError`."""
    return ProvidedHost(check_name(name, "host"), parse_host_address(address))


def check_name(text: str, kind: str) -> str:
    """It becomes a label of a host name: NAME.PROVIDER.internal."""
    if not _NAME.fullmatch(text) or text == "localhost":
        raise ConfigError(
            f"{text[:80]!r} is not a {kind}'s name: write up to 63 lower-case letters, digits and hyphens,"
            f" such as {_EXAMPLES[kind][0]}"
        )
    return text


def parse_host_address(text: str) -> Address:
    """An address that peers may be able to reach."""
    try:
        address = ip_address(text)
    except ValueError:
        raise ConfigError(
            f"{text[:80]!r} is not an address: write one in a provided subnet, such as {_EXAMPLES['host'][1]}"
        ) from None
    if address.is_loopback or not _is_somewhere(address):
        raise ConfigError(
            f"{address} is not an address that peers could reach: write one in a provided subnet"
        )
    return address


def _is_somewhere(address: Address) -> bool:
    return not (
        address.is_unspecified
        or address.is_multicast
        or address.is_link_local
        or getattr(address, "ipv4_mapped", None)
    )


def parse_server_url(name: str, text: str, names: tuple[str, ...] = ()) -> ProvidedServer:
    """A URL whose host is an address of this machine's loopback, or of a subnet."""
    example = "http://127.0.0.1:11434"
    if len(text) > MAX_URL or not re.fullmatch(r"[!-~]+", text):
        raise ConfigError(f"{text[:80]!r} is not a URL of at most {MAX_URL} characters: write {example}")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ConfigError(f"{text!r} is not a URL: write one such as {example}") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ConfigError(f"{text!r} is not the URL of a server: write http:// or https://, as in {example}")
    if parts.username is not None or parts.password is not None:
        raise ConfigError("a URL with a password would be told to every peer: write it without")
    if parts.query or parts.fragment:
        raise ConfigError(f"{text!r} has a query or a fragment: write the address of the server alone")
    try:
        host = IPv4Address("127.0.0.1") if parts.hostname == "localhost" else ip_address(parts.hostname)
    except ValueError:
        raise ConfigError(
            f"{parts.hostname!r} is a name that peers cannot look up: write the server's address"
        ) from None
    if isinstance(host, IPv6Address) and host.is_loopback:
        raise ConfigError(
            "the kernel leads no peer to ::1: let the server listen on 127.0.0.1 too, and write that address"
        )
    if not _is_somewhere(host):
        raise ConfigError(f"{host} is not an address of a server: write one such as {example}")
    path = parts.path.rstrip("/")
    return ProvidedServer(name, parts.scheme, host, port or _PORTS[parts.scheme], path, names)


def read_servers(
    section: Section, provide: ProvideConfig, own: tuple[InterfaceAddress, ...]
) -> tuple[ProvidedServer, ...]:
    """The `[[provide.server]]` of the section `[provide]`; `own`: this interface's addresses."""
    found: list[ProvidedServer] = []
    for part, name in _named(section, "server", "url"):
        names = part.take_list("names", lambda v: check_name(v, "server"))
        server = part.take("url", partial(_read_url, name, names), None)
        part.finish()
        if server is None:
            continue
        if name and any(name in (other.name, *other.names) for other in found):
            part.problem("name", f"there is another server {name!r}: give each its own name")
        if why := unreachable(server, provide, own):
            part.problem("url", why)
        found.append(server)
    if len(found) > MAX_SERVERS:
        section.problem("server", f"there are more than {MAX_SERVERS}: peers would not see the rest")
    return tuple(found)


def read_hosts(
    section: Section, provide: ProvideConfig, own: tuple[InterfaceAddress, ...]
) -> tuple[ProvidedHost, ...]:
    """The `[[provide.host]]` of the section `[provide]`, whose servers are `provide`'s already."""
    found: list[ProvidedHost] = []
    taken = {name for server in provide.servers for name in (server.name, *server.names)}
    for part, name in _named(section, "host", "address"):
        address = part.take("address", lambda v: parse_host_address(string(v)), None)
        part.finish()
        if address is None:
            continue
        if name and (name in taken or any(name == other.name for other in found)):
            kind = "a server" if name in taken else "another host"
            part.problem("name", f"there is {kind} {name!r}: give each its own name")
        if (
            own
            and not any(address == each.ip for each in own)
            and not any(address in subnet.real for subnet in provide.subnets)
        ):
            part.problem("address", _not_provided(address))
        found.append(ProvidedHost(name, address))
    if len(found) > MAX_HOSTS:
        section.problem("host", f"there are more than {MAX_HOSTS}: peers would not see the rest")
    return tuple(found)


def _named(section: Section, kind: str, place: str) -> Iterator[tuple[Section, str]]:
    """The sections `[[provide.KIND]]`, each with its name; `place` is the other key that must be there."""
    nothing: tuple[dict[str, Any], ...] = ()
    for index, content in enumerate(section.take(kind, partial(_sections, kind), nothing)):
        part = Section(content, (*section.path, kind, index), f"provide.{kind}", section.problems)
        for key, example in zip(("name", place), _EXAMPLES[kind], strict=True):
            if not content.get(key):
                part.problem(key, f'missing: write {key} = "{example}"')
        yield part, part.take("name", lambda v: check_name(string(v), kind), "")


def _read_url(name: str, names: tuple[str, ...], value: object) -> ProvidedServer:
    return parse_server_url(name, string(value), names)


def unreachable(server: ProvidedServer, provide: ProvideConfig, own: tuple[InterfaceAddress, ...]) -> str:
    """Why no peer can reach this server by what the file provides; "" if they can."""
    if server.is_local or not own:
        return ""
    if any(server.host == address.ip for address in own):
        service = any(
            s.protocol == "tcp" and s.ports[0] <= server.port <= s.ports[1] for s in provide.services
        )
        return "" if service else f'is a port of this machine: add services = ["{server.port}/tcp"]'
    if any(server.host in subnet.real for subnet in provide.subnets):
        return ""
    return _not_provided(server.host)


def _not_provided(address: Address) -> str:
    return f'{address} is in no provided subnet: add subnets = ["{address}/{address.max_prefixlen}"]'


def host_section(host: ProvidedHost) -> Mapping[str, Any]:
    """A host as the file writes it."""
    return {"name": host.name, "address": str(host.address)}


def as_section(server: ProvidedServer) -> Mapping[str, Any]:
    """A server as the file writes it."""
    content: dict[str, Any] = {"name": server.name, "url": server.url}
    return content | ({"names": list(server.names)} if server.names else {})


def check_reader(text: str) -> str:
    """The name of a user of this machine."""
    if not _USER.fullmatch(text):
        raise ConfigError(f"{text[:80]!r} is not the name of a user of this machine: see getent passwd")
    return text


def read_readers(root: Section) -> tuple[str, ...]:
    """`[control] readers`."""
    section = root.table("control")
    if section is None:
        return ()
    readers = section.take_list("readers", check_reader)
    section.finish()
    return readers


def _sections(kind: str, value: object) -> tuple[dict[str, Any], ...]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ConfigError(f"must be written [[provide.{kind}]], with two brackets, once for each {kind}")
    return tuple(value)
