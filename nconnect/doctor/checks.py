"""The checks, in the order in which a person would look: this machine, the way out, what is behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from ipaddress import ip_address

from nconnect.config.seed_url import place_of
from nconnect.doctor.direct import check_direct
from nconnect.doctor.facts import Facts, SeedFact
from nconnect.doctor.findings import Finding, Level, failure, ok, warning
from nconnect.doctor.inference import server_label
from nconnect.doctor.offered import check_offered, check_peers
from nconnect.doctor.said import said_by_the_daemon
from nconnect.host.plan import IP_FORWARD, IPV6_FORWARDING
from nconnect.model import Config, join_addr
from nconnect.nat.port_mapping import is_inner
from nconnect.wire.direct import NatVerdict

CLOCK_WARNING_S = 60.0  # guessed: nothing of the tunnel minds a minute, expiry dates hardly
CLOCK_FAILURE_S = 3600.0
STRICT = "1"  # rp_filter: the source must be routed to the interface it came from (RFC 3704)

_MAP = 'have the provider offer it under another prefix: subnets = ["REAL=SEEN"]'

Check = Callable[[Facts], Iterator[Finding]]


def diagnose(facts: Facts) -> list[Finding]:
    """All findings, in the checks' order."""
    return [finding for check in CHECKS for finding in check(facts)]


def worst(findings: list[Finding]) -> Level:
    """The worst level of all; ok when there is none."""
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)


def check_config(facts: Facts) -> Iterator[Finding]:
    if facts.config_readable_by_others:
        mend = f"chmod 600 {facts.path}"
        yield failure(
            "config", f"{facts.path} can be read by others, and it holds secrets", mend, [tuple(mend.split())]
        )
    elif facts.config_problems:
        for problem in facts.config_problems:
            yield failure("config", problem, f"correct {facts.path}, then `nconnect config check`")
    elif facts.config is not None:
        count = len(facts.config.peers)
        yield ok("config", f"{facts.path} is valid, with {count} peer{'' if count == 1 else 's'}")
        if not count:
            yield warning(
                "peers", "there is no peer, so nothing can be reached", "nconnect peer add, or join"
            )


def check_folders(facts: Facts) -> Iterator[Finding]:
    for name, why, lost in (
        ("config", facts.config_unwritable, "no command can change a peer"),
        ("state", facts.state_unwritable, "what must outlive the daemon cannot be kept"),
    ):
        if why:
            mend = "make room on its disk" if "space" in why or "quota" in why else "make it writable"
            yield warning(name, f"the folder of {name} takes no file ({why}): {lost}", mend)


def check_privileges(facts: Facts) -> Iterator[Finding]:
    if facts.net_admin:
        yield ok("privileges", "CAP_NET_ADMIN is there")
    elif facts.is_root:
        yield failure(
            "privileges", "root lacks CAP_NET_ADMIN here", "start the container with --cap-add NET_ADMIN"
        )
    elif facts.no_namespaces:
        what, _, why = facts.no_namespaces.partition(": ")
        yield failure("privileges", what, f"{why}; or sudo nconnect up")
    else:
        yield ok(
            "privileges", "without root, the tunnel has a network of its own, for commands of `nconnect run`"
        )


def check_tun(facts: Facts) -> Iterator[Finding]:
    if not facts.tun:
        yield ok("tun", "/dev/net/tun can be used")
    elif facts.in_container:
        yield failure("tun", facts.tun, "start the container with --device /dev/net/tun")
    elif facts.tun_module:
        yield failure("tun", facts.tun, "modprobe tun", [("modprobe", "tun")])
    else:
        yield failure("tun", facts.tun, "let users open it: sudo chmod 0666 /dev/net/tun")


def check_nft(facts: Facts) -> Iterator[Finding]:
    if facts.nft.startswith("nft "):
        yield failure("nft", facts.nft, "see what `nft list tables` says")
    elif facts.nft:
        what, _, mend = facts.nft.partition(": ")
        modules = "modprobe nf_tables" in mend and not facts.in_container
        yield failure("nft", what, mend, [("modprobe", "nf_tables")] if modules else ())
    else:
        yield ok("nft", "nft answers" if facts.net_admin else "nft is there")


def check_daemon(facts: Facts) -> Iterator[Finding]:
    if facts.running:
        yield ok("daemon", f"{facts.interface} is up")
        yield from said_by_the_daemon(facts)
    elif facts.unreachable:
        yield failure(
            "daemon",
            f"{facts.interface} is up, and cannot be asked: somebody removed its control socket",
            " ".join(facts.unreachable),
            [facts.unreachable],
        )
    elif facts.left_behind:
        command = ("nconnect", "-c", facts.path, "down")
        yield warning(
            "daemon",
            f"{facts.interface} is not up, and a daemon that was killed left its rules behind",
            " ".join(command),
            [command],
        )
    elif facts.config is not None:
        yield warning("daemon", f"{facts.interface} is not up", "nconnect up")


