"""A device's application against the real files, with the tunnel's reload and the link played by the test."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace

import pytest

from nconnect.config.edit import add_peer, new_file
from nconnect.daemon.enrolment import MAX_WAITING, Enrolment
from nconnect.errors import HostError
from nconnect.invite.applicant import NotAdmitted, RoutesNotAccepted
from nconnect.invite.table import PeerTable
from nconnect.invite.welcome import Welcome
from nconnect.io.files import peer_table
from nconnect.io.files.config_file import load, write
from nconnect.io.files.invitations import InvitationStore
from nconnect.model import PeerConfig
from nconnect.tunnel.outputs import SessionUp, Visitor
from nconnect.wire.message import Message
from tests.invite.examples import (
    DEVICE,
    NOW,
    OTHER,
    OTHER_IDENTITY,
    PROVIDER,
    PROVIDER_IDENTITY,
    applicant,
    asked,
    invitation,
)

FAR = NOW + 1e9  # these run by the wall clock


class Provider:
    """A reception, its files, and what it sent."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "nc0.toml"
        text = new_file(
            seed=PROVIDER_IDENTITY.seed,
            identifier="gpu-box",
            address=["10.86.0.1/24"],
            provide=["192.168.50.0/24"],
        )
        write(self.path, text)
        self.store = InvitationStore(folder / "issued" / "nc0.json", folder / "state" / "used.json")
        with self.store.issuing() as book:
            book.add(invitation(expires_at=FAR), NOW)
        self.sent: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self.turned_away: list[tuple[str, float]] = []
        self.reloads = 0
        self.refuse = False
        self.enrolment = Enrolment(
            load=self.load,
            identity=PROVIDER_IDENTITY,
            address=PROVIDER,
            store=self.store,
            reload=self.reload,
            turn_away=lambda source, now: self.turned_away.append((source, now)),
            send=lambda dest, parts: self.sent.put_nowait((dest, b"".join(parts))),
        )

    def load(self) -> PeerTable:
        return peer_table.of(load(self.path), self.store.read)

    @property
    def peers(self) -> tuple[PeerConfig, ...]:
        return self.load().config.peers

    async def reload(self) -> None:
        self.reloads += 1
        if self.refuse:
            raise HostError("the kernel refused")

    def knock(self, payload: bytes, source: str = str(DEVICE)) -> None:
        self.enrolment.knock(Visitor(source, bytes(Message.decode(payload).payload), 0.0))

    async def answer(self, payload: bytes) -> bytes:
        self.knock(payload)
        dest, answer = await asyncio.wait_for(self.sent.get(), 10)
        assert dest == str(DEVICE)
        await self.enrolment.settled()
        return answer


