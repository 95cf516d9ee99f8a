"""Everything works over NKN's own node, nknd, which is what most users connect to.

user ── nknd ── provider ── server 192.168.50.10 (7000 the lab's servers, 8000 a model)
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest

from lab.official import missing
from lab.ping import round_trips
from lab.process import until
from lab.servers import pattern
from lab.sides import Side
from lab.traffic import (
    SERVICE,
    connect,
    download,
    expected_download,
    pings,
    quic_download,
    serve,
    serve_model,
    tcp_echo,
    udp_echo,
    udp_volume,
    upload,
)
from lab.world import (
    LAN,
    LAN6,
    NODE_HOST,
    PROVIDER_PEER,
    PROVIDER_TUNNEL,
    PROVIDER_TUNNEL6,
    SEED_RPC,
    SERVER,
    SERVER6,
    USER_PEER,
    World,
    world,
)
from netns_tests.model import chats_as, needs_model

MODEL_PORT = 8000
RECOVERED_S = 10.0  # seen: under 1
DOWNLOAD_BYTES = 128 << 20
# Multicast, which a host sends on a new interface, and what a full queue drops.
DROPPED_BY_THE_SENDER = {"no_route", "queue_delay", "queue_full"}
NODE = f"{NODE_HOST}:30002"

pytestmark = pytest.mark.skipif(
    bool(missing("nknd", "nknc")), reason="the official node is not built: scripts/setup --dev"
)


@pytest.fixture(scope="module")
def official() -> Iterator[World]:
    """Both sides, made by `init`, `invite` and `join`, with nknd as the only seed."""
    with world("ncoff", official=True) as made:
        serve(made.server, made, SERVICE)
        made.node.start()
        made.provider_side.nconnect(
            *("init", "--identifier", PROVIDER_PEER),
            *("--address", f"{PROVIDER_TUNNEL}/24,{PROVIDER_TUNNEL6}/64"),
            *("--provide", f"{LAN},{LAN6}", "--seed-rpc", SEED_RPC),
        )
        made.provider_side.start()
        made.provider_side.wait()
        token = json.loads(made.provider_side.nconnect("invite", USER_PEER, "--json"))["token"]
        made.user_side.nconnect("join", token, "--identifier", USER_PEER)
        made.user_side.start()
        made.user_side.wait(PROVIDER_PEER)
        yield made


def doctor(side: Side) -> dict[str, dict[str, str]]:
    """The findings of the doctor that are not good, by check."""
    hosts = ("--host", f"{SERVER},{SERVER6}") if side.name == "provider" else ()
    found = json.loads(side.try_nconnect("doctor", "--json", *hosts).stdout)["findings"]
    return {finding["check"]: finding for finding in found if finding["level"] != "ok"}


def drops(world: World) -> dict[str, int]:
    """What both daemons dropped, by reason."""
    found: dict[str, int] = {}
    for side in (world.user_side, world.provider_side):
        status = side.status()
        for place in (status, *status["peers"]):
            for reason, count in place.get("drops", {}).items():
                found[reason] = found.get(reason, 0) + count
    return found


def test_ping_tcp_and_udp_pass_over_both_families(official: World) -> None:
    assert round_trips(official.user, SERVER, count=20, interval_s=0.01).lost == 0
    assert pings(official.user, SERVER6)
    data = pattern(3_000_000)
    for host in (SERVER, SERVER6):
        assert tcp_echo(official.user, host, SERVICE, data) == data
        assert udp_echo(official.user, host, SERVICE, data[:1300]) == data[:1300]
    with connect(official.user, SERVER, SERVICE) as connection:
        assert download(connection, 64 << 20) == expected_download(64 << 20)
    with connect(official.user, SERVER6, SERVICE) as connection:
        assert upload(connection, 64 << 20) == expected_download(64 << 20)
    udp_volume(official.user, SERVER, 4 << 20)


@needs_model
def test_a_chat_streams(official: World) -> None:
    model = serve_model(official.server, official, SERVER, MODEL_PORT)
    try:
        chats_as(official.provider, SERVER, official.user, SERVER, MODEL_PORT)
    finally:
        model.stop()


def test_status_and_doctor_report_a_good_tunnel(official: World) -> None:
    assert pings(official.user, SERVER)
    for side, peer in ((official.user_side, PROVIDER_PEER), (official.provider_side, USER_PEER)):
        status = side.status()
        assert [(link["node"], link["state"]) for link in status["links"]] == [(NODE, "up")]
        (found,) = status["peers"]
        assert (found["name"], found["state"]) == (peer, "up")
        assert doctor(side) == {}
    assert not set(drops(official)) - DROPPED_BY_THE_SENDER, "nothing that the node brings is refused"


def test_a_download_survives_the_nodes_restart(official: World) -> None:
    assert official.node.process is not None
    digests: list[str] = []
    with connect(official.user, SERVER, SERVICE, timeout_s=60) as connection:
        loading = threading.Thread(target=lambda: digests.append(download(connection, DOWNLOAD_BYTES)))
        before = official.user.counters("nc0")["rx_bytes"]
        loading.start()
        until(
            lambda: official.user.counters("nc0")["rx_bytes"] > before + DOWNLOAD_BYTES // 16, "the download"
        )
        official.node.process.kill()
        try:
            until(lambda: official.user_side.status()["links"][0]["state"] != "up", "the link to be down")
            assert not digests, "it must be in the middle of the download"
            found = doctor(official.user_side)
            assert "node" in found, found
            assert NODE_HOST in found["node"]["text"]
        finally:
            official.node.start()
        official.user_side.wait(PROVIDER_PEER, timeout_s=RECOVERED_S)
        loading.join(60)
    assert digests == [expected_download(DOWNLOAD_BYTES)]
    assert official.user_side.status()["links"][0]["reconnects"] >= 1
    until(lambda: not doctor(official.user_side), "doctor to find nothing wrong")


def test_with_four_links_at_one_node_one_of_them_serves(official: World) -> None:
    sides = (official.provider_side, official.user_side)
    before = [side.config.read_text() for side in sides]

    def restart() -> None:
        for side in sides:
            side.down()
            side.start()
        official.user_side.wait(PROVIDER_PEER)

    for side, text in zip(sides, before, strict=True):
        side.config.write_text(text.replace("[network]\n", "[network]\nlinks = 4\n", 1))
    try:
        restart()
        for side in sides:
            # There is only one node: link 0 also serves in place of the others.
            until(
                lambda side=side: (
                    [(link["node"], link["state"], link["shared_with"]) for link in side.status()["links"]]
                    == [(NODE, "up", None), *[(NODE, "up", 0)] * 3]
                ),
                "four links as one",
            )
        with connect(official.user, SERVER, SERVICE) as connection:
            assert download(connection, 32 << 20) == expected_download(32 << 20)
        with connect(official.user, SERVER6, SERVICE) as connection:
            assert upload(connection, 32 << 20) == expected_download(32 << 20)
        assert doctor(official.user_side) == {}
    finally:
        for side, text in zip(sides, before, strict=True):
            side.config.write_text(text)
        restart()


@pytest.mark.slow
def test_a_quic_download_is_right(official: World) -> None:
    pytest.importorskip("aioquic", reason="needs aioquic (scripts/setup --dev)")
    quic_download(official, 32_000_000)
