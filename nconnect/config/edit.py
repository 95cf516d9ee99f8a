"""Changes to a configuration file's text that keep its comments and its layout: text in, text out.

Each result is parsed again and compared with what was meant. If tomlkit cannot handle a file's layout, the
change is refused and nothing is written.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from nconnect.config import values
from nconnect.config.servers import as_section, host_section
from nconnect.errors import ConfigError
from nconnect.model import ProvidedHost, ProvidedServer

# The lists of [provide]: what an entry is called, and its parser. Entries that parse alike are the same.
OFFERS: dict[str, tuple[str, Callable[[str], object]]] = {
    "subnets": ("subnet", values.parse_subnet),
    "services": ("service", values.parse_service),
    "expose": ("exposed server", values.parse_expose),
}


class Keep(Enum):
    """The value that leaves a field as it is."""

    KEEP = "keep"


KEEP = Keep.KEEP


@dataclass(frozen=True, slots=True)
class PeerChange:
    """What to set in one peer's section; None deletes the key (`allow` None: all that is provided)."""

    name: str | Keep = KEEP
    address: str | Keep = KEEP
    allowed_ips: tuple[str, ...] | Keep = KEEP
    allow: tuple[str, ...] | Keep | None = KEEP
    preshared_key: str | Keep | None = KEEP
    expires_at: float | Keep | None = KEEP  # seconds since the Unix epoch
    max_flows: int | Keep | None = KEEP
    direct: str | Keep | None = KEEP
    rate: str | Keep | None = KEEP
    quota: str | Keep | None = KEEP
    paused: str | Keep | None = KEEP  # the reason
    local_address: tuple[str, ...] | Keep | None = KEEP
    accept_routes: str | tuple[str, ...] | Keep | None = KEEP
    nconnect: bool | Keep | None = KEEP

    def values(self) -> dict[str, Any]:
        """The keys of the file that change, in its order; `expires_at` is `expires` there."""
        found: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                value = list(value)
            if field.name == "expires_at" and isinstance(value, (int, float)):
                value = datetime.fromtimestamp(int(value), UTC)
            if value is not KEEP:
                found[field.name.removesuffix("_at")] = value
        return found


def new_file(
    *,
    seed: bytes,
    identifier: str,
    address: Iterable[str],
    seed_rpc: Iterable[str] = (),
    proxy: str | None = None,
    accept_routes: str | Iterable[str] | None = None,
    provide: Iterable[str] = (),
    services: Iterable[str] = (),
    expose: Iterable[str] = (),
    servers: Iterable[ProvidedServer] = (),
) -> str:
    """The text of a new configuration; lists that are empty are left out.

    Without `address` a peer must be added that has a `local_address`.
    """
    lines = [
        "# nconnect: keep this file secret, the seed is this device's identity.",
        "",
        "[interface]",
        f'seed = "{seed.hex()}"',
        f"identifier = {_quote(identifier)}",
    ]
    if own := tuple(address):
        lines.append(f"address = {_list(own)}")
    if accept_routes is not None:
        value = _quote(accept_routes) if isinstance(accept_routes, str) else _list(accept_routes)
        lines.append(f"accept_routes = {value}")
    network = [f"seed_rpc = {_list(seeds)}"] if (seeds := tuple(seed_rpc)) else []
    network += [] if proxy is None else [f"proxy = {_quote(proxy)}"]
    if network:
        lines += ["", "[network]", *network]
    offers = {"subnets": tuple(provide), "services": tuple(services), "expose": tuple(expose)}
    if any(offers.values()):
        lines += ["", "[provide]", *(f"{key} = {_list(value)}" for key, value in offers.items() if value)]
    for server in servers:
        lines += ["", *_section_lines("server", as_section(server))]
    return "\n".join(lines) + "\n"


