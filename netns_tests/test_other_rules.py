"""When other programs' rules or routes stop the tunnel's packets, status and doctor name them and the remedy.

user ── node ── provider ── server

One world for all tests: each leaves it as it was. The firewalls are like those of Docker 28, libvirt and ufw,
made with iptables as these programs do, and of an administrator, made with nft.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab.netns import Namespace
from lab.process import until
from lab.sides import Side
from lab.traffic import SERVICE, reaches, serve
from lab.world import LAN, NODE_HOST, PROVIDER_TUNNEL, SERVER, World, world
from netns_tests.topology import CLOSED

PEERS = "10.86.0.0/24"
BEHIND = "10.77.0.0/24"
HOST_BEHIND = "10.77.0.5"
DOCKER = """*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-BRIDGE - [0:0]
:DOCKER-CT - [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER ! -i lan0 -o lan0 -j DROP
-A DOCKER-BRIDGE -o lan0 -j DOCKER
-A DOCKER-CT -o lan0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i lan0 -j ACCEPT
COMMIT
*raw
-A PREROUTING -d 192.168.50.10/32 ! -i lan0 -j DROP
COMMIT
"""
LIBVIRT = """*filter
:LIBVIRT_FWI - [0:0]
:LIBVIRT_FWO - [0:0]
-A FORWARD -j LIBVIRT_FWI
-A FORWARD -j LIBVIRT_FWO
-A LIBVIRT_FWI -d 192.168.50.0/24 -o lan0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A LIBVIRT_FWI -o lan0 -j REJECT --reject-with icmp-port-unreachable
-A LIBVIRT_FWO -s 192.168.50.0/24 -i lan0 -j ACCEPT
-A LIBVIRT_FWO -i lan0 -j REJECT --reject-with icmp-port-unreachable
COMMIT
"""
UFW = """*filter
:INPUT DROP [0:0]
:ufw-before-input - [0:0]
:ufw-not-local - [0:0]
:ufw-user-input - [0:0]
-A INPUT -j ufw-before-input
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -p icmp -m icmp --icmp-type 8 -j ACCEPT
-A ufw-before-input -j ufw-not-local
-A ufw-before-input -j ufw-user-input
-A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN
-A ufw-not-local -m limit --limit 3/min --limit-burst 10 -j LOG
-A ufw-not-local -j DROP
-A ufw-user-input -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
"""
NO_OUTPUT = """*filter
:OUTPUT DROP [0:0]
-A OUTPUT -o lo -j ACCEPT
-A OUTPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"""
# The same three as an administrator may have written them for nft.
NFT_EARLY = """table ip mine {
  chain early { type filter hook prerouting priority -310;
    iifname != "lan0" ip daddr 192.168.50.8/29 drop; }
}"""
NFT_JUMP = """table inet mine {
  set trusted { type ipv4_addr; flags interval; elements = { 203.0.113.0/24 } }
  chain rest { counter reject with icmpx admin-prohibited; }
  chain through { type filter hook forward priority filter + 5;
    ct state vmap { established : accept, related : accept, invalid : drop };
    ip saddr @trusted accept; oifname "lan0" goto rest; }
}"""
NFT_OUTPUT = """table inet mine {
  chain out { type filter hook output priority filter; policy drop;
    oifname "lo" accept; ct state { established, related } accept; }
}"""

needs_iptables = pytest.mark.skipif(shutil.which("iptables-nft") is None, reason="no iptables")


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    with world("ncwalls") as made:
        serve(made.server, made, SERVICE)
        serve(made.provider, made, SERVICE, CLOSED)
        made.configure(services=[f"{SERVICE}/tcp"])
        made.node.start()
        made.up()
        assert reaches(made.user, SERVER, SERVICE)
        yield made


@contextmanager
def rules(namespace: Namespace, text: str) -> Iterator[None]:
    """Add rules of another program, and delete them when the block ends."""
    command = ["iptables-nft-restore", "--noflush"] if text.startswith("*") else ["nft", "-f", "-"]
    namespace.must(*command, input_text=text)
    try:
        yield
    finally:
        listed = namespace.run(["nft", "list", "tables"]).stdout.splitlines()
        for table in listed:
            if "nconnect_" not in table:
                namespace.run(["nft", "delete", *table.split()])


@contextmanager
def routes(namespace: Namespace, *made: str) -> Iterator[None]:
    """Set what another program sets by `ip`, and undo it when the block ends."""
    for words in made:
        namespace.ip(words)
    try:
        yield
    finally:
        for words in reversed(made):
            gone = words.replace(" add ", " del ", 1)
            namespace.run(["ip", *gone.split()])  # the remedy may have been to delete it


def said(side: Side) -> str:
    return "\n".join(side.status()["problems"])


def findings(side: Side, *options: str) -> dict[str, str]:
    """The doctor's findings about other programs' rules, each with its remedy."""
    done = side.try_nconnect("doctor", "--json", *options)
    return {
        f["text"]: f["mend"]
        for f in json.loads(done.stdout)["findings"]
        if f["check"] in ("firewall", "routing") and f["level"] != "ok"
    }


def mended_as_said(made: World, side: Side, *parts: str, fixed: bool = False) -> list[str]:
    """`status` and doctor say why nothing passes, and doctor's commands, which are returned, mend it."""
    assert not reaches(made.user, SERVER, SERVICE), "the control: it is stopped"
    until(lambda: all(part in said(side) for part in parts), "the status to say it", timeout_s=15)
    found = findings(side)
    assert all(any(part in text for text in found) for part in parts), found
    commands = list(dict.fromkeys(command for mend in found.values() for command in mend.split(" && ")))
    if fixed:
        assert findings(side, "--fix") == {}
    else:
        for command in commands:
            side.namespace.must(*shlex.split(command))
    until(lambda: reaches(made.user, SERVER, SERVICE), "the server", timeout_s=5)
    until(lambda: said(side) == "", "the status to be content", timeout_s=15)
    return commands


@needs_iptables
def test_docker_28_that_drops_twice_is_named_and_mended(shared: World) -> None:
    with rules(shared.provider, DOCKER):
        commands = mended_as_said(
            shared,
            shared.provider_side,
            f"docker drops what peers send to {SERVER} (ip raw PREROUTING: ",
            f"docker drops what peers send to {LAN} (ip filter DOCKER: ",
            fixed=True,
        )
    assert commands == [
        "iptables -t raw -I PREROUTING -i nc0 -j ACCEPT",
        "iptables -I DOCKER-USER -i nc0 -j ACCEPT",
        "iptables -I DOCKER-USER -o nc0 -j ACCEPT",
    ]


@needs_iptables
def test_libvirt_that_rejects_in_a_second_chain_is_named_and_mended(shared: World) -> None:
    with rules(shared.provider, LIBVIRT):
        mended_as_said(
            shared, shared.provider_side, "(ip filter LIBVIRT_FWI: -o lan0 -j REJECT --reject-with"
        )


@needs_iptables
def test_ufw_that_closes_a_service_is_named_and_mended(shared: World) -> None:
    """The remedy is `ufw allow in on nc0`, which puts this rule into ufw's chain for users."""
    side = shared.provider_side
    with rules(shared.provider, UFW):
        assert not reaches(shared.user, PROVIDER_TUNNEL, SERVICE), "the control"
        until(
            lambda: f"ufw drops what peers send to port {SERVICE}/tcp" in said(side), "status", timeout_s=15
        )
        assert list(findings(side).values()) == ["ufw allow in on nc0"]
        shared.provider.must(*["iptables-nft", "-A", "ufw-user-input", "-i", "nc0", "-j", "ACCEPT"])
        until(lambda: reaches(shared.user, PROVIDER_TUNNEL, SERVICE), "the service", timeout_s=5)
        until(lambda: said(side) == "", "the status to be content", timeout_s=15)
        assert not reaches(shared.user, PROVIDER_TUNNEL, CLOSED), "our own rules still judge"


@pytest.mark.parametrize(
    "text", [pytest.param(NO_OUTPUT, marks=needs_iptables), NFT_OUTPUT], ids=["iptables", "nft"]
)
def test_dropped_output_on_the_users_side_is_named_and_mended(shared: World, text: str) -> None:
    with rules(shared.user, text):
        mended_as_said(
            shared,
            shared.user_side,
            f"drops packets to 10.86.0.0/24, {LAN}",
            f"drops the daemon's own packets to {NODE_HOST}:",
        )


@pytest.mark.parametrize("text", [NFT_EARLY, NFT_JUMP], ids=["early", "jump"])
def test_an_administrators_table_is_named_and_mended(shared: World, text: str) -> None:
    with rules(shared.provider, text):
        rule = "ip daddr 192.168.50.8/29 drop" if text == NFT_EARLY else "reject with icmpx admin-prohibited"
        mended_as_said(shared, shared.provider_side, "the table mine drops what peers send", rule)


@needs_iptables
def test_rules_that_let_us_pass_or_cannot_be_judged_are_not_named(shared: World) -> None:
    text = LIBVIRT.replace(
        "-A LIBVIRT_FWI -o lan0 -j", "-A LIBVIRT_FWI -o lan0 -m statistic --mode nth --every 9 --packet 0 -j"
    )
    with rules(shared.provider, text):
        assert findings(shared.provider_side) == {}
    with rules(shared.provider, "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -j ACCEPT\nCOMMIT\n"):
        assert reaches(shared.user, SERVER, SERVICE)
        assert findings(shared.provider_side) == {}
    assert said(shared.provider_side) == ""


def test_another_vpn_s_default_route_is_named_and_mended(shared: World) -> None:
    """As Tailscale's rules do with an exit node, or any policy that begins with a table of its own."""
    away = ("route add default via 198.51.100.1 table 52", "rule add lookup 52 priority 5270")
    with routes(shared.user, *away):
        commands = mended_as_said(
            shared,
            shared.user_side,
            f"packets to {PEERS}, {LAN}",
            "rule 5270: from all lookup 52",
            "wan0 instead of nc0",
        )
    assert f"ip rule add to {LAN} lookup main priority 5269" in commands
    for command in commands:
        shared.user.ip(command.removeprefix("ip ").replace("rule add", "rule del"))


def test_a_rule_that_sends_answers_elsewhere_is_named_and_mended(shared: World) -> None:
    """As cloud-init writes it for a second network card."""
    away = ("route add default via 203.0.113.1 table 100", f"rule add from {LAN} lookup 100 priority 100")
    with routes(shared.provider, *away):
        commands = mended_as_said(
            shared, shared.provider_side, f"answers from {LAN} to {PEERS}", f"rule 100: from {LAN} lookup 100"
        )
    assert commands == [f"ip rule add to {PEERS} lookup main priority 99"]
    shared.provider.ip(f"rule del to {PEERS} lookup main priority 99")


@pytest.mark.parametrize("route", ["blackhole 192.168.50.0/25", "192.168.50.0/26 via 198.51.100.1 dev wan0"])
def test_a_foreign_route_inside_the_prefix_is_named_and_mended(shared: World, route: str) -> None:
    with routes(shared.user, f"route add {route}"):
        commands = mended_as_said(shared, shared.user_side, f"(route {route})")
    assert commands == [f"ip route del {route}"]


def test_a_subnet_behind_the_default_gateway_is_no_finding(shared: World) -> None:
    """It works although only the default route leads there, and doctor finds nothing wrong."""
    sides = (shared.provider_side, shared.user_side)
    before = [side.config.read_text() for side in sides]
    shared.server.ip(f"address add {HOST_BEHIND}/32 dev lo")
    shared.provider.ip(f"route add {NODE_HOST} via 203.0.113.1")
    shared.provider.ip(f"route replace default via {SERVER}")
    try:
        for side, text in zip(sides, before, strict=True):
            side.config.write_text(text.replace(f'"{LAN}"', f'"{LAN}", "{BEHIND}"', 1))
            side.nconnect("reload")
        until(lambda: reaches(shared.user, HOST_BEHIND, SERVICE), "the host behind the gateway")
        assert said(shared.provider_side) == ""
        assert subnet(shared.provider_side) == "ok"
        shared.provider.ip("route del default")
        assert not reaches(shared.user, HOST_BEHIND, SERVICE), "the control"
        assert subnet(shared.provider_side) == "failure"
        until(
            lambda: f"what peers send to {BEHIND}" in said(shared.provider_side), "the status", timeout_s=15
        )
    finally:
        shared.provider.ip("route replace default via 203.0.113.1")
        shared.provider.ip(f"route del {NODE_HOST}")
        shared.server.ip(f"address del {HOST_BEHIND}/32 dev lo")
        for side, text in zip(sides, before, strict=True):
            side.config.write_text(text)
            side.nconnect("reload")
    until(lambda: said(shared.provider_side) == "", "the status to be content", timeout_s=15)


def subnet(side: Side) -> str:
    """The doctor's findings about the subnet behind the gateway."""
    done = side.try_nconnect("doctor", "--json", "--host", HOST_BEHIND)
    (level,) = (f["level"] for f in json.loads(done.stdout)["findings"]
                if f["check"] == "subnet" and BEHIND in f["text"])  # fmt: skip
    return str(level)
