"""A provider's servers appear at the user's side by themselves, and go as they came.

user ── node ── provider (a server with an OpenAI-compatible list of models at 127.0.0.1:11434)
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_network
from typing import Any

import pytest

from lab.netns import cable, namespaces
from lab.process import Process, until
from lab.sides import Side
from lab.traffic import connect, pings
from netns_tests.friends import SERVER, Friends, friends

PORT = 11434
LOADED = 4  # a machine that runs other tests too
WITHIN_S = 1.0 * LOADED
DIED_S = 5.0  # measured: 0.3 to 2.3 s; a server is looked at every 2 s
NOBODY = 65534
WRONG = "10.86.0.9"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def one() -> Iterator[Friends]:
    with friends(1, "of") as made:
        (provider,) = made.providers
        made.join(provider)
        made.side.start()
        made.side.wait(provider.name)
        root = made.folder / "www"
        (root / "v1").mkdir(parents=True)
        (root / "v1/models").write_text('{"data": [{"id": "llama3.2:3b", "owned_by": "library"}]}')
        serving(made)
        yield made


def serving(made: Friends) -> Process:
    """The server on the provider's loopback."""
    folder = made.folder / "www"
    process = Process(
        made.providers[0].side.namespace,
        [sys.executable, "-m", "http.server", str(PORT), "--bind", "127.0.0.1", "--directory", str(folder)],
        made.folder / f"www{len(made.programs)}.log",
        env={"PYTHONUNBUFFERED": "1"},
    )
    made.programs.append(process)
    until(lambda: "Serving" in process.text(), "the server", process=process)
    return process


def offers(made: Friends) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(made.side.nconnect("offers", "--json"))["offers"]
    return found


def told(made: Friends) -> list[str]:
    return [server["name"] for server in made.peer("box-1")["offers"]["servers"]]


def test_a_server_comes_with_its_models_and_goes_at_once(one: Friends) -> None:
    provider = one.providers[0].side
    assert offers(one) == []
    provider.nconnect("provide", "server", "add", "ollama", f"http://127.0.0.1:{PORT}")
    began = time.monotonic()
    until(lambda: told(one) == ["ollama"], "the offer", timeout_s=10)
    assert time.monotonic() - began < WITHIN_S
    until(lambda: offers(one)[0]["models"], "its models", timeout_s=10)
    (offer,) = offers(one)
    assert (offer["provider"], offer["server"], offer["models"]) == ("box-1", "ollama", ["llama3.2:3b"])
    assert offer["allowed"] is True
    assert offer["url"].endswith(f":{PORT}")
    assert "llama3.2:3b  yes" in one.side.nconnect("offers")
    with connect(one.user, one.seen(one.providers[0], "10.86.0.1"), PORT) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.0\r\n\r\n")
        assert b"200 OK" in connection.recv(100)

    provider.nconnect("peer", "set", "laptop", "--allow", "10.86.0.1/32/icmp")
    until(lambda: told(one) == [], "an offer that is not allowed to go", timeout_s=10)
    provider.nconnect("peer", "set", "laptop", "--allow", f"10.86.0.1:{PORT}/tcp")
    until(lambda: told(one) == ["ollama"], "the offer", timeout_s=10)
    provider.nconnect("provide", "server", "remove", "ollama", "--yes")
    began = time.monotonic()
    until(lambda: told(one) == [], "the offer to go", timeout_s=10)
    assert time.monotonic() - began < WITHIN_S
    with pytest.raises(ConnectionRefusedError):
        connect(one.user, one.seen(one.providers[0], "10.86.0.1"), PORT)


