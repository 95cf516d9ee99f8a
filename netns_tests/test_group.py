"""Five users and five providers, whose own networks are all the same, live together by real commands.

printer 192.168.1.10 ── alice, bob, … ── node ── gpu-box, attic, … ── server 192.168.1.10
"""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from lab.group import HOST, MODEL_PORT, PORT, PROVIDERS, USERS, Group, Member, group
from lab.netns import Namespace, cable, namespaces
from lab.process import until
from lab.traffic import connect, download, shape, whoami
from netns_tests.model import chats_as, needs_model

MIB = 1 << 20
LOADED = 4  # a machine that runs other tests too
JOINED_S, CHANGED_S, REFUSED_S = 3.0, 1.0, 0.5
PATIENCE_S = 60.0
CONNECTIONS = {"alice": 20, "erin": 4}
LINE_MBIT, RATE_MBIT = 6, 0.6  # little, so that no processor is the bottleneck
SETTLE_S, MEASURED_S = 3.0, 10.0
WHY = "back at 22:00"
CHROMIUM = shutil.which("chromium")

pytestmark = [pytest.mark.slow, needs_model, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def made() -> Iterator[Group]:
    """All five have joined all five, and are up; the sixth provider has been joined by nobody."""
    with group(6, 5, "gr") as found:
        found.serve_model(found.providers[0])
        for provider in found.providers:
            if provider.number > 1:
                found.serve_list(provider, f"model-of-{provider.name}")
            found.init(provider)
        for provider in found.providers:
            provider.side.wait(timeout_s=PATIENCE_S)
        tokens = {provider.name: found.invite(provider, *USERS) for provider in found.providers[:5]}
        for user in found.users:
            for number, provider in enumerate(found.providers[:5]):
                token = tokens[provider.name][user.name]
                new = ("--identifier", user.name) if number == 0 else ()
                user.side.nconnect("join", token, *new)
                if number == 0:
                    user.side.start()
                    user.side.wait(provider.name, timeout_s=PATIENCE_S)
        for user in found.users:
            for provider in found.providers[:5]:
                user.side.wait(provider.name, timeout_s=PATIENCE_S)
            until(
                lambda user=user: all(name(p) in user.hosts() for p in found.providers[:5]),
                "names",
                timeout_s=PATIENCE_S,
            )
        yield found


def name(provider: Member) -> str:
    return f"ollama.{provider.name}.internal"


def url(provider: Member) -> str:
    return f"http://{name(provider)}:{MODEL_PORT}/v1/models"


def models(answer: Any) -> list[str]:
    return [each["id"] for each in answer["data"]]


def took(condition: Callable[[], object], what: str, began: float) -> float:
    until(condition, what, timeout_s=20)
    return time.monotonic() - began


def test_everybody_reaches_everything_by_name_and_the_own_network_stays(made: Group) -> None:
    for user in made.users:
        offers = user.offers()
        assert sorted(offers) == sorted(f"ollama.{p.name}" for p in made.providers[:5])
        for provider in made.providers[:5]:
            offer = offers[f"ollama.{provider.name}"]
            assert (offer["url"], offer["allowed"]) == (f"http://{name(provider)}:{MODEL_PORT}", True)
            assert models(user.get(url(provider))) == offer["models"]
            seen = user.seen(provider, HOST)
            assert seen != HOST
            # Which listens on a port that no other provider's server has.
            assert whoami(user.space, seen, provider.port) == "192.168.1.1"
        assert whoami(user.space, HOST, PORT) == "192.168.1.7", "its own printer"
    first = made.providers[0].side
    assert [peer["name"] for peer in first.status()["peers"]] == list(USERS)


def test_a_chat_by_name_has_the_text_that_the_model_gives(made: Group) -> None:
    gpu_box = made.providers[0]
    for user in made.users[:2]:
        chats_as(gpu_box.space, "127.0.0.1", user.space, name(gpu_box), MODEL_PORT)


def test_a_paused_friend_is_refused_and_nobody_else(made: Group) -> None:
    gpu_box, (alice, bob, *_) = made.providers[0], made.users
    began = time.monotonic()
    gpu_box.side.nconnect("peer", "pause", "bob", "--why", WHY)
    command_s = time.monotonic() - began
    try:
        times = [refused(bob.space, bob.seen(gpu_box, HOST), gpu_box.port) for _ in range(5)]
        print(
            f"pause: the command {command_s:.2f} s, refusals {' '.join(f'{t * 1e3:.1f}' for t in times)} ms"
        )
        assert min(times) < REFUSED_S
        assert max(times) < REFUSED_S * LOADED
        assert whoami(alice.space, alice.seen(gpu_box, HOST), gpu_box.port) == "192.168.1.1"
        until(lambda: bob.peer(gpu_box.name)["paused"] == {"why": WHY, "by": "peer"}, "the reason")
        assert WHY in bob.side.nconnect("status")
        assert "not now" in bob.side.nconnect("offers")
        assert whoami(bob.space, bob.seen(made.providers[1], HOST), made.providers[1].port) == "192.168.1.1"
    finally:
        gpu_box.side.nconnect("peer", "resume", "bob")
    assert whoami(bob.space, bob.seen(gpu_box, HOST), gpu_box.port) == "192.168.1.1"


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_resolves_the_names(made: Group) -> None:
    assert CHROMIUM is not None
    page = made.users[1].space.must(
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *(f"--user-data-dir={made.folder / 'browser'}", "--dump-dom"),
        f"http://{name(made.providers[1])}:{MODEL_PORT}/",
        timeout_s=120,
    )
    assert "Directory listing" in page


@pytest.mark.parametrize("masquerades", [True, False])
def test_a_container_of_a_user_reaches_the_servers_by_name(made: Group, masquerades: bool) -> None:
    """As with Docker, which masquerades; without, packets leave with the address that the provider gave."""
    attic, carol = made.providers[1], made.users[2]
    with ExitStack() as undo:
        (box,) = namespaces(undo, "grbox", "box")
        cable(carol.space, "docker0", ["172.17.0.1/16"], box, "eth0", ["172.17.0.2/16"])
        box.ip("route add default via 172.17.0.1")
        box.etc("hosts", carol.hosts())  # as Podman gives it to a container, or --add-host of Docker
        forwards = carol.space.sysctl("net.ipv4.ip_forward")
        undo.callback(carol.space.sysctl, "net.ipv4.ip_forward", forwards)
        carol.space.sysctl("net.ipv4.ip_forward", "1")
        if masquerades:
            chain = "add table ip docker\nadd chain ip docker nat { type nat hook postrouting priority 100; }"
            carol.space.nft(f"{chain}\nadd rule ip docker nat oifname != docker0 masquerade")
            undo.callback(carol.space.nft, "delete table ip docker")
        assert models(json.loads(box.must("curl", "-sS", "-m", "10", url(attic)))) == ["model-of-attic"]


def refused(space: Namespace, host: str, port: int) -> float:
    """Seconds until a new connection was refused."""
    began = time.monotonic()
    with pytest.raises(OSError, match=r"refused|No route|prohibited|Permission") as caught:
        connect(space, host, port).close()
    assert not isinstance(caught.value, TimeoutError)
    return time.monotonic() - began


def test_a_server_comes_and_goes_at_all_users_within_a_second(made: Group) -> None:
    attic, users = made.providers[1], made.users
    new = f"docs.{attic.name}.internal"

    def known() -> list[bool]:
        return [
            new in user.hosts()
            and any(s["name"] == "docs" for s in user.peer(attic.name)["offers"]["servers"])
            for user in users
        ]

    def unknown() -> bool:
        return not any(
            new in user.hosts()
            or any(s["name"] == "docs" for s in user.peer(attic.name)["offers"]["servers"])
            for user in users
        )

    assert unknown()
    attic.side.nconnect("provide", "server", "add", "docs", f"http://{HOST}:{attic.port}")
    came_s = took(lambda: all(known()), "the new server", time.monotonic())
    assert f"docs.{attic.name}" in users[0].offers()
    attic.side.nconnect("provide", "server", "remove", "docs", "--yes")
    gone_s = took(unknown, "the server to go", time.monotonic())
    assert f"docs.{attic.name}" not in users[0].offers()
    print(f"five users: a new server after {came_s:.2f} s, a withdrawn one gone after {gone_s:.2f} s")
    assert came_s < CHANGED_S * LOADED
    assert gone_s < CHANGED_S * LOADED


def test_a_sixth_provider_is_joined_by_one_command_and_left_by_another(made: Group) -> None:
    sixth, alice = made.providers[5], made.users[0]
    (token,) = made.invite(sixth, "alice").values()
    before = alice.side.status()
    began = time.monotonic()
    alice.side.nconnect("join", token)
    joined_s = time.monotonic() - began
    reached_s = took(lambda: is_reached(alice, sixth), "the sixth's server", began)
    named_s = took(lambda: name(sixth) in alice.hosts(), "its name", began)
    print(f"a sixth provider: joined {joined_s:.2f} s, reached {reached_s:.2f} s, names {named_s:.2f} s")
    assert reached_s < JOINED_S * LOADED
    assert models(alice.get(url(sixth))) == [f"model-of-{sixth.name}"]
    alice.side.nconnect("leave", sixth.name, "--yes")
    until(lambda: sixth.name not in alice.hosts(), "its names to go")
    after = alice.side.status()
    for key in ("routes", "addresses", "names"):
        assert after[key] == before[key], key
    assert sixth.name not in alice.side.config.read_text()
    assert f"ollama.{sixth.name}" not in alice.offers()
    assert is_reached(alice, made.providers[0])


def is_reached(user: Member, provider: Member) -> bool:
    with suppress(OSError):
        return whoami(user.space, user.seen(provider, HOST), provider.port) == "192.168.1.1"
    return False


def test_what_was_used_is_what_the_interfaces_counted(made: Group) -> None:
    """On all ten machines, all that they did since the start."""
    gpu_box = made.providers[0]
    for user in made.users:
        with connect(user.space, user.seen(gpu_box, HOST), gpu_box.port) as connection:
            download(connection, 4 * MIB)
    for member in (*made.providers[:5], *made.users):
        counted = member.space.counters("nc0")
        used = usage(member)
        # What an interface receives, its daemon has written: it came from the peers.
        for way, told in zip(("rx_bytes", "tx_bytes"), (used[0], used[1]), strict=True):
            print(f"{member.name}: {way} interface {counted[way]}, usage {told}")
            assert told == pytest.approx(counted[way], rel=0.01, abs=4000), (member.name, way)


def usage(member: Member) -> tuple[int, int]:
    """Bytes from all peers, and to them."""
    peers = json.loads(member.side.nconnect("usage", "--json"))["peers"]
    return sum(peer["rx_bytes"] for peer in peers), sum(peer["tx_bytes"] for peer in peers)


@dataclass
class Busy:
    """Downloads (`source`) or uploads (`sink`) without an end, each on a thread of its own."""

    connections: list[socket.socket]
    way: str = "source"

    def __enter__(self) -> None:
        work = read_all if self.way == "source" else write_all
        self._threads = [threading.Thread(target=work, args=(each,)) for each in self.connections]
        for connection, thread in zip(self.connections, self._threads, strict=True):
            connection.sendall(f"{self.way} {1 << 40}\n".encode())
            thread.start()

    def __exit__(self, *_: object) -> None:
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)


