"""Names are looked up in threads; addresses need none; a failure reaches the caller."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from nconnect.io.resolve import stream_addresses


def test_an_address_is_its_own_answer() -> None:
    threads = threading.active_count()
    (found,) = asyncio.run(stream_addresses("127.0.0.1", 80))
    assert found[4] == ("127.0.0.1", 80)
    assert asyncio.run(stream_addresses("::1", 80))[0][4][:2] == ("::1", 80)
    assert threading.active_count() == threads


def test_a_name_is_looked_up() -> None:
    found = asyncio.run(stream_addresses("localhost", 80))
    assert ("127.0.0.1", 80) in [info[4] for info in found]


@pytest.mark.parametrize("name", ["a..b", "x" * 300, "no-such-host.invalid"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(socket.gaierror):
        asyncio.run(stream_addresses(name, 80))


def test_nobody_waits_for_a_lookup_that_was_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def never(*_: object, **__: object) -> list[object]:
        release.wait(30)
        return []

    monkeypatch.setattr("nconnect.io.resolve._look_up", never)

    async def give_up() -> None:
        async with asyncio.timeout(0.01):
            await stream_addresses("some-name", 80)

    with pytest.raises(TimeoutError):
        asyncio.run(give_up())  # and the loop closes at once
    release.set()
