"""The handshake: Noise_IKpsk2_25519 with AESGCM and SHA256, or with ChaChaPoly and BLAKE2s, as a machine.

    <- s                               the initiator knows the responder's static key
    ...
    -> e, es, s, ss                    initiation: e 32 bytes, s sealed 48, payload sealed + 16
    <- e, ee, se, psk                  response:   e 32 bytes, payload sealed + 16

(Specification: The Noise Protocol Framework, revision 34, sections 5, 7.5 and 9.) The responder learns the
initiator's static key from the initiation, and needs the preshared key only after that.

A read that fails raises `RemoteProtocolError` and leaves the machine unchanged: a state is a value, and a new
one replaces it only at the end. So a forged message costs the work of reading it, and the genuine message
still succeeds afterwards. A call out of order is a `LocalProtocolError`.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from nconnect.crypto.aead import TAG_BYTES, CipherSuite
from nconnect.crypto.keys import KEY_BYTES, InvalidKey
from nconnect.errors import LocalProtocolError, RemoteProtocolError
from nconnect.model import Buffer, Rng

INITIATION_OVERHEAD_BYTES = KEY_BYTES + KEY_BYTES + TAG_BYTES + TAG_BYTES
RESPONSE_OVERHEAD_BYTES = KEY_BYTES + TAG_BYTES
MAX_NOISE_BYTES = 65535  # section 3
NO_PSK = bytes(KEY_BYTES)  # stands for "no preshared key", as in WireGuard


class _Side:
    """What both sides have. A state is None before and after its part of the handshake."""

    def __init__(self, static_private: bytes, psk: bytes) -> None:
        self._static = _static_pair(bytes(static_private))
        self._psk = _checked_psk(psk)
        self._halfway: _State | None = None  # between the two messages
        self._final: _State | None = None

    @property
    def handshake_hash(self) -> bytes:
        """32 bytes, the same on both sides and unique to this handshake (section 11.2)."""
        return self._finished.hash

    @property
    def _finished(self) -> _State:
        if self._final is None:
            raise LocalProtocolError("noise: the handshake is not finished")
        return self._final


class Initiator(_Side):
    """The side that starts: `write_initiation`, `read_response`, `split`."""

    def __init__(
        self,
        suite: CipherSuite,
        static_private: bytes,
        remote_static: bytes,
        *,
        rng: Rng,
        psk: bytes = NO_PSK,
        prologue: bytes = b"",
    ) -> None:
        """Keys are X25519, 32 bytes; `rng(32)` gives the ephemeral key. Raises `InvalidKey`."""
        super().__init__(static_private, psk)
        self._remote_static = bytes(remote_static)
        shared = self._static.shared_with(self._remote_static)
        if shared is None:
            raise InvalidKey("not a usable X25519 public key")
        self._static_shared = shared
        self._ephemeral = _KeyPair(rng(KEY_BYTES))
        self._start: _State | None = _State.begin(suite, prologue, self._remote_static)

    def write_initiation(self, payload: Buffer = b"") -> bytes:
        """The first message, once."""
        if self._start is None:
            raise LocalProtocolError("noise: the initiation has been written")
        _check_size(len(payload) + INITIATION_OVERHEAD_BYTES)
        state = self._start.mix_ephemeral(self._ephemeral.public)
        state = state.mix_key(_dh(self._ephemeral, self._remote_static))
        state, static = state.seal(self._static.public)
        state, sealed = state.mix_key(self._static_shared).seal(payload)
        self._start, self._halfway = None, state
        return b"".join((self._ephemeral.public, static, sealed))

    def read_response(self, message: Buffer) -> bytes:
        """The payload of the responder's message. After a `RemoteProtocolError` it may be called again."""
        if self._halfway is None:
            raise LocalProtocolError("noise: no response is expected")
        _check_received(message, RESPONSE_OVERHEAD_BYTES)
        ephemeral = bytes(message[:KEY_BYTES])
        state = self._halfway.mix_ephemeral(ephemeral)
        state = state.mix_key(_dh(self._ephemeral, ephemeral))
        state = state.mix_key(_dh(self._static, ephemeral))
        state, payload = state.mix_key_and_hash(self._psk).open(message[KEY_BYTES:])
        self._halfway, self._final = None, state
        return payload

    def split(self) -> tuple[bytes, bytes]:
        """(key to send with, key to receive with), 32 bytes each."""
        return self._finished.split()


