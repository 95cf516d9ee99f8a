"""Bringing this machine into the state that a plan asks for, and back.

Blocking: call it in a thread. All calls belong to one network namespace, that of the calling thread.

What must outlive the process stands in a record (`io.host_record`), written before the change that it is
about: after a SIGKILL `remove()` (or the next `apply()` and its `remove()`) knows what there was before.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

from nconnect.errors import HostError
from nconnect.host import flow_limits
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
    SetSysctl,
    diff,
    setting,
    undo,
)
from nconnect.host.facts import Facts, LocalInterface, LocalRoute
from nconnect.host.flow_limits import CONNTRACK_MAX
from nconnect.host.forwarding import VIRTUAL_KINDS
from nconnect.host.judge import judge, owner_of
from nconnect.host.plan import FORWARDING, IP_FORWARD, IPV6_FORWARDING, ROUTE_PROTOCOL, HostPlan, HostState
from nconnect.host.ruleset import (
    AddressMap,
    AddressSet,
    Ruleset,
    deletion,
    interface_of,
    table_name,
    transactions,
)
from nconnect.io.errors import reason
from nconnect.io.net import name_servers
from nconnect.io.system import conntrack, nftables, sysctl
from nconnect.io.system.host_record import Record, RecordFile
from nconnect.io.system.netlink import Link, Netlink
from nconnect.io.system.netlink_socket import NetlinkError
from nconnect.model import Config, Prefix


class Host:
    """One interface's share of this machine. The TUN device is the daemon's: it exists before `apply`."""

    def __init__(self, interface: str, state_dir: Path, *, device: Callable[[], int] | None = None) -> None:
        """`device`: the index of the daemon's device, 0 when it is gone. Without it, it is found by name."""
        self._interface = interface
        self._index = device
        self._device = f"interface {interface}"
        self._file = RecordFile(state_dir)
        self._ruleset: Ruleset | None = None  # what this process has loaded
        self._handle: int | None = None  # of the table into which it was loaded

    @property
    def problem(self) -> str:
        """A sentence: what to restore could not be kept; "" when it could."""
        return self._file.problem

    def read_facts(self) -> Facts:
        """What a plan needs to know of the kernel."""
        with _asking("read the machine's addresses"), Netlink() as netlink:
            links = netlink.links()
            names = self._names(links)
            held = netlink.addresses()
            routes = netlink.routes(names)
            neighbours = netlink.neighbours(names)
        own = self._bypasses(routes, self._file.read())
        interfaces = tuple(
            LocalInterface(
                names[link.index], tuple(a.address for a in held if a.index == link.index), link.kind
            )
            for link in links
        )
        records = self._records()
        there_before = [frozenset(record.interfaces) for record in records if record.interfaces]
        return Facts(
            interfaces,
            tuple(route for route in routes if route not in own),
            tuple(neighbours),
            tuple(name_servers.of_this_machine()),
            self._sysctls(),
            self._others(links),
            uid=os.geteuid(),
            switched_on=frozenset(
                name
                for record in records
                for name, (before, _) in record.sysctls.items()
                if name in FORWARDING and before == "0"
            ),
            sysctls_locked=sysctl.is_locked(),
            there_before=frozenset().union(*there_before) if there_before else None,
        )

    def apply(self, plan: HostPlan) -> None:
        """Make the machine as planned; again is harmless, and repairs what is gone.

        Raises `HostError`, and then has taken back what it had done. A table that somebody emptied rather
        than removed is found by `missing` only, which costs more; `apply` then loads it anew.
        """
        state = plan.state
        with _asking(f"set up {self._interface}"), Netlink() as netlink:
            link = self._named_back(netlink, self._link(netlink))
            record = self._file.read()
            handle = nftables.tables().get(state.ruleset.table)
            if handle != self._handle:
                self._ruleset = None
            reading = self._read(netlink, link, state, record)
            self._record_changes(record, reading, state)
            # Rules of a killed daemon are replaced, and never taken back: `remove` decides on them.
            left_over = handle is not None and self._ruleset is None
            done: list[Operation] = []
            try:
                for operation in diff(reading, state):
                    if isinstance(operation, SetSysctl) and operation.remember:
                        record.remember(operation)
                        if operation.name in FORWARDING and not record.interfaces:
                            record.interfaces = sorted(other.name for other in netlink.links())
                        self._file.write(record)
                    done.append(operation)
                    self._perform(netlink, link, operation)
            except (HostError, NetlinkError) as error:
                if left_over:
                    done = [each for each in done if not isinstance(each, LoadRuleset)]
                self._take_back(netlink, link, done, reading, record)
                if isinstance(error, NetlinkError):
                    raise HostError(_refused(done[-1], error)) from error
                raise

    def remove(self, *, keep_rules: bool = False) -> None:
        """Take back all that is ours, of a daemon that was killed too; harmless when nothing is there.

        `keep_rules`: leave the firewall's table, so that `fail_closed` goes on.
        """
        problems: list[str] = []
        record = self._file.read()
        with _asking(f"take {self._interface} down"), Netlink() as netlink:
            links = netlink.links()
            link = self._find(links)
            if link is not None:
                problems += self._clear(netlink, link, record)
            self._end_bypasses(netlink, links, record)
        try:
            self._put_back(record, links)
        except HostError as error:
            problems.append(str(error))
        try:
            if not keep_rules:
                nftables.run([deletion(table_name(self._interface))])
        except HostError as error:
            problems.append(str(error))
        self._ruleset = None
        if problems:
            raise HostError("; ".join(problems))

    def missing(self, plan: HostPlan) -> list[str]:
        """What of the plan is not there, in words; empty when all is."""
        with _asking(f"look at {self._interface}"), Netlink() as netlink:
            try:
                link = self._link(netlink)
            except HostError:
                return [self._device]
            if link.name != self._interface:
                return [f"the name {self._interface} (the interface is called {link.name})"]
            if self._ruleset is not None and not self._is_loaded(self._ruleset):
                self._ruleset = None
            reading = self._read(netlink, link, plan.state, self._file.read())
        return [_described(operation) for operation in diff(reading, plan.state)]

    def is_interface(self, missing: list[str]) -> bool:
        """Whether what `missing` found is the device itself, which is the daemon's to make."""
        return missing == [self._device]

    def has_rules(self) -> bool:
        """Whether the firewall has a table of ours: of this daemon, or of one that was killed."""
        return table_name(self._interface) in nftables.tables()

    def refused_counts(self) -> dict[str, dict[str, int]]:
        """How many packets of each peer were refused since the rules were loaded, by reason.

        Those of no peer are under "".
        """
        ruleset = self._ruleset  # a thread that applies a plan may replace it meanwhile
        if ruleset is None:
            return {}
        seen = nftables.counters(ruleset.table)
        counts: dict[str, dict[str, int]] = {}
        for counter, peer in ruleset.counters.items():
            why = counter.rpartition("_")[0] if peer else counter
            counts.setdefault(peer, {})[why] = seen.get(counter, 0)
        return counts

    def count_flows(self, config: Config) -> dict[str, int]:
        """How many connections each peer has open here."""

        def owner(source: bytes) -> str | None:
            peer = owner_of(ip_address(source), config)
            return None if peer is None else peer.name

        with _asking("count the connections of peers"):
            return conntrack.count(owner)

    def give_flows(self, tokens: Mapping[str, int]) -> None:
        """Let peers (by id, `host.nft.peer_id`) open so many connections more. Raises `HostError`."""
        ruleset = self._ruleset
        if ruleset is not None and tokens:
            nftables.run([flow_limits.transaction(ruleset.table, tokens)])

    def flush_conntrack(self, prefixes: Iterable[Prefix]) -> bool:
        """Forget all connections of these addresses; False when the kernel has no ctnetlink."""
        with _asking("end the connections of peers"):
            return conntrack.forget(prefixes)

    def end_refused(self, config: Config) -> bool:
        """Forget the connections that peers opened and may, as `config` now says, not open any more.

        False when the kernel has no ctnetlink: the peers' packets are refused all the same, but a server
        goes on sending until it gives up.
        """
        with _asking("read the machine's addresses"), Netlink() as netlink:
            own = {held.address.ip for held in netlink.addresses()}
        prefixes = [prefix for peer in config.peers for prefix in peer.allowed_ips]
        with _asking("end the connections of peers"):
            return conntrack.forget(prefixes, judge(config, own))

    def _names(self, links: list[Link]) -> dict[int, str]:
        """By index. Ours has the name that it should have, and a stranger of that name its number."""
        ours = self._find(links)
        names = {link.index: link.name for link in links}
        for link in links:
            if link.name == self._interface:
                names[link.index] = f"#{link.index}"
        if ours is not None:
            names[ours.index] = self._interface
        return names

    def _find(self, links: list[Link]) -> Link | None:
        """Our interface, whatever it is called."""
        index = None if self._index is None else self._index()
        for link in links:
            if link.name == self._interface if index is None else link.index == index:
                return link
        return None

    def _link(self, netlink: Netlink) -> Link:
        link = self._find(netlink.links())
        if link is None:
            raise HostError(
                f"there is no interface {self._interface}: something removed it; run `nconnect up` again"
            )
        return link

    def _named_back(self, netlink: Netlink, link: Link) -> Link:
        """Our interface under its own name: the firewall's rules find it by that."""
        if link.name == self._interface:
            return link
        try:
            netlink.rename(link.index, self._interface)
        except NetlinkError as error:
            raise HostError(
                f"{self._interface} was renamed {link.name}, and stays down: it cannot be named back:"
                f" {reason(error)}; give the other interface of that name another one"
            ) from error
        return self._link(netlink)

    def _read(self, netlink: Netlink, link: Link, state: HostState, record: Record) -> Reading:
        """What of ours is there: an address or a route that somebody else gave the interface is not seen.

        But a route that is wanted is as good as ours: the kernel takes none beside it.
        """
        names = {each.index: each.name for each in netlink.links()}
        ours = {*map(str, state.addresses), *record.addresses}
        addresses = tuple(held.address for held in netlink.addresses(link.index) if str(held.address) in ours)
        found = netlink.routes(names)
        routes = tuple(
            route.prefix
            for route in found
            if route.interface == link.name
            and (route.protocol == ROUTE_PROTOCOL or route.prefix in state.routes)
        )
        bypasses = tuple(
            HostRoute(route.prefix.network_address, route.interface, route.gateway)
            for route in self._bypasses(found, record)
        )
        wanted = (*state.device_sysctls, *state.sysctls)
        settings = {name: value for name, _ in wanted if (value := sysctl.read(name)) is not None}
        return Reading(link.mtu, link.up, addresses, routes, bypasses, settings, self._ruleset)

    def _bypasses(self, routes: Iterable[LocalRoute], record: Record) -> list[LocalRoute]:
        """Those of the routes that are our host routes around the tunnel: the record names their addresses,
        so that another daemon's are not taken for ours.
        """
        return [
            route
            for route in routes
            if route.protocol == ROUTE_PROTOCOL
            and route.interface != self._interface
            and route.prefix.prefixlen == route.prefix.max_prefixlen
            and str(route.prefix.network_address) in record.bypasses
        ]

    def _is_loaded(self, ruleset: Ruleset) -> bool:
        """Whether the kernel has all of it: the table that we made, every name, and the number of rules in
        each chain."""
        listed = nftables.contents(ruleset.table)
        if listed is None or self._handle not in [e["table"]["handle"] for e in listed if "table" in e]:
            return False
        rules = [entry["rule"]["chain"] for entry in listed if "rule" in entry]
        chains = {entry["chain"]["name"] for entry in listed if "chain" in entry}
        holders = {entry[kind]["name"] for entry in listed for kind in ("set", "map") if kind in entry}
        filled = {
            entry[kind]["name"]
            for entry in listed
            for kind in ("set", "map")
            if kind in entry and entry[kind].get("elem")
        }
        elements: dict[str, AddressSet | AddressMap] = {**ruleset.sets, **ruleset.maps}
        return (
            all(rules.count(name) == len(chain.rules) for name, chain in ruleset.chains.items())
            and chains == ruleset.chains.keys()
            and holders == elements.keys()
            and filled == {name for name, holder in elements.items() if holder.elements}
        )

    def _sysctls(self) -> dict[str, str]:
        ipv6 = f"net/ipv6/conf/{self._interface}"
        if sysctl.read(CONNTRACK_MAX) is None:
            conntrack.load()
        ipv6_off = ("net/ipv6/conf/default/disable_ipv6", f"{ipv6}/disable_ipv6")
        names = [IP_FORWARD, IPV6_FORWARDING, CONNTRACK_MAX, *ipv6_off, *sysctl.interfaces_with("accept_ra")]
        return {name: value for name in names if (value := sysctl.read(name)) is not None}

    def _others(self, links: list[Link]) -> tuple[str, ...]:
        """Interfaces of other nconnect daemons in this namespace: a table of theirs, and the device."""
        present = {link.name for link in links} - {self._interface}
        return tuple(
            sorted({name for t in nftables.tables() if (name := interface_of(t)) in present and name})
        )

    def _records(self) -> list[Record]:
        """Ours, and those of other daemons on this machine."""
        return [self._file.read(), *(file.read() for _, file in self._file.of_others())]

    def _record_changes(self, record: Record, reading: Reading, state: HostState) -> None:
        """Note which addresses and host routes we are about to add."""
        added = {str(address) for address in state.addresses if address not in reading.addresses}
        bypasses = {str(route.address) for route in state.bypasses}
        known = added <= set(record.addresses) and bypasses <= set(record.bypasses)
        if not known or not self._file.exists():
            record.addresses = sorted({*record.addresses, *added})
            record.bypasses = sorted({*record.bypasses, *bypasses})
            self._file.write(record)

    def _perform(self, netlink: Netlink, link: Link, operation: Operation) -> None:
        match operation:
            case SetLink(_, mtu, up):
                if up:  # nobody on the other side answers link-local addresses, so none is needed
                    with contextlib.suppress(NetlinkError):  # a kernel without IPv6
                        netlink.no_link_local(link.index)
                netlink.set_link(link.index, mtu=mtu, up=up)
            case AddAddress(_, address):
                netlink.add_address(link.index, address)
            case DeleteAddress(_, address):
                netlink.delete_address(link.index, address)
            case AddRoute(_, prefix):
                netlink.add_route(link.index, prefix, ROUTE_PROTOCOL)
            case DeleteRoute(_, prefix):
                netlink.delete_route(link.index, prefix, ROUTE_PROTOCOL)
            case AddBypass() | DeleteBypass():
                _perform_bypass(netlink, operation)
            case SetSysctl(name, _, value):
                sysctl.write(name, value)
            case LoadRuleset(table, old, new):
                self._ruleset = None
                nftables.run([deletion(table)] if new is None else transactions(old, new))
                self._ruleset, self._handle = new, nftables.tables().get(table)

    def _take_back(
        self, netlink: Netlink, link: Link, done: list[Operation], reading: Reading, record: Record
    ) -> None:
        """Undo in reverse; the operation that failed too, since it may have been half done."""
        for operation in reversed(done):
            back = undo(operation, reading)
            if back is None:
                continue
            if isinstance(back, LoadRuleset) and back.new is not None:
                back = LoadRuleset(back.table, None, back.new)  # what the failed one left is not known
            with contextlib.suppress(HostError, NetlinkError):
                self._perform(netlink, link, back)
                if isinstance(operation, SetSysctl):
                    record.forget(operation.name)
        if not record.sysctls and reading.ruleset is None:
            self._file.remove()
        else:
            self._file.write(record)

    def _clear(self, netlink: Netlink, link: Link, record: Record) -> list[str]:
        """Routes and addresses; the link goes down first, so that nothing passes while the rules go."""
        problems = []
        try:
            netlink.set_link(link.index, mtu=link.mtu, up=False)
            names = {link.index: link.name}
            for route in netlink.routes(names):
                if route.interface == link.name and route.protocol == ROUTE_PROTOCOL:
                    with _ignoring(errno.ESRCH):
                        netlink.delete_route(link.index, route.prefix, ROUTE_PROTOCOL)
            for text in record.addresses:
                with _ignoring(errno.EADDRNOTAVAIL):
                    netlink.delete_address(link.index, ip_interface(text))
        except NetlinkError as error:
            if error.errno != errno.ENODEV:  # it went away by itself, and took all with it
                problems.append(f"cannot clear {link.name}: {reason(error)}")
        return problems

    def _end_bypasses(self, netlink: Netlink, links: list[Link], record: Record) -> None:
        """Also those of a daemon that was killed: they do not go with its device."""
        names = {link.index: link.name for link in links}
        for route in self._bypasses(netlink.routes(names) if record.bypasses else (), record):
            host = HostRoute(route.prefix.network_address, route.interface, route.gateway)
            with contextlib.suppress(NetlinkError):  # it leads where the other routes lead, so it may stay
                _perform_bypass(netlink, DeleteBypass(host))
        record.bypasses = []

    def _put_back(self, record: Record, links: list[Link]) -> None:
        """Restore the machine's settings, unless another nconnect still runs: then its `remove` does."""
        left = self._file.left_by_others({link.name for link in links})
        if (record.sysctls or left) and self._others(links):
            return
        keep = FORWARDING if self._has_forwarders(links) else frozenset[str]()
        for file, kept in ((self._file, record), *((other, other.read()) for other in left)):
            kept.restore(keep=keep)
            if kept.sysctls:
                kept.addresses = []
                file.write(kept)
            else:
                file.remove()

    def _has_forwarders(self, links: list[Link]) -> bool:
        """Whether another program began to forward after us, and relies on the setting now."""
        before = {name for record in self._records() for name in record.interfaces}
        own = {self._interface, *self._others(links)}
        return bool(before) and any(
            link.up and link.kind in VIRTUAL_KINDS and link.name not in before | own for link in links
        )


