"""The parts of a daemon are complete once they are made, and events reach those that they are meant for."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any, cast

import pytest

import nconnect.daemon
from nconnect.daemon.direct_sockets import DirectSockets
from nconnect.daemon.events import ConfigChanged, Ready
from nconnect.daemon.settings import InForce
from nconnect.daemon.wiring import Daemon, Opened
from nconnect.errors import ConfigError, NetworkError
from nconnect.invite.table import PeerTable
from nconnect.io.files.invitations import InvitationStore
from nconnect.io.files.state import StateStore
from nconnect.io.nkn.links import LinkCameUp, LinkWentDown
from nconnect.io.process.notify import ServiceManager
from nconnect.io.system.host import Host
from nconnect.io.system.machine_network import MachineNetwork
from nconnect.model import Config, NetworkConfig, NknAddress, PeerConfig, ProvideConfig, ProvidedSubnet
from nconnect.nkn.outputs import DownReason
from nconnect.tunnel.outputs import CountersMoved
from nconnect.wire.jsonrpc import NodeInfo
from tests.daemon.test_driver import FakeTun

NODE = NodeInfo("203.0.113.7:30002", "203.0.113.7:30003", "ab" * 32, "cd" * 32)
PEER = PeerConfig("gpu", NknAddress("gpu", bytes.fromhex("58" + "66" * 31)), (ip_network("192.168.50.0/24"),))


def run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, test: Callable[[Daemon], Awaitable[None]], **changed: Any
) -> None:
    monkeypatch.setenv("NCONNECT_STATE_DIR", str(folder))
    monkeypatch.setenv("NCONNECT_RUN_DIR", str(folder / "run"))
    in_force = InForce(PeerTable(Config("nc7", bytes(range(32)), "laptop", (), **changed), {}))
    tun = FakeTun()
    opened = Opened(
        lock=cast(Any, LockedElsewhere()),
        stamp=lambda: 0,
        load=lambda: PeerTable(in_force.config, {}),
        in_force=in_force,
        invitations=InvitationStore.of("nc7"),
        store=StateStore.of("nc7"),
        service=ServiceManager({}),
        node=None,
        network=MachineNetwork("nc7", cast(Any, tun), Host("nc7", folder / "nc7", device=tun.index), None),
        direct=DirectSockets(),
    )
    try:
        with asyncio.Runner() as runner:
            daemon = Daemon(opened, runner.get_loop(), keep_trying=False)
            try:
                runner.run(asyncio.wait_for(cast(Any, test(daemon)), 10))
            finally:
                runner.run(daemon.usage.close())
    finally:
        tun.close()


class LockedElsewhere:
    interface, files, fd = "nc7", None, -1


def test_a_peer_table_reaches_the_tunnel_and_who_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(daemon: Daemon) -> None:
        with pytest.raises(Exception, match="gpu"):
            await daemon.waiting.wait("gpu", 0)
        daemon.bus.publish(ConfigChanged(dataclasses.replace(daemon.opened.in_force.config, peers=(PEER,))))
        with pytest.raises(TimeoutError, match="nc7 is not set up yet"):
            await daemon.waiting.wait("gpu", 0)

    run(tmp_path, monkeypatch, test)


def test_what_a_reload_changes_of_the_tunnel_itself_is_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/configuration.md promises of `accept_pending` and `[provide]`."""

    async def test(daemon: Daemon) -> None:
        tunnel = daemon.driver._tunnel
        assert (tunnel.settings.accept_pending, tunnel.settings.persistent) == (False, True)
        subnet = ip_network("192.168.60.0/24")
        provide = ProvideConfig((ProvidedSubnet(subnet, subnet),))
        old = daemon.opened.in_force.config
        fresh = dataclasses.replace(old, accept_pending=True, provide=provide)
        daemon.bus.publish(ConfigChanged(fresh))
        assert (tunnel.settings.accept_pending, tunnel.settings.persistent) == (True, False)
        tunnel.receiver.turn_away("somebody", 7.0)
        assert [sender.address for sender in tunnel.pending] == ["somebody"]
        daemon.bus.publish(ConfigChanged(old))
        assert (tunnel.settings.accept_pending, tunnel.settings.persistent) == (False, True)

    run(tmp_path, monkeypatch, test)