def read_all(connection: socket.socket) -> None:
    with suppress(OSError):
        while connection.recv(1 << 18):
            pass


def write_all(connection: socket.socket) -> None:
    with suppress(OSError):
        while True:
            connection.sendall(bytes(1 << 16))


def flows(opened: ExitStack, user: Member, provider: Member, count: int) -> list[socket.socket]:
    """Connections to the machine behind the provider."""
    host = user.seen(provider, HOST)
    return [
        opened.enter_context(connect(user.space, host, provider.port, timeout_s=60)) for _ in range(count)
    ]


def sent(provider: Member) -> dict[str, int]:
    return {peer["name"]: peer["tx_bytes"] for peer in provider.side.status()["peers"]}


def test_five_who_want_all_of_a_line_get_the_same_and_a_rate_is_held(made: Group) -> None:
    """One of them has twenty connections. Then one of them has a rate, and the others share what is left.

    Erin has a few connections: one alone leaves some of a slow rate unused, when CoDel slows it down.
    """
    attic, users = made.providers[1], made.users
    shape(attic.space, "wan0", LINE_MBIT)
    with ExitStack() as opened:
        connections = [c for user in users for c in flows(opened, user, attic, CONNECTIONS.get(user.name, 1))]
        try:
            with Busy(connections):
                shares = measure(attic)
                attic.side.nconnect("peer", "set", "erin", "--rate", f"{RATE_MBIT * 1000:.0f}k")
                bounded = measure(attic)
        finally:
            attic.side.nconnect("peer", "set", "erin", "--rate", "none")
            attic.space.must("tc", "qdisc", "del", "dev", "wan0", "root")
    print("shares, Mbit/s:", shares, "erin with a rate:", bounded)
    even = sum(shares.values()) / len(users)
    assert even * len(users) > 0.6 * LINE_MBIT, "the line was not full"
    assert all(share == pytest.approx(even, rel=0.10) for share in shares.values())
    assert bounded["erin"] == pytest.approx(RATE_MBIT, rel=0.05)
    others = [share for user, share in bounded.items() if user != "erin"]
    assert all(share == pytest.approx(sum(others) / 4, rel=0.10) for share in others)


