"""The values that all packages share: addresses, peers, and one interface's configuration.

All are frozen and hold no resource. `nconnect.config` reads them from a TOML file and checks them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import PurePath
from typing import Literal, NamedTuple
from urllib.parse import quote

from nconnect.errors import ConfigError

Buffer = bytes | bytearray | memoryview
Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network
InterfaceAddress = IPv4Interface | IPv6Interface
# Whether a direct path is used; "no-host": without telling this device's own addresses.
DirectMode = Literal["on", "no-host", "off"]
AcceptWord = Literal["private", "none", "all"]
AcceptRoutes = AcceptWord | tuple[Prefix, ...]
Rng = Callable[[int], bytes]  # so many random bytes: `os.urandom`, or a test's own

DEFAULT_INTERFACE = "nc0"
DEFAULT_MTU = 1500
WS_PORT = 30002
RPC_PORT = 30003
WSS_PORT = 30004
HTTPS_PORT = 30005
STUN_PORTS = (30006, 30007)
MIN_QUEUE_MB = 12  # a third of it holds the largest message
MAX_MB = 1 << 20
PUBLIC_SEED_RPC = (
    "http://seed.nkn.org:30003",
    *(f"http://mainnet-seed-{n:04d}.nkn.org:30003" for n in range(1, 9)),
)

MAX_ADDRESS_CHARS = 1024  # guessed: identifiers are names; nodes and clients keep addresses they see

_HEX_KEY = re.compile(r"[0-9a-f]{64}")
_SUB_CLIENT = re.compile(r"__\d+__")


def within(inner: Prefix, outer: Prefix) -> bool:
    """Whether `outer` contains `inner`, or is the same."""
    return inner.prefixlen >= outer.prefixlen and inner.network_address in outer


def join_addr(host: str, port: int) -> str:
    """HOST:PORT, an IPv6 address in brackets (RFC 3986, section 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Endpoint(NamedTuple):
    """An address and a port."""

    address: Address
    port: int

    def __str__(self) -> str:
        return join_addr(str(self.address), self.port)


@dataclass(frozen=True, slots=True)
class NknAddress:
    """An NKN address: `identifier.publickeyhex`, or the key alone (identifier "")."""

    identifier: str
    public_key: bytes  # Ed25519, 32 bytes

    @classmethod
    def parse(cls, text: str) -> NknAddress:
        """Read an address; raise `ConfigError` when it is not one."""
        identifier, _, key = text.strip().rpartition(".")
        if not _HEX_KEY.fullmatch(key):
            raise ConfigError(
                f"{text!r} is not an NKN address: it must end in a key of 64 hex digits"
                " (ask the other side for the output of `nconnect address`)"
            )
        return cls(identifier, bytes.fromhex(key))

    def __str__(self) -> str:
        key = self.public_key.hex()
        return f"{self.identifier}.{key}" if self.identifier else key

    @property
    def bare(self) -> NknAddress:
        """The address without a sub-client's `__k__.` prefix."""
        head, _, rest = self.identifier.partition(".")
        return NknAddress(rest, self.public_key) if _SUB_CLIENT.fullmatch(head) else self

    def sub_client(self, index: int) -> NknAddress:
        """The address of sub-client `index` of this one."""
        rest = f".{self.identifier}" if self.identifier else ""
        return NknAddress(f"__{index}__{rest}", self.public_key)


@dataclass(frozen=True, slots=True)
class AllowRule:
    """One entry of `allow`: what a peer may reach. `ports` None: all; `protocol` None: all."""

    prefix: Prefix
    ports: tuple[int, int] | None = None  # first, last
    protocol: str | None = None  # "tcp", "udp" or "icmp"


@dataclass(frozen=True, slots=True)
class Service:
    """A port range of the provider itself that peers may use."""

    ports: tuple[int, int]
    protocol: str  # "tcp" or "udp"


@dataclass(frozen=True, slots=True)
class ProvidedSubnet:
    """A subnet that is provided: its real prefix, and the prefix under which peers see it (1:1)."""

    real: Prefix
    seen: Prefix


@dataclass(frozen=True, slots=True)
class Exposed:
    """A TCP server on the provider's loopback, reachable at the tunnel address on the same port."""

    host: str
    port: int


class MappedPrefix(NamedTuple):
    """Two prefixes of the same length: a peer's own, and the one under which this device sees it (1:1)."""

    real: Prefix
    seen: Prefix


@dataclass(frozen=True, slots=True)
class Quota:
    """How much a peer may use, both ways together, in each calendar day or month (UTC)."""

    bytes: int
    period: Literal["day", "month"]


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """An authorised key and its settings."""

    name: str
    address: NknAddress
    allowed_ips: tuple[Prefix, ...]
    allow: tuple[AllowRule, ...] | None = None  # None: all that is provided; (): nothing
    preshared_key: bytes | None = field(default=None, repr=False)  # 32 bytes
    expires_at: float | None = None  # seconds since the Unix epoch
    max_flows: int | None = None  # connections that it may have open here; None: a share of the kernel's
    direct: DirectMode | None = None  # None: what [network] says
    rate: int | None = None  # bits a second, each way by itself; None: no limit
    quota: Quota | None = None
    paused: str | None = None  # why connections are refused for now, "" without a reason; None: they are not
    local_address: tuple[InterfaceAddress, ...] = ()  # this device's, in the tunnel network of this provider
    accept_routes: AcceptRoutes | None = None  # of what it offers; None: what [interface] says
    nconnect: bool = False  # it may come with the official nConnect, if [streams] lets such clients in
    mapped: tuple[MappedPrefix, ...] = ()  # in force, never in the file: see `nconnect.offers.accept`


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy on the way out of a network. `str()` gives HOST:PORT only: user and password are secret."""

    scheme: str  # "http" (CONNECT, RFC 9110 section 9.3.6) or "socks5" (RFC 1928)
    host: str  # a name or an address, without brackets
    port: int
    username: str = field(default="", repr=False)  # "": no login
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        return join_addr(self.host, self.port)

    @property
    def url(self) -> str:
        """With user and password: secret."""
        login = f"{quote(self.username, safe='')}:{quote(self.password, safe='')}@" if self.username else ""
        return f"{self.scheme}://{login}{self}"


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    seed_rpc: tuple[str, ...] = PUBLIC_SEED_RPC
    links: int = 1
    proxy: Proxy | Literal["none"] | None = None  # None: the environment's
    stun: tuple[tuple[str, int], ...] = ()  # host and UDP port of STUN servers, besides our own node
    direct: DirectMode | None = None  # None: "on", unless a proxy is used
    direct_port: int | None = None  # UDP, for direct paths; None: drawn once, and kept in the state folder
    port_mapping: bool = True  # whether the router is asked to send that port on to us


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """A node to run: on its own, or inside the daemon. A port that is None is not served."""

    listen: str
    ws_port: int | None = WS_PORT
    rpc_port: int | None = RPC_PORT
    advertise: str | None = None  # the host that clients are told; None: the one in the caller's request
    verify_signatures: bool = False
    tls_cert: PurePath | None = None  # a PEM file with the chain
    tls_key: PurePath | None = None
    wss_port: int | None = WSS_PORT  # served only with TLS, as https_port
    https_port: int | None = HTTPS_PORT
    port: int | None = None  # RPC and websocket on one port, over TLS where there is TLS
    tls: bool = False  # serve TLS also without tls_cert: with a certificate of its own
    connections_per_address: int | None = None  # of one IPv4 address or IPv6 /64; None: the node's default
    queue_mb: int | None = None  # MiB queued for clients that read slowly
    mail_mb: int | None = None  # MiB kept for clients that are offline; 0: nothing
    stun_ports: tuple[int, ...] | None = ()  # two UDP ports, or none; None: STUN_PORTS where they are free

    @property
    def has_tls(self) -> bool:
        return self.tls or self.tls_cert is not None

    @classmethod
    def of(
        cls,
        listen: str,
        *,
        port: int | None,
        ws_port: int | None,
        rpc_port: int | None,
        wss_port: int | None = None,
        https_port: int | None = None,
        advertise: str | None = None,
        verify_signatures: bool = False,
        tls: bool = False,
        tls_cert: PurePath | None = None,
        tls_key: PurePath | None = None,
        connections_per_address: int | None = None,
        queue_mb: int | None = None,
        mail_mb: int | None = None,
        stun_ports: tuple[int, ...] | None = None,
    ) -> NodeConfig:
        """A node with the official ports in place of those that are None, unless it has `port` for all.

        A node that has other ports than the official ones answers STUN only where its ports are given: it
        may be the second one on its machine, or be meant to have one port alone.
        """
        if stun_ports is None and (port, ws_port, rpc_port) != (None, None, None):
            stun_ports = ()
        if port is None:
            ws_port = WS_PORT if ws_port is None else ws_port
            rpc_port = RPC_PORT if rpc_port is None else rpc_port
            wss_port = WSS_PORT if wss_port is None else wss_port
            https_port = HTTPS_PORT if https_port is None else https_port
        return cls(
            listen, ws_port, rpc_port, advertise, verify_signatures, tls_cert, tls_key, wss_port, https_port,
            port, tls, connections_per_address, queue_mb, mail_mb, stun_ports,
        )  # fmt: skip

    def ports(self) -> dict[str, int]:
        """The ports that are served, by the field's name."""
        named = {"port": self.port, "ws_port": self.ws_port, "rpc_port": self.rpc_port}
        if self.has_tls:
            named |= {"wss_port": self.wss_port, "https_port": self.https_port}
        return {name: port for name, port in named.items() if port is not None}


@dataclass(frozen=True, slots=True)
class ProvidedServer:
    """A server with a name; its host is this machine's IPv4 loopback, or an address that peers reach."""

    name: str
    scheme: str  # "http" or "https"
    host: Address
    port: int
    path: str = ""  # what follows the port in its URL, without a slash at the end
    names: tuple[str, ...] = ()  # further names

    @property
    def is_local(self) -> bool:
        """Whether it is exposed at the tunnel address."""
        return self.host.is_loopback

    def url_at(self, host: str) -> str:
        """Its URL at another address."""
        default = {"http": 80, "https": 443}[self.scheme] == self.port
        place = join_addr(host, self.port)
        return f"{self.scheme}://{place.rpartition(':')[0] if default else place}{self.path}"

    @property
    def url(self) -> str:
        """Its URL on the provider's side."""
        return self.url_at(str(self.host))


@dataclass(frozen=True, slots=True)
class ProvidedHost:
    """A name that peers are told for an address that they reach here."""

    name: str
    address: Address


@dataclass(frozen=True, slots=True)
class ProvideConfig:
    subnets: tuple[ProvidedSubnet, ...] = ()
    services: tuple[Service, ...] = ()
    expose: tuple[Exposed, ...] = ()
    masquerade: bool = True
    mtu: int | None = None
    servers: tuple[ProvidedServer, ...] = ()
    hosts: tuple[ProvidedHost, ...] = ()

    @property
    def exposed(self) -> tuple[Exposed, ...]:
        """All servers on loopback: those of `expose`, and of `servers`."""
        named = (Exposed(str(server.host), server.port) for server in self.servers if server.is_local)
        return tuple(dict.fromkeys((*self.expose, *named)))

    @property
    def offers_something(self) -> bool:
        return bool(self.subnets or self.services or self.exposed)


@dataclass(frozen=True, slots=True)
class StreamsConfig:
    nconnect: bool = False  # whether clients of the official nConnect are let in


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Config:
    """One interface's configuration, checked."""

    interface: str
    seed: bytes = field(repr=False)  # Ed25519 seed, 32 bytes
    identifier: str
    address: tuple[InterfaceAddress, ...]
    mtu: int = DEFAULT_MTU
    cipher: str = "auto"  # "auto", "aes256gcm" or "chacha20poly1305"
    inbound: bool = False
    fail_closed: bool = False
    accept_pending: bool = False
    accept_routes: AcceptRoutes = "private"  # which prefixes of a provider are routed: `config.accept_routes`
    names: bool = True  # whether this machine resolves names of peers, beneath `.internal`
    network: NetworkConfig = NetworkConfig()
    node: NodeConfig | None = None
    provide: ProvideConfig = ProvideConfig()
    streams: StreamsConfig = StreamsConfig()
    metrics: MetricsConfig | None = None
    peers: tuple[PeerConfig, ...] = ()
    readers: tuple[str, ...] = ()  # users of this machine who may read about offers and usage


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a machine needs `handle_timeout` to be called, and why (for logs and tests)."""

    at: float  # seconds, of the same clock as `now`
    why: str
