"""All name servers are asked at once; the first that knows an address wins, and no other answer counts."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Sequence
from ipaddress import IPv6Network
from pathlib import Path

import dns.message
import pytest

from lab.name_server import NameServer, parse_names
from nconnect.io.net import name_servers
from tests.loops import run_on_both

NAME = "node.example"
LIVING = "127.0.0.9"


@pytest.fixture(autouse=True)
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A port that is free on all of loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("", 0))
        found: int = probe.getsockname()[1]
    monkeypatch.setattr(name_servers, "PORT", found)
    return found


@contextlib.asynccontextmanager
async def serving(host: str, server: NameServer) -> AsyncIterator[NameServer]:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: server, local_addr=(host, name_servers.PORT)
    )
    try:
        yield server
    finally:
        transport.close()
        await asyncio.sleep(0)


def knows(*texts: str) -> NameServer:
    return NameServer(parse_names(texts))


def write(path: Path, servers: Sequence[str]) -> None:
    path.write_text("".join(f"nameserver {server}\n" for server in servers))


def test_which_servers_resolv_conf_names(resolv_conf: Path) -> None:
    assert name_servers.servers() == []
    resolv_conf.write_text(
        "# nameserver 127.0.0.1\nsearch example\nnameserver 127.0.0.2\nnameserver   ::1 # ours\nnameserver\n"
        "nameserver fe80::1%lo\nnameserver 127.0.0.2\nnameserver some.name\noptions edns0\n\xff\n",
        encoding="latin-1",
    )
    assert name_servers.servers() == ["127.0.0.2", "::1", "fe80::1%lo"]
    write(resolv_conf, [f"127.0.1.{n}" for n in range(100)])
    assert len(name_servers.servers()) == name_servers.MAX_SERVERS


def test_both_families_in_one_answer(resolv_conf: Path) -> None:
    write(resolv_conf, [LIVING])

    async def test() -> None:
        async with serving(LIVING, knows(f"{NAME}=192.0.2.7", f"{NAME}=2001:db8::7")):
            found = await name_servers.ask(NAME)
        assert [info[4] for info in found] == [("2001:db8::7", 0, 0, 0), ("192.0.2.7", 0)]
        assert {info[1] for info in found} == {socket.SOCK_STREAM}

    run_on_both(test)


def test_three_dead_servers_and_one_that_refuses_cost_nothing(resolv_conf: Path) -> None:
    """Each dead one has a port that takes the questions; nobody listens at 127.0.0.8."""
    dead = ["127.0.0.5", "127.0.0.6", "127.0.0.7"]
    write(resolv_conf, ["127.0.0.8", *dead, LIVING])

    async def test() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for host in dead:
                await stack.enter_async_context(serving(host, NameServer({}, silent=True)))
            await stack.enter_async_context(serving(LIVING, knows(f"{NAME}=192.0.2.7")))
            began = time.monotonic()
            assert [info[4] for info in await name_servers.ask(NAME)] == [("192.0.2.7", 0)]
            assert time.monotonic() - began < 0.5

    run_on_both(test)


def test_a_server_that_comes_to_life_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, resolv_conf: Path
) -> None:
    """Also one that is written into resolv.conf meanwhile."""
    monkeypatch.setattr(name_servers, "PAUSES_S", (0.05,))

    async def test() -> None:
        write(resolv_conf, [LIVING])
        silent = knows(f"{NAME}=192.0.2.7")
        silent.silent = True
        async with serving(LIVING, silent), serving("127.0.0.5", knows(f"{NAME}=192.0.2.8")):
            asking = asyncio.create_task(name_servers.ask(NAME))
            while silent.asked < 6:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            silent.silent = False
            assert [info[4][0] for info in await asking] == ["192.0.2.7"]
            silent.silent = True
            asking = asyncio.create_task(name_servers.ask(NAME))
            await asyncio.sleep(0.01)
            write(resolv_conf, [LIVING, "127.0.0.5"])
            assert [info[4][0] for info in await asking] == ["192.0.2.8"]

    run_on_both(test)


class Odd(NameServer):
    """Answers in its own way."""

    def __init__(self, how: str) -> None:
        super().__init__(parse_names([f"{NAME}=203.0.113.66"]))
        self.how = how

    def answer(self, data: bytes) -> bytes:
        answer = super().answer(data)
        match self.how:
            case "another id":
                return bytes([answer[0] ^ 1]) + answer[1:]
            case "another name":
                return super().answer(
                    dns.message.make_query("ipv4only.arpa", "A", id=answer[0] << 8).to_wire()
                )
            case "garbage":
                return answer[2:20]
            case "query":
                return data
            case "refused":
                return answer[:3] + b"\x85" + answer[4:]
            case "truncated":
                return answer[:2] + bytes([answer[2] | 2]) + answer[3:]
            case "loop":
                message = dns.message.from_wire(answer)
                message.answer = [dns.rrset.from_text(f"{NAME}.", 1, "IN", "CNAME", f"{NAME}.")]
                return message.to_wire()
        return b""


@pytest.mark.parametrize(
    "how", ["another id", "another name", "garbage", "query", "refused", "loop", "empty"]
)
def test_what_is_no_answer_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, resolv_conf: Path, how: str
) -> None:
    monkeypatch.setattr(name_servers, "PAUSES_S", (0.05,))
    write(resolv_conf, ["127.0.0.5", LIVING])

    async def test() -> None:
        odd = Odd(how)
        good = knows(f"{NAME}=192.0.2.7")
        good.silent = True
        async with serving("127.0.0.5", odd), serving(LIVING, good):
            asking = asyncio.create_task(name_servers.ask(NAME))
            while odd.asked < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert not asking.done()
            good.silent = False
            assert [info[4][0] for info in await asking] == ["192.0.2.7"]

    run_on_both(test)


def test_a_truncated_answer_is_used_as_far_as_it_goes(resolv_conf: Path) -> None:
    write(resolv_conf, [LIVING])

    async def test() -> None:
        async with serving(LIVING, Odd("truncated")):
            assert [info[4][0] for info in await name_servers.ask(NAME)] == ["203.0.113.66"]

    run_on_both(test)


def test_a_name_that_no_server_knows_ends_at_once(resolv_conf: Path) -> None:
    write(resolv_conf, ["127.0.0.5", LIVING])

    async def test() -> None:
        async with serving("127.0.0.5", knows()), serving(LIVING, knows("other.example=192.0.2.7")):
            assert await name_servers.ask(NAME) == []

    run_on_both(test)


@pytest.mark.parametrize(
    "name", ["localhost", "printer.local", "printer.local.", "a..b", "x" * 70 + ".example", "."]
)
def test_names_that_are_not_for_dns_are_not_asked_for(resolv_conf: Path, name: str) -> None:
    write(resolv_conf, [LIVING])

    async def test() -> None:
        async with serving(LIVING, knows()) as server:
            assert await name_servers.ask(name) == []
            assert not server.asked

    run_on_both(test)


def test_without_a_server_that_can_be_asked_it_ends_at_once(resolv_conf: Path) -> None:
    async def test() -> None:
        assert await name_servers.ask(NAME) == []
        write(resolv_conf, ["127.0.0.8", "255.255.255.255"])
        assert await name_servers.ask(NAME) == []

    run_on_both(test)


def test_dns64(resolv_conf: Path) -> None:
    write(resolv_conf, [LIVING])

    async def test() -> None:
        async with serving(LIVING, NameServer({}, dns64=IPv6Network("2001:db8:64::/96"))):
            found = {info[4][0] for info in await name_servers.ask("ipv4only.arpa")}
        assert found == {
            *("2001:db8:64::c000:aa", "2001:db8:64::c000:ab"),
            *("192.0.0.170", "192.0.0.171"),
        }

    run_on_both(test)
