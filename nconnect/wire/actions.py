"""The JSON actions that client and node exchange in text frames: login, redirects, block hashes, errors.

    node    {"Action":"authChallenge","Challenge":hex32,"Error":0,…}
    client  {"Action":"setClient","Addr":address,"ClientSalt":hex32,"Signature":hex64}
    node    {"Action":"setClient","Error":0,"Result":{"node":{…},"sigChainBlockHash":hex,"waives":[…]}}
    node    {"Action":"","Error":48001,"Result":{node to use instead},…}
    node    {"Action":"updateSigChainBlockHash","Error":0,"Result":hex}

`waives` is our extension: with it a node of this project says that it does not check signatures of messages
and does not need masked frames. Other nodes leave it out, and SDKs ignore it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from nconnect.errors import RemoteProtocolError
from nconnect.model import Buffer
from nconnect.wire import strict_json
from nconnect.wire.jsonrpc import NodeInfo

# Error codes of the official node (api/common/errcode).
SUCCESS = 0
ILLEGAL_DATA_FORMAT = 41003
INVALID_METHOD = 42001
INVALID_PARAMS = 42002
INVALID_SIGNATURE = 42003
INVALID_JSON = 42004
INTERNAL_ERROR = 45001
WRONG_NODE = 48001
ERROR_TEXTS = {
    ILLEGAL_DATA_FORMAT: "ILLEGAL DATAFORMAT",
    INVALID_METHOD: "INVALID METHOD",
    INVALID_PARAMS: "INVALID PARAMS",
    INVALID_SIGNATURE: "VERIFY SIGNATURE ERROR",
    INVALID_JSON: "INVALID JSON",
    INTERNAL_ERROR: "INTERNAL ERROR",
}

_MAX_HASH_BYTES = 64


class Waiver(Enum):
    """What a node does not require. Values are the names on the wire."""

    SIGNATURES = "signatures"
    MASK = "mask"


@dataclass(frozen=True, slots=True)
class AuthChallenge:
    """Node: sign this to log in."""

    challenge: bytes  # 32 bytes

    def encode(self) -> str:
        return _encode("authChallenge", Challenge=self.challenge.hex())


@dataclass(frozen=True, slots=True)
class SetClient:
    """Client: log in. Old clients leave salt and signature out."""

    address: str
    salt: bytes
    signature: bytes

    def encode(self) -> str:
        return strict_json.dump(
            {
                "Action": "setClient",
                "Addr": self.address,
                "ClientSalt": self.salt.hex(),
                "Signature": self.signature.hex(),
            }
        )


@dataclass(frozen=True, slots=True)
class ClientSet:
    """Node: logged in."""

    node: NodeInfo | None  # None: the node did not describe itself
    block_hash: bytes  # to be signed in messages; may be empty
    waives: frozenset[Waiver] = frozenset()

    def encode(self) -> str:
        result: dict[str, object] = {"sigChainBlockHash": self.block_hash.hex()}
        if self.node:
            result["node"] = self.node.to_json()
        if self.waives:
            result["waives"] = sorted(waiver.value for waiver in self.waives)
        return _encode("setClient", Result=result)


@dataclass(frozen=True, slots=True)
class WrongNode:
    """Node: go to that one. May come at any time."""

    node: NodeInfo

    def encode(self) -> str:
        return _encode("", WRONG_NODE, "WRONG NODE TO CONNECT", Result=self.node.to_json())


@dataclass(frozen=True, slots=True)
class BlockHashUpdate:
    """Node: sign this block hash from now on."""

    block_hash: bytes

    def encode(self) -> str:
        return _encode("updateSigChainBlockHash", Result=self.block_hash.hex())


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """Node: an error answer to `action` ("" when the node did not say to which)."""

    action: str
    code: int
    description: str

    def encode(self) -> str:
        return _encode(self.action, self.code, self.description)


@dataclass(frozen=True, slots=True)
class UnknownAction:
    """Any other action: a client ignores it, a node answers INVALID_METHOD."""

    action: str


NodeAction = AuthChallenge | ClientSet | WrongNode | BlockHashUpdate | ErrorReply | UnknownAction


def parse_node_action(data: Buffer | str) -> NodeAction:
    """Client side: read a text frame from a node. Raises `RemoteProtocolError`.

    Raises `RemoteProtocolError` if an action that a client acts on is malformed. An action of another type is
    an `UnknownAction`.
    """
    members = strict_json.obj(strict_json.load(data))
    action = strict_json.text_or_empty(members, "Action")
    code = strict_json.number(members, "Error", SUCCESS)
    if code == WRONG_NODE:
        return WrongNode(NodeInfo.from_json(members.get("Result")))
    if code != SUCCESS:
        return ErrorReply(action, code, strict_json.text_or_empty(members, "Desc"))
    if action == "authChallenge":
        return AuthChallenge(strict_json.hex_bytes(members, "Challenge", 32))
    if action == "setClient":
        result = strict_json.obj(members.get("Result"))
        node = result.get("node")
        return ClientSet(
            None if node is None else NodeInfo.from_json(node),
            _hash(result, "sigChainBlockHash"),
            _waivers(result.get("waives")),
        )
    if action == "updateSigChainBlockHash":
        return BlockHashUpdate(_hash(members, "Result"))
    return UnknownAction(action)


def parse_client_action(data: Buffer | str) -> SetClient | UnknownAction:
    """Node side: read a text frame from a client. Raises `RemoteProtocolError`.

    A login without salt and signature, as old clients send it, is refused: this project's node is strict.
    """
    members = strict_json.obj(strict_json.load(data))
    action = strict_json.text(members, "Action")
    if action != "setClient":
        return UnknownAction(action)
    return SetClient(
        strict_json.text(members, "Addr"),
        strict_json.hex_bytes(members, "ClientSalt", 32),
        strict_json.hex_bytes(members, "Signature", 64),
    )


def _encode(action: str, code: int = SUCCESS, description: str = "SUCCESS", **members: object) -> str:
    return strict_json.dump({"Action": action, "Desc": description, "Error": code, **members, "Version": 1})


def _hash(members: strict_json.Members, name: str) -> bytes:
    value = strict_json.hex_bytes(members, name, default="")
    if len(value) > _MAX_HASH_BYTES:
        raise RemoteProtocolError(f"JSON: {name} is longer than a hash")
    return value


def _waivers(value: object) -> frozenset[Waiver]:
    """The known waivers in `value`; none if it is malformed."""
    if type(value) is not list:
        return frozenset()
    return frozenset(waiver for waiver in Waiver if waiver.value in value)
