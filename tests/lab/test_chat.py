from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab.chat import stream_chat
from lab.netns import LabError

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
TOKENS = b'data: {"choices": [{"delta": {"role": "assistant"}}]}\n\n' + b"".join(
    b'data: {"choices": [{"delta": {"content": "%s"}}]}\n\n' % word for word in (b"one", b" two", b" three")
)


@contextmanager
def server(answer: bytes) -> Iterator[int]:
    """Answers one connection, on loopback, and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                while b"Rhine" not in connection.recv(1 << 16):
                    pass
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)


def test_tokens_are_passed_on_and_counted() -> None:
    pieces: list[str] = []
    with server(HEAD + TOKENS + b"data: [DONE]\n\n") as port:
        chat = stream_chat("127.0.0.1", port, "The Rhine?", max_tokens=9, on_token=pieces.append)
    assert pieces == ["one", " two", " three"]
    assert chat.text == "one two three"
    assert chat.tokens == 3
    assert chat.ttft_ms > 0
    assert chat.max_gap_ms >= 0


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + TOKENS,  # cut off
        HEAD + b"data: [DONE]\n\n",  # says nothing
        b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy",
    ],
)
def test_what_is_no_completion_is_refused(answer: bytes) -> None:
    with server(answer) as port, pytest.raises(LabError):
        stream_chat("127.0.0.1", port, "The Rhine?", max_tokens=9, on_token=lambda _: None)
