"""An installation of nconnect in a namespace, and a node in another, driven by the product's own commands.

`status` and `wait`, which tests call often, use the control socket as the commands do, because a command
costs 0.2 s of processor time, most of it for imports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.netns import LabError, Namespace
from lab.process import Process, until
from nconnect.control.client import ControlClient, NotRunning
from nconnect.errors import ControlError

WS_PORT = 30002
RPC_PORT = 30003
COMMAND_S = 120.0  # for a command, where much else runs


def nconnect_command() -> list[str]:
    """The console script beside this interpreter, or the module if it is not installed."""
    script = Path(sys.prefix, "bin", "nconnect")
    return [str(script)] if script.exists() else [sys.executable, "-m", "nconnect"]


class Side:
    """A configuration file, a run folder, a state folder and perhaps a daemon, all below `folder`."""

    def __init__(self, name: str, namespace: Namespace, folder: Path, *, interface: str = "nc0") -> None:
        self.name = name
        self.namespace = namespace
        self.folder = folder
        self.interface = interface
        self.config = folder / f"{interface}.toml"
        self.env = {"NCONNECT_RUN_DIR": str(folder / "run"), "NCONNECT_STATE_DIR": str(folder / "state")}
        self.daemon: Process | None = None
        self._starts = 0
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def control(self) -> ControlClient:
        return ControlClient(self.interface, Path(self.env["NCONNECT_RUN_DIR"], f"{self.interface}.sock"))

    def command(self, *arguments: str) -> list[str]:
        return [*nconnect_command(), *arguments, "-c", str(self.config)]

    def try_nconnect(
        self, *arguments: str, env: dict[str, str] | None = None, timeout_s: float = COMMAND_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the product, whatever its status is."""
        return self.namespace.run(
            self.command(*arguments), env={**self.env, **(env or {})}, timeout_s=timeout_s
        )

    def nconnect(self, *arguments: str, timeout_s: float = COMMAND_S) -> str:
        """Run a command of the product that must succeed, and return its output."""
        done = self.try_nconnect(*arguments, timeout_s=timeout_s)
        if done.returncode:
            command = f"nconnect {' '.join(arguments)}"
            words = done.stderr + done.stdout
            raise LabError(f"{self.name}: {command}: status {done.returncode}: {words}")
        return done.stdout

    def address(self) -> str:
        return self.nconnect("address").strip()

    def status(self) -> dict[str, Any]:
        """The `status --json` object."""
        try:
            return self.control.status().to_json()
        except ControlError as error:
            raise LabError(f"{self.name}: {error}") from None

    def peer(self, index: int = 0) -> dict[str, Any]:
        """The `status --json` object of one peer."""
        found: dict[str, Any] = self.status()["peers"][index]
        return found

    def drops(self, reason: str) -> int:
        """How many packets or messages were dropped for `reason`, all peers and the interface together."""
        status = self.status()
        places = [status, *status["peers"]]
        return sum(int(place.get("drops", {}).get(reason, 0)) for place in places)

    def start(self, *options: str, env: dict[str, str] | None = None, prefix: Sequence[str] = ()) -> Process:
        """Start `nconnect up` in the foreground; `wait` tells when it is ready."""
        self._starts += 1
        log = self.folder / f"{self.name}-{self._starts}.log"
        command = [*prefix, *self.command("up", *options)]
        self.daemon = Process(self.namespace, command, log, env={**self.env, **(env or {})})
        return self.daemon

    def wait(self, peer: str | None = None, *, timeout_s: float = 15) -> None:
        """Wait until the daemon has its addresses and a link, and with `peer` a session with that peer."""
        deadline = time.monotonic() + timeout_s

        def is_up() -> bool:
            try:
                self.control.wait(peer, max(0.0, deadline - time.monotonic()))
            except NotRunning:
                return False
            return True

        try:
            until(is_up, "the control socket", timeout_s=timeout_s, process=self.daemon)
        except ControlError as error:
            raise LabError(f"{self.name}: {error}") from None

    def listens(self) -> bool:
        """Whether the control socket accepts connections; from then on `status` works."""
        return self.control.is_running()

    def down(self) -> None:
        """Run `nconnect down`; the daemon must end by itself with status 0."""
        self.nconnect("down")
        if self.daemon is not None:
            status = self.daemon.wait(10)
            if status:
                raise LabError(f"{self.name}: the daemon ended with status {status}:\n{self.daemon.tail()}")
            self.daemon = None

    def stop(self) -> None:
        """Make sure that no daemon runs, whatever state it is in."""
        if self.daemon is not None:
            self.daemon.stop()
            self.daemon = None

    def logs(self) -> str:
        return "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-6000:]}"
            for log in sorted(self.folder.glob("*.log"))
        )


class Node:
    """`nconnect node` in a namespace, on the official ports."""

    def __init__(
        self, namespace: Namespace, folder: Path, *, capture: bool = False, options: Sequence[str] = ()
    ) -> None:
        self.namespace = namespace
        self.folder = folder
        self.capture = folder / "relayed.bin" if capture else None
        self.env = {"NCONNECT_RUN_DIR": str(folder / "run"), "NCONNECT_STATE_DIR": str(folder / "state")}
        self.options = list(options)
        self.process: Process | None = None
        self._starts = 0
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> Process:
        self._starts += 1
        self.process = Process(
            self.namespace, self.command(), self.folder / f"node-{self._starts}.log", env=self.env
        )
        until(self._listens, "the node to listen", process=self.process)
        return self.process

    def command(self) -> list[str]:
        command = [*nconnect_command(), "node", "--listen", "0.0.0.0", *self.options]
        if self.capture is not None:
            command += ["--capture-file", str(self.capture)]
        return command

    def _listens(self) -> bool:
        return all(self.namespace.listens(port) for port in (WS_PORT, RPC_PORT))

    def status(self) -> dict[str, Any]:
        """The `node status --json` object."""
        done = self.namespace.run([*nconnect_command(), "node", "status", "--json"], env=self.env)
        if done.returncode:
            raise LabError(f"nconnect node status: {done.stderr}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop()
            self.process = None

    def logs(self) -> str:
        return "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-6000:]}"
            for log in sorted(self.folder.glob("*.log"))
        )


def cpu_count() -> int:
    return len(os.sched_getaffinity(0))
