"""Other programs' rules and routes take the tunnel's packets elsewhere: it is said, with what mends it.

user ── node ── provider ── server, one world for all tests: each leaves it as it was
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab.netns import Namespace
from lab.process import until
from lab.sides import Side
from lab.world import LAN, NODE_HOST, SERVER, World, world
from netns_tests.topology import SERVICE, pings, reaches, serve

PEERS = "10.86.0.0/24"


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    with world("ncroutes") as made:
        serve(made.server, made, SERVICE)
        made.configure()
        made.node.start()
        made.up()
        assert pings(made.user, SERVER)
        yield made


@contextmanager
def others(namespace: Namespace, *made: str) -> Iterator[None]:
    """What another program sets by `ip`, until the block ends."""
    for words in made:
        namespace.ip(words)
    try:
        yield
    finally:
        for words in reversed(made):
            gone = words.replace(" add ", " del ", 1)
            namespace.run(["ip", *gone.split()])  # the mend may have been to delete it


def said(side: Side) -> str:
    return "\n".join(side.status()["problems"])


def routing(side: Side) -> dict[str, str]:
    """The doctor's findings about the kernel's routes, and what mends each."""
    done = side.try_nconnect("doctor", "--json")
    return {f["text"]: f["mend"] for f in json.loads(done.stdout)["findings"]
            if f["check"] == "routing" and f["level"] != "ok"}  # fmt: skip


def mended_as_said(made: World, side: Side, *parts: str) -> list[str]:
    """The control, then `status`, then the doctor, then its commands; what these were."""
    assert not reaches(made.user, SERVER, SERVICE), "the control: packets go astray"
    until(lambda: all(part in said(side) for part in parts), "the status to say it", timeout_s=15)
    found = routing(side)
    assert all(any(part in text for text in found) for part in parts), found
    commands = list(dict.fromkeys(command for mend in found.values() for command in mend.split(" && ")))
    for command in commands:
        done = side.namespace.run(shlex.split(command))
        assert done.returncode == 0, done.stderr
    until(lambda: reaches(made.user, SERVER, SERVICE), "the server", timeout_s=5)
    until(lambda: said(side) == "", "the status to be content", timeout_s=15)
    assert routing(side) == {}
    return commands


def test_a_default_route_of_another_vpn_before_main(shared: World) -> None:
    """As Tailscale's rules do with an exit node, or any policy that begins with a table of its own."""
    away = ("route add default via 198.51.100.1 table 52", "rule add lookup 52 priority 5270")
    with others(shared.user, *away):
        commands = mended_as_said(
            shared,
            shared.user_side,
            f"packets to {PEERS}, {LAN}",
            "rule 5270: from all lookup 52",
            "wan0 instead of nc0",
        )
    assert f"ip rule add to {LAN} lookup main priority 5269" in commands
    for command in commands:
        shared.user.ip(command.removeprefix("ip ").replace("rule add", "rule del"))


def test_a_rule_for_answers_from_the_subnet(shared: World) -> None:
    """As cloud-init writes it for a second network card."""
    away = ("route add default via 203.0.113.1 table 100", f"rule add from {LAN} lookup 100 priority 100")
    with others(shared.provider, *away):
        commands = mended_as_said(
            shared, shared.provider_side, f"answers from {LAN} to {PEERS}", f"rule 100: from {LAN} lookup 100"
        )
    assert commands == [f"ip rule add to {PEERS} lookup main priority 99"]
    shared.provider.ip(f"rule del to {PEERS} lookup main priority 99")


@pytest.mark.parametrize("route", ["blackhole 192.168.50.0/25", "192.168.50.0/26 via 198.51.100.1 dev wan0"])
def test_a_foreign_route_inside_the_prefix(shared: World, route: str) -> None:
    with others(shared.user, f"route add {route}"):
        commands = mended_as_said(shared, shared.user_side, f"(route {route})")
    assert commands == [f"ip route del {route}"]


BEHIND = "10.77.0.0/24"
HOST_BEHIND = "10.77.0.5"


def test_a_subnet_behind_the_default_gateway(shared: World) -> None:
    """It works, though no route but the default one leads there, and so the doctor is content."""
    sides = (shared.provider_side, shared.user_side)
    before = [side.config.read_text() for side in sides]
    shared.server.ip(f"address add {HOST_BEHIND}/32 dev lo")
    shared.provider.ip(f"route add {NODE_HOST} via 203.0.113.1")
    shared.provider.ip(f"route replace default via {SERVER}")
    try:
        for side, text in zip(sides, before, strict=True):
            side.config.write_text(text.replace(f'"{LAN}"', f'"{LAN}", "{BEHIND}"', 1))
            side.nconnect("reload")
        until(lambda: reaches(shared.user, HOST_BEHIND, SERVICE), "the host behind the gateway")
        assert said(shared.provider_side) == ""
        assert subnet(shared.provider_side) == "ok"
        shared.provider.ip("route del default")
        assert not reaches(shared.user, HOST_BEHIND, SERVICE), "the control"
        assert subnet(shared.provider_side) == "failure"
        until(
            lambda: f"what peers send to {BEHIND}" in said(shared.provider_side), "the status", timeout_s=15
        )
    finally:
        shared.provider.ip("route replace default via 203.0.113.1")
        shared.provider.ip(f"route del {NODE_HOST}")
        shared.server.ip(f"address del {HOST_BEHIND}/32 dev lo")
        for side, text in zip(sides, before, strict=True):
            side.config.write_text(text)
            side.nconnect("reload")
    until(lambda: said(shared.provider_side) == "", "the status to be content", timeout_s=15)


def subnet(side: Side) -> str:
    """What the doctor says of the subnet behind the gateway."""
    done = side.try_nconnect("doctor", "--json", "--host", HOST_BEHIND)
    (level,) = (f["level"] for f in json.loads(done.stdout)["findings"]
                if f["check"] == "subnet" and BEHIND in f["text"])  # fmt: skip
    return str(level)
