"""Networks behind NATs of every kind, and an internet between them.

    host ── router [── router] ── internet ── …          the internet: 192.0.2.1, 192.0.2.2, 2001:db8::1
    192.168.N.2    100.64.N.0/24    203.0.113.4N-2       N: the site's number, from 1

Each site has as many hosts as are asked for, in one LAN, and as many routers as kinds are named: the first is
next to the hosts. A site of kind NONE has one host, which is on the internet itself. With `ipv6` the hosts
have addresses of 2001:db8:1NN::/64 behind a stateful firewall, which a NAT's router is for IPv6.

The kinds are those of RFC 3489, section 5, which people still name; RFC 4787 would speak of mapping and
filtering. All routers are Linux with nftables. Mind that the input of a router must drop what it does not
know: one that answers (PORT_OPEN) keeps a conntrack entry for an early probe of the other side, and the
host's own packet to that side then gets another port.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from pathlib import Path

from lab.netns import LabError, Namespace, cable, namespaces
from lab.process import Process, until

NODE_HOSTS = ("192.0.2.1", "192.0.2.2")
NODE_HOST6 = "2001:db8::1"
LAN, WAN = "lan", "wan"


class Kind(Enum):
    """What a router does to UDP. Values are for tests' names and tables."""

    NONE = "none"
    FULL_CONE = "full cone"  # lets anybody in
    ADDRESS = "address restricted"  # lets in whom the host has sent something, from any port
    PORT = "port restricted"  # lets in answers alone
    SYMMETRIC = "symmetric"  # the same, and another port for each destination
    PORT_OPEN = "open router"  # as PORT, and its own input answers
    BLOCKED = "udp blocked"  # as PORT, for TCP


@dataclass(frozen=True, slots=True)
class Site:
    """The hosts behind one NAT, and the routers before them, from the inside to the outside."""

    hosts: tuple[Namespace, ...]
    addresses: tuple[str, ...]  # of the hosts
    routers: tuple[Namespace, ...]
    public: str  # the address that others see
    addresses6: tuple[str, ...] = ()

    @property
    def host(self) -> Namespace:
        return self.hosts[0]

    def expire_after(self, seconds: int) -> None:
        """Let the routers forget a mapping when nothing has used it for so long."""
        for router in self.routers:
            for name in ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"):
                router.sysctl(f"net.netfilter.{name}", str(seconds))

    def forget(self) -> None:
        """Lose all mappings, as a router that starts again."""
        for router in self.routers:
            done = router.run(["conntrack", "-F"])
            if done.returncode:
                raise LabError(f"conntrack -F: {done.stderr}")


class NatLab:
    """An internet, and the sites that are added to it; `undo` is told to remove everything."""

    def __init__(self, undo: ExitStack, prefix: str = "ncnat") -> None:
        self._undo = undo
        self._prefix = prefix
        self._sites = 0
        (self.internet,) = namespaces(undo, prefix, "internet")
        for address in NODE_HOSTS:
            self.internet.ip(f"address add {address}/32 dev lo")
        self.internet.ip(f"address add {NODE_HOST6}/128 dev lo nodad")
        _forward(self.internet)

    def site(self, *kinds: Kind, hosts: int = 1, ipv6: bool = False) -> Site:
        """A new network: behind one router for each kind, or (NONE) a host without any."""
        self._sites += 1
        number = self._sites
        public, gateway = f"203.0.113.{4 * number - 2}", f"203.0.113.{4 * number - 3}"
        public6, gateway6 = f"2001:db8:{number:x}::2", f"2001:db8:{number:x}::1"
        roles = [f"h{number}-{n}" for n in range(1, hosts + 1)]
        if kinds == (Kind.NONE,):
            (host,) = namespaces(self._undo, self._prefix, roles[0])
            self._connect(host, number, public, gateway, public6, gateway6)
            return Site((host,), (public,), (), public, (public6,))
        routers = namespaces(self._undo, self._prefix, *(f"r{number}-{n}" for n in range(1, len(kinds) + 1)))
        machines = namespaces(self._undo, self._prefix, *roles)
        self._connect(routers[-1], number, public, gateway, public6, gateway6)
        for n, (inner, outer) in enumerate(pairwise(routers), 1):
            near, far = f"100.{63 + n}.{number}.2", f"100.{63 + n}.{number}.1"
            cable(inner, WAN, [f"{near}/24"], outer, LAN, [f"{far}/24"])
            inner.ip(f"route add default via {far}")
        self._lan(routers[0], machines, number, ipv6=ipv6)
        addresses = tuple(f"192.168.{number}.{n}" for n in range(2, hosts + 2))
        insides = (addresses[0], *(f"100.{63 + n}.{number}.2" for n in range(1, len(kinds))))
        for router, kind, inside in zip(routers, kinds, insides, strict=True):
            _forward(router)
            _load(router, rules(kind, inside) + (FIREWALL6 if ipv6 else ""))
        addresses6: tuple[str, ...] = ()
        if ipv6:
            addresses6 = tuple(f"2001:db8:{0x100 + number:x}::{n:x}" for n in range(2, hosts + 2))
            self.internet.ip(f"route add 2001:db8:{0x100 + number:x}::/64 via {public6}")
        return Site(machines, addresses, routers, public, addresses6)

    def _connect(
        self, machine: Namespace, number: int, public: str, gateway: str, public6: str, gateway6: str
    ) -> None:
        cable(
            *(machine, WAN, [f"{public}/30", f"{public6}/64"]),
            *(self.internet, f"site{number}", [f"{gateway}/30", f"{gateway6}/64"]),
        )
        machine.ip(f"route add default via {gateway}")
        machine.ip(f"route add default via {gateway6}")

    def _lan(self, router: Namespace, machines: tuple[Namespace, ...], number: int, *, ipv6: bool) -> None:
        prefix6 = f"2001:db8:{0x100 + number:x}::"
        router.ip(f"link add {LAN} type bridge")
        router.ip(f"address add 192.168.{number}.1/24 dev {LAN}")
        if ipv6:
            router.ip(f"address add {prefix6}1/64 dev {LAN} nodad")
        router.ip(f"link set {LAN} up")
        for n, machine in enumerate(machines, 2):
            six = [f"{prefix6}{n:x}/64"] if ipv6 else []
            cable(machine, "eth0", [f"192.168.{number}.{n}/24", *six], router, f"port{n}", [])
            router.ip(f"link set port{n} master {LAN}")
            machine.ip(f"route add default via 192.168.{number}.1")
            if ipv6:
                machine.ip(f"route add default via {prefix6}1")