def test_a_server_that_dies_is_withdrawn_and_comes_back_by_itself(one: Friends) -> None:
    provider, side = one.providers[0].side, one.side
    provider.nconnect("peer", "set", "laptop", "--allow", f"10.86.0.1:{PORT}/tcp,10.86.0.1/32/icmp")
    provider.nconnect("provide", "server", "add", "ollama", f"http://127.0.0.1:{PORT}")

    def resolves() -> bool:
        return "ollama.box-1.internal" in json.dumps(side.status()["names"])

    until(lambda: told(one) == ["ollama"], "the offer", timeout_s=10)
    until(resolves, "its name", timeout_s=10)
    one.programs[-1].stop()
    began = time.monotonic()
    until(lambda: told(one) == [], "the offer to go", timeout_s=20)
    until(lambda: not resolves(), "the name to go", timeout_s=10)
    took = time.monotonic() - began
    print(f"a server that died: withdrawn after {took:.2f} s")
    assert took < DIED_S
    serving(one)
    until(lambda: offers(one) and offers(one)[0]["models"], "the offer with its models", timeout_s=10)
    provider.nconnect("provide", "server", "remove", "ollama", "--yes")
    until(lambda: told(one) == [], "the offer to go", timeout_s=10)


def test_a_host_is_called_as_its_provider_names_it_and_has_the_address_that_is_seen(one: Friends) -> None:
    """The user's own network is the provider's too, so that one is mapped."""
    provider, side = one.providers[0].side, one.side
    provider.nconnect("peer", "set", "laptop", "--allow", "192.168.1.0/24")
    until(lambda: one.seen(one.providers[0], SERVER) != SERVER, "the subnet to be mapped", timeout_s=10)
    seen = one.seen(one.providers[0], SERVER)

    def named() -> Any:
        return side.status()["names"].get("nas.box-1.internal")

    provider.nconnect("provide", "host", "add", "nas", SERVER)
    began = time.monotonic()
    until(lambda: named() == [seen], "the name", timeout_s=10)
    assert time.monotonic() - began < WITHIN_S
    provider.nconnect("peer", "set", "laptop", "--allow", f"10.86.0.1:{PORT}/tcp")
    until(lambda: named() is None, "a name that is not allowed to go", timeout_s=10)
    provider.nconnect("peer", "set", "laptop", "--allow", "192.168.1.0/24")
    until(lambda: named() == [seen], "the name", timeout_s=10)
    provider.nconnect("provide", "host", "remove", "nas")
    began = time.monotonic()
    until(lambda: named() is None, "the name to go", timeout_s=10)
    assert time.monotonic() - began < WITHIN_S


def test_a_user_who_may_read_reads_offers_and_nothing_else(one: Friends) -> None:
    side = one.side
    text = side.config.read_text()

    def asked(uid: int) -> int:
        """The status with which the control socket answers this user about `/v1/offers`; 0: not let in."""
        return _as_user(side, uid, "GET /v1/offers")

    assert asked(NOBODY) == 0
    side.config.write_text(f'{text}\n[control]\nreaders = ["nobody"]\n')
    side.nconnect("reload")
    until(lambda: asked(NOBODY) == 200, "the reader to be let in", timeout_s=10)
    assert _as_user(side, NOBODY, "GET /v1/status") == 403
    assert _as_user(side, NOBODY, "POST /v1/down") == 403
    assert asked(1) == 403, "another user"
    side.config.write_text(text)
    side.nconnect("reload")
    until(lambda: asked(NOBODY) == 0, "the reader to be shut out", timeout_s=10)


def test_a_wrong_address_of_the_user_is_told_on_both_sides(one: Friends) -> None:
    """The file's address is not the one that the provider gave."""
    side, provider = one.side, one.providers[0].side
    right = side.config.read_text()
    assert "10.86.0.2" in right
    assert not any("10.86.0." in problem for problem in problems(side) + problems(provider))
    side.stop()
    side.config.write_text(right.replace("10.86.0.2", WRONG))
    side.start()
    side.wait("box-1")
    assert not pings(one.user, one.seen(one.providers[0], "10.86.0.1"), "-I", WRONG, "-W", "1")
    refused = f"laptop sends packets from {WRONG}, which are refused: they must come from 10.86.0.2/32"
    told = f"box-1 refuses packets from {WRONG}: they must come from 10.86.0.2/32"
    until(lambda: any(text.startswith(refused) for text in problems(provider)), "the provider", timeout_s=10)
    until(lambda: any(text.startswith(told) for text in problems(side)), "the user's side", timeout_s=10)
    assert told in side.nconnect("status")
    assert told in side.try_nconnect("doctor").stdout
    found = json.loads(provider.try_nconnect("doctor", "--json").stdout)["findings"]
    (finding,) = [each for each in found if WRONG in each["text"]]
    assert finding["level"] == "warning"
    assert "nconnect peer set laptop --allowed-ips" in finding["mend"]
    side.stop()
    side.config.write_text(right)
    side.start()
    side.wait("box-1")


