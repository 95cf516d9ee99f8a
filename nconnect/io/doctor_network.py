"""What `doctor` finds out about the network: proxies, seeds, nodes, the NAT, provided subnets, servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from pathlib import Path

from nconnect.config.proxy import Proxies
from nconnect.config.seed_url import place_of
from nconnect.doctor.facts import Facts, Listener, NatFact, ProxyFact, SeedFact, SubnetFact
from nconnect.doctor.routing import samples
from nconnect.errors import (
    LoginPageError,
    NconnectError,
    NetworkError,
    TlsError,
    WayOutError,
)
from nconnect.host.policy import Question
from nconnect.io.errors import reason
from nconnect.io.http import http_client, inference
from nconnect.io.net import echo, resolve, router, stun
from nconnect.io.net.dial import dial
from nconnect.io.net.proxy_search import elsewhere
from nconnect.io.nkn import rpc
from nconnect.io.nkn.ways import open_first, url_of
from nconnect.io.system import listeners
from nconnect.io.system.netlink import Netlink
from nconnect.model import Config, Endpoint, Prefix, join_addr
from nconnect.nat.port_mapping import Router
from nconnect.nkn.outputs import Connect
from nconnect.nkn.ways import ways_to
from nconnect.wire.jsonrpc import split_addr
from nconnect.wire.login_page import login_page

NOBODY = "http://192.0.2.80/"  # RFC 5737: no machine has this address, so what answers stands in between
LOGIN_PAGE_S = 2.0
LOGIN_PAGE_BYTES = 1 << 16
TCP_S = 1.0
MAX_TRIED = 8  # hosts of one subnet
MTU_STEPS = (9000, 1500, 1492, 1480, 1450, 1420, 1400, 1350, 1280, 1000, 576)
ARP = Path("/proc/net/arp")


async def with_network(
    facts: Facts, config: Config, proxies: Proxies, *, hosts: Sequence[str], seed_s: float
) -> Facts:
    """`hosts` of provided subnets are asked first; each seed has `seed_s`."""
    async with asyncio.TaskGroup() as group:
        seeds = [
            group.create_task(_seed(url, config, seed_s, proxies), name=f"seed {url}")
            for url in config.network.seed_rpc
        ]
        found = group.create_task(_proxies(config, facts.path, proxies), name="proxies")
        subnets = group.create_task(asyncio.to_thread(_subnets, config, hosts), name="subnets")
        asked_router = group.create_task(_router(config.interface), name="router")
        servers = group.create_task(_listeners(), name="inference servers")
    asked = tuple(task.result() for task in seeds)
    found_nats, stun_problems = await nats(config, asked, proxies)
    stopped = proxies.proxy is None and all(seed.why and not seed.in_the_way for seed in asked)
    return replace(
        facts,
        seeds=asked,
        nats=found_nats,
        router=asked_router.result(),
        stun_problems=stun_problems,
        login_page=await _login_page() if stopped else "",
        proxies=(*facts.proxies, *found.result()),
        subnets=subnets.result(),
        listeners=servers.result(),
        listening=listeners.listeners(),
    )


async def nats(
    config: Config, seeds: Iterable[SeedFact], proxies: Proxies
) -> tuple[tuple[NatFact, ...], tuple[str, ...]]:
    """What NAT the network has, and why servers that the configuration names were not asked.

    Who goes through a proxy may want to be seen at its address alone: a server behind it is not asked.
    """
    named = list(config.network.stun)
    told = [(split_addr(seed.node)[0], port) for seed in seeds for port in seed.stun_ports]
    servers: dict[Endpoint, str] = {}
    problems = []
    for host, port in dict.fromkeys([*told, *named]):
        if proxies.to(host, port):
            continue
        try:
            found = await resolve.stream_addresses(host, port)
        except OSError as error:
            if (host, port) in named:
                problems.append(f"the STUN server {join_addr(host, port)} cannot be asked: {reason(error)}")
            continue
        servers.update({Endpoint(ip_address(info[4][0]), port): join_addr(host, port) for info in found})
    try:
        answers = await stun.ask(list(servers))
    except OSError:
        return (), tuple(problems)
    facts = []
    for version, (verdict, own) in answers.items():
        asked = [place for (address, _), place in servers.items() if address.version == version]
        facts.append(NatFact(version, verdict, own, tuple(dict.fromkeys(asked))))
    return tuple(facts), tuple(problems)


async def _router(interface: str) -> Router | None:
    """Whether the default route's router maps ports; None without one."""
    try:
        found = await asyncio.to_thread(router.default_router, interface)
        return None if found is None else await router.look(found)
    except OSError:
        return None


async def _proxies(config: Config, path: str, proxies: Proxies) -> tuple[ProxyFact, ...]:
    """The one that is used, and whether it takes us to the first seed; else those that are set elsewhere."""
    if proxies.proxy is None:
        if config.network.proxy == "none":
            return ()
        found = await asyncio.to_thread(elsewhere)
        return tuple(ProxyFact(str(f.proxy), f.where, used=False, mend=f.mend(path)) for f in found)
    why = ""
    try:
        (await dial(*place_of(config.network.seed_rpc[0]), proxies.proxy)).close()
    except WayOutError as error:
        why = str(error)
    except NetworkError:
        pass  # it answers, and could not reach that seed
    return (ProxyFact(str(proxies.proxy), proxies.source, used=True, why=why),)


async def _login_page() -> str:
    """Many portals answer web requests only, and stop everything else without a word; "" if none answers."""
    try:
        response = await http_client.request(
            "GET", NOBODY, timeout_s=LOGIN_PAGE_S, max_body_bytes=LOGIN_PAGE_BYTES, cut=True
        )
    except NconnectError:
        return ""
    headers = (response.header("location"), response.header("content-type"))
    page = login_page(NOBODY, response.status, *headers, response.body)
    return "" if page is None else str(LoginPageError(page))


