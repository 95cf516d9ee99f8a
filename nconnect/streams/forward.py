"""`nconnect forward`: a port here is one target behind a peer. TCP alone."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from ipaddress import ip_address

from nconnect.errors import ConfigError
from nconnect.streams.dialler import StreamRefused
from nconnect.streams.joining import join_stream, reset
from nconnect.streams.listener import ListenPlace, Program, Serve
from nconnect.streams.target import DialTarget, is_internal

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
_FORM = "write [BIND:]PORT:HOST:PORT, such as 8000:192.168.50.10:8000 (an IPv6 address in brackets)"


@dataclass(frozen=True, slots=True)
class Forward:
    """Connections to `place` go to `target`."""

    place: ListenPlace
    target: DialTarget

    def __str__(self) -> str:
        return f"{self.place} for {self.target}"

    @classmethod
    def parse(cls, text: str, *, all_names: bool = False) -> Forward:
        """`[BIND:]PORT:HOST:PORT`, as ssh -L has it. Raises `ConfigError`.

        `all_names`: also those that are not below .internal.
        """
        parts = _parts(text)
        if len(parts) not in (3, 4):
            raise ConfigError(f"{text!r}: {_FORM}")
        bind, port, host, target_port = parts if len(parts) == 4 else [LOOPBACK, *parts]
        try:
            target = DialTarget.of(host, _port(text, target_port))
        except ValueError as error:
            raise ConfigError(f"{text!r}: {error}: {_FORM}") from None
        if target.is_name and not all_names and not is_internal(target.host):
            raise ConfigError(
                f"{text!r}: {host} is not below .internal, and nobody resolves other names: write its address"
            )
        return cls(ListenPlace(_bind_host(text, bind), _port(text, port)), target)


def parse_place(text: str) -> ListenPlace:
    """`[HOST:]PORT` of `--listen`. Raises `ConfigError`."""
    parts = _parts(text)
    if len(parts) not in (1, 2):
        raise ConfigError(f"{text!r}: write [ADDRESS:]PORT, such as 127.0.0.1:1080")
    return ListenPlace(_bind_host(text, parts[0] if len(parts) == 2 else LOOPBACK), _port(text, parts[-1]))


def forwarding(target: DialTarget) -> Serve:
    """What a listener does with a connection."""

    async def serve(program: Program) -> None:
        program.on_request()
        try:
            stream = await program.open(target)
        except StreamRefused as refused:
            log.warning("%s: %s", target, refused.reason)
            reset(program.writer)
            return
        await join_stream(program.reader, program.writer, stream)

    return serve


def _parts(text: str) -> list[str]:
    """What stands between colons, where brackets keep an IPv6 address together."""
    found, rest = [], text
    while True:
        if rest.startswith("["):
            part, bracket, rest = rest[1:].partition("]")
            if not bracket or rest[:1] not in ("", ":"):
                return []
            colon, rest = rest[:1], rest[1:]
        else:
            part, colon, rest = rest.partition(":")
        found.append(part)
        if not colon:
            return found


def _port(text: str, port: str) -> int:
    if not port.isascii() or not port.isdecimal() or not 0 < int(port[:6]) < 65536:
        raise ConfigError(f"{text!r}: {port!r} is no port: write 1 to 65535")
    return int(port)


def _bind_host(text: str, host: str) -> str:
    if host == "localhost":
        return LOOPBACK
    if host == "*":
        return "0.0.0.0"
    try:
        return str(ip_address(host))
    except ValueError:
        raise ConfigError(f"{text!r}: {host!r} is no address of this machine: write 127.0.0.1, …") from None
