"""Messages that wait to be received: bounds, order, and who is woken."""

from __future__ import annotations

import asyncio

from nconnect.model import NknAddress
from nconnect.nkn.exchange import Incoming
from nconnect.sdk.inbox import Inbox


def message(data: str | bytes = b"x") -> Incoming:
    return Incoming(NknAddress("alice", bytes(32)), data, b"12345678", True, False)


def test_messages_come_out_in_their_order() -> None:
    inbox = Inbox(10, 1000)
    assert inbox.take() is None
    first, second = message("one"), message(b"second")
    inbox.put(first)
    inbox.put(second)
    assert (len(inbox), inbox.held_bytes) == (2, 9)
    assert inbox.take() is first
    assert inbox.take() is second
    assert inbox.take() is None
    assert (len(inbox), inbox.held_bytes) == (0, 0)


def test_it_has_room_until_one_of_its_bounds_is_reached() -> None:
    for inbox, fits in ((Inbox(3, 1000), 3), (Inbox(100, 25), 3)):
        for _ in range(fits):
            assert inbox.has_room
            inbox.put(message(b"ten bytes!"))
        assert not inbox.has_room
        inbox.take()
        assert inbox.has_room


def test_who_waits_is_woken_by_a_message_and_by_the_end() -> None:
    async def main() -> None:
        inbox = Inbox(10, 1000)
        for wake in (lambda: inbox.put(message()), inbox.wake):
            waiters = [asyncio.ensure_future(inbox.wait()) for _ in range(2)]
            await asyncio.sleep(0)
            assert not any(waiter.done() for waiter in waiters)
            wake()
            await asyncio.gather(*waiters)
            inbox.take()
        await inbox.wait()  # after the end nobody waits

    asyncio.run(main())
