"""The ciphers of shadowsocks streams, which the official nConnect speaks (shadowsocks' AEAD ciphers).

    each direction of a stream:
        salt                                          as long as the key, drawn for this direction
        sealed(length, 2 bytes, big-endian) + tag     1 to 0x3FFF
        sealed(that many bytes) + tag                 and so on

    key    = EVP_BytesToKey(MD5, password)            D1 = MD5(password), Di = MD5(D(i-1) + password), cut
    subkey = HKDF-SHA1(key, salt, "ss-subkey")        as long as the key
    nonce  = 12 bytes, little-endian, from 0, one more for each seal

The password is all that protects it: the key is its MD5, without work or salt. Nothing is negotiated, and a
receiver with another cipher or password can tell neither from noise.
"""

from __future__ import annotations

import hashlib
from enum import Enum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from nconnect.crypto.aead import TAG_BYTES
from nconnect.errors import RemoteProtocolError
from nconnect.model import Buffer, Rng

MAX_CHUNK_BYTES = 0x3FFF
_LENGTH_BYTES = 2


class ShadowCipher(Enum):
    """The value is the name that nConnect's `--cipher` takes."""

    CHACHA20 = "chacha20-ietf-poly1305"  # nConnect's default
    AES_256 = "aes-256-gcm"
    AES_128 = "aes-128-gcm"
    DUMMY = "dummy"  # no cipher: what NKN's messages seal is all

    @property
    def key_bytes(self) -> int:
        """Also the size of a salt."""
        return _KEY_BYTES[self]

    def key(self, password: str) -> bytes:
        """The key of a password; the empty one is legal, and nConnect's default."""
        key, last = b"", b""
        while len(key) < self.key_bytes:
            last = hashlib.md5(last + password.encode(), usedforsecurity=False).digest()
            key += last
        return key[: self.key_bytes]


_KEY_BYTES = {
    ShadowCipher.CHACHA20: 32,
    ShadowCipher.AES_256: 32,
    ShadowCipher.AES_128: 16,
    ShadowCipher.DUMMY: 0,
}


class ShadowSealer:
    """One direction's sender."""

    def __init__(self, cipher: ShadowCipher, key: bytes, *, rng: Rng) -> None:
        self._direction: _Direction | None = None
        self._salt = b""
        if cipher is not ShadowCipher.DUMMY:
            self._salt = rng(cipher.key_bytes)
            self._direction = _Direction(cipher, key, self._salt)

    def seal(self, data: Buffer) -> bytes:
        """What goes on the stream for `data`; the first time, the salt comes before it."""
        direction = self._direction
        if direction is None:
            return bytes(data)
        parts, self._salt = [self._salt], b""
        view = memoryview(data)
        for start in range(0, len(view), MAX_CHUNK_BYTES):
            chunk = view[start : start + MAX_CHUNK_BYTES]
            parts.append(direction.seal(len(chunk).to_bytes(_LENGTH_BYTES, "big")))
            parts.append(direction.seal(chunk))
        return b"".join(parts)


class ShadowOpener:
    """One direction's receiver. It keeps at most one chunk that is not whole."""

    def __init__(self, cipher: ShadowCipher, key: bytes) -> None:
        self.salt = b""
        """The sender's, once it came; "" with the cipher `dummy`."""
        self.opened = False
        """Whether something was authentic: the other side has the same cipher and password."""
        self._cipher = cipher
        self._key = key
        self._direction: _Direction | None = None
        self._wanted = cipher.key_bytes
        self._has_length = False
        self._held = bytearray()
        self._wrong: RemoteProtocolError | None = None

    @property
    def is_broken(self) -> bool:
        """Whether `open` raises the next time."""
        return self._wrong is not None

    @property
    def is_between_chunks(self) -> bool:
        """Whether the stream may end here."""
        return not self._held and not self._has_length and self._wrong is None

    def open(self, data: Buffer) -> bytes:
        """What these bytes of the stream complete.

        Raises `RemoteProtocolError` for what is not authentic; what stood before it is returned first, and
        `is_broken` says that there is an error to come.
        """
        if self._wrong is not None:
            raise self._wrong
        if self._cipher is ShadowCipher.DUMMY:
            self.opened = self.opened or bool(len(data))
            return bytes(data)
        self._held += data
        parts: list[bytes] = []
        pos = 0
        view = memoryview(self._held)
        try:
            while len(view) - pos >= self._wanted:
                piece = bytes(view[pos : pos + self._wanted])
                pos += self._wanted
                if (plain := self._take(piece)) is not None:
                    parts.append(plain)
        except RemoteProtocolError as error:
            self._wrong = error
            if not parts:
                raise
        finally:
            view.release()
        del self._held[:pos]
        return b"".join(parts)

    def _take(self, piece: bytes) -> bytes | None:
        if self._direction is None:
            self.salt = piece
            self._direction = _Direction(self._cipher, self._key, piece)
            self._wanted = _LENGTH_BYTES + TAG_BYTES
            return None
        plain = self._direction.open(piece)
        self.opened = True
        if self._has_length:
            self._has_length = False
            self._wanted = _LENGTH_BYTES + TAG_BYTES
            return plain
        size = int.from_bytes(plain, "big") & MAX_CHUNK_BYTES  # the upper two bits are reserved
        if not size:
            raise RemoteProtocolError("shadowsocks: an empty chunk")
        self._has_length = True
        self._wanted = size + TAG_BYTES
        return None


class _Direction:
    """A subkey, and the counter that is its nonce."""

    __slots__ = ("_cipher", "_counter")

    def __init__(self, cipher: ShadowCipher, key: bytes, salt: bytes) -> None:
        subkey = HKDF(SHA1(), cipher.key_bytes, salt, b"ss-subkey").derive(key)
        self._cipher = ChaCha20Poly1305(subkey) if cipher is ShadowCipher.CHACHA20 else AESGCM(subkey)
        self._counter = 0

    def seal(self, data: Buffer) -> bytes:
        return self._cipher.encrypt(self._nonce(), data, None)

    def open(self, data: Buffer) -> bytes:
        try:
            return self._cipher.decrypt(self._nonce(), data, None)
        except InvalidTag:
            raise RemoteProtocolError("shadowsocks: not authentic (another cipher or password)") from None

    def _nonce(self) -> bytes:
        nonce = self._counter.to_bytes(12, "little")
        self._counter += 1
        return nonce