async def _seed(url: str, config: Config, seed_s: float, proxies: Proxies) -> SeedFact:
    from nconnect.crypto.keys import Identity
    from nconnect.model import NknAddress

    address = str(NknAddress(config.identifier, Identity(config.seed).public_key))
    began = time.monotonic()
    try:
        node = await rpc.ask_node(url, address, timeout_s=seed_s, proxies=proxies)
    except TlsError as error:
        return SeedFact(url, why=error.what, mend=error.mend)
    except NconnectError as error:
        return SeedFact(url, why=str(error), in_the_way=isinstance(error, WayOutError))
    rtt_ms = (time.monotonic() - began) * 1e3
    ahead = await _clock_ahead(url, seed_s, proxies)
    ways = ways_to(node, url, config.network.seed_rpc, tls_first=False)
    found = SeedFact(url, node.addr, rtt_ms, "", ahead, stun_ports=node.stun_ports)
    try:
        opened = await open_first(
            Connect(node, seed_s, ways), address, tls=None, proxies=proxies, on_found=lambda node: None
        )
    except TlsError as error:
        return replace(found, why=error.what, mend=error.mend)
    except NconnectError as error:
        why = str(error).removeprefix(url_of(node, ways[0])).lstrip(": ")
        return replace(found, why=why, in_the_way=isinstance(error, WayOutError))
    opened.socket.close(1000, "looked whether the node is there")
    node = opened.node
    return replace(found, node=node.addr, over_tls=opened.way.secure, stun_ports=node.stun_ports)


async def _clock_ahead(url: str, timeout_s: float, proxies: Proxies) -> float | None:
    """How far the seed's clock is ahead of ours, by HTTP's Date, to a second; None when it says nothing."""
    try:
        date = (await http_client.request("GET", url, timeout_s=timeout_s, proxies=proxies)).header("date")
        return parsedate_to_datetime(date).timestamp() - time.time() if date else None
    except (NconnectError, ValueError, TypeError):
        return None


async def _listeners() -> tuple[Listener, ...]:
    found = []
    for port, addresses in sorted(inference.listening().items()):
        loopback = [str(a) for a in addresses if a.is_loopback]
        wide = [a for a in addresses if not a.is_loopback]
        host = loopback[0] if loopback and not wide else "127.0.0.1" if _any(wide) else str(wide[0])
        server = await inference.probe(host, port)
        if server is not None:
            found.append(Listener(server.name, host, port, bool(wide)))
    return tuple(found)


def _any(addresses: Iterable[object]) -> bool:
    return any(str(address) in ("0.0.0.0", "::") for address in addresses)


def _subnets(config: Config, hosts: Sequence[str]) -> tuple[SubnetFact, ...]:
    if not config.provide.subnets:
        return ()
    with Netlink() as netlink:
        links = netlink.links()
        names = {link.index: link.name for link in links}
        own = frozenset(held.address.ip for held in netlink.addresses())
        asked = [
            (subnet.real, netlink.where(Question(sample.address), names))
            for subnet in config.provide.subnets
            for sample in samples([subnet.real], [], own)
        ]
    mtu_of = {link.name: link.mtu for link in links}
    found = []
    for prefix, answer in asked:
        name = "" if answer.is_refused or answer.interface == config.interface else answer.interface
        fact = SubnetFact(prefix, name, mtu_of.get(name, 0))
        found.append(_asked(fact, config, _candidates(config, prefix, own, hosts)) if name else fact)
    return tuple(found)


def _candidates(config: Config, prefix: Prefix, own: Collection[object], named: Sequence[str]) -> list[str]:
    """Hosts of a subnet that somebody has spoken of: the caller, the peers' rules, the ARP table."""
    texts = [*named]
    for peer in config.peers:
        texts += [str(r.prefix.network_address) for r in peer.allow or () if r.prefix.num_addresses == 1]
    try:
        for line in ARP.read_text().splitlines()[1:]:
            fields = line.split()
            if len(fields) > 3 and int(fields[2], 16) & 2:  # ATF_COM: it has answered
                texts.append(fields[0])
    except (OSError, ValueError):
        pass
    inside = [t for t in dict.fromkeys(texts) if (a := ip_address(t)) in prefix and a not in own]
    return inside[:MAX_TRIED]


def _asked(fact: SubnetFact, config: Config, hosts: list[str]) -> SubnetFact:
    answered = []
    path_mtu = None
    for host in hosts:
        try:
            replied = echo.answers(host)
        except OSError:
            replied = False
        if not replied and not _takes_tcp(host, config):
            continue
        answered.append(host)
        if replied:
            top = min(fact.mtu, config.provide.mtu or config.mtu)
            path_mtu = echo.largest(host, (top, *(s for s in MTU_STEPS if s < top)))
        break
    return replace(fact, tried=tuple(hosts), answered=tuple(answered), path_mtu=path_mtu)


def _takes_tcp(host: str, config: Config) -> bool:
    """Whether something of the host answers a connection; a refusal is an answer."""
    import socket

    ports = [
        r.ports[0]
        for peer in config.peers
        for r in peer.allow or ()
        if r.ports and ip_address(host) in r.prefix and r.protocol != "udp"
    ]
    for port in dict.fromkeys([*ports[:3], 22, 80]):
        try:
            socket.create_connection((host, port), TCP_S).close()
        except ConnectionRefusedError:
            return True
        except OSError:
            continue
        return True
    return False
