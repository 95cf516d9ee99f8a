"""Direct paths between real daemons behind NATs of every kind: found, used, left, and why there is none.

    a, b ── easy ── ┐                  ┌ ── easy ── c
                    internet (node)
    f ── UDP blocked ┘                 └ ── hard ── d, hard ── e

Everybody pings a, but e, whom d pings.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from lab.nat import Kind, Site
from lab.process import until
from lab.tap import Tap
from nconnect.tunnel.constants import REKEY_AFTER_S
from netns_tests.direct import (
    DIRECT,
    Device,
    World,
    here,
    kinds,
    longest_pause,
    lost,
    pinging,
    replies,
    start,
)

PAUSE_S = 1.5
MOVE_S = 5.0  # 0.5 s where nothing else runs: the link has to be made anew as well
REKEY_S = 2  # of b and c; the protocol says 120
REKEYS = 5
SECRET = b"what the tunnel is for"


class Easy(NamedTuple):
    a: Device
    b: Device
    c: Device
    site_of_c: Site


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as undo:
        yield World(undo, tmp_path_factory.mktemp("direct"))


@pytest.fixture(scope="module")
def easy(world: World) -> Easy:
    """a and b in one LAN, c elsewhere; and c's site. All NATs are easy."""
    household, other = world.lab.site(Kind.PORT, hosts=2), world.lab.site(Kind.PORT)
    a, b = world.device("a", household), world.device("b", household, host=1)
    c = world.device("c", other)
    a.configure(b, c, provides=True)
    b.configure(a)
    c.configure(a)
    start(a, b, c, env={"NCONNECT_REKEY_AFTER_S": str(REKEY_S)})
    return Easy(a, b, c, other)


def test_two_devices_in_one_lan_use_their_own_addresses(
    easy: Easy,
) -> None:
    """By TCP; when it goes silent, by UDP, and by TCP again."""
    a, b, _, _ = easy
    b.settles(a, "up")
    kinds(b, a, "tcp")
    found = b.direct(a)
    assert (found["path"], found["why"]) == (DIRECT, "")
    assert str(found["remote"]).startswith("192.168.")
    assert isinstance(found["rtt_ms"], float)
    with pinging(b, a) as pings:
        until(lambda: len(replies(pings)) >= 5, "answers by TCP")
        address = str(found["remote"]).rpartition(":")[0]
        b.machine.nft("add table inet lost")
        b.machine.nft("add chain inet lost out { type filter hook output priority 0 ; }")
        b.machine.nft(f"add rule inet lost out ip daddr {address} meta l4proto tcp drop")
        kinds(b, a, "udp")
        seen = len(replies(pings))
        until(lambda: len(replies(pings)) >= seen + 5, "answers by UDP")
        found = b.direct(a)
        b.machine.nft("delete table inet lost")
        kinds(b, a, "tcp", timeout_s=25)
    assert longest_pause(replies(pings)) <= PAUSE_S
    assert (found["path"], found["why"]) == (DIRECT, "")
    assert str(found["remote"]).startswith("192.168.")
    assert str(found["local"]).startswith("192.168.")
    assert found["mtu"] in range(1200, 1473)
    assert isinstance(found["rtt_ms"], float)


def test_behind_easy_nats_the_path_goes_between_the_routers(
    easy: Easy,
) -> None:
    a, _, c, _ = easy
    found = c.settles(a, "up")
    assert found["path"] == DIRECT
    assert str(found["remote"]).startswith("203.0.113.")
    assert a.settles(c, "up")["path"] == DIRECT


@pytest.mark.slow
def test_a_router_s_congestion_mark_reaches_the_flow(easy: Easy) -> None:
    """On the way of the datagrams, whose ECN bits are those of the packets in them (RFC 6040)."""
    a, _, c, other = easy
    c.settles(a, "up")
    router = other.routers[0]
    router.nft(
        "add table ip congested\n"
        "add chain ip congested forward { type filter hook forward priority 0 ; }\n"
        "add rule ip congested forward meta l4proto udp ip ecn != not-ect ip ecn set ce"
    )
    a.machine.nft(
        "add table ip seen\n"
        "add counter ip seen marked\n"
        "add chain ip seen input { type filter hook input priority 0 ; }\n"
        "add rule ip seen input iifname nc0 icmp type echo-request ip ecn ce counter name marked"
    )
    try:
        c.machine.must("ping", "-n", "-c", "5", "-i", "0.2", "-Q", "0x02", a.ip)  # ECT(0)
        assert "packets 5 " in a.machine.must("nft", "list", "counter", "ip", "seen", "marked")
        c.machine.must("ping", "-n", "-c", "5", "-i", "0.2", a.ip)
        assert "packets 5 " in a.machine.must("nft", "list", "counter", "ip", "seen", "marked")
    finally:
        router.nft("delete table ip congested")
        a.machine.nft("delete table ip seen")


