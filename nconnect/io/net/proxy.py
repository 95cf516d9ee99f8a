"""Asking a proxy for a connection: HTTP CONNECT (RFC 9110 section 9.3.6) and SOCKS5 (RFC 1928, 1929).

Both use a socket that is connected to the proxy, and leave it connected to the destination, without reading
any of its data. The proxy gets the destination's name and looks it up. h11 implements CONNECT, python-socks
SOCKS5 (docs/decisions/0014-proxies.md has the reasons). What a proxy may send is bounded; the caller sets a
time limit.
"""

from __future__ import annotations

import asyncio
import base64
import socket
from typing import Any, NoReturn

import h11

from nconnect.config.proxy import FORM
from nconnect.errors import LoginPageError, NetworkError, ProxyError
from nconnect.io.errors import plain_reason
from nconnect.io.http.http import header_texts
from nconnect.model import Proxy, join_addr
from nconnect.wire.login_page import login_page

_MAX_HEAD_BYTES = 16 * 1024  # guessed: what h11 takes for the head of an answer
_READ_BYTES = 4096
_NEVER_S = 3600.0  # python-socks wants a time-out; the caller's comes first
_OTHER_KIND = "look whether it is the right one, and whether it is http:// or socks5://"

# RFC 1928 section 6: replies that are the destination's fault, not the proxy's.
_SOCKS_UNREACHABLE = {3: "network is unreachable", 4: "no route to host", 5: "connection refused"}
_SOCKS_NOT_ALLOWED = 2


async def open_through(sock: socket.socket, proxy: Proxy, host: str, port: int) -> None:
    """Turn a connection to `proxy` into one to the destination, a host as in `dial`. The caller closes it.

    Raises `ProxyError` if the proxy refuses us or is not a proxy, `LoginPageError` if it answers with a login
    page, and `NetworkError` if the destination cannot be reached from there.
    """
    ask = _connect if proxy.scheme == "http" else _socks5
    try:
        await ask(sock, proxy, host, port)
    except OSError as error:
        raise ProxyError(f"the proxy {proxy} broke the connection off: {plain_reason(error)}") from error


async def _connect(sock: socket.socket, proxy: Proxy, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    wire = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
    target = join_addr(host, port)
    headers = [("Host", target)]
    if proxy.username:
        login = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
        headers.append(("Proxy-Authorization", f"Basic {login}"))
    try:
        request = wire.send(h11.Request(method="CONNECT", target=target, headers=headers)) or b""
        await loop.sock_sendall(sock, request + (wire.send(h11.EndOfMessage()) or b""))
        while (event := wire.next_event()) is h11.NEED_DATA or isinstance(event, h11.InformationalResponse):
            if event is h11.NEED_DATA:
                wire.receive_data(await loop.sock_recv(sock, _READ_BYTES))
    except h11.RemoteProtocolError:
        raise ProxyError(f"the proxy {proxy} does not speak HTTP: {_OTHER_KIND}") from None
    if not isinstance(event, h11.Response):
        raise ProxyError(f"the proxy {proxy} does not speak HTTP: {_OTHER_KIND}")
    if not 200 <= event.status_code < 300:
        _refused(event, proxy, host, port)
    if wire.trailing_data[0]:
        raise ProxyError(f"the proxy {proxy} sent data of its own into the connection: use another one")


def _refused(answer: h11.Response, proxy: Proxy, host: str, port: int) -> NoReturn:
    status = answer.status_code
    headers = dict(header_texts(answer.headers))
    if status in (401, 407):  # tinyproxy says 401 to a wrong password
        offered = headers.get("proxy-authenticate", "").partition(" ")[0]
        if offered and offered.lower() != "basic" and offered.isalnum():
            raise ProxyError(
                f"the proxy {proxy} wants a login by {offered[:20]}, which nconnect does not speak:"
                " ask who runs it for Basic, or run a local proxy that logs in to it"
            )
        if proxy.username:
            raise ProxyError(
                f"the proxy {proxy} refuses the user and password ({status}): correct them in its URL"
            )
        raise ProxyError(f"the proxy {proxy} wants a user and a password ({status}): write {FORM}")
    if status in (502, 503, 504):
        raise NetworkError(f"the proxy {proxy} cannot reach {join_addr(host, port)} (HTTP {status})")
    page = login_page(f"http://{proxy}/", status, headers.get("location", ""), "", b"")
    if page is not None:
        raise LoginPageError(page)
    if status == 403:
        raise ProxyError(
            f"the proxy {proxy} refuses connections to port {port} (403): ask who runs it to allow that,"
            " or use a node on port 443"
        )
    raise ProxyError(
        f"the proxy {proxy} answered HTTP {status} to CONNECT: look whether it is the right one, and a proxy"
    )


async def _socks5(sock: socket.socket, proxy: Proxy, host: str, port: int) -> None:
    from python_socks import ProxyError as SocksError
    from python_socks import ProxyType
    from python_socks.async_.asyncio import Proxy as SocksProxy

    client = SocksProxy(
        ProxyType.SOCKS5,
        proxy.host,
        proxy.port,
        username=proxy.username or None,
        password=proxy.password or None,
        rdns=True,
        forward=_Connected(sock),  # type: ignore[arg-type]  # how it reaches the proxy: it needs `connect` alone
    )
    try:
        await client.connect(host, port, timeout=_NEVER_S)
    except UnicodeError:
        raise NetworkError(f"{host} is not the name of a host") from None
    except SocksError as error:
        code = error.error_code
        if code in _SOCKS_UNREACHABLE:
            raise NetworkError(
                f"the proxy {proxy} cannot reach {join_addr(host, port)}: {_SOCKS_UNREACHABLE[code]}"
            ) from None
        if code == _SOCKS_NOT_ALLOWED:
            raise ProxyError(
                f"the proxy {proxy} refuses connections to port {port}: ask who runs it to allow that,"
                " or use a node on port 443"
            ) from None
        why = " ".join(str(error).lower().split())[:80]
        login = "authentication" in why
        advice = f"correct user and password in its URL, {FORM}" if login else _OTHER_KIND
        raise ProxyError(f"the proxy {proxy} refused ({why}): {advice}") from None


class _Connected:
    """Gives python-socks our existing connection to the proxy, where it would open one."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def connect(self, **_: Any) -> socket.socket:
        return self._sock
