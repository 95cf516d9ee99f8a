"""Our block in a hosts file (hosts(5)): names of one interface's peers, between two marks.

    # nconnect nc0 begin (kept by the daemon while nc0 is up)
    10.86.0.1 gpu-box.internal
    # nconnect nc0 end

The block stands at the end of the file. Taking it out removes the marks and, between them, only lines of the
form that we write; a line that somebody else put there stays.
"""

from __future__ import annotations

import re

from nconnect.offers import name_codec

_OURS = re.compile(rb"[0-9a-f.:]+ [a-z0-9.-]+\.internal")


def with_block(content: bytes, interface: str, known: name_codec.Names) -> bytes:
    """The file's content with this block in place of an earlier one; without names, without a block."""
    rest = without_block(content, interface)
    if not known:
        return rest
    if rest and not rest.endswith(b"\n"):
        rest += b"\n"
    begin, end = _marks(interface)
    note = b" (kept by the daemon while %s is up)" % interface.encode()
    return rest + begin + note + b"\n" + name_codec.encode(known) + end + b"\n"


def without_block(content: bytes, interface: str) -> bytes:
    """The content without the block. A mark alone, without its partner, is taken out too."""
    begin, end = _marks(interface)
    kept: list[bytes] = []
    inside = False
    for line in content.splitlines(keepends=True):
        bare = line.strip()
        if bare == begin or bare.startswith(begin + b" "):
            inside = True
        elif bare == end:
            inside = False
        elif not (inside and _OURS.fullmatch(bare)):
            kept.append(line)
            inside = inside and not bare.startswith(b"# nconnect ")
    return b"".join(kept)


def _marks(interface: str) -> tuple[bytes, bytes]:
    return f"# nconnect {interface} begin".encode(), f"# nconnect {interface} end".encode()