@contextlib.contextmanager
def _asking(purpose: str) -> Iterator[None]:
    """Turn the kernel's refusal into one line."""
    try:
        yield
    except OSError as error:
        hint = ": run it as root" if error.errno in (errno.EPERM, errno.EACCES) else ""
        raise HostError(f"cannot {purpose}: {reason(error)}{hint}") from error


@contextlib.contextmanager
def _ignoring(code: int) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.errno != code:
            raise


def _perform_bypass(netlink: Netlink, operation: AddBypass | DeleteBypass) -> None:
    route = operation.route
    index = next((link.index for link in netlink.links() if link.name == route.interface), 0)
    how = (index, ip_network(route.address), ROUTE_PROTOCOL, route.gateway)
    if isinstance(operation, AddBypass):
        netlink.add_route(*how)
    else:
        with _ignoring(errno.ESRCH):
            netlink.delete_route(*how)


def _refused(operation: Operation, error: NetlinkError) -> str:
    hints = {
        errno.EPERM: "run it as root",
        errno.EEXIST: "something else has set it already: see `ip route` and `ip address`",
        errno.EINVAL: "the kernel does not take this value",
    }
    hint = hints.get(error.errno or 0)
    return f"cannot set {_described(operation)}: {reason(error)}" + (f"; {hint}" if hint else "")


def _described(operation: Operation) -> str:
    match operation:
        case SetLink(interface, mtu, _):
            return f"link {interface} up with MTU {mtu}"
        case AddAddress(interface, address) | DeleteAddress(interface, address):
            return f"address {address} on {interface}"
        case AddRoute(interface, prefix) | DeleteRoute(interface, prefix):
            return f"route {prefix} through {interface}"
        case AddBypass(route) | DeleteBypass(route):
            return f"route {route}"
        case SetSysctl(name, _, value):
            return setting(name, value)
        case LoadRuleset(table):
            return f"nftables table {table}"
