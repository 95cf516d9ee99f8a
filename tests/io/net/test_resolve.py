"""Names are looked up in few threads, joined and kept; a failure reaches the caller; cancelling is safe."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nconnect.errors import NetworkError
from nconnect.io.net import name_servers, resolve, websocket_client
from nconnect.io.net.resolve import stream_addresses
from nconnect.io.nkn import rpc
from tests.loops import run_on_both, until

NAME = "node.example"


def info(address: str) -> name_servers.AddressInfo:
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, 0)


class System:
    """Stands for the system's resolver. `release`: until it is set, nothing is answered."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: list[name_servers.AddressInfo] | OSError = [info("192.0.2.7")]
        self.release = threading.Event()
        self.release.set()

    def look_up(self, host: str) -> list[name_servers.AddressInfo]:
        self.asked.append(host)
        self.release.wait(30)
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    made = System()
    monkeypatch.setattr(resolve, "_look_up", made.look_up)
    yield made
    made.release.set()
    deadline = time.monotonic() + 10
    while _look_up_threads():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _look_up_threads() -> int:
    return sum(thread.name == "look up names" for thread in threading.enumerate())


async def no_thread_left() -> None:
    """Until none is under way that a later look-up could join."""
    await until(lambda: not _look_up_threads())


def test_an_address_is_its_own_answer() -> None:
    threads = threading.active_count()
    (found,) = asyncio.run(stream_addresses("127.0.0.1", 80))
    assert found[4] == ("127.0.0.1", 80)
    assert asyncio.run(stream_addresses("::1", 80))[0][4] == ("::1", 80, 0, 0)
    assert threading.active_count() <= threads, "no thread of its own; one of an earlier test may have ended"


def test_a_name_is_looked_up() -> None:
    found = asyncio.run(stream_addresses("localhost", 80))
    assert ("127.0.0.1", 80) in [info[4] for info in found]


