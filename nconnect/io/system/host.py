"""Brings this machine into the state that a plan asks for, and back.

Blocking: call it in a thread. All calls act on one network namespace, that of the calling thread.

What must outlive the process is kept in a record (`io.system.host_record`), which is written before each
change: after a SIGKILL, `remove()` (or the next `apply()` and its `remove()`) knows the state before it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address, ip_interface
from pathlib import Path

from nconnect.config.proxy import Proxies
from nconnect.errors import HostError
from nconnect.host.bypass import HostRoute
from nconnect.host.diff import (
    DeleteBypass,
    LoadRuleset,
    Operation,
    Reading,
    SetSysctl,
    diff,
    undo,
)
from nconnect.host.facts import HostFacts, LocalInterface, LocalRoute
from nconnect.host.flow_limits import CONNTRACK_MAX
from nconnect.host.forwarding import VIRTUAL_KINDS
from nconnect.host.judge import judge, owner_of
from nconnect.host.plan import (
    FORWARDING,
    IP_FORWARD,
    IPV6_FORWARDING,
    ROUTE_PROTOCOL,
    HostPlan,
    InterfaceState,
    PreferredSource,
)
from nconnect.host.ruleset import (
    deletion,
    interface_of_table,
    table_name,
)
from nconnect.io.errors import reason
from nconnect.io.net import name_servers
from nconnect.io.system import conntrack, nftables, sysctl
from nconnect.io.system.firewall import Firewall
from nconnect.io.system.host_operations import asking, described, ignoring, perform, set_bypass, why_refused
from nconnect.io.system.host_record import HostRecord, RecordFile
from nconnect.io.system.netlink import Netlink, NetworkInterface
from nconnect.io.system.netlink_socket import NetlinkError
from nconnect.io.system.surroundings import detours, stopped
from nconnect.model import Config, Endpoint, Prefix


class Host:
    """One interface's share of this machine. The TUN device is the daemon's: it exists before `apply`."""

    def __init__(self, interface: str, state_dir: Path, *, device: Callable[[], int] | None = None) -> None:
        """`device`: the index of the daemon's device, 0 when it is gone. Without it, it is found by name."""
        self._interface = interface
        self._index = device
        self._device = f"interface {interface}"
        self._file = RecordFile(state_dir)
        self._firewall = Firewall()

    @property
    def problem(self) -> str:
        """A sentence: what to restore could not be kept; "" when it could."""
        return self._file.problem

    def read_facts(self) -> HostFacts:
        """What a plan needs to know of the kernel."""
        with asking("read the machine's addresses"), Netlink() as netlink:
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
        return HostFacts(
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
            sysctls_locked=sysctl.is_read_only(),
            there_before=frozenset().union(*there_before) if there_before else None,
        )

    def apply(self, plan: HostPlan) -> None:
        """Make the machine as planned. Repeating it is harmless, and restores what is missing.

        Raises `HostError` after it has undone what it had done. Only `missing`, which costs more, notices a
        table that was emptied and not removed; `apply` then loads it again.
        """
        state = plan.state
        with asking(f"set up {self._interface}"), Netlink() as netlink:
            link = self._named_back(netlink, self._link(netlink))
            record = self._file.read()
            handle = self._firewall.look(state.ruleset.table)
            reading = self._read(netlink, link, state, record)
            self._record_changes(record, reading, state)
            # Rules of a killed daemon are replaced, and never taken back: `remove` decides on them.
            left_over = handle is not None and self._firewall.ruleset is None
            done: list[Operation] = []
            try:
                for operation in diff(reading, state):
                    if isinstance(operation, SetSysctl) and operation.remember:
                        record.remember(operation)
                        if operation.name in FORWARDING and not record.interfaces:
                            record.interfaces = sorted(other.name for other in netlink.links())
                        self._file.write(record)
                    done.append(operation)
                    perform(netlink, link, operation, self._firewall)
            except (HostError, NetlinkError) as error:
                if left_over:
                    done = [each for each in done if not isinstance(each, LoadRuleset)]
                self._take_back(netlink, link, done, reading, record)
                if isinstance(error, NetlinkError):
                    raise HostError(why_refused(done[-1], error)) from error
                raise

    def remove(self, *, keep_rules: bool = False) -> None:
        """Remove everything that is ours, also what a killed daemon left; harmless if there is nothing.

        `keep_rules`: keep the firewall's table, so that `fail_closed` stays in force.
        """
        problems: list[str] = []
        record = self._file.read()
        with asking(f"take {self._interface} down"), Netlink() as netlink:
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
        self._firewall.ruleset = None
        if problems:
            raise HostError("; ".join(problems))

    def missing(self, plan: HostPlan) -> list[str]:
        """What of the plan is missing, in words; empty if nothing is."""
        with asking(f"look at {self._interface}"), Netlink() as netlink:
            try:
                link = self._link(netlink)
            except HostError:
                return [self._device]
            if link.name != self._interface:
                return [f"the name {self._interface} (the interface is called {link.name})"]
            if not self._firewall.is_whole():
                self._firewall.ruleset = None
            reading = self._read(netlink, link, plan.state, self._file.read())
        return [described(operation) for operation in diff(reading, plan.state)]

    def is_interface(self, missing: list[str]) -> bool:
        """Whether what `missing` found is the device itself, which is the daemon's to make."""
        return missing == [self._device]

    def has_rules(self) -> bool:
        """Whether the firewall has a table of ours: of this daemon, or of one that was killed."""
        return table_name(self._interface) in nftables.tables()

    def refused_counts(self) -> dict[str, dict[str, int]]:
        """`Firewall.refused_counts`."""
        return self._firewall.refused_counts()

    def give_flows(self, tokens: Mapping[str, int]) -> None:
        """`Firewall.give_flows`."""
        self._firewall.give_flows(tokens)

    def count_flows(self, config: Config) -> dict[str, int]:
        """How many connections each peer has open here."""

        def owner(source: bytes) -> str | None:
            peer = owner_of(ip_address(source), config)
            return None if peer is None else peer.name

        with asking("count the connections of peers"):
            return conntrack.count(owner)

    def flush_conntrack(self, prefixes: Iterable[Prefix]) -> bool:
        """Forget all connections of these addresses; False when the kernel has no ctnetlink."""
        with asking("end the connections of peers"):
            return conntrack.forget(prefixes)

    def end_refused(self, config: Config) -> bool:
        """Forget the connections that peers opened and may, as `config` now says, not open any more.

        False when the kernel has no ctnetlink: the peers' packets are refused all the same, but a server
        goes on sending until it gives up.
        """
        with asking("read the machine's addresses"), Netlink() as netlink:
            own = {held.address.ip for held in netlink.addresses()}
        prefixes = [prefix for peer in config.peers for prefix in peer.allowed_ips]
        with asking("end the connections of peers"):
            return conntrack.forget(prefixes, judge(config, own))

    def obstacles(
        self, config: Config, endpoints: tuple[Endpoint, ...], proxies: Proxies, direct_port: int
    ) -> tuple[list[str], tuple[str, ...]]:
        """What of other programs' stops the tunnel's packets, and what stops direct TCP streams alone.

        A sentence for each. `direct_port`: where streams come in; 0: nowhere.
        """
        strays, devices = detours(config)
        found = stopped(config, endpoints, devices, proxies=proxies, direct_port=direct_port)
        return (
            [*(s.problem for s in strays), *(o.problem for o in found if not o.of_direct)],
            tuple(o.problem for o in found if o.of_direct),
        )

    def _names(self, links: list[NetworkInterface]) -> dict[int, str]:
        """By index. Ours has the name that it should have, and a stranger of that name its number."""
        ours = self._find(links)
        names = {link.index: link.name for link in links}
        for link in links:
            if link.name == self._interface:
                names[link.index] = f"#{link.index}"
        if ours is not None:
            names[ours.index] = self._interface
        return names

    def _find(self, links: list[NetworkInterface]) -> NetworkInterface | None:
        """Our interface, whatever it is called."""
        index = None if self._index is None else self._index()
        for link in links:
            if link.name == self._interface if index is None else link.index == index:
                return link
        return None

    def _link(self, netlink: Netlink) -> NetworkInterface:
        link = self._find(netlink.links())
        if link is None:
            raise HostError(
                f"there is no interface {self._interface}: something removed it; run `nconnect up` again"
            )
        return link

    def _named_back(self, netlink: Netlink, link: NetworkInterface) -> NetworkInterface:
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

    def _read(
        self, netlink: Netlink, link: NetworkInterface, state: InterfaceState, record: HostRecord
    ) -> Reading:
        """What of ours is there: an address or a route that somebody else gave the interface is not seen.

        But a route that is wanted is as good as ours: the kernel takes none beside it.
        """
        names = {each.index: each.name for each in netlink.links()}
        ours = {*map(str, state.addresses), *record.addresses}
        addresses = tuple(held.address for held in netlink.addresses(link.index) if str(held.address) in ours)
        through_it = netlink.routes(names, through=link.index)
        found = dict.fromkeys([*through_it, *netlink.routes(names, protocol=ROUTE_PROTOCOL)])
        routes = tuple(
            route.prefix
            for route in found
            if route.interface == link.name
            and (route.protocol == ROUTE_PROTOCOL or route.prefix in state.routes)
        )
        preferred = tuple(
            PreferredSource(route.prefix, route.source)
            for route in found
            if route.interface == link.name and route.prefix in routes and route.source is not None
        )
        bypasses = tuple(
            HostRoute(route.prefix.network_address, route.interface, route.gateway)
            for route in self._bypasses(found, record)
        )
        wanted = (*state.device_sysctls, *state.sysctls)
        settings = {name: value for name, _ in wanted if (value := sysctl.read(name)) is not None}
        return Reading(
            link.mtu, link.up, addresses, routes, preferred, bypasses, settings, self._firewall.ruleset
        )

    def _bypasses(self, routes: Iterable[LocalRoute], record: HostRecord) -> list[LocalRoute]:
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

    def _sysctls(self) -> dict[str, str]:
        ipv6 = f"net/ipv6/conf/{self._interface}"
        if sysctl.read(CONNTRACK_MAX) is None:
            conntrack.load()
        ipv6_off = ("net/ipv6/conf/default/disable_ipv6", f"{ipv6}/disable_ipv6")
        names = [IP_FORWARD, IPV6_FORWARDING, CONNTRACK_MAX, *ipv6_off, *sysctl.interfaces_with("accept_ra")]
        return {name: value for name in names if (value := sysctl.read(name)) is not None}

    def _others(self, links: list[NetworkInterface]) -> tuple[str, ...]:
        """Interfaces of other nconnect daemons in this namespace: a table of theirs, and the device."""
        present = {link.name for link in links} - {self._interface}
        return tuple(
            sorted({name for t in nftables.tables() if (name := interface_of_table(t)) in present and name})
        )

    def _records(self) -> list[HostRecord]:
        """Ours, and those of other daemons on this machine."""
        return [self._file.read(), *(file.read() for _, file in self._file.of_others())]

    def _record_changes(self, record: HostRecord, reading: Reading, state: InterfaceState) -> None:
        """Note which addresses and host routes we are about to add."""
        added = {str(address) for address in state.addresses if address not in reading.addresses}
        bypasses = {str(route.address) for route in state.bypasses}
        known = added <= set(record.addresses) and bypasses <= set(record.bypasses)
        if not known or not self._file.exists():
            record.addresses = sorted({*record.addresses, *added})
            record.bypasses = sorted({*record.bypasses, *bypasses})
            self._file.write(record)

    def _take_back(
        self,
        netlink: Netlink,
        link: NetworkInterface,
        done: list[Operation],
        reading: Reading,
        record: HostRecord,
    ) -> None:
        """Undo in reverse; the operation that failed too, since it may have been half done."""
        for operation in reversed(done):
            back = undo(operation, reading)
            if back is None:
                continue
            if isinstance(back, LoadRuleset) and back.new is not None:
                back = LoadRuleset(back.table, None, back.new)  # what the failed one left is not known
            with contextlib.suppress(HostError, NetlinkError):
                perform(netlink, link, back, self._firewall)
                if isinstance(operation, SetSysctl):
                    record.forget(operation.name)
        if not record.sysctls and reading.ruleset is None:
            self._file.remove()
        else:
            self._file.write(record)

    def _clear(self, netlink: Netlink, link: NetworkInterface, record: HostRecord) -> list[str]:
        """Routes and addresses; the link goes down first, so that nothing passes while the rules go."""
        problems = []
        try:
            netlink.set_link(link.index, mtu=link.mtu, up=False)
            names = {link.index: link.name}
            for route in netlink.routes(names):
                if route.interface == link.name and route.protocol == ROUTE_PROTOCOL:
                    with ignoring(errno.ESRCH):
                        netlink.delete_route(link.index, route.prefix, ROUTE_PROTOCOL)
            for text in record.addresses:
                with ignoring(errno.EADDRNOTAVAIL):
                    netlink.delete_address(link.index, ip_interface(text))
        except NetlinkError as error:
            if error.errno != errno.ENODEV:  # it went away by itself, and took all with it
                problems.append(f"cannot clear {link.name}: {reason(error)}")
        return problems

    def _end_bypasses(self, netlink: Netlink, links: list[NetworkInterface], record: HostRecord) -> None:
        """Also those of a daemon that was killed: they do not go with its device."""
        names = {link.index: link.name for link in links}
        for route in self._bypasses(netlink.routes(names) if record.bypasses else (), record):
            host = HostRoute(route.prefix.network_address, route.interface, route.gateway)
            with contextlib.suppress(NetlinkError):  # it leads where the other routes lead, so it may stay
                set_bypass(netlink, DeleteBypass(host))
        record.bypasses = []

    def _put_back(self, record: HostRecord, links: list[NetworkInterface]) -> None:
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

    def _has_forwarders(self, links: list[NetworkInterface]) -> bool:
        """Whether another program began to forward after us, and relies on the setting now."""
        before = {name for record in self._records() for name in record.interfaces}
        own = {self._interface, *self._others(links)}
        return bool(before) and any(
            link.up and link.kind in VIRTUAL_KINDS and link.name not in before | own for link in links
        )
