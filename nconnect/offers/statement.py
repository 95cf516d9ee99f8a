"""What a statement contains: a side's own account of what its peer may reach, and how. A codec. Pure.

A statement is a JSON object (UTF-8, at most 65,536 bytes). All members may be absent:

    subnets         [PREFIX, …]     what the peer may reach here, at least a part of it, by `allow`
    allow           [RULE, …]       what of it, as `[[peer]] allow` is written; absent: all
    addresses       [ADDRESS, …]    the sender's own in the tunnel
    hosts           [{name, address}, …]
    servers         [{name, url, kind, models, names}, …]   names: further names of the server
    paused          {why}           the sender refuses the peer's connections for now
    rate            {up, down}      bits a second: what the peer may send, and what it gets
    refused_source  [ADDRESS, …]    source addresses of the peer's packets that were refused lately
    expected        [PREFIX, …]     and those that the sender has for this peer

`decode` is liberal: unknown members are ignored, and what is malformed is left out and counted, item by item.
What it returns is safe to print. Whether it may be used here is for `accept` and `names` to judge.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import Any, TypeVar

from nconnect.config.values import format_allow_rule, parse_allow_rule
from nconnect.errors import ConfigError, RemoteProtocolError
from nconnect.model import Address, AllowRule, Prefix
from nconnect.offers import names as offered_names
from nconnect.offers.name_codec import is_usable
from nconnect.wire import strict_json

MAX_BYTES = 64 << 10  # as `nconnect.tunnel.statements` has it
MAX_SUBNETS = 256  # guessed, as all that follow
MAX_OWN = 16
MAX_ALLOW = 64
MAX_HOSTS = 64
MAX_SERVERS = 64
MAX_MODELS = 64  # of one server
MAX_NAMES = 8  # of one server
MAX_URL = 255
MAX_TEXT = 120
MAX_RATE = 1 << 50

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?")
_URL = re.compile(r"https?://[!-~]+")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class OfferedServer:
    """A server with a URL whose host is an address, as its provider sees it."""

    name: str
    url: str
    kind: str = ""
    models: tuple[str, ...] = ()
    names: tuple[str, ...] = ()  # further names, beside `name`


@dataclass(frozen=True, slots=True)
class Rate:
    """Bits a second; None: no limit."""

    up: int | None = None
    down: int | None = None


@dataclass(frozen=True, slots=True)
class Statement:
    """All that one side tells its peer. `dropped`: items of what was read that are not in it."""

    subnets: tuple[Prefix, ...] = ()
    allow: tuple[AllowRule, ...] | None = None  # None: all of them
    addresses: tuple[Address, ...] = ()
    hosts: tuple[tuple[str, Address], ...] = ()
    servers: tuple[OfferedServer, ...] = ()
    paused: str | None = None  # why; "" for no reason
    rate: Rate | None = None
    refused_source: tuple[Address, ...] = ()
    expected: tuple[Prefix, ...] = ()
    dropped: int = 0


def is_name(text: str) -> bool:
    """Whether a server or a host may be called so: one label, and not `localhost`."""
    return _NAME.fullmatch(text) is not None and text.lower() != "localhost"


def encode(statement: Statement) -> bytes:
    """At most `MAX_BYTES`: what does not fit is left out, models first, then servers, hosts and subnets."""
    for models in (MAX_MODELS, 16, 4, 0):
        servers = tuple(replace(s, models=s.models[:models]) for s in statement.servers)
        if len(data := _encode(replace(statement, servers=servers))) <= MAX_BYTES:
            return data
    while len(data) > MAX_BYTES:
        half = {
            name: getattr(statement, name)[: len(getattr(statement, name)) // 2]
            for name in ("servers", "hosts", "subnets")
        }
        statement = replace(statement, **half)
        data = _encode(statement)
    return data


def _encode(statement: Statement) -> bytes:
    members: dict[str, Any] = {
        "subnets": [str(prefix) for prefix in statement.subnets],
        "addresses": [str(address) for address in statement.addresses],
        "hosts": [{"name": name, "address": str(address)} for name, address in statement.hosts],
        "servers": [
            {
                "name": server.name,
                "url": server.url,
                "kind": server.kind,
                "models": list(server.models),
                "names": list(server.names),
            }
            for server in statement.servers
        ],
        "refused_source": [str(address) for address in statement.refused_source],
        "expected": [str(prefix) for prefix in statement.expected],
    }
    members = {name: value for name, value in members.items() if value}
    if statement.allow is not None:
        members["allow"] = [format_allow_rule(rule) for rule in statement.allow]
    if statement.paused is not None:
        members["paused"] = {"why": statement.paused}
    if statement.rate is not None:
        members["rate"] = {"up": statement.rate.up, "down": statement.rate.down}
    return strict_json.dump(members).encode()


def decode(document: bytes) -> Statement:
    """What a peer has told; of b"" an empty statement. Never raises: `dropped` tells what was left out."""
    if not document:
        return Statement()
    if len(document) > MAX_BYTES:
        return Statement(dropped=1)
    try:
        members = strict_json.obj(strict_json.load(document))
    except RemoteProtocolError:
        return Statement(dropped=1)
    return _Reader(members).statement()


class _Reader:
    """Reads the members one after another, and counts what is dropped."""

    def __init__(self, members: strict_json.Members) -> None:
        self._members = members
        self._dropped = 0

    def statement(self) -> Statement:
        members = self._members
        read = Statement(
            subnets=self._list(members.get("subnets"), _prefix, MAX_SUBNETS),
            allow=self._allow(members.get("allow")),
            addresses=self._list(members.get("addresses"), _own_address, MAX_OWN),
            hosts=self._named(self._list(members.get("hosts"), _host, MAX_HOSTS), lambda host: host[0]),
            servers=self._named(
                self._list(members.get("servers"), self._server, MAX_SERVERS), lambda s: s.name
            ),
            paused=self._one(members.get("paused"), _why),
            rate=self._one(members.get("rate"), _rate),
            refused_source=self._list(members.get("refused_source"), _address, MAX_OWN),
            expected=self._list(members.get("expected"), _prefix, MAX_OWN),
        )
        return replace(read, dropped=self._dropped)

    def _allow(self, value: object) -> tuple[AllowRule, ...] | None:
        return None if value is None else self._list(value, _rule, MAX_ALLOW)

    def _one(self, value: object, read: Callable[[Any], _T]) -> _T | None:
        """`read` raises ValueError, or `RemoteProtocolError`, for what is malformed."""
        if value is None:
            return None
        try:
            return read(value)
        except (ValueError, RemoteProtocolError):
            self._dropped += 1
            return None

    def _list(self, value: object, read: Callable[[Any], _T], most: int) -> tuple[_T, ...]:
        if value is None:
            return ()
        if not isinstance(value, list):
            self._dropped += 1
            return ()
        self._dropped += max(0, len(value) - most)
        found = []
        for each in value[:most]:
            one = self._one(each, read)
            if one is not None:
                found.append(one)
            elif each is None:
                self._dropped += 1
        return tuple(dict.fromkeys(found))

    def _named(self, found: tuple[_T, ...], name: Callable[[_T], str]) -> tuple[_T, ...]:
        """Of several with one name the first."""
        of: dict[str, _T] = {}
        for each in found:
            of.setdefault(name(each).lower(), each)
        self._dropped += len(found) - len(of)
        return tuple(of.values())

    def _server(self, value: object) -> OfferedServer:
        members = strict_json.obj(value)
        return OfferedServer(
            name=_name(members.get("name")),
            url=_url(members.get("url")),
            kind=self._one(members.get("kind"), _text) or "",
            models=self._list(members.get("models"), _model, MAX_MODELS),
            names=self._list(members.get("names"), _name, MAX_NAMES),
        )


def clean(text: str) -> str:
    """Fit for a terminal, on one line: at most `MAX_TEXT` characters, and only printable ones."""
    return "".join(c for c in text[:MAX_TEXT] if c.isprintable()).strip()


def _text(value: object) -> str:
    if type(value) is not str or not value.isprintable() or len(value) > MAX_TEXT:
        raise ValueError("not a short text")
    return value


def _model(value: object) -> str:
    if not value:
        raise ValueError("a model without a name")
    return _text(value)


def _why(value: object) -> str:
    """Shown cleaned: that the peer is paused counts, whatever the reason looks like."""
    why = value.get("why") if isinstance(value, dict) else None
    return clean(why) if isinstance(why, str) else ""


def _name(value: object) -> str:
    if type(value) is not str or not is_name(value):
        raise ValueError("not a name")
    return value


def _url(value: object) -> str:
    if type(value) is not str or len(value) > MAX_URL or not _URL.fullmatch(value):
        raise ValueError("not a URL")
    address = offered_names.host_of(value)
    if address is None or not is_usable(address):
        raise ValueError("not the URL of an address")
    return value


def _address(value: object) -> Address:
    if type(value) is not str:
        raise ValueError("not an address")
    address = ip_address(value)
    if address.version == 6 and address.scope_id:
        raise ValueError("an address with a zone")
    return address


def _own_address(value: object) -> Address:
    address = _address(value)
    if not is_usable(address):
        raise ValueError("not an address of a machine")
    return address


def _prefix(value: object) -> Prefix:
    if type(value) is not str:
        raise ValueError("not a prefix")
    prefix = ip_network(value)
    if prefix.version == 6 and prefix.network_address.scope_id:
        raise ValueError("a prefix with a zone")
    return prefix


def _rule(value: object) -> AllowRule:
    try:
        return parse_allow_rule(_text(value))
    except ConfigError as error:
        raise ValueError("not a rule") from error


def _host(value: object) -> tuple[str, Address]:
    members = strict_json.obj(value)
    return _name(members.get("name")), _own_address(members.get("address"))


def _rate(value: object) -> Rate:
    members = strict_json.obj(value)
    return Rate(_bits(members.get("up")), _bits(members.get("down")))


def _bits(value: object) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not 0 < value <= MAX_RATE:
        raise ValueError("not a rate")
    return value
