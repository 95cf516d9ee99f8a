"""What other programs on this machine do with the tunnel's packets: reads the kernel's rules and judges them.

Blocking: call it in a thread. It changes nothing.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from nconnect.config.proxy import UNPROXIED, Proxies
from nconnect.doctor import iptables_rules, nft_rules
from nconnect.doctor.firewalls import Obstacle, obstacles
from nconnect.doctor.netfilter import Table
from nconnect.doctor.passages import Site, Upstream
from nconnect.doctor.routing import Detour, View, find_detours, samples
from nconnect.errors import HostError
from nconnect.host.bypass import named
from nconnect.host.plan import IP_FORWARD, IPV6_FORWARDING, ROUTE_PROTOCOL
from nconnect.host.policy import MAIN, Question
from nconnect.io.errors import as_host_error
from nconnect.io.system import nftables, sysctl
from nconnect.io.system.netlink import Netlink
from nconnect.model import Config, Endpoint, Prefix, within

PROGRAM_S = 10.0
_PROGRAMS = {"ip": "iptables", "ip6": "ip6tables"}
# Tables of iptables-legacy, which nft does not show. Readable by root alone.
LEGACY = {"ip": Path("/proc/net/ip_tables_names"), "ip6": Path("/proc/net/ip6_tables_names")}


def detours(config: Config) -> tuple[list[Detour], dict[Prefix, str]]:
    """Which packets of the tunnel the kernel sends elsewhere, and the device to each provided subnet.

    Raises `HostError` when the kernel cannot be asked.
    """
    with as_host_error("cannot ask the kernel for its routes"), Netlink() as netlink:
        names = {link.index: link.name for link in netlink.links()}
        view = _view(config, netlink, names)
        return find_detours(view, lambda packet: netlink.where(packet, names))


def stopped(
    config: Config,
    endpoints: Iterable[Endpoint],
    devices: Mapping[Prefix, str] | None = None,
    *,
    proxies: Proxies = UNPROXIED,
    direct_port: int = 0,
) -> tuple[Obstacle, ...]:
    """Which packets of the tunnel other programs' firewalls stop, the daemon's own to `endpoints` too.

    `devices`: to provided subnets, as far as they were asked for. `proxies`: the way to seeds. `direct_port`:
    where direct TCP streams come in, if not 0. Raises `HostError` when nft cannot be run.
    """
    tables = firewall_tables()
    if not any(chain.hook for table in tables for chain in table.chains.values()):
        return ()
    with as_host_error("cannot ask the kernel for its routes"), Netlink() as netlink:
        names = {link.index: link.name for link in netlink.links()}
        held = frozenset(address.address.ip for address in netlink.addresses())
        leads = dict(devices or {})
        for subnet in config.provide.subnets:
            for sample in samples([subnet.real], [], held):
                leads.setdefault(subnet.real, netlink.where(Question(sample.address), names).interface)
        known = dict.fromkeys([*endpoints, *named(config, proxies)])
        found = [(place, netlink.where(Question(place[0]), names).interface) for place in known]
    spoken_to = tuple(Upstream(*place, device) for place, device in found if device not in ("", "lo"))
    reached = {p: device for p, device in leads.items() if device}
    site = Site(config, reached, held, spoken_to, direct_port)
    return tuple(_with_text(obstacle) for obstacle in obstacles(tables, site))


def firewall_tables() -> list[Table]:
    """All rules of this machine that can be read."""
    tables, extended = nft_rules.parse(nftables.ruleset())
    for family in sorted({family for family, _ in extended}):
        saved = {t.name: t for t in _saved(family, f"{_PROGRAMS.get(family)}-nft-save", "iptables")}
        tables = [
            saved.get(t.name, t) if t.family == family and (family, t.name) in extended else t for t in tables
        ]
    for family, names in LEGACY.items():
        try:
            in_use = names.read_text().split()
        except OSError:
            continue
        if in_use:
            program = f"{_PROGRAMS[family]}-legacy"
            tables += _saved(family, f"{program}-save", program.replace("ip6", "ip"))
    return tables


def _view(config: Config, netlink: Netlink, names: dict[int, str]) -> View:
    addresses = netlink.addresses()
    own = [held.address for held in addresses if names.get(held.index) == config.interface]
    routes = netlink.all_routes(names)
    networks = tuple(
        {address.network for address in own if address.network.prefixlen < address.max_prefixlen}
    )
    routed = {
        route.prefix
        for route in routes
        if (route.interface, route.protocol, route.table) == (config.interface, ROUTE_PROTOCOL, MAIN)
    }
    # Host routes of ours lead around the tunnel to what carries it: those addresses stand for no others.
    around = [
        route.prefix.network_address
        for route in routes
        if route.protocol == ROUTE_PROTOCOL and route.interface != config.interface
    ]
    allowed = dict.fromkeys(prefix for peer in config.peers for prefix in peer.allowed_ips)
    switches = {4: IP_FORWARD, 6: IPV6_FORWARDING}
    return View(
        config.interface,
        tunnel=tuple(address.ip for address in own if not address.ip.is_link_local),
        peers=tuple(p for p in allowed if p in routed or any(within(p, n) for n in networks)),
        networks=networks,
        provided=tuple(subnet.real for subnet in config.provide.subnets),
        held=frozenset({*(held.address.ip for held in addresses), *around}),
        forwards=frozenset(v for v, name in switches.items() if sysctl.read(name) not in (None, "0")),
        rules=tuple(netlink.rules()),
        routes=tuple(routes),
    )


def _saved(family: str, program: str, made_with: str) -> list[Table]:
    """What `iptables-save` of one kind prints; nothing where it cannot be run."""
    path = shutil.which(program) or shutil.which(program, path=nftables.PATH)
    if path is None:
        return []
    return iptables_rules.parse(_output([path]), family, made_with)


def _with_text(obstacle: Obstacle) -> Obstacle:
    """With the rule as nft prints it, found by its handle."""
    if not obstacle.handle:
        return obstacle
    try:
        listed = nftables.text(["-s", "-a", "list", "chain", *obstacle.chain.split()])
    except HostError:
        return obstacle  # it has gone meanwhile
    end = f"# handle {obstacle.handle}"
    rule = next((line for line in listed.splitlines() if line.rstrip().endswith(end)), "")
    return replace(obstacle, rule=rule.removesuffix(end).strip())


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=PROGRAM_S, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