def test_status_says_what_this_device_has_for_direct_paths(easy: Easy) -> None:
    _, _, c, site = easy
    until(lambda: here(c)["public"], "the STUN server's answer")
    port = here(c)["port"]
    assert here(c)["nat"] == "easy"
    assert here(c)["public"][0].startswith(f"{site.public}:")
    until(lambda: "PCP" in here(c)["unmapped"], "the router not to answer")
    assert here(c)["refused"] == []
    c.machine.nft("add table inet guard")
    try:
        c.machine.nft("add chain inet guard in { type filter hook input priority 0 ; policy drop ; }")
        c.machine.nft("add rule inet guard in ct state established,related accept")
        c.machine.nft("add rule inet guard in iifname { lo, nc0 } accept")
        ruleset = c.machine.must("nft", "-s", "list", "ruleset")
        assert c.settles(easy.a, "up")["path"] == DIRECT
        until(lambda: here(c)["refused"], "status to say that TCP is dropped", timeout_s=20)
        (said,) = here(c)["refused"]
        assert f"TCP port {port}" in said
        assert f"nft insert rule inet guard in tcp dport {port} accept" in said
        assert c.side.status()["problems"] == [], "it is not wrong: UDP needs no hole"
        assert c.settles(easy.a, "up")["path"] == DIRECT
        assert c.machine.must("nft", "-s", "list", "ruleset") == ruleset, "no hole was made"
    finally:
        c.machine.nft("delete table inet guard")


def test_ping_finds_a_direct_path_without_any_packet(easy: Easy) -> None:
    a, b, _, _ = easy
    said = b.side.nconnect("ping", a.name, "--until-direct", "--interval", "0.2")
    reply = json.loads(b.side.nconnect("ping", a.name, "-n", "1", "--json"))["replies"][0]
    assert (reply["path"], reply["node_ms"], reply["rest_ms"]) == ("direct", None, None)
    assert "packets go directly to 192.168." in said


def without_the_node(world: World, a: Device, users: list[Device], rekey_s: float) -> None:
    """The node is off until each of the users has `REKEYS` new keys: no ping to a is lost."""
    for device in users:
        device.settles(a, "up")
    for device in (a, *users):
        device.side.wait(timeout_s=30)
    world.node.stop()
    try:
        with ExitStack() as undo:
            pings = [undo.enter_context(pinging(device, a)) for device in users]
            keys = {device: [_last_handshake(device)] for device in users}

            def renewed() -> bool:
                for device, times in keys.items():
                    if (latest := _last_handshake(device)) > times[-1] + rekey_s / 2:
                        times.append(latest)
                return min(map(len, keys.values())) > REKEYS

            until(renewed, f"{REKEYS} new keys", timeout_s=3 * REKEYS * rekey_s)
            for device in users:
                assert device.side.status()["links"][0]["state"] != "up"
                assert device.direct(a)["path"] == DIRECT
                assert device.side.control.ping(a.name, 5).path == DIRECT
        for each in pings:
            assert lost(each) == []
    finally:
        world.node.start()
        for device in (a, *users):
            device.side.wait(timeout_s=30)


def _last_handshake(device: Device) -> float:
    return float(device.side.peer()["last_handshake_at"])


def test_without_the_node_five_rekeys_go_by_the_direct_path(world: World, easy: Easy) -> None:
    """By TCP (b) and by UDP (c)."""
    a, b, c, _ = easy
    kinds(b, a, "tcp", timeout_s=25)
    without_the_node(world, a, [b, c], REKEY_S)
    assert (b.direct(a)["kind"], c.direct(a)["kind"]) == ("tcp", "udp")


@pytest.mark.slow
@pytest.mark.timeout(800)
def test_ten_minutes_without_the_node(world: World) -> None:
    """With the protocol's own times."""
    o, p = (world.device(name, world.lab.site(Kind.PORT)) for name in ("o", "p"))
    o.configure(p, provides=True)
    p.configure(o)
    start(o, p)
    without_the_node(world, o, [p], REKEY_AFTER_S)


def test_a_device_that_gets_another_address_is_reached_directly_again(easy: Easy) -> None:
    a, _, c, site = easy
    c.settles(a, "up")
    network, _, host = site.addresses[0].rpartition(".")
    with pinging(c, a) as pings:
        c.machine.ip(f"address del {network}.{host}/24 dev eth0")
        c.machine.ip(f"address add {network}.77/24 dev eth0")
        c.machine.ip(f"route add default via {network}.1")
        seen = len(replies(pings))
        until(lambda: len(replies(pings)) >= seen + 5, "answers from the new address", timeout_s=10)
    assert longest_pause(replies(pings)) <= MOVE_S
    assert c.settles(a, "up")["path"] == a.settles(c, "up")["path"] == DIRECT


def test_when_the_direct_path_dies_the_relay_takes_over(easy: Easy) -> None:
    a, _, c, other = easy
    c.settles(a, "up")
    with pinging(c, a) as pings:
        until(lambda: len(replies(pings)) >= 5, "answers by the direct path")
        other.routers[0].nft("insert rule ip router forward meta l4proto udp drop")
        until(lambda: c.direct(a)["path"] == "node", "the path to be left", timeout_s=10)
        seen = len(replies(pings))
        until(lambda: len(replies(pings)) >= seen + 5, "answers by the node")
    assert c.direct(a)["why"]
    assert longest_pause(replies(pings)) <= PAUSE_S


