"""How many connections each peer may have open here (`max_flows`): rules with token buckets. Pure.

The kernel can count a peer's connections in a rule (`ct count`), but then walks over all of them for each new
connection. So the rules have tokens instead: the number of connections that a peer may still open, at a
constant cost. From time to time the daemon counts the existing connections, by one dump, and gives each peer
the rest of its bound as tokens. Between two counts a peer can open no more than that, so it can exceed the
bound only by what it opens during a count.

Only a connection's first packet uses a token, so a peer that has sent fewer packets than it has tokens needs
no count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nconnect.host import expressions as e
from nconnect.host.expressions import VERSIONS
from nconnect.host.ruleset import FAMILY, Chain, Hook, Json, Rule

CONNTRACK_MAX = "net/netfilter/nf_conntrack_max"
FLOW_LIMIT_COUNTER = "flow_limit"  # prefix of each peer's counter; also the drop reason in `status`
MIN_DEFAULT = 4096
_SHARE = 4  # of what the kernel tracks in all, one peer's by default
_BEHIND_FILTER = 10  # priority: packets that other rules refuse use no token


def default_limit(sysctls: Mapping[str, str]) -> int:
    """For a peer without `max_flows`: a quarter of nf_conntrack_max, and at least `MIN_DEFAULT`."""
    text = sysctls.get(CONNTRACK_MAX, "")
    return max(MIN_DEFAULT, int(text) // _SHARE if text.isdigit() else 0)


def chains(
    interface: str, limits: Mapping[str, int], refusal: tuple[Rule, ...], behind: tuple[Rule, ...] = ()
) -> dict[str, Chain]:
    """The base chains, and a chain for each peer id, found by the maps `limit4` and `limit6`.

    Each starts with all of its bound. `refusal`: the rules that turn a packet away. `behind`: rules for what
    is within its bound.
    """
    judged: tuple[Rule, ...] = tuple(
        (
            e.from_interface(interface),
            e.first_packet(),
            {"vmap": {"key": e.address(version, "saddr"), "data": f"@limit{version}"}},
        )
        for version in VERSIONS
    )
    found = {
        name: Chain((*judged, *behind), Hook("filter", hook, _BEHIND_FILTER))
        for name, hook in (("limit_in", "input"), ("limit_across", "forward"))
    }
    found["full"] = Chain(refusal)
    for peer, limit in limits.items():
        found[f"limit_{peer}"] = Chain((_tokens(peer, limit),))
    return found


def transaction(table: str, tokens: Mapping[str, int]) -> list[Json]:
    """Give each peer id so many new connections."""
    commands: list[Json] = []
    for peer, number in tokens.items():
        chain = {"family": FAMILY, "table": table, "name": f"limit_{peer}"}
        rule = {
            "family": FAMILY, "table": table, "chain": f"limit_{peer}", "expr": list(_tokens(peer, number)),
        }  # fmt: skip
        commands += [{"flush": {"chain": chain}}, {"add": {"rule": rule}}]
    return commands


def _tokens(peer: str, number: int) -> Rule:
    # Practically never refilled; a rate below one a minute could overflow the kernel's 64 bits of ns.
    used_up = [e.more_than(1, "minute", burst=number)] if number else []  # a burst of 0 would mean 5
    return (*used_up, {"counter": f"{FLOW_LIMIT_COUNTER}_{peer}"}, e.jump("full"))


class Budgets:
    """The tokens that each peer (by name) was given, and whether it may have used them up.

    `received`: the number of packets from each peer since the daemon's start.
    """

    def __init__(self) -> None:
        self._given: dict[str, tuple[int, int]] = {}  # tokens, and packets received until then

    def forget(self) -> None:
        """Forget what is left: the rules may have been loaded again."""
        self._given.clear()

    def due(self, received: Mapping[str, int]) -> list[str]:
        """The peers that may have used half of their tokens, or have none left."""
        names = []
        for name, packets in received.items():
            given = self._given.get(name)
            if given is None:
                is_due = packets > 0
            else:
                tokens, before = given
                is_due = packets < before or packets - before >= tokens / 2
            if is_due:
                names.append(name)
        return names

    def give(
        self,
        names: Iterable[str],
        limits: Mapping[str, int],
        flows: Mapping[str, int],
        received: Mapping[str, int],
    ) -> dict[str, int]:
        """The tokens to give to these peers: their bounds less the connections that exist."""
        tokens = {name: max(0, limits[name] - flows.get(name, 0)) for name in names if name in limits}
        for name, number in tokens.items():
            self._given[name] = (number, received[name])
        return tokens
