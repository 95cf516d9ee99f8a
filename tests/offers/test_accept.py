"""Which prefixes of providers are in force, and where they are mapped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_interface, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nconnect.config.private import is_in_private_space
from nconnect.host.facts import HostFacts, LocalInterface, LocalRoute
from nconnect.model import (
    Config,
    Endpoint,
    NknAddress,
    PeerConfig,
    Prefix,
    ProvideConfig,
    ProvidedSubnet,
    within,
)
from nconnect.offers.accept import MAX_TAKEN, Accepted, Kept, accept

HOME = ip_network("192.168.1.0/24")
GATEWAY = LocalRoute(ip_network("0.0.0.0/0"), "eth0")


def net(*texts: str) -> tuple[Prefix, ...]:
    return tuple(map(ip_network, texts))


def provider(number: int, *subnets: str, tunnel: str = "10.86.0", **more: Any) -> PeerConfig:
    """As `join` writes it: the provider has .1 in its tunnel's network, and gave this device .2."""
    made = PeerConfig(
        f"p{number}",
        NknAddress(f"p{number}", bytes([number]) * 32),
        net(f"{tunnel}.1/32", *subnets),
        local_address=(ip_interface(f"{tunnel}.2/24"),),
    )
    return replace(made, **more)


def by_hand(name: str, *prefixes: str) -> PeerConfig:
    return PeerConfig(name, NknAddress(name, name.encode().ljust(32, b".")), net(*prefixes))


def config(*peers: PeerConfig, **more: Any) -> Config:
    return replace(Config("nc0", bytes(32), "me", (), peers=peers), **more)


def facts(*networks: str, routes: Iterable[str] = ()) -> HostFacts:
    addresses = tuple(ip_interface(n) for n in networks)
    others = tuple(LocalRoute(ip_network(route), "eth1") for route in routes)
    return HostFacts((LocalInterface("eth0", addresses),), (GATEWAY, *others))


def subnets_of(peer: PeerConfig) -> set[str]:
    return set(map(str, peer.allowed_ips)) - {"10.86.0.1/32"}


def seen(found: Accepted, name: str, real: str) -> Prefix:
    (prefix,) = [pair.seen for pair in found.peers[name].prefixes if pair.real == ip_network(real)]
    return prefix


def waiting(found: Accepted, name: str) -> dict[str, str]:
    return {str(each.prefix): each.why for each in found.peers[name].waiting}


def test_one_provider_alone_keeps_its_addresses() -> None:
    asked = config(provider(1, "192.168.50.0/24"))
    found = accept(asked, facts("192.168.1.7/24"), {}, {})
    assert found.config.address == (ip_interface("10.86.0.2/24"),)
    assert found.config.peers == asked.peers
    assert found.peers["p1"].mapped == ()


def test_five_providers_with_the_networks_of_this_device_work_all_at_once() -> None:
    """All have the same tunnel network too, and gave the same address."""
    asked = config(*(provider(n, str(HOME)) for n in range(1, 6)))
    found = accept(asked, facts("192.168.1.7/24"), {}, {})
    prefixes = [prefix for peer in found.config.peers for prefix in peer.allowed_ips]
    assert len(prefixes) == 10
    assert not any(a.overlaps(b) for a in prefixes for b in prefixes if a is not b)
    assert not any(prefix.overlaps(HOME) for prefix in prefixes)
    assert all(is_in_private_space(prefix) for prefix in prefixes)
    assert len({address.network for address in found.config.address}) == 5
    for peer in found.config.peers:
        (local,) = peer.local_address
        (own, _) = peer.allowed_ips
        assert own.network_address in local.network
        assert int(local.ip) & 0xFF == 2
        assert int(own.network_address) & 0xFF == 1
    assert found.peers["p1"].mapped == (
        (HOME, seen(found, "p1", str(HOME))),
    )  # the first one's tunnel network is its own
    assert {pair.real for pair in found.peers["p2"].mapped} == set(net("10.86.0.0/24", str(HOME)))


