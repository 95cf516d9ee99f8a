"""Our clients and those of NKN's SDKs (for Go and JavaScript) understand each other over NKN's own node.

one namespace:   our client ── nknd ── SDK's client

nknd has an address for documentation. Nothing else is in the namespace.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from lab.netns import Namespace
from lab.official import OfficialNode, missing
from nconnect.nkn import Client, MultiClient
from tests.loops import run
from tests.nkn import interop
from tests.nkn.sdk import SDKS, needs_go

HOST = "192.0.2.1"
WS_PORT = 30002
ESTABLISHED = "01"  # in /proc/net/tcp

pytestmark = pytest.mark.skipif(
    bool(missing("nknd", "nknc")), reason="the official node is not built: scripts/setup --dev"
)
both_sdks = pytest.mark.parametrize("kind", SDKS)


class OfficialNet:
    """nknd, with the methods that `tests.nkn.interop` wants of a node."""

    def __init__(self, node: OfficialNode) -> None:
        self.seed = f"http://{HOST}:30003"
        self._node = node

    async def restart(self) -> None:
        await asyncio.to_thread(self._restart)

    async def has_clients(self, number: int) -> None:
        while self._connections() != number:  # noqa: ASYNC110 - the node sees it in its own time
            await asyncio.sleep(0.005)

    def drops(self) -> dict[str, int]:
        return {}  # no event tells of it

    def _restart(self) -> None:
        self._node.stop()
        self._node.start()

    def _connections(self) -> int:
        """Open connections to the node's websocket port, seen from the node."""
        found = 0
        for name in ("tcp", "tcp6"):
            for line in Path("/proc/thread-self/net", name).read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                found += state == ESTABLISHED and int(local.rpartition(":")[2], 16) == WS_PORT
        return found


@pytest.fixture(scope="module")
def node() -> Iterator[OfficialNode]:
    namespace = Namespace(f"ncsdk{os.getpid()}")
    try:
        namespace.ip(f"address add {HOST}/32 dev lo")
        with tempfile.TemporaryDirectory() as folder:
            made = OfficialNode(namespace, Path(folder), HOST)
            made.start()
            try:
                yield made
            finally:
                made.stop()
    finally:
        namespace.remove()


Over = Callable[[Callable[[OfficialNet], Awaitable[None]]], None]


@pytest.fixture
def over(node: OfficialNode) -> Over:
    """Run a case in the namespace."""

    def run_inside(case: Callable[[OfficialNet], Awaitable[None]]) -> None:
        async def test() -> None:
            await case(OfficialNet(node))

        node.namespace.enter(lambda: run(test, within_s=60.0))

    return run_inside


@both_sdks
def test_their_client_understands_ours(over: Over, kind: str) -> None:
    over(lambda net: interop.our_client_to_theirs(net, kind))


@both_sdks
def test_our_client_understands_theirs(over: Over, kind: str) -> None:
    over(lambda net: interop.their_client_to_ours(net, kind))


@both_sdks
@pytest.mark.parametrize("original", [False, True])
def test_multi_clients_of_four_understand_each_other(over: Over, kind: str, original: bool) -> None:
    over(lambda net: interop.multi_clients_of_four(net, kind, original=original))


@both_sdks
def test_messages_are_held_for_a_client_that_is_away(over: Over, kind: str) -> None:
    over(lambda net: interop.messages_are_held_for_who_is_away(net, kind))


@both_sdks
@pytest.mark.parametrize("ours", [Client, MultiClient])
def test_both_come_back_when_the_node_does(over: Over, kind: str, ours: type[Client | MultiClient]) -> None:
    over(lambda net: interop.both_come_back_when_the_node_does(net, kind, ours))


@needs_go
def test_a_multi_client_may_send_before_its_logins(over: Over) -> None:
    over(interop.a_multi_client_sends_before_its_logins)


@pytest.mark.slow
@both_sdks
@pytest.mark.parametrize("mtu", [1024, 60_000])
def test_our_stream_to_theirs(over: Over, kind: str, mtu: int) -> None:
    over(lambda net: interop.our_stream_to_theirs(net, kind, mtu, 300_000))


@pytest.mark.slow
@both_sdks
@pytest.mark.parametrize("mtu", [1024, 60_000])
def test_their_session_to_ours(over: Over, kind: str, mtu: int) -> None:
    over(lambda net: interop.their_session_to_ours(net, kind, mtu, 300_000))