def rules(kind: Kind, inside: str) -> str:
    """The nftables rules of a router; what cones let in goes to `inside`, its only host.

    `masquerade` keeps a port where it is free, so it is endpoint-independent for a few sockets.
    """
    let_in = {
        Kind.FULL_CONE: f"iifname {WAN} meta l4proto udp dnat to {inside}",
        Kind.ADDRESS: f"iifname {WAN} meta l4proto udp ip saddr @seen dnat to {inside}",
    }.get(kind, "")
    note = f"iifname {LAN} add @seen {{ ip daddr }}" if kind is Kind.ADDRESS else ""
    block = f"iifname {LAN} meta l4proto udp drop" if kind is Kind.BLOCKED else ""
    random = " random,fully-random" if kind is Kind.SYMMETRIC else ""
    policy = "accept" if kind is Kind.PORT_OPEN else "drop"
    return f"""
table ip router {{
    set seen {{ type ipv4_addr; flags dynamic,timeout; timeout 60s; size 4096; }}
    chain outgoing {{
        type nat hook postrouting priority srcnat
        oifname {WAN} masquerade{random}
    }}
    chain incoming {{
        type nat hook prerouting priority dstnat
        {let_in}
    }}
    chain input {{
        type filter hook input priority filter; policy {policy}
        ct state established,related accept
        iifname {{ lo, {LAN} }} accept
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop
        {block}
        {note}
        ct state established,related accept
        ct status dnat accept
        iifname {LAN} accept
    }}
}}
"""


FIREWALL6 = f"""
table ip6 firewall {{
    chain forward {{
        type filter hook forward priority filter; policy drop
        ct state established,related accept
        iifname {LAN} accept
    }}
}}
"""


def _forward(router: Namespace) -> None:
    router.sysctl("net.ipv4.ip_forward", "1")
    router.sysctl("net.ipv6.conf.all.forwarding", "1")


def _load(router: Namespace, text: str) -> None:
    done = router.run(["nft", "-f", "-"], input_text=text)
    if done.returncode:
        raise LabError(f"nft: {done.stderr}")


MAPPED_ADDRESS = "11.0.0.1"  # miniupnpd maps nothing at addresses of documentation


def serve_mappings(site: Site, lab: NatLab, folder: Path, *, pcp: bool, upnp: bool) -> Process:
    """Run miniupnpd on the router next to the hosts: PCP and NAT-PMP, or UPnP, or both.

    The router gets `MAPPED_ADDRESS` besides, so only one site of a lab can have this. At a site with IPv6 it
    also opens the firewall for that. May be run again when it has ended.
    """
    router = site.routers[0]
    router.ip(f"address replace {MAPPED_ADDRESS}/32 dev {WAN}")
    lab.internet.ip(f"route replace {MAPPED_ADDRESS}/32 via {site.public}")
    if site.addresses6:  # what one table accepts, another one could still drop
        _load(router, "table ip6 firewall\ndelete table ip6 firewall\n")
    _load(router, _MINIUPNPD_TABLE)
    config = folder / "miniupnpd.conf"
    config.write_text(
        f"ext_ifname={WAN}\next_ip={MAPPED_ADDRESS}\nlistening_ip={LAN}\nhttp_port=5000\n"
        f"ipv6_disable={'no' if site.addresses6 else 'yes'}\n"
        f"enable_natpmp={'yes' if pcp else 'no'}\nenable_upnp={'yes' if upnp else 'no'}\nsecure_mode=yes\n"
        "upnp_table_name=upnp\nupnp_nat_table_name=upnp\nuuid=73b3b36e-0000-4000-8000-000000000000\n"
        f"min_lifetime=10\nlease_file={folder / 'leases'}\n"
    )
    command = ["miniupnpd", "-d", "-f", str(config), "-P", str(folder / "miniupnpd.pid")]
    log = folder / "miniupnpd.log"
    log.unlink(missing_ok=True)
    process = Process(router, command, log)
    last = "Listening for NAT-PMP/PCP traffic" if pcp else "HTTP listening"
    until(lambda: last in process.text(), "miniupnpd to listen", process=process)
    return process


_MINIUPNPD_TABLE = f"""
table inet upnp
delete table inet upnp
table inet upnp {{
    chain forward {{
        type filter hook forward priority 0
        jump miniupnpd
        meta nfproto ipv6 iifname {WAN} ct state new drop
    }}
    chain prerouting {{ type nat hook prerouting priority -100; jump prerouting_miniupnpd; }}
    chain postrouting {{ type nat hook postrouting priority 100; jump postrouting_miniupnpd; }}
    chain miniupnpd {{ }}
    chain prerouting_miniupnpd {{ }}
    chain postrouting_miniupnpd {{ }}
}}
"""