def test_a_mapping_is_kept_and_a_newcomer_takes_nothing_over() -> None:
    first = accept(
        config(provider(1, str(HOME)), provider(2, "172.20.0.0/16", tunnel="10.9.1")), facts(), {}, {}
    )
    assert first.peers["p1"].mapped == first.peers["p2"].mapped == ()
    # p1 comes first in the file, and offers now what p2 has had.
    asked = config(provider(1, str(HOME)), provider(2, "172.20.0.0/16", tunnel="10.9.1"))
    offered = {str(asked.peers[0].address): net(str(HOME), "172.20.3.0/24")}
    second = accept(asked, facts(), offered, first.kept)
    assert second.peers["p2"].mapped == ()
    assert [pair.real for pair in second.peers["p1"].mapped] == list(net("172.20.3.0/24"))
    # p2 goes; what is mapped stays where it is.
    third = accept(config(asked.peers[0]), facts(), offered, second.kept)
    assert third.peers["p1"].mapped == second.peers["p1"].mapped
    assert set(third.kept) == {str(asked.peers[0].address)}


def test_a_network_that_this_device_enters_maps_a_prefix_for_good() -> None:
    asked = config(provider(1, str(HOME)))
    first = accept(asked, facts(), {}, {})
    away = accept(asked, facts("192.168.1.7/24"), {}, first.kept)
    assert seen(away, "p1", str(HOME)) != HOME
    back = accept(asked, facts(), {}, away.kept)
    assert back.config == away.config
    closed = accept(replace(asked, fail_closed=True), facts("192.168.1.7/24"), {}, first.kept)
    assert seen(closed, "p1", str(HOME)) == HOME  # shut off, and not to be answered by the network here


def test_a_mapped_prefix_that_is_taken_later_moves() -> None:
    asked = config(provider(1, str(HOME)))
    first = accept(asked, facts("192.168.1.7/24"), {}, {})
    place = seen(first, "p1", str(HOME))
    second = accept(asked, facts("192.168.1.7/24", routes=[str(place)]), {}, first.kept)
    assert not seen(second, "p1", str(HOME)).overlaps(place)


def test_nothing_is_mapped_to_where_this_device_speaks_to() -> None:
    asked = config(provider(1, str(HOME)))
    here = facts("192.168.1.7/24")
    place = seen(accept(asked, here, {}, {}), "p1", str(HOME))
    node, server, gateway = place[1], place[2], place[3]
    for busy in (
        replace(here, endpoints=(Endpoint(node, 30003),)),
        replace(here, name_servers=(server,)),
        replace(here, routes=(replace(GATEWAY, gateway=gateway),)),
    ):
        assert not seen(accept(asked, busy, {}, {}), "p1", str(HOME)).overlaps(place)


@pytest.mark.parametrize(
    "here",
    [
        facts("192.168.50.7/26"),  # a network inside
        facts("192.168.0.7/16"),  # one around
        facts(routes=["192.168.50.128/25"]),
        facts(routes=["192.168.0.0/16"]),
        facts("192.168.50.9/32"),
    ],
)
def test_what_this_device_reaches_otherwise_is_never_taken_over(here: HostFacts) -> None:
    found = accept(config(provider(1, "192.168.50.0/24")), here, {}, {})
    assert not seen(found, "p1", "192.168.50.0/24").overlaps(ip_network("192.168.50.0/24"))


@pytest.mark.parametrize("route", ["0.0.0.0/0", "128.0.0.0/1", "0.0.0.0/1"])
def test_a_default_route_takes_nothing(route: str) -> None:
    found = accept(config(provider(1, "192.168.50.0/24")), facts(routes=[route]), {}, {})
    assert found.peers["p1"].mapped == ()


def test_what_a_person_wrote_stays_and_is_not_taken_over() -> None:
    hand = by_hand("hand", "10.86.0.9/32", "192.168.50.0/24")
    asked = config(hand, provider(1, "192.168.50.0/25"), address=(ip_interface("10.86.0.3/24"),))
    found = accept(asked, facts("192.168.50.7/24"), {}, {})
    assert found.config.peers[0] == hand
    assert found.config.address[0] == ip_interface("10.86.0.3/24")
    assert {pair.real for pair in found.peers["p1"].mapped} == set(net("10.86.0.0/24", "192.168.50.0/25"))


def test_of_what_a_person_wrote_no_offer_changes_anything() -> None:
    """Neither that it is routed nor that it is not mapped."""
    hand = by_hand("hand", "10.86.0.1/32", "192.168.1.10/32")
    for offer in (str(HOME), "192.168.1.10/32", "192.168.0.0/16"):
        found = accept(config(hand), facts("192.168.1.7/24"), {str(hand.address): net(offer)}, {})
        assert found.config.peers == (hand,)


def test_what_is_provided_here_is_not_taken_over() -> None:
    own = ProvideConfig((ProvidedSubnet(ip_network("192.168.50.0/24"), ip_network("10.99.1.0/24")),))
    found = accept(config(provider(1, "192.168.50.0/24", "10.99.1.0/24"), provide=own), facts(), {}, {})
    assert len(found.peers["p1"].mapped) == 2


