"""Has this machine resolve names of peers, as long as the interface is up (`nconnect.offers.names`).

The helper, which is root, is told all names whenever they change: it gives them to systemd-resolved, which
then asks `io.net.name_stub` here, or writes them into the hosts file. There they are set again when somebody
removes them; if that happens ten times within two minutes, another program wants the file without them, and
they are left out until they change.

A label is used only if this machine does not resolve it already: in its hosts file, by its name servers, or
as a search domain. That is asked once, when the label appears; an answer is awaited for a second.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nconnect.daemon.seams import NameHost
from nconnect.daemon.settings import InForce
from nconnect.errors import HostError
from nconnect.io.net import name_servers
from nconnect.io.process.name_keeper import HOSTS_FILE, RESOLVED
from nconnect.io.system import hosts_file
from nconnect.io.system.inotify import Watch
from nconnect.offers.name_codec import ZONE, Names
from nconnect.offers.names import PeerNames, Provider, labels, names

if TYPE_CHECKING:
    from nconnect.io.net.name_stub import NameStub

log = logging.getLogger(__name__)

LOOK_S = 30.0  # without a change
SETTLE_S = 0.1  # changes that come together
LOOK_UP_S = 1.0  # for a name server to say that it knows a label
MAX_ASKED = 8  # at a time
_ROUNDS = 5  # of labels that are taken, with a higher number each time
MAX_REPAIRS, REPAIRS_S = 10, 120.0


class NameService:
    """One interface's. `known`: the names. `by`: how they resolve, "systemd-resolved" or "hosts"; "": not."""

    def __init__(
        self,
        in_force: InForce,
        providers: Callable[[], Iterable[Provider]],
        host: NameHost | None,
        *,
        clock: Callable[[], float],
        hosts: Path = hosts_file.HOSTS,
    ) -> None:
        """`host`: None where root did not start the daemon; then nothing resolves."""
        self.known: Names = {}
        self.by = ""
        self.problem = ""  # a sentence
        self.labels: dict[str, str] = {}  # of each peer that has one: PEER -> the label before `.internal`
        self.dropped: Mapping[str, int] = {}  # by peer: names that it told and that are not used
        self._in_force = in_force
        self._providers = providers
        self._host = host
        self._clock = clock
        self._hosts = hosts
        self._wake = asyncio.Event()
        self._taken: dict[str, bool] = {}  # by label, since it is used
        self._repaired: deque[float] = deque(maxlen=MAX_REPAIRS)
        self._left_out: Names | None = None  # another program wants the file without these
        self._stub: NameStub | None = None
        self._putting = asyncio.Lock()
        self._is_closed = False

    def texts(self) -> dict[str, tuple[str, ...]]:
        """The names that resolve, with their addresses, for `status`."""
        return {name: tuple(map(str, found)) for name, found in self.known.items()} if self.by else {}

    def wake(self) -> None:
        """Names, the configuration or the network may have changed."""
        self._wake.set()

    async def run(self) -> None:
        """Keep the names as they should be, until cancelled."""
        if self._host is None:
            return
        loop = asyncio.get_running_loop()
        await self._put({})  # what a daemon left that was killed together with its helper
        with Watch() as watch:

            def on_change() -> None:
                watch.read()
                self._wake.set()

            loop.add_reader(watch.fd, on_change)
            try:
                while True:
                    self._wake.clear()
                    await asyncio.to_thread(watch.add_file, self._hosts)
                    wanted = await self._wanted()
                    self.dropped = wanted.dropped
                    await asyncio.shield(self._put(wanted.addresses))
                    with suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_S):
                            await self._wake.wait()
                    await asyncio.sleep(SETTLE_S)
            finally:
                loop.remove_reader(watch.fd)

    async def close(self) -> None:
        """Take them back."""
        await self._put({})
        self._is_closed = True
        if self._stub is not None:
            asyncio.get_running_loop().remove_reader(self._stub.sock)
            self._stub.sock.close()

    async def _put(self, wanted: Names) -> None:
        async with self._putting:
            if self._is_closed or self._host is None or wanted == self._left_out:
                return
            was_there = bool(wanted) and wanted == self.known and self.by == "hosts"
            self.known = wanted  # the name server answers by it from now on
            try:
                how = await asyncio.to_thread(self._host.put_names, wanted)
                if how == RESOLVED:
                    await self._answer(self._host)
            except HostError as error:
                self._fail(f"names of peers do not resolve: {error}")
                return
            self.by = "" if not wanted else "systemd-resolved" if how == RESOLVED else "hosts"
            self.problem = ""
            if self.by == "hosts" and "files" not in (
                await asyncio.to_thread(hosts_file.nss_sources) or ("files",)
            ):
                self._fail(
                    f"names of peers are in {self._hosts}, which this machine does not read:"
                    f" write `files` into the line `hosts:` of {hosts_file.NSSWITCH}"
                )
            if was_there and how == HOSTS_FILE:
                self._repair()

    def _fail(self, problem: str) -> None:
        if problem != self.problem:
            log.warning("%s", problem)
        self.problem, self.by = problem, ""

    def _repair(self) -> None:
        """Somebody had removed the names, and they are there again."""
        log.warning("somebody removed names of peers from %s: written again", self._hosts)
        now = self._clock()
        self._repaired.append(now)
        if len(self._repaired) == MAX_REPAIRS and now - self._repaired[0] < REPAIRS_S:
            self._repaired.clear()
            self._left_out = self.known
            self._fail(
                f"names of peers do not resolve: another program removes them from {self._hosts} again and"
                " again: find it, then run `nconnect reload`"
            )

    def forgive(self) -> None:
        """A reload: try again."""
        self._left_out = None
        self.wake()

    async def _answer(self, host: NameHost) -> None:
        """Answer what systemd-resolved asks."""
        if self._stub is None:
            sock = await asyncio.to_thread(host.name_server)
            stub = await asyncio.to_thread(importlib.import_module, "nconnect.io.net.name_stub")  # 35 ms
            self._stub = stub.NameStub(sock, lambda: self.known)
            asyncio.get_running_loop().add_reader(sock, self._stub.on_readable)

    async def _wanted(self) -> PeerNames:
        """The names that there should be."""
        if not self._in_force.config.names:
            self.labels = {}
            return PeerNames()
        providers = list(self._providers())
        for _ in range(_ROUNDS):
            used = labels((each.name for each in providers), self._labels_taken())
            if not (unknown := [label for label in used.values() if label not in self._taken]):
                break
            await self._judge(unknown)
        taken = self._labels_taken()
        self.labels = {name: label for name, label in used.items() if label not in taken}
        return names(providers, self.labels)

    def _labels_taken(self) -> frozenset[str]:
        return frozenset(label for label, is_taken in self._taken.items() if is_taken)

    async def _judge(self, unknown: list[str]) -> None:
        """Find out which labels this machine resolves already."""
        written = await asyncio.to_thread(hosts_file.names_in, self._in_force.config.interface, self._hosts)
        written.update(await asyncio.to_thread(name_servers.search_domains))
        here = {name.split(".")[-2] for name in written if name.endswith(f".{ZONE}")}
        turns = asyncio.Semaphore(MAX_ASKED)

        async def is_known(label: str) -> bool:
            async with turns:
                return label in here or await _resolves(f"{label}.{ZONE}")

        found = await asyncio.gather(*(is_known(label) for label in unknown))
        if any(found) and await _resolves(f"nconnect-{os.urandom(6).hex()}.{ZONE}"):
            found = [label in here for label in unknown]  # the server answers whatever it is asked
        for label, is_taken in zip(unknown, found, strict=True):
            self._taken[label] = is_taken
            if is_taken:
                log.info("this machine resolves %s.%s already: another label is used", label, ZONE)


async def _resolves(name: str) -> bool:
    """Whether a name server of this machine knows an address of it."""
    with suppress(TimeoutError):
        async with asyncio.timeout(LOOK_UP_S):
            return bool(await name_servers.ask(name))
    return False
