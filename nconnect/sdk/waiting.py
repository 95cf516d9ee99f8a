"""A sent message that waits for its answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from nconnect.errors import NoReply
from nconnect.model import NknAddress
from nconnect.nkn.exchange import IncomingAnswer
from nconnect.nkn.message import Reply


class PendingReplies:
    """The destinations of one message, as they were given, and their answers so far."""

    def __init__(self, dests: Mapping[NknAddress, str]) -> None:
        self._dests = dests
        self._answers: dict[NknAddress, Reply] = {}
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(self, answer: IncomingAnswer) -> None:
        """Store an answer of one of the destinations; the last one ends the waiting."""
        self._answers[answer.dest] = Reply(self._dests[answer.dest], answer.data, answer.encrypted)
        if len(self._answers) == len(self._dests):
            self.end()

    def end(self) -> None:
        """Wait no longer, whatever has come."""
        if not self.done.done():
            self.done.set_result(None)

    @property
    def replies(self) -> dict[str, Reply]:
        """In the order of the destinations."""
        return {text: self._answers[dest] for dest, text in self._dests.items() if dest in self._answers}

    def no_reply(self, timeout_s: float) -> NoReply:
        """The error that names the destinations without an answer, with the replies that came."""
        missing = [text for dest, text in self._dests.items() if dest not in self._answers]
        rest = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        return NoReply(
            f"no answer from {missing[0]}{rest} within {timeout_s:g} s"
            " (is it running, and does it accept such messages?)",
            replies=self.replies,
            missing=missing,
        )
