"""NKN's chain as clients need it: topics, names, and the transactions that subscribe and unsubscribe.

A subscription says that a client (key and identifier) belongs to a topic until a block height, with a public
text, its `meta`. A name is registered for a key. Both are read over JSON-RPC; a subscription is written by a
transaction, which is signed and sent as hex. Amounts count 1e-8 NKN; the fee is always 0 here.

A transaction (proto3; nkn: pb/transaction.proto):

    Transaction   1 unsigned: UnsignedTx, 2 program: Program
    UnsignedTx    1 payload: Payload, 2 nonce uint64, 3 fee int64, 4 attributes bytes
    Payload       1 type, 2 data: for type 6 Subscribe, for type 7 Unsubscribe
    Subscribe     1 subscriber (key, 32 bytes), 2 identifier, 3 topic, 5 duration in blocks, 6 meta bytes
    Unsubscribe   1 subscriber, 2 identifier, 3 topic
    Program       1 code: 0x20, key, 0xac; 2 parameter: 0x40, signature

What is signed is SHA-256 of: type (4 bytes), size and data, nonce (8 bytes), fee (8 bytes), size and
attributes; all numbers little endian, a size as `_size` writes it. SHA-256 of that digest is the
transaction's hash. The nonce counts the transactions of a wallet, which is named by the hash of its code.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass

from nconnect.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from nconnect.model import NknAddress
from nconnect.wire import strict_json
from nconnect.wire.protobuf import bytes_field, string_field, uint_field

MAX_DURATION_BLOCKS = 400_000  # the official node's limits, these four
MAX_IDENTIFIER_CHARS = 64
MAX_META_BYTES = 1024
MAX_SUBSCRIBERS = 1000  # in one answer

_SUBSCRIBE, _UNSUBSCRIBE = 6, 7
_TOPIC = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{2,254}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]{5,62}")
_HEX_KEY = re.compile(r"[0-9a-fA-F]{64}")
_WALLET_PREFIX = bytes.fromhex("02b825")
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


# --- transactions ---


@dataclass(frozen=True, slots=True)
class ChainPayload:
    """What a transaction does: its type, and the data of that type (an encoded message)."""

    kind: int
    data: bytes


def subscribe(subscriber: NknAddress, topic: str, duration: int, meta: str) -> ChainPayload:
    """Subscribe a client for `duration` blocks, or change its meta and extend it.

    Raises `ConfigError` for what nodes refuse.
    """
    check_topic(topic)
    if not 1 <= duration <= MAX_DURATION_BLOCKS:
        raise ConfigError(f"a subscription lasts 1 to {MAX_DURATION_BLOCKS} blocks, not {duration}")
    if len(meta.encode()) > MAX_META_BYTES:
        raise ConfigError(f"meta has at most {MAX_META_BYTES} bytes, not {len(meta.encode())}")
    data = (_subscriber(subscriber), string_field(3, topic), uint_field(5, duration), string_field(6, meta))
    return ChainPayload(_SUBSCRIBE, b"".join(data))


def unsubscribe(subscriber: NknAddress, topic: str) -> ChainPayload:
    """End a subscription. Raises `ConfigError` for what nodes refuse."""
    check_topic(topic)
    return ChainPayload(_UNSUBSCRIBE, _subscriber(subscriber) + string_field(3, topic))


@dataclass(frozen=True, slots=True)
class Transaction:
    """A signed transaction: its bytes as `sendrawtransaction` takes them (as hex), and its hash (hex)."""

    encoded: bytes
    hash: str


def transaction(
    payload: ChainPayload, *, nonce: int, public_key: bytes, sign: Callable[[bytes], bytes]
) -> Transaction:
    """Sign a payload with the key whose `sign` makes Ed25519 signatures. The fee is 0, no attributes."""
    signed = b"".join(
        (
            payload.kind.to_bytes(4, "little"),
            _size(len(payload.data)),
            payload.data,
            nonce.to_bytes(8, "little"),
            bytes(8),  # fee
            _size(0),  # attributes
        )
    )
    digest = hashlib.sha256(signed).digest()
    program = bytes_field(1, _code(public_key)) + bytes_field(2, b"\x40" + sign(digest))
    body = uint_field(1, payload.kind) + bytes_field(2, payload.data)
    unsigned = bytes_field(1, body) + uint_field(2, nonce)
    return Transaction(bytes_field(1, unsigned) + bytes_field(2, program), hashlib.sha256(digest).hexdigest())


def wallet_address(public_key: bytes) -> str:
    """The wallet (NKN...) of an Ed25519 key, whose transactions the nonce counts.

    Raises `LocalProtocolError` if this Python's OpenSSL has no RIPEMD-160.
    """
    try:
        ripemd = hashlib.new("ripemd160", usedforsecurity=False)
    except ValueError:
        raise LocalProtocolError(
            "this Python's OpenSSL has no RIPEMD-160, which NKN's wallets need"
        ) from None
    ripemd.update(hashlib.sha256(_code(public_key)).digest())
    body = _WALLET_PREFIX + ripemd.digest()
    body += hashlib.sha256(hashlib.sha256(body).digest()).digest()[:4]
    number, text = int.from_bytes(body), ""
    while number:
        number, digit = divmod(number, 58)
        text = _BASE58[digit] + text
    return text


# --- names and topics ---


def check_topic(topic: str) -> None:
    """Raise `ConfigError` unless nodes take it as a topic. Nodes ignore the case of letters."""
    if not _TOPIC.fullmatch(topic):
        raise ConfigError(
            f"{topic!r} is no topic: 3 to 255 letters, digits and -_.+, first a letter or digit"
        )


def check_name(name: str) -> None:
    """Raise `ConfigError` unless nodes take it as a name."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name: 6 to 63 letters, digits and -_+, first a letter or digit")


