"""A language model behind the tunnel, and the check that a chat with it streams unchanged."""

from __future__ import annotations

import importlib.util

import pytest

from lab.chat import chat_from
from lab.netns import Namespace

PROMPT = "Name three rivers of Europe."

needs_model = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="no model: scripts/setup --demo"
)


def chats_as(direct: Namespace, direct_host: str, user: Namespace, host: str, port: int) -> None:
    """The user's chat streams, and has the same text and tokens as one of a machine that needs no tunnel."""
    expected = chat_from(direct, direct_host, port, PROMPT)
    pieces: list[str] = []
    through = chat_from(user, host, port, PROMPT, on_token=pieces.append)
    assert through.text == expected.text == "".join(pieces)
    assert through.tokens == expected.tokens > 5