def check_forwarding(facts: Facts) -> Iterator[Finding]:
    subnets = facts.config.provide.subnets if facts.config else ()
    for name, wanted in facts.locked_sysctls:
        yield failure(
            "settings",
            f"{name} must be {wanted} for what is provided, and /proc/sys is read-only here",
            f"start this container with --sysctl {name}={wanted}",
        )
    locked = dict(facts.locked_sysctls)
    for version, name in ((4, IP_FORWARD), (6, IPV6_FORWARDING)):
        if not any(subnet.real.version == version for subnet in subnets):
            continue
        dotted = name.replace("/", ".")
        value = facts.sysctls.get(name)
        if dotted in locked:
            continue
        if value is None:
            yield failure(f"forwarding v{version}", f"an IPv{version} subnet is provided, and this kernel has"
                          f" no {dotted}", f"take the IPv{version} subnet out of [provide]")  # fmt: skip
        elif value != "0":
            yield ok(f"forwarding v{version}", f"{dotted} is on")
        elif facts.running:
            command = ("sysctl", "-w", f"{dotted}=1")
            yield failure(
                f"forwarding v{version}",
                f"{dotted} is off while {facts.interface} is up: something switched it off again",
                " ".join(command),
                [command],
            )
        else:
            yield ok(f"forwarding v{version}", f"{dotted} is off; `nconnect up` switches it on")


def check_firewalls(facts: Facts) -> Iterator[Finding]:
    obstacles = [obstacle for obstacle in facts.obstacles if not obstacle.of_direct]
    for obstacle in obstacles:
        yield failure(
            "firewall",
            obstacle.sentence,
            obstacle.mend,
            obstacle.commands if obstacle.safe else (),
        )
    if facts.config is not None and facts.net_admin and not obstacles and not facts.nft:
        yield ok("firewall", "no other firewall is known to drop packets of the tunnel")


def check_rp_filter(facts: Facts) -> Iterator[Finding]:
    names = [f"net/ipv4/conf/{where}/rp_filter" for where in ("all", facts.interface)]
    strict = [name for name in names if facts.sysctls.get(name) == STRICT]
    loose = any(facts.sysctls.get(name) == "2" for name in names)
    if not strict or loose:  # the larger of the two values counts (kernel: ip-sysctl)
        yield ok("rp_filter", "replies are not dropped by rp_filter")
        return
    if any(skipped.route.version == 4 for skipped in facts.skipped_routes):
        dotted = names[1].replace("/", ".")
        yield warning(
            "rp_filter",
            "rp_filter is strict, and a peer's route could not be set: what comes from there is dropped",
            f"sysctl -w {dotted}=2 (or mend the route)",
        )
    else:
        yield ok("rp_filter", "rp_filter is strict, and every peer is routed into the tunnel")


def check_routes(facts: Facts) -> Iterator[Finding]:
    if facts.plan_problem:
        yield failure("routes", facts.plan_problem, f"change [interface] address in {facts.path}")
        return
    for skipped in facts.skipped_routes:
        why, _, mend = skipped.why.partition("; ")
        yield warning("routes", f"{skipped.route} is not routed into the tunnel: {why}", mend or _MAP)
    for text in facts.plan_warnings:
        yield warning("provide", text, f"correct [provide] in {facts.path}")
    for text in facts.plan_notes:
        yield ok("routes", text)
    if facts.config is not None and not facts.skipped_routes:
        yield ok("routes", "no route of the tunnel collides with this machine's own")


def check_kernel_routes(facts: Facts) -> Iterator[Finding]:
    for detour in facts.detours or ():
        yield failure("routing", detour.sentence, detour.mend)
    if facts.detours == ():
        yield ok("routing", f"the kernel sends what is for peers through {facts.interface}")


