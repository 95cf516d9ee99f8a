"""The rules as values; netns_tests/test_host.py has their effect in a kernel."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_network

import pytest

from nconnect.host import expressions as e
from nconnect.host.closing import Closing
from nconnect.host.nft import TAKEN_UP, ruleset
from nconnect.host.offered import loopback_of, peer_id, provides, reachable_exposed
from nconnect.host.ruleset import Hook, Ruleset, transactions
from nconnect.model import AllowRule, Config, Exposed, ProvideConfig, ProvidedSubnet, Service
from tests.host.examples import PROVIDER, USER, peer


def elements(rules: Ruleset, name: str) -> dict[str, str]:
    return {str(at): target for at, target in rules.maps[name].elements.items()}


def text(rules: Ruleset, chain: str) -> str:
    return json.dumps(rules.chains[chain].rules)


ALICE, BOB, CARL = (peer_id(p) for p in PROVIDER.peers)


def test_each_peer_is_found_by_its_source() -> None:
    rules = ruleset(PROVIDER)
    assert elements(rules, "across4") == {"10.86.0.2": "accept", "10.86.0.3": f"jump across_{BOB}"}
    assert elements(rules, "local4") == {"10.86.0.2": "jump services", "10.86.0.3": f"jump local_{BOB}"}
    assert elements(rules, "across6") == {"fd86::2": "accept"}
    assert set(elements(rules, "refused4").values()) == {f"refused_{p}" for p in (ALICE, BOB, CARL)}
    assert rules.counters == {
        f"{what}_{each}": name
        for what in ("refused", "opened")
        for each, name in ((ALICE, "alice"), (BOB, "bob"), (CARL, "carl"))
    }


def test_what_is_opened_is_counted_either_way_once_it_may_be() -> None:
    first = e.first_packet()

    def counts(chain: str, end: str, interface: dict[str, object] | None) -> bool:
        by = {"counter": {"map": {"key": e.address(4, end), "data": "@opened4"}}}
        rule = (first, by) if interface is None else (interface, first, by)
        return rule in rules.chains[chain].rules

    entering, leaving = e.from_interface("nc0"), e.to_interface("nc0")
    rules = ruleset(PROVIDER, limits={"alice": 9, "bob": 9, "carl": 9})
    assert elements(rules, "opened4")["10.86.0.2"] == f"opened_{ALICE}"
    assert counts("limit_in", "saddr", entering)  # behind the filter
    assert counts("limit_across", "saddr", entering)
    assert counts("output", "daddr", leaving)
    assert not counts("into_tunnel", "daddr", None)  # nothing is opened from behind a provider
    rules = ruleset(USER)
    assert counts("output", "daddr", leaving)
    assert counts("into_tunnel", "daddr", None)
    assert "limit_in" not in rules.chains


def test_an_empty_allow_is_in_no_map_even_where_it_nests() -> None:
    rules = ruleset(PROVIDER)
    assert f"across_{CARL}" not in rules.chains
    # carl's 10.0.0.0/8 surrounds alice and bob: theirs are the more specific ones.
    assert elements(rules, "refused4")["10.86.0.2"] == f"refused_{ALICE}"
    assert elements(rules, "refused4")["10.86.0.4-10.255.255.255"] == f"refused_{CARL}"


def ranges(rules: Ruleset, name: str) -> list[str]:
    return [str(at) for at in rules.sets[name].elements]


def test_what_is_opened_to_a_paused_peer_is_refused() -> None:
    alice, bob, carl = PROVIDER.peers
    assert "paused4" not in ruleset(PROVIDER).sets
    assert "@paused" not in json.dumps([chain.rules for chain in ruleset(PROVIDER).chains.values()])
    rules = ruleset(replace(PROVIDER, peers=(alice, bob, replace(carl, paused="at night"))))
    # The addresses of others inside of carl's prefix are not his.
    assert ranges(rules, "paused4") == ["10.0.0.0-10.86.0.1", "10.86.0.4-10.255.255.255"]
    assert ranges(rules, "paused6") == []
    leaving = e.to_interface("nc0")
    paused = [
        e.match(e.address(4, "daddr"), "@paused4"),
        e.match({"ct": {"key": "direction"}}, "original"),
    ]
    reset = [e.match(e.meta("l4proto"), "tcp"), {"reject": {"type": "tcp reset"}}]
    assert rules.chains["output"].rules[0] == (leaving, *paused, *reset)
    assert rules.chains["output"].rules[1] == (leaving, *paused, e.PROHIBITED)
    # Before the rules that let a connection go on.
    assert rules.chains["into_tunnel"].rules[1:3] == ((*paused, *reset), (*paused, e.PROHIBITED))


def test_what_is_reached_by_another_way_is_no_source() -> None:
    wide = replace(USER, peers=(peer("provider", 9, "192.168.0.0/16", "10.86.0.1/32", "203.0.113.1/32"),))
    elsewhere = [ip_network(p) for p in ("192.168.1.0/24", "203.0.113.1/32", "10.0.0.0/8", "fd00::/8")]
    assert ranges(ruleset(wide, elsewhere=elsewhere), "sources4") == [
        "10.86.0.1",
        "192.168.0.0-192.168.0.255",
        "192.168.2.0-192.168.255.255",
    ]
    assert ranges(ruleset(USER, elsewhere=elsewhere), "sources6") == [
        "fd50::-fd50::ffff:ffff:ffff:ffff",
        "fd86::1",
    ]


@pytest.mark.parametrize("config", [PROVIDER, USER, replace(USER, inbound=True)])
def test_the_way_back_is_asked_before_connection_tracking(config: Config) -> None:
    chain = ruleset(config).chains["ways"]
    assert chain.hook is not None
    assert (chain.hook.hook, -300 < chain.hook.priority < -200) == ("prerouting", True)
    route_back = {"fib": {"result": "oifname", "flags": ["saddr"]}}
    inside, *outside = chain.rules
    assert inside[1:] == (
        {"match": {"op": "!=", "left": route_back, "right": "nc0"}},
        {"jump": {"target": "unanswered"}},
    )
    for version, rule in zip((4, 6), outside, strict=True):
        assert f"@sources{version}" in json.dumps(rule[1])
        assert rule[2:] == ({"match": {"op": "==", "left": route_back, "right": "nc0"}}, {"drop": None})


def test_answers_are_for_addresses_of_the_tunnel() -> None:
    assert ranges(ruleset(USER), "own4") == ["10.86.0.2"]
    exposing = replace(PROVIDER.provide, expose=(Exposed("127.0.0.1", 11434),))
    assert ranges(ruleset(replace(PROVIDER, provide=exposing)), "own4") == [
        "10.86.0.1",
        "127.0.0.0-127.255.255.255",
        "192.168.50.0-192.168.50.255",
    ]
    for config, verdict in (
        (PROVIDER, "judge_in"),
        (USER, "refuse"),
        (replace(USER, inbound=True), "refuse"),
    ):
        rules = ruleset(config).chains["tunnel_in"].rules
        elsewhere = [n for n, rule in enumerate(rules) if "@own" in json.dumps(rule)]
        answers = [
            n
            for n, rule in enumerate(rules)
            if "established" in json.dumps(rule) and {"accept": None} in rule
        ]
        assert len(elsewhere) == 2
        assert max(elsewhere) < min(answers)
        assert all(rules[n][-1] == {"jump": {"target": verdict}} for n in elsewhere)


@pytest.mark.parametrize("config", [PROVIDER, USER, replace(USER, inbound=True)])
def test_no_way_out_of_the_chains_but_a_verdict(config: Config) -> None:
    """Base chains accept by policy, so each that the tunnel enters must drop behind its jump."""
    rules = ruleset(config)
    for base in ("input", "forward"):
        assert rules.chains[base].rules[1][-1] == {"drop": None}
    for chain in ("tunnel_in", "tunnel_across", "judge_in", "judge_across"):
        assert rules.chains[chain].rules[-1][-1] in (
            {"jump": {"target": "refuse"}},
            {"jump": {"target": "judge_in"}},
            {"jump": {"target": "judge_across"}},
            {"accept": None},
        )
    for chain in ("refuse", "into_tunnel"):
        assert "reject" in rules.chains[chain].rules[-1][-1]


def test_only_an_inbound_user_accepts_all() -> None:
    assert ruleset(USER).chains["tunnel_in"].rules[-1] == ({"jump": {"target": "refuse"}},)
    assert ruleset(replace(USER, inbound=True)).chains["tunnel_in"].rules[-1] == ({"accept": None},)
    assert ruleset(replace(PROVIDER, inbound=True)).chains["tunnel_in"].rules[-1] == (
        {"jump": {"target": "judge_in"}},
    )


def test_a_user_translates_nothing() -> None:
    chains = ruleset(USER).chains
    assert not {"srcnat", "dstnat", "seen"} & chains.keys()


def test_masquerade_can_be_switched_off() -> None:
    assert "srcnat" in ruleset(PROVIDER).chains
    off = replace(PROVIDER, provide=replace(PROVIDER.provide, masquerade=False))
    assert "srcnat" not in ruleset(off).chains


def test_services_are_judged_before_any_established_accept() -> None:
    order = [json.dumps(rule) for rule in ruleset(PROVIDER).chains["tunnel_in"].rules]
    service = next(i for i, rule in enumerate(order) if "8000" in rule)
    established = next(i for i, rule in enumerate(order) if "established" in rule)
    assert service < established


def test_a_wide_entry_gives_only_the_services_of_the_provider() -> None:
    wide = AllowRule(ip_network("192.168.50.0/24"))
    named = AllowRule(ip_network("192.168.50.1/32"), (22, 22), "tcp")
    config = replace(PROVIDER, peers=(peer("bob", 2, "10.86.0.3/32", allow=(wide, named)),))
    first, second = ruleset(config).chains[f"local_{BOB}"].rules
    assert first[-1] == {"jump": {"target": "services"}}
    assert second[-1] == {"accept": None}


def test_entries_in_a_mapped_subnet_mean_what_the_peer_sees() -> None:
    mapped = ProvidedSubnet(ip_network("192.168.1.0/24"), ip_network("10.99.1.0/24"))
    allow = (AllowRule(ip_network("10.99.1.16/28")), AllowRule(ip_network("10.99.2.0/24")))
    config = replace(
        PROVIDER,
        provide=replace(PROVIDER.provide, subnets=(mapped,)),
        peers=(peer("bob", 2, "10.86.0.3/32", allow=allow),),
    )
    rules = ruleset(config)
    assert "192.168.1.16" in text(rules, f"across_{BOB}")
    assert "10.99.2.0" in text(rules, f"across_{BOB}")
    assert [str(e) for e in rules.sets["provided4"].elements] == ["192.168.1.0-192.168.1.255"]


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("127.1.2.3", "127.1.2.3"), ("::1", None),
     ("192.168.50.1", None), ("gpu", None)],
)  # fmt: skip
def test_what_can_be_exposed(host: str, loopback: str | None) -> None:
    found = loopback_of(Exposed(host, 80))
    assert (str(found) if found else None) == loopback


def test_nothing_is_exposed_without_an_ipv4_tunnel_address() -> None:
    provide = replace(PROVIDER.provide, expose=(Exposed("127.0.0.1", 80),))
    assert reachable_exposed(replace(PROVIDER, provide=provide))
    assert not reachable_exposed(replace(PROVIDER, provide=provide, address=PROVIDER.address[1:]))


def test_adding_a_peer_touches_no_base_chain() -> None:
    old = ruleset(replace(PROVIDER, peers=PROVIDER.peers[:1]))
    new = ruleset(replace(PROVIDER, peers=PROVIDER.peers[:2]))
    flushed = [
        c for step in transactions(old, new) for c in step if "flush" in c or "table" in json.dumps(c)[:16]
    ]
    assert flushed == []


def test_the_clamp_never_raises() -> None:
    provide = replace(PROVIDER.provide, mtu=1400)
    clamp = ruleset(replace(PROVIDER, provide=provide)).chains["mss"].rules
    sizes = [s["match"]["right"] for rule in clamp for s in rule if s.get("match", {}).get("op") == ">"]
    assert sizes == [1360, 1340, 1360, 1340]


def test_fail_closed_rejects_elsewhere_before_anything_else() -> None:
    shut = ruleset(USER, Closing((ip_network("10.86.0.0/24"), ip_network("fd50::/64"))))
    for name in ("output", "forward"):
        for version, rule in zip((4, 6), shut.chains[name].rules, strict=False):
            text = json.dumps(rule)
            assert f"@closed{version}" in text
            assert '"op": "!="' in text
            assert "closed" in text
        assert shut.chains[name].rules[2:] == ruleset(USER).chains[name].rules
    assert shut.sets["closed4"].elements
    assert shut.sets["closed6"].elements
    assert "tcp reset" not in json.dumps(shut.chains["closed"].rules), "a running connection must survive"
    assert "closed" not in ruleset(USER).chains
    # The last chain does not trust the interface's name alone, and no exception comes before that.
    tunnel, *_, end = shut.chains["closed_last"].rules
    assert '"oifkind"' in json.dumps(tunnel)
    assert end == (e.DROP,)
    assert "nc0" not in json.dumps(shut.chains["last"].rules)
    assert "accept" not in json.dumps(shut.chains["closed"].rules), "nothing is excepted for other machines"


def test_who_provides_anything_is_a_provider() -> None:
    assert not provides(USER)
    assert provides(PROVIDER)
    for offer in (
        ProvideConfig(services=(Service((80, 80), "tcp"),)),
        ProvideConfig(expose=(Exposed("127.0.0.1", 1),)),
        ProvideConfig(subnets=PROVIDER.provide.subnets),
    ):
        assert provides(replace(USER, provide=offer))


def test_tcp_for_provided_subnets_is_taken_up_and_judged_as_if_it_were_forwarded() -> None:
    rules = ruleset(PROVIDER, taken_up_at=7777)
    assert rules.chains["taken_up"].hook == Hook("filter", "prerouting", -150)
    for rule, version in zip(rules.chains["taken_up"].rules, (4, 6), strict=True):
        shown = json.dumps(rule)
        assert f"@provided{version}" in shown
        assert '"port": 7777' in shown
        assert '"tcp"' in shown
        assert '"local"' in shown, "not to this machine's own addresses"
    first = rules.chains["input"].rules[0]
    assert first[-1] == {"jump": {"target": "tunnel_across"}}
    assert f'"right": {TAKEN_UP}' in json.dumps(first)
    assert rules.chains["tunnel_across"] == ruleset(PROVIDER).chains["tunnel_across"]


def test_nothing_is_taken_up_where_nothing_is_provided_or_packets_are_forwarded() -> None:
    assert "taken_up" not in ruleset(PROVIDER).chains
    assert "taken_up" not in ruleset(USER, taken_up_at=7777).chains
    assert ruleset(USER, taken_up_at=7777) == ruleset(USER)
