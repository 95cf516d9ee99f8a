from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

import pytest

from nconnect.doctor.checks import CHECKS, diagnose, worst
from nconnect.doctor.facts import Facts, Listener, NatFact, ProxyFact, SeedFact, SubnetFact
from nconnect.doctor.findings import Finding, Level
from nconnect.doctor.firewalls import Obstacle
from nconnect.host.plan import SkippedPrefix
from nconnect.io.system.nftables import NO_NFT
from nconnect.model import Endpoint, ProvideConfig, ProvidedServer, ProvidedSubnet
from nconnect.nat.port_mapping import Router
from nconnect.nat.stun import Verdict
from nconnect.wire.direct import NatVerdict
from tests.doctor.examples import CONFIG, FACTS, LAN, spoilt

SEED = FACTS.seeds[0]
GATEWAY = IPv4Address("192.168.1.1")
SENT = "what peers send to 192.168.50.0/24"
USER_CHAIN = (("iptables", "-I", "DOCKER-USER", "-i", "nc0"),)
DOCKER = Obstacle("docker", SENT, "ip filter FORWARD", commands=USER_CHAIN, safe=True)
ROUTED = (("ufw", "route", "allow", "in", "on", "nc0"),)
UFW = Obstacle("ufw", SENT, "ip filter FORWARD", commands=ROUTED)
IP_FORWARD = {"net/ipv4/ip_forward": "0"}
STRICT = {"net/ipv4/ip_forward": "1", "net/ipv4/conf/all/rp_filter": "1"}
ROUTE = SkippedPrefix(ip_network("10.9.0.0/16"), "it equals the network of eth0")
IPV6 = ip_network("fd50::/64")
WITH_IPV6 = replace(CONFIG, provide=ProvideConfig(subnets=(ProvidedSubnet(IPV6, IPV6),)))


def of(check: str, facts: Facts) -> list[Finding]:
    return [finding for finding in diagnose(facts) if finding.check == check]


def test_a_good_machine_has_no_complaint() -> None:
    findings = diagnose(FACTS)
    assert {finding.level for finding in findings} == {Level.OK}
    assert worst(findings) is Level.OK
    assert len(findings) >= len(CHECKS) - 4  # no inference server, proxy, service or silent peer
    assert worst([]) is Level.OK