@pytest.mark.slow
def test_who_can_be_reached_from_behind_which_nat(world: World, easy: Easy) -> None:
    a = easy[0]
    places = {
        "d": world.lab.site(Kind.SYMMETRIC),
        "e": world.lab.site(Kind.SYMMETRIC),
        "f": world.lab.site(Kind.BLOCKED),
        "g": world.lab.site(Kind.FULL_CONE),
        "h": world.lab.site(Kind.ADDRESS),
        "i": world.lab.site(Kind.NONE),
        "j": world.lab.site(Kind.PORT, Kind.PORT),
    }
    device = {name: world.device(name, site) for name, site in places.items()}
    d, e, f, g, h, i, j = device.values()
    a.configure(easy[1], easy[2], *device.values(), provides=True)
    e.configure(d, provides=True)
    g.configure(d, provides=True)
    d.configure(a, e, g)
    for one in (f, h, i, j):
        one.configure(a)
    a.side.nconnect("reload")
    start(d, e, f, g, h, i, j)
    for one in (h, i, j):
        assert one.settles(a, "up")["path"] == DIRECT
    assert d.settles(g, "up")["path"] == DIRECT
    assert "hard NAT" in str(d.settles(e, "failed")["why"])  # on both sides
    assert "hard NAT here" in str(d.settles(a, "failed")["why"])
    assert f.settles(a, "failed")["why"] == "UDP is blocked here"
    for one, peer in ((d, e), (d, a), (f, a)):
        assert one.direct(peer)["path"] == "node"
        assert one.reaches(peer)


@pytest.mark.slow
def test_switched_off_nothing_listens_and_nothing_is_told(world: World) -> None:
    k, m = (world.device(name, world.lab.site(Kind.PORT)) for name in ("k", "m"))
    k.configure(m, provides=True, direct="off")
    m.configure(k)
    start(k, m)
    assert not k.listens_on_udp()
    assert m.listens_on_udp()
    assert m.settles(k, "failed")["why"] == 'the peer has direct = "off"'
    assert k.direct(m) | {"why": ""} == {
        "state": "off", "kind": None, "local": None, "remote": None, "rtt_ms": None, "mtu": None, "why": "",
        "path": "node",
    }  # fmt: skip
    k.configure(m, provides=True)
    k.side.nconnect("reload")
    assert k.listens_on_udp()
    assert m.settles(k, "up")["path"] == DIRECT
    k.configure(m, provides=True, direct="off")
    k.side.nconnect("reload")
    assert not k.listens_on_udp()
    until(lambda: m.reaches(k) and m.direct(k)["path"] == "node", "the relay to carry again", timeout_s=10)


@pytest.mark.slow
def test_fail_closed_holds_where_packets_go_directly(world: World) -> None:
    """The path is found with it, and nothing for the peer leaves in the clear when the daemon is gone."""
    q, r = (world.device(name, world.lab.site(Kind.PORT)) for name in ("q", "r"))
    q.configure(r, provides=True)
    r.configure(q)
    text = r.side.config.read_text()
    r.side.config.write_text(text.replace("[interface]\n", "[interface]\nfail_closed = true\n", 1))
    start(q, r)
    assert r.settles(q, "up")["path"] == DIRECT
    with Tap(r.machine, "eth0") as outside, r.machine.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((q.ip, 9))
        sock.send(SECRET)  # in the tunnel
        assert r.side.daemon is not None
        r.side.daemon.kill()
        until(lambda: "nc0" not in r.machine.ip("link show"), "the device to go")
        refused = 0
        for _ in range(5):
            try:
                sock.send(SECRET)
            except OSError:
                refused += 1
    assert refused
    assert outside.data, "the datagrams of the path were seen"
    assert SECRET not in outside.data


@pytest.mark.slow
def test_a_configured_port_that_is_taken_is_one_line_and_a_reload_then_changes_nothing(world: World) -> None:
    n = world.device("n", world.lab.site(Kind.PORT))
    n.configure()
    text = n.side.config.read_text()
    with n.machine.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", 41641))
        n.side.config.write_text(text.replace('direct = "on"', "direct_port = 41641"))
        refused = n.side.try_nconnect("up")
        assert refused.returncode == 1
        (line,) = refused.stderr.splitlines()
        assert "cannot use UDP port 41641 for direct paths: address already in use" in line
        n.side.config.write_text(text)
        start(n)
        listening = n.machine.must("ss", "-Hlnup")
        n.side.config.write_text(text.replace('direct = "on"', "direct_port = 41641"))
        assert "in use" in n.side.try_nconnect("reload").stderr
        assert n.machine.must("ss", "-Hlnup") == listening
    n.side.nconnect("reload")
    assert set(re.findall(r":(\d+) ", n.machine.must("ss", "-Hlnup"))) == {"41641"}