@pytest.mark.parametrize("name", ["a..b", "x" * 300, "no-such-host.invalid"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(socket.gaierror):
        asyncio.run(stream_addresses(name, 80))


def test_nobody_waits_for_a_lookup_that_was_given_up(system: System) -> None:
    system.release.clear()

    async def give_up() -> None:
        async with asyncio.timeout(0.01):
            await stream_addresses(NAME, 80)

    with pytest.raises(TimeoutError):
        asyncio.run(give_up())  # and the loop closes at once


def test_that_no_name_server_answers_is_said(monkeypatch: pytest.MonkeyPatch, system: System) -> None:
    """Also by those who connect, whose own time-out would blame the other end."""
    monkeypatch.setattr(resolve, "_ANSWER_S", 0.05)
    monkeypatch.setattr(resolve, "SLOW_S", 0.01)
    words = "no name server answered"

    async def test() -> None:
        system.release.clear()
        with pytest.raises(socket.gaierror, match=words):
            await stream_addresses(NAME, 80)
        assert not resolve.is_asking(NAME)
        with pytest.raises(NetworkError, match=f"^no seed named a node: {words}"):
            await rpc.resolve([f"http://{NAME}:1"], "a." + "ab" * 32, timeout_s=5)
        with pytest.raises(NetworkError, match=f"^no seed named a node: {words}"):
            await rpc.resolve([f"http://{NAME}:1"], "a." + "ab" * 32, timeout_s=0.03)
        with pytest.raises(NetworkError, match=f"ws://{NAME}:1: {words}"):
            await websocket_client.connect(f"ws://{NAME}:1", timeout_s=5)
        system.release.set()
        await no_thread_left()

    run_on_both(test)


def test_many_ask_and_one_look_up_is_made(system: System) -> None:
    """Cancelling one, or the one that asked first, does not take it from the others."""

    async def test() -> None:
        system.asked.clear()
        system.release.clear()
        tasks = [asyncio.create_task(stream_addresses(NAME, port)) for port in range(80, 90)]
        await asyncio.sleep(0.01)
        assert resolve.is_asking(NAME)
        for task in tasks[:3]:
            task.cancel()
        await asyncio.sleep(0.01)
        system.release.set()
        found = await asyncio.gather(*tasks[3:])
        await no_thread_left()
        assert [addresses[0][4] for addresses in found] == [("192.0.2.7", port) for port in range(83, 90)]
        assert system.asked == [NAME]
        assert not resolve.is_asking(NAME)

    run_on_both(test)


def test_a_look_up_that_all_gave_up_is_joined_by_the_next(system: System) -> None:
    async def test() -> None:
        system.asked.clear()
        system.release.clear()
        for _ in range(5):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await stream_addresses(NAME, 80)
            assert not resolve.is_asking(NAME)
        system.release.set()
        assert (await stream_addresses(NAME, 80))[0][4] == ("192.0.2.7", 80)
        assert len(system.asked) <= 2  # the second if the first had ended meanwhile
        await no_thread_left()

    run_on_both(test)


def test_answers_are_kept_for_a_while(system: System) -> None:
    async def test() -> None:
        system.asked.clear()
        for _ in range(3):
            await stream_addresses(NAME, 80)
        assert len(system.asked) == 1
        await stream_addresses(NAME, 80, keep_s=0)
        assert len(system.asked) == 2
        resolve.forget()
        await stream_addresses(NAME, 80)
        assert len(system.asked) == 3

    run_on_both(test)


def test_that_a_name_does_not_exist_is_kept_and_that_nobody_answered_is_not(
    monkeypatch: pytest.MonkeyPatch, system: System
) -> None:
    async def test() -> None:
        for number, asked in ((socket.EAI_NONAME, 1), (socket.EAI_NODATA, 1), (socket.EAI_AGAIN, 3)):
            system.asked.clear()
            system.answer = socket.gaierror(number, "Some words")
            resolve.forget()
            for _ in range(3):
                with pytest.raises(socket.gaierror, match="Some words") as caught:
                    await stream_addresses(NAME, 80)
                assert caught.value.errno == number
            assert len(system.asked) == asked
        system.answer = [info("192.0.2.7")]
        assert await stream_addresses(NAME, 80)

    run_on_both(test)


def test_a_new_resolv_conf_voids_what_is_kept_and_what_is_under_way(
    system: System, resolv_conf: Path
) -> None:
    write = resolv_conf.write_text

    async def test() -> None:
        write("# one\n")
        await stream_addresses(NAME, 80)
        system.answer = [info("192.0.2.8")]
        write("# another\n")
        assert (await stream_addresses(NAME, 80))[0][4] == ("192.0.2.8", 80)
        system.release.clear()
        resolve.forget()
        system.asked.clear()
        first = asyncio.create_task(stream_addresses(NAME, 80))
        await asyncio.sleep(0.02)
        resolve.forget()
        second = asyncio.create_task(stream_addresses(NAME, 80))
        await asyncio.sleep(0.02)
        assert system.asked == [NAME, NAME]
        system.release.set()
        await asyncio.gather(first, second)
        await no_thread_left()

    run_on_both(test)


def test_name_servers_are_asked_when_the_system_is_slow(
    monkeypatch: pytest.MonkeyPatch, system: System
) -> None:
    asked: list[str] = []

    async def ask(host: str) -> list[name_servers.AddressInfo]:
        asked.append(host)
        return [info("192.0.2.9")]

    monkeypatch.setattr(name_servers, "ask", ask)

    async def test() -> None:
        await stream_addresses(NAME, 80)
        assert not asked
        resolve.forget()
        system.release.clear()
        began = time.monotonic()
        assert (await stream_addresses(NAME, 80))[0][4] == ("192.0.2.9", 80)
        assert resolve.SLOW_S <= time.monotonic() - began < resolve.SLOW_S + 0.5
        system.release.set()
        system.answer = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        resolve.forget()
        assert (await stream_addresses(NAME, 80))[0][4] == ("192.0.2.9", 80)
        system.answer = [info("192.0.2.7")]
        asked.clear()
        await no_thread_left()

    run_on_both(test)


def test_a_slow_system_is_right_where_name_servers_know_nothing(
    monkeypatch: pytest.MonkeyPatch, system: System
) -> None:
    """A name in the hosts file, or one that is found by a search domain."""
    monkeypatch.setattr(resolve, "SLOW_S", 0.01)

    async def test() -> None:
        for failure in (None, socket.gaierror(socket.EAI_NONAME, "Name or service not known")):
            resolve.forget()
            system.answer = failure or [info("192.0.2.7")]
            system.release.clear()
            asking = asyncio.create_task(stream_addresses(NAME, 80))
            await asyncio.sleep(0.1)
            assert not asking.done()
            system.release.set()
            if failure:
                with pytest.raises(socket.gaierror, match="not known"):
                    await asking
            else:
                assert (await asking)[0][4] == ("192.0.2.7", 80)

    run_on_both(test)


def test_threads_stay_few_while_name_servers_are_silent(
    monkeypatch: pytest.MonkeyPatch, system: System
) -> None:
    """40 seeds by name, asked again and again for seconds by several links, as fast as they can."""
    monkeypatch.setattr(rpc, "STAGGER_S", 0.001)
    monkeypatch.setattr(rpc, "_ASK_AGAIN_S", 0.01)
    seeds = [f"http://seed-{number}.example:30003" for number in range(40)]
    most = 0

    async def retry() -> None:
        """Until all threads are at work, and a few times more."""
        nonlocal most
        more = 3
        while more:
            more -= most >= resolve.MAX_THREADS
            with pytest.raises(NetworkError, match="no seed named a node"):
                await rpc.resolve(seeds, "a." + "ab" * 32, timeout_s=0.1)
            most = max(most, _look_up_threads())

    async def test() -> None:
        nonlocal most
        most = 0
        system.asked.clear()
        system.release.clear()
        tasks = [asyncio.create_task(retry()) for _ in range(4)]
        while not all(task.done() for task in tasks):
            assert len(asyncio.all_tasks()) < 4 * len(seeds) + 2 * len(seeds) + 20
            await asyncio.sleep(0.02)
        for task in tasks:
            await task
        assert most == resolve.MAX_THREADS
        assert len(system.asked) == resolve.MAX_THREADS
        system.release.set()
        await no_thread_left()

    run_on_both(test)


def test_a_silent_seed_is_not_asked_again_while_its_name_is_looked_up(
    monkeypatch: pytest.MonkeyPatch, system: System
) -> None:
    monkeypatch.setattr(rpc, "_ASK_AGAIN_S", 0.01)
    questions = 0
    real = rpc.ask_node

    async def counted(*arguments: object, **options: object) -> object:
        nonlocal questions
        questions += 1
        return await real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(rpc, "ask_node", counted)

    async def test() -> None:
        nonlocal questions
        questions = 0
        system.release.clear()
        with pytest.raises(NetworkError):
            await rpc.resolve([f"http://{NAME}:1"], "a." + "ab" * 32, timeout_s=0.3)
        assert questions == 1
        system.release.set()
        await no_thread_left()

    run_on_both(test)


def test_without_a_thread_the_name_servers_are_asked(monkeypatch: pytest.MonkeyPatch, system: System) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def ask(host: str) -> list[name_servers.AddressInfo]:
        return [info("192.0.2.9")] if host == NAME else []

    monkeypatch.setattr(name_servers, "ask", ask)

    async def test() -> None:
        await no_thread_left()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            assert (await stream_addresses(NAME, 80))[0][4] == ("192.0.2.9", 80)
            with pytest.raises(OSError, match="can't start new thread"):
                await stream_addresses("other.example", 80)
        assert await stream_addresses("other.example", 80)

    run_on_both(test)


def test_it_is_no_failure_of_the_name_that_a_file_is_missing() -> None:
    assert resolve._is_temporary(OSError(errno.EMFILE, "Too many open files"))
    assert not resolve._is_temporary(None)
