"""Which firewall stops which packets, and what lets them pass. The rules are those that programs write."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.doctor import iptables_rules, nft_rules
from nconnect.doctor.firewalls import Obstacle, is_obstacle, obstacles
from nconnect.doctor.netfilter import Table
from nconnect.doctor.passages import Site, Upstream
from nconnect.model import ProvideConfig, ProvidedSubnet, Service
from tests.doctor.examples import CONFIG, LAN

Json = dict[str, Any]
PROVIDER = Site(CONFIG, {LAN: "lan0"}, frozenset({ip_address("10.86.0.1"), ip_address("192.168.50.1")}))
PEER = replace(CONFIG.peers[0], allowed_ips=(ip_network("10.86.0.1/32"), LAN))
USER = Site(replace(CONFIG, provide=ProvideConfig(), peers=(PEER,)), {})
SERVICES = Site(replace(CONFIG, provide=ProvideConfig(services=(Service((8000, 8000), "tcp"),))), {})
SUBNET_ONLY = Site(replace(CONFIG, provide=ProvideConfig(subnets=(ProvidedSubnet(LAN, LAN),))), {LAN: "lan0"})

DOCKER = """*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-BRIDGE - [0:0]
:DOCKER-CT - [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER-BRIDGE -o docker0 -j DOCKER
-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i docker0 -j ACCEPT
COMMIT
*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP
COMMIT
"""
UFW = """*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:ufw-before-input - [0:0]
:ufw-before-forward - [0:0]
:ufw-not-local - [0:0]
:ufw-user-input - [0:0]
:ufw-user-forward - [0:0]
-A INPUT -j ufw-before-input
-A FORWARD -j ufw-before-forward
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -p icmp -m icmp --icmp-type 8 -j ACCEPT
-A ufw-before-input -p udp -m udp --sport 67 --dport 68 -j ACCEPT
-A ufw-before-input -j ufw-not-local
-A ufw-before-input -d 224.0.0.251/32 -p udp -m udp --dport 5353 -j ACCEPT
-A ufw-before-input -j ufw-user-input
-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-forward -j ufw-user-forward
-A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN
-A ufw-not-local -m addrtype --dst-type MULTICAST -j RETURN
-A ufw-not-local -m limit --limit 3/min --limit-burst 10 -j LOG
-A ufw-not-local -j DROP
-A ufw-user-input -p tcp -m tcp --dport 22 -m comment --comment "an \\"ssh\\" -j DROP" -j ACCEPT
COMMIT
"""
LIBVIRT = """*filter
:FORWARD ACCEPT [0:0]
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


def iptables(text: str, program: str = "iptables") -> list[Table]:
    return iptables_rules.parse(text, "ip", program)


def nft(*entries: Any) -> list[Table]:
    return nft_rules.parse(entries)[0]


def base(table: str, name: str, policy: str = "accept", family: str = "inet", hook: str = "forward") -> Json:
    return {"chain": {"family": family, "table": table, "name": name, "hook": hook, "policy": policy,
                      "prio": 0, "type": "filter"}}  # fmt: skip


def rule(table: str, chain: str, *expr: Json, family: str = "inet") -> Json:
    return {"rule": {"family": family, "table": table, "chain": chain, "handle": 7, "expr": list(expr)}}


def meta(key: str, right: Any, op: str = "==") -> Json:
    return {"match": {"op": op, "left": {"meta": {"key": key}}, "right": right}}


def field(protocol: str, name: str, right: Any, op: str = "==") -> Json:
    left = {"payload": {"protocol": protocol, "field": name}}
    return {"match": {"op": op, "left": left, "right": right}}


def with_rule(text: str, line: str) -> str:
    """The rules with one more at the top of its chain."""
    chain = line.split()[1]
    at = text.index(f"-A {chain} ") if f"-A {chain} " in text else text.index("COMMIT")
    return text[:at] + line + "\n" + text[at:]


def mended(text: str, found: tuple[Obstacle, ...]) -> str:
    for obstacle in found:
        for program, *words in obstacle.commands:
            assert program == "iptables"
            line = " ".join(words)
            if "-t raw" in line:
                head, _, rest = text.partition("*raw\n")
                text = head + "*raw\n" + with_rule(rest, line.replace("-t raw -I", "-A"))
            else:
                text = with_rule(text, line.replace("-I", "-A"))
    return text


def test_docker() -> None:
    found = obstacles(iptables(DOCKER), SUBNET_ONLY)
    assert [o.sentence for o in found] == [
        "docker drops what peers send to 192.168.50.0/24 (ip filter FORWARD, by its policy)"
    ]
    assert found[0].mend == (
        "iptables -I DOCKER-USER -i nc0 -j ACCEPT && iptables -I DOCKER-USER -o nc0 -j ACCEPT"
    )
    assert found[0].safe
    assert obstacles(iptables(mended(DOCKER, found)), SUBNET_ONLY) == ()
    assert is_obstacle(found[0].problem)


def test_docker_28_shields_each_container_before_forwarding() -> None:
    bridge = ip_network("172.17.0.0/16")
    config = replace(CONFIG, provide=ProvideConfig(subnets=(ProvidedSubnet(bridge, bridge),)))
    site = Site(config, {bridge: "docker0"})
    found = obstacles(iptables(DOCKER), site)
    assert [o.sentence for o in found] == [
        "docker drops what peers send to 172.17.0.2"
        " (ip raw PREROUTING: -d 172.17.0.2/32 ! -i docker0 -j DROP)",
        "docker drops what peers send to 172.17.0.0/16 (ip filter DOCKER: ! -i docker0 -o docker0 -j DROP)",
    ]
    assert found[0].mend == "iptables -t raw -I PREROUTING -i nc0 -j ACCEPT"
    assert all(o.safe for o in found)
    assert obstacles(iptables(mended(DOCKER, found)), site) == ()
    shield = (meta("iifname", "br0", "!="), field("ip", "daddr", "172.17.0.2"))
    (same,) = obstacles(
        nft(
            base("raw", "PREROUTING", family="ip", hook="prerouting"),
            rule("raw", "PREROUTING", *shield, {"drop": None}, family="ip"),
        ),
        site,
    )
    assert (same.owner, same.handle, same.mend) == ("docker", 7, found[0].mend)


def test_libvirt_rejects_in_a_chain_that_is_jumped_to() -> None:
    found = obstacles(iptables(LIBVIRT), SUBNET_ONLY)
    assert [o.sentence for o in found] == [
        "libvirt drops what peers send to 192.168.50.0/24 (ip filter LIBVIRT_FWI:"
        " -o lan0 -j REJECT --reject-with icmp-port-unreachable)"
    ]
    assert not found[0].safe
    assert obstacles(iptables(mended(LIBVIRT, found)), SUBNET_ONLY) == ()
    elsewhere = replace(SUBNET_ONLY, devices={LAN: "lan1"})
    assert obstacles(iptables(LIBVIRT), elsewhere) == ()


def test_ufw_by_its_own_commands() -> None:
    (found,) = obstacles(iptables(UFW), SERVICES)
    assert found.sentence == "ufw drops what peers send to port 8000/tcp (ip filter INPUT, by its policy)"
    assert found.mend == "ufw allow in on nc0"
    assert not found.safe
    (found,) = obstacles(iptables(UFW), SUBNET_ONLY)
    assert found.mend == "ufw route allow in on nc0 && ufw route allow out on nc0"
    opened = with_rule(UFW, "-A ufw-user-input -i nc0 -j ACCEPT")
    assert obstacles(iptables(opened), SERVICES) == ()
    port = with_rule(UFW, "-A ufw-user-input -p tcp -m tcp --dport 8000 -j ACCEPT")
    assert obstacles(iptables(port), SERVICES) == ()
    assert obstacles(iptables(UFW), USER) == (), "answers come in as answers"


def test_an_output_policy_on_the_users_side() -> None:
    node = Upstream(ip_address("203.0.113.7"), 30002, "wan0")
    text = "*filter\n:INPUT ACCEPT\n:OUTPUT DROP\n-A OUTPUT -o lo -j ACCEPT\nCOMMIT\n"
    found = obstacles(iptables(text), replace(USER, nodes=(node,)))
    assert [(o.subject, o.mend) for o in found] == [
        ("packets to 10.86.0.0/24, 192.168.50.0/24", "iptables -I OUTPUT -o nc0 -j ACCEPT"),
        (
            "the daemon's own packets to 203.0.113.7:30002",
            "iptables -I OUTPUT -d 203.0.113.7 -p tcp --dport 30002 -j ACCEPT",
        ),
    ]
    assert obstacles(iptables(mended(text, found)), replace(USER, nodes=(node,))) == ()
    owner = with_rule(text, "-A OUTPUT -m owner --uid-owner 998 -j ACCEPT")
    assert obstacles(iptables(owner), replace(USER, nodes=(node,))) == (), "who sends is not known"


def test_an_input_policy_stops_answers_where_none_are_let_in() -> None:
    node = Upstream(ip_address("203.0.113.7"), 30002, "wan0")
    text = "*filter\n:INPUT DROP\n-A INPUT -i lo -j ACCEPT\nCOMMIT\n"
    found = obstacles(iptables(text, "iptables-legacy"), replace(USER, nodes=(node,)))
    assert [o.mend for o in found] == [
        "iptables-legacy -I INPUT -i nc0 -j ACCEPT",
        "iptables-legacy -I INPUT -s 203.0.113.7 -p tcp --sport 30002 -j ACCEPT",
    ]


WITH_DIRECT = replace(USER, nodes=(Upstream(ip_address("203.0.113.7"), 30002, "wan0"),), direct_port=41641)


def test_a_port_for_direct_streams_that_is_shut_is_told_apart() -> None:
    (found,) = obstacles(iptables(UFW), WITH_DIRECT)
    assert found.of_direct
    assert found.sentence == (
        "ufw drops what comes to TCP port 41641, which direct paths use (ip filter INPUT, by its policy)"
    )
    assert found.mend == "ufw allow 41641/tcp"
    opened = with_rule(UFW, "-A ufw-user-input -p tcp -m tcp --dport 41641 -j ACCEPT")
    assert obstacles(iptables(opened), WITH_DIRECT) == ()
    assert obstacles(iptables(UFW), replace(WITH_DIRECT, direct_port=0)) == ()
    some = with_rule(UFW, "-A ufw-user-input -s 192.168.0.0/16 -j ACCEPT")
    assert obstacles(iptables(some), WITH_DIRECT) == (), "who may come is not known"
    answers = "-A INPUT -i lo -j ACCEPT\n-A INPUT -m state --state ESTABLISHED -j ACCEPT"
    plain = f"*filter\n:INPUT DROP\n{answers}\nCOMMIT\n"
    found = next(o for o in obstacles(iptables(plain), WITH_DIRECT) if o.of_direct)
    assert found.mend == "iptables -I INPUT -p tcp --dport 41641 -j ACCEPT"
    established = match({"ct": {"key": "state"}}, "established")
    input_chain = (
        base("mine", "in", "drop", hook="input"),
        rule("mine", "in", established, {"accept": None}),
    )
    (found,) = obstacles(nft(*input_chain), WITH_DIRECT)
    assert found.mend == "nft insert rule inet mine in tcp dport 41641 accept"
    (found,) = obstacles(nft(*(_named("firewalld", entry) for entry in input_chain)), WITH_DIRECT)
    assert found.mend == "firewall-cmd --permanent --add-port=41641/tcp && firewall-cmd --reload"


def _named(table: str, entry: Json) -> Json:
    return {kind: {**value, "table": table} for kind, value in entry.items()}


def test_firewalld_and_a_table_of_the_administrators_own() -> None:
    state = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}
    reject = {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}
    ruleset = [
        base("firewalld", "filter_FORWARD"),
        base("firewalld", "filter_INPUT", hook="input"),
        {"chain": {"family": "inet", "table": "firewalld", "name": "zones"}},
        {"chain": {"family": "inet", "table": "firewalld", "name": "trusted"}},
        rule("firewalld", "trusted", {"accept": None}),
    ]
    for chain in ("filter_FORWARD", "filter_INPUT"):
        ruleset += [
            rule("firewalld", chain, state, {"accept": None}),
            rule("firewalld", chain, {"jump": {"target": "zones"}}),
            rule("firewalld", chain, reject),
        ]
    zone = {
        "vmap": {
            "key": {"meta": {"key": "iifname"}},
            "data": {"set": [["nc0", {"goto": {"target": "trusted"}}]]},
        }
    }
    found = obstacles(nft(*ruleset), PROVIDER)
    assert {o.owner for o in found} == {"firewalld"}
    assert {o.mend for o in found} == {
        "firewall-cmd --permanent --zone=trusted --add-interface=nc0 && firewall-cmd --reload"
    }
    assert obstacles(nft(*ruleset, rule("firewalld", "zones", zone)), PROVIDER) == ()
    (own,) = obstacles(nft(base("mine", "fwd", "drop")), SUBNET_ONLY)
    assert own.owner == "the table mine"
    head = "nft insert rule inet mine fwd"
    assert own.mend == f"{head} iifname nc0 accept && {head} oifname nc0 accept"


