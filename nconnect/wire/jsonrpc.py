"""JSON-RPC 2.0 as NKN's seeds and nodes speak it over HTTP POST, both ends, and `NodeInfo`.

    {"id": 1, "jsonrpc": "2.0", "method": "getwsaddr", "params": {"address": "…"}}
    {"id": 1, "jsonrpc": "2.0", "result": {"addr": "203.0.113.7:30002", "rpcAddr": …, "pubkey": …, "id": …}}
    {"id": 1, "jsonrpc": "2.0", "error": {"code": -42001, "message": "INVALID METHOD"}}

Hostile content is a `RemoteProtocolError`; a well-formed error answer is an `RpcError` value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any

from nconnect.errors import RemoteProtocolError
from nconnect.model import Buffer, join_addr
from nconnect.wire import strict_json

Id = str | int | float | None

# JSON-RPC 2.0 section 5.1.
PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602

MAX_BATCH = 100  # guessed: SDKs send single requests

_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?\.?")
_PORT = re.compile(r"[0-9]{1,5}")
_KEY = re.compile(r"[0-9a-f]{64}")
_ID = re.compile(r"(?:[0-9a-f]{2}){0,64}")


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node as RPC answers describe it. Hosts that are IPv6 addresses stand in brackets."""

    addr: str  # websocket, host:port without a scheme
    rpc_addr: str  # host:port, "" when the node named none
    public_key: str  # Ed25519, 64 hex digits, lower case
    id: str  # the node's place on the ring, hex, "" when the node named none
    fingerprint: str = ""  # SHA-256 of its TLS certificate's DER, hex; "" when the node named none
    stun_ports: tuple[int, ...] = ()  # UDP ports of its host that answer STUN

    @property
    def public_key_bytes(self) -> bytes:
        """The 32 bytes of the key: they are part of what a client signs."""
        return bytes.fromhex(self.public_key)

    @classmethod
    def from_json(cls, value: object) -> NodeInfo:
        """Read a JSON object; raise `RemoteProtocolError` if the address or the key is unusable.

        A client does not need the other members: if they are malformed they become "". The official node
        writes ":0" for RPC over TLS that it does not serve, and IPv6 addresses without brackets.
        """
        members = strict_json.obj(value)
        addr = join_addr(*split_addr(strict_json.text(members, "addr")))
        public_key = strict_json.text(members, "pubkey").lower()
        if not _KEY.fullmatch(public_key):
            raise RemoteProtocolError("node: pubkey must be 64 hex digits")
        try:
            rpc_addr = join_addr(*split_addr(strict_json.text(members, "rpcAddr", "")))
        except RemoteProtocolError:
            rpc_addr = ""
        id = strict_json.text_or_empty(members, "id").lower()
        fingerprint = strict_json.text_or_empty(members, "fingerprint").lower()
        return cls(
            addr,
            rpc_addr,
            public_key,
            id if _ID.fullmatch(id) else "",
            fingerprint if _KEY.fullmatch(fingerprint) else "",
            _stun_ports(members.get("stunPorts")),
        )

    def to_json(self) -> dict[str, object]:
        """As official nodes describe themselves; what only ours have is left out where it is empty."""
        told: dict[str, object] = {
            "addr": self.addr,
            "rpcAddr": self.rpc_addr,
            "pubkey": self.public_key,
            "id": self.id,
        }
        if self.fingerprint:
            told["fingerprint"] = self.fingerprint
        if self.stun_ports:
            told["stunPorts"] = list(self.stun_ports)
        return told


def _stun_ports(value: object) -> tuple[int, ...]:
    """Two different ports, or none: a client can do without."""
    if not isinstance(value, list) or len(value) != 2 or value[0] == value[1]:
        return ()
    return tuple(value) if all(type(port) is int and 0 < port < 65536 for port in value) else ()


def split_addr(addr: str) -> tuple[str, int]:
    """`host:port`, `[IPv6]:port` or `IPv6:port` -> (host without brackets, port).

    Raises `RemoteProtocolError` for anything else.
    """
    host, colon, port = addr.rpartition(":")
    if not colon or not _PORT.fullmatch(port) or not 0 < int(port) < 65536:
        raise RemoteProtocolError("node: an address must be host:port")
    if ":" in host:
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        try:
            # No zone ("%eth0"): it means nothing on another machine, and may hold any character.
            if "%" in bare:
                raise ValueError
            IPv6Address(bare)
        except ValueError:
            raise RemoteProtocolError("node: a host with colons must be an IPv6 address") from None
        return bare, int(port)
    if not _HOST.fullmatch(host):
        raise RemoteProtocolError("node: not a host name or address")
    return host, int(port)