def test_offers_that_must_be_asked_about_wait() -> None:
    asked = config(provider(1))
    offers = {
        "192.168.0.0/16": "",
        "10.0.0.0/15": "wider than /16",
        "fd00:1::/47": "wider than /48",
        "fd50::/48": "",
        "100.64.3.0/24": "100.64.0.0/10",
        "8.8.8.8/32": "not private",
        "2001:db8::/64": "not private",
        "0.0.0.0/0": "cannot be routed",
        "224.0.0.0/24": "cannot be routed",
        "127.0.0.0/8": "cannot be routed",
        "169.254.169.254/32": "cannot be routed",
    }
    found = accept(asked, facts(), {str(asked.peers[0].address): net(*offers)}, {})
    refused = waiting(found, "p1")
    assert subnets_of(found.config.peers[0]) == {prefix for prefix, why in offers.items() if not why}
    assert all(why in refused[prefix] for prefix, why in offers.items() if why)
    # A person agrees to some; the others stay out.
    asked = config(replace(asked.peers[0], accept_routes=net("10.0.0.0/8", "8.8.8.8/32")))
    found = accept(asked, facts(), {str(asked.peers[0].address): net(*offers)}, {})
    assert subnets_of(found.config.peers[0]) == {"10.0.0.0/15", "8.8.8.8/32"}
    asked = config(replace(asked.peers[0], accept_routes="all"))
    found = accept(asked, facts(), {str(asked.peers[0].address): net(*offers)}, {})
    assert set(waiting(found, "p1")) == {"0.0.0.0/0", "224.0.0.0/24", "127.0.0.0/8", "169.254.169.254/32"}


def test_more_than_sixteen_wait() -> None:
    asked = config(provider(1))
    many = [f"172.16.{n}.0/24" for n in range(MAX_TAKEN + 3)]
    found = accept(asked, facts(), {str(asked.peers[0].address): net(*many)}, {})
    assert set(waiting(found, "p1")) == set(many[MAX_TAKEN:])
    asked = config(provider(1, accept_routes="all"))
    found = accept(asked, facts(), {str(asked.peers[0].address): net(*many)}, {})
    assert not waiting(found, "p1")


def test_what_is_withdrawn_is_gone_and_what_comes_back_is_where_it_was() -> None:
    asked = config(provider(1, "8.8.8.8/32", str(HOME)))  # agreed to when it joined
    dest, here = str(asked.peers[0].address), facts("192.168.1.7/24")
    first = accept(asked, here, {dest: net("8.8.8.8/32", str(HOME))}, {})
    assert "8.8.8.8/32" in subnets_of(first.config.peers[0])
    gone = accept(asked, here, {dest: ()}, first.kept)
    assert subnets_of(gone.config.peers[0]) == set()
    assert set(waiting(gone, "p1")) == {"8.8.8.8/32", str(HOME)}, "the file says otherwise: tell why"
    again = accept(asked, here, {dest: net(str(HOME))}, gone.kept)
    assert seen(again, "p1", str(HOME)) == seen(first, "p1", str(HOME))


def test_whose_offers_are_taken() -> None:
    """A user's are not, on the machine of the provider that invited it."""
    guest = by_hand("guest", "10.86.0.9/32")
    offered = {str(guest.address): net("192.168.77.0/24")}
    user = accept(config(guest), facts(), offered, {})
    assert ip_network("192.168.77.0/24") in user.config.peers[0].allowed_ips
    invited = accept(config(guest), facts(), offered, {}, {"guest"})
    assert invited.config.peers == (guest,)
    assert waiting(invited, "guest") == {"192.168.77.0/24": 'accept_routes is "none"'}
    provide = ProvideConfig((ProvidedSubnet(HOME, HOME),))
    assert accept(config(guest, provide=provide), facts(), offered, {}).config.peers == (guest,)
    allowed = config(replace(guest, accept_routes="private"), provide=provide)
    assert len(accept(allowed, facts(), offered, {}, {"guest"}).config.peers[0].allowed_ips) == 2


def test_a_prefix_inside_another_one_lies_inside_it() -> None:
    asked = config(provider(1, "192.168.1.64/26", "192.168.0.0/16"))
    found = accept(asked, facts("192.168.1.7/24"), {}, {})
    outer, inner = seen(found, "p1", "192.168.0.0/16"), seen(found, "p1", "192.168.1.64/26")
    assert within(inner, outer)
    assert int(inner.network_address) & 0xFFFF == 0x0140


