"""What of the file a running daemon takes, what it refuses, and that a refusal changes nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import cast

import pytest

from nconnect.daemon.events import Bus, Reloaded
from nconnect.daemon.host_state import HostState
from nconnect.daemon.reload import FIXED, Reload
from nconnect.daemon.settings import InForce
from nconnect.errors import ConfigError, HostError
from nconnect.invite.table import PeerTable
from nconnect.model import Config, NknAddress, PeerConfig

PEER = PeerConfig("laptop", NknAddress("laptop", bytes(32)), ())
BARE = Config("nc7", bytes(32), "gpu", ())


class Parts:
    """A `HostState` that takes notes, what the bus is told, and the file."""

    def __init__(self) -> None:
        self.notes: list[object] = []
        self.file: Config = BARE
        self.left_out: tuple[str, ...] = ()
        self.refuses = False
        self.in_force, bus = InForce(PeerTable(BARE, {})), Bus()
        self.reload = Reload(
            lambda: PeerTable(self.file, {}, self.left_out),
            self.in_force,
            cast(HostState, self),
            bus,
            prepare=self.prepare,
        )
        bus.subscribe(Reloaded, lambda _: self.notes.append("reloaded"))

    async def change(self, table: PeerTable) -> None:
        if self.refuses:
            raise HostError("nft does not take it")
        self.in_force.put(table)
        self.notes.append("change")

    async def prepare(self, config: Config) -> None:
        if config.network.direct_port == 80:
            raise HostError("port 80 is not for us")

    async def end_flows(self, old: Config) -> None:
        self.notes.append(("end flows of", len(old.peers)))


def test_peers_and_rules_then_what_is_allowed_no_more() -> None:
    parts = Parts()
    parts.file = dataclasses.replace(BARE, peers=(PEER,), inbound=True)
    asyncio.run(parts.reload.apply())
    assert parts.notes == ["change", "reloaded", ("end flows of", 0)]
    parts.left_out = ("somebody is left out",)
    asyncio.run(parts.reload.apply())
    assert parts.in_force.left_out == ("somebody is left out",)
    assert parts.in_force.config is parts.file


def test_rules_that_are_refused_leave_the_configuration_as_it_was() -> None:
    parts = Parts()
    parts.refuses = True
    parts.file = dataclasses.replace(BARE, peers=(PEER,))
    with pytest.raises(HostError, match="nft"):
        asyncio.run(parts.reload.apply())
    assert parts.notes == []
    assert parts.in_force.config is BARE


@pytest.mark.parametrize(("field", "value"), [("mtu", 1400), ("seed", b"x" * 32), ("identifier", "other")])
def test_what_needs_another_device_or_identity_is_refused(field: str, value: object) -> None:
    parts = Parts()
    parts.file = dataclasses.replace(BARE, peers=(PEER,), **{field: value})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"{field} cannot change while nc7 is up: run `nconnect down`"):
        asyncio.run(parts.reload.apply())
    assert parts.notes == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("direct", "off"), ("direct_port", 41641), ("port_mapping", False), ("stun", (("stun.example", 3478),))],
)
def test_what_concerns_direct_paths_is_taken_at_once(field: str, value: object) -> None:
    parts = Parts()
    network = dataclasses.replace(BARE.network, **{field: value})  # type: ignore[arg-type]
    parts.file = dataclasses.replace(BARE, network=network)
    asyncio.run(parts.reload.apply())
    assert parts.in_force.config is parts.file


def test_what_cannot_be_prepared_changes_nothing() -> None:
    parts = Parts()
    network = dataclasses.replace(BARE.network, direct_port=80)
    parts.file = dataclasses.replace(BARE, network=network, peers=(PEER,))
    with pytest.raises(HostError, match="port 80"):
        asyncio.run(parts.reload.apply())
    assert parts.notes == []
    assert parts.in_force.config is BARE


def test_the_rest_of_the_network_section_needs_a_new_start() -> None:
    parts = Parts()
    network = dataclasses.replace(BARE.network, direct="off", links=2)
    parts.file = dataclasses.replace(BARE, network=network)
    with pytest.raises(ConfigError, match="network cannot change while nc7 is up"):
        asyncio.run(parts.reload.apply())
    assert parts.in_force.config is BARE


def test_a_signal_s_reload_says_what_is_wrong_until_one_succeeds(caplog: pytest.LogCaptureFixture) -> None:
    parts = Parts()

    async def signalled(file: Config) -> None:
        parts.file = file
        parts.reload.in_background()
        (task,) = asyncio.all_tasks() - {asyncio.current_task()}
        await task

    with caplog.at_level(logging.ERROR):
        asyncio.run(signalled(dataclasses.replace(BARE, mtu=1400)))
    (record,) = caplog.records
    assert record.message.startswith("reload: mtu cannot change")
    assert parts.reload.problem.startswith("the configuration file is not applied: mtu cannot change")
    asyncio.run(signalled(BARE))
    assert parts.reload.problem == ""


def test_every_field_of_the_configuration_is_either_fixed_or_applied_by_a_reload() -> None:
    """A new field has to be put into one of the two."""
    applied = {
        "accept_routes",
        "inbound",
        "fail_closed",
        "accept_pending",
        "names",
        "provide",
        "peers",
        "readers",
        "streams",
    }
    assert {field.name for field in dataclasses.fields(Config)} == set(FIXED) | applied
    assert not set(FIXED) & applied