def check_clock(facts: Facts) -> Iterator[Finding]:
    command = ("timedatectl", "set-ntp", "true")
    mend = " ".join(command)
    if facts.now < facts.released_at:
        day = datetime.fromtimestamp(facts.now, UTC)
        yield failure("clock", f"the clock says {day:%Y-%m-%d}, which is long past", mend, [command])
        return
    known = sorted(s.clock_ahead_s for s in facts.seeds if s.clock_ahead_s is not None)
    if not known:
        if facts.seeds:
            yield warning("clock", "no seed told the time, so the clock could not be compared", "timedatectl")
        return
    ahead = known[len(known) // 2]
    way = "behind" if ahead > 0 else "ahead"
    if abs(ahead) < CLOCK_WARNING_S:
        yield ok("clock", f"the clock agrees with the seeds ({-ahead:+.0f} s)")
    else:
        text = f"the clock is {abs(ahead):.0f} s {way}: access ends at the wrong time"
        level = failure if abs(ahead) >= CLOCK_FAILURE_S else warning
        yield level("clock", text, mend, [command])


def check_proxies(facts: Facts) -> Iterator[Finding]:
    reached = any(seed.node and not seed.why for seed in facts.seeds)
    for proxy in facts.proxies:
        if proxy.why:
            yield failure("proxy", proxy.why, f"correct {proxy.where}, or ask who runs the proxy")
        elif proxy.used:
            yield ok("proxy", f"the proxy {proxy.place} ({proxy.where}) answers")
        elif reached:
            yield ok("proxy", f"a proxy {proxy.place} is set {proxy.where} and not used: none is needed")
        else:
            yield warning("proxy", f"a proxy {proxy.place} is set {proxy.where} and not used", proxy.mend)


def check_seeds(facts: Facts) -> Iterator[Finding]:
    reached = [seed for seed in facts.seeds if seed.node and not seed.why]
    said = {proxy.why for proxy in facts.proxies}
    in_the_way = [seed.why for seed in facts.seeds if seed.in_the_way]
    for why in dict.fromkeys([*in_the_way, facts.login_page]):
        if why and why not in said:
            what, _, mend = why.partition(": ")  # "this network shows a login page: open …"
            yield failure("network", what, mend)
    failed = [s for s in facts.seeds if s not in reached and not (s.in_the_way or facts.login_page)]
    if len(failed) > 1 and len({_why(seed) for seed in failed}) == 1:  # one cause, said once
        what = f"none of {len(failed)} seeds and nodes can be reached"
        mend = failed[0].mend or f"look at this machine's network and firewall (TCP out to {_ports(*failed)})"
        yield (warning if reached else failure)("node", f"{what}: {_why(failed[0])}", mend)
        failed = []
    for seed in facts.seeds:
        if seed in reached:
            trip = f" in {seed.rtt_ms:.0f} ms" if seed.rtt_ms is not None else ""
            how = " over TLS" if seed.over_tls else ""
            yield ok("node", f"{seed.url} names the node {seed.node}, which answers{how}{trip}")
    for seed in failed:
        what = f"the node {seed.node}, named by {seed.url}, cannot be reached" if seed.node else (
            f"{seed.url} cannot be asked")  # fmt: skip
        mend = seed.mend or f"look at this machine's network and firewall (TCP out to {_ports(seed)})"
        yield (warning if reached else failure)("node", f"{what}: {seed.why}", mend)


def check_nat(facts: Facts) -> Iterator[Finding]:
    """No NAT is a mistake: the tunnel goes through its node whatever the NAT is."""
    for problem in facts.stun_problems:
        yield warning("nat", problem, f"correct [network] stun in {facts.path}")
    for found in facts.nats:
        where, nat = f"IPv{found.version}", found.verdict.nat
        mapped = found.verdict.mapped
        seen = str(mapped or "")
        if nat is NatVerdict.BLOCKED:
            asked = " and ".join(found.asked)
            yield ok(
                "nat", f"{where}: no answer by UDP from {asked}: this network blocks UDP, or theirs does"
            )
        elif mapped is not None and mapped.address == found.own:
            yield ok("nat", f"{where}: no NAT, others see this machine's own address {mapped.address}")
        elif nat is NatVerdict.EASY:
            yield ok("nat", f"{where}: an easy NAT, which gives a socket one port for all; seen as {seen}")
        elif nat is NatVerdict.HARD:
            yield ok("nat", f"{where}: a hard NAT, which gives each destination another port; seen as {seen}")
        elif seen:
            yield ok("nat", f"{where}: some NAT; seen as {seen} by one server, and it takes two to tell more")


def check_port_mapping(facts: Facts) -> Iterator[Finding]:
    """As with a NAT, nothing is wrong with a router that maps none."""
    router = facts.router
    if router is None:
        return
    if not router.speaks:
        asked = "PCP, NAT-PMP or UPnP"
        yield ok("port mapping", f"the router {router.address} maps no ports: it does not answer {asked}")
        return
    text = f"the router {router.address} can be asked for a port by {' and '.join(router.speaks)}"
    if router.outside is not None and is_inner(router.outside):
        text += f"; its own address {router.outside} is behind another NAT, so that would not help"
    elif router.outside is not None:
        text += f"; its address outside is {router.outside}"
    yield ok("port mapping", text)


def _why(seed: SeedFact) -> str:
    """What failed, without the names of the seed and its node."""
    why = seed.why
    for name in (seed.url, seed.node, join_addr(*place_of(seed.url)), place_of(seed.url)[0]):
        why = why.replace(name, "") if name else why
    return why.strip(": ")


def _ports(*seeds: SeedFact) -> str:
    """Those that a way to the network needs: the seeds', and the nodes' once they are named."""
    nodes = [seed.node.rpartition(":")[2] for seed in seeds if seed.node]
    found = dict.fromkeys((*(str(place_of(seed.url)[1]) for seed in seeds), *nodes))
    return f"port{'s' if len(found) > 1 else ''} {' and '.join(found)}"


def check_subnets(facts: Facts) -> Iterator[Finding]:
    if facts.config is None:
        return
    for subnet in facts.subnets:
        if not subnet.interface:
            yield failure(
                "subnet",
                f"no route leads to {subnet.prefix}, which is provided",
                f"connect this machine to it, or take it out of [provide] in {facts.path}",
            )
            continue
        yield from _check_mtu(
            facts.config, facts.path, subnet.prefix, subnet.mtu, subnet.path_mtu, subnet.interface
        )
        if subnet.answered:
            yield ok("subnet", f"{subnet.answered[0]} in {subnet.prefix} answers")
        elif subnet.tried:
            yield warning(
                "subnet",
                f"none of {', '.join(subnet.tried[:4])} in {subnet.prefix} answers",
                "look whether the servers are on and answer pings from here, or name one with --host",
            )
        else:
            yield warning("subnet", f"no host of {subnet.prefix} is known, so none was asked",
                          "name one: nconnect doctor --host IP")  # fmt: skip


def _check_mtu(
    config: Config, path: str, prefix: object, mtu: int, path_mtu: int | None, interface: str
) -> Iterator[Finding]:
    clamp = config.provide.mtu
    real = min(mtu, path_mtu) if path_mtu is not None else mtu
    wanted = clamp or min(config.mtu, mtu)
    if real < wanted:
        where = f"the path into {prefix}" if path_mtu is not None and path_mtu < mtu else interface
        yield warning(
            "mtu",
            f"{where} takes packets of {real} bytes, and {wanted} is assumed: large downloads may hang",
            f"write mtu = {real} in [provide] of {path}, then nconnect reload",
        )
    else:
        yield ok("mtu", f"packets of {wanted} bytes pass into {prefix} ({interface})")


def check_inference(facts: Facts) -> Iterator[Finding]:
    if facts.config is None:
        return
    provide = facts.config.provide
    exposed = {server.port for server in provide.expose}
    named = {(str(server.host), server.port): server.name for server in provide.servers}
    taken = {name for server in provide.servers for name in (server.name, *server.names)}
    for server in facts.listeners:
        served = any(
            s.protocol == "tcp" and s.ports[0] <= server.port <= s.ports[1] for s in provide.services
        )
        place = join_addr(server.host, server.port)
        what = f"{server.name} on {place}"
        name = server_label(server.name, taken)
        if (server.host, server.port) in named:
            yield ok("inference", f"{what} is offered to peers (as {named[server.host, server.port]})")
        elif server.wide and served:
            yield ok("inference", f"{what} is offered to peers (services)")
        elif not server.wide and server.port in exposed:
            yield ok("inference", f"{what} is offered to peers (expose)")
        elif not server.wide:
            yield warning(
                "inference",
                f"{what} listens on loopback only, so peers cannot reach it",
                f"nconnect -c {facts.path} provide server add {name} http://{place}"
                if ":" not in server.host
                else "let it listen on 127.0.0.1 too",
            )
        else:
            yield warning(
                "inference",
                f"{what} is not offered to peers",
                f"nconnect -c {facts.path} provide server add {name} http://{place}"
                if ip_address(server.host).is_loopback
                else f"nconnect -c {facts.path} provide add --service {server.port}/tcp",
            )


CHECKS: tuple[Check, ...] = (
    check_config,
    check_folders,
    check_privileges,
    check_tun,
    check_nft,
    check_daemon,
    check_forwarding,
    check_firewalls,
    check_rp_filter,
    check_routes,
    check_kernel_routes,
    check_clock,
    check_proxies,
    check_seeds,
    check_nat,
    check_port_mapping,
    check_direct,
    check_subnets,
    check_inference,
    check_offered,
    check_peers,
)
