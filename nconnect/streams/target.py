"""What a program asks for: a host in text and a port; and how a refusal is told to it. Pure."""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from nconnect.model import join_addr
from nconnect.offers.name_codec import ZONE

MAX_NAME = 253  # characters of a DNS name (RFC 1035, section 3.1)
_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")


class RefusedRequest(Exception):
    """What a program sent is not a request that can be granted. `answer`: what it is told before the end."""

    def __init__(self, why: str, answer: bytes = b"", *, is_login: bool = False) -> None:
        super().__init__(why)
        self.why = why  # a clause, for the log
        self.answer = answer
        self.is_login = is_login  # the password is missing or wrong


@dataclass(frozen=True, slots=True)
class DialTarget:
    """A host (an address in its shortest form, or a name in lower case) and a port, 1 to 65535."""

    host: str
    port: int

    def __str__(self) -> str:
        return join_addr(self.host, self.port)

    @property
    def is_name(self) -> bool:
        return ":" not in self.host and not _last(self.host).isdecimal()

    @classmethod
    def of(cls, host: str, port: int) -> DialTarget:
        """Raises `ValueError` for what is no target."""
        if not 0 < port < 65536:
            raise ValueError("the port is 0")
        return cls(clean_host(host), port)


def clean_host(text: str) -> str:
    """An address or a host name, in one form. Raises `ValueError` with a clause."""
    try:
        address = ip_address(text)
    except ValueError:
        name = text.lower().removesuffix(".")
        # A last label of digits is an address in a form that only some programs read (RFC 3696, section 2).
        if len(name) > MAX_NAME or not _NAME.fullmatch(name) or re.fullmatch(r"\d+|0x.*", _last(name)):
            raise ValueError("the host is neither an address nor a name") from None
        return name
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise ValueError("an address with a zone leads to nowhere")
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
    return str(address)


def is_internal(name: str) -> bool:
    """Whether a cleaned name lies below .internal."""
    return name.endswith(f".{ZONE}")


def is_password(given: bytes, password: bytes) -> bool:
    """Whether it is the password; takes the same time whatever is wrong with it."""
    return hmac.compare_digest(given, password)


def _last(name: str) -> str:
    return name.rpartition(".")[2]
