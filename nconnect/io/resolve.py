"""Host names to addresses, in threads that hold nothing up.

The loop's own resolver works in threads that the process waits for at its end; with a name server that never
answers that is over a minute. These threads end with the process.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from ipaddress import ip_address

AddressInfo = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]
MAX_LOOKUPS = 16  # under way at once; more wait for their turn until the caller's own time-out

_turns = threading.BoundedSemaphore(MAX_LOOKUPS)


async def stream_addresses(host: str, port: int) -> list[AddressInfo]:
    """What `socket.getaddrinfo` says of a TCP port, at least one address; raises OSError like it."""
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return await _in_thread(host, port)
    return _look_up(host, port)  # asks nobody


async def _in_thread(host: str, port: int) -> list[AddressInfo]:
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[AddressInfo]] = loop.create_future()

    def tell(result: list[AddressInfo] | Exception) -> None:
        if found.cancelled():
            return
        if isinstance(result, Exception):
            found.set_exception(result)
        else:
            found.set_result(result)

    def look_up() -> None:
        result: list[AddressInfo] | Exception
        with _turns:
            try:
                result = _look_up(host, port)
            except OSError as error:
                result = error
        try:
            loop.call_soon_threadsafe(tell, result)
        except RuntimeError:
            pass  # the loop has been closed meanwhile

    threading.Thread(target=look_up, name=f"look up {host}", daemon=True).start()
    return await found


def _look_up(host: str, port: int) -> list[AddressInfo]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)  # type: ignore[return-value]
    except UnicodeError:
        raise socket.gaierror(socket.EAI_NONAME, "not a host name") from None
