"""What applications get: messages that arrived, and answers to messages that they sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from nconnect.errors import LocalProtocolError
from nconnect.model import Buffer
from nconnect.nkn.exchange import Incoming


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a message."""

    src: str
    """Who answered: the destination's address."""
    data: str | bytes | None
    """The reply; None if it was an ACK: the message arrived, and there is no reply."""
    encrypted: bool
    """Whether it was encrypted; it may be unencrypted only if the message was."""

    @property
    def is_ack(self) -> bool:
        """Whether it says only that the message arrived."""
        return self.data is None


class Message:
    """A message from another client. Answer it at most once, with `reply` or `ack`."""

    __slots__ = ("_answer", "_answered", "_incoming", "src")

    src: str
    """The sender's address; with a `MultiClient`, without the sub-client's prefix."""

    def __init__(
        self, incoming: Incoming, src: str, answer: Callable[[Incoming, str | Buffer | None], Awaitable[None]]
    ) -> None:
        """Clients make them. `answer` sends a reply, or an ACK for None."""
        self.src = src
        self._incoming = incoming
        self._answer = answer
        self._answered = False

    @property
    def data(self) -> str | bytes:
        """The content: `str` if it was sent as text, `bytes` if as binary."""
        return self._incoming.data

    @property
    def id(self) -> bytes:
        """The sender's id of the message, 8 bytes in the official SDKs."""
        return self._incoming.id

    @property
    def encrypted(self) -> bool:
        """Whether the sender encrypted it for us; otherwise anybody on the way could read or change it."""
        return self._incoming.encrypted

    @property
    def wants_answer(self) -> bool:
        """Whether the sender waits for an answer and has not got one yet."""
        return not self._answered and not self._incoming.no_reply and bool(self._incoming.id)

    async def reply(self, data: str | Buffer) -> bool:
        """Answer with `data`, encrypted if the message was; False if the sender wants no answer.

        Raises `NotConnected` if no link comes up within 5 s, `TooBig`, and `LocalProtocolError` if the
        message was answered already.
        """
        return await self._answer_once(data)

    async def ack(self) -> bool:
        """Tell the sender that the message arrived; False if it did not ask. Raises as `reply` does."""
        return await self._answer_once(None)

    def __repr__(self) -> str:
        kind = "characters" if isinstance(self.data, str) else "bytes"
        return f"<Message from {self.src}: {len(self.data)} {kind}>"

    async def _answer_once(self, data: str | Buffer | None) -> bool:
        if self._answered:
            raise LocalProtocolError("this message was answered already")
        wanted = self.wants_answer
        self._answered = True
        if wanted:
            await self._answer(self._incoming, data)
        return wanted
