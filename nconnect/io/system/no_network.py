"""No interface at all, where a tunnel's would be (a `daemon.seams.TunnelNetwork`): for streams alone.

Nothing of this machine is read or changed, so no right is needed. Packets from peers are dropped.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from nconnect.config.proxy import Proxies
from nconnect.host.facts import HostFacts
from nconnect.host.plan import IPV6_FORWARDING, HostPlan
from nconnect.host.ruleset import table_name
from nconnect.io.system.host import Host
from nconnect.io.system.monitor import Monitor
from nconnect.model import Config, Endpoint, Prefix
from nconnect.wire.tunnel import Feature


class NoDevice:
    """A `daemon.seams.Device` that no packet comes from; what is written to it is refused."""

    features = Feature.ALL

    def __init__(self) -> None:
        reading, self._writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.fds = [reading]

    def index(self) -> int:
        """Any number: it is never gone."""
        return 1

    def renew(self) -> None:
        """Nothing to make."""

    def close(self) -> None:
        """Twice is harmless."""
        for fd in (*self.fds, self._writing):
            if fd >= 0:
                os.close(fd)
        self.fds, self._writing = [], -1


class NoHost(Host):
    """A host that has nothing and needs nothing."""

    def __init__(self, interface: str) -> None:
        super().__init__(interface, Path("/nonexistent"))

    @property
    def problem(self) -> str:
        return ""

    def read_facts(self) -> HostFacts:
        """Nothing that a route could be in the way of, and IPv6: no route is told as skipped."""
        return HostFacts(sysctls={"net/ipv6/conf/default/disable_ipv6": "0", IPV6_FORWARDING: "1"})

    def apply(self, plan: HostPlan) -> None:
        """Nothing to set."""

    def remove(self, *, keep_rules: bool = False) -> None:
        """Nothing to take back."""

    def missing(self, plan: HostPlan) -> list[str]:
        return []

    def has_rules(self) -> bool:
        return False

    def refused_counts(self) -> dict[str, dict[str, int]]:
        return {}

    def give_flows(self, tokens: Mapping[str, int]) -> None:
        """Streams have a bound of their own."""

    def count_flows(self, config: Config) -> dict[str, int]:
        return {}

    def flush_conntrack(self, prefixes: Iterable[Prefix]) -> bool:
        return True

    def end_refused(self, config: Config) -> bool:
        return True

    def obstacles(
        self, config: Config, endpoints: tuple[Endpoint, ...], proxies: Proxies, direct_port: int
    ) -> tuple[list[str], tuple[str, ...]]:
        return [], ()


class NoNetwork:
    """See above."""

    names = None
    listen: None = None
    is_apart = True
    problem = ""

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self.device = NoDevice()
        self.host: Host = NoHost(interface)

    def monitor(self) -> Monitor:
        """The changes of this machine's network, by which links and direct paths go."""
        return Monitor(self._interface, table_name(self._interface))

    def close(self) -> None:
        """Twice is harmless."""
        self.device.close()
