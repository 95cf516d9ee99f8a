"""Text from the other side, made safe to print on a terminal or in a log."""

from __future__ import annotations

MAX_SHOWN = 128  # guessed; a websocket's close reason has at most 123 bytes


def printable(text: str) -> str:
    """At most `MAX_SHOWN` characters, on one line. A space replaces each character that is not printable:
    control characters (which form escape sequences) and marks that change the direction of writing."""
    return "".join(c if c.isprintable() else " " for c in text[:MAX_SHOWN]).strip()


def visible(text: str) -> str:
    """The whole text, with U+FFFD in place of each unprintable character except line feed and tab."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