@pytest.mark.parametrize(
    ("changes", "check", "level", "says", "mend"),
    [
        (
            {"config": None, "config_problems": ("nc0.toml:3: wrong",)},
            "config",
            "failure",
            "nc0.toml:3",
            "config check",
        ),
        ({"config_readable_by_others": True}, "config", "failure", "read by others", "chmod 600"),
        ({"config": replace(CONFIG, peers=())}, "peers", "warning", "no peer", "peer add"),
        ({"net_admin": False}, "privileges", "failure", "root lacks", "--cap-add"),
        (
            {"net_admin": False, "is_root": False, "no_namespaces": "it cannot have them: a rule; forward"},
            "privileges",
            "failure",
            "cannot have them",
            "a rule; forward; or sudo",
        ),
        ({"tun": "no TUN driver"}, "tun", "failure", "no TUN driver", "modprobe tun"),
        ({"tun": "no TUN driver", "in_container": True}, "tun", "failure", "no TUN", "--device /dev/net/tun"),
        ({"tun": "it is closed", "tun_module": False}, "tun", "failure", "closed", "chmod 0666 /dev/net/tun"),
        ({"nft": NO_NFT}, "nft", "failure", "missing", "apt install nftables"),
        ({"nft": "no nf_tables: modprobe nf_tables"}, "nft", "failure", "no nf_tables", "modprobe nf_tables"),
        ({"nft": "nft refused: that"}, "nft", "failure", "refused: that", "nft list tables"),
        (
            {"locked_sysctls": (("net.ipv4.ip_forward", "1"),)},
            "settings",
            "failure",
            "net.ipv4.ip_forward must be 1",
            "--sysctl net.ipv4.ip_forward=1",
        ),
        ({"running": False}, "daemon", "warning", "nc0 is not up", "nconnect up"),
        ({"running": False, "left_behind": True}, "daemon", "warning", "killed", "down"),
        (
            {"sysctls": IP_FORWARD},
            "forwarding v4",
            "failure",
            "switched it off",
            "sysctl -w net.ipv4.ip_forward=1",
        ),
        (
            {"sysctls": {}, "config": WITH_IPV6},
            "forwarding v6",
            "failure",
            "this kernel has no",
            "take the IPv6",
        ),
        ({"obstacles": (DOCKER,)}, "firewall", "failure", "docker drops", "DOCKER-USER"),
        ({"obstacles": (UFW,)}, "firewall", "failure", "ufw drops", "ufw route allow"),
        ({"sysctls": STRICT, "skipped_routes": (ROUTE,)}, "rp_filter", "warning", "strict", "rp_filter=2"),
        ({"skipped_routes": (ROUTE,)}, "routes", "warning", "10.9.0.0/16 is not routed", "REAL=SEEN"),
        ({"plan_warnings": ("expose x has no effect",)}, "provide", "warning", "no effect", "[provide]"),
        (
            {"running": False, "unreachable": ("install", "-d", "/run/nconnect")},
            "daemon",
            "failure",
            "removed its control socket",
            "install -d /run/nconnect",
        ),
        ({"said": ("it is odd: `mend it`",)}, "daemon", "warning", "it is odd", "mend it"),
        (
            {"config_unwritable": "read-only file system"},
            "config",
            "warning",
            "no command",
            "make it writable",
        ),
        ({"state_unwritable": "no space left on device"}, "state", "warning", "no space", "make room"),
        ({"plan_problem": "10.86.0.1 is in use"}, "routes", "failure", "in use", "[interface] address"),
        ({"now": 1.0}, "clock", "failure", "1970-01-01", "timedatectl set-ntp true"),
        ({"seeds": (replace(SEED, clock_ahead_s=300.0),)}, "clock", "warning", "300 s behind", "set-ntp"),
        ({"seeds": (replace(SEED, clock_ahead_s=-9e4),)}, "clock", "failure", "90000 s ahead", "set-ntp"),
        (
            {"seeds": (replace(SEED, clock_ahead_s=None),)},
            "clock",
            "warning",
            "could not be compared",
            "timedatectl",
        ),
        (
            {"seeds": (SeedFact("http://x:1", why="refused"),)},
            "node",
            "failure",
            "cannot be asked: refused",
            "TCP out",
        ),
        (
            {"seeds": (replace(SEED, why="refused"),)},
            "node",
            "failure",
            "the node 203.0.113.7:30002",
            "TCP out",
        ),
        ({"subnets": (SubnetFact(LAN),)}, "subnet", "failure", "no route", "take it out"),
        (
            {"subnets": (SubnetFact(LAN, "eth0", 1500, ("192.168.50.9",)),)},
            "subnet",
            "warning",
            "none of 192.168.50.9",
            "--host",
        ),
        ({"subnets": (SubnetFact(LAN, "eth0", 1500),)}, "subnet", "warning", "no host of", "--host"),
        (
            {"subnets": (SubnetFact(LAN, "eth0", 1500, path_mtu=1400),)},
            "mtu",
            "warning",
            "1400 bytes",
            "mtu = 1400",
        ),
        (
            {"listeners": (Listener("Ollama", "127.0.0.1", 1234),)},
            "inference",
            "warning",
            "loopback only",
            "provide server add ollama http://127.0.0.1:1234",
        ),
        (
            {"listeners": (Listener("Ollama", "::1", 1234),)},
            "inference",
            "warning",
            "loopback only",
            "listen on 127.0.0.1",
        ),
        (
            {"listeners": (Listener("TGI", "192.168.50.1", 3000, True),)},
            "inference",
            "warning",
            "not offered",
            "provide add --service 3000/tcp",
        ),
        (
            {"listeners": (Listener("TGI", "127.0.0.1", 3000, True),)},
            "inference",
            "warning",
            "not offered",
            "provide server add tgi http://127.0.0.1:3000",
        ),
    ],
)
def test_each_mistake_is_found_and_mended(
    changes: dict[str, Any], check: str, level: str, says: str, mend: str
) -> None:
    findings = [f for f in of(check, spoilt(**changes)) if f.level is not Level.OK]
    assert findings, "nothing was said"
    assert findings[0].level.value == level
    assert says in findings[0].text
    assert mend in findings[0].mend
    assert "\n" not in findings[0].text + findings[0].mend