def run(folder: Path, test: Callable[[Provider], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test(Provider(folder))

    asyncio.run(bounded())


def test_a_device_becomes_a_peer(tmp_path: Path) -> None:
    async def test(provider: Provider) -> None:
        device = applicant()
        welcome = device.receive(str(PROVIDER), await provider.answer(asked(device)))
        (peer,) = provider.peers
        assert load(provider.path).peers == (), "the file is not the daemon's to write"
        assert peer.preshared_key is not None
        assert welcome == Welcome(
            "laptop", "gpu-box", ("10.86.0.2/24",), ("10.86.0.1/32", "192.168.50.0/24"), peer.preshared_key
        )
        assert (peer.name, peer.address) == ("laptop", DEVICE)
        assert provider.reloads == 1
        (kept,) = provider.store.current()
        assert (kept.device, kept.is_added) == (str(DEVICE), True)
        # Again: the same answer, and nothing changes.
        assert device.receive(str(PROVIDER), await provider.answer(asked(applicant(seed=9)))) is None
        again = applicant(seed=9)
        assert again.receive(str(PROVIDER), await provider.answer(asked(again))) == welcome
        assert (provider.peers, provider.reloads) == ((peer,), 1)
        # After a session it is over.
        provider.enrolment.session_up(SessionUp(SimpleNamespace(dest=str(DEVICE))))  # type: ignore[arg-type]
        await provider.enrolment.settled()
        last = applicant(seed=10)
        with pytest.raises(NotAdmitted, match="used already"):
            last.receive(str(PROVIDER), await provider.answer(asked(last)))

    run(tmp_path, test)


def test_a_device_that_does_not_accept_the_routes_is_told_and_uses_up_nothing(tmp_path: Path) -> None:
    async def test(provider: Provider) -> None:
        offered = ("10.86.0.1/32", "192.168.50.0/24")
        for accept in ("none", (ip_network("192.168.51.0/24"),)):
            device = applicant(accept=accept)
            with pytest.raises(RoutesNotAccepted) as told:
                device.receive(str(PROVIDER), await provider.answer(asked(device)))
            assert told.value.offered == offered
        (kept,) = provider.store.current()
        assert (kept.device, kept.is_added) == ("", False)
        assert (provider.peers, provider.reloads) == ((), 0)
        # The same token lets another device in, which accepts them.
        device = applicant(accept=(ip_network("192.168.50.0/24"),), seed=3)
        welcome = device.receive(str(PROVIDER), await provider.answer(asked(device)))
        assert welcome is not None
        assert welcome.allowed_ips == offered

    run(tmp_path, test)


def test_two_messages_at_once_make_one_peer(tmp_path: Path) -> None:
    async def test(provider: Provider) -> None:
        payload = asked(applicant())
        for _ in range(5):
            provider.knock(payload)
        await provider.enrolment.settled()
        assert provider.sent.qsize() == 1
        assert provider.reloads == 1
        assert len(provider.peers) == 1

    run(tmp_path, test)


def test_a_refused_reload_leaves_everything_as_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(provider: Provider) -> None:
        provider.refuse = True
        device = applicant()
        with (
            caplog.at_level(logging.ERROR),
            pytest.raises(NotAdmitted, match="could not add this device"),
        ):
            device.receive(str(PROVIDER), await provider.answer(asked(device)))
        assert "laptop used its invitation, but cannot be added: the kernel refused" in caplog.text
        assert provider.peers == ()
        provider.refuse = False
        again = applicant(seed=2)
        assert again.receive(str(PROVIDER), await provider.answer(asked(again))) is not None

    run(tmp_path, test)


def test_a_removed_peer_does_not_come_back_by_asking_again(tmp_path: Path) -> None:
    async def test(provider: Provider) -> None:
        device = applicant()
        await provider.answer(asked(device))
        with provider.store.issuing() as book:
            (only,) = book
            book.remove_peer(only.token_id)
        with pytest.raises(NotAdmitted, match="used already"):
            device.receive(str(PROVIDER), await provider.answer(asked(device, 5.0)))
        assert provider.peers == ()

    run(tmp_path, test)


def test_a_crash_between_the_two_files_is_mended_by_asking_again(tmp_path: Path) -> None:
    async def test(provider: Provider) -> None:
        with provider.store.using() as book:
            (only,) = book
            book.use(only.token_id, str(DEVICE), NOW)
        device = applicant()
        assert device.receive(str(PROVIDER), await provider.answer(asked(device))) is not None
        assert len(provider.peers) == 1
        thief = applicant(identity=OTHER_IDENTITY, address=OTHER)
        provider.knock(asked(thief), str(OTHER))
        dest, refusal = await provider.sent.get()
        assert dest == str(OTHER)
        with pytest.raises(NotAdmitted, match="used already"):
            thief.receive(str(PROVIDER), refusal)

    run(tmp_path, test)


def test_strangers_are_for_the_counter(tmp_path: Path) -> None:
    async def test(provider: Provider) -> None:
        payload = asked(applicant())
        provider.enrolment.knock(Visitor("somebody", b"hello", 7.0))
        assert provider.turned_away == [("somebody", 7.0)]
        provider.knock(payload, str(OTHER))
        await provider.enrolment.settled()
        provider.store._issued.unlink()
        provider.knock(payload)
        await provider.enrolment.settled()
        assert provider.turned_away[1:] == [(str(OTHER), 0.0), (str(DEVICE), 0.0)]
        assert provider.sent.empty()

    run(tmp_path, test)


def test_a_flood_of_applications_waits_for_one_reading_and_in_a_bounded_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(provider: Provider) -> None:
        reads = []
        current = provider.store.current
        monkeypatch.setattr(
            provider.store, "current", lambda: reads.append(threading.get_ident()) or current()
        )
        payload = asked(applicant())
        for _ in range(MAX_WAITING + 10):
            provider.knock(payload, str(OTHER))
        assert len(provider.turned_away) == 10
        await provider.enrolment.settled()
        assert len(provider.turned_away) == 10 + MAX_WAITING
        assert len(reads) == 1
        assert threading.get_ident() not in reads, "the loop reads no file"
        provider.knock(payload)  # there is room again
        await provider.enrolment.settled()
        assert len(provider.peers) == 1

    run(tmp_path, test)


def test_a_taken_name(tmp_path: Path) -> None:
    async def test(provider: Provider) -> None:
        text = provider.path.read_text()
        write(provider.path, add_peer(text, name="laptop", address=str(OTHER), allowed_ips=["10.86.0.9"]))
        device = applicant()
        with pytest.raises(NotAdmitted, match="could not add this device"):
            device.receive(str(PROVIDER), await provider.answer(asked(device)))
        (peer,) = provider.peers
        assert peer.address == OTHER
        (only,) = provider.store.read()
        assert only.device == "", "and it may be used once the name is free"

    run(tmp_path, test)


def test_at_the_end_nobody_is_heard(tmp_path: Path) -> None:
    async def test(provider: Provider) -> None:
        await provider.enrolment.close()
        provider.knock(asked(applicant()))
        assert provider.turned_away

    run(tmp_path, test)
