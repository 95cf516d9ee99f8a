"""A real language model behind the provider, asked from the user's machine.

user ── node ── provider ── server 192.168.50.10:8000 (SmolLM2-135M)
"""

from __future__ import annotations

import importlib.util
import sys

import pytest

from lab.chat import chat_from
from lab.process import until
from lab.tap import Tap
from lab.world import LAN_INTERFACE, SERVER, WAN_INTERFACE
from netns_tests.topology import Provided

PORT = 8000
PROMPT = "Name three rivers of Europe."

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="no model: scripts/setup --demo"
)


def test_a_completion_is_streamed_and_never_in_clear_outside(tunnel: Provided) -> None:
    world = tunnel.world
    command = [sys.executable, "-m", "lab.model_server", SERVER, str(PORT)]
    model = world.run_in(world.server, command, "model")
    until(lambda: "serving" in model.text(), "the model", timeout_s=60, process=model)
    try:
        direct = chat_from(world.provider, SERVER, PORT, PROMPT)
        pieces: list[str] = []
        with Tap(world.provider, LAN_INTERFACE) as lan, Tap(world.user, WAN_INTERFACE) as outside:
            through = chat_from(world.user, SERVER, PORT, PROMPT, on_token=pieces.append)
    finally:
        model.stop()
    assert through.text == direct.text == "".join(pieces)
    assert through.tokens == direct.tokens > 5
    assert PROMPT.encode() in lan.data, "the search itself must work"
    assert len(outside.data) > len(PROMPT) * 10
    assert PROMPT.encode() not in outside.data
