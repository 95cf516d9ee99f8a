"""Long-term keys: an Ed25519 identity, its X25519 form, and NaCl boxes between two identities.

An NKN client is an Ed25519 seed. NKN's end-to-end encryption is NaCl's box (X25519, XSalsa20-Poly1305)
between the X25519 forms of both Ed25519 keys, and the same form is the static key of our handshake.
"""

from __future__ import annotations

from nacl import bindings
from nacl.exceptions import BadSignatureError, CryptoError

from nconnect.model import Buffer

KEY_BYTES = 32  # seed, public keys, shared keys
BOX_NONCE_BYTES = 24
BOX_OVERHEAD_BYTES = 16  # a sealed message is longer by this: the Poly1305 tag
SIGNATURE_BYTES = 64


class InvalidKey(ValueError):
    """These bytes are not a usable Ed25519 public key: wrong length, not on the curve, or of low order.

    The caller turns this into `ConfigError` or `RemoteProtocolError`: only it knows where the key came from.
    """


class Identity:
    """An Ed25519 key pair made from its seed. Never shows its secrets in `repr`."""

    __slots__ = ("_secret", "dh_private", "dh_public", "public_key", "seed")

    def __init__(self, seed: bytes) -> None:
        """Raises `ValueError` unless `seed` is 32 bytes."""
        if len(seed) != KEY_BYTES:
            raise ValueError("a seed is 32 bytes")
        self.seed = bytes(seed)
        self.public_key, self._secret = bindings.crypto_sign_seed_keypair(self.seed)
        self.dh_private: bytes = bindings.crypto_sign_ed25519_sk_to_curve25519(self._secret)
        self.dh_public: bytes = bindings.crypto_scalarmult_base(self.dh_private)

    def __repr__(self) -> str:
        return f"Identity({self.public_key.hex()})"

    def sign(self, message: bytes) -> bytes:
        """The Ed25519 signature of `message` (NKN: of a 32-byte digest), 64 bytes."""
        signed: bytes = bindings.crypto_sign(message, self._secret)
        return signed[:SIGNATURE_BYTES]


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the key signed `message`; False also if key or signature has a wrong length."""
    if len(public_key) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        bindings.crypto_sign_open(signature + message, public_key)
    except BadSignatureError:
        return False
    return True


def dh_public_of(ed25519_public_key: bytes) -> bytes:
    """The X25519 form of an Ed25519 public key, 32 bytes; raise `InvalidKey`."""
    if len(ed25519_public_key) != KEY_BYTES:
        raise InvalidKey("a public key is 32 bytes")
    try:
        converted: bytes = bindings.crypto_sign_ed25519_pk_to_curve25519(ed25519_public_key)
    except CryptoError:
        raise InvalidKey("not a point on the Ed25519 curve, or one of low order") from None
    return converted


class Box:
    """NaCl's authenticated encryption under one shared key, which is computed once."""

    __slots__ = ("_key",)

    def __init__(self, identity: Identity, their_public_key: bytes) -> None:
        """Between `identity` and an Ed25519 public key; raise `InvalidKey`."""
        self._key: bytes = bindings.crypto_box_beforenm(dh_public_of(their_public_key), identity.dh_private)

    @classmethod
    def of_key(cls, key: bytes) -> Box:
        """Under a 32-byte key that both sides know: NaCl's secretbox, in NKN's messages to several."""
        if len(key) != KEY_BYTES:
            raise InvalidKey("a shared key is 32 bytes")
        box = cls.__new__(cls)
        box._key = bytes(key)
        return box

    def __repr__(self) -> str:
        return "Box()"

    def seal(self, plaintext: Buffer, nonce: bytes) -> bytes:
        """Tag and ciphertext, 16 bytes longer than `plaintext`. A 24-byte nonce must never repeat."""
        sealed: bytes = bindings.crypto_box_easy_afternm(bytes(plaintext), nonce, self._key)
        return sealed

    def open(self, sealed: Buffer, nonce: bytes) -> bytes | None:
        """The plaintext, or None if it is not authentic, too short, or the nonce does not have 24 bytes."""
        if len(sealed) < BOX_OVERHEAD_BYTES or len(nonce) != BOX_NONCE_BYTES:
            return None
        try:
            plain: bytes = bindings.crypto_box_open_easy_afternm(bytes(sealed), nonce, self._key)
        except CryptoError:
            return None
        return plain
