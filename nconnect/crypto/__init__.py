"""Cryptography: keys, the session's ciphers, and the handshake. Pure: randomness is an argument (`rng`).

No algorithm here is our own. PyNaCl (libsodium) does Ed25519, X25519 and NaCl's boxes; `cryptography`
(OpenSSL) does AES-GCM and ChaCha20-Poly1305; `hashlib` does the hashes. What is ours is the bookkeeping of
Noise around them, as a machine that a forged message leaves unchanged.

    tunnel.handshake                        tunnel.session              nkn, sdk, node, invite
          | Initiator, Responder                  | Aead                      | Identity, Box, verify
          v                                       v                           v
    noise: one handshake ---split()----> aead: one key each way       keys: an identity and its forms
          |                                       ^                           ^
          +---- CipherSuite ----------------------+                           |
          +---- static key: the X25519 form of the Ed25519 identity ----------+

    keys    `Identity` (an Ed25519 seed), `dh_public_of` (the X25519 form of a public key), `verify`, `Box`
    aead    `CipherSuite`; `Aead` seals and opens from and into the caller's buffers; `faster_suite`
    noise   `Initiator` and `Responder`, the two sides of one handshake
    shadowsocks   the official nConnect's cipher of a stream, which our own streams do not use

States of a handshake (Noise_IKpsk2; The Noise Protocol Framework, revision 34, sections 5, 7.5 and 9):

    Initiator   start --write_initiation--> waiting   --read_response---> finished --split--> (send, receive)
    Responder   start --read_initiation---> to answer --write_response--> finished --split--> (send, receive)

A call in another state is a `LocalProtocolError`. A message that does not decrypt is a
`RemoteProtocolError`; the state stays, and the genuine message may still come.

Specifications: Ed25519 RFC 8032, X25519 RFC 7748, ChaCha20-Poly1305 RFC 8439, AES-GCM NIST SP 800-38D,
BLAKE2 RFC 7693; boxes as NKN's SDKs make them (NaCl's crypto_box and crypto_secretbox). As in WireGuard, "no
preshared key" is a key of 32 zero bytes, so there is one handshake pattern only.

- **seed**: the 32 bytes from which an identity is made.
- **seal**, **open**: encrypt and authenticate; decrypt, or refuse what is not authentic.
- **suite**: a cipher and the hash that goes with it. The initiator chooses.
- **static**: a long-term key in its X25519 form. **ephemeral**: a key drawn for one handshake.
- **psk**: the preshared key, a secret that two peers agreed on beforehand.

To add a suite: a member of `CipherSuite` with its wire id and its `Aead`; its protocol name and hash in
`noise`; its name in `config.file.CIPHERS` and in docs/protocol.md ("Handshake").
"""
