"""Single values: a text from the configuration file or from a command's option becomes a checked value.

Each function raises `ConfigError` with one line that says what is wrong and what to write instead.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, time
from ipaddress import IPv6Address, IPv6Network, ip_address, ip_interface, ip_network
from typing import get_args
from urllib.parse import urlsplit

from nconnect.errors import ConfigError
from nconnect.model import (
    Address,
    AllowRule,
    DirectMode,
    Exposed,
    InterfaceAddress,
    NknAddress,
    Prefix,
    ProvidedSubnet,
    Service,
)

DIRECT_MODES: tuple[DirectMode, ...] = get_args(DirectMode)
MAX_INTERFACE_NAME = 15  # IFNAMSIZ of linux/if.h, less the final zero
MAX_IDENTIFIER = 63  # guessed: as a DNS label; every message contains the address
MAX_PEER_NAME = 63

_INTERFACE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_IDENTIFIER = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_SUB_CLIENT = re.compile(r"__\d+__")
_PEER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_HEX_32 = re.compile(r"[0-9a-fA-F]{64}")
_PIN = re.compile(r"sha256=[0-9a-f]{64}")
_DURATION = re.compile(r"(\d{1,9})([mhdw])")
_DURATION_S = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_RULE_FORM = "PREFIX[:PORT[-PORT]][/tcp|/udp|/icmp], such as 192.168.50.10:8000/tcp"
_PROTOCOLS = ("tcp", "udp", "icmp")

# Curve25519's field, and the curve -x^2 + y^2 = 1 + d x^2 y^2 of RFC 8032, section 5.1.
_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER = (0, 1, _P - 1, _ORDER_8, _P - _ORDER_8)  # y of the eight points that no key may be


def split_commas(texts: Iterable[str]) -> tuple[str, ...]:
    """The values of an option that may be repeated and may hold several values between commas."""
    return tuple(part.strip() for text in texts for part in text.split(",") if part.strip())


def check_interface_name(name: str) -> str:
    """A name that the kernel accepts for a TUN device; it is also the stem of the file's name."""
    if len(name) > MAX_INTERFACE_NAME:
        raise ConfigError(
            f"the interface name {name!r} has {len(name)} characters, the kernel allows {MAX_INTERFACE_NAME}:"
            " give the configuration file a shorter name"
        )
    if not _INTERFACE_NAME.fullmatch(name) or name in ("lo", "all", "default"):
        raise ConfigError(
            f"{name!r} cannot be an interface name: name the configuration file like nc0.toml,"
            " with letters, digits, '-', '_' and '.'"
        )
    return name


def check_identifier(text: str) -> str:
    """The part of our NKN address before the key; may be empty."""
    if text and (len(text) > MAX_IDENTIFIER or not _IDENTIFIER.fullmatch(text)):
        raise ConfigError(
            f"{text!r} cannot be an identifier:"
            f" use at most {MAX_IDENTIFIER} letters, digits, '-', '_' and '.'"
        )
    if _SUB_CLIENT.fullmatch(text.partition(".")[0]):
        raise ConfigError(
            f"{text!r} cannot be an identifier: the network reserves names such as `__0__`, choose another"
        )
    return text


def check_peer_name(text: str) -> str:
    """The name by which commands refer to a peer."""
    if len(text) > MAX_PEER_NAME or not _PEER_NAME.fullmatch(text):
        raise ConfigError(
            f"{text!r} cannot be a peer's name: use at most {MAX_PEER_NAME} letters, digits,"
            " '-', '_' and '.', beginning with a letter or digit"
        )
    return text


def parse_seed(text: str) -> bytes:
    """An Ed25519 seed, 64 hex digits. The text is a secret, so the error does not quote it."""
    text = text.strip()
    if not _HEX_32.fullmatch(text):
        raise ConfigError(
            f"must be 64 hex digits, this has {len(text)} characters"
            if len(text) != 64
            else "must be 64 hex digits, this contains other characters"
        )
    return bytes.fromhex(text)


def parse_key(text: str) -> bytes:
    """A preshared key: 32 bytes as 64 hex digits or as base64. The error does not quote it."""
    text = text.strip()
    if _HEX_32.fullmatch(text):
        return bytes.fromhex(text)
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ConfigError("must be 32 bytes, as 64 hex digits or base64 (make one: openssl rand -hex 32)")
    return key


