"""Several providers on one interface work at once, and nobody arranges addresses with anybody.

printer 192.168.1.10 ── user 192.168.1.7 ── node ── provider 1, 2, … ── server 192.168.1.10

All tunnel networks are 10.86.0.0/24, and all others 192.168.1.0/24: `netns_tests.friends`.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from lab.netns import cable
from lab.process import until
from lab.traffic import connect, pings
from netns_tests.friends import LAN, PRINTER_PORT, SERVER, Friend, Friends, friends

JOINED_S = 3.0
LOADED = 4  # a machine that runs other tests too


@pytest.fixture(scope="module")
def two() -> Iterator[Friends]:
    """The user has joined the first of two, and is up."""
    with friends(2) as made:
        first = made.providers[0]
        made.join(first)
        made.side.start()
        made.side.wait(first.name)
        yield made


def ask(made: Friends, address: str, port: int, question: str) -> str:
    with connect(made.user, address, port, timeout_s=5) as connection:
        connection.sendall(f"{question}\n".encode())
        connection.settimeout(5)
        return connection.recv(200).decode()


def is_reached(made: Friends, friend: Friend) -> bool:
    """Its server, which alone listens on that port; no other server of that address does."""
    try:
        return ask(made, made.seen(friend, SERVER), friend.port, "whoami") == "192.168.1.1"
    except OSError:
        return False


def knows_own_address(made: Friends, friend: Friend) -> bool:
    """The provider sees the address that it gave, whatever it is called on this side."""
    return ask(made, made.seen(friend, "10.86.0.1"), 7099, "whoami") == "10.86.0.2"


def has_all(made: Friends, joined: list[Friend]) -> None:
    for friend in joined:
        until(lambda friend=friend: is_reached(made, friend), f"an answer from {friend.name}", timeout_s=10)
        assert knows_own_address(made, friend)
        assert pings(made.user, made.seen(friend, SERVER))
    assert ask(made, SERVER, PRINTER_PORT, "whoami") == "192.168.1.7", "the user's own network stays"


def test_a_second_provider_is_added_while_the_first_is_in_use(two: Friends) -> None:
    first, second = two.providers
    has_all(two, [first])
    with connect(two.user, two.seen(first, SERVER), first.port) as live:
        live.sendall(b"echo\none")
        assert live.recv(3) == b"one"
        token = two.invite(second)
        began = time.monotonic()
        said = two.side.nconnect("join", token)
        until(lambda: is_reached(two, second), "an answer from the second", timeout_s=10)
        took = time.monotonic() - began
        print(f"joined in {took:.2f} s")
        assert "in force now" in said
        assert f"its {LAN} is" in said
        assert "its 10.86.0.0/24 is" in said
        has_all(two, [first, second])
        assert [peer["allowed_ips"] for peer in two.side.status()["peers"]] == [
            ["10.86.0.1/32", "fd86::1/128", LAN]
        ] * 2
        # A socket with the other provider's address: a packet arrives with the right one nevertheless.
        source = two.peer(first.name)["mapped"] and two.side.status()["addresses"][0].partition("/")[0]
        assert two.user.run(["ping", "-c1", "-W2", "-I", source, two.seen(second, SERVER)]).returncode == 0
        # An error of a machine behind the provider quotes a packet, whose addresses are mapped too.
        with two.user.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.connect((two.seen(second, SERVER), 9))
            datagrams.settimeout(5)
            datagrams.send(b"?")
            with pytest.raises(ConnectionRefusedError):
                datagrams.recv(1)
        two.side.nconnect("leave", second.name, "--yes")
        live.sendall(b"two")
        assert live.recv(3) == b"two"
    status = two.side.status()
    assert [peer["name"] for peer in status["peers"]] == [first.name]
    assert len(status["addresses"]) == 2
    assert second.name not in two.side.config.read_text()
    assert len(status["routes"]) == 1


def test_a_provider_that_is_known_already_costs_no_invitation(two: Friends) -> None:
    first = two.providers[0]
    token = two.invite(first, "another")
    before = two.side.config.read_text()
    refused = two.side.try_nconnect("join", token)
    assert refused.returncode == 2
    assert f"leave {first.name}" in refused.stderr
    assert two.side.config.read_text() == before
    (listed,) = [
        each
        for each in json.loads(first.side.nconnect("invite", "list", "--json"))["invitations"]
        if each["name"] == "another"
    ]
    assert listed["state"] == "open"


def test_what_a_provider_offers_later_is_routed_and_gone_again(two: Friends) -> None:
    """Private subnets; a public one waits for a person, and is routed when one agrees."""
    first = two.providers[0]
    before = two.side.status()["routes"]
    first.side.nconnect("provide", "add", "--subnet", "172.20.5.0/24,8.8.8.0/24")
    until(lambda: "172.20.5.0/24" in two.side.status()["routes"], "the new route", timeout_s=10)
    (waits,) = two.peer(first.name)["waiting"]
    assert waits["route"] == "8.8.8.0/24"
    assert "8.8.8.0/24" not in two.side.status()["routes"]
    wanted = ",".join((*two.peer(first.name)["allowed_ips"], waits["route"]))
    two.side.nconnect("peer", "set", first.name, "--accept-routes", wanted)
    assert "8.8.8.0/24" in two.side.status()["routes"]
    first.side.nconnect("provide", "remove", "--subnet", "172.20.5.0/24,8.8.8.0/24")
    until(lambda: two.side.status()["routes"] == before, "the routes to be gone", timeout_s=10)
    assert two.peer(first.name)["waiting"] == []
    two.side.nconnect("peer", "set", first.name, "--accept-routes", "default")
    assert is_reached(two, first)


@pytest.mark.slow
def test_a_mapping_is_the_same_after_a_restart_and_leaving_the_last_leaves_an_empty_interface(
    two: Friends,
) -> None:
    first = two.providers[0]
    mapped = two.peer(first.name)["mapped"]
    assert [pair["real"] for pair in mapped] == [LAN]
    two.side.down()
    two.side.start()
    two.side.wait(first.name)
    assert two.peer(first.name)["mapped"] == mapped
    has_all(two, [first])
    # The device enters a network that has the tunnel's addresses.
    cable(two.user, "cafe0", ["10.86.0.77/24"], two.printer, "cafe", [])
    until(lambda: len(two.peer(first.name)["mapped"]) == 2, "the tunnel's network to be mapped")
    has_all(two, [first])
    findings = json.loads(two.side.try_nconnect("doctor", "--json").stdout)["findings"]
    assert [each for each in findings if each["level"] == "failure"] == []
    two.user.ip("link del cafe0")
    two.side.nconnect("leave", first.name, "--yes")
    status = two.side.status()
    assert (status["peers"], status["routes"], status["addresses"]) == ([], [], [])
    second = two.providers[1]
    two.side.nconnect("join", two.invite(second, "again"))
    has_all(two, [second])


@pytest.mark.slow
def test_a_sixth_provider_is_joined_in_one_command_and_all_work_at_once() -> None:
    """In under 3 s, where nothing else runs; here the bound is what a person still waits for."""
    with friends(6, "fs") as made:
        made.join(made.providers[0])
        made.side.start()
        made.side.wait()
        for friend in made.providers[1:5]:
            made.join(friend)
        has_all(made, made.providers[:5])
        sixth = made.providers[5]
        token = made.invite(sixth)
        began = time.monotonic()
        made.side.nconnect("join", token)
        until(lambda: is_reached(made, sixth), "an answer from the sixth", timeout_s=15)
        print(f"the sixth joined in {time.monotonic() - began:.2f} s")
        assert time.monotonic() - began < JOINED_S * LOADED
        has_all(made, made.providers)
        prefixes = [
            ip_network(pair["seen"]) for peer in made.side.status()["peers"] for pair in peer["mapped"]
        ]
        assert len(prefixes) == 6 + 5 + 5  # the LAN of each, the tunnel's networks of all but the first
        assert not any(a.overlaps(b) for a in prefixes for b in prefixes if a is not b)
        made.side.nconnect("leave", made.providers[2].name, "--yes")
        has_all(made, [friend for friend in made.providers if friend.number != 3])