def test_what_stops_nothing_of_ours_is_passed_over() -> None:
    assert obstacles(nft(base("nconnect_nc1", "forward", "drop")), PROVIDER) == ()
    assert obstacles(nft(base("b", "fwd", "drop", family="bridge")), PROVIDER) == ()
    conditional = rule("t", "f", meta("iifname", "eth9"), {"drop": None})
    assert obstacles(nft(base("t", "f"), conditional), PROVIDER) == ()
    assert obstacles(nft(base("t", "f", "drop")), SERVICES) == ()
    sixth = iptables_rules.parse("*filter\n:FORWARD DROP\nCOMMIT\n", "ip6", "iptables")
    assert obstacles(sixth, SUBNET_ONLY) == ()


def match(left: Json, right: Any, op: str = "==") -> Json:
    return {"match": {"op": op, "left": left, "right": right}}


FLAGS = {"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, ["fin", "syn", "rst", "ack"]]}
LOOKS = [
    (meta("iifname", {"set": ["nc*", "lo"]}), True),
    (meta("nfproto", "ipv4"), True),
    (meta("l4proto", {"set": ["tcp", 17]}), True),
    (meta("mark", 0), True),
    (meta("mark", 5, "<"), None),
    (meta("skuid", 0), None),
    (field("ip6", "saddr", "fd50::1"), False),
    (field("ip", "saddr", "@peers"), True),
    (field("ip", "saddr", "@peers", "!="), False),
    (field("ip", "saddr", "@gone"), None),
    (field("tcp", "dport", {"set": [22, {"range": [1, 9]}]}), None),
    (field("udp", "dport", 53), False),
    (field("icmp", "type", "echo-request"), False),
    (match(FLAGS, "syn"), True),
    (match({"fib": {"result": "type", "flags": ["daddr"]}}, "unicast"), True),
    (match({"fib": {"result": "oif", "flags": ["saddr", "iif"]}}, False), None),
    (match({"ct": {"key": "state"}}, "new", "in"), True),
    (match({"ct": {"key": "status"}}, "dnat", "in"), None),
    ({"xt": {"type": "match", "name": "comment"}}, True),
    ({"xt": {"type": "match", "name": "time"}}, None),
    ({"limit": {"rate": 3}}, None),
    ({"counter": {"packets": 0}}, True),
]


@pytest.mark.parametrize(("look", "takes"), LOOKS)
def test_what_nft_matches_by(look: Json, takes: bool | None) -> None:
    """Dropped by the rule where it takes the packet; accepted by it, or by the policy, otherwise."""
    network = {"prefix": {"addr": "10.86.0.0", "len": 24}}
    elements = ["192.0.2.1", {"elem": {"val": network}}]
    peers = {"set": {"family": "inet", "table": "t", "name": "peers", "elem": elements}}

    def stops(verdict: str, policy: str) -> bool:
        made = nft(base("t", "f", policy), peers, rule("t", "f", look, {verdict: None}))
        return any(o.subject.startswith("what peers send") for o in obstacles(made, SUBNET_ONLY))

    assert stops("drop", "accept") is (takes is True)
    assert stops("accept", "drop") is (takes is False)


@pytest.mark.parametrize(
    ("line", "takes"),
    [
        ("-s 10.86.0.0/255.255.255.0 -i nc+", True),
        ("! -s 10.86.0.0/24", False),
        ("-p udp", False),
        ("-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN", True),
        ("-p tcp -m multiport --dports 22,80:90", None),
        ("-m mark --mark 0x1/0x1", False),
        ("-m state --state NEW", True),
        ("-m conntrack --ctstate DNAT", None),
        ("-m physdev --physdev-is-bridged", None),
        ('-m comment --comment "-p udp"', True),
        ("-m connmark --mark 0x1", False),
        ("-s 10.86.0.0/255.0.255.0", None),
        ("--surprise", None),
    ],
)
def test_what_iptables_matches_by(line: str, takes: bool | None) -> None:
    def stops(verdict: str, policy: str) -> bool:
        made = iptables(f"*filter\n:FORWARD {policy} [0:0]\n-A FORWARD {line} -j {verdict}\nCOMMIT\n")
        return any(o.subject.startswith("what peers send") for o in obstacles(made, SUBNET_ONLY))

    assert stops("DROP", "ACCEPT") is (takes is True)
    assert stops("ACCEPT", "DROP") is (takes is False)


def test_advice_where_no_command_is_known() -> None:
    obstacle = Obstacle("the table t", "what 192.168.50.0/24 answers peers", "ip t pre", "drop")
    assert obstacle.problem == (
        "the table t drops what 192.168.50.0/24 answers peers (ip t pre: drop);"
        " look at `nft -a list chain ip t pre`"
    )
    assert is_obstacle(obstacle.problem)
    assert not is_obstacle("the kernel drops packets to 10.0.0.0/8 (route blackhole 10.0.0.0/8)")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["chain", "rule", "expr", "match", "left", "meta", "key", "hook", "family", "table", "goto",
                 "vmap", "data", "set", "elem", "right", "op", "payload", "name", "xt", "jump", "mangle"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)  # fmt: skip
expressions = st.fixed_dictionaries(
    {"rule": st.fixed_dictionaries({"family": st.just("inet"), "table": st.just("t"), "chain": st.just("f"),
                                    "expr": values | st.lists(values, max_size=3)})}
)  # fmt: skip


@given(st.lists(values | expressions, max_size=5))
def test_any_json_is_taken(ruleset: list[Any]) -> None:
    obstacles(nft(base("t", "f", "drop"), *ruleset), PROVIDER)


OPTIONS = "-j -A -g ! -m -s --dport x 1: DROP \" ' 10.0.0.0/8 --state --comment"


@given(st.text(), st.lists(st.sampled_from(OPTIONS.split())))
def test_any_text_is_taken(text: str, words: list[str]) -> None:
    obstacles(iptables(f"*filter\n:FORWARD DROP\n-A FORWARD {' '.join(words)}\n{text}\n"), PROVIDER)