class Responder(_Side):
    """The side that answers: `read_initiation`, `set_psk` if there is one, `write_response`, `split`."""

    def __init__(
        self,
        suite: CipherSuite,
        static_private: bytes,
        *,
        rng: Rng,
        psk: bytes = NO_PSK,
        prologue: bytes = b"",
    ) -> None:
        """Keys are X25519, 32 bytes; `rng(32)` gives the ephemeral key when the response is written."""
        super().__init__(static_private, psk)
        self._rng = rng
        self._start: _State | None = _State.begin(suite, prologue, self._static.public)
        self._remote_static = self._remote_ephemeral = b""

    def read_initiation(self, message: Buffer) -> tuple[bytes, bytes]:
        """(the initiator's static key, payload). After a `RemoteProtocolError` it may be called again.

        The initiator has proved that it holds the static key, but the message may be a replay.
        """
        if self._start is None:
            raise LocalProtocolError("noise: an initiation has been read")
        _check_received(message, INITIATION_OVERHEAD_BYTES)
        ephemeral = bytes(message[:KEY_BYTES])
        static_end = KEY_BYTES + KEY_BYTES + TAG_BYTES
        state = self._start.mix_ephemeral(ephemeral)
        state = state.mix_key(_dh(self._static, ephemeral))
        state, static = state.open(message[KEY_BYTES:static_end])
        state, payload = state.mix_key(_dh(self._static, static)).open(message[static_end:])
        self._start, self._halfway = None, state
        self._remote_ephemeral, self._remote_static = ephemeral, static
        return static, payload

    def set_psk(self, psk: bytes) -> None:
        """Set the key shared with this initiator, 32 bytes, at any time before the response is written."""
        if self._final is not None:
            raise LocalProtocolError("noise: the response has been written")
        self._psk = _checked_psk(psk)

    def write_response(self, payload: Buffer = b"") -> bytes:
        """The second message, once."""
        if self._halfway is None:
            raise LocalProtocolError("noise: no initiation to answer")
        _check_size(len(payload) + RESPONSE_OVERHEAD_BYTES)
        ephemeral = _KeyPair(self._rng(KEY_BYTES))
        state = self._halfway.mix_ephemeral(ephemeral.public)
        state = state.mix_key(_dh(ephemeral, self._remote_ephemeral))
        state = state.mix_key(_dh(ephemeral, self._remote_static))
        state, sealed = state.mix_key_and_hash(self._psk).seal(payload)
        self._halfway, self._final = None, state
        return ephemeral.public + sealed

    def split(self) -> tuple[bytes, bytes]:
        """(key to send with, key to receive with), 32 bytes each."""
        receive, send = self._finished.split()
        return send, receive


# --- the symmetric state, section 5.2, as a value ---

_PROTOCOL_NAMES = {
    CipherSuite.AES256GCM: b"Noise_IKpsk2_25519_AESGCM_SHA256",
    CipherSuite.CHACHA20POLY1305: b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s",
}
_HASHES = {CipherSuite.AES256GCM: "sha256", CipherSuite.CHACHA20POLY1305: "blake2s"}
_HASH_BYTES = 32  # of both


