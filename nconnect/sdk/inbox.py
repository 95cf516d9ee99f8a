"""Messages that arrived and wait to be received: bounded in number and bytes."""

from __future__ import annotations

import asyncio
from collections import deque

from nconnect.nkn.exchange import Incoming

INBOX_MESSAGES = 1024
INBOX_BYTES = 32 << 20  # guessed: eight of the largest messages


class Inbox:
    """A queue that says whether it has room; it drops nothing itself.

    It has room until one of its bounds is reached, so the last message may exceed `max_bytes`.
    """

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self.held_bytes = 0
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._messages: deque[Incoming] = deque()
        self._awake = asyncio.Event()  # set while there is a message, and from `wake` on

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def has_room(self) -> bool:
        return len(self._messages) < self._max_messages and self.held_bytes < self._max_bytes

    def put(self, message: Incoming) -> None:
        self._messages.append(message)
        self.held_bytes += len(message.data)
        self._awake.set()

    def take(self) -> Incoming | None:
        """The oldest message; None when there is none."""
        if not self._messages:
            return None
        message = self._messages.popleft()
        self.held_bytes -= len(message.data)
        if not self._messages:
            self._awake.clear()
        return message

    async def wait(self) -> None:
        """Wait until there is a message (another task may take it first), or `wake` was called."""
        await self._awake.wait()

    def wake(self) -> None:
        """End every `wait`, now and later."""
        self._awake.set()