# --- caller ---


@dataclass(frozen=True, slots=True)
class RpcError:
    """The other side answered with an error."""

    code: int
    message: str
    data: str = ""  # details; official nodes give the reason here


def encode_request(method: str, params: Mapping[str, object], *, id: Id = 1) -> bytes:
    """The body of a request."""
    return strict_json.dump({"id": id, "jsonrpc": "2.0", "method": method, "params": params}).encode()


def parse_response(data: Buffer) -> Any | RpcError:
    """The `result` of an answer, or an `RpcError`. Raises `RemoteProtocolError`.

    `id` and `jsonrpc` are not checked: an HTTP response answers the request on the same connection, and the
    official node answers `"id":"1"` to every request whose id is not a string. Members of an error that have
    a wrong type are ignored. The result is any JSON value; the caller must check it.
    """
    members = strict_json.obj(strict_json.load(data))
    error = members.get("error")
    if error is not None:
        fields = error if type(error) is dict else {"message": error}
        try:
            code = strict_json.number(fields, "code", 0)
        except RemoteProtocolError:
            code = 0
        return RpcError(
            code, strict_json.text_or_empty(fields, "message"), strict_json.text_or_empty(fields, "data")
        )
    if "result" not in members:
        raise RemoteProtocolError("RPC: an answer with neither result nor error")
    return members["result"]


# --- server ---


@dataclass(frozen=True, slots=True)
class RpcRequest:
    """A request to answer. Requests without an id (notifications) are answered too, as NKN's nodes do."""

    id: Id
    method: str
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BadRequest:
    """A malformed request, to be answered with an error."""

    id: Id
    code: int
    message: str


@dataclass(frozen=True, slots=True)
class RequestBody:
    """What a POST carried: one request, or a batch whose answers go back as a list."""

    requests: tuple[RpcRequest | BadRequest, ...]
    is_batch: bool


def parse_requests(data: Buffer) -> RequestBody:
    """Read the body of a POST. Never raises: a malformed request is a `BadRequest` to answer."""
    try:
        value = strict_json.load(data)
    except RemoteProtocolError as error:
        return RequestBody((BadRequest(None, PARSE_ERROR, str(error)),), is_batch=False)
    if type(value) is not list:
        return RequestBody((_request(value),), is_batch=False)
    if not 0 < len(value) <= MAX_BATCH:
        wrong = BadRequest(None, INVALID_REQUEST, f"a batch holds 1 to {MAX_BATCH} requests")
        return RequestBody((wrong,), is_batch=False)
    return RequestBody(tuple(_request(item) for item in value), is_batch=True)


def result(id: Id, value: object) -> dict[str, object]:
    """An answer object."""
    return {"id": id, "jsonrpc": "2.0", "result": value}


def error(id: Id, code: int, message: str, data: str | None = None) -> dict[str, object]:
    """An error answer object; `data` says more."""
    told: dict[str, object] = {"code": code, "message": message}
    if data is not None:
        told["data"] = data
    return {"id": id, "jsonrpc": "2.0", "error": told}


def encode_answers(answers: Sequence[Mapping[str, object]], *, is_batch: bool) -> bytes:
    """The body of the HTTP answer."""
    return strict_json.dump(list(answers) if is_batch else answers[0]).encode()


def _request(value: object) -> RpcRequest | BadRequest:
    id: Id = None
    code = INVALID_REQUEST
    try:
        members = strict_json.obj(value)
        given = members.get("id")
        if given is not None and type(given) not in (str, int, float):
            raise RemoteProtocolError("RPC: id must be a string or a number")
        id = given
        _check_version(members)
        code = INVALID_PARAMS
        params = members.get("params")
        checked = {} if params is None else strict_json.obj(params)
        code = METHOD_NOT_FOUND
        return RpcRequest(id, strict_json.text(members, "method"), checked)
    except RemoteProtocolError as problem:
        return BadRequest(id, code, str(problem))


def _check_version(members: Mapping[str, Any]) -> None:
    # It may be absent: official nodes do not require it, and some callers leave it out.
    if strict_json.text(members, "jsonrpc", "2.0") != "2.0":
        raise RemoteProtocolError("RPC: not version 2.0")