def add_peer(
    text: str,
    *,
    name: str,
    address: str,
    allowed_ips: Iterable[str],
    allow: Iterable[str] | None = None,
    preshared_key: str | None = None,
    expires_at: float | None = None,
    max_flows: int | None = None,
    direct: str | None = None,
    rate: str | None = None,
    quota: str | None = None,
    paused: str | None = None,
    local_address: Iterable[str] | None = None,
    accept_routes: str | Iterable[str] | None = None,
    nconnect: bool | None = None,
) -> str:
    """The text with one more peer at its end. Raises `ConfigError` when the name is taken."""
    change = PeerChange(
        name,
        address,
        tuple(allowed_ips),
        None if allow is None else tuple(allow),
        preshared_key,
        expires_at,
        max_flows,
        direct,
        rate,
        quota,
        paused,
        None if local_address is None else tuple(local_address),
        accept_routes if accept_routes is None or isinstance(accept_routes, str) else tuple(accept_routes),
        nconnect,
    )
    content = {key: value for key, value in change.values().items() if value is not None}
    try:
        plain = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not TOML: {str(error).splitlines()[0]}") from None
    if name in _names(plain):
        raise ConfigError(f"there is already a peer {name!r}: change it with `nconnect peer set {name}`")
    plain["peer"] = [*plain.get("peer", ()), content]
    lines = [f"{key} = {_value(value)}" for key, value in content.items()]
    # A section appended at the end belongs to the root table, whatever precedes it.
    head = f"{text.rstrip()}\n\n" if text.strip() else ""
    return _checked(head + "\n".join(["[[peer]]", *lines]) + "\n", plain)


def set_peer(text: str, name: str, change: PeerChange) -> str:
    """The text with one peer's values changed; those that stay keep their form and comments."""
    plain, document = _load(text)
    index = _index(plain, name)
    for key, value in change.values().items():
        for peer in (plain["peer"][index], document["peer"][index]):
            if value is None:
                peer.pop(key, None)
            elif peer.get(key) != value:
                peer[key] = value
    return _checked(document.as_string(), plain)


def remove_peer(text: str, name: str) -> str:
    """The text without one peer's section."""
    plain, document = _load(text)
    index = _index(plain, name)
    for content in (plain, document):
        del content["peer"][index]
        if not content["peer"]:
            del content["peer"]
    return _checked(document.as_string(), plain)


def without_addresses(text: str) -> str:
    """The text with `address = []` in [interface]: the last provider that brought one is leaving."""
    plain, document = _load(text)
    for content in (plain, document):
        content["interface"]["address"] = []
    return _checked(document.as_string(), plain)


def add_offers(text: str, offers: Mapping[str, Sequence[str]]) -> str:
    """The text with more entries in the lists of `[provide]`, by the names of `OFFERS`.

    Raises `ConfigError` with a line for each that is there already.
    """
    plain, document = _load(text)
    if "provide" not in plain:
        plain, document = _load(f"{text.rstrip()}\n\n[provide]\n".lstrip())
    problems = []
    for key, entries in offers.items():
        kind, read = OFFERS[key]
        known = [read(entry) for entry in _offered(plain, key)]
        for entry in entries:
            if read(entry) in known:
                problems.append(f"there is already a {kind} {entry!r}: see `nconnect provide show`")
                continue
            known.append(read(entry))
            for content in (plain, document):
                content["provide"].setdefault(key, []).append(entry)
    if problems:
        raise ConfigError(problems)
    return _checked(document.as_string(), plain)


def remove_offers(text: str, offers: Mapping[str, Sequence[str]]) -> str:
    """The text without these entries of `[provide]`; a list that becomes empty stays.

    Raises `ConfigError` with a line for each that is not there, and suggests the most similar one.
    """
    plain, document = _load(text)
    problems = []
    for key, entries in offers.items():
        kind, read = OFFERS[key]
        for entry in entries:
            there = _offered(plain, key)
            known = [read(each) for each in there]
            if read(entry) not in known:
                problems.append(_unknown(kind, entry, there, add="nconnect provide add"))
                continue
            for content in (plain, document):
                del content["provide"][key][known.index(read(entry))]
    if problems:
        raise ConfigError(problems)
    return _checked(document.as_string(), plain)


def add_server(text: str, server: ProvidedServer) -> str:
    """The text with one more `[[provide.server]]` at its end. Raises `ConfigError` when the name is taken."""
    return _add_named(text, "server", as_section(server))


def add_host(text: str, host: ProvidedHost) -> str:
    """The text with one more `[[provide.host]]` at its end. Raises `ConfigError` when the name is taken."""
    return _add_named(text, "host", host_section(host))