def test_a_first_login_that_fails_ends_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(daemon: Daemon) -> None:
        login = asyncio.create_task(daemon.waiting.first_login(), name="login")
        await asyncio.sleep(0)
        daemon.bus.publish(LinkWentDown("no seed answers", DownReason.NO_SEED, 0))
        with pytest.raises(NetworkError, match="no seed answers"):
            await login

    run(tmp_path, monkeypatch, test)


@pytest.mark.parametrize("count", [1, 2])
def test_peers_are_told_of_links_only_where_there_are_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    async def test(daemon: Daemon) -> None:
        told: list[object] = []
        monkeypatch.setattr(daemon.driver, "set_links", told.append)
        monkeypatch.setattr(daemon.driver, "check_peers", lambda: told.append("check peers"))
        for up in ({0: 7}, {0: 7, 1: 8}):
            monkeypatch.setattr(daemon.links, "tags", lambda up=up: up)
            daemon.bus.publish(LinkCameUp(NODE))
        if count > 1:
            assert told == [{0: 7}, "check peers", {0: 7, 1: 8}], "peers are asked when the first link is up"
        else:
            assert told == ["check peers"]
        monkeypatch.setattr(daemon.links, "spare_was_up", True)
        daemon.bus.publish(LinkWentDown("no answer", DownReason.UNREACHABLE, 0))
        assert told[-1] == {0: 7, 1: 8}

    run(tmp_path, monkeypatch, test, network=NetworkConfig(links=count))


def test_direct_paths_know_whether_there_is_a_relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(daemon: Daemon) -> None:
        told: list[bool] = []
        monkeypatch.setattr(daemon.driver, "relay_changed", told.append)
        with monkeypatch.context() as up:
            up.setattr(type(daemon.links), "is_up", True)
            daemon.bus.publish(LinkCameUp(NODE))
            daemon.bus.publish(LinkWentDown("one of two", DownReason.UNREACHABLE, 1))
        daemon.bus.publish(LinkWentDown("no answer", DownReason.UNREACHABLE, 0))
        assert told == [True, True, False]

    run(tmp_path, monkeypatch, test)


def test_ready_is_said_once_all_that_wait_may_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(daemon: Daemon) -> None:
        with caplog.at_level(logging.INFO):
            daemon.bus.publish(Ready())
        assert daemon.waiting.is_ready
        assert caplog.records[0].message.startswith("nc7 is up as laptop.")

    run(tmp_path, monkeypatch, test)


def test_counters_that_moved_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(daemon: Daemon) -> None:
        daemon.bus.publish(CountersMoved())
        await daemon.counters.close()
        assert daemon.opened.store.load("handshakes") == {"self": 0}

    run(tmp_path, monkeypatch, test)


def test_a_wrong_environment_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(daemon: Daemon) -> None: ...

    monkeypatch.setenv("NCONNECT_REKEY_AFTER_S", "never")
    with pytest.raises(ConfigError, match="NCONNECT_REKEY_AFTER_S is 'never'"):
        run(tmp_path, monkeypatch, test)


def test_no_attribute_comes_after_the_constructor() -> None:
    """A class that assigns one elsewhere, or only declares it, can be used before it is complete."""
    late = []
    for path in sorted(Path(nconnect.daemon.__file__).parent.glob("*.py")):
        for made in ast.walk(ast.parse(path.read_text())):
            if isinstance(made, ast.ClassDef):
                late += [f"{path.name}: {made.name}.{name}" for name in sorted(late_attributes(made))]
    assert not late


def late_attributes(made: ast.ClassDef) -> set[str]:
    methods = [each for each in made.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
    early = {name for method in methods if method.name == "__init__" for name in assigned(method)}
    return {name for method in methods for name in assigned(method)} - early


def assigned(method: ast.AST) -> set[str]:
    """Attributes of `self` that get a value."""
    declared = {
        id(node.target) for node in ast.walk(method) if isinstance(node, ast.AnnAssign) and not node.value
    }
    return {
        node.attr
        for node in ast.walk(method)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and id(node) not in declared
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
