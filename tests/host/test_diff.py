"""The diff, on a machine made of values: applied it gives the wanted state, undone the earlier one."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st

from nconnect.host.bypass import HostRoute
from nconnect.host.diff import (
    AddAddress,
    AddBypass,
    AddRoute,
    DeleteAddress,
    DeleteBypass,
    DeleteRoute,
    LoadRuleset,
    Operation,
    Reading,
    SetLink,
    SetRouteSource,
    SetSysctl,
    diff,
    undo,
)
from nconnect.host.plan import InterfaceState, PreferredSource, plan
from nconnect.host.ruleset import Ruleset
from tests.host.examples import FACTS, PROVIDER, USER

_ADDRESSES = tuple(map(ip_interface, ("10.86.0.1/24", "10.86.0.9/24", "fd86::1/64")))
_ROUTES = tuple(map(ip_network, ("192.168.50.0/24", "172.16.0.0/12", "fd50::/64")))
# Two of them lead to one address: the kernel has one at a time.
_BYPASSES = tuple(
    HostRoute(ip_address(address), "eth0", ip_address(gateway))
    for address, gateway in (
        ("192.168.50.10", "10.0.0.1"),
        ("192.168.50.10", "10.0.0.2"),
        ("fd50::1", "fe80::1"),
    )
)
T = TypeVar("T")
_NAMES = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")
_rulesets = st.sampled_from([plan(PROVIDER, FACTS).state.ruleset, plan(USER, FACTS).state.ruleset])


def _one_to_each(routes: tuple[HostRoute, ...]) -> tuple[HostRoute, ...]:
    return tuple({route.address: route for route in routes}.values())


def _some(values: tuple[T, ...]) -> st.SearchStrategy[tuple[T, ...]]:
    return st.lists(st.sampled_from(values), unique=True).map(tuple)


_states = st.builds(
    InterfaceState,
    interface=st.just("nc0"),
    mtu=st.sampled_from([1280, 1500]),
    addresses=_some(_ADDRESSES),
    routes=_some(_ROUTES),
    bypasses=_some(_BYPASSES).map(_one_to_each),
    device_sysctls=st.just((("net/ipv4/conf/nc0/route_localnet", "1"),)),
    sysctls=st.lists(st.sampled_from(_NAMES), unique=True).map(lambda names: tuple((n, "1") for n in names)),
    ruleset=_rulesets,
)
_readings = st.builds(
    Reading,
    mtu=st.sampled_from([1280, 1500]),
    up=st.booleans(),
    addresses=_some(_ADDRESSES),
    routes=_some(_ROUTES),
    bypasses=_some(_BYPASSES).map(_one_to_each),
    sysctls=st.fixed_dictionaries(dict.fromkeys(_NAMES, st.sampled_from("01"))),
    ruleset=st.none() | _rulesets,
)


def perform(reading: Reading, operation: Operation) -> Reading:
    match operation:
        case SetLink(_, mtu, up):
            return replace(reading, mtu=mtu, up=up)
        case AddAddress(_, address):
            assert address not in reading.addresses
            return replace(reading, addresses=(*reading.addresses, address))
        case DeleteAddress(_, address):
            assert address in reading.addresses
            return replace(reading, addresses=tuple(a for a in reading.addresses if a != address))
        case AddRoute(_, prefix, source):
            assert prefix not in reading.routes
            preferred = () if source is None else (PreferredSource(prefix, source),)
            return replace(reading, routes=(*reading.routes, prefix), sources=(*reading.sources, *preferred))
        case DeleteRoute(_, prefix):
            assert prefix in reading.routes
            return replace(
                reading,
                routes=tuple(r for r in reading.routes if r != prefix),
                sources=tuple(each for each in reading.sources if each.route != prefix),
            )
        case SetRouteSource(_, prefix, before, source):
            assert prefix in reading.routes
            assert dict(reading.sources).get(prefix) == before
            others = tuple(each for each in reading.sources if each.route != prefix)
            preferred = () if source is None else (PreferredSource(prefix, source),)
            return replace(reading, sources=(*others, *preferred))
        case AddBypass(route):
            assert route.address not in [held.address for held in reading.bypasses]
            return replace(reading, bypasses=(*reading.bypasses, route))
        case DeleteBypass(route):
            assert route in reading.bypasses
            return replace(reading, bypasses=tuple(r for r in reading.bypasses if r != route))
        case SetSysctl(name, _, value):
            return replace(reading, sysctls={**reading.sysctls, name: value})
        case LoadRuleset(_, _, new):
            return replace(reading, ruleset=new)


def comparable(reading: Reading) -> tuple[object, ...]:
    known = {name: value for name, value in reading.sysctls.items() if name in _NAMES}
    return (
        reading.mtu, reading.up, set(reading.addresses), set(reading.routes), set(reading.bypasses), known,
        set(reading.sources), reading.ruleset,
    )  # fmt: skip


@given(_readings, _states)
def test_applied_once_nothing_is_left_to_do(reading: Reading, wanted: InterfaceState) -> None:
    now = reading
    for operation in diff(reading, wanted):
        now = perform(now, operation)
    assert diff(now, wanted) == ()
    assert set(now.addresses) == set(wanted.addresses)
    assert set(now.routes) == set(wanted.routes)
    assert set(now.bypasses) == set(wanted.bypasses)


@given(_readings, _states, st.data())
def test_undone_at_any_point_everything_is_as_before(
    reading: Reading, wanted: InterfaceState, data: st.DataObject
) -> None:
    operations = diff(reading, wanted)
    done = operations[: data.draw(st.integers(0, len(operations)))]
    now = reading
    for operation in done:
        now = perform(now, operation)
    for operation in reversed(done):
        back = undo(operation, reading)
        if back is not None:
            now = perform(now, back)
    assert comparable(now) == comparable(reading)


@given(_readings, _states)
def test_the_order_leaves_nothing_open(reading: Reading, wanted: InterfaceState) -> None:
    kinds = [type(operation) for operation in diff(reading, wanted)]
    if LoadRuleset in kinds:
        assert kinds[0] is LoadRuleset
    if AddAddress in kinds and DeleteAddress in kinds:
        assert len(kinds) - 1 - kinds[::-1].index(AddAddress) < kinds.index(DeleteAddress)
    # A route that gets another source is replaced, between the new ones and those that go.
    routes = [o for o in diff(reading, wanted) if isinstance(o, AddRoute | DeleteRoute | SetRouteSource)]
    new = [i for i, o in enumerate(routes) if o.prefix not in reading.routes]
    gone = [i for i, o in enumerate(routes) if o.prefix not in wanted.routes]
    assert (new, gone) == (list(range(len(new))), list(range(len(routes) - len(gone), len(routes))))
    if AddBypass in kinds and AddRoute in kinds:  # else the way to a node would lead into the tunnel
        assert len(kinds) - 1 - kinds[::-1].index(AddBypass) < kinds.index(AddRoute)
    forwarding = [i for i, o in enumerate(diff(reading, wanted)) if isinstance(o, SetSysctl) and o.remember]
    assert forwarding == list(range(len(kinds) - len(forwarding), len(kinds)))


def test_a_route_gets_another_source_where_it_stays() -> None:
    wanted = plan(USER, FACTS).state
    route = wanted.routes[0]
    one, other = ip_address("10.86.0.2"), ip_address("10.99.0.2")
    with_source = replace(wanted, sources=(PreferredSource(route, other),))
    now = Reading(1500, True)
    for operation in diff(now, replace(wanted, sources=(PreferredSource(route, one),))):
        now = perform(now, operation)
    changes = diff(now, with_source)
    assert changes == (SetRouteSource("nc0", route, one, other),)
    for operation in changes:
        now = perform(now, operation)
    assert diff(now, with_source) == ()


def test_a_setting_that_is_right_already_is_not_ours_to_restore() -> None:
    wanted = plan(PROVIDER, FACTS).state
    reading = Reading(1500, True, sysctls={"net/ipv4/ip_forward": "1"})
    names = [o.name for o in diff(reading, wanted) if isinstance(o, SetSysctl)]
    assert "net/ipv4/ip_forward" not in names


def test_an_empty_table_is_not_the_wanted_one() -> None:
    wanted = plan(USER, FACTS).state
    assert diff(Reading(1500, True, ruleset=Ruleset(wanted.ruleset.table)), wanted)[0] == LoadRuleset(
        "nconnect_nc0", Ruleset("nconnect_nc0"), wanted.ruleset
    )
