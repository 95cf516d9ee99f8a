"""What the official nConnect puts into messages and streams, both ends.

Its server has two addresses: one for requests (admin), one for streams (tunnel). A request is an NKN message,
binary or text, and its answer is a text:

    {"id": "nConnect", "method": "getInfo", "params": null, "token": ""}
    {"result": {"addr": "x.KEY", "localIP": {"ipv4": ["10.0.0.5"]}, "tuna": false, …}}    or {"error": "…"}

A message to the tunnel address asks for a direct path of a session:

    {"action": "getPubAddr", "sessionID": "BASE64"}
    {"addrs": [{"ip": "192.0.2.1", "port": 30020}], "sessionClosed": false}

One stream is one TCP connection to a target, which stands before the client's first byte as in SOCKS5
(RFC 1928, section 5), all of it in the cipher of `nconnect.crypto.shadowsocks`:

    01 + IPv4 (4)  |  03 + length (1) + name  |  04 + IPv6 (16);  then the port (2, big-endian)
"""

from __future__ import annotations

import ipaddress
from base64 import b64decode
from dataclasses import dataclass

from nconnect.errors import ConfigError, RemoteProtocolError
from nconnect.model import Buffer, NknAddress
from nconnect.wire import strict_json

MAX_REQUEST_BYTES = 4096  # of a message; an official client's have 150 bytes
MAX_TARGET_BYTES = 1 + 1 + 255 + 2
_IPV4, _NAME, _IPV6 = 1, 3, 4


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server says of itself."""

    address: NknAddress  # for streams
    local_ips: tuple[str, ...] = ()  # IPv4, of its interfaces


@dataclass(frozen=True, slots=True)
class InfoRequest:
    """`getInfo`."""


@dataclass(frozen=True, slots=True)
class DirectRequest:
    """`getPubAddr`: where a session can be continued over TCP."""

    session_id: bytes


@dataclass(frozen=True, slots=True)
class UnknownRequest:
    """Any other method."""

    method: str


AdminRequest = InfoRequest | DirectRequest | UnknownRequest


def info_request() -> bytes:
    """The message that asks for a `ServerInfo`."""
    return strict_json.dump({"id": "nConnect", "method": "getInfo", "params": None, "token": ""}).encode()


def read_admin_request(data: Buffer | str) -> AdminRequest:
    """A message to a server. Raises `RemoteProtocolError`."""
    if len(data) > MAX_REQUEST_BYTES:
        raise RemoteProtocolError("nConnect: a request that is too long")
    members = strict_json.obj(strict_json.load(data))
    if strict_json.text(members, "action", "") == "getPubAddr":
        try:
            return DirectRequest(b64decode(strict_json.text(members, "sessionID"), validate=True))
        except ValueError:
            raise RemoteProtocolError("nConnect: the session's id is not base64") from None
    method = strict_json.text(members, "method")
    return InfoRequest() if method == "getInfo" else UnknownRequest(method)


def info_answer(info: ServerInfo) -> str:
    """The answer to `getInfo`."""
    result = {
        "addr": str(info.address),
        "localIP": {"ipv4": list(info.local_ips)},
        "adminHttpApiDisabled": True,
        "version": "",
        "tuna": False,
    }
    return strict_json.dump({"result": result})


def error_answer(why: str) -> str:
    """The answer to what is not allowed or not known."""
    return strict_json.dump({"error": why})


def direct_answer(places: list[tuple[str, int]]) -> str:
    """The answer to `getPubAddr`."""
    addrs = [{"ip": ip, "port": port} for ip, port in places]
    return strict_json.dump({"addrs": addrs, "sessionClosed": False})


def read_info(data: Buffer | str) -> ServerInfo:
    """The answer to `getInfo`. Raises `RemoteProtocolError`, with the server's words if it refused."""
    members = strict_json.obj(strict_json.load(data))
    if why := strict_json.text(members, "error", ""):
        raise RemoteProtocolError(f"the server says: {why[:200]}")
    result = strict_json.obj(members.get("result"))
    try:
        address = NknAddress.parse(strict_json.text(result, "addr"))
    except ConfigError:
        raise RemoteProtocolError("nConnect: the server's address for streams is none") from None
    ips: list[str] = []
    if (local := result.get("localIP")) is not None:
        listed = strict_json.obj(local).get("ipv4")
        for text in listed if type(listed) is list else ():
            try:
                ips.append(str(ipaddress.IPv4Address(str(text))))
            except ValueError:
                continue
    return ServerInfo(address, tuple(ips))


def target_header(host: str, port: int) -> bytes:
    """What stands before the stream. `host`: an IP address or a name of at most 255 bytes (`ValueError`)."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("idna") if not host.isascii() else host.encode()
        if not 0 < len(name) < 256:
            raise ValueError("a name has 1 to 255 bytes") from None
        head = bytes((_NAME, len(name))) + name
    else:
        head = bytes((_IPV4 if ip.version == 4 else _IPV6,)) + ip.packed
    return head + port.to_bytes(2, "big")


def read_target(data: Buffer) -> tuple[str, int, int] | None:
    """(host, port, bytes that they took) at the start of a stream; None: not all of it is there.

    A name is lower case ASCII. Raises `RemoteProtocolError`.
    """
    view = memoryview(data)
    if len(view) < 2:
        return None
    kind = view[0]
    start = 2 if kind == _NAME else 1
    if kind not in (_IPV4, _NAME, _IPV6):
        raise RemoteProtocolError(f"nConnect: no address type {kind}")
    size = view[1] if kind == _NAME else 4 if kind == _IPV4 else 16
    end = start + size + 2
    if len(view) < end:
        return None
    raw, port = bytes(view[start : start + size]), int.from_bytes(view[end - 2 : end], "big")
    if kind != _NAME:
        return str(ipaddress.ip_address(raw)), port, end
    try:
        name = raw.decode("ascii").lower()
    except UnicodeDecodeError:
        raise RemoteProtocolError("nConnect: a name that is not ASCII") from None
    if not name or not name.isprintable() or " " in name:
        raise RemoteProtocolError("nConnect: a name that is none")
    return name, port, end