def test_a_prefix_moves_with_the_one_that_holds_it() -> None:
    asked = config(provider(1, "192.168.0.0/16", "192.168.1.0/24"))
    first = accept(asked, facts(), {}, {})
    here = facts("192.168.7.7/24")  # in the wider one alone
    second = accept(asked, here, {}, first.kept)
    assert within(seen(second, "p1", "192.168.1.0/24"), seen(second, "p1", "192.168.0.0/16"))
    assert accept(asked, here, {}, second.kept).config == second.config


def test_a_full_private_space_leaves_no_range() -> None:
    """The device reaches all of it already: what would have to be mapped waits, and nothing is taken over."""
    here = facts(routes=["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"])
    asked = config(provider(1, "192.168.50.0/24"), provider(2, "192.168.50.0/24"))
    found = accept(asked, here, {}, {})
    assert found.config.peers[1].allowed_ips == ()
    assert all("no private range is free" in each.why for each in found.peers["p2"].waiting)


def test_a_tunnel_network_that_is_not_private_is_cut_down() -> None:
    """As `join` writes it: this device's address alone."""
    peer = replace(
        provider(1),
        allowed_ips=net("203.0.113.1/32", "192.168.50.0/24"),
        local_address=(ip_interface("203.0.113.2/32"),),
    )
    found = accept(config(peer), facts(), {str(peer.address): net("192.168.51.0/24")}, {})
    assert set(found.config.peers[0].allowed_ips) == set(net("203.0.113.1/32", "192.168.51.0/24"))
    assert found.config.address == peer.local_address


PREFIXES = st.builds(
    lambda first, second, third, length: ip_network((first << 24 | second << 16 | third << 8, length), False),
    st.sampled_from([10, 172, 192]),
    st.sampled_from([0, 16, 86, 168]),
    st.integers(0, 3),
    st.integers(8, 32),
)


@settings(max_examples=150)
@given(
    st.lists(st.lists(PREFIXES, max_size=6), min_size=1, max_size=5),
    st.lists(PREFIXES, max_size=4),
    st.lists(PREFIXES, max_size=4),
)
def test_no_two_share_an_address_and_the_second_time_changes_nothing(
    offers: list[list[Prefix]], before: list[Prefix], after: list[Prefix]
) -> None:
    asked = config(*(provider(n + 1) for n in range(len(offers))))
    offered = {str(p.address): tuple(o) for p, o in zip(asked.peers, offers, strict=True)}
    kept: Kept = {}
    for routes in (before, after):
        here = facts(routes=map(str, routes))
        found = accept(asked, here, offered, kept)
        for one in found.config.peers:
            for other in found.config.peers:
                if one.name != other.name:
                    assert not any(a.overlaps(b) for a in one.allowed_ips for b in other.allowed_ips)
        for peer in found.peers.values():
            assert all(a.real.prefixlen == a.seen.prefixlen for a in peer.prefixes)
            assert not any(pair.seen.overlaps(route) for pair in peer.mapped for route in routes)
        assert accept(asked, here, offered, found.kept).config == found.config
        kept = found.kept


def test_what_a_provider_offered_long_ago_takes_nothing_from_who_has_it_now() -> None:
    """It offered the prefix, withdrew it, and offers it again when another provider has it."""
    one, two = provider(1), provider(2, tunnel="10.87.0")
    prefix = net("192.168.50.0/24")
    first, second = str(one.address), str(two.address)
    kept: Kept = {}
    for offered in ({first: prefix}, {first: ()}, {first: (), second: prefix}):
        kept = accept(config(one, two), facts(), offered, kept).kept
    found = accept(config(one, two), facts(), {first: prefix, second: prefix}, kept)
    assert seen(found, "p2", "192.168.50.0/24") == prefix[0]
    assert seen(found, "p1", "192.168.50.0/24") != prefix[0]


def test_an_offer_does_not_take_over_a_name_server() -> None:
    """One that is reached by the default route; where a person agreed to the prefix, it may lie behind it."""
    here = replace(facts(), name_servers=(ip_interface("10.1.1.1").ip,))
    peer = provider(1)
    offered = {str(peer.address): net("10.1.1.0/24")}
    found = accept(config(peer), here, offered, {})
    assert not seen(found, "p1", "10.1.1.0/24").overlaps(ip_network("10.1.1.0/24"))
    agreed = accept(config(provider(1, "10.1.1.0/24")), here, offered, {})
    assert agreed.peers["p1"].mapped == ()
