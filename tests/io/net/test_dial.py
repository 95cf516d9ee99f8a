"""The second address is tried after a quarter of a second; failures are in words; nothing is left open."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import gc
import os
import socket
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from nconnect.config.proxy import Proxies
from nconnect.errors import NetworkError
from nconnect.io.errors import plain_reason
from nconnect.io.http import http_client
from nconnect.io.http.http import Request, Response
from nconnect.io.http.http_server import HttpServer
from nconnect.io.net import name_servers, nat64, resolve, websocket_client
from nconnect.io.net.dial import ATTEMPT_DELAY_S, dial
from nconnect.io.net.listening import bind_tcp
from nconnect.io.net.websocket_server import WebSocketServer
from nconnect.io.nkn import rpc
from nconnect.model import Proxy
from tests.loops import run_on_both

NAME = "node.example"
SILENT, GOOD = "127.0.0.2", "127.0.0.1"


@pytest.fixture
def silent() -> Iterator[int]:
    """A port of 127.0.0.2 that drops every SYN: its accept queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((SILENT, 0))
        listener.listen(0)
        for _ in range(8):
            client = stack.enter_context(socket.socket())
            client.settimeout(0.1)
            try:
                client.connect(listener.getsockname())
            except TimeoutError:
                break
        else:
            pytest.fail("the accept queue does not fill")
        yield listener.getsockname()[1]


