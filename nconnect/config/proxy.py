"""Proxies: a proxy's URL, the environment's variables, and which destinations go through the proxy.

A URL may contain a password, so no error quotes it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Literal
from urllib.parse import unquote, urlsplit

from nconnect.errors import ConfigError
from nconnect.model import Address, Config, Proxy

FORM = "http://[USER:PASSWORD@]HOST:PORT or socks5://[USER:PASSWORD@]HOST:PORT"
# The first that is set counts, lower case first, as in curl. HTTPS_PROXY means CONNECT, which both RPC and
# websocket need, even without TLS. HTTP_PROXY is for plain HTTP requests, which nconnect does not send.
VARIABLES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
EXCEPTIONS = ("no_proxy", "NO_PROXY")

Setting = Proxy | Literal["none"] | None
Admit = Callable[[Address, int], Awaitable[str]]  # address and port

_SCHEMES = {"http": "http", "socks5": "socks5", "socks5h": "socks5", "socks": "socks5"}
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?\.?")
_ESCAPE = "in a user or password, write characters such as @ : / # % percent-encoded, for example %40"
_MAX_LOGIN_BYTES = 255  # RFC 1929 section 2


def parse_proxy_setting(text: str) -> Proxy | Literal["none"]:
    """The value of `[network] proxy`: a URL, or "none" to ignore the environment's proxy."""
    return "none" if text == "none" else parse_proxy(text)


def parse_proxy(text: str, *, bare: bool = False) -> Proxy:
    """Read a proxy's URL. `bare`: HOST:PORT without a scheme means HTTP. A `ConfigError` never quotes it."""
    if not text or not text.isprintable() or " " in text:
        raise ConfigError(f"is not a proxy's URL, it contains a space or a control character: write {FORM}")
    if "://" not in text and bare:
        text = f"http://{text}"
    scheme, separator, _ = text.partition("://")
    if not separator:
        raise ConfigError(f'is not a proxy\'s URL: write {FORM}, or "none"')
    if scheme.lower() not in _SCHEMES:
        shown = f"{scheme[:20]}://" if scheme.isascii() and scheme.isalnum() else "that scheme"
        raise ConfigError(f"{shown} is not a kind of proxy that nconnect supports: write {FORM}")
    try:
        url = urlsplit(text)
        host, port = url.hostname or "", url.port
    except ValueError:
        raise ConfigError(f"is not a proxy's URL: write {FORM}; {_ESCAPE}") from None
    if url.path not in ("", "/") or url.query or url.fragment:
        raise ConfigError(f"has a path, query or fragment: write {FORM}; {_ESCAPE}")
    if not _is_host(host):
        raise ConfigError(f"has no host: write {FORM}")
    if not port:
        raise ConfigError(f"has no port: write {FORM} (3128 and 8080 are usual, 1080 for SOCKS)")
    username, password = unquote(url.username or ""), unquote(url.password or "")
    kind = _SCHEMES[scheme.lower()]
    _check_login(kind, username, password)
    return Proxy(kind, host, port, username, password)


def _is_host(host: str) -> bool:
    try:
        return not getattr(ip_address(host), "scope_id", None)
    except ValueError:
        return bool(_HOST.fullmatch(host))


def _check_login(kind: str, username: str, password: str) -> None:
    if not username and not password:
        return
    if not (username + password).isprintable():
        raise ConfigError("has a control character in its user or password: correct it")
    if kind == "http":
        if not username or ":" in username:  # RFC 7617 section 2
            raise ConfigError(f"has no user, or one with a colon, which HTTP cannot carry: write {FORM}")
        return
    sizes = [len(part) for part in (username, password)]
    if not (username + password).isascii() or not all(1 <= size <= _MAX_LOGIN_BYTES for size in sizes):
        raise ConfigError(
            "has a user or password that SOCKS5 cannot carry: both must be 1 to 255 ASCII characters"
        )


@dataclass(frozen=True, slots=True)
class Proxies:
    """How connections leave: through one proxy except for some destinations, and to which addresses."""

    proxy: Proxy | None = None
    exceptions: tuple[str, ...] = ()  # entries of NO_PROXY, lower case
    own: frozenset[str] = frozenset()  # hosts of our own node, lower case
    source: str = ""  # where the proxy was set: "[network] proxy", "HTTPS_PROXY", …
    # Called before each connection, to the proxy too: why the address is forbidden, or "". None: all allowed.
    admit: Admit | None = field(default=None, compare=False, repr=False)

    def to(self, host: str, port: int) -> Proxy | None:
        """The proxy for a connection to this host (without brackets); None: connect directly.

        Names are compared as they are written, without a look-up. Connections to loopback and to our own
        node are always direct.
        """
        if self.proxy is None:
            return None
        name = host.lower().removesuffix(".")
        address = _address(name)
        if address is not None and (address.is_loopback or address.is_unspecified):
            return None
        if name == "localhost" or name.endswith(".localhost") or name in self.own:
            return None
        if any(_matches(entry, name, address, port) for entry in self.exceptions):
            return None
        return self.proxy


UNPROXIED = Proxies()


def of_environment(environ: Mapping[str, str]) -> Proxies:
    """From HTTPS_PROXY, ALL_PROXY and NO_PROXY; a `ConfigError` names the variable that is wrong."""
    name = next((name for name in VARIABLES if environ.get(name)), None)
    if name is None:
        return UNPROXIED
    try:
        proxy = parse_proxy(environ[name].strip(), bare=True)
    except ConfigError as error:
        raise ConfigError(f"the environment's {name}: {error}; or unset it") from None
    excepted = next((environ[name] for name in EXCEPTIONS if environ.get(name)), "")
    return Proxies(proxy, tuple(re.split(r"[,\s]+", excepted.lower().strip())), source=name)


def of_setting(setting: Setting, environ: Mapping[str, str], *, source: str = "--proxy") -> Proxies:
    """From a setting, or from the environment if it is None. `source`: where the setting was made."""
    if setting is None:
        return of_environment(environ)
    return UNPROXIED if setting == "none" else Proxies(setting, source=source)


def of_config(config: Config, environ: Mapping[str, str]) -> Proxies:
    """From a configuration, or from the environment if it has no setting."""
    chosen = of_setting(config.network.proxy, environ, source="[network] proxy")
    if config.node is None or chosen.proxy is None:
        return chosen
    hosts = (config.node.listen, config.node.advertise or "")
    own = frozenset(host.lower().removesuffix(".") for host in hosts if host)
    return Proxies(chosen.proxy, chosen.exceptions, own, chosen.source)


def _matches(entry: str, name: str, address: Address | None, port: int) -> bool:
    """Whether an entry of NO_PROXY matches this destination.

    An entry is *, NAME, .NAME, *.NAME, ADDRESS or PREFIX, perhaps with :PORT.
    """
    if entry == "*":
        return True
    host, colon, port_text = entry.rpartition(":")
    if colon and port_text.isascii() and port_text.isdecimal() and (host.endswith("]") or ":" not in host):
        if int(port_text[:6]) != port:
            return False
        entry = host
    entry = entry.removeprefix("[").removesuffix("]").removesuffix(".")
    if not entry:
        return False
    if address is None:
        suffix = entry.removeprefix("*").removeprefix(".")
        return bool(suffix) and (name == suffix or name.endswith(f".{suffix}"))
    try:
        network = ip_network(entry, strict=False)
    except ValueError:
        return False
    return network.version == address.version and address in network


def _address(host: str) -> Address | None:
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
