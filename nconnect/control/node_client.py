"""Asking the nodes on this machine for their status, blocking: used by `nconnect node status`."""

from __future__ import annotations

from nconnect.control.client import ControlClient, NotRunning
from nconnect.control.node import NodeStatus, sockets_folder
from nconnect.errors import ControlError


def running_nodes() -> list[NodeStatus]:
    """The status of each node that runs here, by process id. Raises `ControlError` in one line."""
    found = []
    for path in sockets_folder().glob("*.sock"):
        try:
            found.append(_Client(f"node {path.stem}", path).node_status())
        except NotRunning:
            continue  # it ended without removing its socket
    return sorted(found, key=lambda status: status.pid)


class _Client(ControlClient):
    def node_status(self) -> NodeStatus:
        answer = self._ask("GET", "/v1/status")
        try:
            return NodeStatus.from_json(answer)
        except TypeError:
            raise ControlError("the node's status cannot be read: is it of another version?") from None