def measure(provider: Member) -> dict[str, float]:
    """What each user gets, in Mbit/s of inner packets."""
    time.sleep(SETTLE_S)
    before, began = sent(provider), time.monotonic()
    time.sleep(MEASURED_S)
    after, seconds = sent(provider), time.monotonic() - began
    return {peer: round((after[peer] - before[peer]) * 8 / seconds / 1e6, 3) for peer in after}


def test_a_kill_loses_less_than_a_second_of_usage(made: Group) -> None:
    """Of what came from a user, which the interface counts when the daemon writes it."""
    cellar, dave = made.providers[2], made.users[3]
    cellar.side.nconnect("peer", "set", "dave", "--rate", "4M")
    samples: list[tuple[float, int]] = []
    with ExitStack() as opened, Busy(flows(opened, dave, cellar, 2), "sink"):
        ends = time.monotonic() + 2 * SETTLE_S
        while time.monotonic() < ends:
            samples.append((time.monotonic(), cellar.space.counters("nc0")["rx_bytes"]))
            time.sleep(0.02)
        assert cellar.side.daemon is not None
        cellar.side.daemon.kill()
        killed = time.monotonic()
    cellar.side.start()
    cellar.side.wait()
    kept = usage(cellar)[0]
    lost_s = killed - max(at for at, counted in samples if counted <= kept)
    print(f"a kill lost {lost_s:.2f} s of usage")
    assert lost_s < 1.0 * LOADED
    cellar.side.nconnect("peer", "set", "dave", "--rate", "none")
    until(lambda: is_reached(dave, cellar), "the provider to be back", timeout_s=30)
    assert sorted(PROVIDERS[:5]) == sorted(peer["name"] for peer in dave.side.status()["peers"])