@dataclass(frozen=True, slots=True, repr=False)
class _State:
    suite: CipherSuite
    chaining_key: bytes
    hash: bytes
    key: bytes = b""  # empty until the first DH

    @classmethod
    def begin(cls, suite: CipherSuite, prologue: bytes, responder_static: bytes) -> _State:
        """Section 5.3 Initialize, for a pattern with the pre-message `<- s`."""
        name = _PROTOCOL_NAMES[suite]
        first = (
            name.ljust(_HASH_BYTES, b"\0")
            if len(name) <= _HASH_BYTES
            else hashlib.new(_HASHES[suite], name).digest()
        )
        return cls(suite, first, first).mix_hash(prologue).mix_hash(responder_static)

    def mix_hash(self, data: Buffer) -> _State:
        digest = hashlib.new(_HASHES[self.suite], self.hash)
        digest.update(data)
        return _State(self.suite, self.chaining_key, digest.digest(), self.key)

    def mix_key(self, material: bytes) -> _State:
        chaining_key, key, _ = self._hkdf(material)
        return _State(self.suite, chaining_key, self.hash, key)

    def mix_ephemeral(self, public: bytes) -> _State:
        """The token `e`: in patterns with a psk it goes into the key as well (section 9.2)."""
        return self.mix_hash(public).mix_key(public)

    def mix_key_and_hash(self, material: bytes) -> _State:
        chaining_key, hashed, key = self._hkdf(material)
        return _State(self.suite, chaining_key, self.mix_hash(hashed).hash, key)

    # The counter is 0 each time: in this pattern, every seal is under a new key.

    def seal(self, plaintext: Buffer) -> tuple[_State, bytes]:
        sealed = self.suite.aead(self.key).seal(0, self.hash, plaintext)
        return self.mix_hash(sealed), sealed

    def open(self, sealed: Buffer) -> tuple[_State, bytes]:
        plaintext = self.suite.aead(self.key).open(0, self.hash, sealed)
        if plaintext is None:
            raise RemoteProtocolError("noise: the message does not decrypt")
        return self.mix_hash(sealed), plaintext

    def split(self) -> tuple[bytes, bytes]:
        """(initiator to responder, responder to initiator)."""
        first, second, _ = self._hkdf(b"")
        return first, second

    def _hkdf(self, material: bytes) -> tuple[bytes, bytes, bytes]:
        """Section 4.3. The third output does not affect the first two, so it is always computed."""
        name = _HASHES[self.suite]
        temporary = hmac.digest(self.chaining_key, material, name)
        first = hmac.digest(temporary, b"\x01", name)
        second = hmac.digest(temporary, first + b"\x02", name)
        third = hmac.digest(temporary, second + b"\x03", name)
        return first, second, third


class _KeyPair:
    __slots__ = ("_private", "public")

    def __init__(self, private: bytes) -> None:
        if len(private) != KEY_BYTES:
            raise InvalidKey("an X25519 private key is 32 bytes")
        self._private = X25519PrivateKey.from_private_bytes(private)
        self.public = self._private.public_key().public_bytes_raw()

    def shared_with(self, public: bytes) -> bytes | None:
        """The DH result; None if `public` does not have 32 bytes or is of low order (all-zero result)."""
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            return None


@lru_cache(maxsize=2)
def _static_pair(private: bytes) -> _KeyPair:
    """The key pair of an identity. Cached: a process has one, and its public key costs as much as a DH."""
    return _KeyPair(private)


def _dh(pair: _KeyPair, public: bytes) -> bytes:
    shared = pair.shared_with(public)
    if shared is None:
        raise RemoteProtocolError("noise: a public key of low order")
    return shared


def _checked_psk(psk: bytes) -> bytes:
    if len(psk) != KEY_BYTES:
        raise InvalidKey("a preshared key is 32 bytes")
    return bytes(psk)


def _check_size(size: int) -> None:
    if size > MAX_NOISE_BYTES:
        raise LocalProtocolError(f"noise: a handshake message has at most {MAX_NOISE_BYTES} bytes")


def _check_received(message: Buffer, least: int) -> None:
    if not least <= len(message) <= MAX_NOISE_BYTES:
        raise RemoteProtocolError(f"noise: a handshake message of {len(message)} bytes")