def parse_peer_address(text: str) -> NknAddress:
    """A peer's NKN address, `identifier.key` or the key alone, whose key is a usable Ed25519 point."""
    address = NknAddress.parse(text)
    if address.bare != address:
        raise ConfigError(f"{text!r} is the address of one link: give {address.bare} instead")
    if address.identifier and not _IDENTIFIER.fullmatch(address.identifier):
        raise ConfigError(f"{text!r} is not an NKN address: its identifier has invalid characters")
    if not _is_usable_point(address.public_key):
        raise ConfigError(
            f"the key in {text!r} is not a valid Ed25519 key, probably a digit is wrong"
            " (ask the other side for the output of `nconnect address` again)"
        )
    return address


def parse_addresses(texts: Iterable[str]) -> tuple[InterfaceAddress, ...]:
    """The interface's own addresses, each with its prefix length: 10.86.0.1/24."""
    return tuple(map(_parse_address, texts))


def parse_prefix(text: str) -> Prefix:
    """A prefix without host bits; a bare address means the full-length prefix."""
    try:
        prefix = ip_network(text, strict=False)
    except ValueError:
        raise ConfigError(f"{text!r} is not an IP prefix: write one such as 192.168.50.0/24") from None
    address = text.partition("/")[0]
    if int(ip_address(address)) != int(prefix.network_address):
        raise ConfigError(
            f"{text!r} has host bits set: write {prefix} for the network,"
            f" or {address}/{prefix.max_prefixlen} for the host"
        )
    return prefix


def parse_prefixes(texts: Iterable[str]) -> tuple[Prefix, ...]:
    """A peer's allowed_ips, or another list of prefixes that packets may come from and go to."""
    return tuple(map(_unicast, map(parse_prefix, texts)))


def parse_subnet(text: str) -> ProvidedSubnet:
    """A provided subnet: PREFIX, or REAL=SEEN, which maps one to one."""
    real_text, is_mapped, seen_text = text.partition("=")
    real = _unicast(parse_prefix(real_text.strip()))
    if not is_mapped:
        return ProvidedSubnet(real, real)
    seen = _unicast(parse_prefix(seen_text.strip()))
    if (real.version, real.prefixlen) != (seen.version, seen.prefixlen):
        raise ConfigError(
            f"{text!r} maps a /{real.prefixlen} to a /{seen.prefixlen}: both sides of '=' must be"
            " of the same length and both IPv4 or both IPv6"
        )
    return ProvidedSubnet(real, seen)


def parse_service(text: str) -> Service:
    """A port, or a range of ports, of the provider itself: 8000/tcp, 5000-5010/udp."""
    ports_text, _, protocol = text.partition("/")
    if protocol not in ("tcp", "udp"):
        number = ports_text if ports_text.isdecimal() else "8000"
        raise ConfigError(f"{text!r} is not a service: write PORT/tcp or PORT/udp, such as {number}/tcp")
    return Service(_parse_ports(ports_text, text), protocol)


def parse_expose(text: str) -> Exposed:
    """A TCP server on this machine's loopback: 127.0.0.1:11434, [::1]:11434."""
    host, port = parse_listen(text)
    if not ip_address(host).is_loopback:
        raise ConfigError(
            f"{text!r} is not a loopback address: expose is for servers that listen on 127.0.0.1 or [::1];"
            " for others use services or subnets"
        )
    return Exposed(host, port)


