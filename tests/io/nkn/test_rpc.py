"""Asking seeds, against small servers on loopback that answer, lie, or say nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nconnect.errors import LoginPageError, NetworkError, RemoteProtocolError, TlsError
from nconnect.io.http import http_client
from nconnect.io.http.http import Request, Response
from nconnect.io.http.http_connection import Handler
from nconnect.io.http.http_server import HttpServer
from nconnect.io.nkn import rpc
from nconnect.nkn.ways import STAGGER_S
from tests.io.serving import localhost_certificate, url_of
from tests.loops import run

ADDRESS = "gpu." + "ab" * 32
NODE = {"addr": "203.0.113.7:30002", "rpcAddr": "203.0.113.7:30003", "pubkey": "cd" * 32, "id": "ef" * 32}


def answer(result: object, asked: list[Request] | None = None) -> Handler:
    async def handler(ask: Request) -> Response:
        if asked is not None:
            asked.append(ask)
        return Response.json({"id": json.loads(ask.body)["id"], "jsonrpc": "2.0", "result": result})

    return handler


def fixed(body: bytes, status: int = 200, **headers: str) -> Handler:
    async def handler(ask: Request) -> Response:
        return Response(status, body, tuple((name.replace("_", "-"), text) for name, text in headers.items()))

    return handler


async def never(ask: Request) -> Response:
    await asyncio.Event().wait()
    return Response(500)


@contextlib.asynccontextmanager
async def refusing() -> AsyncIterator[str]:
    """A port on which nobody listens any more."""
    async with url_of(never) as url:
        pass
    yield url


def test_a_seed_names_the_node() -> None:
    async def test() -> None:
        asked: list[Request] = []
        async with url_of(answer(NODE, asked)) as url:
            node = await rpc.resolve([url], ADDRESS, timeout_s=5.0)
        assert (node.addr, node.public_key) == (NODE["addr"], NODE["pubkey"])
        (ask,) = asked
        assert ask.method == "POST"
        body = json.loads(ask.body)
        assert (body["method"], body["params"]) == ("getwsaddr", {"address": ADDRESS})

    run(test)


def test_a_seed_that_refuses_or_is_silent_costs_little() -> None:
    async def test() -> None:
        async with url_of(answer(NODE)) as good, url_of(never) as silent, refusing() as gone:
            began = time.monotonic()
            found = await rpc.first_answer([gone, silent, good], ADDRESS, timeout_s=10.0)
            assert found.seed == good
            assert STAGGER_S <= time.monotonic() - began < 5.0

    run(test)


def test_the_first_seed_is_preferred_and_others_are_not_asked_when_it_answers() -> None:
    async def test() -> None:
        asked: list[Request] = []
        async with url_of(answer(NODE)) as first, url_of(answer(NODE, asked)) as second:
            for _ in range(5):
                assert (await rpc.first_answer([first, second], ADDRESS, timeout_s=5.0)).seed == first
        assert not asked

    run(test)


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (fixed(b"welcome"), "no NKN seed"),
        (fixed(b""), "no NKN seed"),
        (fixed(b"[" * 50_000), "no NKN seed"),
        (fixed(b"{}" + b" " * 70_000), "longer than 65536 bytes"),
        (fixed(b"not here", 404), "HTTP 404"),
        (
            fixed(b'{"id":1,"jsonrpc":"2.0","error":{"code":-45003,"message":"NULL\\nID"}}'),
            "refused: error -45003",
        ),
        (
            fixed(b'{"error":{"code":-45001,"data":"\\u001b[1mno WSS","message":"INTERNAL ERROR"},"id":"1"}'),
            r"error -45001 'INTERNAL ERROR: \\x1b\[1mno WSS'",
        ),
        (fixed(b"", 429), "asked too often"),
        (answer(None), "object"),
        (answer({**NODE, "addr": "203.0.113.7"}), "host:port"),
        (answer({**NODE, "addr": ":30002"}), "host"),
        (answer({**NODE, "addr": "0.0.0.0:30002"}), "no address of a node"),
        (answer({**NODE, "addr": "[::]:30002"}), "no address of a node"),
        (answer({**NODE, "pubkey": "xx"}), "pubkey"),
    ],
)
def test_a_bad_answer_is_that_seeds_failure(handler: Handler, why: str) -> None:
    async def test() -> None:
        async with url_of(handler) as bad, url_of(answer(NODE)) as good:
            with pytest.raises(NetworkError, match=why) as caught:
                await rpc.resolve([bad], ADDRESS, timeout_s=5.0)
            assert "\n" not in str(caught.value)
            assert bad in str(caught.value)
            assert (await rpc.first_answer([bad, good], ADDRESS, timeout_s=5.0)).seed == good

    run(test)


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (
            fixed(b"", 302, location="http://portal.example/in"),
            r"open http://portal\.example/in in a browser$",
        ),
        (fixed(b"", 511), r"open \S+/ in a browser$"),
        (fixed(b"<html>Log in</html>"), r"open \S+/ in a browser \(if that is not"),
        (
            fixed(b"<html>" + b"x" * 70_000, content_type="text/html"),
            r"open \S+/ in a browser \(if that is not",
        ),
        (fixed(b"", 302, location="http://p/\x1b[31m" + "x" * 5000), r"open http://p/ in a browser$"),
    ],
)
def test_a_login_page_is_named_once_for_all_seeds(handler: Handler, why: str) -> None:
    async def test() -> None:
        async with url_of(handler) as one, url_of(handler) as two, url_of(answer(NODE)) as good:
            with pytest.raises(LoginPageError, match=f"^this network shows a login page: {why}") as caught:
                await rpc.resolve([one, two], ADDRESS, timeout_s=5.0)
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) < 400
            assert (await rpc.first_answer([one, good], ADDRESS, timeout_s=5.0)).seed == good

    run(test)


def test_a_plain_seed_that_moved_to_tls_is_followed_and_never_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = localhost_certificate(tmp_path)
    ours, theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context(cafile=pem)
    ours.load_cert_chain(pem)
    monkeypatch.setattr("nconnect.io.net.tls.verifying", lambda: theirs)

    async def test() -> None:
        async with url_of(answer(NODE)) as good:
            secure = await HttpServer.listen_tcp("127.0.0.1", 0, answer(NODE), tls=ours)
            back = await HttpServer.listen_tcp("127.0.0.1", 0, fixed(b"", 308, location=good), tls=ours)
            good_url, back_url = (f"https://localhost:{server.port}/" for server in (secure, back))
            try:
                for status in (301, 308):
                    async with url_of(fixed(b"", status, location=good_url)) as url:
                        plain = url.replace("127.0.0.1", "localhost")
                        assert (await rpc.resolve([plain], ADDRESS, timeout_s=5.0)).addr == NODE["addr"]
                async with url_of(fixed(b"", 308, location=back_url)) as url:
                    for seed in (url.replace("127.0.0.1", "localhost"), back_url):
                        with pytest.raises(NetworkError, match="it answered HTTP 308"):
                            await rpc.resolve([seed], ADDRESS, timeout_s=5.0)
            finally:
                await secure.close()
                await back.close()

    run(test)


@contextlib.asynccontextmanager
async def says_400(tls_port: int) -> AsyncIterator[int]:
    """A server for TLS that answers plain HTTP with 400, as Go's does."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(4096)
        if first.startswith(b"\x16"):  # RFC 8446, section 5.1: a handshake record
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", tls_port)
            inner_writer.write(first)
            await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))
        else:
            writer.write(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("answers_400", [False, True])
def test_a_plain_url_of_a_port_for_tls_is_named_as_such(tmp_path: Path, answers_400: bool) -> None:
    """Ours hangs up on plain HTTP there; others say 400."""
    pem = localhost_certificate(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pem)

    async def test() -> None:
        async with contextlib.AsyncExitStack() as stack:
            server = await HttpServer.listen_tcp("127.0.0.1", 0, answer(NODE), tls=tls)
            stack.push_async_callback(server.close)
            port = server.port or 0
            if answers_400:
                port = await stack.enter_async_context(says_400(port))
            with pytest.raises(TlsError, match=f"^127.0.0.1:{port} speaks TLS: is it https://\\?$"):
                await rpc.call(f"http://127.0.0.1:{port}", "getwsaddr", {}, timeout_s=5.0)
        await asyncio.sleep(0.05)  # the connections' own tasks end

    run(test)


@pytest.mark.parametrize("status", [400, 404])
def test_a_plain_server_that_refuses_is_not_said_to_want_tls(status: int) -> None:
    async def test() -> None:
        async with url_of(fixed(b"", status)) as url:
            with pytest.raises(RemoteProtocolError, match=f"HTTP {status}"):
                await rpc.call(url, "getwsaddr", {}, timeout_s=5.0)

    run(test)


def test_all_failing_names_the_seeds_and_the_commonest_reason() -> None:
    async def test() -> None:
        async with contextlib.AsyncExitStack() as stack:
            gone = [await stack.enter_async_context(refusing()) for _ in range(4)]
            odd = await stack.enter_async_context(url_of(fixed(b"", 500)))
            with pytest.raises(NetworkError) as caught:
                await rpc.resolve([odd, *gone], ADDRESS, timeout_s=5.0)
        assert str(caught.value) == (
            f"no seed named a node: connection refused (tried {odd}, {gone[0]}, {gone[1]} and 2 more):"
            " check this device's connection and [network] seed_rpc"
        )

    run(test)


def test_silence_ends_at_the_timeout() -> None:
    async def test() -> None:
        async with url_of(never) as silent:
            with pytest.raises(NetworkError, match=r"no answer within 0\.2 s"):
                await rpc.resolve([silent], ADDRESS, timeout_s=0.2)

    run(test)


def test_no_seed_at_all() -> None:
    async def test() -> None:
        with pytest.raises(NetworkError, match="there is no seed to ask"):
            await rpc.resolve([], ADDRESS, timeout_s=5.0)

    run(test)


def test_a_silent_seed_is_asked_again_and_cancelling_leaves_nothing() -> None:
    async def test() -> None:
        asks = 0

        async def deaf_at_first(ask: Request) -> Response:
            nonlocal asks
            asks += 1
            return await (never(ask) if asks == 1 else answer(NODE)(ask))

        async with url_of(deaf_at_first) as url:
            await rpc.resolve([url], ADDRESS, timeout_s=10.0)
            assert asks == 2
        async with url_of(never) as url:
            task = asyncio.create_task(rpc.resolve([url], ADDRESS, timeout_s=10.0))
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()

    run(test)


def test_a_seed_that_took_the_connection_is_asked_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it has the question; only a SYN may be lost for a long time."""
    monkeypatch.setattr(rpc, "_ASK_AGAIN_S", 0.2)  # enough to connect on a busy machine

    async def asks(again_s: float) -> int:
        monkeypatch.setattr(rpc, "ASK_AGAIN_CONNECTED_S", again_s)
        asked: list[Request] = []

        async def silent(ask: Request) -> Response:
            asked.append(ask)
            return await never(ask)

        async with url_of(silent) as url:
            with pytest.raises(NetworkError, match="no answer within"):
                await rpc.resolve([url], ADDRESS, timeout_s=0.7)
        return len(asked)

    async def test() -> None:
        assert await asks(30.0) == 1
        assert await asks(0.1) > 1

    run(test)


def test_a_seed_that_does_not_take_the_connection_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "_ASK_AGAIN_S", 0.02)
    calls = 0

    async def unreached(*args: object, **options: object) -> Response:
        nonlocal calls
        calls += 1
        return await never(Request("POST", "/", ()))

    monkeypatch.setattr(http_client, "request", unreached)

    async def test() -> None:
        with pytest.raises(NetworkError, match="no answer within"):
            await rpc.resolve(["http://192.0.2.1:1"], ADDRESS, timeout_s=0.5)
        assert calls > 2

    run(test)