def test_what_is_offered_is_fine() -> None:
    listeners = (Listener("Ollama", "127.0.0.1", 11434), Listener("vLLM", "127.0.0.1", 8000, True))
    assert {f.level for f in of("inference", spoilt(listeners=listeners))} == {Level.OK}


def test_a_server_with_a_name_is_offered() -> None:
    facts = spoilt(listeners=(Listener("LM Studio", "127.0.0.1", 1234),))
    assert facts.config is not None
    assert of("inference", facts)[0].level is Level.WARNING
    server = ProvidedServer("lm", "http", ip_address("127.0.0.1"), 1234)
    config = replace(facts.config, provide=replace(facts.config.provide, servers=(server,)))
    (finding,) = of("inference", replace(facts, config=config))
    assert finding.level is Level.OK
    assert finding.text.endswith("is offered to peers (as lm)")
    elsewhere = (Listener("LM Studio", "192.168.50.1", 1234, True),)
    assert of("inference", replace(facts, config=config, listeners=elsewhere))[0].level is Level.WARNING


def test_one_cause_that_stops_all_seeds_is_said_once() -> None:
    names = [f"seed-{n}.example" for n in range(9)]
    offline = tuple(
        SeedFact(f"http://{name}:30003", why=f"{name}: Temporary failure in name resolution")
        for name in names
    )
    (finding,) = of("node", spoilt(seeds=offline))
    assert finding.level is Level.FAILURE
    assert finding.text == "none of 9 seeds and nodes can be reached: Temporary failure in name resolution"
    assert "TCP out to port 30003" in finding.mend
    other = SeedFact("http://other.example:30003", why="refused")
    assert len(of("node", spoilt(seeds=(*offline, other)))) == 10, "two causes are told apart"
    beside = of("node", spoilt(seeds=(SEED, *offline)))
    assert [f.level for f in beside] == [Level.WARNING, Level.OK]


def test_a_seed_that_fails_beside_one_that_works_is_a_warning() -> None:
    facts = spoilt(seeds=(SEED, SeedFact("http://x:1", why="refused")))
    assert [f.level for f in of("node", facts)] == [Level.OK, Level.WARNING]


def test_forwarding_that_is_off_before_up_is_no_mistake() -> None:
    (finding,) = of("forwarding v4", spoilt(sysctls=IP_FORWARD, running=False))
    assert finding.level is Level.OK


def test_a_user_who_provides_nothing_is_not_asked_about_forwarding() -> None:
    facts = spoilt(config=replace(CONFIG, provide=ProvideConfig()), sysctls={}, subnets=())
    checks = {finding.check for finding in diagnose(facts)}
    assert not {"forwarding v4", "subnet"} & checks


def test_only_what_is_safe_is_fixed() -> None:
    assert of("firewall", spoilt(obstacles=(DOCKER,)))[0].fix == DOCKER.commands
    assert of("firewall", spoilt(obstacles=(UFW,)))[0].fix == ()
    for loopback in (Listener("Ollama", "127.0.0.1", 1234), Listener("TGI", "127.0.0.1", 3000, True)):
        assert of("inference", spoilt(listeners=(loopback,)))[0].fix == ()  # it would open something


def test_a_clamp_that_is_small_enough_is_fine() -> None:
    config = replace(CONFIG, provide=replace(CONFIG.provide, mtu=1400))
    facts = spoilt(config=config, subnets=(SubnetFact(LAN, "eth0", 1500, path_mtu=1400),))
    assert [f.level for f in of("mtu", facts)] == [Level.OK]


PROXY = ProxyFact("10.0.0.1:3128", "in /etc/environment", used=False, mend="write proxy = …")
UNREACHED = (SeedFact("http://x:1", why="no answer"), SeedFact("http://y:1", why="no answer"))


def test_a_tls_fault_is_no_firewall_s() -> None:
    seed = SeedFact("https://n:443", why="n:443 does not speak TLS", mend="is it http://?")
    (finding,) = [f for f in diagnose(spoilt(seeds=(seed,))) if f.check == "node"]
    assert finding.text == "https://n:443 cannot be asked: n:443 does not speak TLS"
    assert finding.mend == "is it http://?"


