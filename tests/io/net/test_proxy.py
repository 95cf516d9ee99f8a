"""Going out by a proxy: RPC and websockets arrive, names are not looked up here, a refusal is one line."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nconnect.config.proxy import Proxies
from nconnect.crypto.keys import Identity
from nconnect.errors import ConfigError, LoginPageError, NetworkError, NotConnected, ProxyError
from nconnect.io.http import http_client
from nconnect.io.http.http_server import HttpServer
from nconnect.io.net import dial as dialling
from nconnect.io.net import resolve, websocket_client
from nconnect.io.net.dial import dial
from nconnect.io.net.name_servers import AddressInfo
from nconnect.io.nkn.node_server import NodeServer
from nconnect.model import NodeConfig, Proxy
from nconnect.nkn import Client, MultiClient
from nconnect.node.settings import NodeSettings
from tests.io.net.test_websocket import Owner
from tests.io.net.test_websocket import serving as serving_websockets
from tests.io.proxies import Served, connect_proxy, odd_proxy, socks5_proxy
from tests.io.serving import echo, localhost_certificate, serving
from tests.loops import run_on_both

LOGIN = ("bob", "hunter2:ü")
ASCII_LOGIN = ("bob", "hunter2:")
NAME = "node.example.invalid"  # nobody but our proxies finds an address for it


@contextlib.asynccontextmanager
async def proxy_of(scheme: str) -> AsyncIterator[Served]:
    made = connect_proxy(login=LOGIN) if scheme == "http" else socks5_proxy(login=ASCII_LOGIN)
    async with made as served:
        yield served


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_a_request_goes_by_proxy_and_the_proxy_looks_up_the_name(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []
    look_up = resolve.stream_addresses

    async def noting(host: str, port: int) -> list[AddressInfo]:
        looked_up.append(host)
        return await look_up(host, port)

    monkeypatch.setattr(dialling, "stream_addresses", noting)

    async def test() -> None:
        async with serving() as server, proxy_of(scheme) as served:
            url = f"http://{NAME}:{server.port}/x"
            response = await http_client.request("GET", url, timeout_s=5.0, proxies=Proxies(served.proxy))
            assert response.status == 200
            assert b'"path":"/x"' in response.body
            assert served.asked == [f"{NAME}:{server.port}"]
        assert looked_up == ["127.0.0.1"]
        looked_up.clear()

    run_on_both(test)


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_an_exception_and_loopback_go_straight(scheme: str) -> None:
    async def test() -> None:
        async with serving() as server, proxy_of(scheme) as served:
            proxies = Proxies(served.proxy)
            await http_client.request(
                "GET", f"http://127.0.0.1:{server.port}/", timeout_s=5.0, proxies=proxies
            )
            assert served.asked == []

    run_on_both(test)


@pytest.mark.parametrize("proxied", [connect_proxy, socks5_proxy])
def test_a_login_that_is_wrong_or_missing(proxied) -> None:  # type: ignore[no-untyped-def]
    async def test() -> None:
        for login in (("", ""), ("bob", "wrong")):
            async with proxied(login=login, wants=ASCII_LOGIN) as served:
                with pytest.raises(ProxyError) as caught:
                    await dial(NAME, 30003, served.proxy)
            text = str(caught.value)
            assert text.startswith(f"the proxy {served.proxy} ")
            assert "user and" in text
            assert "wrong" not in text
            assert "\n" not in text

    run_on_both(test)


@pytest.mark.parametrize(
    ("reply", "error", "why"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", ProxyError, "refuses connections to port 30003 .403."),
        (b"HTTP/1.1 401 Unauthorized\r\n\r\n", ProxyError, "wants a user and a password .401."),
        (b"HTTP/1.1 407 x\r\nProxy-Authenticate: NTLM\r\n\r\n", ProxyError, "wants a login by NTLM"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", NetworkError, "cannot reach node.example.invalid:30003"),
        (b"HTTP/1.1 405 No\r\n\r\n", ProxyError, "answered HTTP 405 to CONNECT"),
        (b"HTTP/1.1 302 x\r\nLocation: http://portal/\r\n\r\n", LoginPageError, "open http://portal/ in"),
        (b"HTTP/1.1 511 x\r\n\r\n", LoginPageError, "shows a login page"),
        (b"HTTP/1.1 200 OK\r\n\r\nextra", ProxyError, "sent data of its own"),
    ],
)
def test_a_connect_that_is_refused_is_one_line(reply: bytes, error: type[NetworkError], why: str) -> None:
    async def test() -> None:
        async with connect_proxy(reply=(reply,)) as served:
            with pytest.raises(error, match=why) as caught:
                await dial(NAME, 30003, served.proxy)
            assert type(caught.value) is error
            assert "\n" not in str(caught.value)

    run_on_both(test)


@pytest.mark.parametrize(
    ("code", "error", "why"),
    [
        (1, ProxyError, "general socks server failure"),
        (2, ProxyError, "refuses connections to port 30003"),
        (4, NetworkError, "cannot reach node.example.invalid:30003: no route to host"),
        (5, NetworkError, "cannot reach node.example.invalid:30003: connection refused"),
        (99, ProxyError, "refused .invalid reply code"),
    ],
)
def test_a_socks_request_that_is_refused_is_one_line(code: int, error: type[NetworkError], why: str) -> None:
    async def test() -> None:
        async with socks5_proxy(refuse=code) as served:
            with pytest.raises(error, match=why) as caught:
                await dial(NAME, 30003, served.proxy)
            assert type(caught.value) is error

    run_on_both(test)


@pytest.mark.parametrize("scheme", ["http", "socks5"])
@pytest.mark.parametrize(
    "says",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"\0" * 40,
        b"\xff" * 70_000,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000,
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"\5\2\1\1",
        b"\5\0\5\0\0\7",
        b"\5\1",
    ],
)
def test_garbage_is_one_line_and_bounded(scheme: str, says: bytes) -> None:
    async def test() -> None:
        async with odd_proxy(scheme, says) as served:
            with pytest.raises(ProxyError, match=f"^the proxy {served.proxy} ") as caught:
                await dial(NAME, 30003, served.proxy)
            assert len(str(caught.value)) < 300
            assert str(caught.value).isprintable()

    run_on_both(test)


@pytest.mark.parametrize(
    ("scheme", "says"),
    [("http", b""), ("http", b"HTTP/1.1 200 OK\r\nX"), ("socks5", b""), ("socks5", b"\5")],
)
def test_a_proxy_that_hangs_is_given_up_by_its_name(
    scheme: str, says: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialling, "PROXY_S", 0.05)

    async def test() -> None:
        async with odd_proxy(scheme, says, then_close=False) as served:
            before = set(os.listdir("/proc/self/fd"))
            with pytest.raises(ProxyError, match=r"did not answer within 0\.05 s"):
                await dial(NAME, 30003, served.proxy)
            await asyncio.sleep(0.02)
            assert len(set(os.listdir("/proc/self/fd"))) <= len(before) + 1  # the server's end

    run_on_both(test)


def test_a_proxy_that_is_not_there_is_named() -> None:
    async def test() -> None:
        async with odd_proxy("http", b"") as served:
            pass
        with pytest.raises(ProxyError, match=f"the proxy {served.proxy} cannot be reached: connection refu"):
            await http_client.request(
                "GET", f"http://{NAME}:30003/", timeout_s=5.0, proxies=Proxies(served.proxy)
            )

    run_on_both(test)


def test_an_answer_in_pieces_leaves_the_connection_clean() -> None:
    """Whatever of the head came late would otherwise be taken for the destination's first bytes."""

    async def test() -> None:
        pieces = (b"HTTP/1.1 2", b"00 Connection established\r\nVia: x\r", b"\n\r", b"\n")
        async with serving() as server, connect_proxy(reply=pieces) as served:
            url = f"http://{NAME}:{server.port}/"
            response = await http_client.request("GET", url, timeout_s=5.0, proxies=Proxies(served.proxy))
            assert response.status == 200

    run_on_both(test)


