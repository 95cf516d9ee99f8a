"""The official SDK's bundle in a real browser (headless Chromium), with a Python client, over our node.

The page comes from another port than the node's RPC, so the browser asks before each call whether it may
(CORS preflight), and lets no call through where the answer is not yes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from nconnect.io.http.http import Request, Response
from nconnect.io.nkn.node_server import NodeServer
from nconnect.nkn import MultiClient
from tests.io.serving import url_of
from tests.loops import run
from tests.nkn.net import Net, answering
from tests.nkn.sdk import MODULES, pattern

BROWSER = shutil.which("chromium")
BUNDLE = MODULES / "nkn-sdk" / "dist" / "nkn.min.js"
PAGE = Path(__file__).with_name("browser.html")
OPTIONS = (
    "--headless",
    "--no-sandbox",  # root has none, and the page is ours
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",  # /dev/shm is small in a container
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # it talks to nobody else
)

pytestmark = pytest.mark.skipif(
    BROWSER is None or not BUNDLE.exists(), reason="needs Chromium and nkn-sdk (scripts/setup --dev)"
)


class Site:
    """The page, and what it tells."""

    def __init__(self) -> None:
        self.told: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    async def answer(self, request: Request) -> Response:
        if request.path == "/told":
            self.told.set_result(json.loads(request.body))
            return Response(204)
        if request.path == "/nkn.js":
            return Response(200, BUNDLE.read_bytes(), (("content-type", "text/javascript"),))
        if request.path == "/":
            return Response(200, PAGE.read_bytes(), (("content-type", "text/html; charset=utf-8"),))
        return Response(404)


@contextlib.contextmanager
def browsing(url: str, profile: Path) -> Any:
    """A browser with this page open; all its processes end with the block."""
    assert BROWSER is not None
    with (profile.parent / "browser.log").open("wb") as log:
        process = subprocess.Popen(
            [BROWSER, *OPTIONS, f"--user-data-dir={profile}", url],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_the_bundle_in_a_browser_speaks_with_a_python_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    answer = NodeServer._answer

    async def recorded(self: NodeServer, request: Request) -> Response:
        asked.append(request.method)
        return await answer(self, request)

    monkeypatch.setattr(NodeServer, "_answer", recorded)
    closed_asked: list[str] = []

    async def closed(request: Request) -> Response:
        """A node that does not speak of other origins."""
        closed_asked.append(request.method)
        return Response.json({"id": 1, "jsonrpc": "2.0", "result": "1"})

    async def test() -> None:
        site = Site()
        async with (
            Net.running() as net,
            url_of(site.answer) as page,
            url_of(closed) as closed_seed,
            MultiClient(identifier="python", original=True, seed_rpc=net.seed) as client,
            answering(client) as got,
        ):
            await client.wait_up(5)
            del asked[:]
            said = quote(f"{net.seed} {closed_seed} {client.address}")
            with browsing(f"{page}/#{said}", tmp_path / "profile") as process:
                while not site.told.done():
                    assert process.poll() is None, (tmp_path / "browser.log").read_text()
                    await asyncio.wait([site.told], timeout=0.2)
                told = site.told.result()
                assert "error" not in told, told["error"]
                for kind in ("client", "multi"):
                    assert told[kind]["text"] == "python got grüße"
                    assert told[kind]["digest"] == hashlib.sha256(pattern(1 << 20)).hexdigest()
                    reply = await client.send(told[kind]["address"], "hello", reply_timeout_s=20.0)
                    assert reply is not None
                    assert (reply.data, reply.encrypted) == ("browser got hello", True)
            assert told["version"].startswith("nconnect-")
            assert [(message.src, message.data) for message in got] == [
                (told[kind]["address"], data)
                for kind in ("client", "multi")
                for data in ("grüße", pattern(1 << 20))
            ]
            assert asked[:2] == ["OPTIONS", "POST"]
            assert set(asked) == {"OPTIONS", "POST"}
            assert told["refused"] == "TypeError"
            assert closed_asked == ["OPTIONS"], "the browser asks, and does not call"
            assert set(client.drops) <= {"duplicate"}
            # A plain client has no sub-clients, which a MultiClient sends to as well.
            assert set(net.server.node.stats().drops) <= {"unknown_dest"}

    run(test, within_s=100.0)
