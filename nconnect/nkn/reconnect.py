"""Where a link that lost its node tries next: the node, the seeds, or both in turn. Pure.

If the node closed the connection, as a node does that is restarted, the link returns to it directly, and
asks the seeds in the same attempt if it is not there. If neither answers, node and seeds are tried in turn,
at half the interval of attempts: so neither is asked more often, and a return is noticed in half the time.
"""

from __future__ import annotations

from nconnect.wire.jsonrpc import NodeInfo


class ReconnectPolicy:
    """The policy of one link. If `node` is None, attempts go to the seeds."""

    __slots__ = ("_node_had_its_turn", "in_turn", "node")

    def __init__(self) -> None:
        self.node: NodeInfo | None = None
        self.in_turn = False  # an attempt goes to the node or to the seeds, not to both
        self._node_had_its_turn = False

    @property
    def share(self) -> float:
        """Of an attempt: what each try counts, and how long it waits for."""
        return 0.5 if self.in_turn else 1.0

    def lost(self, node: NodeInfo | None) -> None:
        """The connection broke. `node`: the node that closed it, or None if there was another cause."""
        self.node = node
        self.in_turn = self._node_had_its_turn = False

    def found_nothing(self) -> None:
        """An attempt failed, both at the node and at the seeds."""
        self.in_turn = self.node is not None

    def choose(self) -> NodeInfo | None:
        """Where the attempt that begins goes: to this node, or to the seeds."""
        if self.in_turn:
            self._node_had_its_turn = not self._node_had_its_turn
            return self.node if self._node_had_its_turn else None
        return self.node
