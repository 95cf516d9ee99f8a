"""The machine's own network as the one of the tunnel (a `daemon.seams.TunnelNetwork`): root's way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nconnect.host.ruleset import table_name
from nconnect.io.files import paths
from nconnect.io.process.helper import Helper
from nconnect.io.system.host import Host
from nconnect.io.system.monitor import Monitor
from nconnect.io.system.tun import Tun


@dataclass(slots=True)
class MachineNetwork:
    """`names`: the helper, where root started the daemon."""

    interface: str
    device: Tun
    host: Host
    names: Helper | None
    is_apart: bool = False
    problem: str = ""
    listen: None = None

    @classmethod
    def open(cls, interface: str, helper: Helper | None) -> MachineNetwork:
        """With its TUN device. Raises `HostError`."""
        device = Tun(interface)
        state: Path = paths.state_dir(interface)
        return cls(interface, device, Host(interface, state, device=device.index), helper)

    def monitor(self) -> Monitor:
        return Monitor(self.interface, table_name(self.interface))

    def close(self) -> None:
        """Twice is harmless."""
        self.device.close()