def test_an_ipv6_destination_is_in_brackets() -> None:
    async def test() -> None:
        async with connect_proxy(reply=(b"HTTP/1.1 403 x\r\n\r\n",)) as served:
            with pytest.raises(ProxyError):
                await dial("fd00::1", 30003, served.proxy)
            assert served.heads[0].startswith("CONNECT [fd00::1]:30003 HTTP/1.1\r\nHost: [fd00::1]:30003\r\n")
            assert "Proxy-Authorization" not in served.heads[0]

    run_on_both(test)


def test_a_proxy_at_an_ipv6_address() -> None:
    async def test() -> None:
        server = await HttpServer.listen_tcp("::1", 0, echo)
        try:
            with pytest.raises(ProxyError, match=rf"the proxy \[::1\]:{server.port} "):
                await dial(NAME, 30003, Proxy("http", "::1", server.port))
        finally:
            await server.close()

    run_on_both(test)


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_a_websocket_goes_by_proxy(scheme: str) -> None:
    async def test() -> None:
        async with serving_websockets(echo=True) as server, proxy_of(scheme) as served:
            url = f"ws://{NAME}:{server.server.port}"
            owner = Owner()
            owner.socket = await websocket_client.connect(url, timeout_s=5.0, proxies=Proxies(served.proxy))
            owner.socket.handler = owner
            owner.socket.start()
            owner.socket.send_binary((bytes(200_000),))
            assert await owner.got.get() == bytes(200_000)
            assert served.asked == [f"{NAME}:{server.server.port}"]
            owner.socket.close(1000, "")

    run_on_both(test)


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_tls_goes_through_a_proxy_end_to_end(scheme: str, tmp_path: Path) -> None:
    pem = localhost_certificate(tmp_path)
    ours, theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context(cafile=pem)
    ours.load_cert_chain(pem)
    theirs.check_hostname = False  # it is localhost's, which is never reached by proxy

    async def test() -> None:
        async with serving_websockets(echo=True, tls=ours) as sockets, proxy_of(scheme) as served:
            server = await HttpServer.listen_tcp("127.0.0.1", 0, echo, tls=ours)
            proxies = Proxies(served.proxy)
            try:
                url = f"https://{NAME}:{server.port}/"
                response = await http_client.request("GET", url, timeout_s=5.0, tls=theirs, proxies=proxies)
                assert response.status == 200
                owner = Owner()
                url = f"wss://{NAME}:{sockets.server.port}"
                owner.socket = await websocket_client.connect(url, timeout_s=5.0, tls=theirs, proxies=proxies)
                owner.socket.handler = owner
                owner.socket.start()
                owner.socket.send_binary((bytes(200_000),))
                assert await owner.got.get() == bytes(200_000)
                owner.socket.close(1000, "")
            finally:
                await server.close()
            assert served.asked == [f"{NAME}:{server.port}", f"{NAME}:{sockets.server.port}"]

    run_on_both(test)


