"""Our block in a hosts file (hosts(5)): names of one interface's peers, between two marks.

    # nconnect nc0 begin (kept by the daemon while nc0 is up)
    10.86.0.1 gpu-box.internal
    # nconnect nc0 end

A new block stands at the end of the file, and stays where it is: blocks of two interfaces that both wanted to
be the last would be written again for ever. Taking it out removes the marks and, between them, only lines of
the form that we write; a line that somebody else put there stays.
"""

from __future__ import annotations

import re

from nconnect.offers import name_codec

_OURS = re.compile(rb"[0-9a-f.:]+ [a-z0-9.-]+\.internal")


def with_block(content: bytes, interface: str, known: name_codec.Names) -> bytes:
    """The file's content with this block in place of an earlier one; without names, without a block."""
    kept, at = _without(content, interface)
    if not known:
        return b"".join(kept)
    before, after = b"".join(kept[:at]), b"".join(kept[at:])
    if before and not before.endswith(b"\n"):
        before += b"\n"
    begin, end = _marks(interface)
    note = b" (kept by the daemon while %s is up)" % interface.encode()
    return before + begin + note + b"\n" + name_codec.encode(known) + end + b"\n" + after


def without_block(content: bytes, interface: str) -> bytes:
    """The content without the block. A mark alone, without its partner, is taken out too."""
    kept, _ = _without(content, interface)
    return b"".join(kept)


def _without(content: bytes, interface: str) -> tuple[list[bytes], int]:
    """The lines that are not the block's, and how many of them stand before it."""
    begin, end = _marks(interface)
    kept: list[bytes] = []
    at = None
    inside = False
    for line in content.splitlines(keepends=True):
        bare = line.strip()
        if bare == begin or bare.startswith(begin + b" "):
            inside = True
            at = len(kept) if at is None else at
        elif bare == end:
            inside = False
        elif not (inside and _OURS.fullmatch(bare)):
            kept.append(line)
            inside = inside and not bare.startswith(b"# nconnect ")
    return kept, len(kept) if at is None else at


def _marks(interface: str) -> tuple[bytes, bytes]:
    return f"# nconnect {interface} begin".encode(), f"# nconnect {interface} end".encode()