def name_in(address: str) -> str | None:
    """The registered name at the end of `IDENTIFIER.NAME`, None if it ends in a public key or in neither."""
    last = address.strip().rpartition(".")[2]
    return last if _NAME.fullmatch(last) else None


# --- answers ---


@dataclass(frozen=True, slots=True)
class Subscription:
    """A client's subscription to a topic."""

    meta: str
    """What the client says of itself: anybody can write anything."""
    expires_at: int
    """The block height at which it ends."""


@dataclass(frozen=True, slots=True)
class Registrant:
    """Who registered a name, as a node says."""

    public_key: bytes
    """Ed25519, 32 bytes."""
    expires_at: int
    """The block height at which the registration ends."""


def read_subscribers(answer: object) -> dict[str, str]:
    """Address -> meta, of an answer to `getsubscribers` with meta, those in the pool after the others.

    What is no address is left out. Raises `RemoteProtocolError`.
    """
    members = strict_json.obj(answer)
    found: dict[str, str] = {}
    for part in ("subscribers", "subscribersInTxPool"):
        listed = strict_json.obj(members.get(part) or {})
        for address in listed:
            try:
                found[str(NknAddress.parse(address))] = strict_json.text_or_empty(listed, address)
            except ConfigError:
                continue
    return found


def read_count(answer: object) -> int:
    """The answer to `getsubscriberscount`. Raises `RemoteProtocolError`."""
    return strict_json.number({"count": answer}, "count")


def read_subscription(answer: object) -> Subscription | None:
    """The answer to `getsubscription`, None where there is none. Raises `RemoteProtocolError`."""
    members = strict_json.obj(answer)
    expires_at = strict_json.number(members, "expiresAt", 0)
    return Subscription(strict_json.text_or_empty(members, "meta"), expires_at) if expires_at else None


def read_registrant(answer: object) -> Registrant | None:
    """The answer to `getregistrant`, None for a name that nobody has. Raises `RemoteProtocolError`."""
    members = strict_json.obj(answer)
    key = strict_json.text(members, "registrant", "")
    if not key:
        return None
    if not _HEX_KEY.fullmatch(key):
        raise RemoteProtocolError("a registrant must be 64 hex digits")
    return Registrant(bytes.fromhex(key), strict_json.number(members, "expiresAt", 0))


def read_nonce(answer: object) -> int:
    """The next nonce of a wallet, of an answer to `getnoncebyaddr`. Raises `RemoteProtocolError`."""
    members = strict_json.obj(answer)
    nonce = max(strict_json.number(members, "nonce"), strict_json.number(members, "nonceInTxPool", 0))
    if not 0 <= nonce < 1 << 63:
        raise RemoteProtocolError("a nonce out of range")
    return nonce


# --- below: details ---


def _subscriber(address: NknAddress) -> bytes:
    """The first two fields of both messages."""
    if len(address.identifier) > MAX_IDENTIFIER_CHARS:
        raise ConfigError(f"a subscriber's identifier has at most {MAX_IDENTIFIER_CHARS} characters")
    return bytes_field(1, address.public_key) + string_field(2, address.identifier)


def _code(public_key: bytes) -> bytes:
    """The program that checks one signature: push 32 bytes, the key, CHECKSIG."""
    return b"\x20" + public_key + b"\xac"


def _size(count: int) -> bytes:
    """A size in what is signed: 1 byte, or 0xfd and 2 bytes; data is never above 65,535 bytes here."""
    return bytes([count]) if count < 0xFD else b"\xfd" + count.to_bytes(2, "little")
