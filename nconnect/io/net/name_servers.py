"""A stub resolver that asks all configured name servers at once (RFC 1035), for when the system's is slow.

glibc asks at most three servers, one after another, for 5 s each: if the first ones are dead, that takes
longer than any connection waits. Here all servers of resolv.conf get the questions (A and AAAA) at the same
time, again after 1, 2 and 4 s, and the first that knows an address wins. Names that DNS alone cannot
resolve (a single label, `.local`) are left to the system. dnspython reads and writes the messages.
"""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from nconnect.model import Address

if TYPE_CHECKING:  # 35 ms and 6 MB, for something that is hardly ever needed
    import dns.message

AddressInfo = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]

RESOLV_CONF = Path("/etc/resolv.conf")
RESOLVED_CONF = Path("/run/systemd/resolve/resolv.conf")
PORT = 53
MAX_SERVERS = 8
PAUSES_S = (1.0, 2.0, 4.0)  # between two rounds of questions; the last one goes on
OTHER_FAMILY_S = 0.05  # RFC 8305, section 3: "Resolution Delay"
_MAX_DATAGRAM = 4096


async def ask(host: str) -> list[AddressInfo]:
    """The addresses that a name server knows, with port 0, IPv6 first; [] if none can be asked or knows one.

    It has no time limit; cancelling is safe.
    """
    if "." not in host.strip(".") or host.rstrip(".").endswith(".local"):
        return []
    question = _Question.of(host)
    if question is None:
        return []
    try:
        for number in range(1 << 30):
            question.send_to(await asyncio.to_thread(servers))
            pause_s = PAUSES_S[min(number, len(PAUSES_S) - 1)]
            await asyncio.wait([question.answer], timeout=pause_s)
            if question.answer.done():
                return question.answer.result()
        return []
    finally:
        question.close()


def servers() -> list[str]:
    """The servers of resolv.conf, each once; more than glibc's three. Reads the file."""
    return _servers_in(RESOLV_CONF)[:MAX_SERVERS]


def of_this_machine() -> list[Address]:
    """The servers that finally answer: also those behind systemd-resolved."""
    found = [*_servers_in(RESOLV_CONF), *_servers_in(RESOLVED_CONF)]
    return list(dict.fromkeys(ip_address(server.partition("%")[0]) for server in found))


def search_domains() -> list[str]:
    """The domains of resolv.conf that are tried behind names without a dot, in lower case. Reads the file."""
    lines = [words for words in _words(RESOLV_CONF) if words[0] in ("search", "domain")]
    return [domain.strip(".").lower() for words in lines for domain in words[1:]]


def search_line() -> str:
    """The line of resolv.conf that names them, with its end; "" when there is none. Reads the file."""
    domains = search_domains()
    return f"search {' '.join(domains)}\n" if domains else ""


def _words(path: Path) -> list[list[str]]:
    """Of each line that is not empty."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [words for line in lines if (words := line.split())]


def _servers_in(path: Path) -> list[str]:
    found = []
    for words in _words(path):
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            ip_address(words[1].partition("%")[0])
        except ValueError:
            continue
        found.append(words[1])
    return list(dict.fromkeys(found))


class _Question:
    """One question to all servers, and their answers so far."""

    def __init__(self, queries: list[dns.message.QueryMessage]) -> None:
        self.answer: asyncio.Future[list[AddressInfo]] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._queries = queries
        self._sockets: dict[str, socket.socket | None] = {}  # None: it cannot be asked, or knows no address
        self._said: dict[str, dict[int, list[str]]] = {}  # server -> which query -> addresses
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def of(cls, host: str) -> _Question | None:
        """None when it is no name that DNS can hold."""
        import dns.exception
        import dns.message

        try:
            return cls([dns.message.make_query(host, kind) for kind in ("AAAA", "A")])
        except dns.exception.DNSException:
            return None

    def send_to(self, servers: list[str]) -> None:
        """Ask each server that has not answered yet."""
        for server in servers:
            if server not in self._sockets:
                self._sockets[server] = self._open(server)
            sock = self._sockets[server]
            try:
                for query in self._queries if sock is not None else ():
                    sock.send(query.to_wire())  # type: ignore[union-attr]
            except BlockingIOError:
                pass  # like a packet that is lost on the way
            except OSError:
                self._give_up(server)
        self._end_if_hopeless()

    def _open(self, server: str) -> socket.socket | None:
        sock = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.connect((server, PORT))  # so that only this server's datagrams are taken
            self._loop.add_reader(sock, self._on_readable, server, sock)
        except OSError:
            sock.close()
            return None
        return sock

    def _on_readable(self, server: str, sock: socket.socket) -> None:
        try:
            data = sock.recv(_MAX_DATAGRAM)
        except BlockingIOError:
            return
        except OSError:  # nothing listens there
            self._give_up(server)
        else:
            self._read(server, data)
        self._end_if_hopeless()

    def _read(self, server: str, data: bytes) -> None:
        import dns.exception
        import dns.message
        import dns.rcode

        try:
            response = dns.message.from_wire(data)
            number = next(n for n, query in enumerate(self._queries) if query.is_response(response))
            if response.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                self._give_up(server)
                return
            assert isinstance(response, dns.message.QueryMessage)
            answer = response.resolve_chaining().answer
        except (dns.exception.DNSException, ValueError, StopIteration):
            return  # no answer to this question: it may still come
        said = self._said.setdefault(server, {})
        said[number] = [record.address for record in answer or ()]
        if len(said) < len(self._queries):
            if said[number] and self._timer is None:
                self._timer = self._loop.call_later(OTHER_FAMILY_S, self._end)
        elif any(said.values()):
            self._end()
        else:
            self._give_up(server)

    def _end(self) -> None:
        """Take what the first server said that named an address."""
        for said in self._said.values():
            found = [_info(address) for number in sorted(said) for address in said[number]]
            if found and not self.answer.done():
                self.answer.set_result(found)

    def _end_if_hopeless(self) -> None:
        if not any(self._sockets.values()) and not self.answer.done():
            self.answer.set_result([])

    def _give_up(self, server: str) -> None:
        sock = self._sockets[server]
        if sock is not None:
            self._loop.remove_reader(sock)
            sock.close()
            self._sockets[server] = None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for server in self._sockets:
            self._give_up(server)


def _info(address: str) -> AddressInfo:
    if ":" in address:
        return socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, 0, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, 0)
