"""A configuration file's text -> `Config`, with every mistake reported at once."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from nconnect.config import values
from nconnect.config.accept_routes import read_accept_routes
from nconnect.config.bounds import check_why, parse_quota, parse_rate
from nconnect.config.locate import KeyPath
from nconnect.config.proxy import parse_proxy_setting
from nconnect.config.servers import read_hosts, read_readers, read_servers
from nconnect.config.table import (
    Problems,
    Section,
    T,
    boolean,
    integer,
    one_of,
    sections,
    string,
)
from nconnect.errors import ConfigError
from nconnect.model import (
    DEFAULT_MTU,
    MAX_MB,
    MIN_QUEUE_MB,
    PUBLIC_SEED_RPC,
    Config,
    DirectMode,
    InterfaceAddress,
    MetricsConfig,
    NetworkConfig,
    NodeConfig,
    PeerConfig,
    Prefix,
    ProvideConfig,
    ProvidedSubnet,
    StreamsConfig,
)

MIN_MTU = 576  # RFC 791: what every IPv4 host takes
MIN_MTU_IPV6 = 1280  # RFC 8200, section 5
MAX_MTU = 65535
_MAX_LINKS = 8
_MAX_FLOWS = 1 << 24  # guessed: far above what a kernel tracks by default (262,144)
CIPHERS = ("auto", "aes256gcm", "chacha20poly1305")


def parse_config(
    text: str,
    *,
    interface: str,
    source: str | None = None,
    read_seed_file: Callable[[str], str] | None = None,
    public_key_of: Callable[[bytes], bytes] | None = None,
) -> Config:
    """Read and check a configuration file's text.

    `interface` is the device's name, `source` the file's name for messages. `read_seed_file` returns the
    text of the file that `seed_file` names, or raises `ConfigError`; without it `seed_file` is refused.
    `public_key_of` returns the public key of a seed, to detect a peer that is this device itself; without it
    that is not checked. Raises `ConfigError` with one line for each mistake:
    `FILE:LINE: [section] field: what is wrong, what to do`.
    """
    source = source or f"{interface}.toml"
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_syntax_problem(source, text, str(error))) from None
    except (ValueError, RecursionError):  # numbers of thousands of digits, brackets thousands deep
        raise ConfigError(f"{source}:1: not a configuration: a value is too large or too deep") from None
    problems = Problems(source, text)
    try:
        values.check_interface_name(interface)
    except ConfigError as error:
        problems.add((), "", "", str(error))
    root = Section(document, (), "", problems)
    config = _read_config(root, interface, read_seed_file)
    root.finish()
    _check_whole(config, problems, public_key_of)
    problems.raise_any()
    return config


def parse_peer(content: dict[str, Any]) -> PeerConfig:
    """Read one `[[peer]]` section by itself. Raises `ConfigError` with one line for each mistake."""
    problems = Problems("", "")
    section = Section(content, ("peer", 0), "", problems)
    peer = _read_peer(section)
    section.finish()
    try:
        problems.raise_any()
    except ConfigError as error:
        raise ConfigError(text.partition(": ")[2] for text in error.problems) from None
    assert peer is not None, "without an address there is a problem"
    return peer


def _syntax_problem(source: str, text: str, message: str) -> str:
    what, _, where = message.rpartition(" (at ")
    line = where.removeprefix("line ").partition(",")[0]
    number = int(line) if line.isdecimal() else text.rstrip().count("\n") + 1  # "(at end of document)"
    return " ".join(f"{source}:{number}: not TOML: {what[:1].lower()}{what[1:]}".split())


def _read_config(root: Section, interface: str, read_seed_file: Callable[[str], str] | None) -> Config:
    section = root.table("interface")
    if section is None:
        if "interface" not in root.content:
            root.problem("", "there is no [interface] section: make a file with `nconnect init`")
        section = Section(
            {"seed": "00" * 32, "address": ["10.0.0.1/8"]}, ("interface",), "interface", root.problems
        )
    seed = _read_seed(section, read_seed_file)
    identifier = section.take("identifier", lambda v: values.check_identifier(string(v)), "")
    address = section.take_list("address", lambda text: values.parse_addresses([text])[0])
    if not section.content.get("address") and not _has_local_address(root):
        section.problem("address", 'missing: write one such as address = ["10.86.0.1/24"]')
    lowest = MIN_MTU_IPV6 if any(a.version == 6 for a in address) else MIN_MTU
    config = Config(
        interface=interface,
        seed=seed,
        identifier=identifier,
        address=address,
        mtu=section.take("mtu", integer(lowest, MAX_MTU), DEFAULT_MTU),
        cipher=section.take("cipher", one_of(CIPHERS), "auto"),
        inbound=section.take("inbound", boolean, False),
        fail_closed=section.take("fail_closed", boolean, False),
        accept_pending=section.take("accept_pending", boolean, False),
        accept_routes=section.take("accept_routes", read_accept_routes, "private"),
        names=section.take("names", boolean, True),
        network=_read_network(root),
        node=_read_node(root),
        provide=_read_provide(root, address),
        streams=_read_streams(root),
        metrics=_read_metrics(root),
        peers=_read_peers(root),
        readers=read_readers(root),
    )
    section.finish()
    return config


def _has_local_address(root: Section) -> bool:
    """Whether a peer's section brings an address, or the last one that did has left (`nconnect leave`)."""
    interface, peers = root.content.get("interface"), root.content.get("peer")
    emptied = isinstance(interface, dict) and interface.get("address") == []
    brought = isinstance(peers, list) and any(isinstance(p, dict) and p.get("local_address") for p in peers)
    return emptied or brought


