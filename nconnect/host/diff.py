"""From the present state to the wanted one: ordered operations, each with its undo.

The firewall comes first and forwarding last, so that nothing is open for a moment. New things are added
before old ones are removed, so that a changed route leaves no gap. Applied to its own result, the diff is
empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nconnect.host.bypass import HostRoute
from nconnect.host.plan import InterfaceState, PreferredSource
from nconnect.host.ruleset import Ruleset
from nconnect.model import Address, InterfaceAddress, Prefix


@dataclass(frozen=True, slots=True)
class Reading:
    """What is there of ours. `ruleset` None: not known, or not there: it must be loaded whole."""

    mtu: int
    up: bool
    addresses: tuple[InterfaceAddress, ...] = ()
    routes: tuple[Prefix, ...] = ()
    sources: tuple[PreferredSource, ...] = ()
    bypasses: tuple[HostRoute, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    ruleset: Ruleset | None = None


@dataclass(frozen=True, slots=True)
class SetLink:
    interface: str
    mtu: int
    up: bool


@dataclass(frozen=True, slots=True)
class AddAddress:
    interface: str
    address: InterfaceAddress


@dataclass(frozen=True, slots=True)
class DeleteAddress:
    interface: str
    address: InterfaceAddress


@dataclass(frozen=True, slots=True)
class AddRoute:
    interface: str
    prefix: Prefix
    source: Address | None = None  # preferred


@dataclass(frozen=True, slots=True)
class DeleteRoute:
    interface: str
    prefix: Prefix
    source: Address | None = None  # what it had


@dataclass(frozen=True, slots=True)
class SetRouteSource:
    """Replace a route by one that prefers another source, without a moment in which there is none."""

    interface: str
    prefix: Prefix
    before: Address | None
    source: Address | None


@dataclass(frozen=True, slots=True)
class AddBypass:
    route: HostRoute


@dataclass(frozen=True, slots=True)
class DeleteBypass:
    route: HostRoute


@dataclass(frozen=True, slots=True)
class SetSysctl:
    name: str
    before: str | None  # None: this kernel does not have it
    value: str
    remember: bool  # whether remove() must put `before` back


@dataclass(frozen=True, slots=True)
class LoadRuleset:
    """`new` None: the table is removed."""

    table: str
    old: Ruleset | None
    new: Ruleset | None


Operation = (
    SetLink
    | AddAddress
    | DeleteAddress
    | AddRoute
    | DeleteRoute
    | SetRouteSource
    | AddBypass
    | DeleteBypass
    | SetSysctl
    | LoadRuleset
)


def diff(reading: Reading, wanted: InterfaceState) -> tuple[Operation, ...]:
    """The operations, in this order, that lead from `reading` to `wanted`."""
    name = wanted.interface
    operations: list[Operation] = []
    if reading.ruleset != wanted.ruleset:
        operations.append(LoadRuleset(wanted.ruleset.table, reading.ruleset, wanted.ruleset))
    operations += _sysctls(reading, wanted.device_sysctls, remember=False)
    if (reading.mtu, reading.up) != (wanted.mtu, True):
        operations.append(SetLink(name, wanted.mtu, True))
    # One that leads elsewhere now goes first, since the kernel takes no two to one address. The new ones come
    # before the routes that they are an exception of.
    operations += [DeleteBypass(d) for d in reading.bypasses if d not in wanted.bypasses]
    operations += [AddBypass(d) for d in wanted.bypasses if d not in reading.bypasses]
    operations += [AddAddress(name, a) for a in wanted.addresses if a not in reading.addresses]
    had, has = dict(reading.sources), dict(wanted.sources)
    operations += [AddRoute(name, r, has.get(r)) for r in wanted.routes if r not in reading.routes]
    operations += [
        SetRouteSource(name, r, had.get(r), has.get(r))
        for r in wanted.routes
        if r in reading.routes and had.get(r) != has.get(r)
    ]
    operations += [DeleteRoute(name, r, had.get(r)) for r in reading.routes if r not in wanted.routes]
    operations += [DeleteAddress(name, a) for a in reading.addresses if a not in wanted.addresses]
    operations += _sysctls(reading, wanted.sysctls, remember=True)
    return tuple(operations)


def undo(operation: Operation, reading: Reading) -> Operation | None:
    """The operation that undoes this one; None if none is needed. `reading` is from before the diff."""
    match operation:
        case SetLink(interface):
            return SetLink(interface, reading.mtu, reading.up)
        case AddAddress(interface, address):
            return DeleteAddress(interface, address)
        case DeleteAddress(interface, address):
            return AddAddress(interface, address)
        case AddRoute(interface, prefix, source):
            return DeleteRoute(interface, prefix, source)
        case DeleteRoute(interface, prefix, source):
            return AddRoute(interface, prefix, source)
        case SetRouteSource(interface, prefix, before, source):
            return SetRouteSource(interface, prefix, source, before)
        case AddBypass(route):
            return DeleteBypass(route)
        case DeleteBypass(route):
            return AddBypass(route)
        case SetSysctl(name, before, value, remember):
            return None if before is None else SetSysctl(name, value, before, remember)
        case LoadRuleset(table, old, _):
            return LoadRuleset(table, None, old)


def setting(name: str, value: str) -> str:
    """A setting in words, with sysctl(8)'s name."""
    return f"{name.replace('/', '.')} = {value}"


def _sysctls(reading: Reading, wanted: tuple[tuple[str, str], ...], *, remember: bool) -> list[Operation]:
    return [
        SetSysctl(name, reading.sysctls.get(name), value, remember)
        for name, value in wanted
        if reading.sysctls.get(name) != value
    ]