def parse_listen(text: str) -> tuple[str, int]:
    """`ADDRESS:PORT`, an IPv6 address in brackets."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        raise ConfigError(f"{text!r} is not ADDRESS:PORT: write one such as 127.0.0.1:11434") from None
    if not colon or bracketed != (address.version == 6):
        raise ConfigError(f"{text!r} is not ADDRESS:PORT: write an IPv6 address in brackets, [::1]:11434")
    return str(address), _parse_port(port, text)


def check_host(text: str) -> str:
    """An address or name, to listen on or to advertise, without port and without brackets."""
    if not text or len(text) > 255 or re.search(r"[\s/\[\]]", text) or text.count(":") == 1:
        raise ConfigError(f"{text!r} is not a host: write an address or a name, without port")
    return text


def parse_allow_rule(text: str) -> AllowRule:
    """One entry of `allow`: PREFIX[:PORT[-PORT]][/tcp|/udp|/icmp], an IPv6 prefix with a port in brackets.

    After the last "/", digits are a prefix length and a word is a protocol.
    """
    rest, protocol = text.strip(), None
    head, slash, tail = rest.rpartition("/")
    if slash and tail and not tail.isdecimal() and "]" not in tail and ":" not in tail and "." not in tail:
        if tail not in _PROTOCOLS:
            raise ConfigError(f"{text!r}: {tail!r} is not a protocol that can be allowed: write {_RULE_FORM}")
        rest, protocol = head, tail
    ports_text = None
    if rest.startswith("["):
        prefix_text, bracket, after = rest[1:].partition("]")
        if not bracket or (after and not after.startswith(":")):
            raise ConfigError(
                f"{text!r} is not an allow entry: write [fd00::/64]:8000/tcp for IPv6 with a port"
            )
        ports_text = after[1:] if after else None
    elif rest.count(":") == 1:
        prefix_text, _, ports_text = rest.partition(":")
    else:
        prefix_text = rest
    if not prefix_text or prefix_text.isdecimal():
        raise ConfigError(f"{text!r} is not an allow entry: write {_RULE_FORM}")
    prefix = _unicast(parse_prefix(prefix_text))
    if ports_text is None:
        return AllowRule(prefix, None, protocol)
    if protocol == "icmp":
        raise ConfigError(f"{text!r}: icmp has no ports: write {prefix_text}/icmp")
    return AllowRule(prefix, _parse_ports(ports_text, text), protocol)


def format_allow_rule(rule: AllowRule) -> str:
    """The text that `parse_allow_rule` reads as this rule."""
    is_host = rule.prefix.prefixlen == rule.prefix.max_prefixlen
    text = str(rule.prefix.network_address if is_host else rule.prefix)
    if rule.ports is not None:
        first, last = rule.ports
        text = f"[{text}]" if rule.prefix.version == 6 else text
        text += f":{first}" if first == last else f":{first}-{last}"
    return f"{text}/{rule.protocol}" if rule.protocol else text


def parse_expires(text: str, *, now: float) -> float | None:
    """When a peer's access ends, as seconds since the Unix epoch: 2026-12-31 (0:00 UTC), 30d, 24h, never.

    `now` is the wall clock's time, from which durations count.
    """
    text = text.strip()
    if text == "never":
        return None
    if match := _DURATION.fullmatch(text):
        at = now + int(match[1]) * _DURATION_S[match[2]]
    else:
        try:
            moment = datetime.fromisoformat(text)
            at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            raise ConfigError(
                f"{text!r} is not a time: write a date such as 2026-12-31, 30d, or never"
            ) from None
    if at <= now:
        raise ConfigError(f"{text!r} is in the past: to end a peer's access now, use `nconnect peer remove`")
    if at > datetime.max.replace(tzinfo=UTC).timestamp():
        raise ConfigError(f"{text!r} is too far away: write never")
    return at


def parse_expires_value(value: object) -> float:
    """The `expires` of a file: a TOML date-time with an offset, or a date (then 0:00 UTC)."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ConfigError(f"{value.isoformat()} has no time zone: write {value.isoformat()}Z")
        try:
            return value.timestamp()
        except OverflowError:
            raise ConfigError(f"{value} is out of range: write a time such as 2026-12-31T00:00:00Z") from None
    if isinstance(value, date):
        return datetime.combine(value, time(), UTC).timestamp()
    raise ConfigError("must be a time without quotes, such as 2026-12-31T00:00:00Z")


def parse_seed_rpc(text: str) -> str:
    """A seed's RPC address: http://HOST:PORT, https://HOST[:PORT], or the latter with a pin, #sha256=…"""
    text, mark, pin = text.partition("#")
    pin = pin.lower()
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        url, port = urlsplit(""), None
    if url.scheme not in ("http", "https") or not url.hostname or re.search(r"\s", text):
        raise ConfigError(f"{text!r} is not a seed's address: write http://HOST:30003")
    if port is None and url.scheme == "http":
        raise ConfigError(f"{text!r} has no port: write http://{url.netloc}:30003")
    if url.query or url.username is not None:
        raise ConfigError(f"{text!r} is not a seed's address: write only {url.scheme}://HOST:30003")
    text = text.rstrip("/")
    if not mark:
        return text
    if not _PIN.fullmatch(pin):
        raise ConfigError(
            f"{text}#… does not pin a certificate: write {text}#sha256= and the 64 hex digits"
            " that `nconnect node status` shows"
        )
    if url.scheme != "https":
        raise ConfigError(f"{text}#… pins a certificate, but http has none: write https://{url.netloc}#{pin}")
    return f"{text}#{pin}"