def test_a_firewall_is_told_of_the_ports_that_are_needed() -> None:
    for seed, ports in (
        (SeedFact("https://n#sha256=" + "ab" * 32, why="silent"), "port 443"),
        (SeedFact("http://n:30003", "m:30002", why="silent"), "ports 30003 and 30002"),
    ):
        (finding,) = [f for f in diagnose(spoilt(seeds=(seed,))) if f.check == "node"]
        assert f"(TCP out to {ports})" in (finding.mend or "")


def proxy_findings(**changes: object) -> list[tuple[str, str, str]]:
    return [
        (f.check, f.level.value, f.text)
        for f in diagnose(spoilt(**changes))
        if f.check in ("proxy", "network")
    ]


def test_a_proxy_that_is_set_and_not_used_matters_where_no_seed_is_reached() -> None:
    text = "a proxy 10.0.0.1:3128 is set in /etc/environment and not used"
    assert proxy_findings(proxies=(PROXY,), seeds=UNREACHED) == [("proxy", "warning", text)]
    assert proxy_findings(proxies=(PROXY,)) == [("proxy", "ok", f"{text}: none is needed")]


def test_a_proxy_that_is_used_answers_or_is_what_is_wrong_once() -> None:
    used = ProxyFact("10.0.0.1:3128", "HTTPS_PROXY", used=True)
    assert proxy_findings(proxies=(used,)) == [
        ("proxy", "ok", "the proxy 10.0.0.1:3128 (HTTPS_PROXY) answers")
    ]
    why = "the proxy 10.0.0.1:3128 wants a user and a password (407): write http://…"
    seeds = tuple(SeedFact(f"http://x:{n}", why=why, in_the_way=True) for n in range(1, 10))
    refusing = replace(used, why=why)
    assert proxy_findings(proxies=(refusing,), seeds=seeds) == [("proxy", "failure", why)]
    failed = [f for f in diagnose(spoilt(proxies=(refusing,), seeds=seeds)) if f.level is Level.FAILURE]
    assert len(failed) == 1


def test_a_login_page_is_said_once_for_all_seeds() -> None:
    why = "this network shows a login page: open http://portal/ in a browser"
    seeds = tuple(SeedFact(f"http://x:{n}", why=why, in_the_way=True) for n in range(1, 10))
    (finding,) = [f for f in diagnose(spoilt(seeds=seeds)) if f.level is Level.FAILURE]
    assert finding.text == "this network shows a login page"
    assert finding.mend == "open http://portal/ in a browser"


def test_a_portal_that_stops_everything_but_the_web_is_said_in_place_of_the_seeds() -> None:
    facts = spoilt(seeds=UNREACHED, login_page="this network shows a login page: open http://p/ in a browser")
    (finding,) = [f for f in diagnose(facts) if f.level is Level.FAILURE]
    assert (finding.check, finding.mend) == ("network", "open http://p/ in a browser")


def nat(kind: NatVerdict, mapped: str | None = None, version: int = 4) -> NatFact:
    own = ip_address("192.168.1.7" if version == 4 else "2001:db8::7")
    found = None if mapped is None else Endpoint(ip_address(mapped), 41000)
    return NatFact(version, Verdict(kind, found, 0.0), own, ("192.0.2.1:30006", "192.0.2.1:30007"))


@pytest.mark.parametrize(
    ("fact", "text"),
    [
        (
            nat(NatVerdict.EASY, "192.168.1.7"),
            "IPv4: no NAT, others see this machine's own address 192.168.1.7",
        ),
        (nat(NatVerdict.EASY, "203.0.113.7"), "IPv4: an easy NAT, which gives a socket one port for all"),
        (nat(NatVerdict.EASY, "2001:db8::9", 6), "seen as [2001:db8::9]:41000"),
        (nat(NatVerdict.HARD, "203.0.113.7"), "a hard NAT, which gives each destination another port"),
        (nat(NatVerdict.UNKNOWN, "203.0.113.7"), "seen as 203.0.113.7:41000 by one server"),
        (
            nat(NatVerdict.BLOCKED),
            "no answer by UDP from 192.0.2.1:30006 and 192.0.2.1:30007: this network blocks UDP",
        ),
    ],
)
def test_the_nat_is_told_and_is_no_mistake(fact: NatFact, text: str) -> None:
    (said,) = [finding for finding in diagnose(spoilt(nats=(fact,))) if finding.check == "nat"]
    assert text in said.text
    assert said.level is Level.OK


