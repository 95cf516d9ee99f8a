"""The Internet checksum (RFC 1071) by arithmetic on one large integer.

The one's complement sum of 16-bit words equals the whole buffer, read as one number, modulo 65535, because
65536 = 1 (mod 65535). So one `int.from_bytes` and one division replace a loop over words. Measured on the
reference machine: 2.5 us for 1400 bytes, 55 us for 64 KiB; `sum(struct.unpack(...))` takes 7 and 330 us.

Sums here are residues 0 to 0xfffe. One's complement has two zeros, 0 and 0xffff, and the residue 0 means
either. No packet is all zero, so the sum of its words is then 0xffff and the checksum 0.
"""

from __future__ import annotations

from nconnect.model import Buffer

# Longer buffers are summed in chunks: dividing a number of 64 KiB costs more than adding 16 of 4 KiB (107
# against 55 us, measured). Even, so that each chunk starts on a word.
_CHUNK_BYTES = 4096


def word_sum(data: Buffer) -> int:
    """The one's complement sum of the big-endian 16-bit words of `data`, modulo 65535.

    A last odd byte is the high half of a word (RFC 1071, section 4.1).
    """
    size = len(data)
    if size <= _CHUNK_BYTES:
        number = int.from_bytes(data, "big")
        return ((number << 8) if size & 1 else number) % 0xFFFF
    number = 0
    whole = size - size % _CHUNK_BYTES
    for at in range(0, whole, _CHUNK_BYTES):
        number += int.from_bytes(data[at : at + _CHUNK_BYTES], "big")
    if whole < size:
        number += word_sum(data[whole:])
    return number % 0xFFFF


def checksum(data: Buffer, initial: int = 0) -> int:
    """The Internet checksum of `data`, 0 to 0xfffe; `initial` is a sum to start from (a pseudo-header's).

    Over data that includes its own correct checksum the result is 0. UDP sends 0xffff instead of 0, because
    0 means "no checksum" (RFC 768); that is left to the caller.
    """
    return -(initial + word_sum(data)) % 0xFFFF