def _read_seed(section: Section, read_seed_file: Callable[[str], str] | None) -> bytes:
    def from_file(value: object) -> bytes:
        if read_seed_file is None:
            raise ConfigError("cannot be read here: write seed instead")
        try:
            return values.parse_seed(read_seed_file(string(value)))
        except ConfigError as error:
            raise ConfigError(f"{value}: {error}") from None

    nothing = bytes(32)
    both = ("seed" in section.content, "seed_file" in section.content)
    if both == (True, True):
        section.problem("seed_file", "given besides seed: keep one of the two")
    elif both == (False, False):
        section.problem("seed", "missing: make a file with `nconnect init`, or name a seed_file")
    seed = section.take("seed", lambda v: values.parse_seed(string(v)), nothing)
    return seed if both[0] else section.take("seed_file", from_file, nothing)


def _read_network(root: Section) -> NetworkConfig:
    section = root.table("network")
    if section is None:
        return NetworkConfig()
    seed_rpc = section.take_list("seed_rpc", values.parse_seed_rpc)
    if section.content.get("seed_rpc") == []:
        section.problem("seed_rpc", "is empty: name a seed, or delete the line to use the public network's")
    links = section.take("links", integer(1, _MAX_LINKS), 1)
    proxy = section.take("proxy", lambda v: parse_proxy_setting(string(v)), None)
    stun = section.take_list("stun", values.parse_stun_server)
    direct = section.take("direct", _direct, None)
    direct_port = section.take("direct_port", integer(1024, 65535), None)  # peers probe no other
    port_mapping = section.take("port_mapping", boolean, True)
    section.finish()
    return NetworkConfig(seed_rpc or PUBLIC_SEED_RPC, links, proxy, stun, direct, direct_port, port_mapping)


def _read_node(root: Section) -> NodeConfig | None:
    section = root.table("node")
    if section is None:
        return None
    port = integer(1, 65535)
    node = NodeConfig.of(
        section.take("listen", _host, ""),
        port=section.take("port", port, None),
        ws_port=section.take("ws_port", port, None),
        rpc_port=section.take("rpc_port", port, None),
        wss_port=section.take("wss_port", port, None),
        https_port=section.take("https_port", port, None),
        advertise=section.take("advertise", _host, None),
        verify_signatures=section.take("verify_signatures", boolean, False),
        tls=section.take("tls", boolean, False),
        tls_cert=section.take("tls_cert", _file, None),
        tls_key=section.take("tls_key", _file, None),
        connections_per_address=section.take("connections_per_address", integer(1, 1 << 20), None),
        queue_mb=section.take("queue_mb", integer(MIN_QUEUE_MB, MAX_MB), None),
        mail_mb=section.take("mail_mb", integer(0, MAX_MB), None),
        stun_ports=section.take("stun_ports", values.parse_stun_ports, None),
    )
    if "listen" not in section.content:
        section.problem("listen", 'missing: write listen = "0.0.0.0", or delete the section')
    seen: dict[int, str] = {}
    for name, number in node.ports().items():
        if number in seen:
            section.problem(name, f"the same as {seen[number]} ({number}): give each its own")
        seen.setdefault(number, name)
    if node.tls_key is not None and node.tls_cert is None:
        section.problem("tls_key", "without tls_cert: give the certificate too")
    for name in ("wss_port", "https_port"):
        if name in section.content and not node.has_tls:
            section.problem(name, "without TLS: write tls = true, or tls_cert")
    section.finish()
    return node