SILENT = Router(GATEWAY, (), None)
INNER = Router(GATEWAY, ("UPnP",), ip_address("100.64.0.9"))


@pytest.mark.parametrize(
    ("fact", "router", "said", "mend"),
    [
        (nat(NatVerdict.EASY, "192.168.1.7"), SILENT, "address of the internet", ""),
        (nat(NatVerdict.EASY, "203.0.113.7"), SILENT, "to peers behind a hard NAT", "forward UDP port 41641"),
        (nat(NatVerdict.HARD, "203.0.113.7"), SILENT, "to peers whose own side", "forward UDP port 41641"),
        (nat(NatVerdict.HARD, "203.0.113.7"), INNER, "only to peers whose own side", "IPv6 on both"),
        (nat(NatVerdict.HARD, "203.0.113.7"), FACTS.router, "the router sends a port on", ""),
        (nat(NatVerdict.BLOCKED), FACTS.router, "no direct path by UDP", "let UDP out"),
    ],
)  # fmt: skip
def test_what_would_help_direct_paths(fact: NatFact, router: Router, said: str, mend: str) -> None:
    (found,) = of("direct", spoilt(nats=(fact,), router=router, direct_port=41641))
    assert found.level is Level.OK
    assert said in found.text
    assert mend in found.mend
    assert bool(mend) is bool(found.mend)


def test_direct_paths_that_are_off_or_shut_out_by_a_firewall() -> None:
    off = replace(CONFIG, network=replace(CONFIG.network, direct="off"))
    (found,) = of("direct", spoilt(config=off, nats=(nat(NatVerdict.HARD, "203.0.113.7"),)))
    assert 'direct = "off"' in found.text
    shut = Obstacle("ufw", "what comes to TCP port 41641", "ip filter INPUT", commands=ROUTED, of_direct=True)
    facts = spoilt(obstacles=(shut,))
    assert of("direct", facts)[-1].mend == shut.mend
    assert {finding.level for finding in diagnose(facts)} == {Level.OK}, "the tunnel works without"


def test_where_nobody_tells_a_mapping_nothing_is_said_of_the_nat() -> None:
    for nats in ((), (nat(NatVerdict.UNKNOWN),)):
        assert [f for f in diagnose(spoilt(nats=nats)) if f.check == "nat"] == []


def test_a_stun_server_that_cannot_be_asked_is_a_warning() -> None:
    problem = "the STUN server nowhere.example:3478 cannot be asked: name or service not known"
    (said,) = [f for f in diagnose(spoilt(nats=(), stun_problems=(problem,))) if f.check == "nat"]
    assert (said.level, said.text) == (Level.WARNING, problem)
    assert said.mend == "correct [network] stun in /etc/nconnect/nc0.toml"


@pytest.mark.parametrize(
    ("router", "text"),
    [
        (Router(GATEWAY), "the router 192.168.1.1 maps no ports: it does not answer PCP, NAT-PMP or UPnP"),
        (Router(GATEWAY, ("PCP",)), "the router 192.168.1.1 can be asked for a port by PCP"),
        (
            Router(GATEWAY, ("NAT-PMP", "UPnP"), ip_address("203.0.113.9")),
            "can be asked for a port by NAT-PMP and UPnP; its address outside is 203.0.113.9",
        ),
        (
            Router(GATEWAY, ("UPnP",), ip_address("100.64.1.2")),
            "its own address 100.64.1.2 is behind another NAT",
        ),
    ],
)
def test_a_router_that_maps_ports_or_does_not_is_no_mistake(router: Router, text: str) -> None:
    (said,) = of("port mapping", spoilt(router=router))
    assert text in said.text
    assert said.level is Level.OK
    assert of("port mapping", spoilt(router=None)) == []
