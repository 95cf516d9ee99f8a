"""Our own name server, for the names of peers alone: an authoritative answer for each, and nothing else.

It answers UDP on a loopback socket that systemd-resolved is told about, for A and AAAA (RFC 1035, RFC 3596,
EDNS by RFC 6891). Every other name is refused (REFUSED), so nothing passes through it, and it asks nobody. An
answer holds for no time (TTL 0), so that a name that is withdrawn is gone at once. dnspython reads and writes
the messages.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from ipaddress import ip_address

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from nconnect.model import Address
from nconnect.offers.name_codec import domains

MAX_QUESTION = 1232  # larger than any question for one name
MAX_READ = 32  # datagrams in one turn of the loop
_KINDS = {dns.rdatatype.A: 4, dns.rdatatype.AAAA: 6}

Known = Callable[[], Mapping[str, tuple[Address, ...]]]


class NameStub:
    """Answers on a socket: call `on_readable` when it is readable. `counts`: answered, refused, dropped."""

    def __init__(self, sock: socket.socket, known: Known) -> None:
        """`known`: the names now, in lower case, without a dot at the end."""
        sock.setblocking(False)
        self.sock = sock
        self.counts = {"answered": 0, "refused": 0, "dropped": 0}
        self._known = known

    def on_readable(self) -> None:
        """Answer what is there."""
        for _ in range(MAX_READ):
            try:
                data, source = self.sock.recvfrom(MAX_QUESTION + 1)
            except OSError:
                return
            answer = reply(data, self._known()) if _is_of_this_host(source[0]) else None
            if answer is None:
                self.counts["dropped"] += 1
                continue
            is_refused = answer.rcode() != dns.rcode.NOERROR
            self.counts["refused" if is_refused else "answered"] += 1
            with suppress(OSError):
                self.sock.sendto(answer.to_wire(), source)


def reply(data: bytes, known: Mapping[str, tuple[Address, ...]]) -> dns.message.Message | None:
    """The answer to a message; None when it is no question."""
    if len(data) > MAX_QUESTION:
        return None
    try:
        query = dns.message.from_wire(data)
        if len(query.question) != 1:
            return None
        answer = dns.message.make_response(query)  # raises when it is an answer itself
    except (dns.exception.DNSException, ValueError):
        return None
    if query.opcode() != dns.opcode.QUERY:
        answer.set_rcode(dns.rcode.NOTIMP)
        return answer
    question = query.question[0]
    name = question.name.to_text(omit_final_dot=True).lower()
    if question.rdclass != dns.rdataclass.IN or not _is_beneath(name, domains(known)):
        answer.set_rcode(dns.rcode.REFUSED)
        return answer
    answer.flags |= dns.flags.AA
    if name not in known:
        answer.set_rcode(dns.rcode.NXDOMAIN)
        return answer
    version = _KINDS.get(question.rdtype)
    texts = [str(address) for address in known[name] if address.version == version]
    if texts:
        answer.answer.append(dns.rrset.from_text_list(question.name, 0, "IN", question.rdtype, texts))
    return answer


def _is_beneath(name: str, ours: tuple[str, ...]) -> bool:
    return ".".join(name.split(".")[-2:]) in ours


def _is_of_this_host(source: str) -> bool:
    return ip_address(source).is_loopback
