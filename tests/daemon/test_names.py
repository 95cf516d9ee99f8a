"""Names of peers while the daemon runs: which, when, and what `status` says when they do not resolve."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import dns.message
import pytest

from nconnect.daemon import names as service_module
from nconnect.daemon.names import MAX_REPAIRS, NameService
from nconnect.daemon.settings import InForce
from nconnect.errors import HostError
from nconnect.invite.table import PeerTable
from nconnect.io.net import name_servers
from nconnect.io.process.name_keeper import HOSTS_FILE, RESOLVED, UNCHANGED
from nconnect.io.system import hosts_file
from nconnect.model import Config, NknAddress, PeerConfig
from nconnect.offers.name_codec import Names
from nconnect.offers.names import of_peers
from tests import loops


def peer(number: int, name: str) -> PeerConfig:
    key = bytes.fromhex("58" + f"{number:062x}")
    return PeerConfig(
        name, NknAddress(name, key), (ip_network(f"10.86.0.{number}/32"), ip_network("192.168.50.0/24"))
    )


CONFIG = Config(
    "nc7", bytes(32), "laptop", (ip_interface("10.86.0.2/24"),), peers=(peer(1, "gpu-box"), peer(3, "attic"))
)
BOTH = {"gpu-box.internal": (ip_address("10.86.0.1"),), "attic.internal": (ip_address("10.86.0.3"),)}


class FakeHelper:
    """As the helper does it, in the test's file. `fails`: what it says; `is_resolved`: where the names go."""

    def __init__(self, hosts: Path) -> None:
        self.hosts = hosts
        self.fails = ""
        self.is_resolved = False
        self.told: list[Names] = []
        self.server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.server.bind(("127.0.0.1", 0))

    def put_names(self, known: Names) -> bytes:
        self.told.append(known)
        if self.fails:
            raise HostError(self.fails)
        if self.is_resolved and known:
            return RESOLVED
        return HOSTS_FILE if hosts_file.put("nc7", known, self.hosts) else UNCHANGED

    def name_server(self) -> socket.socket:
        return self.server.dup()


