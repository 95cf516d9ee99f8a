"""Three real nodes as one, over a real NATS server on loopback, with clients on each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from nconnect.control.node import NodeStatus
from nconnect.control.node_client import running_nodes
from nconnect.crypto.keys import Identity
from nconnect.errors import HostError, UsageError
from nconnect.io.http.http_client import request
from nconnect.io.nkn.cluster import check_url, load_nats, read_key
from nconnect.node.fragment import cut
from nconnect.wire.nkn import OutboundMessage
from tests.io.nkn.test_node_server import Client
from tests.loops import until
from tests.nkn.sdk import Sdk, SdkError, needs_sdk, seen

SERVER = shutil.which("nats-server") or (
    "/usr/sbin/nats-server" if Path("/usr/sbin/nats-server").exists() else None
)
nats_only = pytest.mark.skipif(SERVER is None, reason="needs nats-server (scripts/setup --dev)")
PROGRAM = "import sys; from nconnect.cli.app import main; sys.exit(main(sys.argv[1:]))"


class Nats:
    """A NATS server that can go away and come back on its port."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"nats://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert SERVER is not None
        self.process = subprocess.Popen(
            [SERVER, "-a", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Node:
    """`nconnect node --cluster` as a process."""

    def __init__(self, url: str, *options: str) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable, "-c", PROGRAM, "node", "--listen", "127.0.0.1", "--ws-port", "0",
                "--rpc-port", "0", "--rate-limit", "0", "--cluster", url, *options,
            ],
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert self.process.stderr is not None
        found = None
        for line in self.process.stderr:
            if found := re.search(r"websocket port (\d+), RPC port (\d+)", line):
                break
        assert found
        self.ws_port, self.rpc_port = int(found[1]), int(found[2])
        self.addr = f"127.0.0.1:{self.ws_port}"

    def end(self, number: int = signal.SIGKILL) -> str:
        """Send a signal, unless it has ended; what it said."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.communicate(timeout=10)[1]

    @property
    def status(self) -> NodeStatus:
        (found,) = [n for n in running_nodes() if n.pid == self.process.pid]
        return found

    async def named_for(self, address: str) -> str:
        ask = {"id": 1, "jsonrpc": "2.0", "method": "getwsaddr", "params": {"address": address}}
        url = f"http://127.0.0.1:{self.rpc_port}/"
        answer = await request("POST", url, body=json.dumps(ask).encode(), timeout_s=5)
        addr: str = json.loads(answer.body)["result"]["addr"]
        return addr

    @contextlib.asynccontextmanager
    async def client(self, name: str) -> AsyncIterator[Client]:
        url = f"ws://{self.addr}"
        async with connect(url, compression=None, max_size=5 << 20, proxy=None) as websocket:
            yield await Client(websocket, Identity(name.encode().ljust(32, b"_")), name).log_in()


@pytest.fixture
def nats() -> Iterator[Nats]:
    server = Nats()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def three(nats: Nats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Node]]:
    monkeypatch.setenv("NCONNECT_RUN_DIR", str(tmp_path))
    nodes: list[Node] = []
    try:
        for _ in range(3):
            nodes.append(Node(nats.url))
        asyncio.run(until(lambda: all(knows(node, 3) for node in nodes)))
        yield nodes
    finally:
        for node in nodes:
            node.end()


def knows(node: Node, count: int) -> bool:
    cluster = node.status.cluster
    return cluster is not None and len(cluster["nodes"]) == count


async def exchange(one: Client, other: Client, size: int = 100) -> None:
    for sender, receiver in ((one, other), (other, one)):
        payload = os.urandom(size)
        await sender.send(receiver.address, payload)
        async with asyncio.timeout(10):
            message = await receiver.receive()
        assert (message.src, bytes(message.payload)) == (sender.address, payload)


async def reachable(one: Client, other: Client, within_s: float = 10.0) -> None:
    """Send until something arrives: presence takes a moment to be known."""
    async with asyncio.timeout(within_s):
        got = asyncio.ensure_future(other.receive())
        while not got.done():
            await one.send(other.address, b"are you there")
            await asyncio.wait([got], timeout=0.1)
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(0.3):
                    await other.receive()


@nats_only
def test_clients_on_each_node_reach_each_other(three: list[Node]) -> None:
    async def run() -> None:
        a, b, c = three
        async with a.client("alice") as alice, b.client("bob") as bob, c.client("carol") as carol:
            for one, other in ((alice, bob), (bob, carol), (carol, alice)):
                await reachable(one, other)
                await reachable(other, one)
                for size in (0, 1, 100_000, 4_000_000):
                    await exchange(one, other, size)
            for number in range(500):
                await alice.send(bob.address, b"%d" % number)
            async with asyncio.timeout(10):
                got = [int(bytes((await bob.receive()).payload)) for _ in range(500)]
            assert got == list(range(500)), "the order of a pair is kept"
            await alice.send("nobody." + "ab" * 32, b"x")
            await exchange(alice, bob)
            assert a.status.drops["unknown_dest"] >= 1
            cluster = b.status.cluster
            assert cluster is not None
            assert cluster["received"] >= 500
            assert cluster["dropped"] == 0

    asyncio.run(run())


@nats_only
def test_addresses_spread_and_all_nodes_agree(three: list[Node]) -> None:
    async def run() -> None:
        named = set()
        for number in range(64):  # of which a third each; that one node has none never happens
            address = f"__{number}__.gpu." + "ab" * 32
            answers = {await node.named_for(address) for node in three}
            assert len(answers) == 1
            named |= answers
        assert named == {node.addr for node in three}

    asyncio.run(run())


@nats_only
def test_a_killed_node_is_out_within_five_seconds(three: list[Node]) -> None:
    async def run() -> None:
        a, b, c = three
        async with c.client("carol"):
            c.end(signal.SIGKILL)
            began = time.monotonic()
            await until(lambda: knows(a, 2) and knows(b, 2))
            assert time.monotonic() - began < 5.0
        for number in range(12):
            address = f"{number}.gpu." + "ab" * 32
            assert await a.named_for(address) in {a.addr, b.addr}
        async with a.client("alice") as alice, b.client("bob") as bob:
            await reachable(alice, bob)

    asyncio.run(run())


@nats_only
def test_a_node_that_ends_says_goodbye(three: list[Node]) -> None:
    async def run() -> None:
        a, b, c = three
        said = c.end(signal.SIGTERM)
        assert c.process.returncode == 0
        assert "Traceback" not in said
        took = await until(lambda: knows(a, 2) and knows(b, 2))
        assert took < 1.0

    asyncio.run(run())


@nats_only
def test_held_mail_follows_its_client(three: list[Node]) -> None:
    async def run() -> None:
        a, b, _ = three
        async with a.client("alice") as alice:
            bob = "bob." + Identity(b"bob".ljust(32, b"_")).public_key.hex()
            for number in range(20):
                held = OutboundMessage((bob,), (b"%d" % number,), max_holding_seconds=60)
                await alice.websocket.send(held.encode())
            await until(lambda: a.status.held_messages == 20)
            async with b.client("bob") as late:
                async with asyncio.timeout(10):
                    got = [await late.receive() for _ in range(20)]
                assert [int(bytes(message.payload)) for message in got] == list(range(20))
                assert {message.src for message in got} == {alice.address}
            assert a.status.held_messages == 0

    asyncio.run(run())


@nats_only
def test_nats_gone_and_back(three: list[Node], nats: Nats) -> None:
    async def run() -> None:
        a, b, _ = three
        async with a.client("alice") as alice, b.client("bob") as bob, a.client("ann") as ann:
            await reachable(alice, bob)
            nats.stop()
            await until(lambda: knows(a, 1) and knows(b, 1))
            for _ in range(10):
                await exchange(alice, ann)
            await alice.send(bob.address, b"lost, and counted")
            await exchange(alice, ann)
            assert a.status.drops["unknown_dest"] >= 1
            assert await a.named_for(alice.address) == a.addr
            nats.start()
            await until(lambda: all(knows(node, 3) for node in three))
            await reachable(alice, bob)
            await exchange(bob, alice)

    asyncio.run(run())


@nats_only
def test_a_node_starts_without_nats_and_joins_later(
    nats: Nats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCONNECT_RUN_DIR", str(tmp_path))
    nats.stop()

    async def run() -> None:
        nodes = [Node(nats.url), Node(nats.url)]
        try:
            async with nodes[0].client("alice") as alice, nodes[0].client("ann") as ann:
                await exchange(alice, ann)
                nats.start()
                await until(lambda: all(knows(node, 2) for node in nodes))
                async with nodes[1].client("bob") as bob:
                    await reachable(bob, alice)
        finally:
            for node in nodes:
                assert "Traceback" not in node.end(signal.SIGTERM)

    asyncio.run(run())


@nats_only
@needs_sdk
def test_the_official_sdks_clients_on_each_node_and_after_one_is_killed(three: list[Node]) -> None:
    async def run() -> None:
        a, b, c = three
        async with Sdk.running(f"http://127.0.0.1:{a.rpc_port}") as sdk:
            clients: dict[str, tuple[str, str]] = {}  # by node: name and address
            number = 0
            while len(clients) < 3:
                name, number = f"client{number}", number + 1
                address = await sdk.open(name)
                node = await a.named_for(address)
                if node in clients:
                    await sdk.ask("close", name=name)
                else:
                    clients[node] = name, address
            assert [node.status.clients for node in three] == [1, 1, 1]

            async def all_to_all() -> None:
                for name, _ in clients.values():
                    for other, address in clients.values():
                        said = {"text": f"{other} got hello"}
                        assert await sdk.send(name, address, "hello", responseTimeout=500) == said

            async def again(exchange: Callable[[], Awaitable[None]]) -> None:
                while True:  # who has just logged in is not known everywhere yet
                    with contextlib.suppress(SdkError):
                        return await exchange()

            async with asyncio.timeout(10):
                await again(all_to_all)
            for name, _ in clients.values():
                everybody = [address for _, address in clients.values()]
                await sdk.send(name, everybody, 1 << 20, noReply=True)
            for name, _ in clients.values():
                received = [one for one in await sdk.got(name) if one.get("bytes") == 1 << 20]
                while len(received) < 3:
                    received += [one for one in await sdk.got(name) if one.get("bytes") == 1 << 20]
                assert {one["digest"] for one in received} == {seen(1 << 20)["digest"]}
                assert {one["src"] for one in received} == {address for _, address in clients.values()}
            c.end(signal.SIGKILL)
            began = time.monotonic()
            _, orphan = clients[c.addr]
            while await a.named_for(orphan) == c.addr:
                assert time.monotonic() - began < 5.0
                await asyncio.sleep(0.05)
            async with asyncio.timeout(15):  # its client finds its new node by itself
                await again(all_to_all)
            assert a.status.clients + b.status.clients == 3

    asyncio.run(run())


@nats_only
def test_who_is_on_the_nats_server_without_the_key_is_nobody(
    nats: Nats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forged members, logins and messages, a goodbye in a node's name, old messages again, and a flood."""
    monkeypatch.setenv("NCONNECT_RUN_DIR", str(tmp_path))
    key = tmp_path / "key"
    key.touch(0o600)
    key.write_text("5" * 64)
    nodes = [Node(nats.url, "--cluster-key", str(key)) for _ in range(2)]

    async def scenario() -> None:
        await until(lambda: all(knows(node, 2) for node in nodes))
        keys = [node.status.public_key for node in nodes]
        async with nodes[0].client("alice") as alice, nodes[1].client("bob") as bob:
            attacker = await load_nats().connect(nats.url)
            recorded: list[tuple[str, bytes]] = []

            async def record(message: Any) -> None:
                recorded.append((message.subject, message.data))

            await attacker.subscribe("nconnect.>", cb=record)
            await attacker.flush()
            await alice.send(bob.address, b"secret")
            assert bytes((await bob.receive()).payload) == b"secret"
            ghost = Identity(b"ghost".ljust(32, b"_")).public_key.hex()
            info = {"addr": "203.0.113.66:30002", "rpcAddr": "203.0.113.66:30003", "pubkey": ghost}
            info["id"] = "ab" * 32
            alive = {"t": "alive", "node": ghost, "run": "66" * 8, "seq": 0, "ws": info, "wss": None}
            on = {"t": "on", "node": ghost, "run": "66" * 8, "seq": 1, "address": bob.address}
            forged = [json.dumps(m).encode() for m in (alive, on, {"t": "bye", "node": keys[1]})]
            await until(lambda: len(recorded) > 1)
            to_bob = f"nconnect.to.{keys[1]}.{'0' * 64}"
            (part,) = cut(b"r" * 8, 1, alice.address, bob.address, b"forged", 0)
            before = nodes[1].status.cluster["dropped"]  # type: ignore[index]
            for message in forged:
                await attacker.publish("nconnect.nodes", message)
            for subject, data in list(recorded):
                await attacker.publish(subject, data)
            for _ in range(500):
                await attacker.publish(to_bob, part)
                await attacker.publish("nconnect.nodes", bytes(2000))
            await attacker.publish("nconnect.nodes", bytes(1 << 19))
            await attacker.flush()
            wanted = before + len(forged) + 1000
            await until(lambda: nodes[1].status.cluster["dropped"] >= wanted)  # type: ignore[index]
            for node in nodes:
                assert node.status.cluster["nodes"] == sorted(keys)  # type: ignore[index]
            await alice.send(bob.address, b"genuine")
            assert bytes((await bob.receive()).payload) == b"genuine", "nothing forged, nothing twice"
            await attacker.close()

    try:
        asyncio.run(scenario())
    finally:
        said = [node.end() for node in nodes]
    assert "not made with the cluster's key" in said[1]


@pytest.mark.parametrize("url", ["nats://10.0.0.5:4222", "tls://nats.example"])
def test_a_server_that_others_reach_needs_a_key_or_a_password(url: str) -> None:
    with pytest.raises(UsageError, match="--cluster-key"):
        check_url(url)
    check_url(url, has_key=True)
    check_url(url.replace("://", "://node:secret@"))
    check_url("nats://127.0.0.1:4222")


def test_a_key_is_secret_and_long_enough(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch(0o600)
    key.write_text("5" * 64 + "\n")
    assert read_key(key) == b"5" * 64
    key.write_text("short")
    with pytest.raises(UsageError, match="openssl rand"):
        read_key(key)
    key.write_text("5" * 64)
    key.chmod(0o644)
    with pytest.raises(HostError, match="chmod 600"):
        read_key(key)
    with pytest.raises(HostError, match="no such file"):
        read_key(tmp_path / "none")


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:4222", "http://h:1", "nats://", "nats://h:99999", "nats://h:0"]
)
def test_what_is_no_nats_url_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="nats://HOST:4222") as caught:
        check_url(url)
    assert "\n" not in str(caught.value)