def _read_provide(root: Section, own: tuple[InterfaceAddress, ...]) -> ProvideConfig:
    section = root.table("provide")
    if section is None:
        return ProvideConfig()
    provide = ProvideConfig(
        subnets=section.take_list("subnets", values.parse_subnet),
        services=section.take_list("services", values.parse_service),
        expose=section.take_list("expose", values.parse_expose),
        masquerade=section.take("masquerade", boolean, True),
        mtu=section.take("mtu", integer(MIN_MTU, MAX_MTU), None),
    )
    provide = replace(provide, servers=read_servers(section, provide, own))
    provide = replace(provide, hosts=read_hosts(section, provide, own))
    _check_subnets(section, provide.subnets)
    for port in sorted(_duplicates(exposed.port for exposed in provide.exposed)):
        section.problem("expose", f"port {port} is there twice: a port can be only one server")
    section.finish()
    return provide


def _check_subnets(section: Section, subnets: tuple[ProvidedSubnet, ...]) -> None:
    for seen in sorted(_duplicates(subnet.seen for subnet in subnets), key=str):
        section.problem("subnets", f"{seen} is there twice: keep one, or map one with REAL=SEEN")
    mapped = [subnet for subnet in subnets if subnet.real != subnet.seen]
    for one in mapped:
        for other in subnets:
            if one is not other and one.seen != other.seen and _overlap(one.seen, other.seen):
                section.problem("subnets", f"{one.seen} overlaps {other.seen}: map to a prefix of its own")


def _read_streams(root: Section) -> StreamsConfig:
    section = root.table("streams")
    if section is None:
        return StreamsConfig()
    streams = StreamsConfig(nconnect=section.take("nconnect", boolean, False))
    section.finish()
    return streams


def _read_metrics(root: Section) -> MetricsConfig | None:
    section = root.table("metrics")
    if section is None:
        return None
    host, port = section.take("listen", lambda v: values.parse_listen(string(v)), ("127.0.0.1", 9586))
    if "listen" not in section.content:
        section.problem("listen", 'missing: write listen = "127.0.0.1:9586", or delete the section')
    section.finish()
    return MetricsConfig(host, port)


def _read_peers(root: Section) -> tuple[PeerConfig, ...]:
    peers: list[PeerConfig] = []
    nothing: tuple[dict[str, Any], ...] = ()
    for index, content in enumerate(root.take("peer", sections, nothing)):
        name = content.get("name")
        label = f"peer {name}" if isinstance(name, str) and name.isprintable() else f"peer {index + 1}"
        section = Section(content, ("peer", index), label, root.problems)
        peer = _read_peer(section)
        section.finish()
        if peer is not None:
            _check_peer(section, peer, peers)
            peers.append(peer)
    return tuple(peers)


