"""The token of an invitation: `nc1-` and a text in Crockford's base32, which has no ambiguous characters.

The text encodes, with u8 lengths:

    | length, identifier | Ed25519 key 32 | token id 8 | secret 16 | count, (length, seed) … | checksum 4 |

Identifier and key are the provider's NKN address. The seeds are the RPCs of its network's nodes; no seed
means the public network. A seed with a pin is the URL without the pin, `#`, and the pin's 32 bytes. The
checksum is the start of the SHA-256 of `nconnect token 1` and all bytes before it. Upper and lower case are
the same; blanks and hyphens are ignored; o is read as 0, i and l as 1.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from nconnect.config.seed_url import PIN
from nconnect.config.values import parse_peer_address, parse_seed_rpc
from nconnect.crypto.keys import KEY_BYTES
from nconnect.errors import ConfigError
from nconnect.model import NknAddress
from nconnect.wire.invite import TOKEN_ID_BYTES

PREFIX = "nc1-"
SECRET_BYTES = 16
CHECKSUM_BYTES = 4
MAX_SEEDS = 8
MAX_CHARS = 4096  # guessed: a QR code holds 4,296 of these characters

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)} | {"o": 0, "i": 1, "l": 1}
_AGAIN = "copy it again completely, as `nconnect invite` printed it"


@dataclass(frozen=True, slots=True)
class Token:
    """What an invited device must know. The token's text is a secret until the invitation is used."""

    provider: NknAddress
    token_id: bytes
    secret: bytes = field(repr=False)
    seeds: tuple[str, ...] = ()  # (): the public network's

    def encode(self) -> str:
        """The text. Raises `ConfigError` if there are too many seeds, or one is too long."""
        if len(self.seeds) > MAX_SEEDS:
            raise ConfigError(f"a token can name at most {MAX_SEEDS} seeds: choose some with --seed-rpc")
        body = b"".join(
            (
                _short(self.provider.identifier.encode("ascii", errors="replace")),
                self.provider.public_key,
                self.token_id,
                self.secret,
                bytes([len(self.seeds)]),
                *map(_seed, self.seeds),
            )
        )
        return PREFIX + _to_text(body + _checksum(body))

    @classmethod
    def parse(cls, text: str) -> Token:
        """Read a token. Raises `ConfigError`, which never quotes it."""
        return _parse(text)


@dataclass(frozen=True, slots=True)
class TokenKeys:
    """The keys that both sides derive from the secret: one for MACs, one as the handshake's psk."""

    mac: bytes = field(repr=False)  # 32 bytes
    preshared: bytes = field(repr=False)  # 32 bytes, the exchange's own: never the tunnel's

    @classmethod
    def of(cls, secret: bytes) -> TokenKeys:
        return cls(
            hashlib.blake2s(b"nconnect join: mac", key=secret).digest(),
            hashlib.blake2s(b"nconnect join: psk", key=secret).digest(),
        )


def _parse(text: str) -> Token:
    compact = "".join(text.split()).lower()
    if not compact.startswith(PREFIX):
        newer = compact[:2] == "nc" and compact[2:3].isdecimal()
        raise ConfigError(
            "this token is of another version of nconnect: install the same version on both sides"
            if newer and not compact.startswith("nc1")
            else f"this is not an invitation: a token begins with {PREFIX}"
        )
    if len(compact) > MAX_CHARS:
        raise ConfigError(f"this is not an invitation: it is too long; {_AGAIN}")
    data = _to_bytes(compact[len(PREFIX) :].replace("-", ""))
    body, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    if len(checksum) < CHECKSUM_BYTES or _checksum(body) != checksum:
        raise ConfigError(f"the token is mistyped or cut short: {_AGAIN}")
    try:
        return _read(body)
    except (IndexError, UnicodeDecodeError, ConfigError):
        # The checksum is right, so this is not a typing mistake.
        raise ConfigError("the token is invalid, although its checksum is right: ask for another") from None


def _read(body: bytes) -> Token:
    """Raises IndexError, UnicodeDecodeError or `ConfigError`."""
    at = 0

    def take(count: int) -> bytes:
        nonlocal at
        at += count
        if at > len(body):
            raise IndexError
        return body[at - count : at]

    identifier = take(take(1)[0]).decode("ascii")
    public_key = take(KEY_BYTES)
    token_id, secret = take(TOKEN_ID_BYTES), take(SECRET_BYTES)
    count = take(1)[0]
    if count > MAX_SEEDS:
        raise IndexError
    seeds = tuple(_seed_text(take(take(1)[0])) for _ in range(count))
    if at != len(body) or any(parse_seed_rpc(seed) != seed for seed in seeds):
        raise IndexError
    provider = NknAddress(identifier, public_key)
    if parse_peer_address(str(provider)) != provider:
        raise IndexError
    return Token(provider, token_id, secret, seeds)


def _short(data: bytes) -> bytes:
    if len(data) > 255:
        text = data[:40].decode("ascii", errors="replace")
        raise ConfigError(f"{text!r}… is too long for a token: give a shorter one with --seed-rpc")
    return bytes([len(data)]) + data


def _seed(url: str) -> bytes:
    place, mark, pin = url.partition(PIN)
    data = place.encode("ascii", errors="replace")
    return _short(data + b"#" + bytes.fromhex(pin) if mark else data)


def _seed_text(data: bytes) -> str:
    """The URL, which `_read` checks. Versions without pins refuse such a token, because it is not ASCII."""
    place, mark, pin = data.partition(b"#")
    return place.decode("ascii") + (PIN + pin.hex() if mark else "")


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(b"nconnect token 1" + body).digest()[:CHECKSUM_BYTES]


def _to_text(data: bytes) -> str:
    """Five bits per letter, the most significant first; the last letter is padded with zeros."""
    letters = -(-len(data) * 8 // 5)
    number = int.from_bytes(data) << (letters * 5 - len(data) * 8)
    return "".join(_ALPHABET[number >> (5 * i) & 31] for i in reversed(range(letters)))


def _to_bytes(text: str) -> bytes:
    number = 0
    for place, letter in enumerate(text, len(PREFIX) + 1):
        value = _VALUES.get(letter)
        if value is None:
            raise ConfigError(
                f"the token is mistyped: {letter!r}, character {place}, is in no token; {_AGAIN}"
            )
        number = number << 5 | value
    size, spare = divmod(len(text) * 5, 8)
    if spare > 4 or number & ((1 << spare) - 1):
        raise ConfigError(f"the token is mistyped or cut short: {_AGAIN}")
    return (number >> spare).to_bytes(size)