def parse_stun_ports(value: object) -> tuple[int, ...]:
    """The UDP ports on which a node answers STUN: two in a list; () for 0 or an empty list."""
    if value in (0, []) and not isinstance(value, bool):
        return ()
    ports = value if isinstance(value, list) else []
    good = [port for port in ports if isinstance(port, int) and not isinstance(port, bool)]
    if len(good) != 2 or len(ports) != 2 or good[0] == good[1] or not all(0 < p < 65536 for p in good):
        raise ConfigError("must be two different ports, such as [30006, 30007], or 0 for none")
    return tuple(good)


def parse_stun_server(text: str) -> tuple[str, int]:
    """HOST:PORT of a STUN server, UDP; an IPv6 address in brackets."""
    host, colon, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    if not colon or bracketed != (":" in bare):
        raise ConfigError(
            f"{text!r} is not HOST:PORT: write one such as stun.example:3478, [2001:db8::1]:3478"
        )
    return check_host(bare), _parse_port(port, text)


def parse_direct(text: str) -> DirectMode:
    """Whether direct paths are used: on, no-host (this device's own addresses are not told) or off."""
    for mode in DIRECT_MODES:
        if mode == text.strip():
            return mode
    raise ConfigError(f"{text!r} is unknown: write one of {', '.join(DIRECT_MODES)}")


def _parse_address(text: str) -> InterfaceAddress:
    try:
        interface = ip_interface(text)
    except ValueError:
        raise ConfigError(
            f"{text!r} is not an address with a prefix length: write one such as 10.86.0.1/24"
        ) from None
    address, network = interface.ip, interface.network
    if "/" not in text:
        raise ConfigError(f"{text!r} has no prefix length: write {text}/{24 if address.version == 4 else 64}")
    if _is_special(address) or address.is_unspecified:
        raise ConfigError(f"{text!r} cannot be a tunnel address: use a private one such as 10.86.0.1/24")
    if network.num_addresses > 2 and address == network.network_address:
        raise ConfigError(f"{text!r} is the network itself: write {address + 1}/{network.prefixlen}")
    if address.version == 4 and network.num_addresses > 2 and address == network.broadcast_address:
        raise ConfigError(
            f"{text!r} is the network's broadcast address: write {address - 1}/{network.prefixlen}"
        )
    return interface


def _unicast(prefix: Prefix) -> Prefix:
    if _is_special(prefix.network_address):
        raise ConfigError(
            f"{prefix} cannot pass a tunnel: it is a loopback, link-local, multicast or IPv4-mapped prefix"
        )
    if isinstance(prefix, IPv6Network) and prefix.network_address.scope_id:
        raise ConfigError(f"{prefix} has a scope: write it without '%'")
    return prefix


def _is_special(address: Address) -> bool:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address.is_loopback or address.is_link_local or address.is_multicast or mapped is not None


def _parse_port(text: str, whole: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise ConfigError(f"{whole!r}: {text!r} is not a port: write a number from 1 to 65535")
    return int(text)


def _parse_ports(text: str, whole: str) -> tuple[int, int]:
    first_text, dash, last_text = text.partition("-")
    first = _parse_port(first_text, whole)
    last = _parse_port(last_text, whole) if dash else first
    if last < first:
        raise ConfigError(f"{whole!r}: the range {text} is reversed: write {last}-{first}")
    return first, last


def _is_usable_point(key: bytes) -> bool:
    """Whether 32 bytes are a point of Ed25519's curve (RFC 8032, 5.1.3), and not one of small order.

    Half of all mistyped keys are not on the curve. u/v is a square exactly if u*v is.
    """
    y = int.from_bytes(key, "little") & (2**255 - 1)
    if y >= _P:
        return False
    square = (y * y - 1) * (_D * y * y + 1) % _P
    if square and pow(square, (_P - 1) // 2, _P) != 1:
        return False
    return y not in _SMALL_ORDER
