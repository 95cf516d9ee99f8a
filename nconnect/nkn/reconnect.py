"""Where a link that lost its node looks for it again: there, at the seeds, or at each in turn. Pure.

A node that closed the connection, as one does that is restarted, is gone back to without a question, and in
the same attempt the seeds are asked if it is not there. Once neither had anything to say, they have their
turns, half as far apart as attempts are: so none of them is asked more often, and a return is found in half
the time.
"""

from __future__ import annotations

from nconnect.wire.jsonrpc import NodeInfo


class ReconnectPolicy:
    """Of one link. Where `node` is None, there is nothing to go back to, and attempts go to the seeds."""

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
        """The connection broke; `node` closed it, or None if something else was the matter."""
        self.node = node
        self.in_turn = self._node_had_its_turn = False

    def found_nothing(self) -> None:
        """An attempt was in vain: there, and at the seeds."""
        self.in_turn = self.node is not None

    def choose(self) -> NodeInfo | None:
        """Where the attempt that begins goes: to this node, or to the seeds."""
        if self.in_turn:
            self._node_had_its_turn = not self._node_had_its_turn
            return self.node if self._node_had_its_turn else None
        return self.node
