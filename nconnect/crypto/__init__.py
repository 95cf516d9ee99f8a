"""Cryptography on two libraries, PyNaCl and cryptography; nothing here is our own algorithm. Pure.

    keys    the Ed25519 identity, its X25519 form, NaCl boxes (what NKN's SDKs use)
    aead    the session's ciphers, sealing into buffers that stay
    noise   the handshake, Noise_IKpsk2

Words: **seed**: the 32 bytes an identity is made from. **seal**, **open**: encrypt with a tag, and back only
if authentic. **suite**: cipher and hash of a session. **static**: a long-term key in its X25519 form.
**ephemeral**: a key of one handshake. **psk**: the key that two peers share beforehand, zeros without one.
"""