@pytest.fixture
def known_elsewhere(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names that this machine's name server knows; "*": all."""
    known: set[str] = set()

    async def ask(host: str) -> list[object]:
        if "silent" in known:
            await asyncio.sleep(60)
        return ["an address"] if host in known or "*" in known else []

    monkeypatch.setattr(name_servers, "ask", ask)
    monkeypatch.setattr(name_servers, "search_domains", lambda: [each for each in known if "corp" in each])
    monkeypatch.setattr(service_module, "LOOK_UP_S", 0.05)
    monkeypatch.setattr(service_module, "SETTLE_S", 0.0)
    return known


def running(
    tmp_path: Path,
    test: Callable[[NameService, FakeHelper, InForce], Awaitable[None]],
    config: Config = CONFIG,
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    helper = FakeHelper(hosts)
    in_force = InForce(PeerTable(config, {}))

    async def whole() -> None:
        service = NameService(
            in_force, lambda: of_peers(in_force.config), helper, clock=lambda: 0.0, hosts=hosts
        )
        task = asyncio.create_task(service.run())
        try:
            await test(service, helper, in_force)
        finally:
            await service.close()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled(), task
        assert hosts.read_text() == "127.0.0.1 localhost\n", "taken back"

    try:
        loops.run_on_both(whole)
    finally:
        helper.server.close()


pytestmark = pytest.mark.usefixtures("known_elsewhere")


def test_peers_of_the_configuration_have_names(tmp_path: Path) -> None:
    async def test(service: NameService, helper: FakeHelper, in_force: InForce) -> None:
        in_force.put(PeerTable(CONFIG, {}))
        await loops.until(lambda: service.by == "hosts")
        assert service.texts() == {"gpu-box.internal": ("10.86.0.1",), "attic.internal": ("10.86.0.3",)}
        assert "10.86.0.1 gpu-box.internal\n" in helper.hosts.read_text()
        assert helper.told[0] == {}, "first what a killed daemon left is taken back"
        in_force.put(PeerTable(dataclasses.replace(CONFIG, peers=CONFIG.peers[:1]), {}))
        service.wake()
        await loops.until(lambda: "attic" not in helper.hosts.read_text())
        in_force.put(PeerTable(dataclasses.replace(CONFIG, names=False), {}))
        service.wake()
        await loops.until(lambda: helper.hosts.read_text() == "127.0.0.1 localhost\n")
        await loops.until(lambda: service.by == "")

    running(tmp_path, test)


def test_what_somebody_removes_is_written_again_ten_times(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(service: NameService, helper: FakeHelper, _: InForce) -> None:
        def is_there() -> bool:
            return "gpu-box.internal" in helper.hosts.read_text()

        await loops.until(is_there)
        for number in range(MAX_REPAIRS):
            await loops.until(lambda: service.by == "hosts")
            if number % 2:  # as an editor does it
                other = helper.hosts.with_name("other")
                other.write_text("127.0.0.1 localhost\n")
                other.replace(helper.hosts)
            else:
                helper.hosts.write_text("127.0.0.1 localhost\n")
            await loops.until(is_there)
        await loops.until(lambda: service.problem)
        assert "another program removes them" in service.problem
        assert service.texts() == {}
        told = len(helper.told)
        helper.hosts.write_text("127.0.0.1 localhost\n")
        service.wake()
        await asyncio.sleep(0.05)
        assert len(helper.told) == told
        service.forgive()
        await loops.until(is_there)
        await loops.until(lambda: service.problem == "")

    running(tmp_path, test)
    assert "somebody removed names of peers" in caplog.text


def test_a_label_that_this_machine_resolves_already_is_not_taken(
    tmp_path: Path, known_elsewhere: set[str]
) -> None:
    known_elsewhere.update(("gpu-box.internal", "gpu-box-2.internal", "dept.attic.internal.corp"))

    async def test(service: NameService, helper: FakeHelper, in_force: InForce) -> None:
        await loops.until(lambda: service.by == "hosts")
        assert set(service.known) == {"gpu-box-3.internal", "attic.internal"}
        helper.hosts.write_text("127.0.0.1 localhost\n10.1.1.1 db.shed.internal\n")
        in_force.put(PeerTable(dataclasses.replace(CONFIG, peers=(peer(4, "shed"),)), {}))
        service.wake()
        await loops.until(lambda: set(service.known) == {"shed-2.internal"})
        in_force.put(PeerTable(CONFIG, {}))
        service.wake()
        await loops.until(lambda: "attic.internal" in service.known)
        helper.hosts.write_text("127.0.0.1 localhost\n")

    running(tmp_path, test)


def test_a_search_domain_beneath_internal_is_not_taken(tmp_path: Path, known_elsewhere: set[str]) -> None:
    known_elsewhere.add("eu.corp.internal")

    async def test(service: NameService, _: FakeHelper, in_force: InForce) -> None:
        await loops.until(lambda: set(service.known) == {"corp-2.internal"})

    running(tmp_path, test, dataclasses.replace(CONFIG, peers=(peer(4, "corp"),)))


@pytest.mark.parametrize("server", ["*", "silent"])
def test_a_name_server_that_answers_everything_or_nothing_takes_no_label(
    tmp_path: Path, known_elsewhere: set[str], server: str
) -> None:
    known_elsewhere.add(server)

    async def test(service: NameService, _: FakeHelper, in_force: InForce) -> None:
        await loops.until(lambda: service.known == BOTH)

    running(tmp_path, test)


def test_a_file_that_cannot_be_written_is_said_and_tried_again(tmp_path: Path) -> None:
    async def test(service: NameService, helper: FakeHelper, _: InForce) -> None:
        helper.fails = "cannot write names into /etc/hosts: read-only file system"
        service.wake()
        await loops.until(lambda: service.problem)
        assert service.problem == f"names of peers do not resolve: {helper.fails}"
        assert (service.by, service.texts()) == ("", {})
        helper.fails = ""
        service.wake()
        await loops.until(lambda: service.by == "hosts")
        assert service.problem == ""

    running(tmp_path, test)


def test_a_machine_that_does_not_read_the_hosts_file_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts_file, "nss_sources", lambda: ["dns"])

    async def test(service: NameService, _: FakeHelper, __: InForce) -> None:
        await loops.until(lambda: service.problem)
        assert "write `files` into the line `hosts:`" in service.problem

    running(tmp_path, test)


def test_with_systemd_resolved_the_names_are_answered_here(tmp_path: Path) -> None:
    async def test(service: NameService, helper: FakeHelper, _: InForce) -> None:
        helper.is_resolved = True
        service.wake()
        await loops.until(lambda: service.by == "systemd-resolved" and service._stub is not None)
        query = dns.message.make_query("attic.internal", "A")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect(helper.server.getsockname())
            client.send(query.to_wire())
            loop = asyncio.get_running_loop()
            data = bytearray(512)
            length = await asyncio.wait_for(loop.sock_recv_into(client, data), 5)
        answer = dns.message.from_wire(bytes(data[:length]))
        assert [record.to_text() for each in answer.answer for record in each] == ["10.86.0.3"]
        assert answer.answer[0].ttl == 0
        helper.is_resolved = False

    running(tmp_path, test)


def test_without_a_helper_nothing_resolves() -> None:
    async def test() -> None:
        service = NameService(InForce(PeerTable(CONFIG, {})), list, None, clock=lambda: 0.0)
        await service.run()
        await service.close()
        assert (service.by, service.problem, service.texts()) == ("", "", {})

    loops.run(test)
