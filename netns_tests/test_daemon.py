"""What a running daemon shows of itself is true (cipher, counters, ping) and kept (memory bound, no secrets).

user 10.86.0.2 ── node ── provider 10.86.0.1 ── server
"""

from __future__ import annotations

import json
import stat
import sys
import tomllib
from pathlib import Path

import pytest

from lab.process import until
from lab.traffic import SERVICE, connect, download, expected_download, pings, serve
from lab.world import NODE_HOST, PROVIDER_PEER, SERVER, USER_PEER, World
from netns_tests.topology import Provided, start

MIB = 1 << 20


@pytest.mark.parametrize("cipher", ["aes256gcm", "chacha20poly1305"])
def test_a_chosen_cipher_is_used(fresh: World, cipher: str) -> None:
    serve(fresh.server, fresh, SERVICE)
    fresh.configure(cipher=cipher)
    fresh.node.start()
    fresh.up()
    assert fresh.user_side.peer()["cipher"] == cipher
    assert fresh.provider_side.peer()["cipher"] == cipher
    with connect(fresh.user, SERVER, SERVICE) as connection:
        assert download(connection, 8 * MIB) == expected_download(8 * MIB)


def test_memory_stays_below_80_mb(tunnel: Provided) -> None:
    """80 MB, even after 256 MB have passed."""
    world = tunnel.world
    with connect(world.user, SERVER, SERVICE) as connection:
        assert download(connection, 256 * MIB) == expected_download(256 * MIB)
    for side in (world.user_side, world.provider_side):
        assert side.daemon is not None
        assert side.daemon.rss_bytes() < 80_000_000


def test_status_counts_what_passed(tunnel: Provided) -> None:
    world = tunnel.world
    before = world.user_side.peer()
    with connect(world.user, SERVER, SERVICE) as connection:
        download(connection, MIB)
    after = world.user_side.peer()
    assert after["rx_bytes"] - before["rx_bytes"] >= MIB
    assert after["tx_packets"] > before["tx_packets"]
    assert after["state"] == "up"
    assert after["path"] == "node"
    status = world.user_side.status()
    assert [link["state"] for link in status["links"]] == ["up"]
    assert world.provider_side.peer()["name"] == USER_PEER


def test_ping_measures_the_peers_daemon(tunnel: Provided) -> None:
    assert tunnel.world.user_side.try_nconnect("ping", PROVIDER_PEER).returncode == 0
    assert tunnel.world.user_side.try_nconnect("ping", "nobody").returncode in (1, 2)


# Listens on a port of the node's machine and forwards everything to the node, DELAY seconds later each way.
FAR = """
import asyncio, sys
host, port, delay = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
async def pump(reader, writer):
    while data := await reader.read(1 << 16):
        asyncio.get_running_loop().call_later(delay, writer.write, data)
    writer.close()
async def passed(reader, writer):
    far = await asyncio.open_connection(host, 30002)
    await asyncio.gather(pump(reader, far[1]), pump(far[0], writer))
async def main():
    async with await asyncio.start_server(passed, host, port) as server:
        print("listening", flush=True)
        await server.serve_forever()
asyncio.run(main())
"""


def test_ping_says_where_the_time_goes(fresh: World) -> None:
    """The round trip from the user to its node takes 20 ms, the provider's 60 ms."""
    fresh.configure()
    fresh.node.start()
    for machine, port, delay_s in ((fresh.user, 40020, 0.01), (fresh.provider, 40060, 0.03)):
        command = [sys.executable, "-c", FAR, NODE_HOST, str(port), str(delay_s)]
        relay = fresh.run_in(fresh.internet, command, f"far-{port}")
        until(lambda relay=relay: "listening" in relay.text(), "the relay", process=relay)
        machine.nft(f"""
            add table ip far
            add chain ip far out {{ type nat hook output priority -100; }}
            add rule ip far out ip daddr {NODE_HOST} tcp dport 30002 dnat to {NODE_HOST}:{port}
        """)
    fresh.up()
    ping = ("ping", PROVIDER_PEER, "--count", "3", "--interval", "0.7", "--json")
    answer = json.loads(fresh.user_side.nconnect(*ping))
    first, *_, last = answer["replies"]  # by the last one each side knows its own trip
    assert last["node_ms"] >= 20
    assert min(first["node_ms"], last["node_ms"]) < 60, "its own way, not the provider's"
    assert last["peer_node_ms"] >= 60
    assert last["rtt_ms"] >= 80
    rest_ms = last["rtt_ms"] - last["node_ms"] - last["peer_node_ms"]
    assert last["rest_ms"] == pytest.approx(max(0, rest_ms), abs=0.01)
    assert "gpu-box to its node and back" in fresh.user_side.nconnect("ping", PROVIDER_PEER, "-n", "1")


def test_no_secret_is_in_a_log(tunnel: Provided) -> None:
    world = tunnel.world
    for side in (world.user_side, world.provider_side):
        assert side.daemon is not None
        seed = tomllib.loads(side.config.read_text())["interface"]["seed"]
        assert seed not in side.daemon.text()
        assert seed not in side.nconnect("status")
        assert seed not in Path(f"/proc/{side.daemon.pid}/cmdline").read_text()


def test_files_are_closed_to_others(tunnel: Provided) -> None:
    for side in (tunnel.world.user_side, tunnel.world.provider_side):
        assert stat.S_IMODE(side.config.stat().st_mode) == 0o600
        assert stat.S_IMODE((side.folder / "run" / "nc0.sock").stat().st_mode) == 0o600
        state = side.folder / "state" / "nc0"
        for path in (state, *state.rglob("*")):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_connection_goes_on_after_down_and_up(fresh: World) -> None:
    start(fresh)
    with connect(fresh.user, SERVER, SERVICE, timeout_s=30) as connection:
        connection.sendall(b"echo\n1")
        assert connection.recv(1) == b"1"
        fresh.user_side.down()
        fresh.user_side.start()
        fresh.user_side.wait(PROVIDER_PEER)
        assert pings(fresh.user, SERVER)
        connection.sendall(b"2")
        assert connection.recv(1) == b"2"
