"""With two links at two nodes, a chat and a download complete although one of the nodes is killed.

    user ──── internet ──── (40 Mbit/s) provider ──── server
              node A 192.0.2.1
              node B 192.0.2.2
              NATS   127.0.0.1

Link 0 of the user and link 1 of the provider are at node A, the other two at node B.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from lab.cluster import know_one_another, links_up, nats_server, place, use_links
from lab.netns import Namespace
from lab.process import Process, until
from lab.sides import nconnect_command
from lab.traffic import SERVICE, connect, download, expected_download, serve, shape
from lab.world import NODE_HOST, SERVER, WAN_INTERFACE, World, world

NATS = nats_server()
HOSTS = (NODE_HOST, "192.0.2.2")
DOWNLOAD_BYTES = 16_000_000

pytestmark = pytest.mark.skipif(NATS is None, reason="needs nats-server (scripts/setup --dev)")


@dataclass
class TwoNodes:
    world: World
    nodes: dict[str, Process]


@pytest.fixture
def two() -> Iterator[TwoNodes]:
    with world("nclinks") as made:
        assert NATS is not None
        made.internet.ip(f"address add {HOSTS[1]}/32 dev lo")
        made.run_in(made.internet, [NATS, "-a", "127.0.0.1", "-p", "4222"], "nats")
        nodes = {}
        for number, host in enumerate(HOSTS):
            command = [*nconnect_command(), "node", "--listen", host, "--advertise", host]
            command += ["--cluster", "nats://127.0.0.1:4222", "--rate-limit", "0"]
            nodes[host] = made.run_in(made.internet, command, f"node-{number}")
        two = TwoNodes(made, nodes)
        until(
            lambda: know_one_another(made.internet, HOSTS),
            "the nodes",
            timeout_s=20,
            process=nodes[HOSTS[0]],
        )
        made.configure(services=[f"{SERVICE}/tcp"])
        sides = (made.user_side, made.provider_side)
        for side, other, wanted in ((*sides, HOSTS), (*sides[::-1], HOSTS[::-1])):
            place(made.internet, NODE_HOST, side, other, 2, lambda named, wanted=wanted: named == wanted)
            use_links(side, 2, HOSTS)
        serve(made.server, made, SERVICE)
        made.up()
        yield two


class Chat(threading.Thread):
    """Sends one line every 50 ms, and waits for its echo."""

    def __init__(self, namespace: Namespace) -> None:
        super().__init__(daemon=True)
        self.connection = connect(namespace, SERVER, SERVICE)
        self.connection.settimeout(30)
        self.lines = 0
        self.longest_s = 0.0
        self.failure: BaseException | None = None
        self.ended = threading.Event()

    def run(self) -> None:
        try:
            self.connection.sendall(b"echo\n")
            while not self.ended.is_set():
                line = b"%08d\n" % self.lines
                at = time.monotonic()
                self.connection.sendall(line)
                got = b""
                while len(got) < len(line):
                    data = self.connection.recv(100)
                    assert data, "the chat was closed"
                    got += data
                assert got == line
                self.longest_s = max(self.longest_s, time.monotonic() - at)
                self.lines += 1
                time.sleep(0.05)
        except BaseException as error:
            self.failure = error
        finally:
            self.connection.close()


def test_a_chat_and_a_download_survive_the_death_of_a_node(two: TwoNodes) -> None:
    made = two.world
    user, provider = made.user_side, made.provider_side
    until(lambda: set(links_up(user)) == set(links_up(provider)) == set(HOSTS), "two links on each side")
    before = user.peer()["last_handshake_at"]
    chat = Chat(made.user)
    chat.start()
    until(lambda: chat.lines > 5, "the chat")
    digest: list[str] = []
    with connect(made.user, SERVER, SERVICE) as connection:
        connection.settimeout(30)
        worker = threading.Thread(target=lambda: digest.append(download(connection, DOWNLOAD_BYTES)))
        shape(made.provider, WAN_INTERFACE, 40)
        worker.start()
        time.sleep(0.8)
        two.nodes[HOSTS[0]].kill()
        worker.join(60)
    lines = chat.lines
    until(lambda: chat.lines > lines + 5 or chat.failure, "the chat to go on")
    chat.ended.set()
    chat.join(10)
    assert chat.failure is None
    assert digest == [expected_download(DOWNLOAD_BYTES)]
    assert chat.longest_s < 5
    assert user.peer()["last_handshake_at"] == pytest.approx(before, abs=0.1), "without a new handshake"
    until(lambda: links_up(user)[:1] == [HOSTS[1]], "the user's link 0 at node B", timeout_s=20)
    text = user.nconnect("status")
    assert "SHARE" in text
