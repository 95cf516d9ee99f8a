"""Takes in devices that apply with an invitation: judges them, makes them peers, and answers.

The registrar judges on the loop, by the book of invitations, which a thread reads: applications that come
meanwhile wait together for the next reading. Adding a peer (a file and the firewall's rules) takes a thread
and a task. One device is added for each invitation at a time: a second message meanwhile is dropped, since
the device asks again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from nconnect.config.accept_routes import not_accepted
from nconnect.config.values import parse_prefix
from nconnect.crypto.keys import Identity
from nconnect.errors import ConfigError, HostError, NconnectError
from nconnect.invite import pool
from nconnect.invite.book import Book, Invitation, InvitationState
from nconnect.invite.registrar import Admission, Registrar, application_in
from nconnect.invite.table import PeerTable
from nconnect.invite.welcome import Offer, Welcome, offered_by, welcome_for
from nconnect.io.files.invitations import InvitationStore
from nconnect.model import Config, NknAddress, PeerConfig
from nconnect.tunnel.outputs import SessionUp, Visitor
from nconnect.wire.invite import Application, Reason

log = logging.getLogger(__name__)

RELOAD_TIMEOUT_S = 20.0
PRESHARED_KEY_BYTES = 32
MAX_WAITING = 64  # guessed: applications that wait while the book is read, which takes a millisecond


class Enrolment:
    """Lives in the loop's thread."""

    def __init__(
        self,
        load: Callable[[], PeerTable],
        identity: Identity,
        address: NknAddress,
        store: InvitationStore,
        reload: Callable[[], Coroutine[Any, Any, None]],
        send: Callable[[str, Sequence[bytes]], object],
        turn_away: Callable[[str, float], None],
    ) -> None:
        """`load` reads the whole table of peers, and blocks. `reload` puts it in force, or raises with
        nothing changed. `turn_away` counts a message that deserves no answer."""
        self._load = load
        self._address = address
        self._store = store
        self._reload = reload
        self._send = send
        self._turn_away = turn_away
        self._registrar = Registrar(identity, address, os.urandom)
        self._admitting: dict[bytes, asyncio.Task[None]] = {}  # by token id
        self._knocks: list[tuple[str, Application, float]] = []  # until the book is read
        self._came_up: list[str] = []  # devices whose session came up, likewise
        self._reading: asyncio.Task[None] | None = None
        self._closed = False

    def knock(self, visitor: Visitor) -> None:
        """Take an unencrypted message from anybody: what is no application is turned away."""
        application = None if self._closed else application_in(visitor.content)
        if application is None or len(self._knocks) == MAX_WAITING:
            self._turn_away(visitor.source, visitor.now)
        else:
            self._knocks.append((visitor.source, application, visitor.now))
            self._read_on()

    def session_up(self, event: SessionUp) -> None:
        """A peer's session is up: an invitation that brought it can't be used again, not even by itself."""
        if not self._closed:
            self._came_up.append(event.peer.dest)
            self._read_on()

    def _read_on(self) -> None:
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._read(), name="read the invitations")

    async def _read(self) -> None:
        """Read the book and judge what waits, until nothing waits."""
        try:
            while self._knocks or self._came_up:
                book = await asyncio.to_thread(self._store.current)
                knocks, self._knocks = self._knocks, []
                came_up, self._came_up = set(self._came_up), []
                for knock in knocks:
                    self._judge(*knock, book)
                for device in {each.device for each in book if each.preshared is not None} & came_up:
                    await asyncio.to_thread(self._seal, device)
        finally:
            self._reading = None

    def _judge(self, source: str, application: Application, now: float, book: Book) -> None:
        token_id = application.token_id
        if token_id in self._admitting:
            return
        judged = self._registrar.judge(source, application, book, now=now, wall=time.time())
        if judged is None:
            self._turn_away(source, now)
        elif isinstance(judged, bytes):
            self._send(source, (judged,))
        else:
            task = asyncio.get_running_loop().create_task(self._admit(judged), name="admit an invited device")
            self._admitting[token_id] = task
            task.add_done_callback(lambda _: self._admitting.pop(token_id, None))

    async def close(self) -> None:
        """Take no more applications, and wait for those that are being admitted."""
        self._closed = True
        await self.settled()

    async def settled(self) -> None:
        """Return when nothing is being judged or admitted, after `RELOAD_TIMEOUT_S` at the latest."""
        with suppress(TimeoutError):
            async with asyncio.timeout(RELOAD_TIMEOUT_S):
                while under_way := [*filter(None, (self._reading, *self._admitting.values()))]:
                    await asyncio.wait(under_way)

    async def _admit(self, admission: Admission) -> None:
        name = admission.invitation.name
        try:
            welcome = await asyncio.to_thread(self._enrol, admission, asyncio.get_running_loop())
        except _NotAcceptedError as error:
            log.info("%s does not accept all of %s: it was told, and may apply again", name, error)
            self._send(admission.dest, (admission.grant(error.offer, os.urandom),))
        except _GoneError as gone:
            self._send(admission.dest, (admission.refuse(self._address, gone.reason, os.urandom),))
        except NconnectError as error:
            log.error("%s used its invitation, but cannot be added: %s", name, " ".join(str(error).split()))
            self._send(admission.dest, (admission.refuse(self._address, Reason.FAILED, os.urandom),))
        else:
            self._send(admission.dest, (admission.grant(welcome, os.urandom),))

    def _enrol(self, admission: Admission, loop: asyncio.AbstractEventLoop) -> Welcome:
        """In a thread: make the device a peer, unless it is one already; returns what to tell it."""
        token_id = admission.invitation.token_id
        _check_accepted(admission, self._load().config)
        with self._store.using() as book:
            # The invitation may have been changed or revoked since the registrar judged.
            found = book.get(token_id)
            if found is None or found.preshared is None or found.device not in ("", str(admission.device)):
                raise _GoneError(Reason.USED)
            if not found.device and (state := found.state(time.time())) is not InvitationState.OPEN:
                raise _GoneError(Reason.REVOKED if state is InvitationState.REVOKED else Reason.EXPIRED)
            book.use(token_id, str(admission.device), time.time())
            reserved = [text for each in book.open(time.time()) for text in each.addresses]
        table = self._load()
        peer = _peer(table, admission)
        if peer is not None:
            return welcome_for(table.config, peer)
        if found.is_added:
            raise _GoneError(Reason.USED)  # and the provider has removed it since
        try:
            fresh, added = self._add(admission, table.config, found, reserved, loop)
        except TimeoutError:
            # It may be in force: the device is in the table, and gets its answer when it asks again.
            raise HostError("the new peer is in the table, but was not in force in time") from None
        except BaseException:
            with self._store.using() as book:
                book.release(token_id)
            raise
        log.info("%s joined as %s", added.name, ", ".join(map(str, added.allowed_ips)))
        return welcome_for(fresh, added)

    def _add(
        self,
        admission: Admission,
        config: Config,
        invitation: Invitation,
        reserved: list[str],
        loop: asyncio.AbstractEventLoop,
    ) -> tuple[Config, PeerConfig]:
        """Store the device as a peer and put it in force; returns the configuration with it, and the peer."""
        addresses = pool.pick(config, invitation.addresses, reserved)
        prefixes = [str(parse_prefix(str(address.ip))) for address in addresses]
        with self._store.using() as book:
            book.add_peer(invitation.token_id, prefixes, os.urandom(PRESHARED_KEY_BYTES))
        table = self._load()
        added = _peer(table, admission)
        if added is None:  # the file has another peer of that name, or somebody took the address meanwhile
            raise ConfigError(table.problems[-1] if table.problems else "it is removed again")
        asyncio.run_coroutine_threadsafe(self._reload(), loop).result(RELOAD_TIMEOUT_S)
        return table.config, added

    def _seal(self, device: str) -> None:
        try:
            with self._store.using() as book:
                book.seal(device)
        except NconnectError as error:
            log.warning("%s", error)


class _NotAcceptedError(NconnectError):
    """The device does not accept all routes that it would be given."""

    def __init__(self, offer: Offer) -> None:
        super().__init__(", ".join(offer.allowed_ips))
        self.offer = offer


class _GoneError(NconnectError):
    """The invitation has ended since the registrar looked at it."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.name)
        self.reason = reason


def _peer(table: PeerTable, admission: Admission) -> PeerConfig | None:
    return next((peer for peer in table.config.peers if peer.address == admission.device), None)


def _check_accepted(admission: Admission, config: Config) -> None:
    """Raise `_NotAcceptedError`, before the invitation is used, if the device rejects some routes."""
    offered = offered_by(config)
    if not_accepted(admission.accept, offered, config.address):
        raise _NotAcceptedError(Offer(tuple(map(str, offered))))