def stands_for(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let `NAME` have these addresses."""

    def look_up(host: str) -> list[name_servers.AddressInfo]:
        if host == NAME and not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if host == NAME:
            return [info for address in addresses for info in real(address)]
        return real(host)

    real = resolve._look_up
    monkeypatch.setattr(resolve, "_look_up", look_up)


@pytest.fixture(autouse=True)
def _no_socket_left_open() -> Iterator[None]:
    def sockets() -> int:
        found = 0
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        return found

    gc.collect()
    before = sockets()
    yield
    # What an earlier test left may close meanwhile. A look-up that nobody waits for any more ends in its own
    # time, and getaddrinfo has a netlink socket open while it runs.
    deadline = time.monotonic() + 5
    while sockets() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sockets() <= before


@contextlib.contextmanager
def listening(host: str, port: int = 0) -> Iterator[int]:
    """A port that takes connections."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as server:
        yield server.getsockname()[1]


def test_what_dial_returns() -> None:
    async def test() -> None:
        with listening("127.0.0.1") as port, await dial("127.0.0.1", port) as sock:
            assert sock.getpeername() == ("127.0.0.1", port)
            assert sock.getblocking() is False
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert fcntl.fcntl(sock, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        with listening("::1") as port, await dial("::1", port) as sock:
            assert sock.getpeername()[:2] == ("::1", port)

    run_on_both(test)


def test_an_address_that_is_silent_costs_a_quarter_of_a_second(
    monkeypatch: pytest.MonkeyPatch, silent: int
) -> None:
    stands_for(monkeypatch, SILENT, GOOD)

    async def test() -> None:
        with listening(GOOD, silent):
            began = time.monotonic()
            with await dial(NAME, silent) as sock:
                assert sock.getpeername() == (GOOD, silent)
            assert ATTEMPT_DELAY_S * 0.9 <= time.monotonic() - began < 1

    run_on_both(test)


def test_families_take_turns(monkeypatch: pytest.MonkeyPatch, silent: int) -> None:
    """The IPv6 address is the second that is tried, not the fifth."""
    stands_for(monkeypatch, SILENT, "127.0.0.3", "127.0.0.4", "127.0.0.5", "::1")

    async def test() -> None:
        with listening("::1", silent):
            began = time.monotonic()
            with await dial(NAME, silent) as sock:
                assert sock.family == socket.AF_INET6
            assert time.monotonic() - began < 1

    run_on_both(test)


def test_seeds_and_websockets_connect_in_under_a_second(monkeypatch: pytest.MonkeyPatch, silent: int) -> None:
    stands_for(monkeypatch, SILENT, GOOD)

    async def hello(_: Request) -> Response:
        return Response(200, b"hello")

    async def test() -> None:
        server = await HttpServer.listen_tcp(GOOD, silent, hello)
        began = time.monotonic()
        answer = await http_client.request("GET", f"http://{NAME}:{silent}/", timeout_s=5)
        assert (answer.status, time.monotonic() - began < 1) == (200, True)
        await server.close()

        websockets = WebSocketServer(bind_tcp(GOOD, silent), lambda _: None)
        began = time.monotonic()
        ours = await websocket_client.connect(f"ws://{NAME}:{silent}", timeout_s=5)
        assert time.monotonic() - began < 1
        ours.socket.close()
        await websockets.close()

    run_on_both(test)


@pytest.mark.parametrize(
    ("addresses", "number"),
    [
        (["127.0.0.1"], errno.ECONNREFUSED),
        (["127.0.0.1", "::1"], errno.ECONNREFUSED),
        ([], None),
        (["255.255.255.255"], errno.ENETUNREACH),
        (["255.255.255.255", "127.0.0.1"], errno.ECONNREFUSED),
    ],
)
def test_why_in_words(monkeypatch: pytest.MonkeyPatch, addresses: list[str], number: int | None) -> None:
    stands_for(monkeypatch, *addresses)
    words = os.strerror(number).lower() if number else "name or service not known"

    async def test() -> None:
        with listening("127.0.0.1") as port:
            pass
        with pytest.raises(OSError, match=r"(?i)" + words) as caught:
            await dial(NAME, port)
        assert plain_reason(caught.value) == words
        with pytest.raises(NetworkError, match=words + "$"):
            await http_client.request("GET", f"http://{NAME}:{port}", timeout_s=5)
        with pytest.raises(NetworkError, match=words + "$"):
            await websocket_client.connect(f"ws://{NAME}:{port}", timeout_s=5)

    run_on_both(test)


def test_an_ipv6_address_is_in_brackets_and_its_failure_in_words() -> None:
    async def test() -> None:
        with listening("::1") as port:
            pass
        with pytest.raises(NetworkError) as caught:
            await http_client.request("GET", f"http://[::1]:{port}/", timeout_s=5)
        assert str(caught.value) == f"[::1]:{port}: connection refused"
        with pytest.raises(NetworkError) as caught:
            await websocket_client.connect(f"ws://[::1]:{port}", timeout_s=5)
        assert str(caught.value) == f"ws://[::1]:{port}: connection refused"
        with pytest.raises(NetworkError) as caught:
            await rpc.resolve([f"http://[::1]:{port}"], "a." + "ab" * 32, timeout_s=5)
        assert f": connection refused (tried http://[::1]:{port})" in str(caught.value)
        with pytest.raises(NetworkError) as caught:
            await http_client.request("GET", "http://[ff02::1%lo]:1/", timeout_s=5)
        assert str(caught.value) == "[ff02::1%lo]:1: network is unreachable"

    run_on_both(test)


def test_ipv4_that_leads_nowhere_is_tried_through_nat64(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[name_servers.AddressInfo]] = []
    through: list[name_servers.AddressInfo] = []

    async def translated(addresses: list[name_servers.AddressInfo]) -> list[name_servers.AddressInfo]:
        asked.append(addresses)
        return through

    monkeypatch.setattr(nat64, "translated", translated)

    async def test() -> None:
        with listening("::1") as port:
            through[:] = resolve._look_up("::1")
            through[0] = (*through[0][:4], ("::1", port, 0, 0))
            with await dial("255.255.255.255", port) as sock:
                assert sock.getpeername()[:2] == ("::1", port)
        asked.clear()
        with pytest.raises(ConnectionRefusedError):  # refused by the NAT64's address
            await dial("255.255.255.255", port)
        through.clear()
        with pytest.raises(OSError, match="unreachable"):
            await dial("255.255.255.255", port)
        assert [addresses[0][4] for addresses in asked] == [("255.255.255.255", port)] * 2
        asked.clear()
        with pytest.raises(ConnectionRefusedError):
            await dial("127.0.0.1", port)
        assert not asked

    run_on_both(test)


@pytest.mark.parametrize("after_s", [0, 0.1, 0.3])
def test_cancelling_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch, silent: int, after_s: float) -> None:
    stands_for(monkeypatch, SILENT, SILENT)

    async def test() -> None:
        task = asyncio.create_task(dial(NAME, silent))
        await asyncio.sleep(after_s)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_on_both(test)


def test_an_address_that_is_not_admitted_is_not_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a name's addresses the others are. Where none is left the reason is the error, for a proxy too."""
    asked: list[tuple[str, int]] = []

    async def admit(address: IPv4Address | IPv6Address, port: int) -> str:
        asked.append((str(address), port))
        return f"{address} is inside" if str(address) == SILENT else ""

    async def test() -> None:
        asked.clear()
        stands_for(monkeypatch, SILENT, GOOD)
        with socket.create_server((GOOD, 0)) as good, socket.create_server((SILENT, 0)) as inside:
            inside.setblocking(False)
            port, barred = good.getsockname()[1], inside.getsockname()[1]
            with await dial(NAME, port, admit=admit) as sock:
                assert sock.getpeername() == (GOOD, port)
            assert asked == [(SILENT, port), (GOOD, port)]
            proxies = Proxies(admit=admit)
            url = f"{SILENT}:{barred}"
            for attempt in (
                dial(SILENT, barred, admit=admit),
                dial("192.0.2.1", 80, Proxy("http", SILENT, barred), admit=admit),
                websocket_client.connect(f"ws://{url}", timeout_s=5, proxies=proxies),
                http_client.request("GET", f"http://{url}/", timeout_s=5, proxies=proxies),
            ):
                with pytest.raises(NetworkError, match=f"^{SILENT} is inside"):
                    await attempt
            with pytest.raises(BlockingIOError):
                inside.accept()

    run_on_both(test)


def test_nothing_else_connects() -> None:
    """`dial` opens every connection of the package, so that proxies and look-ups have one place."""
    package = Path(resolve.__file__).parents[2]
    own = ("sock_connect", "create_connection", "open_connection")
    found = [
        f"{path.relative_to(package)}: {call}"
        for path in sorted(package.rglob("*.py"))
        for call in own
        if call in path.read_text()
    ]
    assert found == [
        "daemon/machine_ports.py: open_connection",  # ports of this machine itself
        "daemon/stream_acceptor.py: open_connection",  # targets of peers, addresses that were judged
        "io/doctor_network.py: create_connection",  # `_takes_tcp`: hosts of a provider's own subnet
        "io/http/http_client.py: open_connection",  # on a socket of `dial`
        "io/net/dial.py: sock_connect",
        "sdk/tunnel.py: open_connection",  # likewise
        "streams/kernel.py: sock_connect",  # bound to the tunnel's interface
        "streams/kernel.py: open_connection",  # on that socket
    ]
