"""Our table of nftables in the kernel: loading it, and finding out whether it is still what was loaded."""

from __future__ import annotations

from collections.abc import Mapping

from nconnect.host import flow_limits
from nconnect.host.diff import LoadRuleset
from nconnect.host.ruleset import AddressMap, AddressSet, Ruleset, deletion, transactions
from nconnect.io.system import nftables


class Firewall:
    """What this process has loaded. Blocking."""

    def __init__(self) -> None:
        self.ruleset: Ruleset | None = None  # None: nothing, or what is there is not known
        self._handle: int | None = None  # of the table into which it was loaded

    def look(self, table: str) -> int | None:
        """The handle of the kernel's table; what was loaded into another one is forgotten."""
        handle = nftables.handle(table)
        if handle != self._handle:
            self.ruleset = None
        return handle

    def load(self, operation: LoadRuleset) -> None:
        """Raises `HostError`; then it is not known what is loaded."""
        table, old, new = operation.table, operation.old, operation.new
        self.ruleset = None
        nftables.run([deletion(table)] if new is None else transactions(old, new))
        self.ruleset, self._handle = new, nftables.handle(table)

    def is_whole(self) -> bool:
        """Whether the kernel has all that was loaded: the table that we made, every name, and the number of
        rules in each chain."""
        ruleset = self.ruleset
        if ruleset is None:
            return False
        listed = nftables.contents(ruleset.table)
        if listed is None or self._handle not in [e["table"]["handle"] for e in listed if "table" in e]:
            return False
        rules = [entry["rule"]["chain"] for entry in listed if "rule" in entry]
        chains = {entry["chain"]["name"] for entry in listed if "chain" in entry}
        filled = {
            entry[kind]["name"]: bool(entry[kind].get("elem"))
            for entry in listed
            for kind in ("set", "map")
            if kind in entry
        }
        elements: dict[str, AddressSet | AddressMap] = {**ruleset.sets, **ruleset.maps}
        return (
            all(rules.count(name) == len(chain.rules) for name, chain in ruleset.chains.items())
            and chains == ruleset.chains.keys()
            and filled == {name: bool(holder.elements) for name, holder in elements.items()}
        )

    def refused_counts(self) -> dict[str, dict[str, int]]:
        """How many packets of each peer were refused since the rules were loaded, by reason.

        Those of no peer are under "".
        """
        ruleset = self.ruleset  # a thread that applies a plan may replace it meanwhile
        if ruleset is None:
            return {}
        seen = nftables.counters(ruleset.table)
        counts: dict[str, dict[str, int]] = {}
        for counter, peer in ruleset.counters.items():
            why = counter.rpartition("_")[0] if peer else counter
            counts.setdefault(peer, {})[why] = seen.get(counter, 0)
        return counts

    def give_flows(self, tokens: Mapping[str, int]) -> None:
        """Let peers (by id, `host.offered.peer_id`) open so many connections more. Raises `HostError`."""
        ruleset = self.ruleset
        if ruleset is not None and tokens:
            nftables.run([flow_limits.transaction(ruleset.table, tokens)])