def _read_peer(section: Section) -> PeerConfig | None:
    for key, example in (
        ("name", '"laptop"'),
        ("address", '"laptop.<64 hex digits>"'),
        ("allowed_ips", '["10.86.0.2/32"]'),
    ):
        if not section.content.get(key):
            section.problem(key, f"missing: write {key} = {example}")
    name = section.take("name", lambda v: values.check_peer_name(string(v)), "")
    address = section.take("address", lambda v: values.parse_peer_address(string(v)), None)
    allowed_ips = section.take_list("allowed_ips", lambda text: values.parse_prefixes([text])[0])
    allow = section.take_list("allow", values.parse_allow_rule)
    preshared_key = section.take("preshared_key", lambda v: values.parse_key(string(v)), None)
    expires_at = section.take("expires", values.parse_expires_value, None)
    max_flows = section.take("max_flows", integer(1, _MAX_FLOWS), None)
    direct = section.take("direct", _direct, None)
    rate = section.take("rate", lambda v: parse_rate(string(v)), None)
    quota = section.take("quota", lambda v: parse_quota(string(v)), None)
    paused = section.take("paused", lambda v: check_why(string(v)), None)
    local_address = section.take_list("local_address", lambda text: values.parse_addresses([text])[0])
    accept_routes = section.take("accept_routes", read_accept_routes, None)
    nconnect = section.take("nconnect", boolean, False)
    if address is None:
        return None
    has_allow = "allow" in section.content
    return PeerConfig(
        name, address, allowed_ips, allow if has_allow else None, preshared_key, expires_at, max_flows,
        direct, rate, quota, paused, local_address, accept_routes, nconnect,
    )  # fmt: skip


def _check_peer(section: Section, peer: PeerConfig, earlier: list[PeerConfig]) -> None:
    """Check what a peer must not share with the peers before it: name, key, prefixes."""
    for prefix in sorted(_duplicates(peer.allowed_ips), key=str):
        section.problem("allowed_ips", f"{prefix} is there twice: delete one", element=str(prefix))
    for other in earlier:
        if peer.name and peer.name == other.name:
            section.problem("name", f"there is another peer {peer.name!r}: give each its own name")
        if peer.address.public_key == other.address.public_key:
            section.problem("address", f"has the same key as peer {other.name!r}: delete one of the two")
        if peer.local_address or other.local_address:
            continue  # what two providers have in common is mapped
        for prefix in peer.allowed_ips:
            if prefix in other.allowed_ips:
                section.problem(
                    "allowed_ips",
                    f"{prefix} also belongs to peer {other.name!r}, and a prefix can lead to one peer only:"
                    " remove it from one of them, or give one of them a longer prefix",
                    element=str(prefix),
                )


def _check_whole(config: Config, problems: Problems, public_key_of: Callable[[bytes], bytes] | None) -> None:
    """Check what involves several sections."""
    for address in sorted(_duplicates(a.ip for a in config.address), key=str):
        problems.add(
            ("interface", "address"), "interface", "address", f"{address} is there twice: delete one"
        )
    own_key = public_key_of(config.seed) if public_key_of and any(config.seed) else None
    brought = [address for peer in config.peers for address in peer.local_address]
    if config.mtu < MIN_MTU_IPV6 and any(address.version == 6 for address in brought):
        problems.add(
            ("interface", "mtu"), "interface", "mtu",
            f"must be at least {MIN_MTU_IPV6}: a provider gave this device an IPv6 address",
        )  # fmt: skip
    own_hosts = {_host_prefix(address): address for address in config.address}
    for index, peer in enumerate(config.peers):
        label = f"peer {peer.name or index + 1}"
        if peer.address.public_key == own_key:
            path: KeyPath = ("peer", index, "address")
            problems.add(path, label, "address", "is this device's own address: give the other side's")
        for prefix in peer.allowed_ips:
            if prefix in own_hosts and not peer.local_address:
                problems.add(
                    ("peer", index, "allowed_ips"), label, "allowed_ips",
                    f"{prefix} is this interface's own address: give the peer's", str(prefix.network_address),
                )  # fmt: skip


def _host_prefix(address: InterfaceAddress) -> Prefix:
    return values.parse_prefix(str(address.ip))


def _overlap(a: Prefix, b: Prefix) -> bool:
    return a.version == b.version and a.overlaps(b)


def _duplicates(items: Iterable[T]) -> set[T]:
    seen: set[T] = set()
    twice: set[T] = set()
    for item in items:
        (twice if item in seen else seen).add(item)
    return twice


def _direct(value: object) -> DirectMode:
    return values.parse_direct(string(value))


def _host(value: object) -> str:
    return values.check_host(string(value))


def _file(value: object) -> PurePath:
    path = PurePath(string(value))
    if not path.is_absolute():
        raise ConfigError(f"{value!r} is not an absolute path: write one such as /etc/nconnect/node.pem")
    return path