def test_a_websocket_that_a_proxy_refuses_says_why() -> None:
    async def test() -> None:
        async with connect_proxy(reply=(b"HTTP/1.1 403 x\r\n\r\n",)) as served:
            with pytest.raises(ProxyError, match=r"^the proxy \S+ refuses connections to port 2 "):
                await websocket_client.connect(f"ws://{NAME}:2", timeout_s=5.0, proxies=Proxies(served.proxy))

    run_on_both(test)


def test_all_links_of_a_client_go_by_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a parameter, or by the environment, which the parameter switches off."""

    look_up = resolve._look_up

    def only_addresses(host: str) -> list[AddressInfo]:
        if host == NAME:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(host)

    monkeypatch.setattr(resolve, "_look_up", only_addresses)

    async def test() -> None:
        config = NodeConfig(listen="127.0.0.1", ws_port=0, rpc_port=0, advertise=NAME)
        node = NodeServer(config, Identity(os.urandom(32)), NodeSettings())
        await node.start()
        seed = f"http://{NAME}:{node.rpc_port}"
        try:
            async with connect_proxy(login=ASCII_LOGIN) as served:
                url = f"http://bob:hunter2%3A@{served.proxy}"
                async with MultiClient(seed_rpc=seed, sub_clients=4, proxy=url) as client:
                    await client.wait_up(4, timeout_s=5)
                assert served.asked.count(f"{NAME}:{node.ws_port}") == 4
                assert set(served.asked) == {f"{NAME}:{node.ws_port}", f"{NAME}:{node.rpc_port}"}

                monkeypatch.setenv("https_proxy", url)
                async with Client(seed_rpc=seed):
                    pass
                with pytest.raises(NotConnected, match="name"):
                    async with Client(seed_rpc=seed, proxy="none", connect_timeout_s=0.5):
                        pytest.fail("it went by proxy")
                with pytest.raises(ConfigError, match=r"^proxy: gopher:// is not a kind of proxy"):
                    Client(proxy="gopher://bob:hunter2@h:1")
        finally:
            await node.close()

    run_on_both(test)
