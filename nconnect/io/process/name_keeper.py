"""What the helper does with names of peers: has this machine's resolver find them, and takes them back.

Where programs ask systemd-resolved, that is told to ask the daemon's name server, which listens on a socket
that is made here; else the names go into the hosts file.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path

from nconnect.errors import HostError
from nconnect.io.system import hosts_file, resolved
from nconnect.offers import name_codec

_PAUSE_S = 0.1  # at least, between two changes: whoever asks for more waits, so that the disk does not
_AGAIN_S = 25.0  # below the daemon's interval
RESOLVED, HOSTS_FILE, UNCHANGED = b"r", b"h", b"-"


class NameKeeper:
    """One interface's names. Everything blocks."""

    def __init__(self, interface: str, hosts: Path = hosts_file.HOSTS, *, ask_resolved: bool = True) -> None:
        """`ask_resolved`: tell systemd-resolved where programs ask it; else the hosts file has the names."""
        self._interface = interface
        self._ask_resolved = ask_resolved
        self._hosts = hosts
        self._server: socket.socket | None = None  # kept: nobody else gets its port while resolved has it
        self._told: tuple[int, tuple[str, ...]] | None = (
            None  # systemd-resolved: of which link, which domains
        )
        self._told_at = 0.0  # CLOCK_MONOTONIC, as below
        self._changed_at = -_PAUSE_S

    def put(self, known: name_codec.Names) -> bytes:
        """Have exactly these names resolved: RESOLVED, HOSTS_FILE, or UNCHANGED when they stood in the hosts
        file already. Raises `HostError`."""
        time.sleep(max(0.0, self._changed_at + _PAUSE_S - time.monotonic()))
        how = b""
        try:
            how = self._put(known)
        finally:
            if how != UNCHANGED:
                self._changed_at = time.monotonic()
        return how

    def _put(self, known: name_codec.Names) -> bytes:
        problem = ""
        if known and self._ask_resolved and resolved.is_asked():
            try:
                self._tell(name_codec.domains(known))
            except HostError as error:
                problem = f"; {error}"
            else:
                hosts_file.put(self._interface, {}, self._hosts)
                return RESOLVED
        self._revert()
        try:
            return HOSTS_FILE if hosts_file.put(self._interface, known, self._hosts) else UNCHANGED
        except HostError as error:
            raise HostError(f"{error}{problem}") from None

    def take_back(self) -> None:
        """At the end."""
        try:
            self.put({})
        finally:
            if self._server is not None:
                self._server.close()
                self._server = None

    def server(self) -> int:
        """A descriptor of the socket on which the daemon answers."""
        return self._open().dup().detach()

    def _open(self) -> socket.socket:
        if self._server is None:
            self._server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._server.bind(("127.0.0.1", 0))
        return self._server

    def _tell(self, domains: tuple[str, ...]) -> None:
        """Again after a while: another program may have taken them back."""
        try:
            told = socket.if_nametoindex(self._interface), domains
        except OSError:
            raise HostError(f"there is no {self._interface}") from None
        if told != self._told or time.monotonic() - self._told_at > _AGAIN_S:
            self._told = told  # also if it fails halfway: `_revert` is due then
            resolved.set_names(self._interface, self._open().getsockname(), domains)
            self._told_at = time.monotonic()

    def _revert(self) -> None:
        if self._told is not None:
            resolved.revert(self._interface)
            self._told = None