def test_a_container_without_masquerade_is_refused_and_told(one: Friends) -> None:
    """With one provider this device leaves the sources of machines behind it as they are."""
    box, user = "172.17.0.2", one.user
    forwards = user.sysctl("net.ipv4.ip_forward")
    with ExitStack() as undo:
        (space,) = namespaces(undo, "ofbox", "box")
        cable(user, "docker0", ["172.17.0.1/16"], space, "eth0", [f"{box}/16"])
        undo.callback(user.sysctl, "net.ipv4.ip_forward", forwards)
        user.sysctl("net.ipv4.ip_forward", "1")
        space.ip("route add default via 172.17.0.1")
        provider = one.seen(one.providers[0], "10.86.0.1")

        def told(text: str) -> bool:
            return any("box-1 refuses packets from" in line and box in line for line in text.splitlines())

        def is_told() -> bool:
            assert not pings(space, provider, "-W", "1")
            return told("\n".join(problems(one.side)))

        until(is_told, "status to say it", timeout_s=40)
        assert told(one.side.try_nconnect("doctor").stdout)


def problems(side: Side) -> list[str]:
    found: list[str] = side.status()["problems"]
    return found


def _as_user(side: Any, uid: int, request: str) -> int:
    reads, writes = os.pipe()
    if not (pid := os.fork()):
        status = 0
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            status = _ask(str(side.folder / "run" / "nc0.sock"), request)
        except PermissionError:
            pass
        finally:
            os.write(writes, status.to_bytes(2))
            os._exit(0)
    os.close(writes)
    with os.fdopen(reads, "rb") as pipe:
        answer = int.from_bytes(pipe.read(2))
    os.waitpid(pid, 0)
    return answer


def _ask(path: str, request: str) -> int:
    import socket

    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(path)
        client.sendall(f"{request} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
        return int(client.recv(100).split()[1])


@pytest.mark.slow
def test_two_interfaces_of_one_device_with_the_same_provider_both_work(one: Friends) -> None:
    """Each has a key, addresses and names of its own; the second takes nothing of the first's."""
    (friend,) = one.providers
    friend.side.nconnect("peer", "set", "laptop", "--allow", "192.168.1.0/24:7000-7099/tcp,10.86.0.1/32/icmp")
    rules = "box-1 lets this device reach 192.168.1.0/24:7000-7099/tcp, 10.86.0.1/icmp"
    until(lambda: rules in one.side.nconnect("status"), "what may be reached", timeout_s=10)
    until(lambda: one.side.status()["names"], "names", timeout_s=10)
    before = one.side.status()["names"]
    second = Side("second", one.user, one.folder / "second", interface="nc1")
    second.env = dict(one.side.env)  # one machine: its files are beside the first one's
    try:
        second.nconnect("join", one.invite(friend, "tablet"))
        second.start()
        second.wait(friend.name)

        def seen_by_second() -> str:
            (peer,) = second.status()["peers"]
            return next((each["seen"] for each in peer["mapped"] if each["real"] == "192.168.1.0/24"), "")

        until(lambda: seen_by_second() != "", "the second mapping", timeout_s=10)
        first, other = one.seen(friend, SERVER), str(ip_network(seen_by_second())[10])
        assert first != other
        for address in (first, other):
            with connect(one.user, address, friend.port) as connection:
                connection.sendall(b"whoami\n")
                assert connection.recv(100)
        until(lambda: second.status()["names"], "its names", timeout_s=10)
        assert set(second.status()["names"]) == {"box-1-2.internal"}
        assert one.side.status()["names"] == before
        assert one.peer(friend.name)["state"] == "up"
    finally:
        print(second.logs())
        second.stop()
    with connect(one.user, one.seen(friend, SERVER), friend.port) as connection:
        connection.sendall(b"whoami\n")
        assert connection.recv(100)