def remove_named(text: str, kind: str, name: str) -> str:
    """The text without one section `[[provide.KIND]]`, a server's or a host's."""
    plain, document = _load(text)
    names = [str(each.get("name", "")) for each in _sections(plain, kind)]
    if name not in names:
        raise ConfigError(_unknown(kind, name, names, add=f"nconnect provide {kind} add"))
    for content in (plain, document):
        del content["provide"][kind][names.index(name)]
        if not content["provide"][kind]:
            del content["provide"][kind]
    return _checked(document.as_string(), plain)


def _add_named(text: str, kind: str, section: Mapping[str, Any]) -> str:
    plain, _ = _load(text)
    name = section["name"]
    if name in [str(each.get("name", "")) for each in _sections(plain, kind)]:
        raise ConfigError(
            f"there is already a {kind} {name!r}: `nconnect provide {kind} remove {name}` first"
        )
    plain.setdefault("provide", {}).setdefault(kind, []).append(dict(section))
    return _checked(f"{text.rstrip()}\n\n" + "\n".join(_section_lines(kind, section)) + "\n", plain)


def _section_lines(kind: str, section: Mapping[str, Any]) -> list[str]:
    return [f"[[provide.{kind}]]", *(f"{key} = {_value(value)}" for key, value in section.items())]


def add_reader(text: str, user: str) -> str:
    """The text with one more user in `[control] readers`; the same if the user is there."""
    plain, document = _load(text)
    if "control" not in plain:
        plain, document = _load(f"{text.rstrip()}\n\n[control]\n".lstrip())
    for content in (plain, document):
        readers = content["control"].setdefault("readers", [])
        if user not in readers:
            readers.append(user)
    return _checked(document.as_string(), plain)


def _sections(plain: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    section = plain.get("provide", {})
    found = section.get(kind, []) if isinstance(section, dict) else None
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ConfigError(f"{kind}s must be sections [[provide.{kind}]]: correct the file with an editor")
    return found


def unknown_peer(name: str, names: Iterable[str]) -> ConfigError:
    """The error for an unknown peer's name; it suggests the most similar one."""
    return ConfigError(_unknown("peer", name, sorted(names), add="nconnect peer add"))


def _unknown(kind: str, name: str, known: Sequence[str], *, add: str) -> str:
    mapped = [each for each in known if name in each.split("=")]  # one side of REAL=SEEN
    near = mapped or difflib.get_close_matches(name, known, n=1)
    if near:
        hint = f"did you mean {near[0]!r}?"
    elif known:
        hint = f"there are {', '.join(known)}"
    else:
        hint = f"there is none yet: add one with `{add}`"
    return f"there is no {kind} {name!r}: {hint}"


def _load(text: str) -> tuple[dict[str, Any], Any]:
    """The text as plain values, and as a tomlkit document (late: importing it takes 40 ms)."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        plain = tomllib.loads(text)
        document = tomlkit.parse(text)
    except (ValueError, TOMLKitError, RecursionError) as error:
        raise ConfigError(f"not TOML: {str(error).splitlines()[0]}") from None
    return plain, document


def _names(plain: dict[str, Any]) -> list[str]:
    peers = plain.get("peer", [])
    if not isinstance(peers, list) or not all(isinstance(peer, dict) for peer in peers):
        raise ConfigError("peers must be sections written [[peer]]: correct the file with an editor")
    return [str(peer.get("name", "")) for peer in peers]


def _index(plain: dict[str, Any], name: str) -> int:
    names = _names(plain)
    if name not in names:
        raise unknown_peer(name, names)
    return names.index(name)


def _offered(plain: dict[str, Any], key: str) -> list[str]:
    """A list of `[provide]`; [] when it is absent."""
    section = plain.get("provide", {})
    entries = section.get(key, []) if isinstance(section, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise ConfigError(f"{key} of [provide] is not a list of strings: correct the file with an editor")
    return entries


def _checked(text: str, plain: dict[str, Any]) -> str:
    try:
        if tomllib.loads(text) == plain:
            return text
    except ValueError:
        pass
    raise ConfigError("the file's layout cannot be edited safely: make the change with an editor")


def _value(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    return _list(value) if isinstance(value, list) else _quote(value)


def _quote(text: str) -> str:
    """A TOML basic string. JSON's escapes are valid in TOML; DEL must be escaped in addition."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _list(texts: Iterable[str]) -> str:
    return "[" + ", ".join(map(_quote, texts)) + "]"
