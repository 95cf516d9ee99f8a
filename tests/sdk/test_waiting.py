"""A message that waits for answers ends with the last of them, or when it is cancelled."""

from __future__ import annotations

import asyncio

from nconnect.model import NknAddress
from nconnect.nkn.exchange import IncomingAnswer
from nconnect.nkn.message import Reply
from nconnect.sdk.waiting import PendingReplies

ALICE, BOB = NknAddress("alice", bytes(32)), NknAddress("bob", bytes(32))


def answer(dest: NknAddress, data: str | None) -> IncomingAnswer:
    return IncomingAnswer(dest.sub_client(1), b"12345678", dest, data, True)


def test_the_last_answer_ends_it() -> None:
    async def main() -> None:
        waiting = PendingReplies({ALICE: "a", BOB: "b"})
        waiting.take(answer(BOB, "hello"))
        assert not waiting.done.done()
        assert waiting.replies == {"b": Reply("b", "hello", True)}
        waiting.take(answer(ALICE, None))
        await waiting.done
        assert list(waiting.replies) == ["a", "b"], "in the order of the destinations"
        assert waiting.replies["a"] == Reply("a", None, True)

    asyncio.run(main())


def test_it_can_be_ended_twice_and_says_who_is_missing() -> None:
    async def main() -> None:
        waiting = PendingReplies({ALICE: "a", BOB: "b"})
        error = waiting.no_reply(5.0)
        assert str(error).startswith("no answer from a and 1 more within 5 s (is it running")
        assert (error.replies, list(error.missing)) == ({}, ["a", "b"])
        waiting.take(answer(ALICE, "hello"))
        error = waiting.no_reply(0.5)
        assert str(error).startswith("no answer from b within 0.5 s (")
        assert (list(error.replies), list(error.missing)) == (["a"], ["b"])
        waiting.end()
        waiting.end()
        await waiting.done

    asyncio.run(main())
