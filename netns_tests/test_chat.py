"""A chat with a model behind the provider streams through the tunnel, and nobody between can read it.

user ── node ── provider ── server 192.168.50.10:8000 (SmolLM2-135M)
"""

from __future__ import annotations

import threading
import time

import pytest

from lab.chat import Chat, chat_from
from lab.netns import LabError
from lab.process import until
from lab.tap import Tap
from lab.traffic import SERVICE, connect, download, expected_download, serve_model
from lab.world import LAN_INTERFACE, SERVER, WAN_INTERFACE, World
from netns_tests.model import PROMPT, chats_as, needs_model
from netns_tests.recovery import Recovery, table
from netns_tests.topology import Provided, provided

PORT = 8000
LONG_PROMPT = "Write a long story about a river, its towns and its boats."
DOWNLOAD_BYTES = 256 << 20

pytestmark = needs_model


def test_a_completion_is_streamed_and_never_leaves_in_clear(tunnel: Provided) -> None:
    world = tunnel.world
    model = serve_model(world.server, world, SERVER, PORT)
    try:
        with Tap(world.provider, LAN_INTERFACE) as lan, Tap(world.user, WAN_INTERFACE) as outside:
            chats_as(world.provider, SERVER, world.user, SERVER, PORT)
    finally:
        model.stop()
    assert PROMPT.encode() in lan.data, "the search itself must work"
    assert len(outside.data) > len(PROMPT) * 10
    assert PROMPT.encode() not in outside.data


@pytest.mark.parametrize("seconds", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_a_chat_and_a_download_complete_though_the_node_is_killed(fresh: World, seconds: int) -> None:
    with provided(fresh):
        serve_model(fresh.server, fresh, SERVER, PORT)
        direct = chat_from(fresh.provider, SERVER, PORT, LONG_PROMPT, max_tokens=250)
        times: list[float] = []
        answers: list[Chat | LabError] = []
        digests: list[str] = []

        def chat() -> None:
            try:
                answers.append(
                    chat_from(
                        *(fresh.user, SERVER, PORT, LONG_PROMPT),
                        max_tokens=250,
                        on_token=lambda _: times.append(time.monotonic()),
                    )
                )
            except LabError as error:
                answers.append(error)

        with connect(fresh.user, SERVER, SERVICE, timeout_s=60) as connection:
            chatting = threading.Thread(target=chat)
            loading = threading.Thread(target=lambda: digests.append(download(connection, DOWNLOAD_BYTES)))
            chatting.start()
            until(lambda: len(times) > 5 or answers, "the first words", timeout_s=30)
            loading.start()
            until(lambda: fresh.user.counters("nc0")["rx_bytes"] > DOWNLOAD_BYTES // 16, "the download")
            assert fresh.node.process is not None
            fresh.node.process.kill()
            assert not answers, "it must be in the middle of the chat"
            assert not digests, "and of the download"
            time.sleep(seconds)
            fresh.node.start()
            back = time.monotonic()
            chatting.join(60)
            loading.join(60)
        assert digests == [expected_download(DOWNLOAD_BYTES)]
        assert len(answers) == 1
        (answer,) = answers
        assert isinstance(answer, Chat), answer
        assert answer.text == direct.text
        taken_s = next(at for at in times if at > back) - back
        table.append(Recovery(f"node gone for {seconds} s", "chat", taken_s, 3.0))
        assert taken_s <= 3.0
