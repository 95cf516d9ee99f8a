"""Opens TCP connections: the only place where the package connects to anything but a unix socket.

A name's addresses are tried as in RFC 8305 ("Happy Eyeballs"): IP versions interleaved, the next address as
soon as one fails or has been silent for 0.25 s, and the first that connects wins. So an address that drops
packets costs a quarter of a second instead of a time-out. aiohappyeyeballs implements this.

If there is no route for IPv4, IPv4 addresses are tried once more through the network's NAT64, if it has one.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
from ipaddress import ip_address

import aiohappyeyeballs

from nconnect.config.proxy import Admit
from nconnect.errors import NetworkError, ProxyError
from nconnect.io.errors import plain_reason
from nconnect.io.net import nat64
from nconnect.io.net.name_servers import AddressInfo
from nconnect.io.net.proxy import open_through
from nconnect.io.net.resolve import stream_addresses
from nconnect.model import Address, Proxy

PROXY_S = 4.0  # guessed; below the 5 s that an attempt has, so that the error names the proxy
ATTEMPT_DELAY_S = 0.25  # RFC 8305, section 8: "Connection Attempt Delay"

# If addresses fail for different reasons, report the most informative one: first an address's answer, then a
# problem on the path to it.
_TELLING = (
    errno.ECONNREFUSED, errno.ECONNRESET, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH,
)  # fmt: skip
_ERRNO = re.compile(r"\[Errno (\d+)\]")


async def dial(
    host: str, port: int, proxy: Proxy | None = None, *, admit: Admit | None = None
) -> socket.socket:
    """Connect to a TCP port: a connected, non-blocking, close-on-exec socket with TCP_NODELAY.

    `host` is a name, an IPv4 or an IPv6 address without brackets. There is no time limit: the caller sets
    one (`asyncio.timeout`); cancelling leaves nothing open. Raises OSError, whose `plain_reason` says why
    the name has no address, or why no address could be connected to.

    `admit` returns why an address must not be connected to, or "". If no other address is left, that reason
    is raised as a `NetworkError`.

    With a `proxy`, connects to the proxy and asks it for the connection; the proxy looks up the name. This
    may take `PROXY_S`. Raises `ProxyError`, and what `open_through` raises.
    """
    if proxy is None:
        return await _dial_directly(host, port, admit)
    try:
        async with asyncio.timeout(PROXY_S):
            return await _dial_through(proxy, host, port, admit)
    except TimeoutError:
        raise ProxyError(
            f"the proxy {proxy} did not answer within {PROXY_S:g} s: look whether it is the right one"
        ) from None


async def dial_from(source: Address, host: str, port: int) -> socket.socket:
    """Connect to an address from one of this machine's, both of one IP version; as `dial`. Raises OSError."""
    family = socket.AF_INET if source.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((str(source), 0))
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
    except BaseException:
        sock.close()
        raise
    return sock


async def _dial_through(proxy: Proxy, host: str, port: int, admit: Admit | None) -> socket.socket:
    try:
        sock = await _dial_directly(proxy.host, proxy.port, admit)
    except OSError as error:
        raise ProxyError(f"the proxy {proxy} cannot be reached: {plain_reason(error)}") from error
    try:
        await open_through(sock, proxy, host, port)
    except BaseException:
        sock.close()
        raise
    return sock


async def _dial_directly(host: str, port: int, admit: Admit | None) -> socket.socket:
    addresses = await _admitted(await stream_addresses(host, port), admit)
    try:
        return await _connect(addresses)
    except OSError as error:
        if error.errno not in (errno.ENETUNREACH, errno.EHOSTUNREACH):
            raise
        translated = await nat64.translated(addresses)
        if not translated:
            raise
    return await _connect(await _admitted(translated, admit))


async def _admitted(addresses: list[AddressInfo], admit: Admit | None) -> list[AddressInfo]:
    """The addresses that may be connected to, at least one."""
    if admit is None:
        return addresses
    whys = [await admit(ip_address(str(info[4][0])), int(info[4][1])) for info in addresses]
    if all(whys):
        raise NetworkError(whys[0])
    return [info for info, why in zip(addresses, whys, strict=True) if not why]


async def _connect(addresses: list[AddressInfo]) -> socket.socket:
    task = asyncio.current_task()
    assert task is not None
    cancelled = task.cancelling()
    try:
        sock = await aiohappyeyeballs.start_connection(
            addresses, happy_eyeballs_delay=ATTEMPT_DELAY_S, socket_factory=_new_socket
        )
    except (OSError, RuntimeError) as error:  # uvloop may raise RuntimeError
        raise _in_words(error) from error
    if task.cancelling() > cancelled:  # the race swallows a cancellation that arrives while it ends
        sock.close()
        raise asyncio.CancelledError
    return sock


def _new_socket(address: AddressInfo) -> socket.socket:
    family, kind, protocol, _, _ = address
    sock = socket.socket(family, kind, protocol)  # close-on-exec like all of Python's
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        sock.close()
        raise
    return sock


def _in_words(error: OSError | RuntimeError) -> OSError:
    """The most informative of the errors that the race has joined into one, as "[Errno N]" each."""
    if isinstance(error, OSError) and error.errno:
        return OSError(error.errno, os.strerror(error.errno))
    found = [int(number) for number in _ERRNO.findall(str(error))]
    if not found:
        return OSError(str(error))
    number = min(found, key=lambda n: _TELLING.index(n) if n in _TELLING else len(_TELLING))
    return OSError(number, os.strerror(number))
