"""Rules, routes and firewalls as a kernel has them, in a network of our own where that is allowed."""

from __future__ import annotations

import errno
import shutil
import subprocess
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from nconnect.config.proxy import Proxies
from nconnect.host.policy import PolicyRule, Question
from nconnect.io.system.netlink import Netlink
from nconnect.io.system.surroundings import detours, firewall_tables, stopped
from nconnect.model import Config, Endpoint, ProvideConfig, Proxy
from tests.doctor.examples import CONFIG, LAN
from tests.io.system.test_monitor import in_a_namespace, ip

SEED = ("http://203.0.113.7:30003",)
PROVIDER = replace(CONFIG, network=replace(CONFIG.network, seed_rpc=SEED))


def machine() -> None:
    """The interfaces and addresses of a provider."""
    for name, address in (("wan0", "203.0.113.2/24"), ("lan0", "192.168.50.1/24"), ("nc0", "10.86.0.1/24")):
        ip(f"link add {name} type bridge")
        ip(f"address add {address} dev {name}")
        ip(f"link set {name} up")
    ip("route add default via 203.0.113.1")


def nft(text: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True, capture_output=True)


def test_rules_are_read_as_ip_lists_them() -> None:
    def work() -> None:
        ip("link set lo up")
        for words in (
            "rule add not from 192.168.50.0/24 to 10.0.0.0/8 fwmark 0x5/0xff iif lo lookup 1000 priority 9",
            "rule add uidrange 0-10 lookup main suppress_prefixlength 0 priority 10",
            "-6 rule add oif lo prohibit priority 11",
        ):
            ip(words)
        with Netlink() as netlink:
            found = {(rule.version, rule.priority): rule for rule in netlink.rules()}
        assert found[4, 9] == PolicyRule(
            *(4, 9, "lookup", 1000, LAN, ip_network("10.0.0.0/8"), "lo"),
            mark=5,
            mask=255,
            inverted=True,
        )  # fmt: skip
        assert found[4, 10] == PolicyRule(4, 10, "lookup", 254, shortest=0, unclear=True)
        assert (found[6, 11].action, found[6, 11].oif) == ("prohibit", "lo")
        assert found[4, 32766] == PolicyRule(4, 32766, "lookup", 254)

    in_a_namespace(work)


def test_the_kernel_answers_for_one_packet() -> None:
    def work() -> None:
        machine()
        ip("route add blackhole 10.86.0.64/26")
        ip("route add default via 203.0.113.1 table 1000")
        ip("rule add from 192.168.50.0/24 lookup 1000")
        with Netlink() as netlink:
            names = {link.index: link.name for link in netlink.links()}
            routes = {str(route) for route in netlink.all_routes(names)}
            peer, own = ip_address("10.86.0.2"), ip_address("192.168.50.1")
            into = netlink.where(Question(peer), names)
            back = netlink.where(Question(peer, own), names)
            black = netlink.where(Question(ip_address("10.86.0.65")), names)
        assert (into.kind, into.interface, into.table) == ("unicast", "nc0", 254)
        assert (back.interface, back.table) == ("wan0", 1000)
        assert (black.is_refused, black.errno) == (True, errno.EINVAL)
        assert {"blackhole 10.86.0.64/26", "default via 203.0.113.1 dev wan0 table 1000"} < routes

    in_a_namespace(work)


def test_host_routes_of_ours_around_the_tunnel_are_no_detours() -> None:
    """A seed in a peer's prefix, which the configuration names, has one."""

    def work() -> None:
        machine()
        ip("route add 172.20.0.0/16 dev nc0 proto 0x6e")
        ip("route add 172.20.0.1/32 via 203.0.113.1 proto 0x6e")
        peer = replace(CONFIG.peers[0], allowed_ips=(ip_network("172.20.0.0/16"),))
        user = replace(PROVIDER, peers=(peer,), provide=ProvideConfig())
        assert detours(user)[0] == []
        ip("route add 172.20.1.0/24 via 203.0.113.1")
        assert len(detours(user)[0]) == 1

    in_a_namespace(work)


@pytest.mark.skipif(shutil.which("nft") is None, reason="no nft")
def test_whom_the_daemon_speaks_to_depends_on_the_proxy() -> None:
    def work() -> None:
        machine()
        nft("table inet t {\n chain out { type filter hook output priority 0; policy drop; }\n}\n")
        proxy = Proxy("http", "203.0.113.9", 3128)
        assert {o.subject for o in stopped(PROVIDER, [Endpoint(ip_address("203.0.113.8"), 30002)])} >= {
            "the daemon's own packets to 203.0.113.7:30003",
            "the daemon's own packets to 203.0.113.8:30002",
        }
        spoken_to = [o.subject for o in stopped(PROVIDER, [], proxies=Proxies(proxy))]
        assert "the daemon's own packets to 203.0.113.9:3128" in spoken_to
        assert "the daemon's own packets to 203.0.113.7:30003" not in spoken_to

    in_a_namespace(work)


@pytest.mark.skipif(shutil.which("iptables-nft") is None, reason="no iptables")
def test_extensions_of_iptables_are_read_where_its_program_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def stops(config: Config) -> list[str]:
        return [o.rule for o in stopped(config, []) if o.subject.startswith("what peers send to 192.")]

    def work() -> None:
        machine()
        for rule in (
            "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-A FORWARD -m conntrack --ctstate NEW -o lan0 -j DROP",
        ):
            subprocess.run(["iptables-nft", *rule.split()], check=True, capture_output=True)
        assert [table.program for table in firewall_tables() if table.name == "filter"] == ["iptables"]
        assert stops(PROVIDER) == ["-o lan0 -m conntrack --ctstate NEW -j DROP"]
        which = shutil.which
        monkeypatch.setattr(shutil, "which", lambda name, **where: None if "save" in name else which(name))
        assert [table.program for table in firewall_tables() if table.name == "filter"] == ["nft"]
        assert stops(PROVIDER) == [], "not understood, so nothing is said"

    in_a_namespace(work)
